"""The limits: what the headers say goes in, when the next request may go comes out.

Only numbers are decided here and time is an argument; who waits, and how, is the transport's.
Each of the API's three limits answers 429, and each wants another reaction: the minute is waited
out, too many requests at once become fewer, and the month ends the work.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import IntEnum
from typing import Final, TypeVar

from .models import Quota


T = TypeVar("T")
D = TypeVar("D")

START_IN_FLIGHT: Final = 4
MAX_HOLD: Final = 120.0
"""The longest that a ``Retry-After`` or the reset of a minute is believed, in seconds."""

_MIN_HOLD = 1.0
# Whole seconds and the way of the answer make `reset` jump by this much within one minute.
_JUMP = 2.5
# Every tenth slot goes to the lane that would else wait for all others to be done.
_TURN = 10


class Lane(IntEnum):
    """Who goes first: somebody who waits for an answer, then merges, then polls."""

    INTERACTIVE = 0
    MERGE = 1
    POLL = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What the headers of one answer say of the limits; ``None`` where nothing usable."""

    user: int | None = None
    user_remaining: int | None = None
    user_reset: int | None = None
    org: int | None = None
    org_remaining: int | None = None
    org_reset: int | None = None
    retry_after: float | None = None


def read_limits(headers: Mapping[str, str], now: datetime) -> Limits:
    """Read the headers of an answer; garbage counts as missing, for none of them is required.

    ``now`` is the wall clock's, for a ``Retry-After`` that is a date.
    """
    get = headers.get
    return Limits(
        _count(get("X-Ratelimit-Limit-User")),
        _count(get("X-Ratelimit-Limit-User-Remaining")),
        _count(get("X-Ratelimit-Limit-User-Reset")),
        _count(get("X-Ratelimit-Limit-Org")),
        _count(get("X-Ratelimit-Limit-Org-Remaining")),
        _count(get("X-Ratelimit-Limit-Org-Reset")),
        _seconds(get("Retry-After"), now),
    )


def _count(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        number = int(float(text))
    except (ValueError, OverflowError):
        return None
    return number if number >= 0 else None


def _seconds(text: str | None, now: datetime) -> float | None:
    seconds = _count(text)
    if text is None or seconds is not None:
        return seconds
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max(
        0.0, ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now).total_seconds()
    )


def choose_lane(waiting: Mapping[Lane, int], turn: int) -> Lane:
    """Return the lane that slot number ``turn`` goes to; at least one must be waiting."""
    lanes = [lane for lane in Lane if waiting[lane]]
    return lanes[-1] if turn % _TURN == _TURN - 1 else lanes[0]


