"""The limits: what the headers say goes in, when the next request may go comes out.

Only numbers are decided here and time is an argument; who waits, and how, is the transport's.
Each of the API's three limits answers 429, and each wants another reaction: the minute is waited
out, too many requests at once become fewer, and the month ends the work.
"""

import math
from collections.abc import Mapping
from enum import IntEnum
from typing import Final, TypeVar

from aiotasks.models import DEFAULT_LIMIT, Quota

from .limits import RateLimits


T = TypeVar("T")
D = TypeVar("D")

START_IN_FLIGHT: Final = 4
MAX_HOLD: Final = 120.0
"""The longest that a ``Retry-After`` or the reset of a minute is believed, in seconds."""

_MIN_HOLD = 1.0
# Whole seconds make `reset` jump by this much within one minute, slow answers by more: only half
# a minute of difference tells two minutes apart.
_JUMP = 2.5
_MINUTE = 60.0
# Kept free for whoever waits for an answer, and for polls while merges would take all there is.
_INTERACTIVE_SHARE = 0.01
_POLL_SHARE = 0.073
_MIN_POLLS = 4
_MAX_MARGIN = 2.0
_CAUTION = 0.05
_BURST = 3.0
_RESOLUTION = 0.001


class Lane(IntEnum):
    """Who goes first: somebody who waits for an answer, then merges, then polls."""

    INTERACTIVE = 0
    MERGE = 1
    POLL = 2


