"""The bulk job as a dedupe job: with a plan, a preview and a ledger."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import aiotasks
from aiotasks import dedupe
from benchmarks import inline
from benchmarks.contenders.job import Job


async def run(job: Job) -> None:
    """Run a job without a first batch."""
    await _run(job, dedupe.JobSettings(canary=0))


async def run_by_default(
    job: Job, on_progress: Callable[[dedupe.JobProgress], object] | None = None
) -> None:
    """Run a job as the command line does without options."""
    await _run(job, dedupe.JobSettings(), on_progress)


async def _run(
    job: Job,
    settings: dedupe.JobSettings,
    on_progress: Callable[[dedupe.JobProgress], object] | None = None,
) -> None:
    def report(event: dedupe.JobEvent) -> None:
        match event:
            case dedupe.PairChanged(
                pair=dedupe.Pair(state="succeeded" | "failed", task_url=str(task_url))
            ):
                job.end(task_url)
            case _:
                pass

    plan = dedupe.Plan.of(job.pairs, kind="company")
    with tempfile.TemporaryDirectory() as folder:
        async with (
            aiotasks.Client(job.api_key, base_url=job.url) as client,
            dedupe.Ledger(Path(folder) / "job.db", connect=inline.connect) as ledger,
        ):
            preview = await dedupe.preview(client, plan)
            # A user reads the preview first, so the job begins with a new rate-limit window.
            await job.begin_anew()
            _ = await dedupe.run(
                client,
                plan,
                ledger,
                settings=settings,
                preview=preview,
                on_event=report,
                on_progress=on_progress,
            )
