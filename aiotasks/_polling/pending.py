"""A pending task, which is one caller's wait for one task, and the list page that it is on.

The two live in one module because they refer to each other: a page counts which of its tasks are
due, so a task reports each change of its phase to its page.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

from aiotasks._http.urls import TaskRef
from aiotasks._http.wire import Page, Request
from aiotasks.backoff import Backoff
from aiotasks.errors import AffinityError, TaskFailedError, TaskTimeoutError
from aiotasks.models import Kind, MergeTask, ResultsSummary, TaskStatus
from aiotasks.outcomes import Outcome, OutcomeState


MIN_DUE: Final = 2
"""How many due tasks make a page worth polling: for one, a GET of the task costs the same."""

# A choice: how much of a caller's interval may be cut. A trickle of merges costs 3.9 calls each with
# 0, 3.2 with this, 2.4 with 0.5 (benchmarks/results/ablation.json).
_SLACK = 0.2
# A choice: bounds the work and the memory for a page whose tasks come and go.
_MAX_SEARCHED = 256
# The API's largest page.
_PAGE = 100
# A choice: bounds the memory for rare summaries.
_MAX_SUMMARIES = 256


def _ignore(_: str) -> None: ...


class WaitOptions(NamedTuple):
    """What all tasks of one wait have in common.

    A wait that ``is_urgent`` is polled first. One that ``is_once`` ends with the first answer.
    ``note_failure`` is called as soon as a task was polled as failed, before its reason is known.
    """

    timeout: float
    backoff: Backoff
    deliver: Callable[["PendingTask", Outcome], None]
    is_urgent: bool = False
    is_once: bool = False
    note_failure: Callable[[str], object] = _ignore


class Phase(Enum):
    """What a pending task waits for."""

    WAITING = "its due time"
    TIMING_OUT = "its deadline"
    DUE = "a request slot"
    IN_FLIGHT = "an answer"
    FETCHING_REASON = "the reason of its failure"
    DONE = "nothing"


class PendingTask:
    """One caller's wait for one task.

    There may be a hundred thousand of them, so nothing is stored that can be computed: the task as
    last polled is kept as its status and its summary, and equal summaries are one object.
    """

    __slots__ = (
        "added_at",
        "answers",
        "asked_at",
        "attempt",
        "due_at",
        "id",
        "index",
        "is_final_poll",
        "kind",
        "needs_get",
        "next_waiter",
        "options",
        "page",
        "phase",
        "polled_at",
        "seen_at",
        "status",
        "summary",
        "url",
    )

    def __init__(
        self, ref: TaskRef, url: str, options: WaitOptions, *, now: float, index: int
    ) -> None:
        self.kind: Kind
        self.kind, self.id = ref
        self.url = url
        self.options = options
        self.index = index
        self.added_at = now
        self.polled_at = now
        self.due_at = now
        # When it was seen last, and when it was last asked for by GET: a list may be stale.
        self.seen_at = now
        self.asked_at = now
        self.needs_get = False
        self.phase = Phase.WAITING
        # The attempt of the backoff strategy: polls that other waits caused do not count.
        self.attempt = 0
        self.answers = 0
        self.is_final_poll = False
        self.status: TaskStatus | None = None
        self.summary: ResultsSummary | None = None
        self.page: ListPage | None = None
        # Waits for the same task are a linked list; see Waiters.
        self.next_waiter: PendingTask | None = None

    @property
    def ref(self) -> TaskRef:
        """The kind and id of the task."""
        return TaskRef(self.kind, self.id)

    @property
    def deadline(self) -> float:
        """When the wait times out."""
        return self.added_at + self.options.timeout

    @property
    def task(self) -> MergeTask | None:
        """The task as last polled; None before the first answer."""
        if self.status is None:
            return None
        return MergeTask(id=self.id, status=self.status, results_summary=self.summary)

    @property
    def is_due(self) -> bool:
        """Whether a poll of it is due or in flight."""
        return self.phase is Phase.DUE or self.phase is Phase.IN_FLIGHT

    def is_due_soon(self, now: float) -> bool:
        """Return True if at most 20 % of the poll interval remains, so that it may share a poll."""
        is_waiting = self.phase is Phase.WAITING
        return is_waiting and self.due_at - now <= _SLACK * (self.due_at - self.polled_at)

    def priority(self, now: float) -> float:
        """Return what a poll of it is worth: the square of the seconds since the last poll.

        The square bounds the delay of single tasks: one that has waited ten times as long is
        worth as much as a page of a hundred. Measured: "priority linear in age" in the ablation.
        """
        return (now - self.polled_at) ** 2

    def enter(self, phase: Phase) -> None:
        """Change the phase, and the count of due tasks on its page."""
        was_due, self.phase = self.is_due, phase
        change = self.is_due - was_due
        if change and self.page is not None:
            self.page.count_due(self, change)

    def record(self, status: TaskStatus, summary: ResultsSummary | None, now: float) -> None:
        """Store what a poll returned."""
        self.status, self.summary = status, summary
        self.seen_at = now
        self.answers += 1

    def wait(self, until: float, *, now: float, lead: float) -> bool:
        """Wait for the next poll; return True if that needs a new timer.

        ``lead`` is how many seconds before the deadline the final poll starts.
        """
        final = max(self.deadline - lead, now)
        due_at = min(until, final)
        has_timer = self.phase is Phase.WAITING and self.due_at == due_at
        # The page counts with the time of the last poll, so the phase changes first.
        self.enter(Phase.WAITING)
        self.is_final_poll = until >= final
        self.polled_at, self.due_at = now, due_at
        return not has_timer

    def timed_out(
        self, now: float, *, cause: AffinityError | None = None, obstacle: str | None = None
    ) -> Outcome:
        """Return the outcome if the wait ended now, without a further answer.

        ``cause`` and ``obstacle`` say why there was no answer, if there was none.
        """
        if self.phase is Phase.FETCHING_REASON:
            return self.failed(None, now)
        why = None if self.answers else str(cause or obstacle or "") or None
        error = TaskTimeoutError(self.url, self.task, now - self.added_at, why)
        error.__cause__ = None if self.answers else cause
        return self.outcome(OutcomeState.RUNNING, now, error)

    def failed(self, reason: str | None, now: float) -> Outcome:
        """Return the outcome of a task that was polled as failed."""
        task = self.task
        assert task is not None  # noqa: S101 - only an answer makes it fail
        error = TaskFailedError(self.url, task, reason)
        return self.outcome(OutcomeState.FAILED, now, error, reason)

    def outcome(
        self,
        state: OutcomeState,
        now: float,
        error: AffinityError | None = None,
        reason: str | None = None,
    ) -> Outcome:
        """Return an outcome with the task as last polled."""
        return Outcome(
            url=self.url,
            state=state,
            task=self.task,
            error=error,
            reason=reason,
            polls=self.answers,
            waited=now - self.added_at,
        )


class ListPage:
    """A page of a task list, and the pending tasks that it showed or may show."""

    __slots__ = (
        "_squares",
        "_sum",
        "created_at",
        "due",
        "is_in_flight",
        "is_unreadable",
        "kind",
        "members",
        "request",
        "size",
    )

    def __init__(self, kind: Kind, request: Request[Page[MergeTask]], created_at: float) -> None:
        self.kind = kind
        self.request = request
        self.created_at = created_at
        self.members: list[PendingTask] = []
        self.size = 0
        self.due = 0
        self.is_in_flight = False
        # Whether the last answer could not be read.
        self.is_unreadable = False
        self._sum = 0.0
        self._squares = 0.0

    def join(self, pending: PendingTask) -> None:
        """Add a task, which leaves the page that it was on."""
        if pending.page is not None:
            pending.page.leave(pending)
        pending.page = self
        self.members.append(pending)
        self.size += 1
        self.count_due(pending, pending.is_due)

    def leave(self, pending: PendingTask) -> None:
        """Remove a task."""
        pending.page = None
        self.size -= 1
        self.count_due(pending, -pending.is_due)
        # Removing from the middle of a list is O(n), so entries are dropped many at a time.
        if len(self.members) > 2 * self.size + _MAX_SEARCHED:
            self.members = self.tasks()

    def tasks(self) -> list[PendingTask]:
        """Return the tasks that are on the page now."""
        # A task that left and came back has two entries.
        return list(dict.fromkeys(pending for pending in self.members if pending.page is self))

    def count_due(self, pending: PendingTask, change: int) -> None:
        """Count a task as due (1) or as no longer due (-1)."""
        polled_at = pending.polled_at - self.created_at
        self.due += change
        self._sum += change * polled_at
        self._squares += change * polled_at * polled_at

    def priority(self, now: float) -> float:
        """Return what a poll of the page is worth: the sum of the priorities of its due tasks.

        The page shows at most a hundred of them: without this cap the scan, on which all new tasks
        are, takes calls that interactive requests need ("no cap on priority" there). The sum of ``(now - polled_at) ** 2`` is kept
        as its three terms, so that a change of one task costs O(1).
        """
        if not self.due:
            return 0.0
        age = now - self.created_at
        total = self.due * age * age - 2 * age * self._sum + self._squares
        return total * min(1.0, _PAGE / self.due)

    def is_worth_polling(self, now: float) -> bool:
        """Return True if at least ``MIN_DUE`` tasks on it are due, or due soon."""
        count = self.due
        for pending in self.members[:_MAX_SEARCHED] if count < MIN_DUE else ():
            count += pending.page is self and pending.is_due_soon(now)
        return count >= MIN_DUE


def intern_summary(
    known: dict[ResultsSummary, ResultsSummary], summary: ResultsSummary | None
) -> ResultsSummary | None:
    """Return one object for all equal summaries: nearly all tasks have one of a few."""
    if summary is None:
        return None
    # Rare ones would pile up over months.
    if len(known) > _MAX_SUMMARIES:
        known.clear()
    return known.setdefault(summary, summary)
