"""How many calls a minute a client sends itself, however many the API would let it send."""

from typing import Final


_MINUTE: Final = 60.0
# A choice: a twentieth of the minute's calls may go at once, and the others are spread over the
# minute. So no minute has more than all of them, and a long run uses nineteen of twenty.
_BURST: Final = 20


class CallRate:
    """Allows a number of calls in any minute, by the generic cell rate algorithm.

    It keeps one time: when the next call would be due if all came evenly. A call may come before
    that by what a burst of calls takes.
    """

    def __init__(self, calls_per_minute: int) -> None:
        burst = calls_per_minute // _BURST
        self._interval = _MINUTE / (calls_per_minute - burst)
        self._ahead = burst * self._interval
        self._due_at = float("-inf")

    def delay(self, now: float) -> float:
        """Return the seconds until a call may be sent; none if that is not above 0."""
        return self._due_at - self._ahead - now

    def send(self, now: float) -> None:
        """Count a call."""
        self._due_at = max(self._due_at, now) + self._interval

    def unsend(self) -> None:
        """Take back a call that was counted and not sent."""
        self._due_at -= self._interval
