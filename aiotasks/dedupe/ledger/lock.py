"""The lock of a ledger: a file beside it that one process holds, and what is noted there."""

import errno
import os
import re
import sys
from pathlib import Path

from aiotasks.errors import LedgerError


_TAKEN = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK})
_NOTE = re.compile(rb"last transition: (\d{12})\n")


class LedgerLock:
    """The lock file of a ledger; it is never deleted, as another process may be waiting for it.

    The system releases it when the process ends, even if it is killed. The number of the last
    transition is noted in it, so that a ledger from which transitions were lost is noticed.
    """

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._path = lock_path(ledger)
        self._file: int | None = None
        self._identities: list[tuple[int, int]] = []

    def acquire(self) -> bool:
        """Take the lock, and return whether no other process holds it.

        Raises:
            LedgerError: when the file system has no locks.
        """
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(file)
        except OSError as error:
            os.close(file)
            if error.errno in _TAKEN:
                return False
            problem = (
                f"its file system cannot lock it ({error}), so that two processes could run its "
                "job at once: move it to a disk of this machine"
            )
            raise LedgerError(str(self._ledger), problem) from error
        self._file = file
        return True

    def release(self) -> None:
        """Release the lock."""
        assert self._file is not None  # noqa: S101 - it was acquired
        os.close(self._file)
        self._file = None

    def pin(self) -> None:
        """Remember which files the ledger and its lock are now."""
        self._identities = self._find()

    def require_in_place(self) -> None:
        """Check that the ledger and its lock are the files that they were.

        Raises:
            LedgerError: when one of them was removed or replaced, or the ledger has two names.
        """
        try:
            found = self._find()
        except OSError:
            found = []
        if found != self._identities:
            problem = (
                "the ledger or its lock was removed or replaced while the job ran: put it back, "
                "with its -wal and its lock, then run the same command again"
            )
            raise LedgerError(str(self._ledger), problem)

    def note(self, seq: int) -> None:
        """Note the number of the last transition.

        It is not synced, and it is written after the transition: if the power fails, the note may
        be older than the ledger, and never newer.
        """
        assert self._file is not None  # noqa: S101 - it is held
        _ = os.lseek(self._file, 0, os.SEEK_SET)
        _ = os.write(self._file, b"last transition: %012d\n" % seq)

    def _find(self) -> list[tuple[int, int]]:
        ledger, lock = self._ledger.stat(), self._path.stat()
        if ledger.st_nlink > 1:
            problem = (
                "it has a second name (a hard link), by which another process could run its job "
                "at once: remove one of the two"
            )
            raise LedgerError(str(self._ledger), problem)
        return [(ledger.st_dev, ledger.st_ino), (lock.st_dev, lock.st_ino)]


def lock_path(ledger: Path) -> Path:
    """Return where the lock of a ledger is."""
    return ledger.with_name(f"{ledger.name}.lock")


def noted(ledger: Path) -> int | None:
    """Return the number of the last transition of a ledger as its lock has it, if it does."""
    try:
        found = _NOTE.match(lock_path(ledger).read_bytes())
    except OSError:
        return None
    return None if found is None else int(found[1])


if sys.platform == "win32":
    import msvcrt

    # Windows lets nobody else read a locked byte, so that one is far behind the note.
    _LOCKED_BYTE = 2**30

    def _lock(file: int) -> None:
        _ = os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
