"""Who waits for which task."""

from collections.abc import Iterator
from typing import get_args

from aiotasks._http.urls import TaskRef
from aiotasks.models import Kind

from .pending import PendingTask


class Waiters:
    """All pending tasks by their names; who waits for the same task is chained as twins."""

    def __init__(self) -> None:
        self._first: dict[Kind, dict[str, PendingTask]] = {kind: {} for kind in get_args(Kind)}

    def __len__(self) -> int:
        """How many different tasks are waited for."""
        return sum(map(len, self._first.values()))

    def __contains__(self, ref: TaskRef) -> bool:
        return ref.id in self._first[ref.kind]

    def __iter__(self) -> Iterator[PendingTask]:
        for known in self._first.values():
            for first in known.values():
                yield from _chain(first)

    def of(self, kind: Kind, task_id: str) -> list[PendingTask]:
        """Return those who wait for a task."""
        first = self._first[kind].get(task_id)
        # Most of what a page shows may be other people's.
        return [] if first is None else list(_chain(first))

    def polled(self, kind: Kind, task_id: str) -> PendingTask | None:
        """Return the first of them who has been told anything."""
        waiting = _chain(self._first[kind].get(task_id))
        return next((pending for pending in waiting if pending.answers), None)

    def add(self, pending: PendingTask) -> None:
        """Take in one more."""
        known = self._first[pending.kind]
        pending.next_waiter = known.get(pending.id)
        known[pending.id] = pending

    def remove(self, pending: PendingTask) -> None:
        """Let one go."""
        known = self._first[pending.kind]
        # Outcomes are delivered from the first on: thousands who wait for one task leave at once.
        if known[pending.id] is pending and pending.next_waiter is not None:
            known[pending.id] = pending.next_waiter
            return
        suspend = [
            next_waiter
            for next_waiter in _chain(known.pop(pending.id))
            if next_waiter is not pending
        ]
        for next_waiter, following in zip(suspend, [*suspend[1:], None], strict=False):
            next_waiter.next_waiter = following
        if suspend:
            known[pending.id] = suspend[0]


def _chain(pending: PendingTask | None) -> Iterator[PendingTask]:
    while pending is not None:
        following = pending.next_waiter
        yield pending
        pending = following
