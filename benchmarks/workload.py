"""The common settings of the bulk jobs: the server's limits, and how long merges take."""

import math
from collections import Counter
from collections.abc import Sequence
from heapq import heappop, heappush
from random import Random


QUOTA, WINDOW = 900, 60.0
MEDIAN_DURATION = 20.0
LATENCY = (0.05, 0.25)
SIGMA = 0.75


def durations(merges: int, *, seed: int, sigma: float = SIGMA) -> list[float]:
    """Draw how many seconds each merge takes, in the order in which the server accepts them."""
    random = Random(seed)  # noqa: S311 - a seed has to bring the same again
    median = math.log(MEDIAN_DURATION)
    return [random.lognormvariate(median, sigma) for _ in range(merges)]


def earliest_end(seconds: Sequence[float], *, max_open: float = math.inf, canary: int = 0) -> float:
    """Return when a job could be over at the earliest, in seconds from its start.

    A client that spends nothing on polls posts 900 merges at the start of each minute, and knows
    of each end immediately. Where at most ``max_open`` merges may be open at once, each waits for
    one of those to end; and all wait for the first few, the ``canary``.
    """
    running: list[float] = []
    sent: Counter[int] = Counter()
    last = now = 0.0
    for index, duration in enumerate(seconds):
        if index == canary:
            now = max(now, last)
            running.clear()
        if len(running) >= max_open:
            now = max(now, heappop(running))
        while sent[int(now // WINDOW)] >= QUOTA:
            now = (now // WINDOW + 1) * WINDOW
        sent[int(now // WINDOW)] += 1
        heappush(running, now + duration)
        last = max(last, now + duration)
    return last
