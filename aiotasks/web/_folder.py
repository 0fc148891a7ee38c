"""The folder of jobs: one ledger each, found only by its id."""

import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from aiotasks._text import printable
from aiotasks.errors import ConfigurationError


ENDING: Final = ".job.db"
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}", re.ASCII)
_LONGEST_STEM = 40
_LONGEST_NAME = 100
_OTHERS = re.compile(r"[^a-z0-9]+", re.ASCII)


class Folder:
    """The ledgers in a folder. No id can lead out of it, not even through a symbolic link."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            is_there = self.path.is_dir()
            # It may be seen, and yet neither be listed nor be entered.
            if is_there:
                os.scandir(self.path / os.curdir).close()
        except OSError as error:
            message = f"The folder {self.path} cannot be read: {error.strerror}"
            raise ConfigurationError(message) from error
        if not is_there:
            message = f"There is no folder {self.path}: make it first, or name another"
            raise ConfigurationError(message)

    def find(self, job_id: str) -> Path | None:
        """Return the ledger of a job, or ``None`` if there is none."""
        path = self.path / f"{job_id}{ENDING}"
        try:
            is_ours = _ID.fullmatch(job_id) is not None and not path.is_symlink() and path.is_file()
        except OSError:
            # The rights of the folder were changed meanwhile.
            return None
        return path if is_ours else None

    def __iter__(self) -> Iterator[tuple[str, Path]]:
        for path in sorted(self.path.glob(f"*{ENDING}")):
            job_id = path.name.removesuffix(ENDING)
            if self.find(job_id) is not None:
                yield job_id, path

    def new(self, name: str) -> tuple[str, Path]:
        """Return a new id, and the path for its ledger."""
        job_id = f"{_stem(name)}-{secrets.token_hex(4)}"
        return job_id, self.path / f"{job_id}{ENDING}"


class OneLedger(Folder):
    """A folder that has one ledger only, with any file name."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._ledger = Path(path)
        super().__init__(self._ledger.parent)
        self.job_id = _stem(self._ledger.name)

    def find(self, job_id: str) -> Path | None:
        """Return the ledger if the id is its own, otherwise ``None``."""
        return self._ledger if job_id == self.job_id else None


def plain_name(name: str) -> str:
    """Return the last part of an uploaded file's name, printable and of limited length."""
    last = PurePosixPath(PureWindowsPath(name).name).name
    return printable(last)[:_LONGEST_NAME] or "pairs"


def _stem(name: str) -> str:
    """Return the part of a file's name that may be used in an id."""
    return _OTHERS.sub("-", name.partition(".")[0].lower())[:_LONGEST_STEM].strip("-") or "job"
