"""When a job will be over, and how many calls its polls take: a model of how it runs, without I/O.

A merge starts as soon as its cluster, the first batch and the rate limit allow it, and takes a
random time. The job is over when the last one is: the product of the distributions of all of them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Final, NamedTuple

from ._durations import Lognormal


WINDOW: Final = 60.0
# Of the calls of a minute: the pacer keeps 7.3 % for polls and 1 % for interactive calls.
_MERGE_SHARE: Final = 0.917
_STEPS: Final = 40
_PAGE: Final = 100
# Measured with default jobs of 10 to 5,000 merges, and with rows of them.
_POLLS_AT_LEAST: Final = 7.0
_POLLS_OF_ONE: Final = 3.0


class Batch(NamedTuple):
    """Clusters whose next merges start at the same time, in seconds from now.

    Each has ``length`` merges, one after the other. Those that have been started are older than
    that by ``age``.
    """

    start: float
    clusters: int
    length: int = 1
    age: float = 0.0


class Limits(NamedTuple):
    """How many merges can be sent: ``first`` in what is left of this window, then ``each``."""

    first: int
    each: int
    seconds_left: float = WINDOW

    @classmethod
    def of(cls, calls_a_minute: int) -> "Limits":
        """Return how many merges the calls of full windows are enough for."""
        merges = max(1, math.floor(calls_a_minute * _MERGE_SHARE))
        return cls(merges, merges)

    def runs(self, place: int, count: int) -> Iterator[tuple[float, int]]:
        """Yield when the windows begin in which merges from number ``place`` on are sent, and how many."""
        while count:
            if place < self.first:
                start, size = 0.0, self.first - place
            else:
                windows, at = divmod(place - self.first, self.each)
                start, size = self.seconds_left + windows * WINDOW, self.each - at
            size = min(size, count)
            yield start, size
            place, count = place + size, count - size


def batches(
    lengths: Mapping[int, int], limits: Limits, *, first: int = 0, opens_at: float = 0.0
) -> list[Batch]:
    """Return when clusters start, the longest first.

    Args:
        lengths: How many clusters have so many merges.
        limits: How many merges can be sent.
        first: The size of the first batch.
        opens_at: When all others may start.
    """
    found: list[Batch] = []
    place = 0
    for length, clusters in sorted(lengths.items(), reverse=True):
        early = min(clusters, max(0, first - place))
        for size, at in ((early, 0.0), (clusters - early, opens_at)):
            found += [
                Batch(max(start, at), count, length) for start, count in limits.runs(place, size)
            ]
            place += size
    # The later merges of clusters take their calls, too.
    total = sum(length * clusters for length, clusters in lengths.items())
    found += [Batch(start, count) for start, count in limits.runs(place, total - place)]
    return found


def ends_by(found: Sequence[Batch], durations: Lognormal, pause: float, share: float) -> float:
    """Return by when a job is over with a probability of ``share``, in seconds from now.

    ``pause`` is the time from the end of a merge until that is known.
    """
    rows = {each: durations.in_a_row(each, pause=pause) for each in {b.length for b in found}}
    low, high = 0.0, 1.0
    while _is_over(found, rows, high) < share:
        low, high = high, high * 2.0
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _is_over(found, rows, middle) < share else (low, middle)
    return high


def polls(lengths: Mapping[int, int], durations: Lognormal) -> int:
    """Return about how many calls the polls of a job take, with so many clusters of each length.

    Merges that start together share pages. A page is polled until the last of its merges has ended,
    about twice in the time that merges take in the median.
    """
    calls = _POLLS_AT_LEAST
    for level in range(1, max(lengths, default=0) + 1):
        count = sum(clusters for length, clusters in lengths.items() if length >= level)
        pages = math.ceil(count / _PAGE)
        last = NormalDist().inv_cdf(0.5 ** (pages / count))
        calls += pages * max(2.0 * math.exp(durations.sigma * last), _POLLS_OF_ONE)
    return math.ceil(calls)


def _is_over(found: Sequence[Batch], rows: Mapping[int, Lognormal], at: float) -> float:
    probability = 1.0
    for start, clusters, length, age in found:
        row = rows[length]
        past = row.share_within(age)
        share = (row.share_within(at - start + age) - past) / (1.0 - past) if past < 1.0 else 1.0
        probability *= max(0.0, share) ** clusters
    return probability
