"""Which task is to be looked at when, and what a look means for those who wait for it.

Time is an argument and nothing here waits: the poller asks what is due, does the asking, and
tells what it saw.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import NamedTuple

from ._wire import TaskRef
from .errors import AffinityError, TaskFailedError, TaskTimeoutError, UnknownStatusError
from .models import MergeTask, Outcome, OutcomeState, TaskStatus
from .policy import Backoff, poll_delay


GRACE = 0.04
"""How long after a deadline, in seconds, an answer that is on its way is still waited for."""


class Terms(NamedTuple):
    """What is the same for all tasks of one wait."""

    timeout: float
    backoff: Backoff
    deliver: Callable[["Pending", Outcome], None]


class Phase(Enum):
    """What a pending task waits for."""

    LATER = "its next look"
    LOOK = "an answer"
    REASON = "the reason of its failure"
    SETTLED = "nothing"


class Pending:
    """One waiter's one task."""

    __slots__ = (
        "deadline",
        "index",
        "is_last_look",
        "looks",
        "phase",
        "polls",
        "ref",
        "since",
        "task",
        "terms",
        "url",
        "wake",
    )

    def __init__(self, ref: TaskRef, url: str, terms: Terms, *, now: float, index: int) -> None:
        self.ref = ref
        self.url = url
        self.terms = terms
        self.index = index
        self.since = now
        self.deadline = now + terms.timeout
        self.phase = Phase.LATER
        self.wake = math.inf
        self.looks = 0
        self.is_last_look = False
        self.polls = 0
        self.task: MergeTask | None = None


def verdict(task: MergeTask) -> OutcomeState:
    """Say what a task has come to, on positive proof only.

    A success with failed merges in it is a failure. A status that this version does not know
    still runs while something of it is in progress, and is an outcome of its own afterwards.
    """
    summary = task.results_summary
    if task.status == TaskStatus.SUCCESS:
        return OutcomeState.FAILED if summary and summary.failed else OutcomeState.SUCCESS
    if task.status == TaskStatus.FAILED:
        return OutcomeState.FAILED
    is_known = task.status in (TaskStatus.PENDING, TaskStatus.IN_PROGRESS)
    is_running = is_known or (summary is not None and summary.in_progress > 0)
    return OutcomeState.RUNNING if is_running else OutcomeState.UNKNOWN


def cut_short(pending: Pending, now: float) -> Outcome:
    """Return what a wait comes to if it ends now."""
    if pending.phase is Phase.REASON:
        return _failed(pending, None, now)
    error = TaskTimeoutError(pending.url, pending.task, now - pending.since)
    return _outcome(pending, OutcomeState.RUNNING, now, error)


def _failed(pending: Pending, reason: str | None, now: float) -> Outcome:
    assert pending.task is not None  # noqa: S101 - it was seen to have failed
    error = TaskFailedError(pending.url, pending.task, reason)
    return _outcome(pending, OutcomeState.FAILED, now, error, reason)


def _outcome(
    pending: Pending,
    state: OutcomeState,
    now: float,
    error: AffinityError | None,
    reason: str | None = None,
) -> Outcome:
    return Outcome(
        url=pending.url,
        state=state,
        task=pending.task,
        error=error,
        reason=reason,
        polls=pending.polls,
        waited=now - pending.since,
    )


