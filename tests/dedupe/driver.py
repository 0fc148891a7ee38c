"""Run a job in a forked process for each line of standard input.

Only what runs a job is imported, and only once: each run is a fork, so that a test can afford to
kill fifty of them. Each prints its process id first, and its exit code when it has ended.
"""

import asyncio
import json
import os
import sys
from typing import Any

from aiotasks import AffinityError, Client
from aiotasks.backoff import poll_backoff
from aiotasks.dedupe import JobSettings, Ledger, PairState, Plan, run
from aiotasks.dedupe._run import reconciler


async def work(pairs: str, ledger: str, url: str, settings: dict[str, Any]) -> int:
    """Run a job like ``aiotasks merge``, and return 0 when all pairs have succeeded."""
    plan = Plan.read(pairs, kind="company")
    try:
        async with Ledger(ledger) as opened, Client("sandbox-key", base_url=url) as client:
            result = await run(client, plan, opened, settings=JobSettings(**settings))
    except AffinityError as error:
        _ = sys.stderr.write(f"{error}\n")
        return 2
    return 0 if result.totals[PairState.SUCCEEDED] == sum(result.totals.values()) else 3


def main() -> None:
    """Fork for each line, and print the exit code."""
    for line in sys.stdin:
        request = json.loads(line)
        if (pid := os.fork()) == 0:
            # Merges of the tests take hundredths of a second, so they are reconciled sooner.
            reconciler._BACKOFF = poll_backoff(0.05, 0.2)
            os._exit(asyncio.run(work(**request)))
        _ = sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        _, status = os.waitpid(pid, 0)
        _ = sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
