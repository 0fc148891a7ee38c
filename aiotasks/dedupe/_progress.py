"""What a job tells while it runs: snapshots of how far it is, and typed events."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from msgspec import Struct

from .models import Pair, PairState, StopReason


_RATE_OVER: Final = 120.0
# Of the first seconds no rate can be told.
_RATE_AT_LEAST: Final = 10.0
_MINUTE: Final = 60.0
TICK: Final = 1.0
"""Seconds between two looks at how far a job is."""


class JobProgress(Struct, frozen=True, kw_only=True):
    """How far a job is; what ``on_progress`` is called with about once a second.

    ``totals`` counts the pairs of the ledger in each state. ``waiting_for`` says what keeps the
    next merge from starting. ``per_minute`` is how many pairs ended a minute of late, and
    ``seconds_left`` what that makes of the rest. ``calls`` counts those of this run, and
    ``month_used`` those of the organization's month as far as the API tells; ``minute_left`` of
    ``minute_limit`` calls are left in the minute. ``is_cut_off`` says that the API does not
    answer: the job waits, and goes on by itself.
    """

    totals: Mapping[PairState, int]
    waiting_for: str | None = None
    per_minute: float = 0.0
    seconds_left: float | None = None
    calls: int = 0
    month_used: int | None = None
    month_limit: int | None = None
    minute_left: int | None = None
    minute_limit: int | None = None
    is_cut_off: bool = False

    @property
    def total(self) -> int:
        """How many pairs there are."""
        return sum(self.totals.values())

    @property
    def open(self) -> int:
        """How many merges are open: being sent, or running at the server."""
        return sum(self.totals[state] for state in PairState if state.is_open)

    @property
    def ended(self) -> int:
        """How many pairs have come to an end, whatever it was."""
        return sum(self.totals[state] for state in PairState if state.is_ended)


class PairChanged(Struct, frozen=True, kw_only=True):
    """A pair has taken a step; ``seq`` numbers the steps in the ledger's log."""

    seq: int
    pair: Pair


class CanaryPassed(Struct, frozen=True, kw_only=True):
    """The first merges have ended, few enough of them badly: the others may start."""

    ended: int


class Stopping(Struct, frozen=True, kw_only=True):
    """No more merges are started; those that are open are waited for, for ``grace`` seconds."""

    reason: StopReason
    grace: float


JobEvent: TypeAlias = PairChanged | CanaryPassed | Stopping
OnProgress: TypeAlias = Callable[[JobProgress], object]
OnEvent: TypeAlias = Callable[[JobEvent], object]


class Meter:
    """Tells how many pairs end a minute, from when the last of them did."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._ends: deque[float] = deque()

    def count(self, now: float) -> None:
        """Note that a pair has ended."""
        self._ends.append(now)

    def per_minute(self, now: float) -> float:
        """Return the rate of the last two minutes, or of as much as there was."""
        while self._ends and self._ends[0] < now - _RATE_OVER:
            _ = self._ends.popleft()
        seconds = min(max(now - self._started, _RATE_AT_LEAST), _RATE_OVER)
        return len(self._ends) * _MINUTE / seconds
