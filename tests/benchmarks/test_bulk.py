"""The bulk job: its figures are exact, and every contender does its jobs."""

import pytest

from benchmarks.bulk import DEFAULT, Case, cases, measure_case, summary
from benchmarks.contenders import CONTENDERS
from benchmarks.workload import durations, earliest_end


@pytest.mark.parametrize("contender", CONTENDERS)
def test_the_same_seed_brings_the_same_numbers(contender: str) -> None:
    """Counts and times of a run are exact, for every contender."""
    case = Case(contender=contender, merges=12)
    first = measure_case(case)
    assert measure_case(case) == first
    assert (first["finished"], first["errors"]) == (12, {})
    assert first["calls_by_operation"]["merge"] == 12
    assert first["calls"] == sum(first["calls_by_operation"].values())
    assert first["seconds"] >= first["earliest_seconds"]
    assert 0 <= first["delay_p50"] <= first["delay_p95"] <= first["delay_max"]


def test_another_seed_brings_other_numbers() -> None:
    """Another seed gives other figures."""
    assert durations(5, seed=1) != durations(5, seed=2)


def test_the_earliest_end_counts_whole_minutes_of_posts() -> None:
    """The merge after the 900th cannot begin before the next window."""
    assert earliest_end([1.0] * 899 + [70.0]) == 70.0
    assert earliest_end([1.0] * 899 + [70.0, 20.0]) == 80.0


def test_every_contender_does_every_job_that_it_can() -> None:
    """Only the plain gather of the SDK does not do the largest job."""
    listed = {(case.contender, case.merges) for case in cases()}
    expected = {(name, merges) for name in CONTENDERS for merges in (100, 1_000, 5_000)}
    assert expected - listed == {("affinity-sdk", 5_000)}
    assert {case.merges for case in cases(quick=True)} == {100}


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_failures_are_counted_and_not_hidden() -> None:
    """A wait that the SDK gives up counts as a failure."""
    run = measure_case(Case(contender="affinity-sdk", merges=150))
    assert run["finished"] + run["waits_failed"] + run["merges_failed"] == 150
    assert run["waits_failed"] > 0
    assert run["refused"] > 0


def test_a_row_is_the_median_of_its_seeds() -> None:
    """A row has the median over the seeds, and from the least to the most."""
    runs = [measure_case(Case(contender=DEFAULT, merges=5, seed=seed)) for seed in (1, 2, 3)]
    row = summary(runs)
    seconds = sorted(run["seconds"] for run in runs)
    assert (row["seconds"], row["ranges"]["seconds"]) == (seconds[1], [seconds[0], seconds[2]])
    assert row["seed"] == [1, 2, 3]


def test_merges_that_fail_end_too() -> None:
    """A merge that failed has ended, and counts as learned."""
    run = measure_case(Case(contender=DEFAULT, merges=5, failure_rate=1.0, has_habits=True))
    assert run["finished"] == 5
