"""What a job reports while it runs."""

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from aiotasks.dedupe import Ledger
from aiotasks.dedupe._progress import JobProgress, Meter
from aiotasks.dedupe._progress_curve import Curve, Point
from aiotasks.dedupe.models import PairState
from benchmarks import inline
from tests.dedupe.conftest import Server, go, plan_of


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

    def test_it_drops_old_samples(self) -> None:
        """Later the rate is that of the last two minutes, down to zero."""
        meter = Meter(0.0)
        for now in range(0, 1000, 10):
            meter.count(float(now))
        assert meter.per_minute(990.0) == pytest.approx(6.5)
        assert meter.per_minute(1090.0) == pytest.approx(1.5)
        assert meter.per_minute(2000.0) == 0.0

    def test_a_start_is_no_rate(self) -> None:
        """In the first ten seconds the rate is computed as if ten had passed."""
        meter = Meter(5.0)
        assert meter.per_minute(5.0) == 0.0
        meter.count(5.0)
        assert meter.per_minute(5.0) == meter.per_minute(15.0) == 6.0


class TestCurve:
    def test_it_keeps_few_points(self) -> None:
        """However long a job is, its curve has at most 300 points, from the first to the last."""
        curve = Curve()
        for second in range(10_000):
            curve.add(Point(float(second), second, 900 - second % 60))
        assert 150 <= len(curve.points) <= 300
        assert curve.points[0].at == 0.0
        assert curve.points[-1].at > 9_900
        gaps = {later.at - earlier.at for earlier, later in pairwise(curve.points)}
        assert max(gaps) <= 64.0
        assert [point.ended for point in curve.points] == [int(each.at) for each in curve.points]

    def test_it_continues_when_loaded(self) -> None:
        """A stored curve is continued at the same intervals, even days later."""
        curve = Curve()
        for second in range(400):
            curve.add(Point(float(second), second, None))
        again = Curve.read(curve.text())
        assert again.points == curve.points
        for second in range(90_000, 90_100):
            again.add(Point(float(second), second, None))
        assert len(again.points) == len(curve.points) + 50

    def test_its_end(self) -> None:
        """The last point of a run is always kept, and does not make the others closer."""
        curve = Curve(Point(float(second), 0, None) for second in range(0, 40, 4))
        curve.end(Point(37.0, 5, None))
        assert [point.at for point in curve.points[-2:]] == [32.0, 37.0]
        curve.end(Point(41.0, 6, None))
        assert [point.at for point in curve.points[-2:]] == [37.0, 41.0]
        alone = Curve()
        alone.end(Point(1.0, 0, None))
        assert alone.points == [(1.0, 0, None)]

    @pytest.mark.parametrize("text", [None, "", "no JSON", "[[1]]", '{"a": 1}'])
    def test_what_is_no_curve(self, text: str | None) -> None:
        """If a note is missing or unreadable, the curve begins empty."""
        assert Curve.read(text).points == []


class TestNotes:
    async def test_a_run_notes_its_curve(self, server: Server, job: Path) -> None:
        """While a job runs, its curve and the remaining calls of the window are in the ledger."""
        server.set_quota(900)
        server.duration = 50.0
        running = asyncio.create_task(go(server, job, plan_of(12), canary=2))
        await asyncio.sleep(40.0)
        points = await curve(job)
        assert 25 <= len(points) <= 31
        assert {point.ended for point in points} == {0}
        assert all(880 <= (point.minute_left or 0) <= 900 for point in points[1:])
        _ = await running
        points = await curve(job)
        assert points[-1].ended == 12
        assert len(points) >= 90

    async def test_the_next_run_continues_the_curve(self, server: Server, job: Path) -> None:
        """The curve of a job has all its runs, even one that ended immediately."""
        server.duration = 100.0
        running = asyncio.create_task(go(server, job, plan_of(1)))
        await asyncio.sleep(65.0)
        running.cancel()
        _ = await asyncio.wait([running])
        before = await curve(job)
        assert len(before) == 60
        _ = await go(server, job)
        after = await curve(job)
        assert after[:60] == before
        assert after[-1].ended == 1
        assert len(after) > 90


async def curve(job: Path) -> list[Point]:
    async with Ledger.reading(job, connect=inline.connect) as ledger:
        return Curve.read((await ledger.notes())["curve"]).points
