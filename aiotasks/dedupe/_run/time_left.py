"""How long a running job still takes, by the model that estimates its plan."""

import math
from collections import Counter
from typing import Final

from aiotasks.dedupe._durations import Durations
from aiotasks.dedupe._forecast import WINDOW, Batch, Limits, batches, ends_by
from aiotasks.models import DEFAULT_LIMIT, Quota

from .queue import MergeQueue


# A choice: with 100,000 merges left, a forecast takes a second.
_EVERY: Final = 5.0
# Choices: a forecast is shown if eight of ten jobs take less than half as long again. It changes by
# no more than this factor at a time, so that people can follow it.
_SPREAD: Final = 1.5
_CHANGE: Final = 1.5
# Ages of open merges are rounded to this many seconds, for fewer batches.
_ROUNDED: Final = 2.0


class TimeLeft:
    """The seconds that a job still takes: a forecast now and then, and the clock in between."""

    def __init__(self, queue: MergeQueue, durations: Durations) -> None:
        self._queue = queue
        self._durations = durations
        self._opened_at: float | None = None
        self._forecast_at = -math.inf
        self._ends_at: float | None = None

    def seconds(self, now: float, quota: Quota) -> float | None:
        """Return the seconds left with even odds; ``None`` while too little is known."""
        if self._queue.is_opening or self._queue.stopped:
            return None
        if self._opened_at is None:
            self._opened_at = now
        if now >= self._forecast_at + _EVERY:
            self._forecast_at = now
            self._ends_at = self._forecast(now, quota)
        return None if self._ends_at is None else max(0.0, self._ends_at - now)

    def _forecast(self, now: float, quota: Quota) -> float | None:
        fitted = self._durations.fit()
        if fitted is None:
            return None
        found = self._batches(now, quota)
        # Ends are learned late, which the durations include already.
        half, most = (ends_by(found, fitted, 0.0, share) for share in (0.5, 0.9))
        if most > _SPREAD * half:
            return None
        if self._ends_at is not None:
            before = self._ends_at - now
            half = min(max(half, before / _CHANGE), before * _CHANGE + _EVERY)
        return now + half

    def _batches(self, now: float, quota: Quota) -> list[Batch]:
        ages = Counter(_ROUNDED * round(age / _ROUNDED) for age in self._durations.running(now))
        found = batches(Counter(self._queue.lengths()), self._limits(now, quota))
        return found + [Batch(0.0, clusters, age=age) for age, clusters in ages.items()]

    def _limits(self, now: float, quota: Quota) -> Limits:
        limits = Limits.of(quota.limit or DEFAULT_LIMIT)
        left = limits.first if quota.remaining is None else Limits.of(quota.remaining).first
        assert self._opened_at is not None  # noqa: S101 - it is asked for after the opening
        if self._queue.left and now - self._opened_at > WINDOW:
            # Other programs take their part, and will go on to do so.
            each = min(limits.each, max(1, self._durations.started_since(now - WINDOW)))
            limits = limits._replace(each=each)
        reset = WINDOW if quota.reset is None else quota.reset
        return limits._replace(first=min(left, limits.each), seconds_left=reset)
