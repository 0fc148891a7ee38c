"""What answers contain about the rate limits, in their headers or in their body.

The API's rules: https://developer.affinity.co/pages/external-api-v2/rate-limits.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from multidict import istr

from .wire import RateLimitAnswer


# Names that are folded already are looked up in a third of the time.
_USER = istr("X-Ratelimit-Limit-User")
_USER_REMAINING = istr("X-Ratelimit-Limit-User-Remaining")
_USER_RESET = istr("X-Ratelimit-Limit-User-Reset")
_ORG = istr("X-Ratelimit-Limit-Org")
_ORG_REMAINING = istr("X-Ratelimit-Limit-Org-Remaining")
_ORG_RESET = istr("X-Ratelimit-Limit-Org-Reset")
_RETRY_AFTER = istr("Retry-After")


class RateLimits(NamedTuple):
    """The rate limits in the headers of one answer; ``None`` for what is missing or unusable."""

    user: int | None = None
    user_remaining: int | None = None
    user_reset: int | None = None
    org: int | None = None
    org_remaining: int | None = None
    org_reset: int | None = None
    retry_after: float | None = None


def parse_rate_limit_headers(headers: Mapping[str, str], now: datetime) -> RateLimits:
    """Read the headers of an answer; garbage counts as missing, as none of them is required.

    A ``Retry-After`` may be seconds or a date. A date is compared with the server's ``Date``, or
    else with the wall clock, ``now``.
    """
    get = headers.get
    retry_after = get(_RETRY_AFTER)
    return RateLimits(
        _count(get(_USER)),
        _count(get(_USER_REMAINING)),
        _count(get(_USER_RESET)),
        _count(get(_ORG)),
        _count(get(_ORG_REMAINING)),
        _count(get(_ORG_RESET)),
        _seconds(retry_after, _moment(get("Date")) or now) if retry_after else None,
    )


def limits_of(answer: RateLimitAnswer) -> RateLimits:
    """Return the limits in the answer to ``GET /v2/rate-limit``."""
    user, org = answer.caller_per_minute, answer.org_per_month
    if org is None:
        return RateLimits(user.limit, user.remaining, user.reset)
    return RateLimits(user.limit, user.remaining, user.reset, org.limit, org.remaining, org.reset)


def _count(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        number = int(text) if text.isdecimal() else int(float(text))
    except (ValueError, OverflowError):
        return None
    return number if number >= 0 else None


def _seconds(text: str | None, now: datetime) -> float | None:
    seconds = _count(text)
    if seconds is not None:
        return seconds
    moment = _moment(text)
    return None if moment is None else max(0.0, (moment - now).total_seconds())


def _moment(text: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
