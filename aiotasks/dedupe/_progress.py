"""What a running job reports: snapshots of its progress, and typed events."""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from msgspec import Struct

from aiotasks.models import Value

from .models import Pair, PairState, StopReason


log = logging.getLogger("aiotasks.dedupe")

# A choice: long enough to smooth the bursts in which the rate limit lets merges through.
_RATE_OVER: Final = 120.0
# The first pairs of a run end together: divided by a second or two, the rate would be absurd.
_RATE_AT_LEAST: Final = 10.0
_MINUTE: Final = 60.0
TICK: Final = 1.0
"""Seconds between two snapshots of a job's progress."""


class JobProgress(Value, frozen=True, kw_only=True):
    """How far a job is; ``on_progress`` is called with one about once a second.

    ``totals`` counts the pairs of the ledger in each state. ``waiting_for`` is what keeps the next
    merge from starting. ``per_minute`` is how many pairs ended a minute recently, and
    ``seconds_left`` how long the rest takes with even odds, by the merges that have ended and the rate
    limit, or ``None`` while too little is known. ``calls`` counts those of this run, and
    ``month_used`` those of the organization's month, if the API reports them; ``minute_left`` of
    ``minute_limit`` calls are left in the rate-limit window. ``is_cut_off`` is true while the API
    does not answer: the job waits, and continues by itself.
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
        """How many pairs have ended, in success or not."""
        return sum(self.totals[state] for state in PairState if state.is_ended)


class PairChanged(Struct, frozen=True, kw_only=True):
    """A pair after a transition; ``seq`` is the transition's number in the ledger's log."""

    seq: int
    pair: Pair


class CanaryPassed(Struct, frozen=True, kw_only=True):
    """Half of the first batch has succeeded: the other merges may start."""

    ended: int


class Stopping(Struct, frozen=True, kw_only=True):
    """No more merges are started; the job waits ``grace`` seconds for the open ones."""

    reason: StopReason
    grace: float


JobEvent: TypeAlias = PairChanged | CanaryPassed | Stopping
OnProgress: TypeAlias = Callable[[JobProgress], object]
OnEvent: TypeAlias = Callable[[JobEvent], object]


def log_event(event: JobEvent) -> None:
    """Log an event of a job: transitions of its pairs at DEBUG, the rest at INFO."""
    if isinstance(event, PairChanged):
        if log.isEnabledFor(logging.DEBUG):
            names = ("number", "primary_id", "duplicate_id", "task_url", "reason")
            fields = {name: getattr(event.pair, name) for name in names}
            fields["state"] = str(event.pair.state)
            words = "%(duplicate_id)d into %(primary_id)d: %(state)s"
            log.debug(words, fields, extra=fields)
    elif isinstance(event, CanaryPassed):
        log.info("The first %d merges have succeeded", event.ended, extra={"ended": event.ended})
    else:
        fields = {"reason": str(event.reason), "grace": event.grace}
        log.info("The job stops: %(reason)s", fields, extra=fields)


class Meter:
    """Measures how many pairs end a minute, over the last two minutes."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._ends: deque[float] = deque()

    def count(self, now: float) -> None:
        """Count a pair that ended at ``now``, in seconds."""
        self._ends.append(now)

    def per_minute(self, now: float) -> float:
        """Return the rate of the last two minutes, or since the start if that is more recent."""
        while self._ends and self._ends[0] < now - _RATE_OVER:
            _ = self._ends.popleft()
        seconds = min(max(now - self._started, _RATE_AT_LEAST), _RATE_OVER)
        return len(self._ends) * _MINUTE / seconds
