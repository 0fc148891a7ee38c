"""Tasks without a wait that list pages have shown as ended."""

from typing import Final

from aiotasks._http.urls import TaskRef
from aiotasks.models import Kind, MergeTask


# A choice: a task that was just started, or whose URL was handed on, is soon waited for.
REMEMBERED: Final = 60.0
"""For how many seconds the end of a task is remembered."""

# A choice: bounds the memory, at about 300 bytes a task.
MAX_ENDED: Final = 5_000
"""How many ends are remembered, the newest."""


class EndedTasks:
    """The ends that pages have shown lately: a wait for such a task needs no poll.

    A task that has ended does not change, so an old page is as good as a new one. That a task was
    in progress is not remembered, as it may have ended since.
    """

    def __init__(self) -> None:
        self._shown: dict[TaskRef, tuple[MergeTask, float]] = {}

    def __len__(self) -> int:
        """Return how many ends are remembered."""
        return len(self._shown)

    def note(self, kind: Kind, task: MergeTask, now: float) -> None:
        """Remember a task that a page has shown, if it has ended."""
        if not task.status.is_ended:
            return
        ref = TaskRef(kind, task.id)
        # The newest are the last.
        _ = self._shown.pop(ref, None)
        self._shown[ref] = (task, now)
        if len(self._shown) > MAX_ENDED:
            del self._shown[next(iter(self._shown))]

    def find(self, ref: TaskRef, now: float) -> MergeTask | None:
        """Return a task that was shown as ended within the last minute."""
        task, shown_at = self._shown.get(ref, (None, 0.0))
        return task if now - shown_at <= REMEMBERED else None
