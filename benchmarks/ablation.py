"""What each heuristic of the poller is worth: the bulk job again, with one of them switched off.

A variant replaces one attribute of the package. Its docstring says which heuristic that is and
what the figures show. Sweeps give a fitted constant other values. All runs are on virtual time, so
their counts and times are exact; they change with every change of the poller. No other package is
needed than the client and its sandbox.
"""

# ruff: noqa: ARG001, ARG005 - a replacement has the signature of what it replaces

import asyncio
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from random import Random
from typing import Any, NamedTuple
from unittest.mock import patch

import aiotasks
from aiotasks._http import pacer
from aiotasks._http.urls import TaskRef
from aiotasks._polling import pending as pending_module
from aiotasks._polling import started as started_module
from aiotasks._polling.pending import ListPage, PendingTask
from aiotasks._polling.schedule import PollTarget, Schedule
from aiotasks._polling.started import StartedTasks
from aiotasks._polling.task_list import TaskList
from aiotasks._polling.timers import SharedDelays
from aiotasks.backoff import poll_delay
from aiotasks.sandbox import PLAIN, Sandbox
from benchmarks import virtual
from benchmarks.figures import median, quantile
from benchmarks.workload import LATENCY, QUOTA, WINDOW, durations, earliest_end


WORKERS = 32
TIMEOUT = 6 * 3600.0
SEEDS = (1, 2, 3)


class Patch(NamedTuple):
    """An attribute of the package, and its replacement in a variant."""

    owner: object
    name: str
    replacement: object


def as_it_is() -> list[Patch]:
    """Change nothing: the other variants are compared with this one."""
    return []


def no_anchored_pages() -> list[Patch]:
    """Do not remember pages below the newest: each round is a new scan.

    Scans read pages on which nothing is pending any more. At 5,000 merges p95 is 95 s, not 19 s.
    """

    def page_for(self: TaskList, page: ListPage, now: float) -> ListPage:
        if page.request == self._first:
            self.scan_began = now
        return self.scan

    return [Patch(TaskList, "page_for", page_for)]


def priority_by_count() -> list[Patch]:
    """Poll the page with the most due tasks first, without regard to how long they have waited.

    The calls do not change; the longest delay at 5,000 merges is 167 s instead of 73 s.
    """
    return [
        Patch(ListPage, "priority", lambda self, now: float(self.due)),
        Patch(PendingTask, "priority", lambda self, now: 0.5),
    ]


def priority_linear_in_age() -> list[Patch]:
    """Let a poll be worth the seconds since the last one, instead of their square.

    The calls do not change; the longest delay at 5,000 merges is 132 s instead of 73 s.
    """

    def priority(self: ListPage, now: float) -> float:
        total = self.due * (now - self.created_at) - self._sum
        return total * min(1.0, 100 / self.due) if self.due else 0.0

    return [
        Patch(ListPage, "priority", priority),
        Patch(PendingTask, "priority", lambda self, now: now - self.polled_at),
    ]


def no_cap_on_priority() -> list[Patch]:
    """Let all due tasks count for the priority of a page, though it shows at most a hundred.

    The bulk job does not show a difference. The cap is kept because without it the scan, on which
    all new tasks are, is polled too early: at the end of a window a `get` beside a bulk job then
    had to wait for the next one in 12 of 60 runs, and in none with the cap.
    """

    def priority(self: ListPage, now: float) -> float:
        age = now - self.created_at
        return self.due * age * age - 2 * age * self._sum + self._squares

    return [Patch(ListPage, "priority", priority)]


def first_come_first_served() -> list[Patch]:
    """Poll what has been due for longest, by its page or by the best of its list.

    The calls do not change; the longest delay at 5,000 merges is 190 s instead of 73 s.
    """

    def take(self: Schedule, now: float) -> PollTarget | None:
        head = self._head()
        if head is None:
            return None
        tasks = self.lists[head.kind]
        page = tasks.page_of(head, now)
        if page is None and not head.options.is_urgent:
            page = tasks.best_page(now)
        return _take(self, head, page)

    return [
        Patch(Schedule, "take", take),
        Patch(ListPage, "priority", lambda self, now: float(self.due)),
    ]


def pages_always_first() -> list[Patch]:
    """Poll a page whenever one is worth it, however long a single task has waited.

    The calls do not change; the longest delay at 5,000 merges is 133 s instead of 73 s.
    """

    def page_before(self: Schedule, head: PendingTask, now: float) -> ListPage | None:
        own = self.lists[head.kind].page_of(head, now)
        if head.options.is_urgent:
            return own
        pages = filter(None, (each.best_page(now) for each in self.lists.values()))
        return max(pages, key=lambda page: page.priority(now), default=own)

    return [Patch(Schedule, "_page_before", page_before)]


