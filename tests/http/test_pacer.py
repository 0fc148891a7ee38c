"""What the headers say, and when the next request may be sent, in simulations of a server."""

import heapq
import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aiotasks import Quota
from aiotasks._http.pacer import MAX_HOLD, START_IN_FLIGHT, Lane, Pacer
from aiotasks._http.rate_limit_headers import RateLimits, limits_of, parse_rate_limit_headers
from aiotasks._http.wire import RateLimitAnswer, RateLimitWindow
from tests.profiles import examples


# How long Hypothesis takes to make examples depends on the machine.
SLOW = [HealthCheck.too_slow]

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
USER = "X-Ratelimit-Limit-User"
ORG = "X-Ratelimit-Limit-Org"
GARBAGE = [
    "",
    "soon",
    "-1",
    "nan",
    "inf",
    "1e999",
    "0x10",
    "1,000",
    "1 2",
    "\ud800",
    "²",
    "9" * 5000,
]


def retry_after(text: str) -> float | None:
    return parse_rate_limit_headers({"Retry-After": text}, NOW).retry_after


class TestReadLimits:
    def test_all_headers(self) -> None:
        """Both limits are read from the documented headers."""
        headers = {
            USER: "900",
            f"{USER}-Remaining": "899",
            f"{USER}-Reset": "42",
            ORG: "100000",
            f"{ORG}-Remaining": "99000",
            f"{ORG}-Reset": "1000000",
            "Retry-After": "7",
        }
        assert parse_rate_limit_headers(headers, NOW) == RateLimits(
            900, 899, 42, 100_000, 99_000, 1_000_000, 7
        )

    def test_no_headers(self) -> None:
        """Every header may be missing."""
        assert parse_rate_limit_headers({}, NOW) == RateLimits()

    @pytest.mark.parametrize("text", GARBAGE, ids=range(len(GARBAGE)))
    def test_an_invalid_header_counts_as_missing(self, text: str) -> None:
        """A header that is not a count is ignored, and the others are still read."""
        headers = {USER: text, f"{USER}-Remaining": "5", f"{USER}-Reset": text, "Retry-After": text}
        assert parse_rate_limit_headers(headers, NOW) == RateLimits(user_remaining=5)

    @pytest.mark.parametrize(("text", "count"), [("0", 0), (" 5 ", 5), ("5.0", 5), ("5.9", 5)])
    def test_a_count_may_be_written_as_a_number(self, text: str, count: int) -> None:
        """A number that a proxy writes with a point or spaces is read."""
        assert parse_rate_limit_headers({f"{USER}-Remaining": text}, NOW).user_remaining == count

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            pytest.param("30", 30, id="seconds"),
            pytest.param("0", 0, id="zero"),
            pytest.param(format_datetime(NOW + timedelta(seconds=30), usegmt=True), 30, id="date"),
            pytest.param("Sun, 01 Mar 2026 13:00:30 +0100", 30, id="other zone"),
            pytest.param("Sun, 01 Mar 2026 12:00:30", 30, id="no zone"),
            pytest.param("Sun, 01 Mar 2026 12:00:30 -0000", 30, id="unknown zone"),
            pytest.param("Sunday, 01-Mar-26 12:00:30 GMT", 30, id="old form"),
            pytest.param(format_datetime(NOW - timedelta(days=9), usegmt=True), 0, id="past"),
            pytest.param("Mon, 01 Jan 0001 00:00:00 +2300", 0, id="far past"),
            pytest.param("Sun, 01 Mar 2026", None, id="no time"),
            pytest.param("Sun, 99 Mar 2026 12:00:30 GMT", None, id="no such day"),
            pytest.param("Sun, 01 Mar 2026 12:00:30 +9999", None, id="no such zone"),
            pytest.param(f"Sun, 01 Mar {'9' * 30} 12:00:30 GMT", None, id="no such year"),
            pytest.param(f"Sun, 01 Mar 2026 12:00:30 +{'9' * 30}", None, id="endless zone"),
        ],
    )
    def test_retry_after(self, text: str, seconds: float | None) -> None:
        """``Retry-After`` is seconds or a date, in UTC if it names no zone."""
        assert retry_after(text) == seconds

    @pytest.mark.parametrize(
        ("date", "seconds"),
        [
            pytest.param("Sun, 01 Mar 2026 10:00:00 GMT", 30, id="server two hours behind"),
            pytest.param("Sun, 01 Mar 2026 11:00:00 +0100", 30, id="in another zone"),
            pytest.param("Sun, 01 Mar 2026 11:00:00 GMT", 0, id="later than the moment"),
            pytest.param("yesterday", None, id="garbage"),
            pytest.param(None, None, id="missing"),
        ],
    )
    def test_a_date_is_by_the_servers_clock(self, date: str | None, seconds: float | None) -> None:
        """A date is relative to the answer's own ``Date``, so that a wrong clock does not matter."""
        headers = {"Retry-After": "Sun, 01 Mar 2026 10:00:30 GMT"}
        if date is not None:
            headers["Date"] = date
        if seconds is None:
            seconds = 0
            assert parse_rate_limit_headers(headers, NOW - timedelta(hours=2)).retry_after == 30
        assert parse_rate_limit_headers(headers, NOW).retry_after == seconds

    def test_a_far_future_is_read_as_it_is(self) -> None:
        """A far ``Retry-After`` is read unchanged; capping it is not the parser's task."""
        seconds = retry_after("Fri, 31 Dec 9999 23:59:59 GMT")
        assert seconds is not None
        assert seconds > 1e11

    @given(
        st.dictionaries(
            st.sampled_from(
                [
                    *(USER, f"{USER}-Remaining", f"{USER}-Reset", ORG, f"{ORG}-Remaining"),
                    *("Retry-After", "Date"),
                ]
            ),
            st.text()
            | st.floats().map(str)
            | st.integers().map(str)
            | st.lists(
                st.sampled_from(
                    ["Sun,", "01", "Mar", "2026", "9" * 25, "12:00:30", "GMT", "+2500", "-", "Z"]
                )
            ).map(" ".join),
        )
    )
    @settings(max_examples=examples(300), deadline=None, suppress_health_check=SLOW)
    def test_any_text_is_read(self, headers: dict[str, str]) -> None:
        """No header can make an answer fail, and no value is negative."""
        limits = parse_rate_limit_headers(headers, NOW)
        for count in (limits.user, limits.user_remaining, limits.user_reset, limits.retry_after):
            assert count is None or 0 <= count < math.inf


