"""The ledger's file: what it is, before SQLite touches it, and what is wrong with it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from aiotasks.errors import LedgerError

from .lock import lock_path
from .schema import APPLICATION, CHECK, GET_FORMAT, VERSION, Database


# The database header of https://www.sqlite.org/fileformat.html: its size, its first bytes, and
# where it has the application id.
_HEADER = 100
_MAGIC = b"SQLite format 3\0"
_OWNER = slice(68, 72)

_FIRST_READS = "and first reads from the server what was begun"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise errors of reading a file as a ``LedgerError`` that says what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        problem = f"it cannot be opened or read ({error}): check its permissions and its disk"
        raise LedgerError(str(path), problem) from error
    except OSError as error:
        problem = f"it cannot be opened ({error}): check its path and its permissions"
        raise LedgerError(str(path), problem) from error
    # The message of SQLite's own error may quote damaged bytes, which are no UTF-8.
    except (sqlite3.Error, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, finding: str) -> LedgerError:
    """Return the error for a file with content that no ledger wrote."""
    problem = (
        f"it is damaged ({finding}), and was left as it is: restore a copy of it; "
        f"--recover (`recover=True`) goes on with that, {_FIRST_READS}"
    )
    return LedgerError(str(path), problem)


def exists(path: Path) -> bool:
    """Return whether a path is a ledger: not if there is no file, or an empty one.

    It reads only the header, so that SQLite never changes a file that is not a ledger.

    Raises:
        LedgerError: when the file is no ledger, or there can be no file.
    """
    try:
        header = _header(path)
    except (OSError, ValueError) as error:
        problem = f"it cannot be opened ({error}): check its path and its permissions"
        raise LedgerError(str(path), problem) from error
    if not header:
        _require_no_orphan(path)
        return False
    if not header.startswith(_MAGIC):
        problem = "it is not a ledger: name another file with --ledger; this one was left as it is"
        raise LedgerError(str(path), problem)
    if int.from_bytes(header[_OWNER]) != APPLICATION:
        problem = (
            "it is the database of another program: name another file with --ledger; "
            "this one was left as it is"
        )
        raise LedgerError(str(path), problem)
    return True


def _header(path: Path) -> bytes:
    if not path.parent.is_dir():
        message = f"there is no folder {path.parent}"
        raise FileNotFoundError(message)
    if not path.exists():
        return b""
    if not path.is_file():
        message = "that is a folder, or something else that is no file"
        raise IsADirectoryError(message)
    with path.open("rb") as file:
        return file.read(_HEADER)


def _require_no_orphan(path: Path) -> None:
    # SQLite deletes a log without its database, and with it transitions that were acknowledged.
    if has_log(path):
        problem = (
            f"the file is gone or empty, but its last transitions are in {path.name}-wal: put the "
            "two together again. If the file is lost, remove the -wal: then --recover "
            f"(`recover=True`) begins anew, {_FIRST_READS}"
        )
        raise LedgerError(str(path), problem)


def require_complete(path: Path, *, seq: int, noted: int | None) -> None:
    """Check that a ledger has as many transitions as its lock says that were written to it.

    Raises:
        LedgerError: when some are missing.
    """
    if noted is None or seq >= noted:
        return
    if not path.exists():
        lock = lock_path(path).name
        problem = (
            f"the file is gone, but {noted:,} transitions were written to it: put it back. If its "
            f"job is over, and it was moved on purpose, move {lock} with it. If it is lost, "
            f"--recover (`recover=True`) begins anew, {_FIRST_READS}"
        )
    else:
        problem = (
            f"it has {seq:,} transitions, but {noted:,} were written to it: it is an older copy, or "
            f"its {path.name}-wal is missing. Put back the newest one, with its -wal. If there is "
            f"none, --recover (`recover=True`) goes on with this one, {_FIRST_READS}"
        )
    raise LedgerError(str(path), problem)


def has_log(path: Path) -> bool:
    """Return whether the write-ahead log has content: its writer is at work, or was killed."""
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0


async def verify(path: Path, database: Database) -> bool:
    """Check the whole file without changing it, and return whether it has tables.

    Raises:
        LedgerError: when it is damaged, or of a newer version.
    """
    ((version, tables),) = await database.execute_fetchall(GET_FORMAT)
    if version > VERSION:
        problem = f"a newer aiotasks wrote it (format {version}): update with `pip install -U`"
        raise LedgerError(str(path), problem)
    findings = [text for (text,) in await database.execute_fetchall(CHECK)]
    if findings != ["ok"]:
        raise damaged(path, " ".join(findings[0].split()))
    if version < VERSION and tables:
        raise damaged(path, f"format {version}")
    return bool(tables)
