"""A web service under load: waits, event streams, peeks, and polls beside a bulk job.

Calls and delays are counted on virtual time; CPU and memory are measured on the real clock, in
fresh processes, with the API in a process of its own.
"""

import asyncio
import math
import multiprocessing
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import aiohttp

import aiotasks
from aiotasks import dedupe
from aiotasks.sandbox import PLAIN, Sandbox
from aiotasks.web import serve
from benchmarks import inline, virtual
from benchmarks.figures import quantile
from benchmarks.memory import in_fresh_process, resident
from benchmarks.server import Server, serving


HANDLERS, TASKS = 10_000, 500
INTERVAL = 2.0
STREAMS, STREAMED = 1_000, 300
MINUTES = 60
BULK, QUOTA, LATENCY = 3_000, 900, (0.05, 0.25)

Measured = dict[str, Any]


def measure(*, quick: bool = False) -> Measured:
    """Measure all four."""
    handlers, tasks = (HANDLERS // 10, TASKS // 10) if quick else (HANDLERS, TASKS)
    streams, pairs = (STREAMS // 10, STREAMED // 10) if quick else (STREAMS, STREAMED)
    with serving(tasks) as server:
        waiting = [
            in_fresh_process(_wait_really, server, count, 4.0 if quick else 20.0)
            for count in (tasks, handlers)
        ]
    return {
        "waiting": waiting,
        "calls": [
            virtual.run(partial(_wait_virtually, tasks, count), seed=1)
            for count in (tasks, handlers)
        ],
        "streams": asyncio.run(_stream(streams, pairs)),
        "hour": in_fresh_process(_serve_for, MINUTES // 6 if quick else MINUTES),
        "beside_a_job": [
            virtual.run(partial(_ask_beside, way, BULK // 10 if quick else BULK), seed=1)
            for way in CLIENTS
        ],
    }


# Handlers that wait for tasks of which there are fewer


def _wait_really(server: Server, handlers: int, seconds: float) -> Measured:
    return asyncio.run(_wait(server, handlers, seconds))


async def _wait(server: Server, handlers: int, seconds: float) -> Measured:
    async with aiotasks.Client(server.api_key, base_url=server.url) as client:
        _ = await client.tasks.get(server.task_urls[0])
        before, started = resident(), time.process_time()
        async with _handlers(client, server.task_urls, handlers):
            await asyncio.sleep(INTERVAL)
            started_in = time.process_time() - started
            grown, sent, started = resident() - before, client.quota.sent, time.process_time()
            await asyncio.sleep(seconds)
            busy, asked = time.process_time() - started, client.quota.sent - sent
            started = time.process_time()
        return {
            "handlers": handlers,
            "tasks": len(server.task_urls),
            "bytes_per_handler": round(grown / handlers),
            "microseconds_to_start": round(started_in / handlers * 1e6),
            "microseconds_to_cancel": round((time.process_time() - started) / handlers * 1e6),
            "calls_a_second": round(asked / seconds, 2),
            "share_of_a_processor": round(busy / seconds, 4),
        }


@asynccontextmanager
async def _handlers(
    client: aiotasks.Client, task_urls: Sequence[str], count: int
) -> AsyncIterator[None]:
    """Let handlers wait for tasks, and cancel them at the end, as if all clients disconnected."""
    waits = [
        asyncio.create_task(
            client.tasks.wait(
                task_urls[number % len(task_urls)],
                timeout=None,
                poll_interval=INTERVAL,
                max_poll_interval=INTERVAL,
            )
        )
        for number in range(count)
    ]
    try:
        yield
    finally:
        for wait in waits:
            _ = wait.cancel()
        _ = await asyncio.wait(waits)


async def _wait_virtually(tasks: int, handlers: int) -> Measured:
    async with (
        Sandbox(**PLAIN, quota=0, month_quota=0, companies=2 * tasks, latency=LATENCY) as sandbox,
        aiotasks.Client(sandbox.api_key, base_url=sandbox.url) as client,
    ):
        urls = [
            sandbox.start_merge("company", 2 * number - 1, 2 * number, duration=20.0)
            for number in range(1, tasks + 1)
        ]
        waits = [client.tasks.wait(urls[number % tasks]) for number in range(handlers)]
        found = await asyncio.gather(*waits)
        return {
            "handlers": handlers,
            "tasks": tasks,
            "finished": sum(task.status == "success" for task in found),
            "calls": sandbox.requests,
        }


# Event streams of one running job


class Site(NamedTuple):
    """A server of jobs in a process of its own, with its link and its cost until now."""

    link: str
    cost: Callable[[], tuple[int, float]]


async def _stream(streams: int, pairs: int) -> Measured:
    _allow_files(2 * streams + 200)
    async with Sandbox(
        **PLAIN, quota=0, month_quota=0, companies=2 * pairs, duration=2.0
    ) as sandbox:
        with TemporaryDirectory() as folder, _site(sandbox, folder) as site:
            connector = aiohttp.TCPConnector(limit=0)
            timeout = aiohttp.ClientTimeout(total=None)
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                return await _stream_all(site, session, streams, pairs)


async def _stream_all(
    site: Site, session: aiohttp.ClientSession, streams: int, pairs: int
) -> Measured:
    rows = "".join(f"{2 * number - 1},{2 * number}\n" for number in range(1, pairs + 1))
    data, params = f"primary_id,duplicate_id\n{rows}", {"kind": "company"}
    async with session.post(site.link, params=params, data=data) as answer:
        job = await answer.json()
    url = f"{site.link}/{job['id']}"
    # What the first request loads does not count as the cost of a stream.
    async with session.get(f"{url}/events") as first:
        _ = await first.content.readline()
    before, _ = await asyncio.to_thread(site.cost)
    answers = await asyncio.gather(*(session.get(f"{url}/events") for _ in range(streams)))
    opened, busy = await asyncio.to_thread(site.cost)
    async with session.post(f"{url}/start", json={"fingerprint": job["fingerprint"]}) as answer:
        answer.raise_for_status()
    started = time.monotonic()
    reading = asyncio.gather(*map(_read, answers))
    most = opened
    while not (await asyncio.wait([reading], timeout=1.0))[0]:
        most = max(most, (await asyncio.to_thread(site.cost))[0])
    read, ran = reading.result(), time.monotonic() - started
    _, busy_then = await asyncio.to_thread(site.cost)
    started = time.monotonic()
    most_events = max(len(each.seqs) for each in read)
    again = await asyncio.gather(*(_read_again(session, url, most_events) for _ in range(streams)))
    events, seconds = sum(len(each.seqs) for each in again), time.monotonic() - started
    return {
        "streams": streams,
        "pairs": pairs,
        "events_of_each": most_events,
        # A stream that missed events without a resync counts in neither.
        "streams_told_each_event_once": sum(
            not each.resyncs and each.seqs == [*range(1, len(each.seqs) + 1)] for each in read
        ),
        "streams_with_a_resync": sum(each.resyncs > 0 for each in read),
        "streams_told_all": sum(len(each.seqs) == most_events for each in read),
        "kib_per_stream": round((opened - before) / streams / 1024, 1),
        "kib_per_stream_with_the_job_at_most": round((most - before) / streams / 1024, 1),
        "microseconds_of_cpu_per_event": round(
            (busy_then - busy) / sum(len(each.seqs) for each in read) * 1e6, 1
        ),
        "seconds_of_the_job": round(ran, 1),
        "events_a_second_when_told_again": round(events / seconds),
    }


class Stream(NamedTuple):
    """The numbers of the events of a stream, and how many resyncs it got."""

    seqs: list[int]
    resyncs: int


async def _read(answer: aiohttp.ClientResponse, *, until: int | None = None) -> Stream:
    """Read a stream to the end of the job, or so many events."""
    seqs: list[int] = []
    resyncs, rest = 0, b""
    async with answer:
        async for data in answer.content.iter_any():
            *lines, rest = (rest + data).split(b"\n")
            seqs += [int(line[4:]) for line in lines if line.startswith(b"id: ")]
            resyncs += lines.count(b"event: resync")
            if b"event: done" in lines or len(seqs) == until:
                break
        answer.close()
    return Stream(seqs, resyncs)


async def _read_again(session: aiohttp.ClientSession, url: str, count: int) -> Stream:
    return await _read(await session.get(f"{url}/events"), until=count)


@contextmanager
def _site(sandbox: Sandbox, folder: str) -> Iterator[Site]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, sandbox.url, sandbox.api_key, folder)
    process = context.Process(target=_serve_site, args=arguments, daemon=True)
    process.start()
    theirs.close()

    def cost() -> tuple[int, float]:
        ours.send(None)
        size, busy = ours.recv()
        return int(size), float(busy)

    try:
        yield Site(ours.recv(), cost)
    finally:
        ours.close()
        process.join()


def _serve_site(connection: Connection, url: str, api_key: str, folder: str) -> None:
    _allow_files(4 * STREAMS)
    asyncio.run(_serve_until_closed(connection, url, api_key, Path(folder)))


async def _serve_until_closed(connection: Connection, url: str, api_key: str, folder: Path) -> None:
    async with (
        aiotasks.Client(api_key, base_url=url) as client,
        serve(client, folder) as link,
    ):
        connection.send(link)
        # However the other process ends, the connection closes, and no server remains.
        while await asyncio.to_thread(_was_asked, connection):
            connection.send((resident(), time.process_time()))


def _was_asked(connection: Connection) -> bool:
    try:
        connection.recv()
    except EOFError:
        return False
    return True


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


# An hour of requests that peek, and of waits that are cancelled


def _serve_for(minutes: int) -> Measured:
    return virtual.run(lambda: _hour(minutes), seed=1)


async def _hour(minutes: int) -> Measured:
    random = Random(1)  # noqa: S311 - a seed has to bring the same again
    async with (
        Sandbox(**PLAIN, quota=QUOTA, month_quota=0, latency=0.1, duration=math.inf) as sandbox,
        aiotasks.Client(sandbox.api_key, base_url=sandbox.url) as client,
        asyncio.TaskGroup() as group,
    ):
        urls = [
            sandbox.start_merge("company", 2 * number - 1, 2 * number)
            for number in range(1, TASKS + 1)
        ]
        sizes, peeks, waits = list[int](), 0, 0
        for second in range(60 * minutes):
            for _ in range(10):
                _ = group.create_task(
                    _wait_at_most(client, random.choice(urls), random.uniform(1, 30))
                )
                _ = group.create_task(client.tasks.peek(random.choice(urls), interval=60.0))
            peeks, waits = peeks + 10, waits + 10
            await asyncio.sleep(1.0)
            if (second + 1) % 60 == 0:
                sizes.append(resident())
        return {
            "minutes": minutes,
            "waits": waits,
            "looks": peeks,
            "calls": sandbox.requests,
            "refused": sandbox.refused,
            "kib_grown_since_the_fifth_minute": [
                round((size - sizes[4]) / 1024) for size in sizes[4:]
            ],
        }


async def _wait_at_most(client: aiotasks.Client, task_url: str, seconds: float) -> None:
    """Wait for a task, and be cancelled, as a handler is whose browser disconnects."""
    try:
        async with asyncio.timeout(seconds):
            _ = await client.tasks.wait(task_url, timeout=60.0)
    except TimeoutError:
        return


# Polls of single tasks while a bulk job uses all calls that it can get


async def _ask_beside(way: str, merges: int) -> Measured:
    random = Random(1)  # noqa: S311 - a seed has to bring the same again
    delays: dict[bool, list[float]] = {True: [], False: []}
    async with (
        Sandbox(
            **PLAIN,
            quota=QUOTA,
            month_quota=0,
            companies=2 * merges,
            duration=lambda drawn: drawn.lognormvariate(math.log(20.0), 0.75),
            latency=LATENCY,
        ) as sandbox,
        aiotasks.Client(sandbox.api_key, base_url=sandbox.url) as client,
        CLIENTS[way](sandbox, client) as asking,
    ):
        job = asyncio.create_task(_bulk(client, merges))
        loop = asyncio.get_running_loop()
        while not job.done():
            await asyncio.sleep(random.uniform(0.2, 1.0))
            if urls := sandbox.task_urls("company"):
                # ``quota`` is what the job's client knows: no other client knows more.
                has_calls, began = bool(client.quota.remaining), loop.time()
                _ = await asking.tasks.get(random.choice(urls))
                delays[has_calls].append(loop.time() - began)
        totals = (await job).totals
    return {
        "asked_by": way,
        "merges": merges,
        "merged": totals[dedupe.PairState.SUCCEEDED],
        "refused": sandbox.refused,
        "server_takes_at_most": LATENCY[1],
        **_delays("with_calls_left", sorted(delays[True])),
        **_delays("without", sorted(delays[False])),
    }


async def _bulk(client: aiotasks.Client, merges: int) -> dedupe.JobResult:
    pairs = [(number, number + 1) for number in range(1, 2 * merges, 2)]
    plan = dedupe.Plan.of(pairs, kind="company")
    with TemporaryDirectory() as folder:
        async with dedupe.Ledger(Path(folder) / "job.db", connect=inline.connect) as ledger:
            settings = dedupe.JobSettings()
            return await dedupe.run(client, plan, ledger, settings=settings)


def _delays(name: str, ordered: Sequence[float]) -> Measured:
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    found = {
        f"{name}_{which}": round(quantile(ordered, share), 3) if ordered else None
        for which, share in shares.items()
    }
    return {name: len(ordered), **found}


@asynccontextmanager
async def _the_same(_: Sandbox, client: aiotasks.Client) -> AsyncIterator[aiotasks.Client]:
    yield client


@asynccontextmanager
async def _another(sandbox: Sandbox, _: aiotasks.Client) -> AsyncIterator[aiotasks.Client]:
    async with aiotasks.Client(sandbox.api_key, base_url=sandbox.url) as client:
        yield client


CLIENTS = {"the job's client": _the_same, "another program with the key": _another}
