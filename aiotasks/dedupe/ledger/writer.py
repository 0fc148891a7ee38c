"""Write a ledger: the state of each pair of a job, durable at every transition, in one file."""

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

from aiotasks.dedupe.models import ALLOWED_TRANSITIONS, JobInfo, PairState, Transition
from aiotasks.dedupe.plan import Plan
from aiotasks.errors import LedgerError, LedgerInUseError

from . import file, lock, schema
from .reader import Connect, LedgerReader
from .schema import Database


__all__ = ["JobInfo", "Ledger", "LedgerReader"]

Statement: TypeAlias = tuple[str, Sequence[tuple[Any, ...]]]

# Errors about the values of a statement, and not about the file.
_OF_VALUES = (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)


class Ledger(LedgerReader):
    """The state of each pair of a job, in one file, open for the length of an ``async with``.

    Entering creates the file if there is none, and takes a lock that the system releases when the
    process ends, even if it is killed. When a writing method returns, its data is on disk.
    Concurrent calls share a commit; cancelling a call does not undo its write. Leaving the scope
    writes what is still queued. After a failed write all later writes fail too: open the ledger
    again once the cause is fixed.

    Args:
        path: The file. Its lock file is beside it, and is not deleted: it also has the number of
            the last transition, so that a ledger from which some were lost is refused.
        recover: Open the ledger also if transitions were lost. The run then first reads from the
            server what was begun.
        connect: Opens a connection of aiosqlite, or one like it.
        clock: The time in seconds since the epoch, from which on the lock counts as held.

    Raises:
        LedgerInUseError: on entering, when another process holds the lock.
        LedgerError: on entering, when the file cannot be opened, is no ledger, or is damaged; it
            is left as it is. Also when transitions were lost, or the file has a second name.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        recover: bool = False,
        connect: Connect = aiosqlite.connect,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(path, connect=connect)
        self._clock = clock
        self._queue: list[_Write] = []
        self._seq = 0
        self._committed = 0
        self._was_closed_cleanly = False
        self._failure: Exception | None = None
        self._recover = recover
        self._lock = lock.LedgerLock(self._file)

    @staticmethod
    def reading(
        path: str | os.PathLike[str], *, connect: Connect = aiosqlite.connect
    ) -> LedgerReader:
        """Return the ledger for reading only, also while another process writes it.

        Raises:
            LedgerError: on entering, when there is no ledger, or it cannot be read.
        """
        return LedgerReader(path, connect=connect)

    @property
    def was_closed_cleanly(self) -> bool:
        """Whether nothing is missing in it: the process before this one closed it, or it is new.

        If not, or if that cannot be known, the job may have sent merges of which this ledger knows
        nothing. It is known as soon as the ledger is open.
        """
        return self._was_closed_cleanly

    async def begin(
        self,
        plan: Plan,
        *,
        origin: str,
        records: Mapping[int, bytes],
        findings: Sequence[Transition],
        at: float,
    ) -> None:
        """Write a job before its first merge, in one transaction.

        Args:
            plan: Its pairs; rows that it left out become refused pairs, with the reason.
            origin: The server of the job.
            records: The snapshots of its records, as JSON.
            findings: Transitions of pairs that cannot run, or need not; see ``Preview.findings``.
            at: The time, in seconds since the epoch.

        Raises:
            LedgerError: when the ledger has a job, a finding is not allowed, or the file cannot be
                written.
        """
        if self._job is not None:
            message = f"it has a job already: `aiotasks resume {self.path}` continues it"
            raise self._error(message)
        self._require_allowed(plan, findings)
        job = schema.job_of(plan, origin=origin, at=at)
        transitions = [schema.transition_row(self._next_seq(), each) for each in findings]
        written = self._written(
            (schema.JOB, [schema.job_row(job)]),
            (schema.PAIR, [*schema.pair_rows(plan, at)]),
            (schema.RECORD, [*records.items()]),
            (schema.NOTE, schema.note_rows(plan)),
            (schema.TRANSITION, transitions),
        )
        # Set before the await: if this call is cancelled, its write still happens.
        self._job = job
        try:
            _ = await written
        except LedgerError:
            self._job = None
            raise
        # A copy without the log then has at least the job. An error is that of a later write, too.
        with suppress(LedgerError):
            _ = await self._select(schema.CHECKPOINT)

    async def record(self, transition: Transition) -> int:
        """Write a transition, and return its number in the log once it is on disk.

        Raises:
            LedgerError: when the pair's state does not allow it, or when the file cannot be
                written. A refused transition does not affect others of the same commit.
        """
        seq = self._next_seq()
        accepted = await self._written(
            (schema.TRANSITION, [schema.transition_row(seq, transition)])
        )
        if seq not in accepted:
            raise await self._refusal(transition)
        return seq

    async def record_merge_ids(self, merge_ids: Mapping[int, int]) -> None:
        """Write the server's ids of merges, by the numbers of their pairs.

        Raises:
            LedgerError: when the file cannot be written.
        """
        rows = [(merge_id, number) for number, merge_id in merge_ids.items()]
        _ = await self._written((schema.MERGE_ID, rows))

    async def note(self, **notes: str | None) -> None:
        """Write notes by their names; ``None`` deletes one.

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
                message = (
                    f"pair {finding.number} cannot be {finding.state} at the beginning of a job"
                )
                raise self._error(message)
            states[finding.number] = finding.state

    async def _refusal(self, transition: Transition) -> LedgerError:
        for (state,) in await self._select(schema.GET_STATE, transition.number):
            return self._error(
                f"pair {transition.number} did not become {transition.state}: its state did not "
                f"allow that (now it is {state})"
            )
        return self._error(f"there is no pair {transition.number}")

    def _written(self, *statements: Statement) -> "asyncio.Future[frozenset[int]]":
        if self._database is None or self._is_closing:
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
            # Checked before locking: no lock file is left beside a file that is no ledger.
            _ = file.exists(self._file)
            if not self._lock.acquire():
                raise self._in_use(await self._find_holder())
            try:
                await self._check()
                self._create()
                self._lock.pin()
                async with self._connect(f"{self._file.as_uri()}?mode=rwc", uri=True) as database:
                    await self._prepare(database)
                    yield database
            finally:
                self._lock.release()

    def _create(self) -> None:
        # SQLite gives its log and its index the permissions of the file. A file that exists is not
        # opened here: closed again, it would lose the locks of readers of this process.
        with suppress(FileExistsError):
            os.close(os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))

    async def _check(self) -> None:
        noted = self._noted()
        # Checked on a connection of its own, which cannot change a damaged file.
        if self._exists():
            async with self._connect_to_read() as database:
                _ = await self._load(database)
        is_unknown = self._job is not None and noted is None
        # The process that closes it deletes its name.
        self._was_closed_cleanly = not (self._holder or self._recover or is_unknown)

    async def _find_holder(self) -> str:
        with suppress(sqlite3.Error, UnicodeDecodeError):
            async with self._connect_to_read() as database:
                for (text,) in await database.execute_fetchall(schema.GET_HOLDER):
                    return str(text)
        return "another process"

    def _in_use(self, holder: str) -> LedgerInUseError:
        return LedgerInUseError(
            str(self.path),
            f"it is in use by {holder}: wait until that has ended, or stop it, then run the same "
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
        self._note_in_lock()

    async def _serve(self, database: Database, /) -> None:
        while self._queue or not self._is_closing:
            _ = await self._wake.wait()
            self._wake.clear()
            batch, self._queue = self._queue, []
            async with self._in_transaction:
                await self._write(database, batch)
        # Deleted on the way out, so that a name that is left is that of a killed process.
        if self._failure is None:
            write = _Write(
                ((schema.NOTE, [(schema.HOLDER, None)]),),
                asyncio.get_running_loop().create_future(),
            )
            await self._write(database, [write])
            # Best effort: a failure here is ignored. Retrieved, or asyncio would log it.
            _ = write.answer.exception()

    async def _write(self, database: Database, batch: list["_Write"]) -> None:
        try:
            accepted = await self._transact(database, batch)
        except Exception as error:  # noqa: BLE001 - every error has to reach the waiting calls
            with suppress(sqlite3.Error):
                await database.rollback()
            await self._fail_or_retry(database, batch, error)
        else:
            for write in batch:
                write.succeed(accepted)

    async def _transact(self, database: Database, batch: list["_Write"]) -> frozenset[int]:
        if self._failure is not None:
            raise self._failure
        statements = chain.from_iterable(write.statements for write in batch)
        # One executemany for consecutive writes of a kind: a trip to SQLite's thread costs more
        # than a row.
        for sql, group in groupby(statements, key=itemgetter(0)):
            rows = [rows for _, rows in group]
            _ = await database.executemany(sql, chain.from_iterable(rows))
        # A transition that its pair's state refused was not inserted, and raised nothing.
        accepted = await database.execute_fetchall(schema.GET_SEQS, (self._committed,))
        self._lock.require_in_place()
        await database.commit()
        seqs = frozenset(seq for (seq,) in accepted)
        if seqs:
            self._committed = max(seqs)
            self._note_in_lock()
        return seqs

    def _note_in_lock(self) -> None:
        # With an older note, fewer losses are noticed: no reason to stop a job.
        with suppress(OSError):
            self._lock.note(self._committed)

    async def _fail_or_retry(
        self, database: Database, batch: list["_Write"], error: Exception
    ) -> None:
        is_of_file = isinstance(error, (sqlite3.Error, LedgerError))
        is_of_values = not is_of_file or isinstance(error, _OF_VALUES)
        if is_of_values and len(batch) > 1:
            # One bad value fails the whole statement: written one by one, only that call fails.
            for write in batch:
                await self._write(database, [write])
            return
        if not is_of_values:
            self._failure = error
        for write in batch:
            write.fail(self._unwritten(error))

    def _unwritten(self, error: Exception) -> LedgerError:
        if self._failure is None:
            failure = self._error(f"this cannot be stored ({error}); nothing of it was written")
        elif isinstance(self._failure, LedgerError):
            failure = self._error(self._failure.problem)
        else:
            failure = self._error(
                f"it cannot be written ({error}): free space, or check its disk, then run the "
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
