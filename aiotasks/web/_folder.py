"""The folder of jobs: one ledger each, found by its id and by nothing else."""

import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from aiotasks.errors import ConfigurationError


ENDING: Final = ".job.db"
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}", re.ASCII)
_LONGEST_STEM = 40
_LONGEST_NAME = 100
_OTHERS = re.compile(r"[^a-z0-9]+", re.ASCII)


class Folder:
    """The ledgers in a folder. No id leads out of it, not by a link either."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            message = f"There is no folder {self.path}: make it first, or name another"
            raise ConfigurationError(message)

    def find(self, job_id: str) -> Path | None:
        """Return the ledger of a job, or none if there is none."""
        path = self.path / f"{job_id}{ENDING}"
        is_ours = _ID.fullmatch(job_id) is not None and not path.is_symlink() and path.is_file()
        return path if is_ours else None

    def __iter__(self) -> Iterator[tuple[str, Path]]:
        for path in sorted(self.path.glob(f"*{ENDING}")):
            job_id = path.name.removesuffix(ENDING)
            if self.find(job_id) is not None:
                yield job_id, path

    def new(self, name: str) -> tuple[str, Path]:
        """Return the id and the place of a job that is not there yet."""
        job_id = f"{_stem(name)}-{secrets.token_hex(4)}"
        return job_id, self.path / f"{job_id}{ENDING}"


class OneLedger(Folder):
    """A folder in which one ledger alone is found, whatever that is called."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._ledger = Path(path)
        super().__init__(self._ledger.parent)
        self.job_id = _stem(self._ledger.name)

    def find(self, job_id: str) -> Path | None:
        """Return the ledger, if it is asked for."""
        return self._ledger if job_id == self.job_id else None


def plain_name(name: str) -> str:
    """Return what is shown of the name of a file that somebody sends."""
    last = PurePosixPath(PureWindowsPath(name).name).name
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in last)
    return shown[:_LONGEST_NAME] or "pairs"


def _stem(name: str) -> str:
    """Return what of a file's name can be a part of an id."""
    return _OTHERS.sub("-", name.partition(".")[0].lower())[:_LONGEST_STEM].strip("-") or "job"
