"""One waiter's one task: the record of it, and what it can come to."""

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from ._urls import TaskRef
from .errors import AffinityError, TaskFailedError, TaskTimeoutError
from .models import Kind, MergeTask, Outcome, OutcomeState, ResultsSummary, TaskStatus
from .policy import Backoff


if TYPE_CHECKING:
    from ._pages import Leaf

_SLACK = 0.2
_RUNNING = frozenset({TaskStatus.IN_PROGRESS, TaskStatus.PENDING})


class Terms(NamedTuple):
    """What is the same for all tasks of one wait.

    A wait that ``is_urgent`` goes first, one that ``is_once`` ends with the first news.
    """

    timeout: float
    backoff: Backoff
    deliver: Callable[["Pending", Outcome], None]
    is_urgent: bool = False
    is_once: bool = False


class Phase(Enum):
    """What a pending task waits for."""

    LATER = "its next look"
    LOOK = "its turn to be asked for"
    ASKED = "an answer"
    REASON = "the reason of its failure"
    SETTLED = "nothing"


class Pending:
    """A task that somebody waits for.

    There may be a hundred thousand, so what can be derived is not kept: the task as it was last
    seen is its status and its summary, and the summaries of equal tasks are one.
    """

    __slots__ = (
        "id",
        "index",
        "is_last_look",
        "kind",
        "leaf",
        "looked",
        "looks",
        "phase",
        "polls",
        "since",
        "status",
        "summary",
        "terms",
        "twin",
        "url",
        "wake",
    )

    def __init__(self, ref: TaskRef, url: str, terms: Terms, *, now: float, index: int) -> None:
        self.kind: Kind
        self.kind, self.id = ref
        self.url = url
        self.terms = terms
        self.index = index
        self.since = now
        self.looked = now
        self.wake = now
        self.phase = Phase.LATER
        self.looks = 0
        self.polls = 0
        self.is_last_look = False
        self.status: TaskStatus | None = None
        self.summary: ResultsSummary | None = None
        self.leaf: Leaf | None = None
        # The next who waits for the same task.
        self.twin: Pending | None = None

    @property
    def ref(self) -> TaskRef:
        """What the task is called."""
        return TaskRef(self.kind, self.id)

    @property
    def deadline(self) -> float:
        """When the wait is over."""
        return self.since + self.terms.timeout

    @property
    def is_due(self) -> bool:
        """Whether news of it is due, or even under way."""
        return self.phase is Phase.LOOK or self.phase is Phase.ASKED

    def is_due_soon(self, now: float) -> bool:
        """Say whether so little is left of its interval that it may be looked at now."""
        is_later = self.phase is Phase.LATER
        return is_later and self.wake - now <= _SLACK * (self.wake - self.looked)

    def value(self, now: float) -> float:
        """Return what a look at it is worth: news is the likelier the older the last."""
        return (now - self.looked) ** 2

    @property
    def task(self) -> MergeTask | None:
        """The task as it was last seen."""
        if self.status is None:
            return None
        return MergeTask(id=self.id, status=self.status, results_summary=self.summary)


def verdict(task: MergeTask) -> OutcomeState:
    """Say what a task has come to, on positive proof only.

    A success with failed merges in it is a failure. A status that this version does not know
    still runs while something of it is in progress, and is an outcome of its own afterwards.
    """
    # What nearly all tasks of a page are comes first.
    if task.status in _RUNNING:
        return OutcomeState.RUNNING
    summary = task.results_summary
    if task.status == TaskStatus.SUCCESS:
        return OutcomeState.FAILED if summary and summary.failed else OutcomeState.SUCCESS
    if task.status == TaskStatus.FAILED:
        return OutcomeState.FAILED
    is_running = summary is not None and summary.in_progress > 0
    return OutcomeState.RUNNING if is_running else OutcomeState.UNKNOWN


def cut_short(pending: Pending, now: float) -> Outcome:
    """Return what a wait comes to if it ends now."""
    if pending.phase is Phase.REASON:
        return failed(pending, None, now)
    error = TaskTimeoutError(pending.url, pending.task, now - pending.since)
    return outcome(pending, OutcomeState.RUNNING, now, error)


def failed(pending: Pending, reason: str | None, now: float) -> Outcome:
    """Return the outcome of a task that was seen to have failed."""
    task = pending.task
    assert task is not None  # noqa: S101 - it was seen
    error = TaskFailedError(pending.url, task, reason)
    return outcome(pending, OutcomeState.FAILED, now, error, reason)


def outcome(
    pending: Pending,
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
        polls=pending.polls,
        waited=now - pending.since,
    )
