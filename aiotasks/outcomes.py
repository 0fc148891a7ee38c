"""What a wait ends with, as immutable values."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Self, overload

from .errors import AffinityError
from .models import MergeTask, TaskStatus, Value


_RUNNING = frozenset({TaskStatus.IN_PROGRESS, TaskStatus.PENDING})


class OutcomeState(StrEnum):
    """What a wait came to.

    ``FAILED`` also stands for a task that ended as ``success`` with failed merges in it: a
    partial failure is never reported as a success. ``RUNNING`` means that the time was up first;
    the task goes on at the server. ``UNKNOWN`` means that its end could not be read: the outcome's
    ``error`` has the reason.
    """

    SUCCESS = "success"
    FAILED = "failed"
    RUNNING = "running"
    UNKNOWN = "unknown"

    @classmethod
    def of(cls, task: MergeTask) -> Self:
        """Return the state that a task shows, on positive proof only.

        A success with failed merges in it is a failure. A status that this version does not know
        is ``RUNNING`` while something of the task is in progress, and ``UNKNOWN`` afterwards.
        """
        # What nearly all tasks of a page are comes first.
        if task.status in _RUNNING:
            return cls.RUNNING
        summary = task.results_summary
        if task.status == TaskStatus.SUCCESS:
            return cls.FAILED if summary and summary.failed else cls.SUCCESS
        if task.status == TaskStatus.FAILED:
            return cls.FAILED
        is_running = summary is not None and summary.in_progress > 0
        return cls.RUNNING if is_running else cls.UNKNOWN


class Outcome(Value, frozen=True, kw_only=True):
    """What became of one awaited task.

    ``task`` is the last that was seen of it, ``error`` what ``wait`` would have raised, ``reason``
    the server's own words for a failure. ``polls`` counts the answers that contained the task, ``waited`` the seconds from the start of the wait.
    """

    url: str
    state: OutcomeState
    task: MergeTask | None = None
    error: AffinityError | None = None
    reason: str | None = None
    polls: int = 0
    waited: float = 0.0


class TaskSnapshot(Value, frozen=True, kw_only=True):
    """A task as of its last poll, ``age`` seconds ago: what ``peek`` returns."""

    task: MergeTask
    age: float


class Progress(Value, frozen=True, kw_only=True):
    """How far a ``wait_many`` is: what ``on_progress`` is called with after each outcome."""

    total: int
    done: int
    outcome: Outcome


class Outcomes(Sequence[Outcome]):
    """The outcomes of ``wait_many``, one for each URL and in the order of the URLs."""

    __slots__ = ("_items",)

    def __init__(self, items: Sequence[Outcome]) -> None:
        self._items = tuple(items)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> "Outcomes": ...
    def __getitem__(self, index: int | slice) -> "Outcome | Outcomes":
        if isinstance(index, slice):
            return Outcomes(self._items[index])
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Outcomes) and self._items == other._items

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        counts = (f"{len(self._of(state))} {state}" for state in OutcomeState if self._of(state))
        return f"<Outcomes: {', '.join(counts) or 'none'}>"

    def _of(self, state: OutcomeState) -> "Outcomes":
        return Outcomes([outcome for outcome in self._items if outcome.state is state])

    def to_dict(self) -> dict[str, Any]:
        """Return the counts by state, and all ``outcomes``, as JSON has them."""
        counts = {str(state): len(self._of(state)) for state in OutcomeState}
        return {**counts, "outcomes": [outcome.to_dict() for outcome in self._items]}

    @property
    def succeeded(self) -> "Outcomes":
        """The tasks that ended well, in every one of their merges."""
        return self._of(OutcomeState.SUCCESS)

    @property
    def failed(self) -> "Outcomes":
        """The tasks in which a merge failed, with the server's ``reason``."""
        return self._of(OutcomeState.FAILED)

    @property
    def running(self) -> "Outcomes":
        """The tasks that were still running when the time was up."""
        return self._of(OutcomeState.RUNNING)

    @property
    def unknown(self) -> "Outcomes":
        """The tasks whose end could not be read, with the ``error`` that is the reason."""
        return self._of(OutcomeState.UNKNOWN)

    def raise_for_failures(self) -> None:
        """Raise one error for everything that is not a success.

        Raises:
            ExceptionGroup: of the ``error`` of each outcome that failed, still runs or is unknown.
        """
        errors = [outcome.error for outcome in self._items if outcome.error is not None]
        if errors:
            message = f"{len(errors)} of {len(self)} tasks did not succeed"
            raise ExceptionGroup(message, errors)
