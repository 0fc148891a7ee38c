"""Which pair may start next, and when a job has to stop: decisions without I/O."""

import math
from collections import Counter, deque
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import Final

from aiotasks.dedupe.models import Pair, PairState, StopReason
from aiotasks.dedupe.settings import JobSettings

from .failure_stop import FailureStop


# By simulation: with a first batch of 20, a job whose merges fail at 60 % from the first on sends at
# most 50 before it stops, in 99 of 100 cases, and one of 1,000 merges that fail at 5 % takes 2 s longer
# than it would without this.
_CAREFUL_FROM: Final = 0.1
# By the same simulation: while nothing has failed, each success from the fourth on lets three more start
# in advance. A job of 100 merges ends 2 % sooner than if all waited for half of the first batch, and no
# more are sent to a server that fails.
_MORE_FOR_EACH: Final = 3
_FROM: Final = 3


class MergeQueue:
    """The pairs of a run: which wait for their turn, and how many are open.

    A plan's clusters share no record, so two open merges share one only within a cluster: each
    cluster has at most one merge open. The cluster with the most merges left goes first, since its
    merges run one after the other and so end last. ``succeeded`` counts the merges that succeeded,
    from those of earlier runs on.
    """

    def __init__(
        self,
        planned: Iterable[Pair],
        opened: Iterable[Pair],
        settings: JobSettings,
        *,
        succeeded: int = 0,
    ) -> None:
        self.stopped: StopReason | None = None
        self.succeeded = succeeded
        self._settings = settings
        self._failures = FailureStop(settings.max_failure_rate)
        self._busy = Counter[int]()
        for pair in opened:
            self._busy[pair.primary_id] += 1
            self._failures.start(pair.number)
        self.open = self._busy.total()
        self._clusters: dict[int, deque[Pair]] = {}
        for pair in planned:
            self._clusters.setdefault(pair.primary_id, deque()).append(pair)
        self.left = sum(map(len, self._clusters.values()))
        self._ready = [self._entry(each) for each in self._clusters if not self._busy[each]]
        heapify(self._ready)

    def __repr__(self) -> str:
        state = self.stopped or self.obstacle or "ready"
        return f"<MergeQueue: {self.left} left, {self.open} open, {state}>"

    def take(self) -> Pair | None:
        """Return the pair to start now, or none while there is an obstacle."""
        if self.stopped or self.obstacle:
            return None
        _, _, primary_id = heappop(self._ready)
        self._busy[primary_id] += 1
        self.open += 1
        self.left -= 1
        pair = self._clusters[primary_id].popleft()
        self._failures.start(pair.number)
        return pair

    def planned(self) -> list[Pair]:
        """Return the pairs that are still to be started."""
        return [pair for cluster in self._clusters.values() for pair in cluster]

    def lengths(self) -> list[int]:
        """Return how many merges each cluster has left to start."""
        return [len(cluster) for cluster in self._clusters.values() if cluster]

    def withdraw(self, pair: Pair) -> bool:
        """Count a pair as open that is not to be started now; return False if it was taken."""
        cluster = self._clusters[pair.primary_id]
        if pair not in cluster:
            return False
        cluster.remove(pair)
        self._busy[pair.primary_id] += 1
        self.open += 1
        self.left -= 1
        self._ready = [entry for entry in self._ready if entry[2] != pair.primary_id]
        heapify(self._ready)
        return True

    def put_back(self, pair: Pair) -> None:
        """Put back a pair that did not run, as the first of its cluster."""
        self._failures.take_back(pair.number)
        self._clusters.setdefault(pair.primary_id, deque()).appendleft(pair)
        self.left += 1
        self._free(pair)

    def end(self, pair: Pair, state: PairState, *, is_refusal: bool = False) -> None:
        """Count an open pair that has ended, and stop the job if too many failed.

        Only a merge that failed, or that the server refused, is a failure. The cluster of an
        unsettled pair stays closed: that merge may still be open.
        """
        if state is PairState.UNSETTLED:
            self.open -= 1
        else:
            self._free(pair)
        if state is PairState.SUCCEEDED:
            self.succeeded += 1
            self._failures.succeed()
        elif state is PairState.FAILED or is_refusal:
            self.note_failure(pair)
        elif state is PairState.REFUSED:
            self._failures.take_back(pair.number)

    def note_failure(self, pair: Pair) -> None:
        """Count a pair that failed, before or when it ends, and stop the job if too many did."""
        self._failures.fail(pair.number)
        if self._failures.is_reached:
            self.stop(StopReason.FAILURES)

    def skip(self, pair: Pair) -> None:
        """Count a pair as ended that was taken, but must not be sent: no failure of the server."""
        self._failures.take_back(pair.number)
        self._free(pair)

    def leave(self) -> None:
        """Count an open pair as no longer open; its cluster stays closed until the next run."""
        self.open -= 1

    def stop(self, reason: StopReason) -> None:
        """Start no more pairs. The first reason counts."""
        self.stopped = self.stopped or reason

    @property
    def failures(self) -> str | None:
        """How many of which merges failed, if the job stopped because of them."""
        return self._failures.text() if self.stopped is StopReason.FAILURES else None

    @property
    def wanted(self) -> int:
        """How many merges have to succeed before all others may start: half of the first batch."""
        return math.ceil(self._settings.canary / 2)

    @property
    def is_opening(self) -> bool:
        """Whether half of the first batch still has to succeed."""
        return self.succeeded < self.wanted

    @property
    def has_to_wait(self) -> bool:
        """Whether no merge can start before an open one has ended, if one can at all."""
        return not self._ready

    @property
    def obstacle(self) -> str | None:
        """What keeps the next pair from starting."""
        canary, max_open = self._settings.canary, self._settings.max_open
        if not self._ready:
            return "the open merges of their clusters to end" if self.left else "nothing to start"
        if self.is_opening and self.open >= self._opening_bound():
            return f"{self.wanted} of the first {canary} merges to succeed ({self.succeeded} have)"
        if canary and self._is_careful and self.open >= (bound := self._careful_bound()):
            return f"open merges to end (at most {bound} at once, as others have failed just now)"
        if max_open is not None and self.open >= max_open:
            return f"open merges to end (at most {max_open} at once)"
        return None

    @property
    def _is_careful(self) -> bool:
        return self._failures.nearness >= _CAREFUL_FROM

    def _opening_bound(self) -> int:
        """Return how many merges may be open: the first batch, and more with each success."""
        more = 0 if self._failures.nearness else _MORE_FOR_EACH * max(0, self.succeeded - _FROM)
        return self._careful_bound() + more

    def _careful_bound(self) -> int:
        """Return how many merges may be open: the first batch, and fewer the nearer a stop is."""
        return max(1, math.ceil(self._settings.canary * (1.0 - self._failures.nearness)))

    @property
    def is_over(self) -> bool:
        """Whether no pair is open and none can start any more."""
        return not self.open and (self.stopped is not None or not self._ready)

    def _free(self, pair: Pair) -> None:
        self.open -= 1
        self._busy[pair.primary_id] -= 1
        if not self._busy[pair.primary_id] and self._clusters.get(pair.primary_id):
            heappush(self._ready, self._entry(pair.primary_id))

    def _entry(self, primary_id: int) -> tuple[int, int, int]:
        queue = self._clusters[primary_id]
        # Equal clusters go in the order of the plan.
        return -len(queue), queue[0].number, primary_id