class TestLimitsOf:
    def test_both(self) -> None:
        """Limits from the rate limit endpoint are read as those from headers."""
        answer = RateLimitAnswer(
            RateLimitWindow(900, 899, 42), RateLimitWindow(100_000, 99_000, 1000)
        )
        assert limits_of(answer) == RateLimits(900, 899, 42, 100_000, 99_000, 1000)

    def test_no_monthly_quota(self) -> None:
        """A plan without a monthly quota has the per-minute limit only."""
        assert limits_of(RateLimitAnswer(RateLimitWindow(900, 899, 42))) == RateLimits(900, 899, 42)


def sent(pacer: Pacer, now: float, count: int = 1, lane: Lane = Lane.INTERACTIVE) -> None:
    for _ in range(count):
        assert pacer.delay(now, lane) == 0
        pacer.send(now, lane)


def wait_of(pacer: Pacer, now: float, lane: Lane = Lane.INTERACTIVE) -> float:
    """Return the seconds until a request of a lane may be sent, where no other lane waits."""
    return pacer.delay(now, lane)


def answered(
    pacer: Pacer, now: float, limits: RateLimits | None = None, *, status: int = 200
) -> None:
    pacer.answer(now, status, limits or RateLimits())
    pacer.end(was_answered=True)


def minute(remaining: int, reset: int | None = 60) -> RateLimits:
    return RateLimits(user=900, user_remaining=remaining, user_reset=reset)


def opened(*, max_in_flight: int = 16, remaining: int = 900, reset: int = 60) -> Pacer:
    """Return a pacer that knows its window, at time 0."""
    pacer = Pacer(max_in_flight=max_in_flight)
    sent(pacer, 0)
    answered(pacer, 0, minute(remaining, reset))
    return pacer


class TestMinute:
    def test_one_request_goes_first(self) -> None:
        """Until the first answer, all other requests wait."""
        pacer = Pacer(max_in_flight=16)
        sent(pacer, 0)
        assert wait_of(pacer, 0) == math.inf
        answered(pacer, 1, minute(900))
        assert wait_of(pacer, 1) == 0

    def test_concurrency_rises_gradually(self) -> None:
        """At first a few are sent at a time, and one more after each answer, up to the maximum."""
        pacer = opened(max_in_flight=8)
        for allowed in (START_IN_FLIGHT + 1, *range(START_IN_FLIGHT + 2, 9), 8):
            sent(pacer, 0, allowed - pacer.in_flight)
            assert wait_of(pacer, 0) == math.inf
            answered(pacer, 0, minute(800))

    def test_a_maximum_of_one(self) -> None:
        """With a maximum of one there are never two requests in flight."""
        pacer = opened(max_in_flight=1)
        for _ in range(3):
            sent(pacer, 0)
            assert wait_of(pacer, 0) == math.inf
            answered(pacer, 0, minute(800))

    def test_requests_in_flight_are_subtracted(self) -> None:
        """Requests in flight are subtracted, so that the last of a window are not sent twice."""
        pacer = opened(remaining=2)
        sent(pacer, 0, 2)
        assert wait_of(pacer, 0) == math.inf
        answered(pacer, 1, minute(1, 59))
        answered(pacer, 1, minute(0, 59))
        assert wait_of(pacer, 1) == 59

    def test_an_exhausted_window_ends_with_its_reset(self) -> None:
        """With nothing remaining, the next request is sent at the window's end, alone."""
        pacer = opened(remaining=0, reset=42)
        assert wait_of(pacer, 0) == 42
        assert wait_of(pacer, 41.5) == 0.5
        sent(pacer, 42)
        assert wait_of(pacer, 42) == math.inf

    def test_the_use_of_others_counts(self) -> None:
        """Calls of another program on the same key are subtracted from the window."""
        pacer = opened(remaining=500)
        sent(pacer, 0)
        answered(pacer, 0, minute(0))
        assert wait_of(pacer, 0) == 60

    def test_answers_overtake_each_other(self) -> None:
        """Within one window the lowest count is used."""
        pacer = opened()
        sent(pacer, 0, 2)
        answered(pacer, 1, minute(0, 59))
        answered(pacer, 1, minute(5, 59))
        assert wait_of(pacer, 1) == 59

    def test_a_late_answer_of_the_last_window(self) -> None:
        """A late answer about the previous window does not change the current one."""
        pacer = opened()
        sent(pacer, 0, 2)
        answered(pacer, 40, minute(800, 60))
        answered(pacer, 40, minute(0, 5))
        assert wait_of(pacer, 40) == 0

    def test_a_new_window_that_an_answer_shows(self) -> None:
        """A window that begins earlier than expected is used immediately."""
        pacer = opened(remaining=1, reset=30)
        sent(pacer, 0)
        answered(pacer, 20, minute(899, 60))
        sent(pacer, 20, 4)

    def test_a_missing_reset(self) -> None:
        """Without a reset the window is assumed to last sixty seconds."""
        pacer = Pacer(max_in_flight=4)
        sent(pacer, 0)
        answered(pacer, 0, minute(0, None))
        assert wait_of(pacer, 0) == 60

    def test_a_reset_of_zero(self) -> None:
        """A reset of 0 still waits a second, as fractions may be cut off."""
        pacer = opened(remaining=0, reset=0)
        assert wait_of(pacer, 0) == 1

    def test_an_absurd_reset(self) -> None:
        """A reset longer than any window, such as a timestamp, does not stop all requests."""
        pacer = opened(remaining=0, reset=1_772_366_400)
        assert wait_of(pacer, 0) == MAX_HOLD
        sent(pacer, MAX_HOLD)

    def test_answers_without_headers(self) -> None:
        """Without limits in the answers only the number in flight is bounded."""
        pacer = Pacer(max_in_flight=2)
        for now in range(200):
            sent(pacer, now)
            answered(pacer, now)
        assert pacer.quota(200).remaining is None

    def test_a_proxys_answer_changes_nothing(self) -> None:
        """An answer without headers does not change the known window."""
        pacer = opened(remaining=1)
        sent(pacer, 0)
        answered(pacer, 1)
        sent(pacer, 1)
        assert wait_of(pacer, 1) == math.inf

    def test_lost_requests_are_counted(self) -> None:
        """A request that was sent and not answered is subtracted."""
        pacer = opened(remaining=1)
        sent(pacer, 0)
        pacer.end(was_answered=False)
        assert wait_of(pacer, 0) == 60

    def test_a_lost_first_request_is_followed_by_another(self) -> None:
        """When the first request brings no limits, the next one is sent in its place."""
        pacer = Pacer(max_in_flight=16)
        sent(pacer, 0)
        pacer.end(was_answered=False)
        sent(pacer, 0)
        assert wait_of(pacer, 0) == math.inf

    def test_a_new_window_does_not_raise_the_maximum(self) -> None:
        """The first request of a new window also waits while the maximum is in flight."""
        pacer = opened(max_in_flight=2)
        sent(pacer, 0, 2)
        assert wait_of(pacer, 61) == math.inf
        answered(pacer, 61, minute(899))
        sent(pacer, 61)
        assert wait_of(pacer, 61) == math.inf

    def test_an_unused_slot(self) -> None:
        """A slot that is given back unused is not counted."""
        pacer = opened(remaining=1)
        sent(pacer, 0)
        pacer.unsend()
        sent(pacer, 0)
        assert (pacer.sent, pacer.in_flight) == (2, 1)
        fresh = Pacer(max_in_flight=1)
        sent(fresh, 0)
        fresh.unsend()
        sent(fresh, 0)


