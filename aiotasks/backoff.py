"""The backoff policy: how long to wait before the next poll or retry, as tenacity strategies.

No retry loop of tenacity runs here. Its strategies are pure and cost about 3 microseconds; its
loops cost more than the request that they would guard, and read ``time.monotonic``. So strategies
get the attempt, and seconds belong to the event loop.
"""

import math
import random
from collections.abc import Callable
from typing import Any, TypeAlias

from tenacity import RetryCallState, stop_after_attempt, wait_exponential
from tenacity.wait import wait_base

from .errors import (
    AffinityError,
    ConfigurationError,
    ConnectError,
    DecodeError,
    NetworkError,
    RateLimitError,
    ServerError,
)


Backoff: TypeAlias = wait_base | Callable[[RetryCallState], float]
"""Any tenacity wait strategy: a function from the attempt to seconds."""

GROWTH = 1.5
JITTER = 0.1
MIN_DELAY = 0.01

_RETRY_ATTEMPTS = stop_after_attempt(4)
# Four tries of a read take up to 5 s. Ten refusals in a row come from another program on the same
# key: the pacer has slowed this client down after the first. Both numbers are choices.
_REFUSED_ATTEMPTS = stop_after_attempt(10)


class Jittered(wait_base):
    """Lengthen another strategy's waits by a random part of them, up to ``fraction``."""

    def __init__(
        self,
        wait: wait_base,
        *,
        fraction: float = JITTER,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._wait = wait
        self._fraction = fraction
        self._uniform = uniform

    def __call__(self, retry_state: RetryCallState) -> float:
        """Return the other strategy's seconds, and up to ``fraction`` of them more."""
        return self._wait(retry_state) * (1 + self._uniform(0, self._fraction))


_RETRY_WAIT = Jittered(wait_exponential(multiplier=0.5, max=4), fraction=0.5)


def poll_backoff(
    poll_interval: float,
    max_poll_interval: float,
    *,
    uniform: Callable[[float, float], float] = random.uniform,
) -> wait_base:
    """Return the default schedule: ``poll_interval x 1.5^n``, capped, and up to 10 % on top.

    Raises:
        ConfigurationError: when an interval is not a positive number.
    """
    for name, value in (("poll_interval", poll_interval), ("max_poll_interval", max_poll_interval)):
        if not 0 < value < math.inf:
            message = f"{name} must be a positive number of seconds, not {value!r}"
            raise ConfigurationError(message)
    exponential = wait_exponential(
        multiplier=poll_interval, exp_base=GROWTH, max=max(poll_interval, max_poll_interval)
    )
    return Jittered(exponential, uniform=uniform)


def poll_delay(backoff: Backoff, attempt: int) -> float:
    """Return the seconds from poll number ``attempt`` (from 1) to the next one.

    Raises:
        ConfigurationError: when the strategy raises, or returns no finite number.
    """
    try:
        delay = float(backoff(_state(attempt)))
    except Exception as error:
        message = f"The backoff strategy failed at attempt {attempt}: {error!r}. Fix or replace it"
        raise ConfigurationError(message) from error
    if not math.isfinite(delay):
        message = f"The backoff strategy returned {delay} seconds at attempt {attempt}: replace it"
        raise ConfigurationError(message)
    # A strategy that returns 0 must not spin.
    return max(MIN_DELAY, delay)


def retry_delay(attempt: int) -> float:
    """Return the seconds to wait after ``attempt`` failures in a row (from 1)."""
    return float(_RETRY_WAIT(_state(attempt)))


def is_worth_a_retry(error: AffinityError, attempt: int, *, is_read: bool) -> bool:
    """Return True if a request that failed ``attempt`` times, now with ``error``, may be repeated.

    A read may be repeated, once if its answer cannot be read. A write may only if it provably did
    not run: it was refused for a rate limit, or there was no connection to send it on.
    """
    if isinstance(error, RateLimitError):
        return not _REFUSED_ATTEMPTS(_state(attempt))
    if isinstance(error, DecodeError) and not error.is_empty:
        return is_read and attempt == 1
    repeatable = (NetworkError, ServerError, DecodeError) if is_read else (ConnectError,)
    return isinstance(error, repeatable) and not _RETRY_ATTEMPTS(_state(attempt))


def _state(attempt: int) -> RetryCallState:
    # Strategies only read the attempt, so the state needs no retry object.
    nothing: Any = None
    state = RetryCallState(nothing, None, (), {})
    state.attempt_number = attempt
    return state
