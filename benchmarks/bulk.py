"""The bulk job: many merges at 900 requests a minute, on virtual time."""

import asyncio
import multiprocessing
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from aiotasks.sandbox import PLAIN, Sandbox
from benchmarks import virtual
from benchmarks.contenders import CONTENDERS
from benchmarks.contenders.job import Job
from benchmarks.figures import median, quantile
from benchmarks.workload import (
    LATENCY,
    MEDIAN_DURATION,
    QUOTA,
    SIGMA,
    WINDOW,
    durations,
    earliest_end,
)


SIZES = (100, 1_000, 5_000)
SIGMAS = (0.5, 0.75, 1.0)
SEEDS = (1, 2, 3, 4, 5)
DEFAULT = "aiotasks, dedupe job by default"
VARIANTS: tuple[dict[str, Any], ...] = (
    {"has_habits": True},
    {"failure_rate": 0.05},
    {"median": 120.0},
    {"median": 1.0},
)
"""What is different at the server for the default job, one thing at a time."""
FIGURES = (
    "finished",
    "calls",
    "calls_per_finished_merge",
    "refused",
    "seconds",
    "earliest_seconds",
    "seconds_to_earliest",
    "delay_p50",
    "delay_p95",
    "delay_max",
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One contender with one job.

    Attributes:
        contender: its name.
        merges: how many pairs the job has.
        sigma: spread of the lognormal durations.
        median: their median, in seconds.
        failure_rate: the share of the merges that fail.
        has_habits: whether the sandbox has its habits: tasks that show late, global companies.
        seed: of all random numbers.
        sends_retry_after: whether a 429 has ``Retry-After``, which the API does not document.
    """

    contender: str
    merges: int
    sigma: float = SIGMA
    median: float = MEDIAN_DURATION
    failure_rate: float = 0.0
    has_habits: bool = False
    seed: int = 1
    sends_retry_after: bool = False


def cases(*, quick: bool = False) -> list[Case]:
    """List the cases: each contender with each job, and two special cases of the SDK.

    The SDK reads ``Retry-After`` and no other header, so it is also measured with one. Its plain
    gather learns of no merge from 1,000 on; with 5,000 the queue for its connections takes minutes
    of CPU for the same result, so this case only runs when it is measured by itself.
    """
    sizes = SIZES[:1] if quick else SIZES
    listed = [
        Case(contender=name, merges=merges)
        for merges in sizes
        for name in CONTENDERS
        if name != "affinity-sdk" or merges < SIZES[-1]
    ]
    listed += [
        Case(contender=DEFAULT, merges=merges, **variant)
        for variant in VARIANTS
        for merges in sizes
    ]
    listed += [
        Case(contender="affinity-sdk, helped", merges=merges, sends_retry_after=True)
        for merges in sizes
    ]
    listed += [
        Case(contender="aiotasks", merges=sizes[-1], sigma=sigma)
        for sigma in SIGMAS
        if sigma != Case.sigma
    ]
    return listed


def measure(*, quick: bool = False) -> list[dict[str, Any]]:
    """Measure all cases on all processors, which has no effect on virtual time.

    Ours are measured with five seeds, the others with one: some take minutes of CPU.
    """
    listed = cases(quick=quick)
    # The longest first, so that all processors end at about the same time.
    order = sorted(listed, key=lambda case: (case.merges, "sdk" in case.contender), reverse=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        measured = {
            case: [
                pool.submit(measure_case, replace(case, seed=seed))
                for seed in (SEEDS if "aiotasks" in case.contender and not quick else SEEDS[:1])
            ]
            for case in order
        }
        return [summary([run.result() for run in measured[case]]) for case in listed]


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each figure over the seeds, and from the least to the most under ``ranges``.

    Nothing is said of a figure that a run does not have because it learned of no merge.
    """
    figures = {name: [run[name] for run in runs] for name in FIGURES}
    known = {name: values for name, values in figures.items() if None not in values}
    return {
        **runs[0],
        "seed": [run["seed"] for run in runs],
        **dict.fromkeys(FIGURES),
        **{name: median(values) for name, values in known.items()},
        "ranges": {name: [min(values), max(values)] for name, values in known.items()},
    }


def measure_case(case: Case) -> dict[str, Any]:
    """Let one contender do one job, and return what it cost as the server counted it."""
    return virtual.run(lambda: _measure(case), seed=case.seed)


async def _measure(case: Case) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    drawn = durations(case.merges, seed=case.seed, sigma=case.sigma, median=case.median)
    to_come = deque(drawn)
    ends: list[float] = []

    def duration(_: Random) -> float:
        seconds = to_come.popleft()
        ends.append(loop.time() + seconds)
        return seconds

    async with Sandbox(
        **({} if case.has_habits else PLAIN),
        failure_rate=case.failure_rate,
        quota=QUOTA,
        window=WINDOW,
        month_quota=0,
        companies=2 * case.merges,
        duration=duration,
        latency=LATENCY,
        retry_after=case.sends_retry_after,
        seed=case.seed,
    ) as sandbox:
        pairs = [(number, number + 1) for number in range(1, 2 * case.merges, 2)]
        job = Job(sandbox.url, sandbox.api_key, pairs, seed=case.seed, window=WINDOW)
        await CONTENDERS[case.contender](job)
        ended = dict(zip(sandbox.task_urls("company"), ends, strict=True))
        return {
            "contender": case.contender,
            "merges": case.merges,
            "sigma": case.sigma,
            "median": case.median,
            "failure_rate": case.failure_rate,
            "has_habits": case.has_habits,
            "seed": case.seed,
            "retry_after": case.sends_retry_after,
            **_costs(sandbox, job),
            **_times(job, ended, earliest=earliest_end(drawn)),
        }


def _costs(sandbox: Sandbox, job: Job) -> dict[str, Any]:
    finished = len(job.learned)
    return {
        "finished": finished,
        "merges_failed": _count(job, "merge"),
        "waits_failed": _count(job, "wait"),
        "errors": dict(sorted(job.errors.items())),
        "calls": sandbox.requests,
        "calls_by_operation": dict(sorted(sandbox.calls.items())),
        "calls_per_finished_merge": round(sandbox.requests / finished, 3) if finished else None,
        "refused": sandbox.refused,
        "max_in_flight": sandbox.max_in_flight,
    }


def _count(job: Job, verb: str) -> int:
    return sum(count for text, count in job.errors.items() if text.startswith(verb))


def _times(job: Job, ended: dict[str, float], *, earliest: float) -> dict[str, Any]:
    took = job.last - job.started
    delays = sorted(learned - ended[url] for url, learned in job.learned.items())
    return {
        "seconds": round(took, 2),
        "earliest_seconds": round(earliest, 2),
        "seconds_to_earliest": round(took / earliest, 3),
        "delay_p50": round(quantile(delays, 0.5), 2),
        "delay_p95": round(quantile(delays, 0.95), 2),
        "delay_max": round(quantile(delays, 1.0), 2),
    }
