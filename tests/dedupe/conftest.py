"""A server that records merges, and helpers that run a job and check its ledger against them."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohappyeyeballs
import pytest

from aiotasks import Client, dedupe
from aiotasks.dedupe import (
    JobEvent,
    JobProgress,
    JobResult,
    JobSettings,
    Ledger,
    Pair,
    PairChanged,
    PairState,
    Plan,
    resume,
    run,
)
from aiotasks.sandbox import Fault, LoggedRequest, Sandbox
from benchmarks import inline
from tests.servers import Recorded, habits


_EPOCH = 1_800_000_000.0


class Server(Recorded):
    """A sandbox that records repeated merges and calls ``interrupt`` at each request."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.repeats: list[LoggedRequest] = []
        self.interrupt: Callable[[LoggedRequest], object] = lambda _: None
        self.on_request = self._watch

    def _watch(self, request: LoggedRequest) -> None:
        if request.method == "POST" and self._is_repeated(request):
            self.repeats.append(request)
        self.interrupt(request)

    def _is_repeated(self, request: LoggedRequest) -> bool:
        """Return whether a merge is requested while it runs or when it is done."""
        ids = [*json.loads(request.body).values()]
        return any(
            [merge.primary_id, merge.duplicate_id] == ids and merge.status(request.at) != "failed"
            for merge in self.merges
        )

    @property
    def merges(self) -> list[Any]:
        """All merges of companies at the server, oldest first."""
        return self._decided("company").merges

    @property
    def posts(self) -> list[LoggedRequest]:
        """The requests for merges, including refused and lost ones."""
        return [request for request in self.log if request.method == "POST"]


class Network:
    """The network to all servers, which can be cut."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_cut = False
        connect = aiohappyeyeballs.start_connection

        async def start(*arguments: Any, **settings: Any) -> Any:
            if self.is_cut:
                raise ConnectionRefusedError
            return await connect(*arguments, **settings)

        monkeypatch.setattr(aiohappyeyeballs, "start_connection", start)

    def cut(self, server: Server) -> None:
        """Break all open connections and refuse new ones."""
        self.is_cut = True
        server.inject(Fault.disconnect(), on=None, times=None)

    def restore(self, server: Server) -> None:
        """Restore the network."""
        self.is_cut = False
        server.clear_faults()


class Seen:
    """Records what a job reports while it runs."""

    def __init__(self) -> None:
        self.events: list[JobEvent] = []
        self.snapshots: list[JobProgress] = []

    def of(self, state: PairState) -> list[int]:
        """Return the numbers of the pairs that entered a state, in order."""
        transitions = [event.pair for event in self.events if isinstance(event, PairChanged)]
        return [pair.number for pair in transitions if pair.state is state]

    @property
    def waited_for(self) -> set[str | None]:
        """Return everything that the job waited for."""
        return {snapshot.waiting_for for snapshot in self.snapshots}


def now() -> float:
    """Return the time of the loop."""
    return asyncio.get_running_loop().time()


def clock() -> float:
    """Return the time since the epoch, on the loop's clock."""
    return _EPOCH + now()


def plan_of(count: int, *more: tuple[int, int]) -> Plan:
    """Return a plan that merges neighbouring records, and further pairs."""
    return Plan.of([*((2 * n - 1, 2 * n) for n in range(1, count + 1)), *more], kind="company")


def star(primary_id: int, *duplicate_ids: int) -> list[tuple[int, int]]:
    """Return pairs with the same primary."""
    return [(primary_id, duplicate_id) for duplicate_id in duplicate_ids]


def connect(server: Sandbox, **settings: Any) -> Client:
    """Return a client of a server."""
    return Client(**{"api_key": "sandbox-key", "base_url": server.url, **settings})


async def begin(client: Client, job: Path, plan: Plan) -> None:
    """Begin a job without starting a merge."""
    async with Ledger(job, connect=inline.connect) as ledger:
        preview = await dedupe.preview(client, plan)
        await ledger.begin(
            plan, origin=client.base_url, records=preview.records, findings=[], at=clock()
        )
        await ledger.note(previewed=" ".join(preview.tasks))


async def go(
    server: Sandbox,
    path: Path,
    plan: Plan | None = None,
    *,
    seen: Seen | None = None,
    client: Client | None = None,
    **settings: Any,
) -> JobResult:
    """Run a plan, or resume the job of a ledger, with a new client as a new process would have."""
    seen = seen or Seen()
    job = {name: settings.pop(name) for name in {*settings} & {*JobSettings.__struct_fields__}}
    settings = {
        "settings": JobSettings(**job),
        "on_progress": seen.snapshots.append,
        "on_event": seen.events.append,
        "clock": clock,
        **settings,
    }
    async with Ledger(path, connect=inline.connect) as ledger, client or connect(server) as opened:
        if plan is None:
            result = await resume(opened, ledger, **settings)
        else:
            result = await run(opened, plan, ledger, **settings)
        assert result.totals == await ledger.totals()
    if settings["on_progress"] == seen.snapshots.append:
        assert seen.snapshots[-1].totals == result.totals
    assert len({snapshot.total for snapshot in seen.snapshots}) <= 1
    return result


async def read(path: Path) -> list[Pair]:
    """Return all pairs of a ledger."""
    async with Ledger.reading(path, connect=inline.connect) as ledger:
        return await ledger.pairs()


async def states(path: Path) -> list[PairState]:
    """Return the states of all pairs, in order."""
    return [pair.state for pair in await read(path)]


async def check_ledger(server: Server, path: Path, *, repeated: int = 0) -> Counter[PairState]:
    """Check a ledger against the merges of the server, and return its totals.

    The server has merged exactly what the ledger says, nothing twice, and no two merges of one
    cluster at a time. No merge was requested that was running or done.
    """
    assert len(server.repeats) == repeated
    pairs = await read(path)
    for pair in pairs:
        failed = [each for each in _merges_of(server, pair) if each.outcome == "failed"]
        is_merged = any(each.outcome == "success" for each in _merges_of(server, pair))
        assert (pair.state is PairState.SUCCEEDED) == is_merged, pair
        assert len(_merges_of(server, pair)) - len(failed) <= 1
        if pair.state in {PairState.SUCCEEDED, PairState.PLANNED}:
            assert len(_merges_of(server, pair)) - len(failed) == is_merged
    _require_apart(server.merges)
    return Counter(pair.state for pair in pairs)


def _merges_of(server: Server, pair: Pair) -> list[Any]:
    ids = (pair.primary_id, pair.duplicate_id)
    return [merge for merge in server.merges if (merge.primary_id, merge.duplicate_id) == ids]


def _require_apart(merges: Iterable[Any]) -> None:
    clusters: dict[int, list[Any]] = {}
    for merge in merges:
        clusters.setdefault(merge.primary_id, []).append(merge)
    for cluster in clusters.values():
        for earlier, later in pairwise(sorted(cluster, key=lambda merge: merge.started)):
            assert earlier.ends <= later.started


@pytest.fixture
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    # The debug mode takes most of the time of a long test.
    asyncio.get_running_loop().set_debug(False)
    async with Server(quota=0, month_quota=0, **habits(request.node)) as server:
        yield server


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The path of a new ledger."""
    return tmp_path / "job.db"


@pytest.fixture
def network(connections_on_virtual_time: None, monkeypatch: pytest.MonkeyPatch) -> Network:
    return Network(monkeypatch)
