"""When a job will be over: the model of how it runs."""

import pytest

from aiotasks.dedupe._durations import Lognormal
from aiotasks.dedupe._forecast import Batch, Limits, batches, ends_by, polls


QUICK = Lognormal(median=1.0, sigma=0.1)


class TestBatches:
    def test_windows(self) -> None:
        """What one window has no calls for starts with the next ones."""
        found = batches({1: 25}, Limits(first=5, each=10, seconds_left=30.0))
        assert found == [Batch(0.0, 5), Batch(30.0, 10), Batch(90.0, 10)]

    def test_the_first_batch(self) -> None:
        """Clusters beyond the first batch start when that has succeeded, the longest first."""
        found = batches({1: 3, 4: 1}, Limits.of(900), first=2, opens_at=9.0)
        assert found[:3] == [Batch(0.0, 1, 4), Batch(0.0, 1, 1), Batch(9.0, 2, 1)]

    def test_later_merges_take_calls_too(self) -> None:
        """The merges that follow in clusters are sent in the windows that remain."""
        found = batches({3: 10}, Limits(first=10, each=10))
        assert found == [Batch(0.0, 10, 3), Batch(60.0, 10), Batch(120.0, 10)]

    def test_a_small_limit(self) -> None:
        """With whatever limit, a merge can be sent in each window."""
        assert Limits.of(1) == Limits(1, 1)


class TestEnds:
    def test_more_merges_take_longer(self) -> None:
        """The slowest of many merges takes longer than one, and a row longer than its merges."""
        one, many, row = (
            ends_by([batch], QUICK, 0.0, 0.5)
            for batch in (Batch(0.0, 1), Batch(0.0, 1000), Batch(0.0, 1, 10))
        )
        assert one == pytest.approx(1.0)
        assert 1.2 < many < 1.5
        assert row == pytest.approx(10.0, rel=0.02)

    def test_merges_that_run_already(self) -> None:
        """A merge that has run for a time has less to go; one that is overdue ends any moment."""
        assert ends_by([Batch(0.0, 1, age=0.9)], QUICK, 0.0, 0.5) < 0.2
        assert ends_by([Batch(0.0, 1, age=1e9)], QUICK, 0.0, 0.5) < 1.0

    def test_nothing(self) -> None:
        """Without merges a job is over immediately."""
        assert ends_by([], QUICK, 0.0, 0.5) < 0.001


def test_polls() -> None:
    """Each page of a hundred merges is polled until its last one has ended."""
    assert polls({}, QUICK) == 7
    assert polls({1: 1000}, QUICK) < polls({1: 2000}, QUICK)
    assert polls({10: 1}, QUICK) == 7 + 10 * 3
