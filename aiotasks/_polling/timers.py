"""When each pending task is to be woken, in the order of time."""

import heapq
import math
from collections.abc import Callable, Iterator

from aiotasks.backoff import poll_delay

from .pending import PendingTask


class WakeQueue:
    """Rows of tasks that wake at the same moment.

    Tasks that were seen on one page wake together, so that a row costs little more than one task.
    A row is not searched when a task is put into another one: whoever reads it has to see whether
    its entries still hold.
    """

    def __init__(self) -> None:
        # A task that wakes alone has no row of its own: a hundred thousand lists weigh.
        self._rows: dict[float, PendingTask | list[PendingTask]] = {}
        self._times: list[float] = []
        self._entries = 0

    def __len__(self) -> int:
        return self._entries

    @property
    def next(self) -> float:
        """The time of the first row; infinite if there is none."""
        return self._times[0] if self._times else math.inf

    def put(self, when: float, pending: PendingTask) -> None:
        """Wake a task at a time; never, if that is infinite."""
        if when == math.inf:
            return
        row = self._rows.get(when)
        if row is None:
            self._rows[when] = pending
            heapq.heappush(self._times, when)
        elif isinstance(row, PendingTask):
            self._rows[when] = [row, pending]
        else:
            row.append(pending)
        self._entries += 1

    def pop(self, now: float) -> Iterator[tuple[float, list[PendingTask]]]:
        """Take out the rows up to ``now``, one after the other."""
        while self.next <= now:
            when = heapq.heappop(self._times)
            row = _all(self._rows.pop(when))
            self._entries -= len(row)
            yield when, row

    def sweep(self, is_current: Callable[[float, PendingTask], bool]) -> None:
        """Throw out the entries that hold no more."""
        before, self._rows, self._times, self._entries = self._rows, {}, [], 0
        for when, row in before.items():
            for pending in _all(row):
                if is_current(when, pending):
                    self.put(when, pending)


def _all(row: PendingTask | list[PendingTask]) -> list[PendingTask]:
    return [row] if isinstance(row, PendingTask) else row


class SharedDelays:
    """Tasks that were looked at together stay together: one draw of the jitter for all."""

    def __init__(self) -> None:
        self._drawn: dict[tuple[int, int, float], float] = {}

    def forget(self) -> None:
        """Begin with the next answer."""
        self._drawn.clear()

    def of(self, pending: PendingTask, now: float) -> float:
        """Return when a task that was looked at now is to be looked at next.

        Raises:
            ConfigurationError: when its backoff strategy fails.
        """
        key = (id(pending.options), pending.attempt, now)
        if key not in self._drawn:
            self._drawn[key] = now + poll_delay(pending.options.backoff, pending.attempt)
        return self._drawn[key]
