"""When failures stop a job: by their rate, and in whatever order they end."""

from collections.abc import Iterator
from heapq import heappop, heappush
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotasks.dedupe import JobSettings
from aiotasks.dedupe._run.failure_stop import FailureStop
from aiotasks.dedupe._run.queue import MergeQueue
from aiotasks.dedupe.models import Pair, PairState
from tests.profiles import is_thorough


LIMIT = 0.2
MANY = 20_000 if is_thorough() else 1000
FEW = 20_000 if is_thorough() else 50


def stop_of(*failed: bool, limit: float = LIMIT) -> FailureStop:
    """Return the verdict on merges that ended in the order of their starts."""
    stop = FailureStop(limit)
    for number, is_failed in enumerate(failed, 1):
        stop.start(number)
        if is_failed:
            stop.fail(number)
        else:
            stop.succeed()
    return stop


def ends_until_stop(rate: float, random: Random, *, limit: float = LIMIT) -> int | None:
    """Return after how many of 10,000 ends a job stops whose merges fail at a rate, if it does."""
    stop = FailureStop(limit)
    for number in range(1, 10_001):
        stop.start(number)
        if random.random() < rate:
            stop.fail(number)
            if stop.is_reached:
                return number
    return None


def quantiles(values: Iterator[int | None], *shares: float) -> list[int]:
    known = sorted(value for value in values if value is not None)
    return [known[int(share * len(known))] for share in shares]


@pytest.mark.slow
@pytest.mark.timeout(0 if is_thorough() else 20)
def test_a_healthy_job_goes_on() -> None:
    """At half the limit fewer than one in a thousand jobs of ten thousand merges stops."""
    random = Random(7)
    stopped = sum(ends_until_stop(LIMIT / 2, random) is not None for _ in range(FEW))
    assert stopped < max(1, FEW / 1000)


@pytest.mark.parametrize(
    ("rate", "half_of_them", "nearly_all"), [(2 * LIMIT, 50, 120), (3 * LIMIT, 25, 45)]
)
def test_a_job_that_fails_stops_soon(rate: float, half_of_them: int, nearly_all: int) -> None:
    """At twice and three times the limit half of the jobs, and 99 %, stop within so many ends."""
    random = Random(rate)
    ends = (ends_until_stop(rate, random) for _ in range(MANY))
    median, late = quantiles(ends, 0.5, 0.99)
    assert median <= half_of_them
    assert late <= nearly_all


@pytest.mark.parametrize("limit", [0.01, 0.25, 0.3, 0.5, 0.8, 0.99])
def test_every_limit_tells_good_from_bad(limit: float) -> None:
    """Any limit lets half of its rate pass, and stops if all merges fail."""
    random = Random(limit)
    stopped = [ends_until_stop(limit / 2, random, limit=limit) for _ in range(5)]
    assert stopped == [None] * 5
    assert 0 < (ends_until_stop(1.0, random, limit=limit) or 0) <= 30


class TestOpening:
    """What is sent before a job stops, with merges that take 20 s in the median."""

    def sent_by(self, rate: float, random: Random, *, canary: int = 20) -> tuple[int, float]:
        """Return how many of a thousand merges a job sends, and how many seconds it takes."""
        pairs = [
            Pair(
                number=n, line=n, primary_id=2 * n, duplicate_id=2 * n + 1, state=PairState.PLANNED
            )
            for n in range(1, 1001)
        ]
        queue = MergeQueue(pairs, [], JobSettings(canary=canary, max_failure_rate=LIMIT))
        running: list[tuple[float, int, Pair]] = []
        now = next_post = 0.0
        while not queue.stopped and not queue.is_over:
            if (not running or next_post <= running[0][0]) and (pair := queue.take()):
                now = max(now, next_post)
                next_post = now + 1 / 15
                heappush(running, (now + random.lognormvariate(3.0, 0.75), pair.number, pair))
            else:
                now, _, pair = heappop(running)
                next_post = max(now, next_post)
                failed = random.random() < rate
                queue.end(pair, PairState.FAILED if failed else PairState.SUCCEEDED)
        return 1000 - queue.left, now

    def test_few_are_sent_to_a_server_that_fails(self) -> None:
        """If 60 % fail from the first on, at most 50 are sent, with those that are open."""
        random = Random(1)
        (most,) = quantiles((self.sent_by(0.6, random)[0] for _ in range(MANY)), 0.99)
        assert most <= 50

    def test_a_healthy_job_is_hardly_slower(self) -> None:
        """If 5 % fail, a job takes half a minute longer than without a first batch, at most."""
        times = [[self.sent_by(0.05, Random(n), canary=c)[1] for n in range(20)] for c in (20, 0)]
        assert sum(times[0]) / 20 - sum(times[1]) / 20 < 30.0


