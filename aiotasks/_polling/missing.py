"""Tasks that are not there: not visible yet, or lost."""

from typing import Final, NamedTuple

from aiotasks._http.urls import TaskRef
from aiotasks.errors import AffinityError, DecodeError

from .pending import PendingTask
from .started import StartedTasks


# Choices: reads are answered by replicas, which lag by two seconds at most times.
PATIENCE: Final = 10.0
"""Seconds from the first answer that a task is not there to the last one that is asked for."""

PEEK_PATIENCE: Final = 3.0
"""The same for a caller of ``peek``, who comes again."""


class _Absence(NamedTuple):
    """Since when a task is not there, and the answer that said so."""

    since: float
    error: AffinityError


class MissingTasks:
    """The pending tasks that the server does not have, or not yet."""

    def __init__(self, started: StartedTasks) -> None:
        self._started = started
        self._absences: dict[TaskRef, _Absence] = {}

    def __len__(self) -> int:
        """Return how many tasks are missing."""
        return len(self._absences)

    def add(self, ref: TaskRef, error: AffinityError, now: float) -> bool:
        """Remember that an answer had no task. Returns False if that is final.

        An answer that cannot be read says nothing of the task, so that it is asked for once more.
        """
        earlier = self._absences.get(ref)
        self._absences[ref] = _Absence(earlier.since if earlier else now, error)
        is_unreadable = isinstance(error, DecodeError) and not error.is_empty
        return earlier is None or not is_unreadable

    def __contains__(self, ref: TaskRef) -> bool:
        return ref in self._absences

    def note_seen(self, ref: TaskRef, now: float) -> None:
        """Count and forget that a task was missing, because it is seen now."""
        if self._absences.pop(ref, None) is not None:
            self._started.note_late(ref, now)

    def forget(self, ref: TaskRef) -> None:
        """Forget that a task was missing, because it is no longer waited for."""
        _ = self._absences.pop(ref, None)

    def error(self, ref: TaskRef) -> AffinityError | None:
        """Return the answer that said that a task is not there."""
        absence = self._absences.get(ref)
        return None if absence is None else absence.error

    def ends_at(self, pending: PendingTask) -> float | None:
        """Return when a task counts as lost, if it is missing."""
        absence = self._absences.get(pending.ref)
        if absence is None:
            return None
        patience = PEEK_PATIENCE if pending.options.is_once else PATIENCE
        return max(absence.since + patience, self._started.visible_by(pending.ref))

    def is_over(self, pending: PendingTask, now: float) -> bool:
        """Return True if a task is missing and has been for so long that it counts as lost."""
        ends_at = self.ends_at(pending)
        return ends_at is not None and now >= ends_at
