"""A ledger from which something was lost: noticed, refused, and opened anyway where that is asked."""

# ruff: noqa: ASYNC240 - a test may block

import asyncio
import errno
import fcntl
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from aiotasks import LedgerError
from aiotasks.dedupe.ledger import Ledger, LedgerReader, lock
from benchmarks import inline
from tests.dedupe.ledger.conftest import PLANNED, SENDING, begin, plan_of, transition_of


def writer(path: Path, *, recover: bool = False) -> Ledger:
    return Ledger(path, recover=recover, connect=inline.connect)


def reader(path: Path) -> LedgerReader:
    return Ledger.reading(path, connect=inline.connect)


async def send(ledger: Ledger, *numbers: int) -> None:
    for number in numbers:
        _ = await ledger.record(transition_of(number, SENDING))


async def refusal(path: Path) -> str:
    """Return why a ledger can be opened neither for writing nor for reading."""
    problems = set[str]()
    for ledger in (writer(path), reader(path)):
        with pytest.raises(LedgerError) as caught:
            async with ledger:
                pass
        problems.add(caught.value.problem)
    (problem,) = problems
    return problem


async def sent(path: Path) -> int:
    async with reader(path) as ledger:
        return (await ledger.totals())[SENDING]


def copy(path: Path, *endings: str) -> Path:
    """Copy a ledger's files, as a backup does, and return the copy."""
    backup = path.with_name("backup.db")
    for ending in endings:
        _ = shutil.copy(f"{path}{ending}", f"{backup}{ending}")
    return backup


async def test_a_backup_without_the_log_has_the_job(path: Path) -> None:
    """A job is in the file itself as soon as it is begun."""
    async with writer(path) as ledger:
        await begin(ledger, plan_of(3))
        backup = copy(path, "")
    async with reader(backup) as found:
        assert (await found.totals())[PLANNED] == 3


@pytest.mark.parametrize("is_older_copy", [False, True])
async def test_a_ledger_behind_its_note_is_refused(path: Path, is_older_copy: bool) -> None:
    """A ledger without its log, or an older copy of it, is refused, and says what to do."""
    async with writer(path) as ledger:
        await begin(ledger, plan_of(3))
        await send(ledger, 1)
        without_log = copy(path, "").rename(path.with_name("without_log.db"))
    older_copy = copy(path, "")
    async with writer(path) as ledger:
        await send(ledger, 2, 3)
    _ = (older_copy if is_older_copy else without_log).replace(path)
    problem = await refusal(path)
    count = "1" if is_older_copy else "0"
    assert problem.startswith(f"it has {count} transitions, but 3 were written to it: it is an ")
    assert "Put back the newest one, with its -wal. If there is none, --recover " in problem


async def test_a_ledger_that_was_removed_is_missed(path: Path) -> None:
    """A ledger that is gone is not begun anew, unless its lock is gone with it."""
    async with writer(path) as ledger:
        await begin(ledger, plan_of(3))
        await send(ledger, 1, 2)
    moved = path.rename(path.with_name("moved.db"))
    problem = await refusal(path)
    assert problem.startswith("the file is gone, but 2 transitions were written to it: put it back")
    assert "move job.db.lock with it" in problem
    assert not path.exists()
    path.touch()
    assert (await refusal(path)).startswith("it has 0 transitions, but 2 were written")
    path.unlink()
    _ = lock.lock_path(path).rename(lock.lock_path(moved))
    async with writer(path) as ledger, writer(moved) as other:
        assert ledger.job is None
        assert ledger.was_closed_cleanly
        assert other.was_closed_cleanly


class TestRecover:
    async def test_it_opens_what_is_left(self, path: Path) -> None:
        """With ``recover`` the rest of a ledger is opened, and later commands need it no more."""
        async with writer(path) as ledger:
            await begin(ledger, plan_of(3))
            backup = copy(path, "")
            await send(ledger, 1, 2, 3)
        _ = backup.replace(path)
        async with writer(path, recover=True) as ledger:
            assert not ledger.was_closed_cleanly
            await send(ledger, 2)
        async with writer(path) as ledger:
            assert ledger.was_closed_cleanly
            assert await ledger.last_seq() == 1

    async def test_it_begins_anew(self, path: Path) -> None:
        """With ``recover`` a ledger that is lost is begun anew, and not as one that was closed."""
        async with writer(path) as ledger:
            await begin(ledger, plan_of(3))
            await send(ledger, 1)
        path.unlink()
        async with writer(path, recover=True) as ledger:
            assert ledger.job is None
            assert not ledger.was_closed_cleanly


async def test_without_a_note_nothing_is_known(path: Path) -> None:
    """A ledger whose lock is missing is opened, and counts as one that was not closed."""
    async with writer(path) as ledger:
        await begin(ledger, plan_of(3))
        await send(ledger, 1)
    lock.lock_path(path).unlink()
    async with writer(path) as ledger:
        assert not ledger.was_closed_cleanly
    async with writer(path) as ledger:
        assert ledger.was_closed_cleanly


