"""Programs on one key: their figures are exact, and in the table."""

from pathlib import Path

import pytest

from benchmarks.figures import save
from benchmarks.shared_key import OTHERS, Case, cases, measure_case, summarise
from benchmarks.tables import tables


@pytest.mark.parametrize("scenario", ["waits", "mixed waits", "merges"])
def test_four_programs_do_the_same_work(scenario: str, tmp_path: Path) -> None:
    """Several programs learn of as many ends as one, and are compared with it."""
    listed = [Case(scenario=scenario, programs=programs, tasks=40) for programs in (1, 4)]
    runs = {case: measure_case(case) for case in listed}
    assert {run["finished"] for run in runs.values()} == {40}
    assert measure_case(listed[1]) == runs[listed[1]]
    rows = summarise(runs)
    assert rows[0]["calls_to_one"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    save(tmp_path, "shared_key", rows)
    assert f"| {scenario} | 40 | 4 |" in tables(tmp_path)


@pytest.mark.parametrize("other", OTHERS)
def test_a_job_beside_another_program(other: str) -> None:
    """A job beside a program that heeds nothing comes to its end."""
    run = measure_case(Case(scenario="job", programs=other, tasks=20))
    assert run["finished"] == 20
    assert run["refused"] == 0


def test_all_seeds_of_all_cases_are_listed() -> None:
    """Each case has five seeds, and one when it is quick."""
    assert len(cases()) == 5 * len(cases(quick=True)) + 5 * len(OTHERS)
