"""What became of a merge whose request was not answered: plain decisions without I/O.

The server's merge list is newest first. Read back to a merge that was there before the request,
it has every merge that can be the one in question: there it is, or it is not there *yet*. That it
will not come is proved by a merge that was asked for later and is listed already, or by time.
Merges are told apart by their tasks and by the order of the ledger's log, and never by clocks.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

from msgspec import Struct

from aiotasks.dedupe.models import LoggedTransition, Pair, PairState
from aiotasks.models import CompanyMergeState, PersonMergeState


Merge: TypeAlias = CompanyMergeState | PersonMergeState

PATIENCE: Final = 300.0
"""Seconds after which a doubt that nothing could settle is left to the next run."""

WITNESS_AFTER: Final = 10.0
"""Seconds after which a later merge in the list proves something: what answered for the server in
its place may have passed the request on all the same."""


class IndeterminateMerge(Struct, kw_only=True, eq=False):
    """A pair whose merge may have been started.

    ``ended`` is the last step in the log when its request was over, and ``age`` seconds have
    passed from then to ``since`` on the loop's clock. ``task_url`` is known for a merge that was
    certainly started, but whose task cannot be read.
    """

    pair: Pair
    ended: int
    since: float
    age: float = 0.0
    task_url: str | None = None

    def age_at(self, now: float) -> float:
        """Return the seconds since the request was over."""
        return self.age + now - self.since


class _Own(NamedTuple):
    sent: int
    answered: int


class OwnMerges:
    """The order in which this job's own merges were sent and answered, from the ledger's log.

    A task is a batch: merges are told apart by their records as well, should one task have many.
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self.seq = 0
        self.sent: dict[int, int] = {}
        self._ids = {pair.number: _ids(pair) for pair in pairs}
        self._own: dict[tuple[str, int, int], _Own] = {}

    def learn(self, transitions: Iterable[LoggedTransition]) -> None:
        """Take in further steps of the log."""
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
    """What a reading of the merge list tells of some doubts."""

    def __init__(
        self, journal: OwnMerges, doubts: Iterable[IndeterminateMerge], *, anchor: int | None
    ) -> None:
        self._journal = journal
        self._anchor = anchor
        self._wanted = {_ids(doubt.pair): doubt for doubt in doubts}
        self._found: dict[int, Merge] = {}
        self._back_to = min((self._sent(doubt) for doubt in self._wanted.values()), default=0)
        self._newest_sent = 0
        self._reached: int | None = None

    def read(self, merge: Merge) -> bool:
        """Take in the next merge of the list, and say whether to read on."""
        own = self._journal.own(merge)
        if own is not None:
            self._newest_sent = max(self._newest_sent, own.sent)
            self._reach(own.answered)
        elif merge.id == self._anchor:
            self.end()
        elif (
            doubt := self._wanted.get((merge.primary_id, merge.duplicate_id))
        ) and not self._is_read_for(doubt):
            # What comes later in the list is older than the request: others asked for it.
            _ = self._found.setdefault(doubt.pair.number, merge)
        return self._reached is None or self._reached >= self._back_to

    def end(self) -> None:
        """Say that the list has been read as far as this job goes back."""
        self._reach(0)

    def found(self, doubt: IndeterminateMerge) -> Merge | None:
        """Return the merge in question, where the list has it."""
        return self._found.get(doubt.pair.number)

    def is_absent(self, doubt: IndeterminateMerge, *, now: float, settle_after: float) -> bool:
        """Say whether the list, when read from ``now`` on, proves that it was never started."""
        if self.found(doubt) is not None or not self._is_read_for(doubt):
            return False
        has_witness = self._newest_sent > doubt.ended
        needed = min(WITNESS_AFTER, settle_after) if has_witness else settle_after
        return doubt.age_at(now) >= needed

    def _is_read_for(self, doubt: IndeterminateMerge) -> bool:
        """Say whether all merges have been read that can be the one in question."""
        return self._reached is not None and self._reached < self._sent(doubt)

    def _reach(self, answered: int) -> None:
        self._reached = answered if self._reached is None else min(self._reached, answered)

    def _sent(self, doubt: IndeterminateMerge) -> int:
        return self._journal.sent.get(doubt.pair.number, 0)


def _ids(pair: Pair) -> tuple[int, int]:
    return pair.primary_id, pair.duplicate_id


def _task_id(task_url: str) -> str:
    return task_url.rpartition("/")[2]