async def test_the_note_is_never_ahead(path: Path) -> None:
    """A transition is noted after it is on disk, and before it is acknowledged."""
    seen: list[int | None] = []

    class Watched(inline.Connection):
        async def commit(self) -> None:
            seen.append(lock.noted(path))
            await super().commit()

    ledger = Ledger(path, connect=lambda database, **settings: Watched(database, settings))
    async with ledger:
        await begin(ledger, plan_of(3))
        for number in (1, 2, 3):
            await send(ledger, number)
            assert lock.noted(path) == number
    # The first and the last commit are those of the holder's name.
    assert seen == [None, 0, 0, 1, 2, 3, 3]


async def test_a_note_that_cannot_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger works on if the number of its last transition cannot be noted."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock.LedgerLock, "note", fail)
    async with writer(path) as ledger:
        await begin(ledger, plan_of(3))
        await send(ledger, 1)
    assert lock.noted(path) is None
    assert await sent(path) == 1


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    _ = copy(path, "").replace(path)


def remove_lock(path: Path) -> None:
    lock.lock_path(path).unlink()


def replace_lock(path: Path) -> None:
    remove_lock(path)
    lock.lock_path(path).touch()


@pytest.mark.parametrize("change", [remove, replace, remove_lock, replace_lock])
async def test_files_that_change_while_it_is_open(
    path: Path, change: Callable[[Path], None]
) -> None:
    """Nothing is written any more once the ledger or its lock was removed or replaced."""
    async with writer(path) as ledger:
        await begin(ledger, plan_of(3))
        await send(ledger, 1)
        change(path)
        for number in (2, 3):
            with pytest.raises(LedgerError) as caught:
                await send(ledger, number)
            assert caught.value.problem == (
                "the ledger or its lock was removed or replaced while the job ran: put it back, "
                "with its -wal and its lock, then run the same command again"
            )
        assert await ledger.last_seq() == 1


async def test_a_ledger_that_was_put_back(path: Path) -> None:
    """A ledger that was moved while it was open, and is put back, has lost nothing."""
    moved = path.with_name("moved.db")
    async with writer(path) as ledger:
        await begin(ledger, plan_of(3))
        await send(ledger, 1)
        _ = path.rename(moved)
        with pytest.raises(LedgerError, match="was removed or replaced"):
            await send(ledger, 2)
    assert "put the two together again" in await refusal(path)
    _ = moved.rename(path)
    assert await sent(path) == 1


class TestHardLinks:
    async def test_two_names_are_refused(self, path: Path) -> None:
        """A ledger with two names is refused, as each would have a lock of its own."""
        async with writer(path) as ledger:
            await begin(ledger, plan_of(3))
        path.with_name("second.db").hardlink_to(path)
        for name in (path, path.with_name("second.db")):
            with pytest.raises(
                LedgerError, match=r"it has a second name \(a hard link\), by which"
            ):
                async with writer(name):
                    pass
        path.with_name("second.db").unlink()
        async with writer(path) as ledger:
            await send(ledger, 1)

    async def test_a_second_name_stops_the_job(self, path: Path) -> None:
        """A second name that a ledger gets while it is open stops its job."""
        async with writer(path) as ledger:
            await begin(ledger, plan_of(3))
            path.with_name("second.db").hardlink_to(path)
            with pytest.raises(LedgerError, match="it has a second name"):
                await send(ledger, 1)


def dump(connection: sqlite3.Connection) -> None:
    assert any('INSERT INTO "log"' in line for line in connection.iterdump())


def vacuum(connection: sqlite3.Connection) -> None:
    _ = connection.execute("VACUUM")


def checkpoint(connection: sqlite3.Connection) -> None:
    _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


@pytest.mark.parametrize("use", [dump, vacuum, checkpoint])
async def test_another_program_may_fold_the_log_in(
    path: Path, use: Callable[[sqlite3.Connection], None]
) -> None:
    """A ledger that crashed may be read or checkpointed by another program: nothing is missing."""
    async with writer(path) as ledger:
        await begin(ledger, plan_of(3))
        await send(ledger, 1, 2)
        crashed = copy(path, "", "-wal", ".lock")
    with closing(sqlite3.connect(crashed)) as connection:
        use(connection)
    assert not Path(f"{crashed}-wal").exists()
    async with writer(crashed) as ledger:
        assert await ledger.last_seq() == 2
        assert not ledger.was_closed_cleanly


async def test_a_file_system_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files cannot be locked, a ledger is not opened for writing, and says why."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(LedgerError, match=r"its file system cannot lock it \(.*No locks available"):
        async with writer(path):
            pass
    assert not path.exists()


async def test_a_folder_that_may_not_be_entered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger in a folder that may not be entered says so."""

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "is_dir", fail)
    assert "Permission denied): check its path and its permissions" in await refusal(path)


async def test_only_its_owner_may_read_it(path: Path) -> None:
    """The files of a new ledger belong to their owner alone, whatever the process usually does."""
    mask = os.umask(0o022)
    try:
        async with writer(path) as ledger:
            await begin(ledger, plan_of(3))
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        _ = os.umask(mask)
    names = {"job.db", "job.db-wal", "job.db-shm", "job.db.lock"}
    assert modes == dict.fromkeys(names, 0o600)


async def test_a_begin_that_was_cancelled(path: Path) -> None:
    """A job whose begin was cancelled while it was written is begun all the same."""
    async with writer(path) as ledger:
        beginning = asyncio.create_task(begin(ledger, plan_of(3)))
        await asyncio.sleep(0)
        _ = beginning.cancel()
    async with reader(path) as found:
        assert (await found.totals())[PLANNED] == 3
