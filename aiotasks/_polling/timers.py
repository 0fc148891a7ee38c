"""When each pending task is due, in the order of time."""

import heapq
import math
from collections.abc import Callable, Iterator

from aiotasks.backoff import poll_delay

from .pending import PendingTask


class WakeQueue:
    """Pending tasks by the time at which they wake.

    Tasks that one page has shown wake together, so a row of them costs one heap entry. An entry is
    not removed when its task gets another time: the reader must check whether it is still current.
    """

    def __init__(self) -> None:
        # A task that wakes alone has no list of its own, which saves 64 bytes for each of them.
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
        """Remove and yield the rows up to ``now``, one after the other."""
        while self.next <= now:
            when = heapq.heappop(self._times)
            row = _tasks(self._rows.pop(when))
            self._entries -= len(row)
            yield when, row

    def sweep(self, is_current: Callable[[float, PendingTask], bool]) -> None:
        """Remove the entries that are no longer current."""
        before, self._rows, self._times, self._entries = self._rows, {}, [], 0
        for when, row in before.items():
            for pending in _tasks(row):
                if is_current(when, pending):
                    self.put(when, pending)


def _tasks(row: PendingTask | list[PendingTask]) -> list[PendingTask]:
    return [row] if isinstance(row, PendingTask) else row


class SharedDelays:
    """One draw of the jitter for all tasks of one wait that were polled together.

    Tasks that one page has shown stay together, so that one page answers them the next time.
    """

    def __init__(self) -> None:
        self._drawn: dict[tuple[int, int, float], float] = {}

    def forget(self) -> None:
        """Draw again, because another answer came."""
        self._drawn.clear()

    def due_at(self, pending: PendingTask, now: float) -> float:
        """Return when a task that was polled now is due again.

        Raises:
            ConfigurationError: when its backoff strategy fails.
        """
        key = (id(pending.options), pending.attempt, now)
        if key not in self._drawn:
            self._drawn[key] = now + poll_delay(pending.options.backoff, pending.attempt)
        return self._drawn[key]