def no_skipped_first_poll() -> list[Patch]:
    """Poll a task of this client after its first interval, even if hardly any ends so early.

    At 5,000 merges p95 is 22 s instead of 19 s: these polls take slots from others.
    """
    return [Patch(StartedTasks, "are_first_polls_wasted", lambda self: False)]


def jitter_for_each_task() -> list[Patch]:
    """Draw the jitter for each task, so that the tasks of one page drift apart.

    At 1,000 merges 3.5 % more calls bring p95 from 16 s to 10 s; at 5,000 there is no gain.
    """

    def due_at(self: SharedDelays, pending: PendingTask, now: float) -> float:
        return now + poll_delay(pending.options.backoff, pending.attempt)

    return [Patch(SharedDelays, "due_at", due_at)]


def no_early_polls() -> list[Patch]:
    """Poll no task before its interval is over: a poll that is nearly due shares no request.

    A trickle of merges costs 3.9 calls each instead of 3.2, and p95 is 11 s instead of 7 s.
    """
    return [Patch(PendingTask, "is_due_soon", lambda self, now: False)]


def no_time_for_a_lagging_list() -> list[Patch]:
    """Poll a new task by itself when the list does not show it, instead of giving the list time.

    Only a list that lags shows the difference: 1.58 calls a merge instead of 1.14, p95 54 s instead
    of 12 s.
    """
    return [Patch(TaskList, "_may_wait", lambda self, pending, now: False)]


def no_sharing_of_a_lagging_list() -> list[Patch]:
    """Let tasks that are due soon poll the list again, right after it did not show them.

    Only a list that lags, with merges that start one after the other, shows the difference: 2.7
    calls a merge instead of 2.0.
    """
    return [Patch(TaskList, "_due_soon", lambda self, now: [])]


def _take(schedule: Schedule, head: PendingTask, page: ListPage | None) -> PollTarget:
    if page is not None and not page.is_in_flight:
        page.is_in_flight = True
        return page
    ref: TaskRef = head.ref
    schedule.queue.in_flight.add(ref)
    return ref


VARIANTS: dict[str, Callable[[], list[Patch]]] = {
    variant.__name__.replace("_", " "): variant
    for variant in (
        as_it_is,
        no_anchored_pages,
        priority_by_count,
        priority_linear_in_age,
        no_cap_on_priority,
        first_come_first_served,
        pages_always_first,
        no_skipped_first_poll,
        jitter_for_each_task,
        no_early_polls,
        no_time_for_a_lagging_list,
        no_sharing_of_a_lagging_list,
    )
}


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A job of many merges.

    Attributes:
        name: what is different about it.
        merges: how many pairs the job has.
        every: seconds from one merge to the next; 0 for as fast as the limits allow.
        lag: seconds until a list shows a new task.
    """

    name: str
    merges: int
    every: float = 0.0
    lag: float = 0.0


BULK = (Scenario(name="1,000 merges", merges=1_000), Scenario(name="5,000 merges", merges=5_000))
TRICKLE = Scenario(name="a merge each 5 s", merges=200, every=5.0)
LAGGING = Scenario(name="lists lag by 8 s", merges=1_000, lag=8.0)
STAGGERED = Scenario(name="lists lag by 8 s, a merge each 0.5 s", merges=200, every=0.5, lag=8.0)
SMALL = Scenario(name="60 merges", merges=60)

# Variants that make a difference only in a scenario of their own.
SPECIAL: dict[Scenario, Sequence[str]] = {
    TRICKLE: ("no early polls",),
    LAGGING: ("no time for a lagging list",),
    STAGGERED: ("no sharing of a lagging list",),
}


class Sweep(NamedTuple):
    """A fitted constant, the module that it is in, and where which values of it are tried."""

    module: object
    scenarios: Sequence[Scenario]
    values: Sequence[float]


SWEEPS: dict[str, Sweep] = {
    "_POLL_SHARE": Sweep(pacer, BULK, (0.05, 0.065, 0.073, 0.08, 0.1)),
    "_SLACK": Sweep(pending_module, (TRICKLE,), (0.0, 0.1, 0.2, 0.3, 0.5)),
    "_EARLY_SHARE": Sweep(started_module, BULK[:1], (0.0, 0.05, 0.1, 0.2, 0.5)),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One variant, or one value of a constant, with one scenario and one seed."""

    variant: str
    scenario: Scenario
    seed: int = 1
    value: float | None = None

    def patches(self) -> list[Patch]:
        """Return what the case changes in the package."""
        if self.value is None:
            return VARIANTS[self.variant]()
        return [Patch(SWEEPS[self.variant].module, self.variant, self.value)]


