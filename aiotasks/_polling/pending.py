"""One waiter's one task: the record of it, and what it can come to."""

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
"""How many due tasks a page must answer to be cheaper than asking for each."""

_SLACK = 0.2
_SHOWN_AHEAD = 256
_PAGE = 100


class WaitOptions(NamedTuple):
    """What is the same for all tasks of one wait.

    A wait that ``is_urgent`` goes first, one that ``is_once`` ends with the first news.
    """

    timeout: float
    backoff: Backoff
    deliver: Callable[["PendingTask", Outcome], None]
    is_urgent: bool = False
    is_once: bool = False


class Phase(Enum):
    """What a pending task waits for."""

    WAITING = "its next look"
    DUE = "its turn to be asked for"
    IN_FLIGHT = "an answer"
    FETCHING_REASON = "the reason of its failure"
    DONE = "nothing"


class PendingTask:
    """A task that somebody waits for.

    There may be a hundred thousand, so what can be derived is not kept: the task as it was last
    seen is its status and its summary, and the summaries of equal tasks are one.
    """

    __slots__ = (
        "added_at",
        "answers",
        "attempt",
        "due_at",
        "id",
        "index",
        "is_final_poll",
        "kind",
        "next_waiter",
        "options",
        "page",
        "phase",
        "polled_at",
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
        self.phase = Phase.WAITING
        self.attempt = 0
        self.answers = 0
        self.is_final_poll = False
        self.status: TaskStatus | None = None
        self.summary: ResultsSummary | None = None
        self.page: ListPage | None = None
        # The next who waits for the same task.
        self.next_waiter: PendingTask | None = None

    @property
    def ref(self) -> TaskRef:
        """What the task is called."""
        return TaskRef(self.kind, self.id)

    @property
    def deadline(self) -> float:
        """When the wait is over."""
        return self.added_at + self.options.timeout

    @property
    def is_due(self) -> bool:
        """Whether news of it is due, or even under way."""
        return self.phase is Phase.DUE or self.phase is Phase.IN_FLIGHT

    def is_due_soon(self, now: float) -> bool:
        """Say whether so little is left of its interval that it may be looked at now."""
        is_later = self.phase is Phase.WAITING
        return is_later and self.due_at - now <= _SLACK * (self.due_at - self.polled_at)

    def priority(self, now: float) -> float:
        """Return what a look at it is worth: news is the likelier the older the last."""
        return (now - self.polled_at) ** 2

    @property
    def task(self) -> MergeTask | None:
        """The task as it was last seen."""
        if self.status is None:
            return None
        return MergeTask(id=self.id, status=self.status, results_summary=self.summary)


def cut_short(pending: PendingTask, now: float) -> Outcome:
    """Return what a wait comes to if it ends now."""
    if pending.phase is Phase.FETCHING_REASON:
        return failed(pending, None, now)
    error = TaskTimeoutError(pending.url, pending.task, now - pending.added_at)
    return outcome(pending, OutcomeState.RUNNING, now, error)


def failed(pending: PendingTask, reason: str | None, now: float) -> Outcome:
    """Return the outcome of a task that was seen to have failed."""
    task = pending.task
    assert task is not None  # noqa: S101 - it was seen
    error = TaskFailedError(pending.url, task, reason)
    return outcome(pending, OutcomeState.FAILED, now, error, reason)


def outcome(
    pending: PendingTask,
    state: OutcomeState,
    now: float,
    error: AffinityError | None,
    reason: str | None = None,
) -> Outcome:
    """Return an outcome with what is known of a task."""
    return Outcome(
        url=pending.url,
        state=state,
        task=pending.task,
        error=error,
        reason=reason,
        polls=pending.answers,
        waited=now - pending.added_at,
    )


class ListPage:
    """One page of a list, and the pending tasks that it is known or thought to show."""

    __slots__ = (
        "_squares",
        "_sum",
        "created_at",
        "due",
        "is_in_flight",
        "kind",
        "members",
        "request",
        "size",
    )

    def __init__(self, kind: Kind, request: Request[Page[MergeTask]], created_at: float) -> None:
        self.kind = kind
        self.created_at = created_at
        self._sum = 0.0
        self._squares = 0.0
        self.request = request
        self.members: list[PendingTask] = []
        self.size = 0
        self.due = 0
        self.is_in_flight = False

    def join(self, pending: "PendingTask") -> None:
        """Take in a task."""
        if pending.page is not None:
            pending.page.leave(pending)
        pending.page = self
        self.members.append(pending)
        self.size += 1
        self.count_due(pending, pending.is_due)

    def leave(self, pending: "PendingTask") -> None:
        """Let a task go."""
        pending.page = None
        self.size -= 1
        self.count_due(pending, -pending.is_due)
        if len(self.members) > 2 * self.size + _SHOWN_AHEAD:
            self.members = self.present()

    def present(self) -> list["PendingTask"]:
        """Return the tasks that are on it now."""
        # Whoever left and came back stands there twice.
        return list(dict.fromkeys(pending for pending in self.members if pending.page is self))

    def count_due(self, pending: "PendingTask", sign: int) -> None:
        """Count a task as due (1), or as due no more (-1)."""
        polled_at = pending.polled_at - self.created_at
        self.due += sign
        self._sum += sign * polled_at
        self._squares += sign * polled_at * polled_at

    def priority(self, now: float) -> float:
        """Return what a look at it is worth: as much as looks at its due tasks by themselves.

        Of these a page shows no more than a hundred. The sum of their values, each the square of
        the time since the last look, is kept as its three parts.
        """
        if not self.due:
            return 0.0
        age = now - self.created_at
        total = self.due * age * age - 2 * age * self._sum + self._squares
        return total * min(1.0, _PAGE / self.due)

    def is_worth_polling(self, now: float) -> bool:
        """Say whether enough tasks on it are due, or will be so soon that a look may be now."""
        count = self.due
        for pending in self.members[:_SHOWN_AHEAD] if count < MIN_DUE else ():
            count += pending.page is self and pending.is_due_soon(now)
        return count >= MIN_DUE


_MOST_SUMMARIES = 256


class Summaries:
    """One of all summaries that are equal: nearly all tasks have one of few."""

    def __init__(self) -> None:
        self._known: dict[ResultsSummary, ResultsSummary] = {}

    def __len__(self) -> int:
        return len(self._known)

    def shared(self, summary: ResultsSummary | None) -> ResultsSummary | None:
        """Return the one that is kept for all that equal it."""
        if summary is None:
            return None
        if len(self._known) > _MOST_SUMMARIES:
            self._known.clear()
        return self._known.setdefault(summary, summary)
