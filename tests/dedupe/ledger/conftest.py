"""The stores that a ledger can be in, and helpers for the tests of all of them."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from aiotasks import LedgerError
from aiotasks.dedupe import Ledger, LedgerReader, PairState, Plan, Transition
from benchmarks import inline


ORIGIN = "https://api.affinity.co"
TASK = "https://api.affinity.co/v2/tasks/company-merges/00000000-0000-4000-8000-000000000001"
PLANNED, SENDING, STARTED, SUCCEEDED, FAILED, REFUSED, UNSETTLED = PairState


class Store(Protocol):
    """Holds ledgers by name."""

    def writer(self, name: str = "job", **settings: Any) -> Ledger:
        """Return the ledger with a name, to be opened for writing."""

    def reader(self, name: str = "job") -> LedgerReader:
        """Return the ledger with a name, to be opened for reading."""


class FileStore:
    """Ledgers in files of a folder, on SQLite without threads: for virtual time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def writer(self, name: str = "job", **settings: Any) -> Ledger:
        return Ledger(self._folder / f"{name}.db", connect=inline.connect, **settings)

    def reader(self, name: str = "job") -> LedgerReader:
        return Ledger.reading(self._folder / f"{name}.db", connect=inline.connect)


_STORES: Mapping[str, Callable[[Path], Store]] = {"file": FileStore}


def plan_of(count: int) -> Plan:
    """Return a plan with ``count`` merges that share no record."""
    return Plan.of([(2 * n - 1, 2 * n) for n in range(1, count + 1)], kind="company")


def transition_of(number: int, state: PairState, at: float = 2.0, **values: Any) -> Transition:
    return Transition(number=number, state=state, at=at, **values)


async def begin(
    ledger: Ledger, plan: Plan, findings: Sequence[Transition] = (), **values: Any
) -> None:
    settings = {"origin": ORIGIN, "records": {}, "at": 1.0, **values}
    await ledger.begin(plan, findings=findings, **settings)


async def attempt(ledger: Ledger, transition: Transition) -> int | None:
    try:
        return await ledger.record(transition)
    except LedgerError:
        return None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "job.db"


@pytest.fixture(params=[*_STORES])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    return _STORES[request.param](tmp_path)


@pytest.fixture
async def ledger(store: Store) -> AsyncIterator[Ledger]:
    """A ledger of a hundred pairs, open for writing."""
    async with store.writer() as ledger:
        await begin(ledger, plan_of(100))
        yield ledger