_POLLS_TURN = (Lane.INTERACTIVE, Lane.POLL, Lane.MERGE)
_MERGES_TURN = (Lane.INTERACTIVE, Lane.MERGE, Lane.POLL)


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
        # Whether somebody waits for tasks, so that merges leave polls their share.
        self.has_polls = False
        self._max_in_flight = max_in_flight
        self._reserve = reserve
        self._allowed = float(min(START_IN_FLIGHT, max_in_flight))
        self._threshold = float(max_in_flight)
        self._held_until = -math.inf
        self._refusals = 0
        self._is_probing = False
        self._is_known = False
        self._limit: int | None = None
        self._org_limit: int | None = None
        self._org_remaining: int | None = None
        self._remaining: int | None = None
        self._resets_at = math.inf
        self._org_resets_at = math.inf
        self._window = _MIN_HOLD
        self._sent_before = 0
        self._others_rate = 0.0
        self._learned_at = 0.0
        self._margin = 0.0
        self._has_turned = False
        self._polled_at = -math.inf
        self._last_lane = Lane.INTERACTIVE

    def choose(self, now: float, waiting: Mapping[Lane, int]) -> tuple[Lane | None, float]:
        """Return the lane that may send now; or none, and the seconds until one may.

        They are infinite when an answer has to come first.
        """
        is_contested = bool(waiting[Lane.MERGE])
        soonest = math.inf
        for lane in self._order(waiting):
            delay = self.delay(now, lane, is_contested=is_contested)
            if delay <= 0:
                return lane, 0.0
            soonest = min(soonest, delay)
        # A wait that is shorter than the clock's resolution would never end.
        return None, max(soonest, _RESOLUTION)

    def _order(self, waiting: Mapping[Lane, int]) -> list[Lane]:
        # Polls come before merges when it is their time, because they keep to a pace of their own.
        # Where no limit sets that, the two take turns.
        is_merges_turn = self._remaining is None and self._last_lane is Lane.POLL
        order = _MERGES_TURN if is_merges_turn else _POLLS_TURN
        return [lane for lane in order if waiting[lane]]

    def delay(self, now: float, lane: Lane, *, is_contested: bool = False) -> float:
        """Return the seconds until a request of a lane may go; infinite: an answer comes first.

        ``is_contested`` says whether merges wait too, so that polls keep to their share.
        """
        if now < self._held_until:
            return self._held_until - now
        if now >= self._resets_at:
            self._turn_minute(now)
            self._has_turned = True
        if not self._is_known:
            is_full = self.in_flight >= self._max_in_flight
            return math.inf if self._is_probing or is_full else 0.0
        if self.in_flight >= int(self._allowed) or self._is_month_at_stake():
            return math.inf
        return self._minute_delay(now, lane, is_contested=is_contested)

    def _minute_delay(self, now: float, lane: Lane, *, is_contested: bool) -> float:
        if self._remaining is None:
            return 0.0
        # What other programs take comes in bursts, and is known only when an answer tells it.
        burst = math.ceil(self._others_rate * _BURST)
        taken = math.ceil(self._others_rate * (now - self._learned_at))
        free = self._remaining - self.in_flight - burst - taken
        if free <= 0:
            if self._remaining > 0 and self.in_flight:
                # What is on its way may be counted already: its answers will tell.
                return math.inf
            # With nothing on its way, somebody has to ask how much the others have left.
            return 0.0 if self._remaining > burst else self._resets_at - now
        if lane is Lane.POLL and is_contested:
            return max(0.0, self._polled_at + 1 / self._poll_rate - now)
        # What is kept for the other lanes is kept for the rest of the minute, and melts with it.
        kept = self._kept_rate(lane)
        left = self._resets_at - now
        return 0.0 if free > kept * left else left - free / kept

    @property
    def _poll_rate(self) -> float:
        limit = _or(self._limit, DEFAULT_LIMIT)
        return max(_POLL_SHARE * limit, _MIN_POLLS) / self._window

    def _kept_rate(self, lane: Lane) -> float:
        if lane is Lane.INTERACTIVE:
            return 0.0
        rate = _INTERACTIVE_SHARE * _or(self._limit, DEFAULT_LIMIT) / self._window
        if lane is Lane.POLL or not self.has_polls:
            return rate
        # What other programs took of the last minute they will not leave to the polls in this one.
        return rate + self._poll_rate + self._others_rate

    def _is_month_at_stake(self) -> bool:
        # What is on its way may be counted already, as in the minute.
        remaining = self._org_remaining
        return remaining is not None and 0 < remaining - self._reserve <= self.in_flight

    def _turn_minute(self, now: float) -> None:
        used = _or(self._limit, DEFAULT_LIMIT) - _or(self._remaining, 0)
        elapsed = self._window - max(0.0, self._resets_at - now)
        others = max(0, used - (self.sent - self._sent_before))
        # Early in a minute little is known, and never more than half of it is left to others.
        most = _or(self._limit, DEFAULT_LIMIT) / self._window / 2
        self._others_rate = min(others / max(elapsed, self._window / 4), most)
        self._sent_before = self.sent
        self._forget_minute()

    def _forget_minute(self) -> None:
        self._is_known = False
        self._is_probing = False
        self._remaining = None
        self._resets_at = math.inf

    @property
    def allowed(self) -> float:
        """How many requests may be in flight at once, for now."""
        return self._allowed

    def is_month_used_up(self, now: float) -> bool:
        """Say whether the organization's month is down to the reserve."""
        remaining = self._org_remaining
        return remaining is not None and remaining <= self._reserve and now < self._org_resets_at

    def send(self, now: float, lane: Lane) -> None:
        """Count a request that got its slot."""
        self.in_flight += 1
        self.sent += 1
        self._is_probing = True
        self._last_lane = lane
        if lane is Lane.POLL:
            self._polled_at = now

    def answer(self, now: float, status: int, limits: RateLimits) -> None:
        """Learn from the headers of an answer, as soon as they are there."""
        self.learn(now, limits)
        if status == 429:  # noqa: PLR2004 - HTTP's own number
            self.refused += 1
            self._refuse(now, limits)
            return
        # An answer to what was sent before a refusal does not stand for the probe.
        if now >= self._held_until:
            self._is_known = True
            self._has_turned = False
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

    def quota(self, now: float, *, waiting: int = 0) -> Quota:
        """Return what is known, when so many requests wait for a slot."""
        remaining = self._remaining
        return Quota(
            limit=self._limit,
            remaining=None if remaining is None else max(0, remaining - self.in_flight),
            reset=_until(self._resets_at, now),
            org_limit=self._org_limit,
            org_remaining=self._org_remaining,
            org_reset=_until(self._org_resets_at, now),
            in_flight=self.in_flight,
            sent=self.sent,
            refused=self.refused,
            waiting=waiting,
            waiting_for=self._obstacle(now) if waiting else None,
        )

    def _obstacle(self, now: float) -> str:
        if now < self._held_until:
            return "a pause that the API asked for to end"
        if not self._is_known:
            return "the first answer of the minute"
        if self.in_flight >= int(self._allowed):
            return "others to be answered"
        return "the next minute, or their share of this one"

    def learn(self, now: float, limits: RateLimits) -> None:
        """Learn what an answer tells of the limits, by its headers or its body."""
        # Answers without the headers (a proxy's, say) leave what is known as it is.
        if limits.user is not None:
            self._limit = limits.user
        if limits.org is not None:
            self._org_limit = limits.org
        if limits.org_remaining is not None:
            self._org_remaining = limits.org_remaining
            self._org_resets_at = now + _or(limits.org_reset, math.inf)
        if limits.user_remaining is not None:
            self._learn_minute(now, limits.user_remaining, _or(limits.user_reset, _MINUTE))

    def _learn_minute(self, now: float, remaining: int, reset: float) -> None:
        resets_at = now + _bounded(reset) + self._margin
        self._window = max(self._window, min(reset, MAX_HOLD))
        self._learned_at = now
        jump = max(_JUMP, self._window / 2)
        if self._remaining is None or resets_at > self._resets_at + jump:
            self._remaining, self._resets_at = remaining, resets_at
        elif resets_at > self._resets_at - jump:
            # Answers overtake each other, and whole seconds round: only the lowest counts.
            self._remaining = min(self._remaining, remaining)
            self._resets_at = min(self._resets_at, resets_at)

    def _refuse(self, now: float, limits: RateLimits) -> None:
        # Refusals of what was sent before the first of them are one event, not many.
        is_first = now >= self._held_until
        self._refusals += is_first
        backoff = _MIN_HOLD * 2 ** (self._refusals - 1)
        if limits.user_remaining == 0:
            backoff = _or(limits.user_reset, backoff)
            # A minute that turns later than it said: its seconds are rounded down.
            self._margin = min(self._margin + self._has_turned, _MAX_MARGIN)
            if is_first:
                self._turn_minute(now)
        elif limits.user_remaining is not None and is_first:
            self._threshold = max(1.0, int(self._allowed) / 2)
        self._hold(now, _or(limits.retry_after, backoff))
        # One probe comes next; once it is let through, the others follow by and by.
        self._forget_minute()
        self._allowed = 1.0

    def _hold(self, now: float, seconds: float) -> None:
        self._held_until = max(self._held_until, now + _bounded(seconds))

    def _grow(self) -> None:
        # Beyond what was refused before, one more is tried after many rounds that went well.
        step = 1.0 if self._allowed < self._threshold else _CAUTION / self._allowed
        self._allowed = min(self._allowed + step, float(self._max_in_flight))


def _bounded(seconds: float) -> float:
    return min(max(seconds, _MIN_HOLD), MAX_HOLD)


def _or(value: T | None, default: D) -> T | D:
    return default if value is None else value


def _until(moment: float, now: float) -> float | None:
    # Outside the client's scope there is no clock, and `now` is infinite too.
    return None if math.isinf(moment - now) else max(0.0, moment - now)
