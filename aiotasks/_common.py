"""What many pending tasks have in common, kept once."""

import math
from typing import Final

from ._http.urls import TaskRef
from ._pending import Pending
from .backoff import poll_delay
from .models import ResultsSummary


VISIBILITY: Final = 30.0
"""How long, in seconds, a task that this client started may not be there to see yet."""

_MOST_SUMMARIES = 256


class Fresh:
    """The tasks that this client has started moments ago."""

    def __init__(self) -> None:
        self._started: dict[TaskRef, float] = {}

    def __len__(self) -> int:
        return len(self._started)

    def note(self, ref: TaskRef, now: float) -> None:
        """Take in that a task was started just now."""
        while self._started and now - next(iter(self._started.values())) > VISIBILITY:
            del self._started[next(iter(self._started))]
        self._started[ref] = now

    def has(self, ref: TaskRef, now: float) -> bool:
        """Say whether a task may not be there to see yet."""
        return now - self._started.get(ref, -math.inf) <= VISIBILITY


class Summaries:
    """One of all summaries that are equal: nearly all tasks have one of few."""

    def __init__(self) -> None:
        self._known: dict[ResultsSummary, ResultsSummary] = {}

    def __len__(self) -> int:
        return len(self._known)

    def shared(self, summary: ResultsSummary | None) -> ResultsSummary | None:
        """Return the one that is kept for all that equal it."""
        if summary is None:
            return None
        if len(self._known) > _MOST_SUMMARIES:
            self._known.clear()
        return self._known.setdefault(summary, summary)


class Wakes:
    """Tasks that were looked at together stay together: one draw of the jitter for all."""

    def __init__(self) -> None:
        self._drawn: dict[tuple[int, int, float], float] = {}

    def forget(self) -> None:
        """Begin with the next answer."""
        self._drawn.clear()

    def of(self, pending: Pending, now: float) -> float:
        """Return when a task that was looked at now is to be looked at next.

        Raises:
            ConfigurationError: when its backoff strategy fails.
        """
        key = (id(pending.terms), pending.looks, now)
        if key not in self._drawn:
            self._drawn[key] = now + poll_delay(pending.terms.backoff, pending.looks)
        return self._drawn[key]