def waiting(interactive: int = 0, merge: int = 0, poll: int = 0) -> dict[Lane, int]:
    return {Lane.INTERACTIVE: interactive, Lane.MERGE: merge, Lane.POLL: poll}


class TestLanes:
    @pytest.mark.parametrize(
        ("counts", "lane"),
        [
            (waiting(1, 1, 1), Lane.INTERACTIVE),
            (waiting(1, 0, 9), Lane.INTERACTIVE),
            (waiting(0, 1, 1), Lane.POLL),
            (waiting(0, 1, 0), Lane.MERGE),
            (waiting(0, 0, 1), Lane.POLL),
        ],
    )
    def test_the_order_of_lanes(self, counts: dict[Lane, int], lane: Lane) -> None:
        """Interactive requests go first, then polls whose time has come, then merges."""
        assert opened().choose(0, counts) == (lane, 0.0)

    def test_polls_keep_their_pace_beside_merges(self) -> None:
        """While merges wait, the next poll is sent when its share of the window allows it."""
        pacer = opened()
        for second in range(0, 50, 5):
            now = float(second)
            assert pacer.choose(now, waiting(0, 9, 9)) == (Lane.POLL, 0.0)
            sent(pacer, now, lane=Lane.POLL)
            assert pacer.choose(now, waiting(0, 9, 9)) == (Lane.MERGE, 0.0)
            assert pacer.delay(now, Lane.POLL, is_contested=True) == pytest.approx(60 / 65.7)
            assert pacer.delay(now, Lane.POLL) == 0
            answered(pacer, now, minute(800 - second, 60 - second))

    def test_a_small_limit_leaves_polls_a_few(self) -> None:
        """Where the share of a small limit is nearly nothing, polls still get four a minute."""
        pacer = Pacer(max_in_flight=4)
        sent(pacer, 0, lane=Lane.POLL)
        answered(pacer, 0, RateLimits(20, 19, 60))
        assert pacer.delay(0, Lane.POLL, is_contested=True) == 15

    def test_the_default_limit(self) -> None:
        """Where no answer has a limit, the documented one sets the pace."""
        pacer = Pacer(max_in_flight=4)
        sent(pacer, 0, lane=Lane.POLL)
        answered(pacer, 0, RateLimits(None, 800, 60))
        assert pacer.delay(0, Lane.POLL, is_contested=True) == pytest.approx(60 / 65.7)

    def test_a_limit_of_zero(self) -> None:
        """A limit of 0, which cannot be meant, stops nothing while calls remain."""
        pacer = Pacer(max_in_flight=4)
        sent(pacer, 0)
        answered(pacer, 0, RateLimits(0, 5, 60))
        for lane in (Lane.INTERACTIVE, Lane.MERGE, Lane.POLL):
            assert pacer.delay(0, lane) == 0

    def test_without_limits_merges_and_polls_alternate(self) -> None:
        """Where no limit sets a pace, merges and polls alternate."""
        pacer = Pacer(max_in_flight=4)
        chosen = []
        for _ in range(6):
            lane, _ = pacer.choose(0, waiting(0, 9, 9))
            assert lane is not None
            chosen.append(lane)
            sent(pacer, 0, lane=lane)
            answered(pacer, 0)
        assert chosen == [Lane.POLL, Lane.MERGE] * 3

    @pytest.mark.parametrize("has_polls", [True, False])
    def test_merges_keep_a_reserve_that_shrinks(self, has_polls: bool) -> None:
        """The reserve that merges keep for others shrinks with the rest of the window."""
        rate = (9 + (65.7 if has_polls else 0)) / 60
        for left in (60, 40, 20, 10):
            kept = math.floor(rate * left)
            for remaining, is_kept in ((kept + 1, False), (kept, True)):
                pacer = opened()
                pacer.has_polls = has_polls
                now = 60.0 - left
                sent(pacer, now)
                answered(pacer, now, minute(remaining, left))
                assert pacer.delay(now, Lane.INTERACTIVE) == 0
                until = pacer.delay(now, Lane.MERGE)
                assert until == pytest.approx(left - kept / rate if is_kept else 0)
                assert until < 1 / rate
                assert pacer.delay(now + until + 1e-6, Lane.MERGE) == 0

    def test_polls_keep_a_reserve_for_interactive_requests(self) -> None:
        """Polls alone still keep 1 % for interactive requests."""
        pacer = opened(remaining=9)
        assert pacer.delay(0, Lane.INTERACTIVE) == 0
        assert pacer.delay(0, Lane.POLL) == pytest.approx(0)
        sent(pacer, 0)
        assert pacer.delay(0, Lane.POLL) == pytest.approx(60 - 8 / 0.15)

    def test_interactive_requests_use_the_whole_window(self) -> None:
        """Interactive calls may use up the reserve that is kept for them."""
        pacer = opened(remaining=3)
        pacer.has_polls = True
        sent(pacer, 0, 3)
        assert wait_of(pacer, 0) == math.inf

    def test_the_shortest_wait(self) -> None:
        """Where no lane may send, the wait is the shortest of all lanes."""
        pacer = opened(remaining=20)
        pacer.has_polls = True
        sent(pacer, 0, lane=Lane.POLL)
        merge = pacer.delay(0, Lane.MERGE)
        poll = pacer.delay(0, Lane.POLL, is_contested=True)
        assert 0 < poll < merge
        assert pacer.choose(0, waiting(0, 1, 1)) == (None, poll)
        assert pacer.choose(0, waiting(0, 1, 0)) == (None, merge)

    def test_no_wait_is_below_the_clock_resolution(self) -> None:
        """A wait is at least the clock's resolution, so that its timer is not set repeatedly."""
        pacer = opened(remaining=0, reset=30)
        assert pacer.choose(30 - 1e-9, waiting(1)) == (None, 0.001)

    def test_waiting_for_an_answer_is_unbounded(self) -> None:
        """While the next request depends on an answer, the wait is unbounded."""
        pacer = Pacer(max_in_flight=4)
        sent(pacer, 0)
        assert pacer.choose(0, waiting(1, 1, 1)) == (None, math.inf)


