"""When to poll again, and which requests are worth sending again."""

import math
import random
from datetime import timedelta
from typing import Any

import pytest
import tenacity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tenacity import RetryCallState

from aiotasks import (
    AffinityError,
    AuthenticationError,
    AuthorizationError,
    ConfigurationError,
    ConflictError,
    ConnectError,
    DecodeError,
    NetworkError,
    NotFoundError,
    RateLimitError,
    RequestTimeoutError,
    ResponseError,
    ServerError,
    ValidationError,
)
from aiotasks.backoff import (
    MIN_DELAY,
    Backoff,
    Jittered,
    is_worth_a_retry,
    poll_backoff,
    poll_delay,
    retry_delay,
)
from tests.profiles import examples


# How long Hypothesis takes to make examples depends on the machine.
SLOW = [HealthCheck.too_slow]

SECONDS = st.floats(0.001, 1e6)
ATTEMPTS = st.integers(1, 10_000)


def least(low: float, high: float) -> float:
    return low


def most(low: float, high: float) -> float:
    return high


class TestPollBackoff:
    def test_the_default_schedule(self) -> None:
        """The interval starts at two seconds, grows by half each time, and is capped at thirty."""
        backoff = poll_backoff(2.0, 30.0, uniform=least)
        delays = [poll_delay(backoff, attempt) for attempt in range(1, 10)]
        assert delays == pytest.approx([2, 3, 4.5, 6.75, 10.125, 15.1875, 22.78125, 30, 30])

    @given(interval=SECONDS, maximum=SECONDS, attempt=ATTEMPTS, seed=st.integers())
    @settings(max_examples=examples(200), deadline=None, suppress_health_check=SLOW)
    def test_its_bounds(self, interval: float, maximum: float, attempt: int, seed: int) -> None:
        """A delay is the capped power of 1.5, and up to 10 % more."""
        cap = max(interval, maximum)
        exact = min(cap, interval * 1.5 ** min(attempt - 1, 100))
        backoff = poll_backoff(interval, maximum, uniform=random.Random(seed).uniform)
        delay = poll_delay(backoff, attempt)
        assert max(MIN_DELAY, exact) * (1 - 1e-9) <= delay
        assert delay <= max(MIN_DELAY, exact * 1.1) * (1 + 1e-9)

    @given(interval=SECONDS, maximum=SECONDS)
    @settings(max_examples=examples(50), deadline=None, suppress_health_check=SLOW)
    def test_delays_never_shrink(self, interval: float, maximum: float) -> None:
        """Without jitter, no delay is shorter than the one before it."""
        backoff = poll_backoff(interval, maximum, uniform=least)
        delays = [poll_delay(backoff, attempt) for attempt in range(1, 60)]
        assert delays == sorted(delays)
        assert delays[-1] == pytest.approx(max(MIN_DELAY, interval, maximum))

    def test_jitter_only_lengthens(self) -> None:
        """The jitter adds a tenth at most and never shortens a delay."""
        assert poll_delay(poll_backoff(10, 30, uniform=least), 1) == pytest.approx(10)
        assert poll_delay(poll_backoff(10, 30, uniform=most), 1) == pytest.approx(11)
        delays = {poll_delay(poll_backoff(10, 30), 1) for _ in range(50)}
        assert len(delays) > 1
        assert all(10 <= delay <= 11 for delay in delays)

    def test_a_cap_below_the_interval_is_the_interval(self) -> None:
        """An interval above the maximum is used as the maximum."""
        backoff = poll_backoff(60, 30, uniform=least)
        assert [poll_delay(backoff, attempt) for attempt in (1, 2, 9)] == [60, 60, 60]

    @pytest.mark.parametrize("value", [0, -1, math.inf, -math.inf, math.nan])
    @pytest.mark.parametrize("name", ["poll_interval", "max_poll_interval"])
    def test_an_interval_is_a_positive_number(self, name: str, value: float) -> None:
        """An invalid interval is refused by its name."""
        intervals = {"poll_interval": 2.0, "max_poll_interval": 30.0, name: value}
        with pytest.raises(ConfigurationError, match=f"^{name} must be a positive number"):
            _ = poll_backoff(intervals["poll_interval"], intervals["max_poll_interval"])


