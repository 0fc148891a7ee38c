"""The bulk job with the published affinity-sdk, on its own defaults."""

import asyncio

import affinity
from affinity.types import CompanyId

from benchmarks.contenders.job import PATIENCE, Job


MAX_MERGES = 16


async def run(job: Job) -> None:
    """Gather ``merge`` and then ``tasks.wait`` for each pair, as its documentation shows them."""
    async with _client(job) as client:
        _ = await asyncio.gather(*(_follow(job, client, pair) for pair in job.pairs))


async def run_with_repeated_merges(job: Job) -> None:
    """Help it over its refused merges: it repeats no POST, so the caller does, after the reset.

    What is measured this way are its waits, with all merges accepted.
    """
    slots = asyncio.Semaphore(MAX_MERGES)
    async with _client(job) as client:
        _ = await asyncio.gather(*(_follow(job, client, pair, slots) for pair in job.pairs))


def _client(job: Job) -> affinity.AsyncAffinity:
    return affinity.AsyncAffinity(
        job.api_key, v1_base_url=job.url, v2_base_url=f"{job.url}/v2", timeout=30.0
    )


async def _follow(
    job: Job,
    client: affinity.AsyncAffinity,
    pair: tuple[int, int],
    slots: asyncio.Semaphore | None = None,
) -> None:
    verb = "merge"
    try:
        if slots is None:
            task_url = await client.companies.merge(CompanyId(pair[0]), CompanyId(pair[1]))
        else:
            async with slots:
                task_url = await _insist(client, pair)
        verb = "wait"
        _ = await client.tasks.wait(task_url, timeout=PATIENCE)
    except affinity.AffinityError as error:
        job.fail(verb, error)
    else:
        job.succeed(task_url)


async def _insist(client: affinity.AsyncAffinity, pair: tuple[int, int]) -> str:
    while True:
        try:
            return await client.companies.merge(CompanyId(pair[0]), CompanyId(pair[1]))
        except affinity.RateLimitError:
            minute = client.rate_limits.snapshot().api_key_per_minute
            await asyncio.sleep((minute.reset_seconds or 60) + 1)
