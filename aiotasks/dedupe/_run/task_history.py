"""What the server's task list has shown to a run: which tasks may be an unanswered merge.

The task list has every merge that the server accepted, newest first, but no records. The merge list
names the records of a task, but has no row while its primary record is a global one or gone. So an
unanswered merge is among the tasks that are not the job's own, and that no row names as another's.

All times are those of the run's own loop: the clocks of two machines, or of two runs, prove nothing.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from msgspec import Struct

from aiotasks.models import CompanyMergeState, MergeTask, PersonMergeState, TaskStatus


Merge: TypeAlias = CompanyMergeState | PersonMergeState

ANCHORS: Final = 50
"""How many of the newest ended tasks are noted before the first merge of a job. A choice: each of
them may vanish, and lists of the last minute need not be in order."""


class ForeignTask(Struct, eq=False):
    """A task that is not known to be this job's; ``seen_at`` is when a reading first had it."""

    id: str
    status: TaskStatus
    seen_at: float


class TaskHistory:
    """The tasks of one kind that the server has listed to this run.

    ``listed`` are the tasks of the last reading, ``foreign`` all that are not known to be the job's.

    Args:
        own: The tasks that the ledger has.
        anchors: Tasks that had ended before the job's first merge.
        settle_after: Seconds by which lists may lag, and differ from the order of the merges.
        now: When the run began.
    """

    def __init__(
        self, own: Iterable[str], anchors: Iterable[str], *, settle_after: float, now: float
    ) -> None:
        self.anchors = frozenset(anchors)
        self.foreign: dict[str, ForeignTask] = {}
        self.listed: dict[str, MergeTask] = {}
        self._own = dict.fromkeys(own, now)
        self._merges: dict[str, list[Merge]] = {}
        self._used: set[str] = set()
        self.settle_after = settle_after
        # Own tasks that no reading has listed yet, and for how long those stayed unlisted that a
        # reading has missed.
        self._unlisted: dict[str, float] = {}
        self._lags: dict[str, float] = {}
        self._listed_until = -math.inf

    def add_foreign(self, task: MergeTask, now: float) -> None:
        """Note a task as it is now, unless it is an own one, or was there before the job."""
        if task.id not in self.anchors and task.id not in self._own:
            # A merge that was sent while the list was read may be in it: the end of that counts.
            known = self.foreign.setdefault(task.id, ForeignTask(task.id, task.status, now))
            known.status = task.status

    def add_own(self, task_id: str, now: float) -> None:
        """Note that a merge of this job was answered with a task, or was found to be one."""
        if self.foreign.pop(task_id, None) is None:
            self._unlisted[task_id] = now
        self._own[task_id] = now

    def answered_at(self, task_id: str) -> float:
        """Return when an own task was answered; for one of an earlier run, when this one began."""
        return self._own[task_id]

    def use(self, task_id: str | None) -> None:
        """Note that a foreign task was taken for an unanswered merge of this job."""
        if task_id is not None:
            self._used.add(task_id)

    def name(self, merges: Iterable[Merge]) -> None:
        """Note rows of the merge list, as they are now."""
        named: dict[str, list[Merge]] = {}
        for merge in merges:
            named.setdefault(merge.task_id, []).append(merge)
        self._merges.update(named)

    def merges_of(self, task_id: str) -> Sequence[Merge]:
        """Return the rows of a task."""
        return self._merges.get(task_id, ())

    def foreign_merges(self) -> list[Merge]:
        """Return the rows of all foreign tasks."""
        return [merge for task_id in self.foreign for merge in self.merges_of(task_id)]

    def taken_by(self, duplicate_id: int) -> int | None:
        """Return the record into which somebody else has merged a record, if a row shows that."""
        for merge in self.foreign_merges():
            if merge.duplicate_id == duplicate_id and merge.status is TaskStatus.SUCCESS:
                return merge.primary_id
        return None

    def may_be_ours(self, task_id: str) -> bool:
        """Return whether a task may be an unanswered merge: nothing shows whose it is."""
        is_known = task_id in self._used or task_id in self._merges
        return task_id in self.foreign and not is_known

    def unattributed(self) -> list[ForeignTask]:
        """Return the tasks of which nothing shows whose they are."""
        return [each for each in self.foreign.values() if self.may_be_ours(each.id)]

    def candidates(self, sent_at: float) -> list[ForeignTask]:
        """Return the tasks that may be a merge that was sent at a time."""
        return [each for each in self.unattributed() if each.seen_at >= sent_at]

    def lag(self, sent_at: float) -> float:
        """Return for how many seconds own tasks of about a time stayed unlisted.

        At most twice ``settle_after``, as a task may stay unlisted for ever; half of it while no
        own task shows how much the list lags.
        """
        since = sent_at - self.settle_after
        lags = [lag for each, lag in self._lags.items() if self._own[each] >= since]
        if not lags and self._listed_until <= since:
            return self.settle_after / 2
        return min(max(lags, default=0.0), 2 * self.settle_after)

    def apply(self, reading: "Reading", *, now: float) -> None:
        """Apply a reading that ended now."""
        self.listed = reading.listed
        for task in reading.listed.values():
            self.add_foreign(task, now)
        for task_id, answered in [*self._unlisted.items()]:
            unlisted_for = reading.asked_at - answered
            if task_id in reading.listed:
                del self._unlisted[task_id]
                self._listed_until = max(self._listed_until, answered)
            if unlisted_for > 0 and (task_id in self._lags or task_id not in reading.listed):
                self._lags[task_id] = unlisted_for

    def is_older(self, task_id: str, time: float) -> bool:
        """Return whether a task is an own one that was answered before a time."""
        return self._own.get(task_id, math.inf) < time


class Reading:
    """One reading of the task list, newest first, back to the tasks of an earlier time."""

    def __init__(self, history: TaskHistory, *, asked_at: float, back_to: float) -> None:
        self.asked_at = asked_at
        self.listed: dict[str, MergeTask] = {}
        self._history = history
        # Merges that began within this time of one another may be listed in any order.
        self._back_to = back_to - history.settle_after
        self._anchors = set(history.anchors)

    def read(self, task: MergeTask) -> bool:
        """Read the next task, and return whether older ones are needed."""
        self.listed[task.id] = task
        if task.id in self._anchors:
            self._anchors.discard(task.id)
            return bool(self._anchors)
        return not self._history.is_older(task.id, self._back_to)
