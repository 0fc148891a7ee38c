"""When tasks become due: in the order of time, and those of the same time together."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiotasks._http.urls import TaskRef
from aiotasks._polling.pending import PendingTask, WaitOptions
from aiotasks._polling.timers import WakeQueue
from tests.profiles import examples


# How long Hypothesis takes to make examples depends on the machine.
SLOW = [HealthCheck.too_slow]

OPTIONS = WaitOptions(100.0, lambda state: 1.0, lambda pending, outcome: None)


def pending(name: str = "a") -> PendingTask:
    return PendingTask(TaskRef("company", name), name, OPTIONS, now=0.0, index=0)


def popped(timers: WakeQueue, now: float) -> list[tuple[float, list[str]]]:
    return [(when, [each.id for each in row]) for when, row in timers.pop(now)]


class TestWakeQueue:
    def test_empty(self) -> None:
        """An empty queue has no next time and no entries."""
        timers = WakeQueue()
        assert (len(timers), timers.next) == (0, math.inf)
        assert popped(timers, 1e9) == []

    def test_a_row(self) -> None:
        """Tasks of the same time come out together, in the order in which they were added."""
        timers = WakeQueue()
        for name in "abc":
            timers.put(5.0, pending(name))
        timers.put(7.0, pending("d"))
        assert (len(timers), timers.next) == (4, 5.0)
        assert popped(timers, 4.9) == []
        assert popped(timers, 5.0) == [(5.0, ["a", "b", "c"])]
        assert (len(timers), timers.next) == (1, 7.0)

    def test_never(self) -> None:
        """A task that is never due has no entry."""
        timers = WakeQueue()
        timers.put(math.inf, pending())
        assert (len(timers), timers.next) == (0, math.inf)

    def test_a_row_that_is_filled_again_while_it_is_read(self) -> None:
        """Entries added for the current time during a read come out too, in a row of their own."""
        timers = WakeQueue()
        timers.put(1.0, pending("a"))
        rows = []
        for when, row in timers.pop(2.0):
            rows.append((when, [each.id for each in row]))
            if len(rows) == 1:
                timers.put(1.0, pending("b"))
                timers.put(3.0, pending("c"))
        assert rows == [(1.0, ["a"]), (1.0, ["b"])]
        assert timers.next == 3.0

    @pytest.mark.parametrize("kept", [set("ace"), set(), set("abcde")], ids=len)
    def test_a_sweep(self, kept: set[str]) -> None:
        """Outdated entries are removed; the others keep their time and their order."""
        timers = WakeQueue()
        for when, name in ((2.0, "a"), (1.0, "b"), (2.0, "c"), (2.0, "d"), (3.0, "e")):
            timers.put(when, pending(name))
        checked: list[tuple[float, str]] = []

        def is_current(when: float, each: PendingTask) -> bool:
            checked.append((when, each.id))
            return each.id in kept

        timers.sweep(is_current)
        assert sorted(checked) == [(1.0, "b"), (2.0, "a"), (2.0, "c"), (2.0, "d"), (3.0, "e")]
        assert len(timers) == len(kept)
        rows = popped(timers, 9.0)
        expected = [(1.0, "b"), (2.0, "acd"), (3.0, "e")]
        kept_rows = [(when, [each for each in row if each in kept]) for when, row in expected]
        assert rows == [row for row in kept_rows if row[1]]
        assert len(timers) == 0

    @given(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5, 7.0]) | st.floats(0, 9), max_size=40),
        st.floats(0, 9),
    )
    @settings(max_examples=examples(100), deadline=None, suppress_health_check=SLOW)
    def test_the_order(self, times: list[float], now: float) -> None:
        """Entries come out by time and, where that is equal, in the order of adding; others stay."""
        timers = WakeQueue()
        for number, when in enumerate(times):
            timers.put(when, pending(str(number)))
        expected = sorted(range(len(times)), key=times.__getitem__)
        early = [int(name) for _, row in popped(timers, now) for name in row]
        assert early == [number for number in expected if times[number] <= now]
        assert len(timers) == len(times) - len(early)
        assert timers.next > now
        late = popped(timers, 9.0)
        assert early + [int(name) for _, row in late for name in row] == expected
        assert len({when for when, _ in late}) == len(late)