class TestOthers:
    """The use of the same key by other programs."""

    def shared(self) -> Pacer:
        """Return a pacer in its second window, after one in which others used 300 calls."""
        pacer = opened()
        sent(pacer, 30)
        answered(pacer, 30, minute(598, 30))
        sent(pacer, 60)
        answered(pacer, 60, minute(899))
        return pacer

    def test_merges_keep_what_others_used(self) -> None:
        """Merges keep as many calls as others used in the last window, beside the share of polls."""
        pacer = self.shared()
        pacer.has_polls = True
        sent(pacer, 61)
        answered(pacer, 61, minute(430, 59))
        # 5.0 a second for the others, 1.1 for polls and 0.15 for interactive requests.
        assert pacer.delay(61, Lane.MERGE) == 0
        sent(pacer, 61)
        answered(pacer, 61, minute(370, 59))
        assert pacer.delay(61, Lane.MERGE) > 0
        assert pacer.delay(61, Lane.INTERACTIVE) == 0

    def test_without_polls_nothing_is_kept(self) -> None:
        """Without waiters for tasks nothing is kept for others: first come, first served."""
        pacer = self.shared()
        sent(pacer, 61)
        answered(pacer, 61, minute(100, 59))
        assert pacer.delay(61, Lane.MERGE) == 0

    def test_unknown_use_is_counted_as_taken(self) -> None:
        """The longer the last answer is ago, the more calls are counted as used by others."""
        pacer = self.shared()
        sent(pacer, 61)
        answered(pacer, 61, minute(100, 59))
        pacer.send(62, Lane.INTERACTIVE)
        assert pacer.delay(62, Lane.INTERACTIVE) == 0
        assert pacer.delay(90, Lane.INTERACTIVE) == math.inf

    def test_one_request_updates_an_old_count(self) -> None:
        """With nothing in flight one request refreshes an old count, if any may remain."""
        pacer = self.shared()
        sent(pacer, 61)
        answered(pacer, 61, minute(100, 59))
        assert pacer.delay(90, Lane.INTERACTIVE) == 0
        sent(pacer, 90)
        answered(pacer, 90, minute(15, 30))
        assert pacer.delay(90, Lane.POLL) == pytest.approx(30)
        # What others leave is theirs and this client's, for interactive calls.
        assert pacer.delay(90, Lane.INTERACTIVE) == 0
        sent(pacer, 90)
        answered(pacer, 90, minute(0, 30))
        assert pacer.delay(90, Lane.INTERACTIVE) == pytest.approx(30)

    def beside(self, remaining: int, *, own: int = 100, asked: int = 0, left: int = 45) -> Pacer:
        """Return a pacer in its first window, after some requests of its own."""
        pacer = opened()
        pacer.has_polls = True
        for number in range(own):
            pacer.send(0, Lane.INTERACTIVE if number < asked else Lane.MERGE)
            answered(pacer, 0, minute(899 - number))
        pacer.send(60 - left, Lane.MERGE)
        answered(pacer, 60 - left, minute(remaining, left))
        return pacer

    def test_more_is_left_for_interactive_calls_beside_others(self) -> None:
        """Polls leave 5 % of the minute alone where most requests are of other programs."""
        assert self.beside(33).delay(15, Lane.POLL) > 0
        assert self.beside(34).delay(15, Lane.POLL) == 0
        assert self.beside(33, own=600).delay(15, Lane.POLL) == 0
        assert self.beside(33, own=10).delay(15, Lane.POLL) == 0

    def test_as_much_is_left_as_was_asked_for(self) -> None:
        """Polls leave as many calls alone as there were interactive ones, up to a fifth."""
        # 28 in 15 s, for the 45 s that are left; two are too few for a rate.
        assert self.beside(83, own=815, asked=30).delay(15, Lane.POLL) > 0
        assert self.beside(85, own=814, asked=30).delay(15, Lane.POLL) == 0
        assert self.beside(134, own=764, asked=300).delay(15, Lane.POLL) > 0
        assert self.beside(136, own=763, asked=300).delay(15, Lane.POLL) == 0

    def test_what_is_read_before_waits_is_no_rate(self) -> None:
        """What a job reads before it begins is no reason to leave calls alone."""
        pacer = opened()
        for number in range(100):
            sent(pacer, 0)
            answered(pacer, 0, minute(899 - number))
        pacer.has_polls = True
        sent(pacer, 15, lane=Lane.MERGE)
        answered(pacer, 15, minute(80, 45))
        assert pacer.delay(15, Lane.POLL) == 0

    def test_what_was_asked_for_counts_for_the_next_minutes(self) -> None:
        """Interactive calls of the last window count, and half as much a window later."""
        pacer = self.beside(100, own=799, asked=63)
        for start, kept in ((60, 60), (120, 30), (180, 15)):
            for remaining in range(899, kept - 1, -1):
                assert pacer.delay(start, Lane.POLL) == 0
                pacer.send(start, Lane.MERGE)
                answered(pacer, start, minute(remaining))
            assert pacer.delay(start, Lane.POLL) > 0

    def test_polls_among_merges_leave_calls_alone_too(self) -> None:
        """Polls that have their share of a minute of merges leave interactive calls theirs."""
        pacer = self.beside(20)
        assert pacer.delay(15, Lane.POLL, is_contested=True) == pacer.delay(15, Lane.POLL) > 0
        assert pacer.delay(15, Lane.INTERACTIVE) == 0

    def test_merges_of_a_first_window_keep_what_others_use(self) -> None:
        """Where others have more than this client, merges go on at the pace of the window."""
        assert self.beside(380).delay(15, Lane.MERGE) > 0
        assert self.beside(440).delay(15, Lane.MERGE) == 0
        assert self.beside(380, own=400).delay(15, Lane.MERGE) == 0

    def test_others_have_requests_in_flight_too(self) -> None:
        """Others are taken to have as many in flight as their part of the requests is."""
        pacer = self.beside(60, own=99)
        for _ in range(8):
            pacer.send(15, Lane.MERGE)
        # 840 requests of which 100 are this client's: eight times as many, at most.
        assert pacer.delay(15, Lane.POLL) == math.inf
        assert pacer.delay(15, Lane.INTERACTIVE) == 0

    def test_a_call_of_each_program_is_left_until_the_reset(self) -> None:
        """Where calls were asked for, one is left until the end of the window."""
        pacer = self.beside(1, own=898, asked=30, left=1)
        assert pacer.delay(59, Lane.POLL) == pytest.approx(1)
        assert pacer.delay(59, Lane.INTERACTIVE) == 0

    def test_what_was_used_before_is_not_of_others(self) -> None:
        """What the minute had lost before the first request does not make others."""
        pacer = opened(remaining=300)
        for number in range(30):
            sent(pacer, 0, lane=Lane.MERGE)
            answered(pacer, 0, minute(299 - number))
        sent(pacer, 15)
        answered(pacer, 15, minute(10, 45))
        assert pacer.delay(15, Lane.INTERACTIVE) == 0

    def test_alone_on_the_key(self) -> None:
        """Without other programs on the key nothing is kept for them."""
        pacer = opened()
        sent(pacer, 60)
        answered(pacer, 60, minute(899))
        sent(pacer, 61)
        answered(pacer, 61, minute(1, 59))
        assert pacer.delay(61, Lane.INTERACTIVE) == 0