def cases(*, quick: bool = False) -> list[Case]:
    """List what is measured: each variant, and each value of the constants, with three seeds."""
    if quick:
        listed = [Case(variant=name, scenario=SMALL) for name in VARIANTS]
        swept = [(name, SMALL, value) for name in SWEEPS for value in SWEEPS[name].values]
    else:
        listed = [Case(variant=name, scenario=each) for each in BULK for name in VARIANTS]
        for scenario, names in SPECIAL.items():
            listed += [Case(variant=name, scenario=scenario) for name in ("as it is", *names)]
        swept = [
            (name, scenario, value)
            for name, sweep in SWEEPS.items()
            for scenario in sweep.scenarios
            for value in sweep.values
        ]
    listed += [Case(variant=name, scenario=each, value=value) for name, each, value in swept]
    return [replace(case, seed=seed) for case in listed for seed in (SEEDS[:1] if quick else SEEDS)]


def measure(*, quick: bool = False) -> list[dict[str, Any]]:
    """Measure all cases, on as many processors as there are; return medians over the seeds."""
    listed = cases(quick=quick)
    order = sorted(listed, key=lambda case: case.scenario.merges, reverse=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        running = {case: pool.submit(measure_case, case) for case in order}
        runs = {case: running[case].result() for case in listed}
    groups: dict[tuple[str, str, float | None], list[dict[str, float]]] = {}
    for case, run in runs.items():
        groups.setdefault((case.scenario.name, case.variant, case.value), []).append(run)
    return [
        {"scenario": scenario, "variant": variant, "value": value, **_median(group)}
        for (scenario, variant, value), group in groups.items()
    ]


def _median(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: median([run[name] for run in runs]) for name in runs[0]}


def measure_case(case: Case) -> dict[str, float]:
    """Let one variant do one job, and return what it cost as the server counted it."""
    with ExitStack() as stack:
        for owner, name, replacement in case.patches():
            # It raises if there is no such attribute: a rename must not make a variant measure
            # the unchanged poller.
            _ = stack.enter_context(patch.object(owner, name, replacement))
        return virtual.run(lambda: _measure(case.scenario, case.seed), seed=case.seed)


async def _measure(scenario: Scenario, seed: int) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    drawn = durations(scenario.merges, seed=seed)
    to_come = deque(drawn)
    ends: list[float] = []

    def duration(_: Random) -> float:
        seconds = to_come.popleft()
        ends.append(loop.time() + seconds)
        return seconds

    async with Sandbox(
        **PLAIN,
        quota=QUOTA,
        window=WINDOW,
        month_quota=0,
        companies=2 * scenario.merges,
        duration=duration,
        latency=LATENCY,
        list_lag=scenario.lag,
        seed=seed,
    ) as sandbox:
        started = loop.time()
        seen = await _run(sandbox, scenario)
        ended = dict(zip(sandbox.task_urls("company"), ends, strict=True))
        delays = sorted(when - ended[url] for url, when in seen.items())
        took = max(seen.values()) - started
        # A trickle ends when its last merge does, whatever the limits are.
        earliest = max(ended.values()) - started if scenario.every else earliest_end(drawn)
        return {
            "calls_per_merge": round(sandbox.requests / len(seen), 3),
            "seconds_to_earliest": round(took / earliest, 3),
            "delay_p50": round(quantile(delays, 0.5), 2),
            "delay_p95": round(quantile(delays, 0.95), 2),
            "delay_max": round(quantile(delays, 1.0), 2),
            "refused": sandbox.refused,
        }


async def _run(sandbox: Sandbox, scenario: Scenario) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    pairs = ((number, number + 1) for number in range(1, 2 * scenario.merges, 2))
    async with (
        aiotasks.Client(sandbox.api_key, base_url=sandbox.url) as client,
        client.tasks.watch(timeout=TIMEOUT) as watch,
        asyncio.TaskGroup() as group,
    ):

        async def merge() -> None:
            for primary_id, duplicate_id in pairs:
                watch.add(await client.companies.merge(primary_id, duplicate_id))
                await asyncio.sleep(scenario.every)

        async def merge_all() -> None:
            async with asyncio.TaskGroup() as workers:
                for _ in range(1 if scenario.every else WORKERS):
                    _ = workers.create_task(merge())
            watch.close()

        _ = group.create_task(merge_all())
        return {outcome.url: loop.time() async for outcome in watch}
