"""The words of a dedupe job: its rows, its merges, their states and what happens to them."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Literal, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from aiotasks.models import Kind


OnConflict: TypeAlias = Literal["refuse", "first"]
"""What becomes of contradicting rows: all are refused, or the first of them counts."""


class PairState(StrEnum):
    """How far a pair is.

    ``REFUSED`` did not run: the plan left it out, or the server would not start it. ``UNSETTLED``
    may have run, and neither the server's merge list nor the record could tell.
    """

    PLANNED = "planned"
    SENDING = "sending"
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"
    UNSETTLED = "unsettled"

    @property
    def is_open(self) -> bool:
        """Whether its merge is being sent, or runs at the server."""
        return self in {PairState.SENDING, PairState.STARTED}

    @property
    def is_failure(self) -> bool:
        """Whether it ended, and is not known to be merged."""
        return self in {PairState.FAILED, PairState.REFUSED, PairState.UNSETTLED}

    @property
    def is_ended(self) -> bool:
        """Whether it came to an end, for better or worse."""
        return self is PairState.SUCCEEDED or self.is_failure

    @property
    def is_left(self) -> bool:
        """Whether going on with the job may change it: it has not ended, or is unsettled."""
        return not self.is_ended or self is PairState.UNSETTLED

    @property
    def can_retry(self) -> bool:
        """Whether it may be planned again, with ``retry_failed``."""
        return self in {PairState.FAILED, PairState.REFUSED}


ALLOWED_TRANSITIONS: Mapping[PairState, frozenset[PairState]] = {
    PairState.PLANNED: frozenset({PairState.SENDING, PairState.SUCCEEDED, PairState.REFUSED}),
    PairState.SENDING: frozenset(set(PairState) - {PairState.SENDING}),
    PairState.STARTED: frozenset({PairState.SUCCEEDED, PairState.FAILED, PairState.UNSETTLED}),
    PairState.SUCCEEDED: frozenset(),
    PairState.FAILED: frozenset({PairState.PLANNED}),
    PairState.REFUSED: frozenset({PairState.PLANNED}),
    PairState.UNSETTLED: frozenset(set(PairState) - {PairState.SENDING}),
}
"""Which states may follow which; a ledger takes no other step."""

REPORT_COLUMNS: Final = (
    "primary_name",
    "duplicate_name",
    "state",
    "reason",
    "merge_id",
    "task_url",
    "line",
    "asked_primary_id",
    "planned_at",
    "sending_at",
    "started_at",
    "ended_at",
)
"""What a report tells of a pair beside its ids and its own columns, and reads past as input."""


class Row(Struct, frozen=True, kw_only=True):
    """A row of the input: a pair, where it stands, and its further columns."""

    line: int
    primary_id: int
    duplicate_id: int
    extra: Mapping[str, str] = field(default_factory=dict)


class PlannedMerge(Struct, frozen=True, kw_only=True):
    """A merge that a plan asks for.

    ``row`` is the row that it stands for. Where chains became stars, ``primary_id`` is the record
    that survives in the end, and differs from the row's.
    """

    primary_id: int
    duplicate_id: int
    row: Row


class SkippedRow(Struct, frozen=True, kw_only=True):
    """A row that a plan leaves out, and why."""

    row: Row
    reason: str


class Rewrite(Struct, frozen=True, kw_only=True):
    """A row that a plan understands otherwise than it is written, and how, in a sentence."""

    row: Row
    text: str


class Pair(Struct, frozen=True, kw_only=True):
    """A pair as the ledger knows it.

    ``number`` counts the ledger's pairs from 1, first those of the plan in its order, then what
    was left out (``is_planned`` is false). ``asked_primary_id`` is the row's own, where the plan
    rewrote it. Times are seconds since the epoch.
    """

    number: int
    line: int
    primary_id: int
    duplicate_id: int
    state: PairState
    is_planned: bool = True
    asked_primary_id: int | None = None
    extra: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    task_url: str | None = None
    merge_id: int | None = None
    planned_at: float | None = None
    sending_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None

    def after(self, transition: "Transition") -> "Pair":
        """Return the pair as it is after a step."""
        if transition.state is PairState.PLANNED:
            times = {"sending_at": None, "started_at": None, "ended_at": None}
            task = {"reason": None, "task_url": None, "merge_id": None}
            return replace(self, state=transition.state, planned_at=transition.at, **task, **times)
        known = {"task_url": transition.task_url, "merge_id": transition.merge_id}
        return replace(
            self,
            state=transition.state,
            reason=transition.reason,
            **{"ended_at": None, TIME_OF.get(transition.state, "ended_at"): transition.at},
            **{name: value for name, value in known.items() if value is not None},
        )


TIME_OF: Mapping[PairState, str] = {
    PairState.PLANNED: "planned_at",
    PairState.SENDING: "sending_at",
    PairState.STARTED: "started_at",
}
"""Where the time of a step is kept; that of all others is the pair's end."""


class Transition(Struct, frozen=True, kw_only=True):
    """One step of a pair: what the ledger is told before anybody acts on it.

    A ``task_url`` or ``merge_id`` of ``None`` leaves what is known, except that ``PLANNED`` forgets
    the task, its merge, the reason and the later times. What goes on has no end: ``SENDING`` and
    ``STARTED`` forget that of before.
    """

    number: int
    state: PairState
    at: float
    reason: str | None = None
    task_url: str | None = None
    merge_id: int | None = None


class LoggedTransition(Struct, frozen=True, kw_only=True):
    """A step as it stands in the ledger's log, numbered by ``seq`` from 1."""

    seq: int
    transition: Transition


class JobInfo(Struct, frozen=True, kw_only=True):
    """The job that a ledger is of: what it was begun with, and when."""

    kind: Kind
    origin: str
    fingerprint: str
    source: str
    digest: str
    columns: tuple[str, ...]
    merges: int
    begun_at: float


class StopReason(StrEnum):
    """Why a job stopped before all of its pairs had ended."""

    INTERRUPTED = "interrupted"
    FAILURES = "failures"
    MONTH = "month"
    NOT_AUTHORISED = "not-authorised"
    UNREACHABLE = "unreachable"