class Schedule:
    """All pending tasks of a client: one record and one heap entry for each waiter's task."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Pending]] = []
        self._entries = 0
        self._by_ref: dict[TaskRef, list[Pending]] = {}
        self._due: deque[TaskRef] = deque()
        self._asked: set[TaskRef] = set()
        self.count = 0

    @property
    def tasks(self) -> int:
        """How many different tasks are waited for."""
        return len(self._by_ref)

    @property
    def has_due(self) -> bool:
        """Whether a task waits to be asked for."""
        return bool(self._due)

    def wanted(self, ref: TaskRef) -> list[Pending]:
        """Return those who wait for a task."""
        return self._by_ref.get(ref, [])

    def add(self, pending: Pending) -> None:
        """Take in a task; it is due at once."""
        self._by_ref.setdefault(pending.ref, []).append(pending)
        self.count += 1
        self._wake_at(pending, pending.since)

    def next_wake(self) -> float:
        """Return when ``advance`` has to be called next."""
        while self._heap and not self._is_live(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def advance(self, now: float) -> None:
        """Let time pass: what is due is queued to be asked for, what is out of time settles."""
        while self.next_wake() <= now:
            pending = heapq.heappop(self._heap)[2]
            if pending.phase is not Phase.LATER:
                self._run_out(pending, now)
                continue
            pending.phase = Phase.LOOK
            # A loop that was held up must not cost the look that is due.
            self._wake_at(pending, max(pending.deadline, now) + GRACE)
            self._queue(pending.ref)

    def take(self) -> TaskRef | None:
        """Return the task to ask for now, if one is still wanted; it counts as asked from here."""
        while self._due:
            ref = self._due.popleft()
            if any(pending.phase is Phase.LOOK for pending in self.wanted(ref)):
                return ref
            self._asked.discard(ref)
        return None

    def put_back(self, ref: TaskRef) -> None:
        """Queue a task again, of which the look at it told nothing."""
        self._asked.discard(ref)
        if any(pending.phase is Phase.LOOK for pending in self.wanted(ref)):
            self._queue(ref)

    def see(self, ref: TaskRef, task: MergeTask, *, now: float, lead: float) -> bool:
        """Take in what a task looks like; say whether a reason of its failure is to be asked for.

        ``lead`` is how long before a deadline a look must start for its answer to be in time.
        """
        self._asked.discard(ref)
        state = verdict(task)
        for pending in self._undecided(ref):
            pending.task = task
            pending.polls += 1
            self._judge(pending, state, now, lead)
        return state is OutcomeState.FAILED and bool(self.wanted(ref))

    def miss(self, ref: TaskRef, *, now: float, lead: float) -> None:
        """Take in that a task, started just now, cannot be seen yet."""
        self._asked.discard(ref)
        for pending in self._undecided(ref):
            self._look_later(pending, now, lead)

    def explain(self, ref: TaskRef, reason: str | None, now: float) -> None:
        """Settle a failed task, with the server's reason if it gave one."""
        for pending in list(self.wanted(ref)):
            if pending.phase is Phase.REASON:
                self._deliver(pending, _failed(pending, reason, now))

    def give_up(self, ref: TaskRef, error: AffinityError, now: float) -> None:
        """Settle a task of which nothing can be learned."""
        self._asked.discard(ref)
        for pending in self._undecided(ref):
            self._settle(pending, OutcomeState.UNKNOWN, now, error)

    def give_up_all(self, state: OutcomeState, now: float, error: AffinityError) -> None:
        """Settle everything, because nothing more can be learned of anything."""
        for pending in list(self._everything()):
            if pending.phase is Phase.REASON:
                self._run_out(pending, now)
            else:
                self._settle(pending, state, now, error)
        self._asked.difference_update(self._due)
        self._due.clear()

    def discard(self, pending: Pending) -> None:
        """Forget a task that nobody waits for any more."""
        if pending.phase is Phase.SETTLED:
            return
        pending.phase = Phase.SETTLED
        pending.wake = math.inf
        self.count -= 1
        waiting = self._by_ref[pending.ref]
        waiting.remove(pending)
        if not waiting:
            del self._by_ref[pending.ref]
        self._compact()

    def _everything(self) -> Iterator[Pending]:
        return (pending for waiting in self._by_ref.values() for pending in waiting)

    def _undecided(self, ref: TaskRef) -> list[Pending]:
        # What was seen to have failed stays so, whatever a later look tells.
        return [pending for pending in self.wanted(ref) if pending.phase is not Phase.REASON]

    def _queue(self, ref: TaskRef) -> None:
        # Queued or on its way already: all who wait for it share that answer.
        if ref not in self._asked:
            self._asked.add(ref)
            self._due.append(ref)

    def _judge(self, pending: Pending, state: OutcomeState, now: float, lead: float) -> None:
        assert pending.task is not None  # noqa: S101 - its caller has just set it
        match state:
            case OutcomeState.SUCCESS:
                self._settle(pending, state, now, None)
            case OutcomeState.FAILED:
                pending.phase = Phase.REASON
                self._wake_at(pending, pending.deadline + GRACE)
            case OutcomeState.UNKNOWN:
                error = UnknownStatusError(pending.url, pending.task)
                self._settle(pending, state, now, error)
            case OutcomeState.RUNNING:  # pragma: no branch - there is no other
                self._look_later(pending, now, lead)

    def _look_later(self, pending: Pending, now: float, lead: float) -> None:
        # The look that others needed is not the last one of a task that waits for its own.
        has_looked_last = pending.is_last_look and pending.phase is Phase.LOOK
        if has_looked_last or now >= pending.deadline:
            self._run_out(pending, now)
            return
        # The looks of others bring news, but must not make this wait any slower.
        if pending.phase is Phase.LOOK or not pending.looks:
            pending.looks += 1
        try:
            delay = poll_delay(pending.terms.backoff, pending.looks)
        except AffinityError as error:
            self._settle(pending, OutcomeState.UNKNOWN, now, error)
            return
        last_look = max(pending.deadline - lead, now)
        pending.is_last_look = now + delay >= last_look
        pending.phase = Phase.LATER
        self._wake_at(pending, min(now + delay, last_look))

    def _run_out(self, pending: Pending, now: float) -> None:
        self._deliver(pending, cut_short(pending, now))

    def _settle(
        self, pending: Pending, state: OutcomeState, now: float, error: AffinityError | None
    ) -> None:
        self._deliver(pending, _outcome(pending, state, now, error))

    def _deliver(self, pending: Pending, outcome: Outcome) -> None:
        self.discard(pending)
        pending.terms.deliver(pending, outcome)

    def _wake_at(self, pending: Pending, when: float) -> None:
        if when == pending.wake:
            return
        pending.wake = when
        if when < math.inf:
            self._entries += 1
            heapq.heappush(self._heap, (when, self._entries, pending))
        self._compact()

    def _is_live(self, entry: tuple[float, int, Pending]) -> bool:
        return entry[2].wake == entry[0]

    def _compact(self) -> None:
        # Entries are left behind where they lie; now and then they are swept out together.
        if len(self._heap) > (2 * self.count + 64 if self.count else 0):
            self._heap = [entry for entry in self._heap if self._is_live(entry)]
            heapq.heapify(self._heap)
