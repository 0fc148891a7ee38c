"""How often a job polls: by how long its merges take, and the last ones more often."""

from types import SimpleNamespace

import pytest

from aiotasks.dedupe import JobSettings
from aiotasks.dedupe._durations import Durations
from aiotasks.dedupe._run.poll_pace import PollPace
from aiotasks.dedupe._run.queue import MergeQueue
from aiotasks.dedupe.models import Pair, PairState


def queue_of(merges: int, *, of: int | None = None) -> MergeQueue:
    """Return the queue of a job, in one cluster if ``of`` is a record."""
    pairs = [
        Pair(
            number=n,
            line=n,
            primary_id=of or n,
            duplicate_id=10_000 + n,
            state=PairState.PLANNED,
        )
        for n in range(1, merges + 1)
    ]
    return MergeQueue(pairs, [], JobSettings(canary=0))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def waits(
    queue: MergeQueue, durations: Durations, *, at: float = 0.0, polls: int = 8
) -> list[float]:
    """Return the first intervals of the default pace, without their jitter of up to 10 %."""
    clock = Clock()
    pace = PollPace(4.0, durations, queue, clock)
    clock.now = at
    return [pace(SimpleNamespace(attempt_number=attempt)) / 1.05 for attempt in range(1, polls + 1)]


def known(median: float) -> Durations:
    return Durations([median] * 20)


class TestIntervals:
    def test_nothing_is_known(self) -> None:
        """At first polls begin early, and come to be twelve seconds apart."""
        found = waits(queue_of(100), Durations())
        assert found[0] == pytest.approx(2.0, rel=0.06)
        assert found[-1] == pytest.approx(12.0, rel=0.06)

    def test_nothing_ends(self) -> None:
        """If no merge ends for minutes, polls become rarer, up to 48 seconds apart."""
        found = waits(queue_of(100), Durations(), at=1000.0, polls=20)
        assert found[-1] == pytest.approx(48.0, rel=0.06)

    @pytest.mark.parametrize(
        ("median", "first"), [(26.0, 4.0), (52.0, 8.0), (1.0, 1.0), (3600.0, 16.0)]
    )
    def test_durations_are_followed(self, median: float, first: float) -> None:
        """Intervals follow the median, by at most four times as much or as little."""
        found = waits(queue_of(100), known(median))
        assert found[0] == pytest.approx(first, rel=0.06)
        assert found[-1] == pytest.approx(3 * first, rel=0.06)

    def test_what_is_learned_counts_a_second_later(self) -> None:
        """Within a second the pace stays what it was."""
        durations, clock = Durations(), Clock()
        pace = PollPace(4.0, durations, queue_of(100), clock)
        state = SimpleNamespace(attempt_number=20)
        assert pace(state) > 11.0
        for number in range(20):
            durations.start(number, 0.0)
            durations.end(number, 1.0)
        assert pace(state) > 11.0
        clock.now = 1.0
        assert pace(state) < 4.0


class TestLast:
    def test_the_last_merges(self) -> None:
        """The last ten are polled each tenth of the time that the run has taken."""
        queue = queue_of(100)
        while queue.take():
            pass
        for number in range(90):
            queue.end(
                Pair(
                    number=number + 1,
                    line=1,
                    primary_id=number + 1,
                    duplicate_id=1,
                    state=PairState.STARTED,
                ),
                PairState.SUCCEEDED,
            )
        found = waits(queue, known(65.0), at=180.0)
        assert found[-1] == pytest.approx(180.0 / 10.2, rel=0.06)
        assert waits(queue_of(100), known(65.0), at=180.0)[-1] == pytest.approx(30.0, rel=0.06)

    def test_what_others_wait_for(self) -> None:
        """A merge whose cluster has more to come is polled often to its end."""
        queue = queue_of(5, of=1)
        _ = queue.take()
        assert waits(queue, known(65.0), at=500.0)[-1] == pytest.approx(10.0, rel=0.06)
