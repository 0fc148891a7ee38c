"""What this client started: tasks too new to be seen, and which task merges a record away."""

import math
from typing import Final

from aiotasks._http.urls import TaskRef

from .webhooks import WebhookHint


VISIBILITY: Final = 30.0
"""How long, in seconds, a task that this client started may not be there to see yet."""


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


PAUSE: Final = 1.0
"""Seconds between two hints that are followed: webhooks are unsigned, so anybody may send them."""


KEPT: Final = 10_000
"""How many merges are remembered by their records, the newest."""


class Hints:
    """Which task a hint is about, and whether it may be followed now."""

    def __init__(self) -> None:
        self._tasks: dict[WebhookHint, TaskRef] = {}
        self._followed_at = float("-inf")

    def note(self, ref: TaskRef, duplicate_id: int) -> None:
        """Remember what a task merges away."""
        self._tasks[WebhookHint(ref.kind, duplicate_id)] = ref
        if len(self._tasks) > KEPT:
            del self._tasks[next(iter(self._tasks))]

    def task_of(self, hint: WebhookHint) -> TaskRef | None:
        """Return the task that a hint is about, if this client has started it."""
        return self._tasks.get(hint)

    def may_follow(self, now: float) -> bool:
        """Say whether a hint may be followed now, and count it if so."""
        if now - self._followed_at < PAUSE:
            return False
        self._followed_at = now
        return True
