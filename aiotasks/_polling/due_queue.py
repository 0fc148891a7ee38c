"""The tasks that are due, in the order in which they are polled."""

from collections import deque
from collections.abc import Iterable

from aiotasks._http.urls import TaskRef

from .pending import PendingTask, Phase


class DueQueue:
    """The queue of the due tasks, and the tasks that are polled by GET now.

    Pages know themselves whether they are in flight.
    """

    def __init__(self) -> None:
        self.in_flight: set[TaskRef] = set()
        self._due: deque[PendingTask] = deque()

    def __contains__(self, pending: PendingTask) -> bool:
        return pending in self._due

    def add(self, pending: PendingTask) -> None:
        """Queue a task: an urgent one goes before all others."""
        pending.enter(Phase.DUE)
        (self._due.appendleft if pending.options.is_urgent else self._due.append)(pending)

    def requeue(self, tasks: Iterable[PendingTask]) -> None:
        """Queue those of the tasks again that wait for an answer."""
        for pending in tasks:
            if pending.phase is Phase.IN_FLIGHT:
                pending.enter(Phase.DUE)
                self._due.append(pending)

    def sweep(self) -> None:
        """Remove the tasks that are no longer due."""
        self._due = deque(pending for pending in self._due if pending.is_due)

    @property
    def head(self) -> PendingTask | None:
        """The task to poll next, without those whose poll is in flight.

        A task that is skipped here is requeued if that poll has no answer for it.
        """
        while self._due:
            head = self._due[0]
            if head.phase is Phase.DUE:
                is_listed = head.page is not None and head.page.is_in_flight
                if not is_listed and head.ref not in self.in_flight:
                    return head
                head.enter(Phase.IN_FLIGHT)
            _ = self._due.popleft()
        return None
