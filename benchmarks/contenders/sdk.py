"""The bulk job with the published affinity-sdk, on its own defaults."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import affinity
import affinity.clients.http
import affinity.services.rate_limits
import affinity.services.tasks
import httpcore._async.http11
import httpcore._backends.anyio
from affinity.types import CompanyId

from benchmarks.contenders.job import PATIENCE, Job


MAX_MERGES = 16


async def run(job: Job) -> None:
    """Gather ``merge`` and then ``tasks.wait`` for each pair, as its documentation shows them."""
    async with _client(job) as client:
        _ = await asyncio.gather(*(_follow(job, client, pair) for pair in job.pairs))


async def run_with_repeated_merges(job: Job) -> None:
    """Repeat refused merges after the reset, as the SDK itself repeats no POST.

    This measures its waits, with all merges accepted.
    """
    slots = asyncio.Semaphore(MAX_MERGES)
    async with _client(job) as client:
        _ = await asyncio.gather(*(_follow(job, client, pair, slots) for pair in job.pairs))


@asynccontextmanager
async def _client(job: Job) -> AsyncGenerator[affinity.AsyncAffinity]:
    with _clock_of(asyncio.get_running_loop()):
        async with affinity.AsyncAffinity(
            job.api_key, v1_base_url=job.url, v2_base_url=f"{job.url}/v2", timeout=30.0
        ) as client:
            yield client


@contextmanager
def _clock_of(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let the published SDK read the loop's clock, with its own retries, pool and timeouts.

    Its modules are given another clock, nothing else. Its backoff takes its jitter from the fraction
    of the current millisecond, which a clock that jumps would make the same for all.
    """
    clock = SimpleNamespace(
        monotonic=loop.time,
        time=loop.time,
        time_ns=lambda: random.randrange(10**6),  # noqa: S311 - jitter, not a secret
        perf_counter=time.perf_counter,
    )
    targets: list[tuple[Any, str, Any]] = [
        (affinity.clients.http, "time", clock),
        (affinity.services.rate_limits, "time", clock),
        (affinity.services.tasks, "time", clock),
        (httpcore._async.http11, "time", clock),  # noqa: SLF001
        # In-memory sockets cannot be polled. The SDK asks whether the server has closed an idle
        # connection; this one keeps them longer than the pool does.
        (httpcore._backends.anyio, "is_socket_readable", lambda _: False),  # noqa: SLF001
    ]
    with ExitStack() as stack:
        for module, name, replacement in targets:
            stack.enter_context(patch.object(module, name, replacement))
        yield


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
                task_url = await _merge_until_accepted(client, pair)
        verb = "wait"
        _ = await client.tasks.wait(task_url, timeout=PATIENCE)
    except affinity.AffinityError as error:
        job.fail(verb, error)
    else:
        job.end(task_url)


async def _merge_until_accepted(client: affinity.AsyncAffinity, pair: tuple[int, int]) -> str:
    while True:
        try:
            return await client.companies.merge(CompanyId(pair[0]), CompanyId(pair[1]))
        except affinity.RateLimitError:
            minute = client.rate_limits.snapshot().api_key_per_minute
            await asyncio.sleep((minute.reset_seconds or 60) + 1)
