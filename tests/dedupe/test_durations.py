"""How long merges take, fitted to those that have ended and those that still run."""

from random import Random

import pytest

from aiotasks.dedupe._durations import (
    TYPICAL,
    Durations,
    durations_note,
    fit,
    noted_durations,
)


def drawn(count: int, *, median: float = 20.0, sigma: float = 0.75) -> list[float]:
    random = Random(3)
    return [
        TYPICAL._replace(median=median).median * random.lognormvariate(0.0, sigma)
        for _ in range(count)
    ]


class TestFit:
    @pytest.mark.parametrize("median", [0.5, 20.0, 300.0])
    @pytest.mark.parametrize("sigma", [0.3, 0.75, 1.2])
    def test_what_was_drawn_is_found(self, median: float, sigma: float) -> None:
        """The fit of many durations is the distribution from which they were drawn."""
        found = fit(drawn(2000, median=median, sigma=sigma))
        assert found is not None
        assert found.median == pytest.approx(median, rel=0.1)
        assert found.sigma == pytest.approx(sigma, rel=0.15)

    def test_merges_that_still_run_count(self) -> None:
        """If merges are stopped after a time, those that had not ended are not taken for short ones."""
        durations = drawn(2000)
        found = fit(
            [each for each in durations if each <= 20.0],
            [20.0 for each in durations if each > 20.0],
        )
        assert found is not None
        assert found.median == pytest.approx(20.0, rel=0.1)

    def test_few_ends_say_nothing(self) -> None:
        """With fewer than five ends nothing is fitted."""
        assert fit([1.0] * 4, [2.0] * 100) is None

    def test_most_still_run(self) -> None:
        """If fewer than a tenth have ended, the others take longer than those."""
        found = fit([5.0] * 5, [8.0] * 200)
        assert found is not None
        assert found.median > 8.0

    def test_one_quantile(self) -> None:
        """If a tenth has ended and not a quarter, the spread is the typical one."""
        found = fit([5.0] * 15, [8.0] * 85)
        assert found is not None
        assert found.sigma == TYPICAL.sigma

    def test_equal_durations(self) -> None:
        """Merges that all take the same time have a small spread, and no time is no error."""
        found = fit([2.0] * 50)
        assert found is not None
        assert found == pytest.approx((2.0, 0.1))
        assert fit([0.0] * 50) is not None


class TestLognormal:
    def test_shares(self) -> None:
        """Half of the merges take at most the median, and none takes no time."""
        assert TYPICAL.share_within(20.0) == 0.5
        assert TYPICAL.share_within(0.0) == 0.0

    def test_merges_in_a_row(self) -> None:
        """One merge is itself; a row takes as long as its merges and pauses, and varies less."""
        assert TYPICAL.in_a_row(1, pause=0.0).median == pytest.approx(20.0)
        row = TYPICAL.in_a_row(50, pause=2.0)
        assert row.median == pytest.approx(50 * (26.5 + 2.0), rel=0.02)
        assert row.sigma < TYPICAL.sigma / 5


class TestDurations:
    def test_ends_and_merges_that_run(self) -> None:
        """Ends are fitted together with the merges that ran on at the latest of them."""
        durations = Durations()
        for number in range(10):
            durations.start(number, 0.0)
        durations.start(99, 50.0)
        for number in range(5):
            durations.end(number, 10.0 + number)
        durations.end(1234, 60.0)
        assert [*durations.running(60.0)] == [60.0] * 5 + [10.0]
        found = durations.fit()
        assert found is not None
        assert 12.0 < found.median < 16.0
        assert durations.started_since(50.0) == 1

    def test_the_history_of_the_server(self) -> None:
        """Until enough merges have ended, the server's history counts."""
        durations = Durations([3.0] * 5)
        found = durations.fit()
        assert found is not None
        assert found.median == pytest.approx(3.0)
        assert Durations().fit() is None

    def test_the_oldest_are_forgotten(self) -> None:
        """At most a thousand merges are kept, the latest."""
        durations = Durations()
        for number in range(1500):
            durations.start(number, float(number))
        assert len([*durations.running(1500.0)]) == 1000

    def test_notes(self) -> None:
        """A ledger keeps durations as a note; an older one has none."""
        assert noted_durations({"durations": durations_note([1.0, 22.25])}) == [1.0, 22.2]
        assert noted_durations({}) == []