class TestWindows:
    def test_the_length_of_the_window_sets_the_pace(self) -> None:
        """Where the limit is for two minutes, so are the shares of it."""
        pacer = opened(reset=119)
        sent(pacer, 0, lane=Lane.POLL)
        assert pacer.delay(0, Lane.POLL, is_contested=True) == pytest.approx(119 / 65.7)

    @pytest.mark.parametrize(
        ("now", "reset", "is_new"),
        [(30, 31, False), (30, 59, False), (31, 60, True), (58, 60, True)],
    )
    def test_half_a_minute_separates_two_windows(self, now: int, reset: int, is_new: bool) -> None:
        """An end that moves by less than half a minute is the same window; more is a new one."""
        pacer = opened(remaining=500)
        sent(pacer, now)
        answered(pacer, now, minute(899, reset))
        assert pacer.quota(now).remaining == (899 if is_new else 500)

    def test_a_late_answer_does_not_move_the_end(self) -> None:
        """The earliest end that an answer reports is used."""
        pacer = opened(reset=50)
        sent(pacer, 3, 2)
        answered(pacer, 3, minute(800, 50))
        assert pacer.quota(3).reset == 47
        answered(pacer, 3, minute(799, 46))
        assert pacer.quota(3).reset == 46

    def test_a_window_that_ends_later_than_reported(self) -> None:
        """After a refusal just past the reported end, later ends are assumed to be later as well."""
        pacer = opened(remaining=0, reset=10)
        sent(pacer, 10)
        answered(pacer, 10, minute(0, 0), status=429)
        assert wait_of(pacer, 10) == 1
        sent(pacer, 11)
        answered(pacer, 11, minute(899, 60))
        assert pacer.quota(11).reset == 61
        sent(pacer, 72)
        answered(pacer, 72, minute(0, 0), status=429)
        sent(pacer, 73)
        answered(pacer, 73, minute(0, 0), status=429)
        sent(pacer, 75)
        answered(pacer, 75, minute(899, 60))
        # The correction is at most two seconds, however often that happens.
        assert pacer.quota(75).reset == 62

    def test_a_refusal_within_a_window_does_not_correct_its_end(self) -> None:
        """A refusal within a window, which others used up, does not correct its end."""
        pacer = opened(reset=30)
        sent(pacer, 0)
        answered(pacer, 0, minute(0, 30), status=429)
        sent(pacer, 30)
        answered(pacer, 30, minute(899, 60))
        assert pacer.quota(30).reset == 60

    def test_limits_from_elsewhere_are_applied(self) -> None:
        """Limits from an answer that is not counted as a request are applied."""
        pacer = Pacer(max_in_flight=4)
        pacer.learn(0, RateLimits(900, 0, 42))
        assert (pacer.quota(0).remaining, pacer.quota(0).reset) == (0, 42)
        assert (pacer.sent, pacer.refused, pacer.in_flight) == (0, 0, 0)


class TestWaitingFor:
    def test_nothing_waits(self) -> None:
        """Without waiting requests there is no reason for waiting."""
        assert opened().quota(0).waiting_for is None

    def test_a_pause(self) -> None:
        """After a refusal all requests wait for the pause to end."""
        pacer = opened()
        sent(pacer, 0)
        answered(pacer, 0, status=429)
        quota = pacer.quota(0, waiting=3)
        assert (quota.waiting, quota.waiting_for) == (3, "a pause that the API asked for to end")

    def test_a_probe(self) -> None:
        """In a window without an answer, all requests wait for the first one."""
        pacer = Pacer(max_in_flight=4)
        sent(pacer, 0)
        assert pacer.quota(0, waiting=1).waiting_for == "the first answer of the minute"

    def test_too_many_at_once(self) -> None:
        """With the maximum in flight, requests wait for others to be answered."""
        pacer = opened()
        sent(pacer, 0, START_IN_FLIGHT + 1)
        assert pacer.quota(0, waiting=1).waiting_for == "others to be answered"

    def test_the_minute(self) -> None:
        """With slots free, requests wait for a share of the window."""
        quota = opened(remaining=0).quota(0, waiting=1)
        assert quota.waiting_for == "the next minute, or their share of this one"


