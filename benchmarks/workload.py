"""The common settings of the bulk jobs: the server's limits, and how long merges take."""

import math
from collections.abc import Sequence
from random import Random


QUOTA, WINDOW = 900, 60.0
MEDIAN_DURATION = 20.0
LATENCY = (0.05, 0.25)
SIGMA = 0.75


def durations(
    merges: int, *, seed: int, sigma: float = SIGMA, median: float = MEDIAN_DURATION
) -> list[float]:
    """Draw how many seconds each merge takes, in the order in which the server accepts them."""
    random = Random(seed)  # noqa: S311 - a seed has to bring the same again
    return [random.lognormvariate(math.log(median), sigma) for _ in range(merges)]


def earliest_end(seconds: Sequence[float], *, quota: int = QUOTA) -> float:
    """Return when a job could be over at the earliest, in seconds from its start.

    A client that spends nothing on polls posts 900 merges (``quota``: what others leave of them) at
    the start of each minute, and knows of each end immediately.
    """
    return max(index // quota * WINDOW + duration for index, duration in enumerate(seconds))
