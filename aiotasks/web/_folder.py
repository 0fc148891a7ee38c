"""The folder of jobs: one ledger each, found by its id and by nothing else."""

import os
import re
import secrets
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from aiotasks.errors import ConfigurationError


ENDING: Final = ".job.db"
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}", re.ASCII)
_LONGEST_STEM = 40
_LONGEST_NAME = 100
_OTHERS = re.compile(r"[^a-z0-9]+", re.ASCII)
_PROCESSES = Path("/proc")
# As proc(5) has it: the 22nd field, the third being the first after the name.
_BEGAN_FIELD = 22 - 3
_SLACK = 2.0
_HOLDER = re.compile(r"process (\d+) on (\S+) since ([\d-]+ [\d:]+) UTC", re.ASCII)


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
        stem = _OTHERS.sub("-", name.partition(".")[0].lower())[:_LONGEST_STEM].strip("-")
        job_id = f"{stem or 'job'}-{secrets.token_hex(4)}"
        return job_id, self.path / f"{job_id}{ENDING}"


def plain_name(name: str) -> str:
    """Return what is shown of the name of a file that somebody sends."""
    last = PurePosixPath(PureWindowsPath(name).name).name
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in last)
    return shown[:_LONGEST_NAME] or "pairs"


def present_holder(holder: str, *, host: str) -> str | None:
    """Return who holds a ledger, as far as it can be told from what the last holder has left.

    Who was killed has left its name. Of this machine it can be told whether that process is still
    there, and is not another one with its number.
    """
    found = _HOLDER.match(holder)
    if found is None or found[2] != host or not _PROCESSES.is_dir():
        return holder or None
    try:
        since = datetime.fromisoformat(f"{found[3]}+00:00").timestamp()
    except ValueError:
        return holder
    began = _began(_PROCESSES / found[1])
    return None if began is None or began > since + _SLACK else holder


def _began(process: Path) -> float | None:
    """Return when a process began, in seconds since the epoch, or nothing if it has ended."""
    try:
        # The name of a program may have spaces and parentheses.
        ticks = int((process / "stat").read_text().rpartition(")")[2].split()[_BEGAN_FIELD])
    except OSError:
        return None
    stat = (_PROCESSES / "stat").read_text()
    boot = int(stat.partition("\nbtime ")[2].split()[0])
    return boot + ticks / os.sysconf("SC_CLK_TCK")