class TestRefusals:
    @pytest.mark.parametrize(
        ("limits", "hold"),
        [
            pytest.param(minute(0, 17), 17, id="minute"),
            pytest.param(minute(0, None), 1, id="minute without a reset"),
            pytest.param(minute(0, 10**9), MAX_HOLD, id="minute with an endless reset"),
            pytest.param(minute(100), 1, id="concurrency"),
            pytest.param(RateLimits(), 1, id="no header"),
            pytest.param(RateLimits(retry_after=33), 33, id="retry after"),
            pytest.param(RateLimits(retry_after=0), 1, id="retry at once"),
            pytest.param(RateLimits(retry_after=1e9), MAX_HOLD, id="retry never"),
            pytest.param(RateLimits(user_remaining=0, user_reset=5, retry_after=33), 33, id="both"),
        ],
    )
    def test_how_long_all_requests_stop(self, limits: RateLimits, hold: float) -> None:
        """A 429 stops all requests as long as it says, between a second and two minutes."""
        pacer = opened()
        sent(pacer, 0)
        answered(pacer, 0, limits, status=429)
        assert wait_of(pacer, 0) == hold
        assert wait_of(pacer, hold / 2) == hold / 2
        assert wait_of(pacer, hold) == 0

    def test_one_probe_and_then_a_ramp(self) -> None:
        """After a 429 one request is sent, after its success two, and so on."""
        pacer = opened()
        sent(pacer, 0)
        answered(pacer, 0, minute(500), status=429)
        for allowed in (1, 2, 3):
            sent(pacer, 1, allowed)
            assert wait_of(pacer, 1) == math.inf
            answered(pacer, 1, minute(499))
            for _ in range(allowed - 1):
                pacer.end(was_answered=False)

    def test_a_limit_on_concurrency_is_found(self) -> None:
        """After a refusal concurrency rises fast to half of what was refused, then slowly."""
        pacer = opened(max_in_flight=16)
        for _ in range(20):
            sent(pacer, 0)
            answered(pacer, 0, minute(800))
        sent(pacer, 0, 16)
        # All that were refused together are one event.
        for _ in range(5):
            answered(pacer, 0, minute(700), status=429)
        for _ in range(11):
            pacer.end(was_answered=False)
        sizes = []
        for _ in range(200):
            sent(pacer, 1)
            answered(pacer, 1, minute(600))
            sizes.append(int(pacer.allowed))
        assert sizes[:7] == [2, 3, 4, 5, 6, 7, 8]
        # One more is tried after about twenty rounds of as many as there are.
        assert sizes.index(9) == pytest.approx(7 + 20 * 8.5, abs=15)
        assert sizes[-1] == 9

    def test_a_limit_of_one_at_once(self) -> None:
        """However often it is refused for concurrency, at least one request at a time is allowed."""
        pacer = opened()
        for round_ in range(9):
            now = 200.0 * round_
            sent(pacer, now)
            answered(pacer, now, minute(500), status=429)
            assert pacer.allowed == 1
        sent(pacer, 2000)

    @pytest.mark.parametrize("limits", [minute(0), RateLimits()], ids=["minute", "no headers"])
    def test_other_refusals_are_not_about_concurrency(self, limits: RateLimits) -> None:
        """After a window that was used up, concurrency rises as fast as at the start."""
        pacer = opened()
        sent(pacer, 0)
        answered(pacer, 0, limits, status=429)
        for allowed in range(2, 17):
            sent(pacer, 150)
            answered(pacer, 150, minute(800))
            assert pacer.allowed == allowed

    def test_refusals_in_a_row_wait_ever_longer(self) -> None:
        """Without ``Retry-After``, each refused probe doubles the wait, up to two minutes."""
        pacer = opened()
        now, holds = 0.0, []
        for _ in range(9):
            sent(pacer, now)
            answered(pacer, now, status=429)
            holds.append(wait_of(pacer, now))
            now += holds[-1]
        assert holds == [1, 2, 4, 8, 16, 32, 64, 120, 120]

    def test_a_success_ends_the_doubling(self) -> None:
        """After a successful probe, the next refusal waits a second again."""
        pacer = opened()
        for now in (0, 1):
            sent(pacer, now)
            answered(pacer, now, status=429)
        sent(pacer, 3)
        answered(pacer, 3)
        sent(pacer, 3)
        answered(pacer, 3, status=429)
        assert wait_of(pacer, 3) == 1

    def test_many_refusals_at_once_are_one_event(self) -> None:
        """Refusals of requests that were in flight at the first 429 do not lengthen the wait."""
        pacer = opened()
        sent(pacer, 0, 5)
        for _ in range(5):
            answered(pacer, 0, status=429)
        assert wait_of(pacer, 0) == 1
        assert pacer.refused == 5

    def test_late_successes_do_not_end_the_pause(self) -> None:
        """Answers to requests sent before the 429 do not replace the probe."""
        pacer = opened()
        sent(pacer, 0, 5)
        answered(pacer, 0, minute(800), status=429)
        for _ in range(4):
            answered(pacer, 0.5, minute(800))
        sent(pacer, 1)
        assert wait_of(pacer, 1) == math.inf
        answered(pacer, 2, minute(800))
        sent(pacer, 2, 2)
        assert wait_of(pacer, 2) == math.inf

    @pytest.mark.parametrize("status", [500, 503])
    def test_retry_after_on_server_errors(self, status: int) -> None:
        """``Retry-After`` on a 5xx stops all requests too."""
        pacer = opened()
        sent(pacer, 0)
        answered(pacer, 0, RateLimits(retry_after=20), status=status)
        assert wait_of(pacer, 0) == 20
        sent(pacer, 20, 4)

    def test_retry_after_on_other_answers(self) -> None:
        """On any other answer ``Retry-After`` is ignored."""
        pacer = opened()
        sent(pacer, 0)
        answered(pacer, 0, RateLimits(retry_after=20), status=202)
        assert wait_of(pacer, 0) == 0


def month(remaining: int, reset: int | None = 1000) -> RateLimits:
    return RateLimits(org=100_000, org_remaining=remaining, org_reset=reset)


class TestMonth:
    @pytest.mark.parametrize(
        ("reserve", "remaining", "is_used_up"),
        [(0, 1, False), (0, 0, True), (100, 101, False), (100, 100, True), (100, 5, True)],
    )
    def test_it_ends_at_the_reserve(self, reserve: int, remaining: int, is_used_up: bool) -> None:
        """With no more than the reserve remaining, the monthly quota is used up."""
        pacer = Pacer(max_in_flight=4, reserve=reserve)
        assert not pacer.is_month_used_up(0)
        sent(pacer, 0)
        answered(pacer, 0, month(remaining))
        assert pacer.is_month_used_up(1) is is_used_up

    def test_requests_in_flight_are_subtracted_from_the_monthly_quota(self) -> None:
        """Requests in flight are subtracted from the monthly quota too, until it is used up."""
        pacer = Pacer(max_in_flight=8, reserve=10)
        sent(pacer, 0)
        answered(pacer, 0, month(12))
        sent(pacer, 0, 2)
        assert wait_of(pacer, 0) == math.inf
        answered(pacer, 0, month(10))
        answered(pacer, 0, month(11))
        pacer.answer(0, 200, month(10))
        assert pacer.is_month_used_up(0)
        assert wait_of(pacer, 0) == 0

    def test_the_reset_of_the_monthly_quota(self) -> None:
        """Requests are sent again at the reset of the monthly quota."""
        pacer = Pacer(max_in_flight=4)
        sent(pacer, 0)
        answered(pacer, 0, month(0), status=429)
        assert pacer.is_month_used_up(999)
        assert not pacer.is_month_used_up(1000)

    def test_without_a_reset_it_stays_used_up(self) -> None:
        """Without a reset, only a new answer ends an exhausted monthly quota."""
        pacer = Pacer(max_in_flight=4)
        sent(pacer, 0, 1)
        answered(pacer, 0, month(0, None))
        assert pacer.is_month_used_up(1e9)
        pacer.send(0, Lane.INTERACTIVE)
        answered(pacer, 1, month(5, None))
        assert not pacer.is_month_used_up(1e9)

    def test_other_answers_do_not_reopen_it(self) -> None:
        """An answer without the organization's headers does not change the monthly quota."""
        pacer = Pacer(max_in_flight=4)
        sent(pacer, 0)
        answered(pacer, 0, month(0))
        pacer.send(0, Lane.INTERACTIVE)
        answered(pacer, 1, minute(800))
        assert pacer.is_month_used_up(1)


