"""When the next request may go, computed from the rate limit headers of the answers.

Time is an argument and nothing here waits; that is the slots' part. The API has three limits, all
of which answer 429: for the per-minute window the client waits for its reset, for concurrency it
sends fewer requests at once, and the monthly quota ends the work.
Headers and limits: https://developer.affinity.co/pages/external-api-v2/rate-limits
"""

import math
from collections.abc import Mapping
from enum import IntEnum
from typing import Final, TypeVar

from aiotasks.models import DEFAULT_LIMIT, Quota

from .call_rate import CallRate
from .rate_limit_headers import RateLimits


T = TypeVar("T")
D = TypeVar("D")

# A choice. Each answer allows one more, up to ``max_in_flight``.
START_IN_FLIGHT: Final = 4

# A choice: two windows. What a header asks for beyond that is taken for a mistake.
MAX_HOLD: Final = 120.0
"""The longest that a ``Retry-After`` or a reset is believed, in seconds."""

# The headers count whole seconds, so less than one means nothing.
_MIN_HOLD = 1.0
# Whole seconds make `reset` jump by about this much in one window, slow answers by more. Two windows
# are therefore distinguished by half a window, and never by less than this.
_JUMP = 2.5
_MINUTE = 60.0
# Choices: 9 of 900 requests a minute are kept for interactive calls, 45 while others use the key, and
# as many as there have been, if these are more, up to a share of the limit.
_INTERACTIVE_SHARE = 0.01
_SHARE_BESIDE_OTHERS = 0.05
_LARGEST_SHARE = 0.2
# A choice: so few interactive calls in a minute are no rate.
_FEW_ASKED = 2
# Choices: few requests of this client say nothing of how many others have; and more than one program
# is what has twice as many as this client.
_FEW_SENT = 20
_SEVERAL = 2.0
# A choice: others are taken to have at most so many times as many requests as this client.
_MOST_PROGRAMS = 8.0
# Fitted to the bulk job; see the sweep in benchmarks/results/README.md.
_POLL_SHARE = 0.073
# A choice, for limits so small that the share would be less than a poll each 15 s.
_MIN_POLLS = 4
# A choice. A refusal right after a reset adds 1 s, because the header rounds down.
_MAX_MARGIN = 2.0
# A choice: beyond the number that was refused, about twenty rounds of answers allow one more.
_CAUTION = 0.05
# A choice: what other programs send in 3 s at their rate of the last window may come at once.
_BURST = 3.0
# A wait that is shorter than the clock's resolution would end too early, again and again.
_RESOLUTION = 0.001


class Lane(IntEnum):
    """Kinds of requests by priority: interactive calls, then merges, then polls."""

    INTERACTIVE = 0
    MERGE = 1
    POLL = 2


_POLLS_TURN = (Lane.INTERACTIVE, Lane.POLL, Lane.MERGE)
_MERGES_TURN = (Lane.INTERACTIVE, Lane.MERGE, Lane.POLL)


