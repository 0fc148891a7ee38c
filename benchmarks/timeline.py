"""One default job over time, on virtual time: started, open, ended, and the calls left in the minute."""

import asyncio
import math
from typing import Any

from aiotasks import dedupe
from aiotasks.dedupe import PairState
from aiotasks.sandbox import PLAIN, Sandbox
from benchmarks import virtual
from benchmarks.contenders.dedupe_job import run_by_default
from benchmarks.contenders.job import Job
from benchmarks.workload import LATENCY, MEDIAN_DURATION, QUOTA, SIGMA, WINDOW


MERGES = 5_000
# So many seconds lie between two samples.
EVERY = 2.0


def measure(*, quick: bool = False) -> dict[str, Any]:
    """Return samples of one job."""
    merges = MERGES // 50 if quick else MERGES
    return {"merges": merges, "samples": virtual.run(lambda: _measure(merges), seed=1)}


async def _measure(merges: int) -> list[list[float | None]]:
    samples: list[list[float | None]] = []
    async with Sandbox(
        **PLAIN,
        quota=QUOTA,
        window=WINDOW,
        month_quota=0,
        companies=2 * merges,
        duration=lambda drawn: drawn.lognormvariate(math.log(MEDIAN_DURATION), SIGMA),
        latency=LATENCY,
        seed=1,
    ) as sandbox:
        pairs = [(number, number + 1) for number in range(1, 2 * merges, 2)]
        job = Job(sandbox.url, sandbox.api_key, pairs, seed=1, window=WINDOW)

        def sample(progress: dedupe.JobProgress) -> None:
            at = asyncio.get_running_loop().time() - job.started
            if not samples or at >= (samples[-1][0] or 0.0) + EVERY or not progress.open:
                started = progress.total - progress.totals[PairState.PLANNED]
                samples.append([at, started, progress.open, progress.ended, progress.minute_left])

        await run_by_default(job, sample)
    return samples
