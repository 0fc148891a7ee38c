"""The three limits of the API: requests a minute, requests a month, requests at once."""

import math
from typing import Literal


Cause = Literal["minute", "month", "concurrency"]
USER = "X-Ratelimit-Limit-User"
ORG = "X-Ratelimit-Limit-Org"
MONTH = 30 * 24 * 3600.0
# What an unlimited window shows where the API demands a number.
UNLIMITED = 2**31 - 1


class Window:
    """Count requests in fixed windows. A limit of 0 means that there is none."""

    def __init__(self, limit: int, seconds: float, *, origin: float) -> None:
        self.limit = limit
        self._seconds = seconds
        self._origin = origin
        self._index = 0
        self._used = 0

    def use(self, count: int, now: float) -> None:
        self._used = self.used(now) + count

    def used(self, now: float) -> int:
        # A client that sleeps until the reset must not wake up before it by a rounding error.
        index = math.floor((now - self._origin) / self._seconds + 1e-9)
        if index != self._index:
            self._index, self._used = index, 0
        return self._used

    def remaining(self, now: float) -> int:
        return max(0, (self.limit or UNLIMITED) - self.used(now))

    def reset(self, now: float) -> int:
        """Return the whole seconds after which the next window has certainly begun."""
        self.used(now)
        end = self._origin + (self._index + 1) * self._seconds
        return math.ceil(round(end - now, 6))

    def headers(self, name: str, now: float) -> dict[str, str]:
        if not self.limit:
            return {}
        return {
            name: str(self.limit),
            f"{name}-Remaining": str(self.remaining(now)),
            f"{name}-Reset": str(self.reset(now)),
        }

    def view(self, now: float) -> dict[str, int]:
        remaining, reset = self.remaining(now), self.reset(now)
        used = self.used(now)
        return {
            "limit": self.limit or UNLIMITED,
            "remaining": remaining,
            "reset": reset,
            "used": used,
        }


class Limits:
    """Decide whether a request is admitted; what is refused does not count."""

    def __init__(self, *, minute: Window, month: Window, max_concurrent: int | None) -> None:
        self.minute = minute
        self.month = month
        self.max_concurrent = max_concurrent

    def crowded(self, in_flight: int) -> bool:
        return self.max_concurrent is not None and in_flight > self.max_concurrent

    def admit(self, now: float) -> Cause | None:
        """Count one request, or name the limit that refuses it."""
        if not self.month.remaining(now):
            return "month"
        if not self.minute.remaining(now):
            return "minute"
        self.use(1, now)
        return None

    def use(self, count: int, now: float) -> None:
        self.minute.use(count, now)
        self.month.use(count, now)

    def wait(self, cause: Cause, now: float) -> int:
        if cause == "concurrency":
            return 1
        return (self.minute if cause == "minute" else self.month).reset(now)

    def headers(self, now: float) -> dict[str, str]:
        return self.minute.headers(USER, now) | self.month.headers(ORG, now)

    def view(self, now: float) -> dict[str, dict[str, int]]:
        view = {"callerPerMinute": self.minute.view(now)}
        if self.month.limit:
            view["orgPerMonth"] = self.month.view(now)
        return view
