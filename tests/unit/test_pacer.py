"""What the headers say, and when the next request may go: against a server made of numbers."""

import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aiotasks import Quota
from aiotasks._pacer import (
    MAX_HOLD,
    START_IN_FLIGHT,
    Lane,
    Limits,
    Pacer,
    choose_lane,
    read_limits,
)


# How fast examples are made is the machine's affair.
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
    return read_limits({"Retry-After": text}, NOW).retry_after


class TestReadLimits:
    def test_all_headers(self) -> None:
        """Both limits are read from the headers that the API documents."""
        headers = {
            USER: "900",
            f"{USER}-Remaining": "899",
            f"{USER}-Reset": "42",
            ORG: "100000",
            f"{ORG}-Remaining": "99000",
            f"{ORG}-Reset": "1000000",
            "Retry-After": "7",
        }
        assert read_limits(headers, NOW) == Limits(900, 899, 42, 100_000, 99_000, 1_000_000, 7)

    def test_no_headers(self) -> None:
        """Every header may be missing."""
        assert read_limits({}, NOW) == Limits()

    @pytest.mark.parametrize("text", GARBAGE, ids=range(len(GARBAGE)))
    def test_garbage_counts_as_missing(self, text: str) -> None:
        """A header that is no count tells nothing, and hides nothing that others tell."""
        headers = {USER: text, f"{USER}-Remaining": "5", f"{USER}-Reset": text, "Retry-After": text}
        assert read_limits(headers, NOW) == Limits(user_remaining=5)

    @pytest.mark.parametrize(("text", "count"), [("0", 0), (" 5 ", 5), ("5.0", 5), ("5.9", 5)])
    def test_a_count_may_be_written_as_a_number(self, text: str, count: int) -> None:
        """A proxy that writes numbers with a point or spaces is understood."""
        assert read_limits({f"{USER}-Remaining": text}, NOW).user_remaining == count

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
        """``Retry-After`` is seconds or a date, which means UTC where it does not say."""
        assert retry_after(text) == seconds

    def test_a_far_future_is_read_as_it_is(self) -> None:
        """How much of a ``Retry-After`` is believed is not for the reader to say."""
        seconds = retry_after("Fri, 31 Dec 9999 23:59:59 GMT")
        assert seconds is not None
        assert seconds > 1e11

    @given(
        st.dictionaries(
            st.sampled_from(
                [USER, f"{USER}-Remaining", f"{USER}-Reset", ORG, f"{ORG}-Remaining", "Retry-After"]
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
    @settings(max_examples=300, deadline=None, suppress_health_check=SLOW)
    def test_any_text_is_read(self, headers: dict[str, str]) -> None:
        """No header can fail an answer, and none tells of less than nothing."""
        limits = read_limits(headers, NOW)
        for count in (limits.user, limits.user_remaining, limits.user_reset, limits.retry_after):
            assert count is None or 0 <= count < math.inf


class TestLanes:
    @pytest.mark.parametrize(
        ("waiting", "first", "tenth"),
        [
            ((1, 1, 1), Lane.INTERACTIVE, Lane.POLL),
            ((0, 1, 1), Lane.MERGE, Lane.POLL),
            ((1, 9, 0), Lane.INTERACTIVE, Lane.MERGE),
            ((0, 0, 5), Lane.POLL, Lane.POLL),
            ((3, 0, 0), Lane.INTERACTIVE, Lane.INTERACTIVE),
        ],
    )
    def test_who_goes_next(self, waiting: tuple[int, ...], first: Lane, tenth: Lane) -> None:
        """Interactive calls go before merges and merges before polls, but for every tenth slot."""
        counts = dict(zip(Lane, waiting, strict=True))
        chosen = [choose_lane(counts, turn) for turn in range(1, 21)]
        assert chosen == ([first] * 8 + [tenth] + [first]) * 2

    def test_polls_are_not_starved_by_merges(self) -> None:
        """While merges never end, a tenth of the slots still goes to polls."""
        counts = {Lane.INTERACTIVE: 0, Lane.MERGE: 10**6, Lane.POLL: 1000}
        chosen = [choose_lane(counts, turn) for turn in range(100)]
        assert chosen.count(Lane.POLL) == 10


def sent(pacer: Pacer, now: float, count: int = 1) -> None:
    for _ in range(count):
        assert pacer.delay(now) == 0
        pacer.send()


def answered(pacer: Pacer, now: float, limits: Limits = Limits(), *, status: int = 200) -> None:  # noqa: B008 - immutable
    pacer.answer(now, status, limits)
    pacer.end(was_answered=True)


def minute(remaining: int, reset: int | None = 60) -> Limits:
    return Limits(user=900, user_remaining=remaining, user_reset=reset)


def opened(*, max_in_flight: int = 16, remaining: int = 900, reset: int = 60) -> Pacer:
    """Return a pacer that knows its minute, at time 0."""
    pacer = Pacer(max_in_flight=max_in_flight)
    sent(pacer, 0)
    answered(pacer, 0, minute(remaining, reset))
    return pacer


class TestMinute:
    def test_one_request_goes_first(self) -> None:
        """Before anything is known, all others wait for what the first one learns."""
        pacer = Pacer(max_in_flight=16)
        sent(pacer, 0)
        assert pacer.delay(0) == math.inf
        answered(pacer, 1, minute(900))
        assert pacer.delay(1) == 0

    def test_it_opens_by_and_by(self) -> None:
        """A few are sent at once at first, and one more after each answer, up to the maximum."""
        pacer = opened(max_in_flight=8)
        for allowed in (START_IN_FLIGHT + 1, *range(START_IN_FLIGHT + 2, 9), 8):
            sent(pacer, 0, allowed - pacer.in_flight)
            assert pacer.delay(0) == math.inf
            answered(pacer, 0, minute(800))

    def test_a_maximum_of_one(self) -> None:
        """With one allowed there is never a second on its way."""
        pacer = opened(max_in_flight=1)
        for _ in range(3):
            sent(pacer, 0)
            assert pacer.delay(0) == math.inf
            answered(pacer, 0, minute(800))

    def test_what_is_on_its_way_is_taken_off(self) -> None:
        """The last requests of a minute are not sent twice over."""
        pacer = opened(remaining=2)
        sent(pacer, 0, 2)
        assert pacer.delay(0) == math.inf
        answered(pacer, 1, minute(1, 59))
        answered(pacer, 1, minute(0, 59))
        assert pacer.delay(1) == 59

    def test_an_exhausted_minute_is_waited_out(self) -> None:
        """With nothing remaining, the next goes when the minute ends, alone."""
        pacer = opened(remaining=0, reset=42)
        assert pacer.delay(0) == 42
        assert pacer.delay(41.5) == 0.5
        sent(pacer, 42)
        assert pacer.delay(42) == math.inf

    def test_the_use_of_others_counts(self) -> None:
        """What another program takes of the key's minute is gone for this one too."""
        pacer = opened(remaining=500)
        sent(pacer, 0)
        answered(pacer, 0, minute(0))
        assert pacer.delay(0) == 60

    def test_answers_overtake_each_other(self) -> None:
        """Within one minute only the lowest count is believed."""
        pacer = opened()
        sent(pacer, 0, 2)
        answered(pacer, 1, minute(0, 59))
        answered(pacer, 1, minute(5, 59))
        assert pacer.delay(1) == 59

    def test_a_late_answer_of_the_last_minute(self) -> None:
        """What an answer says of a minute that is over does not touch the present one."""
        pacer = opened()
        sent(pacer, 0, 2)
        answered(pacer, 30, minute(800, 60))
        answered(pacer, 30, minute(0, 5))
        assert pacer.delay(30) == 0

    def test_a_new_minute_that_an_answer_shows(self) -> None:
        """A minute that ended sooner than expected is used at once."""
        pacer = opened(remaining=1, reset=30)
        sent(pacer, 0)
        answered(pacer, 20, minute(899, 60))
        sent(pacer, 20, 4)

    def test_a_reset_that_is_missing(self) -> None:
        """Without a reset the minute may be all of sixty seconds."""
        pacer = Pacer(max_in_flight=4)
        sent(pacer, 0)
        answered(pacer, 0, minute(0, None))
        assert pacer.delay(0) == 60

    def test_a_reset_of_nothing(self) -> None:
        """A reset of 0 still waits a second, for it may be cut off."""
        pacer = opened(remaining=0, reset=0)
        assert pacer.delay(0) == 1

    def test_a_reset_that_cannot_be_one(self) -> None:
        """A reset beyond any minute, such as a date in seconds, does not stop the work for ever."""
        pacer = opened(remaining=0, reset=1_772_366_400)
        assert pacer.delay(0) == MAX_HOLD
        sent(pacer, MAX_HOLD)

    def test_answers_without_headers(self) -> None:
        """Where nothing is told of limits, only the number at once is held."""
        pacer = Pacer(max_in_flight=2)
        for now in range(200):
            sent(pacer, now)
            answered(pacer, now)
        assert pacer.quota(200).remaining is None

    def test_a_proxys_answer_changes_nothing(self) -> None:
        """An answer without headers leaves what is known of the minute."""
        pacer = opened(remaining=1)
        sent(pacer, 0)
        answered(pacer, 1)
        sent(pacer, 1)
        assert pacer.delay(1) == math.inf

    def test_what_was_lost_may_have_counted(self) -> None:
        """A request that was sent and not answered is taken off."""
        pacer = opened(remaining=1)
        sent(pacer, 0)
        pacer.end(was_answered=False)
        assert pacer.delay(0) == 60

    def test_a_lost_first_request_is_followed_by_another(self) -> None:
        """When the first request tells nothing, the next one goes in its place."""
        pacer = Pacer(max_in_flight=16)
        sent(pacer, 0)
        pacer.end(was_answered=False)
        sent(pacer, 0)
        assert pacer.delay(0) == math.inf

    def test_a_new_minute_does_not_raise_the_maximum(self) -> None:
        """The first request of a new minute waits too while as many as allowed are on their way."""
        pacer = opened(max_in_flight=2)
        sent(pacer, 0, 2)
        assert pacer.delay(61) == math.inf
        answered(pacer, 61, minute(899))
        sent(pacer, 61)
        assert pacer.delay(61) == math.inf

    def test_a_slot_that_was_not_used(self) -> None:
        """A slot that is given back unused costs nothing and counts for nothing."""
        pacer = opened(remaining=1)
        sent(pacer, 0)
        pacer.unsend()
        sent(pacer, 0)
        assert (pacer.sent, pacer.in_flight) == (2, 1)
        fresh = Pacer(max_in_flight=1)
        sent(fresh, 0)
        fresh.unsend()
        sent(fresh, 0)


class TestRefusals:
    @pytest.mark.parametrize(
        ("limits", "hold"),
        [
            pytest.param(minute(0, 17), 17, id="minute"),
            pytest.param(minute(0, None), 1, id="minute without a reset"),
            pytest.param(minute(0, 10**9), MAX_HOLD, id="minute with an endless reset"),
            pytest.param(minute(100), 1, id="concurrency"),
            pytest.param(Limits(), 1, id="no header"),
            pytest.param(Limits(retry_after=33), 33, id="retry after"),
            pytest.param(Limits(retry_after=0), 1, id="retry at once"),
            pytest.param(Limits(retry_after=1e9), MAX_HOLD, id="retry never"),
            pytest.param(Limits(user_remaining=0, user_reset=5, retry_after=33), 33, id="both"),
        ],
    )
    def test_how_long_it_holds(self, limits: Limits, hold: float) -> None:
        """A 429 holds everything for as long as it says, a second at least and two minutes at most."""
        pacer = opened()
        sent(pacer, 0)
        answered(pacer, 0, limits, status=429)
        assert pacer.delay(0) == hold
        assert pacer.delay(hold / 2) == hold / 2
        assert pacer.delay(hold) == 0

    def test_one_probe_and_then_a_ramp(self) -> None:
        """After a 429 one request goes, and when it is let through two, and so on."""
        pacer = opened()
        sent(pacer, 0)
        answered(pacer, 0, minute(500), status=429)
        for allowed in (1, 2, 3):
            sent(pacer, 1, allowed)
            assert pacer.delay(1) == math.inf
            answered(pacer, 1, minute(499))
            for _ in range(allowed - 1):
                pacer.end(was_answered=False)

    def test_concurrency_is_learned(self) -> None:
        """Refused with calls remaining, it rises fast to half of what was refused, then slowly."""
        pacer = opened(max_in_flight=16)
        for _ in range(20):
            sent(pacer, 0)
            answered(pacer, 0, minute(800))
        sent(pacer, 0, 16)
        for _ in range(15):
            pacer.end(was_answered=False)
        answered(pacer, 0, minute(700), status=429)
        sizes = []
        for _ in range(16):
            sent(pacer, 1)
            answered(pacer, 1, minute(600))
            count = 0
            while pacer.delay(1) == 0:
                pacer.send()
                count += 1
            for _ in range(count):
                pacer.unsend()
            sizes.append(count)
        assert sizes[:7] == [2, 3, 4, 5, 6, 7, 8]
        assert sizes[7:] == [8] * 7 + [9] + [9] or sizes[7:] == [8] * 8 + [9]

    def test_refusals_in_a_row_wait_ever_longer(self) -> None:
        """Without a word on how long, each refused probe doubles the wait, up to two minutes."""
        pacer = opened()
        now, holds = 0.0, []
        for _ in range(9):
            sent(pacer, now)
            answered(pacer, now, status=429)
            holds.append(pacer.delay(now))
            now += holds[-1]
        assert holds == [1, 2, 4, 8, 16, 32, 64, 120, 120]

    def test_a_success_ends_the_row(self) -> None:
        """After a probe was let through, the next refusal starts at a second again."""
        pacer = opened()
        for now in (0, 1):
            sent(pacer, now)
            answered(pacer, now, status=429)
        sent(pacer, 3)
        answered(pacer, 3)
        sent(pacer, 3)
        answered(pacer, 3, status=429)
        assert pacer.delay(3) == 1

    def test_many_refusals_at_once_are_one_event(self) -> None:
        """What was on its way when the first 429 came does not lengthen the wait."""
        pacer = opened()
        sent(pacer, 0, 5)
        for _ in range(5):
            answered(pacer, 0, status=429)
        assert pacer.delay(0) == 1
        assert pacer.refused == 5

    def test_late_successes_open_nothing(self) -> None:
        """Answers to what was sent before the 429 do not take the place of the probe."""
        pacer = opened()
        sent(pacer, 0, 5)
        answered(pacer, 0, minute(800), status=429)
        for _ in range(4):
            answered(pacer, 0.5, minute(800))
        sent(pacer, 1)
        assert pacer.delay(1) == math.inf
        answered(pacer, 2, minute(800))
        sent(pacer, 2, 2)
        assert pacer.delay(2) == math.inf

    @pytest.mark.parametrize("status", [500, 503])
    def test_a_server_in_trouble_may_ask_for_quiet(self, status: int) -> None:
        """``Retry-After`` on a 5xx holds too."""
        pacer = opened()
        sent(pacer, 0)
        answered(pacer, 0, Limits(retry_after=20), status=status)
        assert pacer.delay(0) == 20
        sent(pacer, 20, 4)

    def test_retry_after_means_nothing_elsewhere(self) -> None:
        """On any other answer ``Retry-After`` is passed over."""
        pacer = opened()
        sent(pacer, 0)
        answered(pacer, 0, Limits(retry_after=20), status=202)
        assert pacer.delay(0) == 0


def month(remaining: int, reset: int | None = 1000) -> Limits:
    return Limits(org=100_000, org_remaining=remaining, org_reset=reset)


class TestMonth:
    @pytest.mark.parametrize(
        ("reserve", "remaining", "is_used_up"),
        [(0, 1, False), (0, 0, True), (100, 101, False), (100, 100, True), (100, 5, True)],
    )
    def test_it_ends_at_the_reserve(self, reserve: int, remaining: int, is_used_up: bool) -> None:
        """With no more than the reserve remaining, the month is used up."""
        pacer = Pacer(max_in_flight=4, reserve=reserve)
        assert not pacer.is_month_used_up(0)
        sent(pacer, 0)
        answered(pacer, 0, month(remaining))
        assert pacer.is_month_used_up(1) is is_used_up

    def test_the_last_of_a_month_are_not_sent_twice(self) -> None:
        """What is on its way is taken off the month too, and off nothing once that is used up."""
        pacer = Pacer(max_in_flight=8, reserve=10)
        sent(pacer, 0)
        answered(pacer, 0, month(12))
        sent(pacer, 0, 2)
        assert pacer.delay(0) == math.inf
        answered(pacer, 0, month(10))
        answered(pacer, 0, month(11))
        pacer.answer(0, 200, month(10))
        assert pacer.is_month_used_up(0)
        assert pacer.delay(0) == 0

    def test_the_next_month_goes_on(self) -> None:
        """At the reset of the month work may go on."""
        pacer = Pacer(max_in_flight=4)
        sent(pacer, 0)
        answered(pacer, 0, month(0), status=429)
        assert pacer.is_month_used_up(999)
        assert not pacer.is_month_used_up(1000)

    def test_without_a_reset_it_stays_used_up(self) -> None:
        """Where no answer tells when the month ends, only a new answer reopens it."""
        pacer = Pacer(max_in_flight=4)
        sent(pacer, 0, 1)
        answered(pacer, 0, month(0, None))
        assert pacer.is_month_used_up(1e9)
        pacer.send()
        answered(pacer, 1, month(5, None))
        assert not pacer.is_month_used_up(1e9)

    def test_other_answers_do_not_reopen_it(self) -> None:
        """An answer without the organization's headers says nothing of the month."""
        pacer = Pacer(max_in_flight=4)
        sent(pacer, 0)
        answered(pacer, 0, month(0))
        pacer.send()
        answered(pacer, 1, minute(800))
        assert pacer.is_month_used_up(1)


class TestQuota:
    def test_nothing_is_known_at_first(self) -> None:
        """Before the first answer there are no numbers but the own counts."""
        assert Pacer(max_in_flight=4).quota(0) == Quota()

    def test_all_that_is_known(self) -> None:
        """What is remaining is told less what is on its way, and resets as seconds from now."""
        pacer = Pacer(max_in_flight=4)
        sent(pacer, 0)
        answered(pacer, 0, Limits(900, 800, 60, 100_000, 5_000, 1000))
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

    def test_less_than_nothing_is_nothing(self) -> None:
        """More on its way than remaining is shown as none remaining."""
        pacer = opened(remaining=3)
        sent(pacer, 0, 3)
        answered(pacer, 0, minute(1))
        assert pacer.quota(0).remaining == 0


@dataclass
class Server:
    """A server with a fixed window of a minute, and whoever else uses the key."""

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
    """Requests that are sent as the pacer allows, over a network with delays and losses."""

    pacer: Pacer
    server: Server
    count: int
    latency: float = 0.2
    losses: float = 0.0
    now: float = 0.0
    most_in_flight: int = 0
    sends: list[float] = field(default_factory=list)
    done: int = 0
    # The windows of which an answer has told the client that nothing remains.
    exhausted: set[int] = field(default_factory=set)
    # How many requests were sent into such a window.
    knowingly: int = 0

    def run(self) -> "Job":
        events: list[tuple[float, int, Iterator[float]]] = []
        number = 0
        while events or self.done < self.count:
            delay = self.pacer.delay(self.now)
            assert delay >= 0
            is_wanted = self.done + self.pacer.in_flight < self.count
            if is_wanted and delay == 0:
                number += 1
                self._note_send()
                heapq.heappush(events, (self.now, number, self._request()))
                continue
            when = self.now + delay if is_wanted else math.inf
            assert events or when < math.inf, "nothing is in flight, and nothing may go"
            if not events or when < events[0][0]:
                self.now = when
                continue
            self.now, number_, request = heapq.heappop(events)
            pause = next(request, None)
            if pause is not None:
                heapq.heappush(events, (self.now + pause, number_, request))
            assert self.pacer.in_flight >= 0
        return self

    def _note_send(self) -> None:
        self.knowingly += self.server.window(self.now) in self.exhausted
        self.pacer.send()
        self.sends.append(self.now)
        self.most_in_flight = max(self.most_in_flight, self.pacer.in_flight)

    def _request(self) -> Iterator[float]:
        random = self.server.random
        yield random.uniform(0, self.latency)
        is_lost = random.random() < self.losses
        if is_lost and random.random() < 0.5:
            self.pacer.end(was_answered=False)
            return
        self.server.present += 1
        window = self.server.window(self.now)
        status, headers = self.server.arrive(self.now)
        yield random.uniform(0, self.latency)
        self.server.present -= 1
        if is_lost:
            self.pacer.end(was_answered=False)
            return
        limits = read_limits(headers, NOW)
        if limits.user_remaining == 0:
            self.exhausted.add(window)
        self.pacer.answer(self.now, status, limits)
        self.done += status == 200
        yield 0.01
        self.pacer.end(was_answered=True)


SEEDS = st.integers(0, 2**32)
OFFSETS = st.floats(-60, 60)


class TestSimulated:
    @given(
        seed=SEEDS,
        limit=st.integers(1, 60),
        offset=OFFSETS,
        max_in_flight=st.integers(1, 16),
        latency=st.floats(0, 1.4),
    )
    @example(seed=0, limit=1, offset=0.0, max_in_flight=16, latency=1.4)
    @settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
    def test_alone_on_the_key(
        self, seed: int, limit: int, offset: float, max_in_flight: int, latency: float
    ) -> None:
        """Alone on the key nothing is refused, and no minute is sent into once it is exhausted."""
        server = Server(limit, offset, random=Random(seed))
        pacer = Pacer(max_in_flight=max_in_flight)
        job = Job(pacer, server, count=4 * limit, latency=latency).run()
        assert (server.refused, job.knowingly) == (0, 0)
        assert job.most_in_flight <= max_in_flight
        assert pacer.in_flight == 0
        assert pacer.sent == len(job.sends) == 4 * limit

    @given(seed=SEEDS, offset=OFFSETS)
    @settings(max_examples=10, deadline=None, suppress_health_check=SLOW)
    def test_minutes_are_used_up(self, seed: int, offset: float) -> None:
        """Alone on the key and with fast answers, hardly any of a minute is left unused."""
        server = Server(300, offset, random=Random(seed))
        job = Job(Pacer(max_in_flight=16), server, count=1500, latency=0.2).run()
        assert len(server.used) <= 6
        assert job.now <= 60 * 5 + 15

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
    @settings(max_examples=80, deadline=None, suppress_health_check=SLOW)
    def test_beside_others(self, server: Server, max_in_flight: int, losses: float) -> None:
        """Whatever others use, hardly a probe is sent where nothing is known to remain."""
        pacer = Pacer(max_in_flight=max_in_flight)
        job = Job(pacer, server, count=3 * server.limit, losses=losses).run()
        # A reset that is cut off ends up to a second early; what goes then are probes.
        assert job.knowingly <= (2 * len(server.used) if server.rounding == "down" else 0)
        assert job.most_in_flight <= max_in_flight
        assert pacer.refused <= 2 * len(server.used) + losses * len(job.sends)

    @given(seed=SEEDS, garbage=st.floats(0.05, 1.0), losses=st.sampled_from([0.0, 0.3]))
    @settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
    def test_garbage_never_stops_it(self, seed: int, garbage: float, losses: float) -> None:
        """With headers that are missing or absurd the work slows down, but it is always done."""
        server = Server(20, garbage=garbage, random=Random(seed))
        pacer = Pacer(max_in_flight=8)
        job = Job(pacer, server, count=100, losses=losses).run()
        assert job.done == 100
        assert pacer.in_flight == 0
        assert job.most_in_flight <= 8

    @given(seed=SEEDS, at_once=st.integers(1, 8))
    @settings(max_examples=30, deadline=None, suppress_health_check=SLOW)
    def test_a_limit_on_concurrency(self, seed: int, at_once: int) -> None:
        """Too many at once become fewer: at the worst one of two rounds ends in a refusal."""
        server = Server(10**6, at_once=at_once, random=Random(seed))
        job = Job(Pacer(max_in_flight=16), server, count=1000, latency=0.5).run()
        assert job.done == 1000
        assert server.refused <= 500 / at_once
