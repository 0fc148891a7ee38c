"""The ablation: its variants replace existing attributes, and its figures are exact."""

import inspect
from dataclasses import replace

import pytest

from benchmarks.ablation import SMALL, SWEEPS, VARIANTS, Case, cases, measure_case


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_finds_its_target(variant: str) -> None:
    """Each variant replaces an attribute that exists, so a rename does not go unnoticed."""
    for owner, name, replacement in VARIANTS[variant]():
        original = getattr(owner, name)
        assert callable(replacement)
        assert list(inspect.signature(replacement).parameters) == list(
            inspect.signature(original).parameters
        )


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_includes_the_value_in_use(name: str) -> None:
    """A sweep has the value in use, and lower and higher ones."""
    sweep = SWEEPS[name]
    assert getattr(sweep.module, name) in sweep.values
    assert list(sweep.values) == sorted(sweep.values)


def test_a_variant_changes_the_figures_and_a_second_run_does_not() -> None:
    """The figures are exact: a difference comes only from what the variant changes."""
    scenario = replace(SMALL, merges=150)
    case = Case(variant="as it is", scenario=scenario, seed=1)
    first = measure_case(case)
    assert measure_case(case) == first
    assert measure_case(replace(case, variant="no anchored pages")) != first
    assert measure_case(replace(case, variant="_POLL_SHARE", value=0.01)) is not None


def test_a_quick_run_has_each_variant_and_each_value_once() -> None:
    """A quick run has one small job and one seed for each case."""
    quick = cases(quick=True)
    assert len(quick) == len(VARIANTS) + sum(len(sweep.values) for sweep in SWEEPS.values())
    assert {case.scenario for case in quick} == {SMALL}


def test_each_scenario_has_the_unchanged_poller_to_compare_with() -> None:
    """Each scenario has the unchanged poller, with the same seeds, to compare with."""
    listed = cases()
    unchanged = {(case.scenario, case.seed) for case in listed if case.variant == "as it is"}
    assert {(case.scenario, case.seed) for case in listed} == unchanged
