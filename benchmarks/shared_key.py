"""Programs that share a key, and so its minute, without a word between them; on virtual time.

Several clients in one loop are several processes: they have nothing in common but the server.
"""

import asyncio
import itertools
import multiprocessing
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

import aiohttp

import aiotasks
from aiotasks.sandbox import PLAIN, Sandbox
from benchmarks import virtual
from benchmarks.contenders.dedupe_job import run_by_default
from benchmarks.contenders.job import PATIENCE, Job
from benchmarks.figures import median, quantile
from benchmarks.workload import LATENCY, QUOTA, WINDOW, durations, earliest_end


PROGRAMS = 4
TASKS = 2_000
WORKERS = 32
SEEDS = (1, 2, 3, 4, 5)
# Seconds between two interactive calls of each program.
EVERY = 3.0
# A third of the minute: requests of another program a second.
OTHERS_RATE = QUOTA / WINDOW / 3
BURST = 50

Draw = float | Callable[[Random], float]
Measured = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Programs that do the same work, and the seed of all random numbers.

    Attributes:
        scenario: what they do, a key of ``SCENARIOS``.
        programs: how many share the work, or which other program there is beside one job.
        tasks: how many tasks there are for all together.
        seed: of all random numbers.
    """

    scenario: str
    programs: int | str
    tasks: int
    seed: int = 1


def cases(*, quick: bool = False) -> list[Case]:
    """List what is measured: the same work by one program and by four, and jobs beside another."""
    tasks, sizes = (TASKS // 10, [100]) if quick else (TASKS, [1_000, 5_000])
    listed = [
        Case(scenario=scenario, programs=programs, tasks=tasks)
        for scenario in ("waits", "mixed waits", "merges")
        for programs in (1, PROGRAMS)
    ]
    listed += [
        Case(scenario="job", programs=other, tasks=size) for size in sizes for other in OTHERS
    ]
    return [replace(case, seed=seed) for case in listed for seed in (SEEDS[:1] if quick else SEEDS)]


def measure(*, quick: bool = False) -> list[Measured]:
    """Measure all cases; return medians over the seeds, each with its lowest and highest value."""
    listed = cases(quick=quick)
    order = sorted(listed, key=lambda case: case.tasks, reverse=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        running = {case: pool.submit(measure_case, case) for case in order}
        runs = {case: running[case].result() for case in listed}
    return summarise(runs)


def summarise(runs: dict[Case, Measured]) -> list[Measured]:
    """Return a row for each kind of case; several programs are compared with one, seed by seed."""
    groups: dict[tuple[str, int | str, int], list[Measured]] = {}
    for case, run in runs.items():
        alone = runs.get(replace(case, programs=1))
        compared = {} if alone is None else _to_one(run, alone)
        key = (case.scenario, case.programs, case.tasks)
        groups.setdefault(key, []).append(run | compared)
    return [
        {"scenario": scenario, "programs": programs, "tasks": tasks, **_spread(group)}
        for (scenario, programs, tasks), group in groups.items()
    ]


def _to_one(run: Measured, alone: Measured) -> Measured:
    return {f"{name}_to_one": round(run[name] / alone[name], 3) for name in ("calls", "seconds")}


def _spread(runs: Sequence[Measured]) -> Measured:
    spread = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        spread[name] = {"median": median(values), "low": min(values), "high": max(values)}
    return spread


def measure_case(case: Case) -> Measured:
    """Measure one case with one seed."""
    return virtual.run(lambda: SCENARIOS[case.scenario](case), seed=case.seed)


@dataclass
class Run:
    """What the programs of a case have in common: the server, and what they noticed."""

    sandbox: Sandbox
    seed: int
    began: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    finished: int = 0
    last: float = 0.0
    looks: list[float] = field(default_factory=list)

    def end(self, outcome: aiotasks.Outcome) -> None:
        """Record that a program has just learned of the end of a task."""
        self.finished += outcome.state is aiotasks.OutcomeState.SUCCESS
        self.last = asyncio.get_running_loop().time()

    def figures(self) -> Measured:
        """Return what the server counted, and the times."""
        return {
            "finished": self.finished,
            "calls": self.sandbox.requests,
            "refused": self.sandbox.refused,
            "seconds": round(self.last - self.began, 2),
        }

    @asynccontextmanager
    async def client(self) -> AsyncIterator[aiotasks.Client]:
        """Open a program's client."""
        key, url = self.sandbox.api_key, self.sandbox.url
        async with aiotasks.Client(key, base_url=url) as client:
            yield client


