"""The records of a dedupe job: rows, merges, pairs, their states and transitions."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Literal, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from aiotasks.models import Kind, Value


OnConflict: TypeAlias = Literal["refuse", "first"]
"""How contradicting rows are handled: all are refused, or the first of them counts."""


class PairState(StrEnum):
    """How far a pair is.

    ``REFUSED`` did not run: the plan left it out, or the server refused it. ``UNSETTLED`` may have
    run: neither the server's lists nor the records proved it.
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
        """Whether it ended, in success or not."""
        return self is PairState.SUCCEEDED or self.is_failure

    @property
    def is_left(self) -> bool:
        """Whether another run may change it: it has not ended, or is unsettled."""
        return not self.is_ended or self is PairState.UNSETTLED

    @property
    def can_retry(self) -> bool:
        """Whether it may be planned again, with ``retry_failed``."""
        return self in {PairState.FAILED, PairState.REFUSED}


# Another program may have started it already, or merged its duplicate away.
_TO_BE_SENT = frozenset(
    {PairState.SENDING, PairState.STARTED, PairState.SUCCEEDED, PairState.REFUSED}
)
ALLOWED_TRANSITIONS: Mapping[PairState, frozenset[PairState]] = {
    PairState.PLANNED: _TO_BE_SENT,
    PairState.SENDING: frozenset(set(PairState) - {PairState.SENDING}),
    PairState.STARTED: frozenset({PairState.SUCCEEDED, PairState.FAILED, PairState.UNSETTLED}),
    PairState.SUCCEEDED: frozenset(),
    PairState.FAILED: _TO_BE_SENT | {PairState.PLANNED},
    PairState.REFUSED: _TO_BE_SENT | {PairState.PLANNED},
    PairState.UNSETTLED: frozenset(set(PairState) - {PairState.SENDING}),
}
"""Which states may follow which; a ledger records no other transition."""

REPORT_COLUMNS: Final = (
    "primary_name",
    "duplicate_name",
    "state",
    "reason",
    "effect",
    "undo",
    "new_id",
    "merge_id",
    "task_url",
    "line",
    "asked_primary_id",
    "planned_at",
    "sending_at",
    "started_at",
    "ended_at",
)
"""Columns that a report adds to the input's; ignored when a report is used as input."""


class Row(Struct, frozen=True, kw_only=True):
    """A row of the input: a pair, its line, and its further columns."""

    line: int
    primary_id: int
    duplicate_id: int
    extra: Mapping[str, str] = field(default_factory=dict)


class PlannedMerge(Struct, frozen=True, kw_only=True):
    """A merge of a plan.

    ``row`` is the row that asks for it. Where the plan flattened a chain, ``primary_id`` is the
    record that survives in the end, and differs from the row's.
    """

    primary_id: int
    duplicate_id: int
    row: Row


class SkippedRow(Struct, frozen=True, kw_only=True):
    """A row that a plan leaves out, and why."""

    row: Row
    reason: str


class Rewrite(Struct, frozen=True, kw_only=True):
    """A row that a plan changes or drops as a repetition; ``text`` explains it in a sentence."""

    row: Row
    text: str


class Pair(Value, frozen=True, kw_only=True):
    """A pair in the ledger.

    ``number`` counts the ledger's pairs from 1: those of the plan in its order, then the rows that
    it left out (``is_planned`` is false). ``asked_primary_id`` is the row's own, if the plan
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
        """Return the pair after a transition."""
        if transition.state in {PairState.PLANNED, PairState.SENDING}:
            known = dict.fromkeys(_OF_AN_ATTEMPT)
            return replace(
                self, state=transition.state, **{**known, TIME_OF[transition.state]: transition.at}
            )
        known = {"task_url": transition.task_url, "merge_id": transition.merge_id}
        return replace(
            self,
            state=transition.state,
            reason=transition.reason,
            **{"ended_at": None, TIME_OF.get(transition.state, "ended_at"): transition.at},
            **{name: value for name, value in known.items() if value is not None},
        )


_OF_AN_ATTEMPT = ("reason", "task_url", "merge_id", "sending_at", "started_at", "ended_at")
"""The fields of a pair that a new attempt clears."""


def has_pairs_left(totals: Mapping[PairState, int]) -> bool:
    """Return whether another run of a job may change one of its pairs."""
    return any(totals[state] for state in PairState if state.is_left)


TIME_OF: Mapping[PairState, str] = {
    PairState.PLANNED: "planned_at",
    PairState.SENDING: "sending_at",
    PairState.STARTED: "started_at",
}
"""The field for the time of each transition; every other one ends the pair."""


class Transition(Struct, frozen=True, kw_only=True):
    """A change of a pair's state, recorded in the ledger before the run acts on it.

    A ``task_url`` or ``merge_id`` of ``None`` keeps the pair's own, except that ``PLANNED`` and
    ``SENDING`` clear the task, its merge, the reason and the later times of an earlier attempt.
    ``STARTED`` clears ``ended_at``. ``at`` is the time, in seconds since the epoch.
    """

    number: int
    state: PairState
    at: float
    reason: str | None = None
    task_url: str | None = None
    merge_id: int | None = None


class LoggedTransition(Struct, frozen=True, kw_only=True):
    """A transition in the ledger's log, numbered by ``seq`` from 1."""

    seq: int
    transition: Transition


class JobInfo(Struct, frozen=True, kw_only=True):
    """The job of a ledger: what it was begun with, and when."""

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
