"""The time that a running job still takes."""

import pytest

from aiotasks.dedupe import JobSettings
from aiotasks.dedupe._durations import Durations
from aiotasks.dedupe._run.queue import MergeQueue
from aiotasks.dedupe._run.time_left import TimeLeft
from aiotasks.dedupe.models import Pair, PairState, StopReason
from aiotasks.models import Quota


FULL = Quota(limit=900, remaining=900, reset=60.0)
KNOWN = [9.0, 10.0, 11.0] * 10


def queue_of(merges: int, *, canary: int = 0) -> MergeQueue:
    pairs = [
        Pair(number=n, line=n, primary_id=n, duplicate_id=10**6 + n, state=PairState.PLANNED)
        for n in range(1, merges + 1)
    ]
    return MergeQueue(pairs, [], JobSettings(canary=canary))


def test_nothing_is_shown_that_is_not_known() -> None:
    """Nothing is shown during the opening, after a stop, or before a few merges have ended."""
    assert TimeLeft(queue_of(30, canary=20), Durations(KNOWN)).seconds(0.0, FULL) is None
    assert TimeLeft(queue_of(30), Durations()).seconds(0.0, FULL) is None
    stopped = queue_of(30)
    stopped.stop(StopReason.INTERRUPTED)
    assert TimeLeft(stopped, Durations(KNOWN)).seconds(0.0, FULL) is None


def test_the_limit_and_the_last_merges_count() -> None:
    """A job of two and a half windows takes two of them, and the time of its last merges."""
    left = TimeLeft(queue_of(2000), Durations(KNOWN)).seconds(0.0, FULL)
    assert left == pytest.approx(120.0 + 13.0, abs=3.0)
    unknown = TimeLeft(queue_of(2000), Durations(KNOWN)).seconds(0.0, Quota())
    assert unknown == pytest.approx(left)


def test_a_window_that_is_used_up() -> None:
    """If no calls are left in the minute, the rest begins with the next one."""
    used_up = Quota(limit=900, remaining=0, reset=40.0)
    left = TimeLeft(queue_of(500), Durations(KNOWN)).seconds(0.0, used_up)
    assert left == pytest.approx(40.0 + 13.0, abs=3.0)


def test_the_clock_counts_between_forecasts() -> None:
    """Within five seconds the time left shrinks with the clock, and never below 0."""
    time_left = TimeLeft(queue_of(500), Durations(KNOWN))
    first = time_left.seconds(0.0, FULL)
    assert first is not None
    assert time_left.seconds(3.0, FULL) == pytest.approx(first - 3.0)


@pytest.mark.parametrize(("started", "windows"), [(825, 3), (550, 5)])
def test_others_take_their_part(started: int, windows: int) -> None:
    """After a minute the rate at which merges could start is what counts."""
    durations = Durations(KNOWN)
    time_left = TimeLeft(queue_of(2400), durations)
    _ = time_left.seconds(0.0, FULL)
    for number in range(started):
        durations.start(number, 60.0)
        durations.end(number, 70.0)
    used_up = Quota(limit=900, remaining=0, reset=50.0)
    # Each forecast may change by half.
    *_, left = (time_left.seconds(now, used_up) for now in (70.0, 80.0, 90.0, 100.0, 110.0))
    assert left == pytest.approx(50.0 + 60.0 * (windows - 1) + 13.0, abs=3.0)


def test_it_changes_in_small_steps() -> None:
    """A forecast changes by no more than a factor of one and a half at a time."""
    queue = queue_of(3000)
    time_left = TimeLeft(queue, Durations(KNOWN))
    before = time_left.seconds(0.0, FULL)
    while queue.take():
        pass
    after = time_left.seconds(5.0, FULL)
    assert before is not None
    assert after == pytest.approx((before - 5.0) / 1.5)


def test_what_nobody_can_know_is_not_shown() -> None:
    """If the slowest merge may take much longer than is likely, no time is shown."""
    spread = Durations([1.0, 2.0, 5.0, 20.0, 100.0, 400.0] * 5)
    assert TimeLeft(queue_of(1), spread).seconds(0.0, FULL) is None
    assert TimeLeft(queue_of(1), Durations(KNOWN)).seconds(0.0, FULL) is not None
