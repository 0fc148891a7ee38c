"""Memory of a pending task, as the resident set grows with it, each in a fresh process.

The server is another process. A task counts from its first poll on: what a contender keeps of the
answer is part of its cost. The URLs themselves belong to the caller, and exist before.
"""

import asyncio
import gc
import multiprocessing
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import affinity
import aiohttp

import aiotasks
from aiotasks.sandbox import PLAIN, Sandbox
from benchmarks import virtual
from benchmarks.contenders.hand_written import HandWritten
from benchmarks.figures import median
from benchmarks.server import Server, serving


# Longer than any run takes, so that each task is polled once.
INTERVAL = 3600.0
BATCH = 100
COUNTS = (1_000, 10_000, 100_000)
MANY = 100_000
DAY_TASKS, DAY_HOURS = 100, 24
_STATM = Path("/proc/self/statm")

Measured = dict[str, Any]


def measure(*, quick: bool = False) -> dict[str, Any]:
    """Measure the memory of each contender, and its growth over a day of polling."""
    counts = COUNTS[:1] if quick else COUNTS
    jobs = [
        (name, count)
        for count in counts
        for name in CONTENDERS
        if count < MANY or name == "aiotasks"
    ]
    # The load of the other processor does not change a resident set.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {
            "unit": "bytes of resident set for each pending task",
            "pending": list(pool.map(_repeat, *zip(*jobs, strict=True))),
            "day": in_fresh_process(_poll_for_a_day),
        }


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def _repeat(name: str, count: int) -> Measured:
    # The noise is a few hundred KiB, however many tasks there are.
    runs = max(1, 3_000 // count)
    with serving(count) as server:
        results = [in_fresh_process(_measure, name, server) for _ in range(runs)]
    return {
        "contender": name,
        "tasks": count,
        "runs": runs,
        "bytes_per_task": median([result["bytes_per_task"] for result in results]),
        "all": [result["bytes_per_task"] for result in results],
        "pending": min(result["pending"] for result in results),
    }


def _measure(name: str, server: Server) -> Measured:
    return asyncio.run(CONTENDERS[name](server))


async def _ours(server: Server) -> Measured:
    async with aiotasks.Client(server.api_key, base_url=server.url) as client:
        _ = await client.tasks.get(server.task_urls[0])
        before = resident()
        async with client.tasks.watch(
            server.task_urls, timeout=None, poll_interval=INTERVAL, max_poll_interval=INTERVAL
        ) as watch:
            await _until_quiet(lambda: client.quota.sent)
            grown = resident() - before
            seen = sum(outcome.polls > 0 for outcome in watch.unsettled)
            return _per_task(grown, seen, server)


async def _until_quiet(count: Callable[[], int]) -> None:
    # There is no event for "each task was polled once", but then requests stop.
    last = -1
    while count() != last:
        last = count()
        await asyncio.sleep(1.0)


async def _sdk(server: Server) -> Measured:
    async with affinity.AsyncAffinity(
        server.api_key, v1_base_url=server.url, v2_base_url=f"{server.url}/v2"
    ) as client:

        def wait(task_url: str) -> Coroutine[Any, Any, object]:
            return client.tasks.wait(
                task_url,
                timeout=2 * INTERVAL,
                poll_interval=INTERVAL,
                max_poll_interval=INTERVAL,
            )

        _ = await client.tasks.get(server.task_urls[0])
        return await _one_asyncio_task_each(server, wait)


async def _hand_written(server: Server) -> Measured:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        client = HandWritten(session, Random(1), shares_pause=False, poll_interval=INTERVAL)  # noqa: S311
        async with session.get(server.task_urls[0]) as response:
            _ = await response.read()
        return await _one_asyncio_task_each(server, client.wait)


async def _one_asyncio_task_each(
    server: Server, wait: Callable[[str], Coroutine[Any, Any, object]]
) -> Measured:
    before = resident()
    tasks: list[asyncio.Task[object]] = []
    # In batches, so that the queue for connections does not time out.
    async with _cancelled(tasks):
        for start in range(0, len(server.task_urls), BATCH):
            tasks += [
                asyncio.create_task(wait(url)) for url in server.task_urls[start : start + BATCH]
            ]
            await _until_asleep(tasks[start:])
        grown = resident() - before
        return _per_task(grown, sum(not task.done() for task in tasks), server)


async def _until_asleep(tasks: list[asyncio.Task[object]]) -> None:
    while not all(task.done() or _sleeps(task) for task in tasks):  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.01)


def _sleeps(task: asyncio.Task[object]) -> bool:
    coroutine: Any = task.get_coro()
    awaited = coroutine.cr_await
    return getattr(awaited, "__qualname__", "") == "sleep"


@asynccontextmanager
async def _cancelled(tasks: list[asyncio.Task[object]]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for task in tasks:
            _ = task.cancel()
        _ = await asyncio.gather(*tasks, return_exceptions=True)


def _per_task(grown: int, pending: int, server: Server) -> Measured:
    return {"bytes_per_task": round(grown / len(server.task_urls)), "pending": pending}


def _poll_for_a_day() -> Measured:
    return virtual.run(_day, seed=1)


async def _day() -> Measured:
    async with (
        Sandbox(**PLAIN, month_quota=0, duration=float("inf"), latency=0.1) as sandbox,
        aiotasks.Client(sandbox.api_key, base_url=sandbox.url) as client,
    ):
        urls = [
            sandbox.start_merge("company", 2 * number - 1, 2 * number)
            for number in range(1, DAY_TASKS + 1)
        ]
        async with client.tasks.watch(urls, timeout=None):
            hourly = []
            for _ in range(DAY_HOURS):
                await asyncio.sleep(3600)
                hourly.append(resident())
        return {
            "tasks": DAY_TASKS,
            "hours": DAY_HOURS,
            "calls": sandbox.requests,
            "kib_grown_since_the_first_hour": [round((size - hourly[0]) / 1024) for size in hourly],
        }


def resident() -> int:
    """Return the bytes of memory that this process occupies, after collecting garbage."""
    _ = gc.collect()
    return int(_STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


CONTENDERS: dict[str, Callable[[Server], Coroutine[Any, Any, Measured]]] = {
    "aiotasks": _ours,
    "hand-written": _hand_written,
    "affinity-sdk": _sdk,
}