async def _waits(case: Case, *, is_mixed: bool = False) -> Measured:
    # A fifth of a minute: the limit is reached with few tasks.
    drawn = iter(durations(case.tasks, seed=case.seed))
    async with _sandbox(case, quota=QUOTA // 5, window=WINDOW / 5) as sandbox:
        urls = [
            sandbox.start_merge("company", number, number + 1, duration=next(drawn))
            for number in range(1, 2 * case.tasks, 2)
        ]
        run = Run(sandbox, case.seed)
        async with asyncio.TaskGroup() as group:
            for own in _shares(urls, case.programs, is_mixed=is_mixed):
                _ = group.create_task(_wait(run, own))
        return run.figures()


async def _wait(run: Run, urls: Sequence[str]) -> None:
    async with run.client() as client:
        for outcome in await client.tasks.wait_many(urls, timeout=PATIENCE):
            run.end(outcome)


async def _merges(case: Case) -> Measured:
    to_come = deque(durations(case.tasks, seed=case.seed))
    async with _sandbox(case, duration=lambda _: to_come.popleft()) as sandbox:
        pairs = [(number, number + 1) for number in range(1, 2 * case.tasks, 2)]
        run = Run(sandbox, case.seed)
        shares = _shares(pairs, case.programs, is_mixed=False)
        async with asyncio.TaskGroup() as group:
            for index, own in enumerate(shares):
                # All programs together look as often as one that does all of the work.
                pause = EVERY * len(shares) / PROGRAMS
                _ = group.create_task(_merge_and_look(run, own, Random(index), pause))  # noqa: S311
        slowest = quantile(sorted(run.looks), 1.0)
        return run.figures() | {"looks": len(run.looks), "slowest_look": round(slowest, 2)}


async def _merge_and_look(
    run: Run, pairs: Sequence[tuple[int, int]], random: Random, pause: float
) -> None:
    own: list[str] = []
    async with run.client() as client, asyncio.TaskGroup() as group:
        looking = group.create_task(_look(run, client, own, random, pause))
        watch = client.tasks.watch(timeout=PATIENCE)
        async with watch:
            _ = group.create_task(_merge(client, watch, pairs, own))
            async for outcome in watch:
                run.end(outcome)
        _ = looking.cancel()


async def _merge(
    client: aiotasks.Client,
    watch: aiotasks.Watch,
    pairs: Sequence[tuple[int, int]],
    own: list[str],
) -> None:
    todo = iter(pairs)

    async def work(todo: Iterator[tuple[int, int]]) -> None:
        for primary_id, duplicate_id in todo:
            url = await client.companies.merge(primary_id, duplicate_id)
            own.append(url)
            watch.add(url)

    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            _ = group.create_task(work(todo))
    watch.close()


async def _look(
    run: Run, client: aiotasks.Client, own: Sequence[str], random: Random, pause: float
) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(random.uniform(0, pause))
    for turn in itertools.count(1):
        if own:
            began = loop.time()
            _ = await client.tasks.get(random.choice(own))
            run.looks.append(loop.time() - began)
        await asyncio.sleep(max(0.0, run.began + turn * pause - loop.time()))


async def _job(case: Case) -> Measured:
    drawn = durations(case.tasks, seed=case.seed)
    to_come = deque(drawn)
    async with (
        _sandbox(case, duration=lambda _: to_come.popleft()) as sandbox,
        asyncio.TaskGroup() as group,
    ):
        pairs = [(number, number + 1) for number in range(1, 2 * case.tasks, 2)]
        sent: list[bool] = []
        other = group.create_task(OTHERS[str(case.programs)](sandbox, sent))
        job = Job(sandbox.url, sandbox.api_key, pairs, seed=case.seed, window=WINDOW)
        await run_by_default(job)
        _ = other.cancel()
        took = job.last - job.started
        quota = QUOTA - round(OTHERS_RATE * WINDOW)
        return {
            "finished": len(job.learned),
            "calls": sandbox.requests - len(sent),
            "refused": sandbox.refused - sent.count(False),
            "refused_of_the_other": sent.count(False),
            "seconds": round(took, 2),
            "seconds_to_earliest": round(took / earliest_end(drawn, quota=quota), 3),
        }


async def _send_evenly(sandbox: Sandbox, sent: list[bool]) -> None:
    await _send(sandbox, sent, 1)


async def _send_bursts(sandbox: Sandbox, sent: list[bool]) -> None:
    await _send(sandbox, sent, BURST)


async def _send(sandbox: Sandbox, sent: list[bool], count: int) -> None:
    """Take a third of each minute, so many requests at once, without heed to anything."""
    headers = {"Authorization": f"Bearer {sandbox.api_key}"}
    url = f"{sandbox.url}/v2/companies/1"

    async def send(session: aiohttp.ClientSession) -> None:
        async with session.get(url) as answer:
            _ = await answer.read()
            sent.append(answer.status != 429)  # noqa: PLR2004 - HTTP's own number

    async with aiohttp.ClientSession(headers=headers) as session, asyncio.TaskGroup() as group:
        while True:
            for _ in range(count):
                _ = group.create_task(send(session))
            await asyncio.sleep(count / OTHERS_RATE)


@asynccontextmanager
async def _sandbox(
    case: Case,
    *,
    duration: Draw = 0.0,
    quota: int = QUOTA,
    window: float = WINDOW,
) -> AsyncIterator[Sandbox]:
    async with Sandbox(
        **PLAIN,
        quota=quota,
        window=window,
        month_quota=0,
        companies=2 * case.tasks,
        duration=duration,
        latency=LATENCY,
        seed=case.seed,
    ) as sandbox:
        yield sandbox


def _shares(things: Sequence[Any], programs: int | str, *, is_mixed: bool) -> list[Sequence[Any]]:
    # In the list, the tasks of each program are one block, or each page has some of all programs.
    count = int(programs)
    size = len(things) // count
    return [
        things[number::count] if is_mixed else things[number * size :][:size]
        for number in range(count)
    ]


OTHERS: dict[str, Callable[[Sandbox, list[bool]], Coroutine[Any, Any, None]]] = {
    "evenly": _send_evenly,
    "in bursts": _send_bursts,
}
SCENARIOS: dict[str, Callable[[Case], Coroutine[Any, Any, Measured]]] = {
    "waits": _waits,
    "mixed waits": partial(_waits, is_mixed=True),
    "merges": _merges,
    "job": _job,
}
