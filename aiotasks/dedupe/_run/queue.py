"""Which pair may start next, and when a job has to stop: decisions without I/O."""

from collections import Counter, deque
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import Final

from aiotasks.dedupe.models import Pair, PairState, StopReason
from aiotasks.dedupe.settings import JobSettings


JUDGED: Final = 50
"""How many of the last ended pairs the failure rate covers. A choice: recent enough to notice a
server that begins to fail, wide enough that some bad rows in a row do not stop a job."""

# Of fewer pairs a single failure is a large share. A choice; the canary may be smaller.
_JUDGED_FROM = 10


class MergeQueue:
    """The pairs of a run: which wait for their turn, and how many are open.

    A plan's clusters share no record, so two open merges share one only within a cluster: each
    cluster has at most one merge open. The cluster with the most merges left goes first, since its
    merges run one after the other and so end last.
    """

    def __init__(
        self, planned: Iterable[Pair], opened: Iterable[Pair], settings: JobSettings
    ) -> None:
        self.stopped: StopReason | None = None
        self._settings = settings
        self._ended = 0
        self._recent: deque[bool] = deque(maxlen=JUDGED)
        self._busy = Counter(pair.primary_id for pair in opened)
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
        return self._clusters[primary_id].popleft()

    def planned(self) -> list[Pair]:
        """Return the pairs that are still to be started."""
        return [pair for cluster in self._clusters.values() for pair in cluster]

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
        self._clusters.setdefault(pair.primary_id, deque()).appendleft(pair)
        self.left += 1
        self._free(pair)

    def end(self, pair: Pair, state: PairState) -> None:
        """Count an open pair that has ended, and stop the job if too many failed.

        The cluster of an unsettled pair stays closed: that merge may still be open.
        """
        self._ended += 1
        self._recent.append(state.is_failure)
        if state is PairState.UNSETTLED:
            self.open -= 1
        else:
            self._free(pair)
        if (len(self._recent) >= _JUDGED_FROM or self._ended == self._settings.canary) and (
            self.failure_rate > self._settings.max_failure_rate
        ):
            self.stop(StopReason.FAILURES)

    def skip(self, pair: Pair) -> None:
        """Count a pair as ended that was taken, but must not be sent: no failure of the server."""
        self._free(pair)

    def leave(self) -> None:
        """Count an open pair as no longer open; its cluster stays closed until the next run."""
        self.open -= 1

    def stop(self, reason: StopReason) -> None:
        """Start no more pairs. The first reason counts."""
        self.stopped = self.stopped or reason

    @property
    def failure_rate(self) -> float:
        """The share of failures among the last pairs that ended."""
        return sum(self._recent) / len(self._recent) if self._recent else 0.0

    @property
    def is_canary(self) -> bool:
        """Whether the first pairs still have to end before the others may start."""
        return self._ended < self._settings.canary

    @property
    def obstacle(self) -> str | None:
        """What keeps the next pair from starting."""
        canary, max_open = self._settings.canary, self._settings.max_open
        if not self._ready:
            return "the open merges of their clusters to end" if self.left else "nothing to start"
        if self.is_canary and self._ended + self.open >= canary:
            return f"the first {canary} merges to end (canary)"
        if self.open >= max_open:
            return f"open merges to end (at most {max_open} at once)"
        return None

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
