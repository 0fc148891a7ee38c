"""What a job tells while it runs."""

from itertools import pairwise

import pytest

from aiotasks.dedupe._progress import Curve, JobProgress, Meter, Point
from aiotasks.dedupe.models import PairState


def test_totals_add_up() -> None:
    """Each pair is counted once: it is planned, open, or has ended."""
    totals = {state: 10**place for place, state in enumerate(PairState)}
    progress = JobProgress(totals=totals)
    assert progress.total == 1_111_111
    assert progress.open == totals[PairState.SENDING] + totals[PairState.STARTED]
    assert progress.ended == 1_111_000
    assert progress.total == totals[PairState.PLANNED] + progress.open + progress.ended


class TestMeter:
    def test_it_counts_from_the_start(self) -> None:
        """In the first two minutes the rate is that since the start."""
        meter = Meter(100.0)
        for now in (110.0, 120.0, 130.0):
            meter.count(now)
        assert meter.per_minute(130.0) == 6.0
        assert meter.per_minute(190.0) == 2.0

    def test_it_forgets_what_is_long_ago(self) -> None:
        """Later it is that of the last two minutes, down to nothing."""
        meter = Meter(0.0)
        for now in range(0, 1000, 10):
            meter.count(float(now))
        assert meter.per_minute(990.0) == pytest.approx(6.5)
        assert meter.per_minute(1090.0) == pytest.approx(1.5)
        assert meter.per_minute(2000.0) == 0.0

    def test_a_start_is_no_rate(self) -> None:
        """What ends in the first seconds counts as if ten had passed."""
        meter = Meter(5.0)
        assert meter.per_minute(5.0) == 0.0
        meter.count(5.0)
        assert meter.per_minute(5.0) == meter.per_minute(15.0) == 6.0


class TestCurve:
    def test_it_keeps_few_points(self) -> None:
        """However long a job is, its curve has 300 points at most, from the first to the last."""
        curve = Curve()
        for second in range(10_000):
            curve.add(Point(float(second), second, 900 - second % 60))
        assert 150 <= len(curve.points) <= 300
        assert curve.points[0].at == 0.0
        assert curve.points[-1].at > 9_900
        gaps = {later.at - earlier.at for earlier, later in pairwise(curve.points)}
        assert max(gaps) <= 64.0
        assert [point.ended for point in curve.points] == [int(each.at) for each in curve.points]

    def test_it_goes_on(self) -> None:
        """What was noted is read again, and goes on in the same steps, days later too."""
        curve = Curve()
        for second in range(400):
            curve.add(Point(float(second), second, None))
        again = Curve.read(curve.text())
        assert again.points == curve.points
        for second in range(90_000, 90_100):
            again.add(Point(float(second), second, None))
        assert len(again.points) == len(curve.points) + 50

    @pytest.mark.parametrize("text", [None, "", "no JSON", "[[1]]", '{"a": 1}'])
    def test_what_is_no_curve(self, text: str | None) -> None:
        """Where nothing was noted, or nothing that can be read, a curve begins."""
        assert Curve.read(text).points == []