class TestQuota:
    def test_nothing_is_known_at_first(self) -> None:
        """Before the first answer only the client's own counts are known."""
        assert Pacer(max_in_flight=4).quota(0) == Quota()

    def test_all_that_is_known(self) -> None:
        """Requests in flight are subtracted from remaining, and resets are seconds from now."""
        pacer = Pacer(max_in_flight=4)
        sent(pacer, 0)
        answered(pacer, 0, RateLimits(900, 800, 60, 100_000, 5_000, 1000))
        sent(pacer, 0, 3)
        assert pacer.quota(20) == Quota(
            limit=900,
            remaining=797,
            reset=40,
            org_limit=100_000,
            org_remaining=5_000,
            org_reset=980,
            in_flight=3,
            sent=4,
        )
        assert pacer.quota(5000).org_reset == 0

    def test_remaining_is_never_negative(self) -> None:
        """With more in flight than remaining, none are reported as remaining."""
        pacer = opened(remaining=3)
        sent(pacer, 0, 3)
        answered(pacer, 0, minute(1))
        assert pacer.quota(0).remaining == 0


DAY = 86_400


@dataclass
class Server:
    """A server with a fixed window of a minute, and other users of the key."""

    limit: int
    offset: float = 0.0
    rounding: str = "up"
    at_once: int = 10**9
    others: Mapping[int, int] = field(default_factory=dict)
    garbage: float = 0.0
    random: Random = field(default_factory=Random)
    used: dict[int, int] = field(default_factory=dict)
    present: int = 0
    refused: int = 0

    def window(self, now: float) -> int:
        return math.floor((now - self.offset) / 60)

    def arrive(self, now: float) -> tuple[int, dict[str, str]]:
        window = self.window(now)
        used = self.used.setdefault(window, min(self.limit, self.others.get(window, 0)))
        is_refused = used >= self.limit or self.present > self.at_once
        self.refused += is_refused
        self.used[window] = used = used + (not is_refused)
        left = (window + 1) * 60 + self.offset - now
        reset = math.ceil(left) if self.rounding == "up" else math.floor(left)
        headers = {
            USER: str(self.limit),
            f"{USER}-Remaining": str(self.limit - used),
            f"{USER}-Reset": str(reset),
        }
        for name in list(headers):
            if self.random.random() < self.garbage:
                headers[name] = self.random.choice([*GARBAGE, "7", "0", "10000000000"])
            elif self.random.random() < self.garbage:
                del headers[name]
        return (429 if is_refused else 200), headers


@dataclass
class Job:
    """Requests that are sent as the pacer allows, over a network with delays and losses.

    It ends when all merges are done; polls want to be sent for as long, and an interactive call
    comes now and then.
    """

    pacer: Pacer
    server: Server
    merges: int = 0
    has_polls: bool = False
    # When an interactive call is made.
    calls: list[float] = field(default_factory=list)
    latency: float = 0.2
    losses: float = 0.0
    now: float = 0.0
    most_in_flight: int = 0
    sends: list[tuple[float, Lane]] = field(default_factory=list)
    done: int = 0
    call_waits: list[float] = field(default_factory=list)
    # The windows of which an answer has reported that nothing remains.
    exhausted: set[int] = field(default_factory=set)
    # How many requests were sent into such a window.
    knowingly: int = 0
    _merging: int = 0

    def __post_init__(self) -> None:
        self.pacer.has_polls = self.has_polls

    def waiting(self) -> dict[Lane, int]:
        called = sum(call <= self.now for call in self.calls)
        merge = self.merges - self.done - self._merging
        return waiting(called, merge, 10**6 * self.has_polls)

    def run(self) -> "Job":
        events: list[tuple[float, int, Iterator[float]]] = []
        number = 0
        self.calls.sort()
        while events or self.done < self.merges:
            assert self.now < DAY, "it never ends"
            counts = self.waiting() if self.done < self.merges else waiting()
            lane, delay = self.pacer.choose(self.now, counts)
            assert delay >= 0
            if lane is not None:
                assert counts[lane]
                number += 1
                self._note_send(lane)
                heapq.heappush(events, (self.now, number, self._request(lane)))
                continue
            when = self.now + delay
            if counts[Lane.MERGE] and not self.pacer.in_flight:
                assert when < math.inf, "nothing is in flight, and nothing may go"
            following = [call for call in self.calls if call > self.now][:1]
            times = [when, *following] if any(counts.values()) else []
            if times and (not events or min(times) < events[0][0]):
                self.now = min(times)
                continue
            self.now, number_, request = heapq.heappop(events)
            pause = next(request, None)
            if pause is not None:
                heapq.heappush(events, (self.now + pause, number_, request))
            assert self.pacer.in_flight >= 0
        return self

    def count(self, lane: Lane, since: float = 0.0, until: float = math.inf) -> int:
        return sum(sent is lane and since <= when < until for when, sent in self.sends)

    def _note_send(self, lane: Lane) -> None:
        self.knowingly += self.server.window(self.now) in self.exhausted
        if lane is Lane.INTERACTIVE:
            self.call_waits.append(self.now - self.calls.pop(0))
        self._merging += lane is Lane.MERGE
        self.pacer.send(self.now, lane)
        self.sends.append((self.now, lane))
        self.most_in_flight = max(self.most_in_flight, self.pacer.in_flight)

    def _request(self, lane: Lane) -> Iterator[float]:
        is_done = yield from self._answered()
        self._merging -= lane is Lane.MERGE
        self.done += is_done and lane is Lane.MERGE

    def _answered(self) -> Generator[float, None, bool]:
        random = self.server.random
        yield random.uniform(0, self.latency)
        is_lost = random.random() < self.losses
        if is_lost and random.random() < 0.5:
            self.pacer.end(was_answered=False)
            return False
        self.server.present += 1
        window = self.server.window(self.now)
        status, headers = self.server.arrive(self.now)
        yield random.uniform(0, self.latency)
        self.server.present -= 1
        if is_lost:
            self.pacer.end(was_answered=False)
            return False
        limits = parse_rate_limit_headers(headers, NOW)
        if limits.user_remaining == 0:
            self.exhausted.add(window)
        self.pacer.answer(self.now, status, limits)
        yield 0.01
        self.pacer.end(was_answered=True)
        return status == 200