class TestPollDelay:
    @pytest.mark.parametrize(
        ("strategy", "low", "high"),
        [
            pytest.param(tenacity.wait_fixed(3), 3, 3, id="fixed"),
            pytest.param(tenacity.wait_fixed(timedelta(seconds=3)), 3, 3, id="timedelta"),
            pytest.param(tenacity.wait_random(1, 2), 1, 2, id="random"),
            pytest.param(tenacity.wait_incrementing(1, 2), 5, 5, id="incrementing"),
            pytest.param(tenacity.wait_exponential(min=1, max=60), 4, 4, id="exponential"),
            pytest.param(tenacity.wait_random_exponential(max=60), 0, 4, id="random exponential"),
            pytest.param(tenacity.wait_exponential_jitter(max=60), 4, 5, id="exponential jitter"),
            pytest.param(tenacity.wait_fixed(1) + tenacity.wait_fixed(2), 3, 3, id="sum"),
            pytest.param(
                tenacity.wait_chain(*(tenacity.wait_fixed(n) for n in (1, 2, 7, 9))),
                7,
                7,
                id="chain",
            ),
            pytest.param(lambda state: state.attempt_number * 2, 6, 6, id="function"),
        ],
    )
    def test_any_strategy_is_called_with_the_attempt(
        self, strategy: Backoff, low: float, high: float
    ) -> None:
        """Tenacity's strategies and plain functions are called with the attempt."""
        assert low <= poll_delay(strategy, 3) <= max(high, MIN_DELAY)

    @pytest.mark.parametrize("answer", [0, -5, -1e300, 1e-300], ids=str)
    def test_no_answer_causes_a_busy_loop(self, answer: float) -> None:
        """A strategy that returns zero or less still waits a minimum."""
        assert poll_delay(lambda state: answer, 1) == MIN_DELAY
        assert poll_delay(tenacity.wait_none(), 1) == MIN_DELAY

    @pytest.mark.parametrize("answer", [math.inf, -math.inf, math.nan, "1e999"], ids=repr)
    def test_an_invalid_answer_is_an_error_of_the_caller(self, answer: Any) -> None:
        """A strategy that returns no valid number raises a ConfigurationError with its answer."""
        message = rf"returned {float(answer)} seconds at attempt 7: replace it"
        with pytest.raises(ConfigurationError, match=message):
            _ = poll_delay(lambda state: answer, 7)

    @pytest.mark.parametrize(
        "strategy",
        [
            pytest.param(lambda state: 1 / 0, id="raises"),
            pytest.param(lambda state: None, id="none"),
            pytest.param(lambda state: "soon", id="text"),
            pytest.param(lambda state: timedelta(seconds=1), id="timedelta"),
            pytest.param(lambda state: 10**400, id="number out of range"),
            pytest.param(lambda: 1.0, id="takes no attempt"),
            pytest.param(3.0, id="number"),
            pytest.param(
                lambda state: state.outcome.exception(), id="reads an error that is not there"
            ),
        ],
    )
    def test_a_strategy_that_raises_is_an_error_of_the_caller(self, strategy: Any) -> None:
        """A strategy that raises is reported as an invalid setting, with its own error."""
        with pytest.raises(ConfigurationError, match="attempt 4") as caught:
            _ = poll_delay(strategy, 4)
        assert caught.value.__cause__ is not None

    def test_a_strategy_may_read_the_attempt_from_the_state(self) -> None:
        """The state of a strategy has the attempt only, and no outcome."""
        seen: list[RetryCallState] = []

        def remember(state: RetryCallState) -> float:
            seen.append(state)
            return 1.0

        assert poll_delay(remember, 5) == 1.0
        assert (seen[0].attempt_number, seen[0].outcome) == (5, None)


class TestRetries:
    @given(attempt=ATTEMPTS)
    @settings(max_examples=examples(100), deadline=None, suppress_health_check=SLOW)
    def test_the_delay_grows_and_is_capped(self, attempt: int) -> None:
        """The delay is half a second, doubled each time up to four, plus half at most."""
        exact = min(4.0, 0.5 * 2 ** min(attempt - 1, 30))
        assert exact <= retry_delay(attempt) <= exact * 1.5

    def test_the_fraction_is_a_setting(self) -> None:
        """Jitter lengthens any strategy by the given fraction."""
        jittered = Jittered(tenacity.wait_fixed(10), fraction=0.5, uniform=most)
        assert poll_delay(jittered, 1) == pytest.approx(15)

    @pytest.mark.parametrize(
        ("error", "reads", "writes"),
        [
            (NetworkError("broke"), 3, 0),
            (RequestTimeoutError("late"), 3, 0),
            (ConnectError("none"), 3, 3),
            (ServerError(503, None, "x"), 3, 0),
            (RateLimitError(429, None, "x"), 9, 9),
            (AuthenticationError(401, None, "x"), 0, 0),
            (AuthorizationError(403, None, "x"), 0, 0),
            (NotFoundError(404, None, "x"), 0, 0),
            (ConflictError(409, None, "x"), 0, 0),
            (ValidationError(422, None, "x"), 0, 0),
            (ResponseError(418, None, "x"), 0, 0),
            (DecodeError(200, "x"), 1, 0),
            (DecodeError(200, "x", is_empty=True), 3, 0),
            (ConfigurationError("x"), 0, 0),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, AffinityError) else str(value),
    )
    def test_which_requests_are_retried(
        self, error: AffinityError, reads: int, writes: int
    ) -> None:
        """A merge is retried only when it certainly did not run; a read after any outage."""
        retries = {
            is_read: sum(
                is_worth_a_retry(error, attempt, is_read=is_read) for attempt in range(1, 99)
            )
            for is_read in (True, False)
        }
        assert retries == {True: reads, False: writes}
