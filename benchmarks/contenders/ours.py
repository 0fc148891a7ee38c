"""The bulk job with aiotasks."""

import asyncio
from collections.abc import Iterator

import aiotasks
from benchmarks.contenders.job import PATIENCE, Job


WORKERS = 32


async def run(job: Job) -> None:
    """Merge with a few workers, and get each outcome from one watch when it is ready."""
    async with (
        aiotasks.Client(job.api_key, base_url=job.url) as client,
        client.tasks.watch(timeout=PATIENCE) as watch,
        asyncio.TaskGroup() as group,
    ):
        _ = group.create_task(_merge(job, client, watch))
        async for outcome in watch:
            if outcome.state is aiotasks.OutcomeState.SUCCESS:
                job.end(outcome.url)
            else:
                job.fail("wait", outcome.error or outcome.state)


async def _merge(job: Job, client: aiotasks.Client, watch: aiotasks.Watch) -> None:
    pairs = iter(job.pairs)
    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            _ = group.create_task(_work(job, client, watch, pairs))
    watch.close()


async def _work(
    job: Job, client: aiotasks.Client, watch: aiotasks.Watch, pairs: Iterator[tuple[int, int]]
) -> None:
    for primary_id, duplicate_id in pairs:
        try:
            watch.add(await client.companies.merge(primary_id, duplicate_id))
        except aiotasks.AffinityError as error:
            job.fail("merge", error)
