"""How often a job polls its merges: by how long they take, and the last ones more often."""

import math
from collections.abc import Callable
from typing import Any, Final

from aiotasks.backoff import Backoff, poll_backoff
from aiotasks.dedupe._durations import Durations

from .queue import MergeQueue


# Measured with the default job (benchmarks/results/README.md): a first poll after a fifth of the
# median, and at most three times as long between later ones.
_FIRST: Final = 6.5
_GROWS_TO: Final = 3.0
# A choice: while nothing is known, the first poll comes sooner.
_SOONER: Final = 2.0
# A choice: a wrong estimate changes the intervals by no more than this.
_BOUND: Final = 4.0
# Choices: while so few merges are open, and no other can start, a poll of each is cheap. What runs
# after one of them waits for its end. Else the end of a job of a hundred merges is noticed within a
# twelfth of the time that it took, and that of a thousand within a thirtieth.
_LAST: Final = 10
_LAST_PARTS: Final = 10.0
_MERGES_FOR_A_PART: Final = 50.0
# A fit of a thousand merges takes about a millisecond.
_REFIT: Final = 1.0


class PollPace:
    """The backoff strategy of a job's watch.

    Args:
        interval: Seconds to the first poll of merges that take as long as is typical.
        durations: How long its merges take.
        queue: What is still to be sent.
        now: The time of the loop.
    """

    def __init__(
        self,
        interval: float,
        durations: Durations,
        queue: MergeQueue,
        now: Callable[[], float],
    ) -> None:
        self._interval = interval
        self._durations = durations
        self._queue = queue
        self._now = now
        self._started = now()
        self._parts = _LAST_PARTS + (queue.left + queue.open) / _MERGES_FOR_A_PART
        self._fitted_at = -math.inf
        self._backoff: Backoff

    def __call__(self, state: Any) -> float:
        """Return the seconds until the next poll; ``state`` has the attempt."""
        now = self._now()
        if now >= self._fitted_at + _REFIT:
            self._fitted_at = now
            self._fit(now - self._started)
        return self._backoff(state)

    def _fit(self, elapsed: float) -> None:
        least, most = self._interval / _BOUND, self._interval * _BOUND
        fitted = self._durations.fit()
        if fitted is None:
            # They may end soon; those that have not for long take at least that long.
            shortest = min(max(self._interval, elapsed / _FIRST), most)
            first, longest = self._interval / _SOONER, shortest * _GROWS_TO
        else:
            first = shortest = min(max(fitted.median / _FIRST, least), most)
            longest = first * _GROWS_TO
        if self._queue.has_to_wait and self._queue.open <= _LAST:
            last = shortest if self._queue.left else max(elapsed / self._parts, shortest)
            longest = min(longest, last)
        self._backoff = poll_backoff(min(first, longest), longest)