class Pacer:
    """Decides when the next request may go.

    The ``remaining`` of the answers is believed, less the requests in flight, which it may not
    count yet. While nothing is known of the current window (at the start, after a reset, after a
    429), one request goes first as a probe and the others wait for its answer.
    """

    def __init__(
        self, *, max_in_flight: int, reserve: int = 0, calls_per_minute: int | None = None
    ) -> None:
        self.in_flight = 0
        self.sent = 0
        self.refused = 0
        # Whether tasks are waited for, so that merges must leave polls their share.
        self.has_polls = False
        self._max_in_flight = max_in_flight
        self._reserve = reserve
        self._most: float = math.inf if calls_per_minute is None else calls_per_minute
        self._own_rate = None if calls_per_minute is None else CallRate(calls_per_minute)
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
        self._sent_in_window_before = 0
        # When the window began, or the first request in it; and its interactive calls.
        self._began_at = math.inf
        self._asked = 0
        self._asked_before = 0.0
        # The requests of other programs; some were counted before this client's first.
        self._others = 0
        self._others_before = 0
        self._others_base: int | None = None
        self._others_rate = 0.0
        self._learned_at = 0.0
        self._margin = 0.0
        self._has_turned = False
        self._polled_at = -math.inf
        self._last_lane = Lane.INTERACTIVE

    def choose(self, now: float, waiting: Mapping[Lane, int]) -> tuple[Lane | None, float]:
        """Return the lane that may send now; or none, and the seconds until one may.

        The seconds are infinite when an answer has to come first.
        """
        is_contested = bool(waiting[Lane.MERGE])
        soonest = math.inf
        for lane in self._order(waiting):
            delay = self.delay(now, lane, is_contested=is_contested)
            if delay <= 0:
                return lane, 0.0
            soonest = min(soonest, delay)
        return None, max(soonest, _RESOLUTION)

    def _order(self, waiting: Mapping[Lane, int]) -> list[Lane]:
        # Polls come before merges because their rate is limited while merges wait. Without a limit
        # there is no such rate, and the two take turns.
        is_merges_turn = self._remaining is None and self._last_lane is Lane.POLL
        order = _MERGES_TURN if is_merges_turn else _POLLS_TURN
        return [lane for lane in order if waiting[lane]]

    def delay(self, now: float, lane: Lane, *, is_contested: bool = False) -> float:
        """Return the seconds until a request of a lane may go; infinite if an answer comes first.

        ``is_contested`` means that merges wait too, so that polls get their share and no more.
        """
        if now < self._held_until:
            return self._held_until - now
        if self._own_rate is not None and (delay := self._own_rate.delay(now)) > 0:
            return delay
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
        # Other programs send in bursts, and what they took is known only from the next answer.
        burst, in_flight = 0, float(self.in_flight)
        taken = math.ceil(self._others_rate * (now - self._learned_at))
        if lane is not Lane.INTERACTIVE:
            # What others leave alone is for interactive calls, which need not leave it, too.
            burst = math.ceil(self._others_rate * _BURST)
            in_flight *= self._programs
        free = self._remaining - in_flight - burst - taken
        if free <= 0:
            if self._remaining > 0 and self.in_flight:
                # Requests in flight may be counted already: their answers will show it.
                return math.inf
            # With nothing in flight, only a request can find out how much is left.
            return 0.0 if self._remaining > burst else self._resets_at - now
        # The reserve for the other lanes is a rate: it shrinks with the rest of the window, so
        # that nothing is left over at the reset.
        kept = self._kept_rate(now, lane)
        left = self._resets_at - now
        delay = 0.0
        if lane is not Lane.INTERACTIVE and free <= max(kept * left, self._last_calls):
            delay = left if free <= self._last_calls else left - free / kept
        if lane is Lane.POLL and is_contested:
            return max(delay, self._polled_at + 1 / self._poll_rate - now)
        return delay

    @property
    def _poll_rate(self) -> float:
        limit = min(_or(self._limit, DEFAULT_LIMIT), self._most)
        return max(_POLL_SHARE * limit, _MIN_POLLS) / self._window

    def _kept_rate(self, now: float, lane: Lane) -> float:
        if lane is Lane.INTERACTIVE:
            return 0.0
        rate = self._interactive_rate(now)
        if lane is Lane.POLL or not self.has_polls:
            return rate
        # Other programs will take as much of this window as of the last: what is kept for polls
        # comes on top of that.
        return rate + self._poll_rate + self._others_rate_now(now)

    def _others_rate_now(self, now: float) -> float:
        # In a client's first window only what it has seen of this window is known.
        if self._others_before or self._programs < _SEVERAL:
            return self._others_rate
        return min(self._others / self._elapsed(now), self._most_of_others)

    @property
    def _most_of_others(self) -> float:
        # Others are never left more than half of the window.
        return _or(self._limit, DEFAULT_LIMIT) / self._window / 2

    def _elapsed(self, now: float) -> float:
        # A rate measured over a short time is unreliable, so at least a quarter of a window counts.
        return max(now - self._began_at, self._window / 4)

    def _interactive_rate(self, now: float) -> float:
        limit = _or(self._limit, DEFAULT_LIMIT)
        share = _SHARE_BESIDE_OTHERS if self._programs > _SEVERAL else _INTERACTIVE_SHARE
        asked = max(
            (self._asked - _FEW_ASKED) / self._elapsed(now), self._asked_before / self._window
        )
        rate = max(share * limit / self._window, asked * self._programs)
        return min(rate, _LARGEST_SHARE * limit / self._window)

    @property
    def _last_calls(self) -> float:
        # What is kept until the reset, although the reserve shrinks: a call of each program.
        return self._programs if max(self._asked, self._asked_before) > _FEW_ASKED else 0.0

    @property
    def _programs(self) -> float:
        """How many times as many requests as this client's own all programs with the key send."""
        own = self.sent - self._sent_before + self._sent_in_window_before
        if own < _FEW_SENT:
            return 1.0
        return min(1 + (self._others + self._others_before) / own, _MOST_PROGRAMS)

    def _is_month_at_stake(self) -> bool:
        # Requests in flight may be counted already, as in the window.
        remaining = self._org_remaining
        return remaining is not None and 0 < remaining - self._reserve <= self.in_flight

    def _turn_minute(self, now: float) -> None:
        used = _or(self._limit, DEFAULT_LIMIT) - _or(self._remaining, 0)
        elapsed = self._window - max(0.0, self._resets_at - now)
        others = max(0, used - (self.sent - self._sent_before))
        self._others_rate = min(others / max(elapsed, self._window / 4), self._most_of_others)
        self._sent_in_window_before = self.sent - self._sent_before
        self._others_before, self._others, self._others_base = others, 0, 0
        self._asked_before = max(self._asked - _FEW_ASKED, self._asked_before / 2)
        self._asked = 0
        self._began_at = now
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
        """Return True if the organization's monthly quota is down to the reserve."""
        remaining = self._org_remaining
        return remaining is not None and remaining <= self._reserve and now < self._org_resets_at

    def send(self, now: float, lane: Lane) -> None:
        """Count a request that got its slot."""
        self.in_flight += 1
        self.sent += 1
        if self._own_rate is not None:
            self._own_rate.send(now)
        self._is_probing = True
        self._last_lane = lane
        # What is asked for before anything is waited for is no rate: a job reads its records first.
        self._asked += lane is Lane.INTERACTIVE and self.has_polls
        self._began_at = min(self._began_at, now)
        if lane is Lane.POLL:
            self._polled_at = now

    def answer(self, now: float, status: int, limits: RateLimits) -> None:
        """Apply the status and headers of an answer, before its body is read."""
        self.learn(now, limits)
        if status == 429:  # noqa: PLR2004 - HTTP's own number
            self.refused += 1
            self._refuse(now, limits)
            return
        # An answer to a request from before a refusal is not the probe's answer.
        if now >= self._held_until:
            self._is_known = True
            self._has_turned = False
            self._refusals = 0
            self._grow()
        if limits.retry_after is not None and status >= 500:  # noqa: PLR2004
            self._hold(now, limits.retry_after)

    def end(self, *, was_answered: bool) -> None:
        """Give a slot back. The server may have counted a request that was not answered."""
        self.in_flight -= 1
        if not was_answered:
            self._is_probing = False
            if self._remaining:
                self._remaining -= 1

    def unsend(self) -> None:
        """Give a slot back that was never used."""
        self.in_flight -= 1
        self.sent -= 1
        if self._own_rate is not None:
            self._own_rate.unsend()
        self._is_probing = False

    def quota(self, now: float, *, waiting: int = 0) -> Quota:
        """Return what is known of the limits; ``waiting`` is how many requests wait for a slot."""
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
        if self._own_rate is not None and self._own_rate.delay(now) > 0:
            return "the rate that this client was given"
        if not self._is_known:
            return "the first answer of the minute"
        if self.in_flight >= int(self._allowed):
            return "others to be answered"
        return "the next minute, or their share of this one"

    def learn(self, now: float, limits: RateLimits) -> None:
        """Apply the limits that an answer has in its headers or its body."""
        # Answers without the headers (from a proxy, for example) change nothing.
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
            # Answers overtake each other and seconds are rounded: within a window, the lowest value
            # is the newest.
            self._remaining = min(self._remaining, remaining)
            self._resets_at = min(self._resets_at, resets_at)
        else:
            return
        others = _or(self._limit, DEFAULT_LIMIT) - remaining - (self.sent - self._sent_before)
        if self._others_base is None:
            # What was used before this client's first request says nothing of others now.
            self._others_base = others
        self._others = max(self._others, others - self._others_base)

    def _refuse(self, now: float, limits: RateLimits) -> None:
        # Refusals of requests that were in flight together are one event, not many.
        is_first = now >= self._held_until
        self._refusals += is_first
        backoff = _MIN_HOLD * 2 ** (self._refusals - 1)
        if limits.user_remaining == 0:
            backoff = _or(limits.user_reset, backoff)
            # The window was reset later than announced: its seconds are rounded down.
            self._margin = min(self._margin + self._has_turned, _MAX_MARGIN)
            if is_first:
                self._turn_minute(now)
        elif limits.user_remaining is not None and is_first:
            self._threshold = max(1.0, int(self._allowed) / 2)
        self._hold(now, _or(limits.retry_after, backoff))
        # One probe comes next. After its answer, each answer allows one more in flight.
        self._forget_minute()
        self._allowed = 1.0

    def _hold(self, now: float, seconds: float) -> None:
        self._held_until = max(self._held_until, now + _bounded(seconds))

    def _grow(self) -> None:
        # Beyond the number that was refused, growth is slow: each probe of it may cost a 429.
        step = 1.0 if self._allowed < self._threshold else _CAUTION / self._allowed
        self._allowed = min(self._allowed + step, float(self._max_in_flight))


def _bounded(seconds: float) -> float:
    return min(max(seconds, _MIN_HOLD), MAX_HOLD)


def _or(value: T | None, default: D) -> T | D:
    return default if value is None else value


def _until(moment: float, now: float) -> float | None:
    # Without an open client there is no clock, and `now` is infinite too.
    return None if math.isinf(moment - now) else max(0.0, moment - now)
