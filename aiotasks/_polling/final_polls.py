"""When the last polls of waits leave, so that they are answered by the deadlines."""

import math
from collections.abc import Iterator
from typing import Final

from .pending import PendingTask, Phase
from .waiters import Waiters


# Derived: a wait may overshoot its deadline by 50 ms, of which 10 ms are left for the loop.
GRACE: Final = 0.04
"""How many seconds after a deadline an answer that is in flight is still accepted."""

# A choice.
MAX_LEAD: Final = 10.0
"""How many seconds before its deadline a final poll starts at most, however slow the API is."""

MIN_GAP: Final = GRACE / 2
"""What must be left of a wait, in seconds, to plan one more poll."""

# A choice: so few tasks are polled by GETs at their deadline, without a page before.
_FEW = 4
# The API's largest page.
_PAGE = 100


class FinalPolls:
    """Plans the final polls of the pending tasks.

    ``lead`` is how many seconds before a deadline a poll must start to be answered in time, now.
    """

    def __init__(self, waiters: Waiters) -> None:
        # How many requests may be in flight at once.
        self.allowed = 1.0
        self._waiters = waiters
        self._planned: set[PendingTask] = set()
        # The lead with which they were planned.
        self._lead = 0.0
        # The last deadline at which tasks were asked for by GET, and how many.
        self._last_gets = (-math.inf, 0)

    @property
    def are_few(self) -> bool:
        """Whether so few tasks are pending that each is polled by GET at its deadline."""
        return len(self._waiters) <= _FEW

    def add(self, pending: PendingTask) -> None:
        """Remember a task whose next poll is its final one."""
        self._planned.add(pending)

    def discard(self, pending: PendingTask) -> None:
        """Forget a task."""
        self._planned.discard(pending)

    def starts_at(self, pending: PendingTask, lead: float) -> float:
        """Return when the final poll of a task must start."""
        return pending.deadline - self.lead_of(pending, lead)

    def lead_of(self, pending: PendingTask, lead: float) -> float:
        """Return how long before its deadline the final poll of a task must start.

        With more requests than may be in flight at once, they follow one another: first the pages,
        then the tasks themselves. A task that a caller waits for alone goes before all others.
        """
        if not lead or self.are_few or pending.needs_get or pending.options.is_urgent:
            return lead
        count = len(self._waiters)
        rounds = 2 + (count / _PAGE + min(count, _PAGE)) / self.allowed
        return min(lead * rounds + (rounds - 1) * MIN_GAP, MAX_LEAD)

    def follow(self, lead: float, now: float) -> Iterator[tuple[PendingTask, float]]:
        """Yield the tasks that are planned for later than an answer takes now, and when to poll them.

        A final poll that is planned too soon is put off when it comes to that.
        """
        has_risen = lead > self._lead + MIN_GAP
        self._lead = lead if has_risen else min(lead, self._lead)
        if has_risen:
            self._planned = {each for each in self._planned if each.phase is Phase.WAITING}
            for pending in self._planned:
                starts_at = max(now, self.starts_at(pending, lead))
                if starts_at < pending.due_at:
                    yield pending, starts_at

    def take_get(self, pending: PendingTask) -> bool:
        """Return True if a task may be polled by GET at its deadline, after a page that showed it.

        A list may be stale, so that the tasks themselves are asked for last, a page of them.
        """
        deadline, count = self._last_gets
        count = count + 1 if deadline == pending.deadline else 1
        self._last_gets = (pending.deadline, count)
        return count <= _PAGE