SEEDS = st.integers(0, 2**32)
OFFSETS = st.floats(-60, 60)


class TestSimulated:
    @given(
        seed=SEEDS,
        limit=st.integers(1, 60),
        offset=OFFSETS,
        max_in_flight=st.integers(1, 16),
        latency=st.floats(0, 2),
        has_polls=st.booleans(),
    )
    @example(seed=0, limit=1, offset=0.0, max_in_flight=16, latency=1.4, has_polls=False)
    @settings(max_examples=examples(60), deadline=None, suppress_health_check=SLOW)
    def test_alone_on_the_key(
        self,
        *,
        seed: int,
        limit: int,
        offset: float,
        max_in_flight: int,
        latency: float,
        has_polls: bool,
    ) -> None:
        """Alone on the key nothing is refused, and nothing is sent into an exhausted window."""
        server = Server(limit, offset, random=Random(seed))
        pacer = Pacer(max_in_flight=max_in_flight)
        merges = 2 * limit if limit > 4 or not has_polls else 0
        job = Job(pacer, server, merges, has_polls, latency=latency).run()
        assert (server.refused, job.knowingly) == (0, 0)
        assert all(used <= limit for used in server.used.values())
        assert job.most_in_flight <= max_in_flight
        assert pacer.in_flight == 0
        assert pacer.sent == len(job.sends)
        assert job.count(Lane.MERGE) == merges

    @given(
        seed=SEEDS,
        limit=st.integers(10, 100),
        offset=OFFSETS,
        latency=st.floats(0, 2),
    )
    @settings(max_examples=examples(25), deadline=None, suppress_health_check=SLOW)
    def test_resets_in_whole_seconds(
        self, seed: int, limit: int, offset: float, latency: float
    ) -> None:
        """A window that ends later than reported costs two refusals at most in all."""
        server = Server(limit, offset, "down", random=Random(seed))
        _ = Job(Pacer(max_in_flight=16), server, 12 * limit, latency=latency).run()
        assert len(server.used) >= 12
        assert server.refused <= 2

    @given(seed=SEEDS, offset=OFFSETS)
    @settings(max_examples=examples(10), deadline=None, suppress_health_check=SLOW)
    def test_windows_are_used_up(self, seed: int, offset: float) -> None:
        """Alone on the key and with fast answers, nearly all of each window is used."""
        server = Server(300, offset, random=Random(seed))
        job = Job(Pacer(max_in_flight=16), server, 1500).run()
        assert len(server.used) <= 6
        assert job.now <= 60 * 5 + 15

    @given(seed=SEEDS, offset=OFFSETS, limit=st.sampled_from([100, 300, 900]))
    @settings(max_examples=examples(8), deadline=None, suppress_health_check=SLOW)
    def test_no_lane_starves(self, seed: int, offset: float, limit: int) -> None:
        """Polls get their share, merges the rest, and interactive calls the next slot."""
        calls = [number * 80 / (0.01 * limit) for number in range(60)]
        server = Server(limit, offset, random=Random(seed))
        job = Job(Pacer(max_in_flight=16), server, 4 * limit, has_polls=True, calls=calls).run()
        assert server.refused == 0
        assert job.count(Lane.MERGE) == 4 * limit
        # Polls get exactly their share of each whole window.
        first, last = server.window(0) + 1, server.window(job.now)
        for number in range(first, last):
            start = 60 * number + offset
            polls = job.count(Lane.POLL, start, start + 60)
            assert 0.06 * limit <= polls <= 0.073 * limit + 2
        assert last - first >= 2
        # No answer is older than a few polls.
        polled = [when for when, lane in job.sends if lane is Lane.POLL]
        gaps = [after - before for before, after in pairwise(polled)]
        assert max(gaps) <= 4 * 60 / (0.073 * limit)
        # An interactive call waits for a slot or a probe; if its reserve is below one call,
        # for the next window, and never for the job.
        assert max(job.call_waits) <= 60 / (0.01 * limit) + 1.5

    @given(
        server=st.builds(
            Server,
            st.integers(2, 60),
            OFFSETS,
            rounding=st.sampled_from(["up", "down"]),
            others=st.dictionaries(st.integers(-2, 12), st.integers(0, 60)),
            random=SEEDS.map(Random),
        ),
        max_in_flight=st.integers(1, 16),
        losses=st.sampled_from([0.0, 0.2]),
    )
    @settings(max_examples=examples(60), deadline=None, suppress_health_check=SLOW)
    def test_beside_others(self, server: Server, max_in_flight: int, losses: float) -> None:
        """Whatever others use, hardly a probe is sent where nothing remains."""
        pacer = Pacer(max_in_flight=max_in_flight)
        job = Job(pacer, server, 3 * server.limit, losses=losses).run()
        # A reset that is cut off ends up to a second early; what is sent then are probes.
        assert job.knowingly <= (2 * len(server.used) if server.rounding == "down" else 0)
        assert job.most_in_flight <= max_in_flight
        assert pacer.refused <= 2 * len(server.used) + losses * len(job.sends)

    @given(seed=SEEDS, garbage=st.floats(0.05, 1.0), losses=st.sampled_from([0.0, 0.3]))
    @settings(max_examples=examples(40), deadline=None, suppress_health_check=SLOW)
    def test_invalid_headers_never_stop_it(self, seed: int, garbage: float, losses: float) -> None:
        """With headers that are missing or absurd all requests are still sent, if slowly."""
        server = Server(20, garbage=garbage, random=Random(seed))
        pacer = Pacer(max_in_flight=8)
        job = Job(pacer, server, 100, losses=losses).run()
        assert job.done == 100
        assert pacer.in_flight == 0
        assert job.most_in_flight <= 8

    @given(seed=SEEDS, at_once=st.integers(1, 12))
    @settings(max_examples=examples(25), deadline=None, suppress_health_check=SLOW)
    def test_a_limit_on_concurrency(self, seed: int, at_once: int) -> None:
        """A limit on concurrency is found, and hardly exceeded after the first time."""
        server = Server(10**6, at_once=at_once, random=Random(seed))
        job = Job(Pacer(max_in_flight=16), server, 2000, latency=0.5).run()
        assert job.done == 2000
        # The first time, as many may be refused as were accepted at a time.
        assert server.refused <= 20 + 100 / at_once
        # The pace is nearly what that limit allows.
        assert job.now <= 1.6 * 2000 * 0.51 / at_once
