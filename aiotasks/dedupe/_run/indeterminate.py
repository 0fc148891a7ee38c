"""What became of a merge whose request was not answered: decisions without I/O.

The server's merge list is newest first. Read back to a merge that was there before the request, it
has every merge that can be the one in question: it is listed, or it is not listed *yet*. A merge
that was sent later and is listed already proves that it will not come; so does time. Merges are
distinguished by their tasks and by the order of the ledger's log, never by clocks: those of two
machines, or of a machine and the server, may differ by more than a merge takes.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

from msgspec import Struct

from aiotasks.dedupe.models import LoggedTransition, Pair, PairState
from aiotasks.errors import MergedEntityError
from aiotasks.models import CompanyMergeState, PersonMergeState


Merge: TypeAlias = CompanyMergeState | PersonMergeState

PATIENCE: Final = 300.0
"""Seconds after which a run leaves an indeterminate merge unsettled, for the next run to settle.
A choice: the API documents no limit for the lag of its lists."""

LATER_MERGE_AFTER: Final = 10.0
"""Seconds before a later merge in the list counts as proof: a proxy that returned an error may
still have forwarded the request. A choice."""


class IndeterminateMerge(Struct, kw_only=True, eq=False):
    """A pair whose merge may have been started.

    ``ended`` is the last transition in the log when its request ended, and ``age`` seconds had
    passed from then to ``since`` on the loop's clock. ``task_url`` is known for a merge that was
    certainly started, but whose task cannot be read.
    """

    pair: Pair
    ended: int
    since: float
    age: float = 0.0
    task_url: str | None = None

    def age_at(self, now: float) -> float:
        """Return the seconds since the request ended."""
        return self.age + now - self.since


class Resolution(NamedTuple):
    """The state that evidence proves for a pair, with its reason, or the task to wait for."""

    state: PairState
    reason: str | None = None
    task_url: str | None = None


class _Own(NamedTuple):
    sent: int
    answered: int


class OwnMerges:
    """The order in which this job's own merges were sent and answered, from the ledger's log.

    A task is a batch: one task may have several merges, so they are identified by their records as
    well.
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self.seq = 0
        self.sent: dict[int, int] = {}
        self._ids = {pair.number: _ids(pair) for pair in pairs}
        self._own: dict[tuple[str, int, int], _Own] = {}

    def apply(self, transitions: Iterable[LoggedTransition]) -> None:
        """Apply further transitions of the log."""
        for logged in transitions:
            self.seq = logged.seq
            transition = logged.transition
            if transition.state is PairState.SENDING:
                self.sent[transition.number] = logged.seq
            elif transition.state is PairState.STARTED and transition.task_url is not None:
                sent = self.sent.get(transition.number, 0)
                key = (_task_id(transition.task_url), *self._ids[transition.number])
                self._own[key] = _Own(sent, logged.seq)

    def own(self, merge: Merge) -> _Own | None:
        """Return when this job sent a merge, if it is one of those that were answered."""
        return self._own.get((merge.task_id, merge.primary_id, merge.duplicate_id))


class MergeListScan:
    """What one reading of the merge list proves of some indeterminate merges.

    ``anchor`` is the id of the newest merge that the list had before the job's first.
    """

    def __init__(
        self,
        own: OwnMerges,
        indeterminate: Iterable[IndeterminateMerge],
        *,
        anchor: int | None,
    ) -> None:
        self._own = own
        self._anchor = anchor
        self._wanted = {_ids(each.pair): each for each in indeterminate}
        self._found: dict[int, Merge] = {}
        self._back_to = min((self._sent(each) for each in self._wanted.values()), default=0)
        self._newest_sent = 0
        self._reached: int | None = None

    def read(self, merge: Merge) -> bool:
        """Apply the next merge of the list, and return whether older ones are needed."""
        own = self._own.own(merge)
        if own is not None:
            self._newest_sent = max(self._newest_sent, own.sent)
            self._reach(own.answered)
        elif merge.id == self._anchor:
            self.end()
        elif (
            wanted := self._wanted.get((merge.primary_id, merge.duplicate_id))
        ) and not self._is_read_for(wanted):
            # Once read far enough, the rest is older than the request: another user's merge.
            _ = self._found.setdefault(wanted.pair.number, merge)
        return self._reached is None or self._reached >= self._back_to

    def end(self) -> None:
        """Note that the list was read back to before this job."""
        self._reach(0)

    def found(self, indeterminate: IndeterminateMerge) -> Merge | None:
        """Return the merge in question, if the list has it."""
        return self._found.get(indeterminate.pair.number)

    def is_absent(
        self, indeterminate: IndeterminateMerge, *, now: float, settle_after: float
    ) -> bool:
        """Return whether the list, requested at ``now``, proves that it was never started.

        Args:
            indeterminate: The merge in question.
            now: When the list was requested, on the loop's clock.
            settle_after: Seconds after which its absence alone is proof.
        """
        if self.found(indeterminate) is not None or not self._is_read_for(indeterminate):
            return False
        # The server starts merges in the order in which it lists them. A merge that was sent before
        # this request ended proves nothing: the two may have arrived in the other order.
        has_later_merge = self._newest_sent > indeterminate.ended
        needed = min(LATER_MERGE_AFTER, settle_after) if has_later_merge else settle_after
        return indeterminate.age_at(now) >= needed

    def _is_read_for(self, indeterminate: IndeterminateMerge) -> bool:
        """Return whether all merges were read that can be the one in question."""
        return self._reached is not None and self._reached < self._sent(indeterminate)

    def _reach(self, answered: int) -> None:
        # What was adopted late has a late answer, but an old place in the list: keep the minimum.
        self._reached = answered if self._reached is None else min(self._reached, answered)

    def _sent(self, indeterminate: IndeterminateMerge) -> int:
        return self._own.sent.get(indeterminate.pair.number, 0)


def resolve_merged(pair: Pair, error: MergedEntityError) -> Resolution:
    """Return what it proves that the duplicate is merged: this merge ran, or another one."""
    if (error.source_id, error.target_id) == (pair.duplicate_id, pair.primary_id):
        state = PairState.SUCCEEDED
    else:
        state = PairState.FAILED if pair.task_url else PairState.REFUSED
    return Resolution(state, error.message)


def _ids(pair: Pair) -> tuple[int, int]:
    return pair.primary_id, pair.duplicate_id


def _task_id(task_url: str) -> str:
    return task_url.rpartition("/")[2]
