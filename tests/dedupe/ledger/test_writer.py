"""The writer of a ledger: its commits, its connection, and the file at its path."""

import asyncio
import os
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from aiotasks import LedgerError
from aiotasks.dedupe.ledger import Ledger
from aiotasks.dedupe.models import PairState
from benchmarks import inline
from tests.dedupe.ledger.conftest import PLANNED, SENDING, attempt, begin, plan_of, transition_of


class Faulty(inline.Connection):
    """A connection that counts its commits, and fails or waits on demand."""

    commits = 0
    failure: Exception | None = None
    gate: asyncio.Event | None = None

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await super().__aexit__(exc_type, exc, traceback)
        if Faulty.failure is not None:
            raise Faulty.failure

    async def commit(self) -> None:
        if Faulty.gate is not None:
            _ = await Faulty.gate.wait()
        if Faulty.failure is not None:
            raise Faulty.failure
        Faulty.commits += 1
        await super().commit()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> type[Faulty]:
    for name, value in {"commits": 0, "failure": None, "gate": None}.items():
        monkeypatch.setattr(Faulty, name, value)
    return Faulty


def connect_faulty(database: str, **settings: Any) -> Faulty:
    return Faulty(database, settings)


async def test_calls_share_a_commit(path: Path, faulty: type[Faulty]) -> None:
    """All calls during a commit share the next one."""
    async with Ledger(path, connect=connect_faulty) as ledger:
        await begin(ledger, plan_of(100))
        before = faulty.commits
        numbers = range(1, 101)
        seqs = await asyncio.gather(*[ledger.record(transition_of(n, SENDING)) for n in numbers])
        assert faulty.commits == before + 1
    assert seqs == [*range(1, 101)]


async def test_answers_come_after_the_commit(path: Path, faulty: type[Faulty]) -> None:
    """A transition is neither acknowledged nor read before its commit."""
    async with Ledger(path, connect=connect_faulty) as ledger:
        await begin(ledger, plan_of(2))
        faulty.gate = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            transition = group.create_task(ledger.record(transition_of(1, SENDING)))
            await asyncio.sleep(1)
            totals = group.create_task(ledger.totals())
            await asyncio.sleep(1)
            assert not transition.done()
            assert not totals.done()
            faulty.gate.set()
        assert totals.result()[SENDING] == 1


async def test_a_value_that_cannot_be_stored(ledger: Ledger) -> None:
    """The error for a value that SQLite does not accept has its cause."""
    with pytest.raises(
        LedgerError, match=r"cannot be stored .* nothing of it was written"
    ) as caught:
        await ledger.record_merge_ids({1: 2**64})
    assert isinstance(caught.value.__cause__, OverflowError)


async def test_a_cancelled_call_gets_no_failure(path: Path, faulty: type[Faulty]) -> None:
    """The failure of a write whose call was cancelled is dropped."""
    async with Ledger(path, connect=connect_faulty) as ledger:
        await begin(ledger, plan_of(2))
        faulty.failure = sqlite3.OperationalError("disk I/O error")
        async with asyncio.TaskGroup() as group:
            transition = group.create_task(ledger.record(transition_of(1, SENDING)))
            await asyncio.sleep(0)
            _ = transition.cancel()
        assert await ledger.last_seq() == 0


async def test_a_failure_reaches_all_callers(path: Path, faulty: type[Faulty]) -> None:
    """When SQLite cannot write, every caller and every later caller gets its own error."""
    async with Ledger(path, connect=connect_faulty) as ledger:
        await begin(ledger, plan_of(9))
        faulty.failure = sqlite3.OperationalError("disk I/O error")
        transitions = [ledger.record(transition_of(number, SENDING)) for number in (1, 2, 3)]
        errors = await asyncio.gather(*transitions, return_exceptions=True)
        faulty.failure = None
        for later in (
            ledger.record(transition_of(4, SENDING)),
            ledger.note(a="b"),
            ledger.record_merge_ids({1: 1}),
        ):
            with pytest.raises(LedgerError) as caught:
                await later
            errors.append(caught.value)
        assert len({id(error) for error in errors}) == 6
        for error in errors:
            assert isinstance(error, LedgerError)
            assert str(error).startswith(f"{path}: it cannot be written (disk I/O error)")
            assert str(error).endswith("run the same command again: nothing is lost")
            assert isinstance(error.__cause__, sqlite3.OperationalError)
        assert await ledger.totals() == dict.fromkeys(PairState, 0) | {PLANNED: 9}
    async with Ledger(path, connect=inline.connect) as ledger:
        assert await ledger.record(transition_of(1, SENDING)) == 1


async def test_a_failure_reaches_queued_calls(path: Path, faulty: type[Faulty]) -> None:
    """A transition queued during a failing commit fails with it."""
    async with Ledger(path, connect=connect_faulty) as ledger:
        await begin(ledger, plan_of(2))
        faulty.gate = asyncio.Event()
        faulty.failure = sqlite3.OperationalError("database or disk is full")
        async with asyncio.TaskGroup() as group:
            first = group.create_task(attempt(ledger, transition_of(1, SENDING)))
            await asyncio.sleep(1)
            second = group.create_task(attempt(ledger, transition_of(2, SENDING)))
            await asyncio.sleep(1)
            faulty.gate.set()
    assert (first.result(), second.result()) == (None, None)


async def test_a_failed_begin_begins_no_job(path: Path, faulty: type[Faulty]) -> None:
    """A job that could not be written is not begun, neither in memory nor on disk."""
    async with Ledger(path, connect=connect_faulty) as ledger:
        faulty.failure = sqlite3.OperationalError("database or disk is full")
        with pytest.raises(LedgerError, match="free space"):
            await begin(ledger, plan_of(2))
        assert ledger.job is None
    async with Ledger(path, connect=inline.connect) as ledger:
        assert ledger.job is None
        await begin(ledger, plan_of(2))


async def test_a_close_that_fails_loses_nothing(path: Path, faulty: type[Faulty]) -> None:
    """An error on closing is ignored, as everything is on disk already."""
    async with Ledger(path, connect=connect_faulty) as ledger:
        await begin(ledger, plan_of(1))
        assert await ledger.record(transition_of(1, SENDING)) == 1
        faulty.failure = sqlite3.OperationalError("disk I/O error")
    async with Ledger(path, connect=inline.connect) as ledger:
        assert (await ledger.totals())[SENDING] == 1


async def test_a_ledger_in_an_archive(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger can be read in a read-only folder."""
    async with Ledger(path, connect=inline.connect) as ledger:
        await begin(ledger, plan_of(2))
        await ledger.note(anchor="1")
    monkeypatch.setattr(os, "access", lambda *_: False)
    async with Ledger.reading(path, connect=inline.connect) as archived:
        assert await archived.notes() == {"anchor": "1"}
        assert not path.with_name("job.db-wal").exists()


@pytest.mark.parametrize("is_empty", [False, True])
async def test_there_must_be_a_ledger_to_read(path: Path, is_empty: bool) -> None:
    """A missing or empty file has no job to read, and no file is created."""
    if is_empty:
        path.touch()  # noqa: ASYNC240 - a test may block
    with pytest.raises(LedgerError, match="there is no job in it yet: begin one"):
        async with Ledger.reading(path, connect=inline.connect):
            pass
    assert [*path.parent.iterdir()] == ([path] if is_empty else [])
