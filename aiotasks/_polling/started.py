"""What this client started: tasks that may not be visible yet, and the records that they merge."""

import math
from typing import Final

from aiotasks._http.urls import TaskRef
from aiotasks.models import Lateness

from .webhooks import WebhookHint


# A choice: the API documents no such time.
VISIBILITY: Final = 30.0
"""Seconds for which a task that this client started may be missing: a 404 is not final yet."""

# A choice: bounds the memory of a service that runs for months.
MAX_MERGES: Final = 10_000
"""How many merges are remembered by the record that they merge away, the newest."""

# Fitted roughly: values from 0.05 to 0.5 make no difference, and 0 (no poll is skipped) means a delay
# of 22 s at p95 instead of 19 s with 5,000 merges (benchmarks/results/ablation.json).
_EARLY_SHARE = 0.1


class StartedTasks:
    """The tasks that this client started, by their id and by the record that they merge away."""

    def __init__(self) -> None:
        self._started_at: dict[TaskRef, float] = {}
        self._merges: dict[WebhookHint, TaskRef] = {}
        self.lateness = Lateness()
        self._ended = 0
        self._ended_early = 0

    def __len__(self) -> int:
        """Return how many tasks may not be visible yet."""
        return len(self._started_at)

    def record(self, ref: TaskRef, duplicate_id: int, now: float) -> None:
        """Remember that a task was started now, and which record it merges away."""
        while self._started_at and now - next(iter(self._started_at.values())) > VISIBILITY:
            del self._started_at[next(iter(self._started_at))]
        self._started_at[ref] = now
        self.lateness += Lateness(tasks=1)
        self._merges[WebhookHint(ref.kind, duplicate_id)] = ref
        if len(self._merges) > MAX_MERGES:
            del self._merges[next(iter(self._merges))]

    def is_recent(self, ref: TaskRef, now: float) -> bool:
        """Return True if a task may not be visible yet."""
        return now <= self.visible_by(ref)

    def visible_by(self, ref: TaskRef) -> float:
        """Return until when a task may not be visible yet; infinitely long ago for those of others."""
        return self._started_at.get(ref, -math.inf) + VISIBILITY

    def note_late(self, ref: TaskRef, now: float) -> None:
        """Count a task that was not found at first, and is seen now; those of others do not count."""
        started_at = self._started_at.get(ref)
        if started_at is not None:
            self.lateness += Lateness(late=1, longest=now - started_at)

    def note_end(self, *, is_early: bool) -> None:
        """Count a task that succeeded; ``is_early`` if its first poll showed that."""
        self._ended += 1
        self._ended_early += is_early

    def are_first_polls_wasted(self) -> bool:
        """Return True if hardly a task ends before its second poll, so that the first is a wasted call.

        If that changes, the end of a task is noticed one interval late.
        """
        return self._ended_early < _EARLY_SHARE * self._ended

    def task_of(self, hint: WebhookHint) -> TaskRef | None:
        """Return the task that a webhook is about, if this client started it."""
        return self._merges.get(hint)