class Pacer:
    """Says when the next request may go.

    The answers' ``remaining`` is believed, less what is on its way and may not be counted in it.
    While nothing is known of the present minute (at the start, after its end, after a 429), one
    request goes first and the others wait for what it learns.
    """

    def __init__(self, *, max_in_flight: int, reserve: int = 0) -> None:
        self.in_flight = 0
        self.sent = 0
        self.refused = 0
        self._max_in_flight = max_in_flight
        self._reserve = reserve
        self._allowed = float(min(START_IN_FLIGHT, max_in_flight))
        self._threshold = float(max_in_flight)
        self._held_until = -math.inf
        self._refusals = 0
        self._is_probing = False
        self._is_known = False
        self._limits = Limits()
        self._remaining: int | None = None
        self._resets_at = math.inf
        self._org_resets_at = math.inf

    def delay(self, now: float) -> float:
        """Return the seconds until a request may go; infinite: not before an answer comes."""
        if now < self._held_until:
            return self._held_until - now
        if now >= self._resets_at:
            self._forget_minute()
        if not self._is_known:
            is_full = self.in_flight >= self._max_in_flight
            return math.inf if self._is_probing or is_full else 0.0
        if self.in_flight >= int(self._allowed) or self._is_month_at_stake():
            return math.inf
        return self._minute_delay(now)

    def _minute_delay(self, now: float) -> float:
        if self._remaining is None or self._remaining > self.in_flight:
            return 0.0
        # What is on its way may be counted already: its answers will tell.
        return math.inf if self._remaining > 0 and self.in_flight else self._resets_at - now

    def _is_month_at_stake(self) -> bool:
        # What is on its way may be counted already, as in the minute.
        remaining = self._limits.org_remaining
        return remaining is not None and 0 < remaining - self._reserve <= self.in_flight

    def _forget_minute(self) -> None:
        self._is_known = False
        self._is_probing = False
        self._remaining = None
        self._resets_at = math.inf

    def is_month_used_up(self, now: float) -> bool:
        """Say whether the organization's month is down to the reserve."""
        remaining = self._limits.org_remaining
        return remaining is not None and remaining <= self._reserve and now < self._org_resets_at

    def send(self) -> None:
        """Count a request that got its slot."""
        self.in_flight += 1
        self.sent += 1
        self._is_probing = True

    def answer(self, now: float, status: int, limits: Limits) -> None:
        """Learn from the headers of an answer, as soon as they are there."""
        self._learn(now, limits)
        if status == 429:  # noqa: PLR2004 - HTTP's own number
            self.refused += 1
            self._refuse(now, limits)
            return
        # An answer to what was sent before a refusal does not stand for the probe.
        if now >= self._held_until:
            self._is_known = True
            self._refusals = 0
            self._grow()
        if limits.retry_after is not None and status >= 500:  # noqa: PLR2004
            self._hold(now, limits.retry_after)

    def end(self, *, was_answered: bool) -> None:
        """Give a slot back. What was sent and not answered may have been counted."""
        self.in_flight -= 1
        if not was_answered:
            self._is_probing = False
            if self._remaining:
                self._remaining -= 1

    def unsend(self) -> None:
        """Give a slot back that was never used."""
        self.in_flight -= 1
        self.sent -= 1
        self._is_probing = False

    def quota(self, now: float) -> Quota:
        """Return what is known."""
        remaining = self._remaining
        return Quota(
            limit=self._limits.user,
            remaining=None if remaining is None else max(0, remaining - self.in_flight),
            reset=_until(self._resets_at, now),
            org_limit=self._limits.org,
            org_remaining=self._limits.org_remaining,
            org_reset=_until(self._org_resets_at, now),
            in_flight=self.in_flight,
            sent=self.sent,
            refused=self.refused,
        )

    def _learn(self, now: float, limits: Limits) -> None:
        # Answers without the headers (a proxy's, say) leave what is known as it is.
        if limits.org_remaining is not None:
            self._org_resets_at = now + _or(limits.org_reset, math.inf)
        self._limits = Limits(
            _or(limits.user, self._limits.user),
            None,
            None,
            _or(limits.org, self._limits.org),
            _or(limits.org_remaining, self._limits.org_remaining),
        )
        if limits.user_remaining is not None:
            self._learn_minute(limits.user_remaining, now + _bounded(_or(limits.user_reset, 60)))

    def _learn_minute(self, remaining: int, resets_at: float) -> None:
        if self._remaining is None or resets_at > self._resets_at + _JUMP:
            self._remaining, self._resets_at = remaining, resets_at
        elif resets_at > self._resets_at - _JUMP:
            # Answers overtake each other: within a minute only the lowest counts.
            self._remaining = min(self._remaining, remaining)

    def _refuse(self, now: float, limits: Limits) -> None:
        # Refusals of what was sent before the first of them are one event, not many.
        if now >= self._held_until:
            self._refusals += 1
        backoff = _MIN_HOLD * 2 ** (self._refusals - 1)
        if limits.user_remaining == 0:
            backoff = _or(limits.user_reset, backoff)
        elif limits.user_remaining is not None:
            self._threshold = max(1.0, self._allowed / 2)
        self._hold(now, _or(limits.retry_after, backoff))
        # One probe comes next; once it is let through, the others follow by and by.
        self._forget_minute()
        self._allowed = 1.0

    def _hold(self, now: float, seconds: float) -> None:
        self._held_until = max(self._held_until, now + _bounded(seconds))

    def _grow(self) -> None:
        step = 1.0 if self._allowed < self._threshold else 1 / self._allowed
        self._allowed = min(self._allowed + step, float(self._max_in_flight))


def _bounded(seconds: float) -> float:
    return min(max(seconds, _MIN_HOLD), MAX_HOLD)


def _or(value: T | None, default: D) -> T | D:
    return default if value is None else value


def _until(moment: float, now: float) -> float | None:
    # Outside the client's scope there is no clock, and `now` is infinite too.
    return None if math.isinf(moment - now) else max(0.0, moment - now)