def test_the_order_of_ends_does_not_matter() -> None:
    """Failures that end long before the successes that were started with them stop nothing."""
    stop = FailureStop(LIMIT)
    for number in range(500):
        stop.start(number)
    for number in range(0, 500, 10):
        stop.fail(number)
    assert not stop.is_reached
    assert stop.nearness == 1.0


@given(failed=st.lists(st.booleans(), max_size=60), data=st.data())
def test_any_order_of_ends_has_one_verdict(failed: list[bool], data: st.DataObject) -> None:
    """However merges end, the verdict is the same at last, and none before is worse."""
    in_order = stop_of(*failed)
    stop = FailureStop(LIMIT)
    numbers = range(1, len(failed) + 1)
    for number in numbers:
        stop.start(number)
    for number in data.draw(st.permutations(numbers)):
        if failed[number - 1]:
            stop.fail(number)
        assert not stop.is_reached or in_order.is_reached
    assert stop.is_reached is in_order.is_reached


def test_a_late_failure_among_many_is_cheap() -> None:
    """A failure of the first of a hundred thousand merges changes the few sums after it."""
    stop = FailureStop(LIMIT)
    for number in range(100_000):
        stop.start(number)
    for number in range(0, 100_000, 20):
        stop.fail(number)
    assert not stop.is_reached


class TestLimits:
    def test_none_may_fail(self) -> None:
        """With a limit of 0 the first failure stops the job."""
        assert not stop_of(*[False] * 1000, limit=0.0).is_reached
        assert stop_of(*[False] * 1000, True, limit=0.0).is_reached

    def test_all_may_fail(self) -> None:
        """With a limit of 1 no failure stops the job."""
        assert not stop_of(*[True] * 10_000, limit=1.0).is_reached

    def test_a_failure_counts_once(self) -> None:
        """A merge that is known to have failed counts once, however often that is said."""
        stop = stop_of(*[True] * 5)
        for number in range(1, 6):
            stop.fail(number)
        assert not stop.is_reached
        assert stop.nearness == pytest.approx(0.5, abs=0.01)

    def test_a_few_failures_in_a_row_stop_nothing(self) -> None:
        """Nine failures in a row do not stop a job, and ten do."""
        assert not stop_of(*[True] * 9).is_reached
        assert stop_of(*[True] * 10).is_reached


class TestText:
    def test_it_names_the_worst_run(self) -> None:
        """It says how many of which merges failed, without those before and after."""
        stop = stop_of(True, *[False] * 9, *[True] * 5, False, False, *[True] * 9, *[False] * 9)
        assert stop.text() == "11 of the 13 started since pair 11"

    def test_what_never_ran_is_not_counted(self) -> None:
        """Merges that were taken back are neither among the failed nor among the started."""
        stop = FailureStop(LIMIT)
        for number in range(1, 14):
            stop.start(number)
        for number in (1, 3, 5):
            stop.take_back(number)
        for number in range(1, 14):
            if number not in {1, 3, 5}:
                stop.fail(number)
        assert stop.text() == "10 of the 10 started since pair 2"

    def test_a_merge_of_somebody_else(self) -> None:
        """A merge that failed counts as the last one started, if this run has not started it."""
        stop = FailureStop(LIMIT)
        stop.take_back(7)
        for number in range(7, 17):
            stop.fail(number)
        assert stop.text() == "10 of the 10 started since pair 7"
