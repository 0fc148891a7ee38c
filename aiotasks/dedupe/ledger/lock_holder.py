"""Whether the process that opened a ledger last still runs."""

import os
import re
from datetime import datetime
from pathlib import Path


_PROCESSES = Path("/proc")
# starttime is field 22 in https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html, and the first
# field after the name is the third.
_START_FIELD = 22 - 3
# Seconds. The start is rounded to ticks and the boot time to a second, and the name has seconds.
_SLACK = 2.0
_HOLDER = re.compile(r"process (\d+) on (\S+) since ([\d-]+ [\d:]+) UTC", re.ASCII)


def live_holder(holder: str, *, host: str) -> str | None:
    """Return the holder that a ledger names, or ``None`` if that process has certainly ended.

    A killed process leaves its name in the ledger. On the same host, check that the pid is alive
    and was not reused; of another host, nothing is known.
    """
    found = _HOLDER.match(holder)
    if found is None or found[2] != host or not _PROCESSES.is_dir():
        return holder or None
    try:
        since = datetime.fromisoformat(f"{found[3]}+00:00").timestamp()
    except ValueError:
        return holder
    started = _started_at(_PROCESSES / found[1])
    return None if started is None or started > since + _SLACK else holder


def _started_at(process: Path) -> float | None:
    """Return when a process started, in seconds since the epoch, or ``None`` if it has ended."""
    try:
        # The name comes in parentheses, and may itself have spaces and parentheses.
        ticks = int((process / "stat").read_text().rpartition(")")[2].split()[_START_FIELD])
    except OSError:
        return None
    stat = (_PROCESSES / "stat").read_text()
    boot = int(stat.partition("\nbtime ")[2].split()[0])
    return boot + ticks / os.sysconf("SC_CLK_TCK")
