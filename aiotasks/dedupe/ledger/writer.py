"""The ledger: what became of each pair of a job, durable at every step, in one file."""

import asyncio
import os
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import aiosqlite
from filelock import FileLock, Timeout

from aiotasks.dedupe.models import ALLOWED_TRANSITIONS, JobInfo, PairState, Transition
from aiotasks.dedupe.plan import Plan
from aiotasks.errors import LedgerError, LedgerInUseError

from . import file, schema
from .reader import Connect, LedgerReader
from .schema import Database


__all__ = ["JobInfo", "Ledger", "LedgerReader"]

Statement: TypeAlias = tuple[str, Sequence[tuple[Any, ...]]]

# What SQLite says of the values that it was given, and not of the file.
_OF_VALUES = (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)


class Ledger(LedgerReader):
    """What became of each pair of a job, in a file of its own, for the length of an ``async with``.

    Opening it makes the file if there is none, and holds a lock that the system frees when the
    process ends, however it ends. Whatever a call was told is on disk when it returns. Calls that
    come together share a commit; cancelling one does not take back what it has asked for. Leaving
    the scope writes what is still queued. After a failure to write, all further writes fail too:
    open the ledger again once its cause is gone.

    Args:
        path: The file. Its lock is beside it, and stays there, unlocked.
        connect: Opens a connection of aiosqlite, or one like it.
        clock: The time in seconds since the epoch, to tell others since when the lock is held.

    Raises:
        LedgerError: on entering, when another process holds the lock, or when the file cannot be
            opened, is none of ours, or is damaged; then it is left as it is.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        connect: Connect = aiosqlite.connect,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(path, connect=connect)
        self._clock = clock
        self._queue: list[_Write] = []
        self._seq = 0
        self._committed = 0
        self._failure: Exception | None = None
        # Two ledgers in one thread are two writers, too.
        self._file_lock = FileLock(f"{self._file}.lock", thread_local=False)

    @staticmethod
    def reading(
        path: str | os.PathLike[str], *, connect: Connect = aiosqlite.connect
    ) -> LedgerReader:
        """Return a ledger that can only be read, beside its writer too.

        Raises:
            LedgerError: on entering, when there is no ledger, or it cannot be read.
        """
        return LedgerReader(path, connect=connect)

    async def begin(
        self,
        plan: Plan,
        *,
        origin: str,
        records: Mapping[int, bytes],
        findings: Sequence[Transition],
        at: float,
    ) -> None:
        """Write down a job before its first merge: all of it, or nothing.

        Args:
            plan: Its pairs; those that it left out are refused, with the reason.
            origin: The server that it is for.
            records: The snapshots of its records, as JSON.
            findings: What was found of pairs already: steps, by the pairs' numbers.
            at: The time, in seconds since the epoch.

        Raises:
            LedgerError: when the ledger has a job, a finding is not allowed, or the file cannot be
                written.
        """
        if self._job is not None:
            message = f"it has a job already: `aiotasks resume {self.path}` goes on with it"
            raise self._error(message)
        self._require_allowed(plan, findings)
        job = schema.job_of(plan, origin=origin, at=at)
        steps = [schema.transition_row(self._next_seq(), finding) for finding in findings]
        written = self._written(
            (schema.JOB, [schema.job_row(job)]),
            (schema.PAIR, [*schema.pair_rows(plan, at)]),
            (schema.RECORD, [*records.items()]),
            (schema.TRANSITION, steps),
        )
        # A cancelled call is written all the same, so it is known before it is waited for.
        self._job = job
        try:
            _ = await written
        except LedgerError:
            self._job = None
            raise

    async def record(self, transition: Transition) -> int:
        """Take down a step of a pair and return its number in the log.

        Raises:
            LedgerError: when the pair's state does not allow it, which costs nobody else anything,
                or when the file cannot be written.
        """
        seq = self._next_seq()
        accepted = await self._written(
            (schema.TRANSITION, [schema.transition_row(seq, transition)])
        )
        if seq not in accepted:
            raise await self._refusal(transition)
        return seq

    async def record_merge_ids(self, merge_ids: Mapping[int, int]) -> None:
        """Note the server's ids of merges, by the numbers of their pairs.

        Raises:
            LedgerError: when the file cannot be written.
        """
        rows = [(merge_id, number) for number, merge_id in merge_ids.items()]
        _ = await self._written((schema.IDENTIFY, rows))

    async def note(self, **notes: str | None) -> None:
        """Note small facts that outlive the process; ``None`` forgets one.

        Raises:
            LedgerError: when the file cannot be written.
        """
        _ = await self._written((schema.NOTE, [*notes.items()]))

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def _require_allowed(self, plan: Plan, findings: Sequence[Transition]) -> None:
        states = dict.fromkeys(range(1, len(plan.merges) + 1), PairState.PLANNED)
        for finding in findings:
            state = states.get(finding.number)
            if state is None or finding.state not in ALLOWED_TRANSITIONS[state]:
                message = f"no step leads pair {finding.number} to {finding.state} at the beginning"
                raise self._error(message)
            states[finding.number] = finding.state

    async def _refusal(self, transition: Transition) -> LedgerError:
        for (state,) in await self._select(schema.GET_STATE, transition.number):
            return self._error(
                f"pair {transition.number} did not become {transition.state}: that is no step from where "
                f"it was (now it is {state})"
            )
        return self._error(f"there is no pair {transition.number}")

    def _written(self, *statements: Statement) -> "asyncio.Future[frozenset[int]]":
        if self._database is None or self._is_leaving:
            raise self._closed()
        if self._failure is not None:
            raise self._unwritten(self._failure)
        write = _Write(statements, asyncio.get_running_loop().create_future())
        self._queue.append(write)
        self._wake.set()
        return write.answer

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Database]:
        with file.reading(self.path):
            # Nothing is put beside a file that is not ours, not even a lock.
            _ = file.exists(self._file)
            if not self._lock():
                raise self._in_use(await self._who())
            try:
                if file.exists(self._file):
                    async with self._to_read() as database:
                        _ = await self._examine(database)
                async with self._connect(f"{self._file.as_uri()}?mode=rwc", uri=True) as database:
                    await self._prepare(database)
                    yield database
            finally:
                self._file_lock.release()

    def _lock(self) -> bool:
        try:
            _ = self._file_lock.acquire(blocking=False)
        except Timeout:
            return False
        return True

    async def _who(self) -> str:
        with suppress(sqlite3.Error, UnicodeDecodeError):
            async with self._to_read() as database:
                for (text,) in await database.execute_fetchall(schema.GET_HOLDER):
                    return str(text)
        return "another process"

    def _in_use(self, who: str) -> LedgerInUseError:
        return LedgerInUseError(
            str(self.path),
            f"it is in use by {who}: wait until that has ended, or stop it, then run the same "
            "command again",
        )

    async def _prepare(self, database: Database) -> None:
        ((version,),) = await database.execute_fetchall(schema.GET_VERSION)
        if not version:
            _ = await database.executescript(schema.CREATE)
        _ = await database.executescript(schema.SETTINGS)
        since = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        self._holder = f"process {os.getpid()} on {socket.gethostname()} since {since}"
        _ = await database.executemany(schema.NOTE, [(schema.HOLDER, self._holder)])
        await database.commit()
        ((self._seq,),) = await database.execute_fetchall(schema.GET_LAST_SEQ)
        self._committed = self._seq

    async def _serve(self, database: Database, /) -> None:
        while self._queue or not self._is_leaving:
            _ = await self._wake.wait()
            self._wake.clear()
            batch, self._queue = self._queue, []
            async with self._turn:
                await self._write(database, batch)
        # Only who was killed is named from now on.
        if self._failure is None:
            write = _Write(
                ((schema.NOTE, [(schema.HOLDER, None)]),),
                asyncio.get_running_loop().create_future(),
            )
            await self._write(database, [write])
            # It is worth no failure.
            _ = write.answer.exception()

    async def _write(self, database: Database, batch: list["_Write"]) -> None:
        try:
            accepted = await self._transact(database, batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits to be told
            with suppress(sqlite3.Error):
                await database.rollback()
            await self._blame(database, batch, error)
        else:
            for write in batch:
                write.succeed(accepted)

    async def _transact(self, database: Database, batch: list["_Write"]) -> frozenset[int]:
        if self._failure is not None:
            raise self._failure
        statements = chain.from_iterable(write.statements for write in batch)
        for sql, group in groupby(statements, key=itemgetter(0)):
            rows = [rows for _, rows in group]
            _ = await database.executemany(sql, chain.from_iterable(rows))
        accepted = await database.execute_fetchall(schema.GET_SEQS, (self._committed,))
        await database.commit()
        seqs = frozenset(seq for (seq,) in accepted)
        self._committed = max(seqs, default=self._committed)
        return seqs

    async def _blame(self, database: Database, batch: list["_Write"], error: Exception) -> None:
        is_of_values = not isinstance(error, sqlite3.Error) or isinstance(error, _OF_VALUES)
        if is_of_values and len(batch) > 1:
            # One of them is to blame, and the others are not to suffer for it.
            for write in batch:
                await self._write(database, [write])
            return
        if not is_of_values:
            self._failure = error
        for write in batch:
            write.fail(self._unwritten(error))

    def _unwritten(self, error: Exception) -> LedgerError:
        if self._failure is None:
            failure = self._error(f"this cannot be kept ({error}); nothing of it was written")
        else:
            failure = self._error(
                f"it cannot be written ({error}): free space, or see to its disk, then run the "
                "same command again: nothing is lost"
            )
        failure.__cause__ = error
        return failure


class _Write(NamedTuple):
    statements: tuple[Statement, ...]
    answer: asyncio.Future[frozenset[int]]

    def succeed(self, accepted: frozenset[int]) -> None:
        if not self.answer.done():
            self.answer.set_result(accepted)

    def fail(self, error: LedgerError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
