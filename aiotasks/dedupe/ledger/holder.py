"""Who holds a ledger, as far as it can be told from what the last holder has left."""

import os
import re
from datetime import datetime
from pathlib import Path


_PROCESSES = Path("/proc")
# As proc(5) has it: the 22nd field, the third being the first after the name.
_BEGAN_FIELD = 22 - 3
_SLACK = 2.0
_HOLDER = re.compile(r"process (\d+) on (\S+) since ([\d-]+ [\d:]+) UTC", re.ASCII)


def live_holder(holder: str, *, host: str) -> str | None:
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
