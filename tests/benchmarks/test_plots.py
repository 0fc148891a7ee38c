"""The plots and tables show what was measured."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import timeline
from benchmarks.figures import median, quantile, save
from benchmarks.plots import PLOTS, Plot, draw, draw_timeline
from benchmarks.tables import tables


def run(contender: str, merges: int, *, finished: int | None = None) -> dict[str, Any]:
    """Return a result of the bulk job with the fields that are shown."""
    return {
        "contender": contender,
        "merges": merges,
        "finished": merges if finished is None else finished,
        "sigma": 0.75,
        "median": 20.0,
        "failure_rate": 0.0,
        "has_habits": False,
        "retry_after": False,
        "calls_per_finished_merge": 1.5,
        "seconds": 90.0,
        "earliest_seconds": 60.0,
        "seconds_to_earliest": 1.5,
        "refused": 3,
        "delay_p50": 1.0,
        "delay_p95": 2.0,
        "delay_max": 3.0,
        "ranges": {"calls_per_finished_merge": [1.5, 1.5], "seconds_to_earliest": [1.4, 1.6]},
    }


RUNS = [
    run("good", 100),
    run("good", 5_000),
    run("bad & sad", 100),
    run("bad & sad", 5_000, finished=7),
    run("good", 100) | {"median": 1.0, "failure_rate": 0.05},
]


@pytest.mark.parametrize("plot", PLOTS, ids=[plot.name for plot in PLOTS])
def test_a_plot_is_small_and_describes_its_numbers(plot: Plot) -> None:
    """Each plot is valid SVG with title and description, and without contenders that failed."""
    text = draw(plot, RUNS[:-1])
    assert len(text) < 40_000
    names = {"svg": "http://www.w3.org/2000/svg"}
    svg = ET.fromstring(text)
    assert svg.findtext("svg:title", namespaces=names) == plot.title
    description = svg.findtext("svg:desc", namespaces=names)
    assert description is not None
    assert "good: 1" in description
    assert "bad" not in description


def test_the_table_shows_what_was_not_learned(tmp_path: Path) -> None:
    """A run that lost merges shows how many, and no averages over the others."""
    save(tmp_path, "bulk", RUNS)
    text = tables(tmp_path)
    assert "| 5,000 | good | 1.50 | 1.5 | 1.50 (1.40-1.60) | 3 | 1.0 / 2.0 / 3.0 | 0 |" in text
    assert "| 100 | good, merges of 1 s, 5% fail |" in text
    assert "| 5,000 | bad & sad | - | - | - | 3 | - | 4,993 |" in text


def test_quantiles_are_numbers_that_were_measured() -> None:
    """Quantiles are measured numbers, without interpolation."""
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.95) == 4.0
    assert median([3.0, 1.0, 2.0]) == 2.0


def test_a_job_over_time() -> None:
    """The plot of a job shows what was started, open and ended, to its end."""
    measured = timeline.measure(quick=True)
    assert measured["samples"][-1][1:4] == [100, 0, 100]
    text = draw_timeline(measured)
    assert ET.fromstring(text).tag.endswith("svg")
    assert text.count('class="line') == 4
