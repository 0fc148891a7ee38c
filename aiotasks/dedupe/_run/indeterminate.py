"""What became of a merge whose request was not answered: decisions without I/O.

A merge is sent again only when all of this shows that it never ran: it has no row; every task that
may be it has ended; and both records are as they would be without it. Silence proves nothing, and
no single answer does: lists and records come from replicas that lag.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from aiotasks.dedupe.models import Pair, PairState
from aiotasks.errors import MergedEntityError
from aiotasks.models import TaskStatus

from .task_history import ForeignTask, Merge, TaskHistory


STATE_OF: Mapping[TaskStatus, PairState] = {
    TaskStatus.SUCCESS: PairState.SUCCEEDED,
    TaskStatus.FAILED: PairState.FAILED,
}
_MAY_HAVE_RUN = frozenset({PairState.SENDING, PairState.STARTED, PairState.UNSETTLED})

GONE_ALREADY = "{} is gone: it was merged into another record, or deleted, and not by this job"
NO_REASON = "It ran and failed; the API shows no reason, as its primary record is a global one"
UNATTRIBUTED = (
    "{} is gone, and merges of others that may have done that cannot be told from this one"
)
UNEXPLAINED = (
    "{} is gone, and no list shows by which merge: check whether its primary has what was its own"
)
UNLISTED = "The API accepted it, but its lists do not have it: check both records"


class Resolution(NamedTuple):
    """The state that evidence proves for a pair, with its reason and the task that it is."""

    state: PairState
    reason: str | None = None
    task_id: str | None = None


class IndeterminateMerge(Struct, kw_only=True, eq=False):
    """A pair of which it is not known whether its merge runs, or ran.

    ``sent_at`` and ``since`` are when its request began and ended; a merge of an earlier run may be
    any task since the job's beginning. ``task_url`` is that of a merge that was accepted, but whose
    task cannot be read. ``suspects`` are the tasks that may be it, fixed when no more can appear.
    Of a pair that this job has not sent, another program may have started the merge.
    """

    pair: Pair
    sent_at: float
    since: float
    task_url: str | None = None
    suspects: frozenset[str] | None = None
    same_since: float | None = None
    next_at: float = -math.inf

    @property
    def was_sent(self) -> bool:
        """Whether this job has sent the merge, or may have."""
        return self.pair.state in _MAY_HAVE_RUN

    def fix_suspects(self, history: TaskHistory, *, asked_at: float, settle_after: float) -> None:
        """Fix which tasks may be it, once a list that was requested at a time must show them."""
        settled_at = self.since + settle_after + history.lag(self.sent_at)
        if self.suspects is None and asked_at >= settled_at:
            self.suspects = frozenset(each.id for each in history.candidates(self.sent_at))

    def open_suspects(self, history: TaskHistory) -> list[ForeignTask]:
        """Return the tasks that still may be it."""
        suspects = self.suspects or ()
        return [history.foreign[each] for each in suspects if history.may_be_ours(each)]

    def needs_records(self, history: TaskHistory) -> bool:
        """Return whether only the records can show more."""
        suspects = self.open_suspects(history)
        return self.suspects is not None and all(each.status.is_ended for each in suspects)


class RecordStates(NamedTuple):
    """Records as they were when they were requested.

    ``present`` maps those that exist to whether they are global, ``None`` if that is not known;
    ``survivors`` those that are gone to what they were merged into, where the server tells that.
    """

    asked_at: float
    present: Mapping[int, bool | None]
    survivors: Mapping[int, int | None]


def resolve_by_lists(merge: IndeterminateMerge, history: TaskHistory) -> Resolution | None:
    """Return what the lists prove of a merge: its end, or the task to wait for."""
    if merge.task_url is not None:
        return _resolve_accepted(merge.pair, task_id_of(merge.task_url), history)
    # Many merges of a pair may fail, and one succeed: a failure alone does not show which it was.
    rows = [row for row in _rows_of(merge, history) if row.status is not TaskStatus.FAILED]
    found = _best(rows)
    return None if found is None else Resolution(PairState.STARTED, task_id=found.task_id)


def failed_task(merge: IndeterminateMerge, history: TaskHistory) -> str | None:
    """Return the task of a failed merge of the same pair that may be this one."""
    for row in _rows_of(merge, history) if merge.was_sent else ():
        has_failed = row.status is TaskStatus.FAILED
        if has_failed and history.foreign[row.task_id].seen_at >= merge.sent_at:
            return row.task_id
    return None


def _rows_of(merge: IndeterminateMerge, history: TaskHistory) -> list[Merge]:
    ids = (merge.pair.primary_id, merge.pair.duplicate_id)
    return [row for row in history.foreign_merges() if (row.primary_id, row.duplicate_id) == ids]


def _best(rows: Sequence[Merge]) -> Merge | None:
    """Return the merge of a pair that counts, if others have merged the same pair.

    At most one of them succeeds, so while several are open it is not known which that is.
    """
    for row in rows:
        if row.status is TaskStatus.SUCCESS:
            return row
    return rows[0] if len(rows) == 1 else None


def _resolve_accepted(pair: Pair, task_id: str, history: TaskHistory) -> Resolution | None:
    rows = [each for each in history.merges_of(task_id) if each.duplicate_id == pair.duplicate_id]
    for row in rows:
        state = STATE_OF.get(row.status)
        return None if state is None else Resolution(state, row.error_message)
    task = history.listed.get(task_id)
    state = None if task is None else STATE_OF.get(task.status)
    reason = NO_REASON if state is PairState.FAILED else None
    return None if state is None else Resolution(state, reason)


def is_open_in_lists(merge: IndeterminateMerge, history: TaskHistory) -> bool:
    """Return whether the lists have a merge that was accepted."""
    task_id = task_id_of(merge.task_url or "")
    return task_id in history.listed or bool(history.merges_of(task_id))


class Case(NamedTuple):
    """What is known of an indeterminate merge when both of its records have been read.

    ``was_local`` tells whether its primary record was a local one when it was sent, ``None`` if
    that is not known. ``taken_by`` is the record into which somebody else has merged the duplicate.
    ``rivals`` counts this job's other merges that the same tasks may be, and ``failed_task`` is that
    of a failed merge of the same pair, which may be this one.
    """

    merge: IndeterminateMerge
    suspects: list[ForeignTask]
    records: RecordStates
    was_local: bool | None
    taken_by: int | None
    rivals: int
    failed_task: str | None
    settle_after: float

    def decide(self) -> Resolution | None:
        """Return what is proved, or ``None`` if it takes more time."""
        pair, is_fixed = self.merge.pair, self.merge.suspects is not None
        if self.taken_by is not None and pair.duplicate_id not in self.records.present:
            return resolve_survivor(pair, self.taken_by)
        if pair.duplicate_id in self.records.present:
            return self._decide_present() if is_fixed else None
        survivors = self.records.survivors
        if (survivor := survivors.get(pair.duplicate_id)) is not None:
            if self.was_local is False and survivor == survivors.get(pair.primary_id):
                return self._succeeded()
            return resolve_survivor(pair, survivor)
        if not self.merge.was_sent:
            return Resolution(PairState.REFUSED, GONE_ALREADY.format(pair.duplicate_id))
        return self._decide_gone() if is_fixed else None

    def _decide_present(self) -> Resolution | None:
        if self._has(TaskStatus.SUCCESS) and not self._stays_the_same():
            return None
        if self.merge.task_url is not None:
            return Resolution(PairState.UNSETTLED, UNLISTED)
        is_local = self.was_local is True
        if self.merge.was_sent and self._has(TaskStatus.FAILED) and not is_local:
            return Resolution(PairState.FAILED, NO_REASON)
        if self.merge.was_sent and not self._stays_the_same():
            # Its record may be an old one, and its success be in no list.
            return None
        if self.failed_task is not None:
            return Resolution(PairState.STARTED, task_id=self.failed_task)
        return Resolution(PairState.PLANNED)

    def _decide_gone(self) -> Resolution | None:
        pair = self.merge.pair
        is_primary_gone = pair.primary_id not in self.records.present
        if self.was_local is False and self._has_changed_the_primary():
            return self._succeeded()
        if self.merge.task_url is not None or (self.was_local is None and self._may_have_run()):
            return self._attribute()
        if is_primary_gone:
            return self._unattributed()
        if not self._stays_the_same():
            return None
        if self.was_local is False:
            # It would have made its primary local.
            return Resolution(PairState.REFUSED, GONE_ALREADY.format(pair.duplicate_id))
        return Resolution(PairState.UNSETTLED, UNEXPLAINED.format(pair.duplicate_id))

    def _has_changed_the_primary(self) -> bool:
        """Return whether a global primary is as this merge would have made it.

        Only a merge into it makes it local, and two other merges would be needed to make both
        records vanish, which a merge does that replaces them by a new company.
        """
        present, primary_id = self.records.present, self.merge.pair.primary_id
        return not present.get(primary_id, not self._has(TaskStatus.SUCCESS))

    def _may_have_run(self) -> bool:
        is_global = self.records.present.get(self.merge.pair.primary_id)
        return not is_global and self._has(TaskStatus.SUCCESS)

    def _attribute(self) -> Resolution:
        successes = sum(each.status is TaskStatus.SUCCESS for each in self.suspects)
        own = 0 if self.merge.task_url is not None else self.rivals + 1
        return self._succeeded() if successes <= own else self._unattributed()

    def _succeeded(self) -> Resolution:
        used = (each.id for each in self.suspects if each.status is TaskStatus.SUCCESS)
        return Resolution(PairState.SUCCEEDED, task_id=next(used, None))

    def _unattributed(self) -> Resolution:
        reason = UNATTRIBUTED.format(self.merge.pair.duplicate_id)
        return Resolution(PairState.UNSETTLED, reason)

    def _has(self, status: TaskStatus) -> bool:
        return any(each.status is status for each in self.suspects)

    def _stays_the_same(self) -> bool:
        """Return whether the records have been so for longer than a replica lags."""
        merge, asked_at = self.merge, self.records.asked_at
        merge.same_since = asked_at if merge.same_since is None else merge.same_since
        return asked_at - merge.same_since >= self.settle_after


def resolve_survivor(pair: Pair, survivor: int) -> Resolution:
    """Return what it proves that the duplicate was merged into a record: by this merge or not."""
    reason = f"{pair.duplicate_id} no longer exists as it has been merged into {survivor}"
    if survivor == pair.primary_id:
        return Resolution(PairState.SUCCEEDED, reason)
    state = PairState.FAILED if pair.task_url else PairState.REFUSED
    return Resolution(state, reason)


def resolve_merged(pair: Pair, error: MergedEntityError) -> Resolution:
    """Return what it proves that the server refuses a merge as one of its records is merged."""
    if error.source_id == pair.duplicate_id and error.target_id is not None:
        return resolve_survivor(pair, error.target_id)
    return Resolution(PairState.REFUSED, error.message)


def task_id_of(task_url: str) -> str:
    """Return the id in the URL of a task."""
    return task_url.rpartition("/")[2]
