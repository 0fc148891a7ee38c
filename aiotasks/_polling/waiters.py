"""All pending tasks, found by kind and id."""

from collections.abc import Iterator
from operator import attrgetter
from typing import get_args

from aiotasks._http.urls import TaskRef
from aiotasks.models import Kind

from .pending import PendingTask, Phase


class Waiters:
    """All pending tasks of a client. Waits for the same task are a linked list.

    A Python list for each task would take at least 64 bytes more of memory.
    """

    def __init__(self) -> None:
        self._first: dict[Kind, dict[str, PendingTask]] = {kind: {} for kind in get_args(Kind)}

    def __len__(self) -> int:
        """Return how many different tasks are waited for."""
        return sum(map(len, self._first.values()))

    def __contains__(self, ref: TaskRef) -> bool:
        return ref.id in self._first[ref.kind]

    def __iter__(self) -> Iterator[PendingTask]:
        for known in self._first.values():
            for first in known.values():
                yield from _chain(first)

    def of(self, kind: Kind, task_id: str) -> list[PendingTask]:
        """Return the waits for a task."""
        first = self._first[kind].get(task_id)
        # Most tasks on a page may have been started by others: this is the common case.
        return [] if first is None else list(_chain(first))

    def last_polled(self, kind: Kind, task_id: str) -> PendingTask | None:
        """Return a wait for a task that has had an answer, if there is one."""
        waiting = _chain(self._first[kind].get(task_id))
        return next((pending for pending in waiting if pending.answers), None)

    def next_to_poll(self, kind: Kind, ref: TaskRef | None) -> PendingTask | None:
        """Return the wait for a task (or for any of a kind) whose last poll is the oldest."""
        waiting = self.of(*ref) if ref else (each for each in self if each.kind == kind)
        candidates = (each for each in waiting if each.phase is Phase.WAITING)
        return min(candidates, key=attrgetter("polled_at"), default=None)

    def is_urgent(self, ref: TaskRef) -> bool:
        """Return True if a caller waits for just this task."""
        return any(pending.options.is_urgent for pending in self.of(*ref))

    def add(self, pending: PendingTask) -> None:
        """Add a wait."""
        known = self._first[pending.kind]
        pending.next_waiter = known.get(pending.id)
        known[pending.id] = pending

    def remove(self, pending: PendingTask) -> None:
        """Remove a wait."""
        known = self._first[pending.kind]
        # Outcomes are delivered from the first on. Removing that one is O(1), or thousands of waits
        # for one task would take quadratic time to end.
        if known[pending.id] is pending and pending.next_waiter is not None:
            known[pending.id] = pending.next_waiter
            return
        others = [each for each in _chain(known.pop(pending.id)) if each is not pending]
        for each, following in zip(others, [*others[1:], None], strict=False):
            each.next_waiter = following
        if others:
            known[pending.id] = others[0]


def _chain(pending: PendingTask | None) -> Iterator[PendingTask]:
    while pending is not None:
        # The receiver may remove the one that it was given.
        following = pending.next_waiter
        yield pending
        pending = following
