"""Read a ledger, also while another process writes it."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import aiosqlite

from aiotasks._background import running
from aiotasks.dedupe.models import JobInfo, LoggedTransition, Pair, PairState
from aiotasks.dedupe.plan import Plan
from aiotasks.errors import LedgerError, NoJobError

from . import file, lock, schema
from .lock_holder import live_holder
from .schema import Database


Connect: TypeAlias = Callable[..., Database]


class LedgerReader:
    """A ledger for reading, open for the length of an ``async with``; see ``Ledger.reading``.

    It takes no lock and changes nothing, so it works while a job runs. ``job`` and ``holder`` are
    as they were when it was opened; every method reads what is on disk at that moment.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, connect: Connect = aiosqlite.connect
    ) -> None:
        self.path = Path(path)
        self._file = self.path.resolve()
        self._connect = connect
        self._recover = False
        self._job: JobInfo | None = None
        self._holder = ""
        self._database: Database | None = None
        self._exit: AsyncExitStack | None = None
        # The connection sees its own uncommitted writes, so reads wait for the commit.
        self._in_transaction = asyncio.Lock()
        self._wake = asyncio.Event()
        self._is_closing = False

    def __repr__(self) -> str:
        state = "closed" if self._database is None else "open"
        return f"<{type(self).__name__} {self.path}: {state}>"

    @property
    def job(self) -> JobInfo | None:
        """The job of the ledger, or ``None`` if none was begun."""
        return self._job

    def require_job(self) -> JobInfo:
        """Return the job of the ledger.

        Raises:
            NoJobError: when none was begun.
        """
        if self._job is None:
            raise self._no_job()
        return self._job

    @property
    def holder(self) -> str:
        """The process that held the writer's lock when this was opened.

        It reads ``process 123 on HOST since …``, and is empty if no process held the lock. A killed
        process leaves its name until the next one opens the ledger.
        """
        return self._holder

    async def __aenter__(self) -> Self:
        if self._exit is not None:
            message = "a ledger can be entered once: make a new one for each `async with`"
            raise self._error(message)
        self._exit = AsyncExitStack()
        opened = asyncio.get_running_loop().create_future()
        runs = running(
            self._run(opened),
            name="aiotasks: ledger",
            end=lambda _: self._close(),
            on_crash=lambda: self._crash(opened),
        )
        await self._exit.enter_async_context(runs)
        try:
            await opened
        except BaseException:
            await self._exit.aclose()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._exit is not None  # noqa: S101 - it was entered
        await self._exit.aclose()

    def _close(self) -> None:
        self._is_closing = True
        self._wake.set()

    def _crash(self, opened: asyncio.Future[None]) -> None:
        # The error itself is raised when the scope is left.
        self._is_closing = True
        _ = opened.cancel()

    async def _run(self, opened: asyncio.Future[None]) -> None:
        """Hold the file for the length of the scope, in a task that is never cancelled.

        Cancelled while it is opened or closed, a connection and its thread would leak.
        """
        try:
            async with self._opened() as database:
                self._database = database
                if not opened.done():
                    opened.set_result(None)
                try:
                    await self._serve(database)
                finally:
                    async with self._in_transaction:
                        self._database = None
        except LedgerError as error:
            # An error on closing is ignored: what was acknowledged is on disk.
            if not opened.done():
                opened.set_exception(error)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Database]:
        with file.reading(self.path):
            if not self._exists():
                raise self._no_job()
            async with self._connect_to_read() as database:
                if not await self._load(database):
                    raise self._no_job()
                yield database

    def _connect_to_read(self) -> Database:
        # Opened with mode=ro, SQLite leaves side files behind that were not there. But if there is a
        # log, mode=rw would write it into a database that may be damaged, when it is closed.
        if file.has_log(self._file):
            mode = "mode=ro"
        elif os.access(self._file.parent, os.W_OK):
            mode = "mode=rw"
        else:
            # In a read-only folder there can be no side files, and no writer.
            mode = "mode=ro&immutable=1"
        return self._connect(f"{self._file.as_uri()}?{mode}", uri=True)

    def _exists(self) -> bool:
        is_there = file.exists(self._file)
        if not is_there:
            file.require_complete(self._file, seq=0, noted=self._noted())
        return is_there

    def _noted(self) -> int | None:
        return None if self._recover else lock.noted(self._file)

    async def _load(self, database: Database) -> bool:
        """Check the file and load the job and the holder; return whether it has tables."""
        # Read before the log, which is never behind it while another process writes both.
        noted = self._noted()
        has_tables = await file.verify(self.path, database)
        ((seq,),) = await database.execute_fetchall(schema.GET_LAST_SEQ) if has_tables else ((0,),)
        file.require_complete(self._file, seq=seq, noted=noted)
        if not has_tables:
            return False
        self._job = schema.to_job(await database.execute_fetchall(schema.GET_JOB))
        for (text,) in await database.execute_fetchall(schema.GET_HOLDER):
            self._holder = str(text)
        return True

    async def _serve(self, _: Database, /) -> None:
        await self._wake.wait()

    def check(self, plan: Plan, *, origin: str) -> None:
        """Check that the ledger is that of a plan and a server.

        Raises:
            NoJobError: when no job was begun.
            LedgerError: with all differences.
        """
        job = self.require_job()
        ours, theirs = len(plan.merges), job.merges
        differences = {
            f"it merges {job.kind} records, not {plan.kind} records": job.kind != plan.kind,
            f"its server is {job.origin}, not {origin}": job.origin != origin,
            f"its input was {job.source}, which is not {plan.source} as it is now": (
                job.digest != plan.digest
            ),
            f"its plan has {theirs} merges, and this one {ours}, not the same, or by other rules": (
                job.fingerprint != plan.fingerprint and job.kind == plan.kind
            ),
        }
        if found := [text for text, differs in differences.items() if differs]:
            advice = (
                f"Continue that job: `aiotasks resume {self.path}`. When it is over, move its file "
                "away, with its lock, and this one can begin"
            )
            message = f"this is the ledger of another job: {'; '.join(found)}. {advice}"
            raise self._error(message)

    async def pairs(self, *states: PairState) -> list[Pair]:
        """Return the pairs that are in one of the states, or all, in the order of their numbers.

        Raises:
            LedgerError: when the file cannot be read.
        """
        rows = await self._select(schema.GET_PAIRS, json.dumps(states or [*PairState]))
        with file.reading(self.path):
            return schema.to_pairs(rows)

    async def numbered(self, numbers: Iterable[int]) -> list[Pair]:
        """Return the pairs with these numbers, if they exist, in the order of their numbers.

        Raises:
            LedgerError: when the file cannot be read.
        """
        rows = await self._select(schema.GET_NUMBERED, json.dumps([*numbers]))
        with file.reading(self.path):
            return schema.to_pairs(rows)

    async def totals(self) -> Mapping[PairState, int]:
        """Return how many pairs are in each state, 0 for states without any.

        Raises:
            LedgerError: when the file cannot be read.
        """
        rows = await self._select(schema.GET_TOTALS)
        with file.reading(self.path):
            return dict.fromkeys(PairState, 0) | schema.to_dict(rows, dict[PairState, int])

    async def history(self, *, after: int = 0, limit: int | None = None) -> list[LoggedTransition]:
        """Return the transitions after the one that ``record`` has numbered ``after``, in order.

        If there are more than ``limit``, the first ones.

        Raises:
            LedgerError: when the file cannot be read.
        """
        rows = await self._select(schema.GET_LOG, after, -1 if limit is None else limit)
        with file.reading(self.path):
            return schema.to_history(rows)

    async def last_seq(self) -> int:
        """Return the number of the last transition, or 0 before the first.

        Raises:
            LedgerError: when the file cannot be read.
        """
        ((seq,),) = await self._select(schema.GET_LAST_SEQ)
        return int(seq)

    async def task_urls(self) -> list[str]:
        """Return the tasks of all merges that were started, also of those that were tried again.

        Raises:
            LedgerError: when the file cannot be read.
        """
        return [str(url) for (url,) in await self._select(schema.GET_TASK_URLS)]

    async def notes(self) -> Mapping[str, str]:
        """Return the notes, by their names.

        Raises:
            LedgerError: when the file cannot be read.
        """
        rows = await self._select(schema.GET_NOTES)
        with file.reading(self.path):
            return schema.to_dict(rows, dict[str, str])

    async def live_holder(self) -> str | None:
        """Return which process holds the writer's lock now, as ``holder`` names it, or ``None``.

        A process of this host that was killed is not returned, where ``/proc`` shows that; of other
        hosts and systems, the last holder is.

        Raises:
            LedgerError: when the file cannot be read.
        """
        rows = await self._select(schema.GET_HOLDER)
        name = "".join(str(text) for (text,) in rows)
        return live_holder(name, host=socket.gethostname())

    async def records(self, ids: Iterable[int]) -> Mapping[int, bytes]:
        """Return the snapshots of records, as JSON, without the records that have none.

        Raises:
            LedgerError: when the file cannot be read.
        """
        rows = await self._select(schema.GET_RECORDS, json.dumps([*ids]))
        with file.reading(self.path):
            return schema.to_dict(rows, dict[int, bytes])

    async def snapshots(self) -> AsyncIterator[tuple[int, bytes]]:
        """Iterate over the ids and snapshots of all records, in the order of their ids.

        Raises:
            LedgerError: when the file cannot be read.
        """
        last = 0
        while rows := [*await self._select(schema.GET_NEXT_RECORDS, last)]:
            with file.reading(self.path):
                records = schema.to_dict(rows, dict[int, bytes])
            for record_id, snapshot in records.items():
                yield record_id, snapshot
            last = max(records)

    async def _select(self, sql: str, *parameters: object) -> Iterable[Any]:
        async with self._in_transaction:
            if self._database is None:
                raise self._closed()
            with file.reading(self.path):
                return await self._database.execute_fetchall(sql, parameters)

    def _error(self, problem: str) -> LedgerError:
        return LedgerError(str(self.path), problem)

    def _no_job(self) -> NoJobError:
        message = "there is no job in it yet: begin one with `aiotasks merge`"
        return NoJobError(str(self.path), message)

    def _closed(self) -> LedgerError:
        return self._error("the ledger is not open: use it within its `async with`")
