"""Draw the bulk job as SVG, and everything as tables: ``python -m benchmarks.plots --help``."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from benchmarks.bulk import SIZES
from benchmarks.figures import RESULTS, load
from benchmarks.tables import is_usual, tables, title_of


WIDTH, HEIGHT = 740, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 460, 64, 312
GAP = 17
REFERENCE = 4
# Blue, orange, green, purple and grey, on light and on dark; dashes distinguish them, too.
LIGHT = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#59636e")
DARK = ("#58a6ff", "#f0883e", "#56d364", "#bc8cff", "#9198a1")
DASHES = ("none", "8 4", "2 4", "12 4 2 4", "4 4")


def _colours(card: str, edge: str, text: str, grid: str, lines: Sequence[str]) -> str:
    rules = f".card{{fill:{card};stroke:{edge}}}.text{{fill:{text}}}.grid{{stroke:{grid}}}"
    return rules + "".join(
        f".l{number}{{stroke:{colour}}}.f{number}{{fill:{colour}}}"
        for number, colour in enumerate(lines)
    )


STYLE = (
    "svg{font:13px system-ui,sans-serif}.line{fill:none;stroke-width:2}"
    ".l0{stroke-width:3.5}.f0{font-weight:700}"
    + "".join(f".l{number}{{stroke-dasharray:{dash}}}" for number, dash in enumerate(DASHES))
    + _colours("#fff", "#d0d7de", "#1f2328", "#d8dee4", LIGHT)
    + "@media(prefers-color-scheme:dark){"
    + _colours("#0d1117", "#3d444d", "#f0f6fc", "#2a313c", DARK)
    + "}"
)
HEAD = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
    f'width="{WIDTH}" height="{HEIGHT}" role="img" aria-labelledby="title desc">'
)


class Line(NamedTuple):
    """The figures of one contender, by the number of merges."""

    name: str
    points: list[tuple[int, float]]
    style: int


class Plot(NamedTuple):
    """One plot: its file, its heading, and the field of its numbers.

    Attributes:
        name: of the file.
        title: the heading.
        unit: what the vertical axis counts.
        field: of the results.
        scale: what the field is divided by.
        reference: a field, or a number, to draw as a line of its own, and its label.
    """

    name: str
    title: str
    unit: str
    field: str
    scale: float = 1.0
    reference: tuple[str | float, str] | None = None


PLOTS = (
    Plot(
        "calls",
        "Calls that a merge costs",
        "requests per finished merge",
        "calls_per_finished_merge",
        reference=(1.0, "the merge alone"),
    ),
    Plot(
        "time",
        "Time until all is merged and known",
        "minutes",
        "seconds",
        60.0,
        reference=("earliest_seconds", "earliest possible"),
    ),
    Plot("delay", "Delay of the news that a merge has ended", "seconds (median)", "delay_p50"),
)


def main() -> None:
    """Draw the plots and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    _ = parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    folder = parser.parse_args().out
    results = [run for run in load(folder, "bulk") if is_usual(run)]
    for plot in PLOTS:
        _ = (folder / f"{plot.name}.svg").write_text(draw(plot, results), "utf-8")
    _ = (folder / "job.svg").write_text(draw_timeline(load(folder, "timeline")), "utf-8")
    _ = (folder / "README.md").write_text(tables(folder), "utf-8")


def draw(plot: Plot, results: Sequence[dict[str, Any]]) -> str:
    """Return one plot. It has only the runs that learned of every merge."""
    lines = _lines(plot, results)
    ceiling = _ceiling(max(value for line in lines for _, value in line.points))
    subtitle = f"{plot.unit}, by the number of merges, at 900 requests a minute"
    parts = [
        HEAD,
        f'<title id="title">{escape(plot.title)}</title>',
        f'<desc id="desc">{escape(_description(plot, lines))}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8"/>',
        f'<text class="text" x="16" y="28" font-size="16" font-weight="700">{plot.title}</text>',
        f'<text class="f4" x="16" y="47">{subtitle}</text>',
        *_axes(ceiling),
        *(_curve(line, ceiling) for line in lines),
        *_names(lines, ceiling),
        "</svg>\n",
    ]
    return "\n".join(parts)


def draw_timeline(timeline: dict[str, Any]) -> str:
    """Return the plot of one job over time."""
    samples, merges = timeline["samples"], timeline["merges"]
    ends = samples[-1][0]
    title = f"A default job of {merges:,} merges"
    parts = [
        HEAD,
        f'<title id="title">{title}</title>',
        f'<desc id="desc">{_story(samples)}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8"/>',
        f'<text class="text" x="16" y="28" font-size="16" font-weight="700">{title}</text>',
        '<text class="f4" x="16" y="47">merges, and calls left in the minute, by minutes</text>',
        *_scale(float(merges)),
        *(
            f'<text class="f4" x="{_at(60.0 * minute, ends):.1f}" y="{BOTTOM + 22}" '
            f'text-anchor="middle">{minute}</text>'
            for minute in range(int(ends // 60) + 1)
        ),
    ]
    names = ("started", "open", "ended", "calls left")
    for style, name in enumerate(names):
        points = [(each[0], each[style + 1]) for each in samples if each[style + 1] is not None]
        path = "L".join(f"{_at(at, ends):.1f} {_y(value, merges):.1f}" for at, value in points)
        y = TOP + 40 + GAP * style
        parts += [
            f'<path class="line l{style}" d="M{path}"/>',
            f'<text class="f{style}" x="{RIGHT + 6}" y="{y}">{name}</text>',
        ]
    return "\n".join([*parts, "</svg>\n"])


def _story(samples: Sequence[Sequence[float]]) -> str:
    most = max(sample[2] for sample in samples)
    return (
        f"At most {most:,} merges are open; the last is known to have ended after "
        f"{samples[-1][0] / 60:.1f} minutes."
    )


def _at(seconds: float, ends: float) -> float:
    return LEFT + seconds / ends * (RIGHT - LEFT)


def _lines(plot: Plot, results: Sequence[dict[str, Any]]) -> list[Line]:
    points: dict[str, list[tuple[int, float]]] = {}
    for run in results:
        if run["finished"] == run["merges"]:
            value = run[plot.field] / plot.scale
            points.setdefault(title_of(run), []).append((run["merges"], value))
    # A contender that could not do the largest job has no line, and is only in the table.
    largest = max(run["merges"] for run in results)
    whole = {name: found for name, found in points.items() if found[-1][0] == largest}
    lines = [Line(name, found, style) for style, (name, found) in enumerate(whole.items())]
    if plot.reference is not None:
        field, label = plot.reference
        least = {
            run["merges"]: run[field] / plot.scale if isinstance(field, str) else field
            for run in results
        }
        lines.append(Line(label, sorted(least.items()), REFERENCE))
    return lines


def _description(plot: Plot, lines: Sequence[Line]) -> str:
    values = (
        f"{line.name}: " + ", ".join(f"{value:.2f} at {merges:,}" for merges, value in line.points)
        for line in lines
    )
    return f"{plot.unit.capitalize()}, by the number of merges. {'; '.join(values)}."


def _ceiling(value: float) -> float:
    step = 10.0 ** math.floor(math.log10(value))
    return next(
        step * factor for factor in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * factor >= value
    )


def _x(merges: int) -> float:
    low, high = math.log10(SIZES[0]), math.log10(SIZES[-1])
    return LEFT + 16 + (math.log10(merges) - low) / (high - low) * (RIGHT - LEFT - 32)


def _y(value: float, ceiling: float) -> float:
    return BOTTOM - value / ceiling * (BOTTOM - TOP)


def _axes(ceiling: float) -> list[str]:
    return _scale(ceiling) + [
        f'<text class="f4" x="{_x(merges):.1f}" y="{BOTTOM + 22}" text-anchor="middle">{merges:,}</text>'
        for merges in SIZES
    ]


def _scale(ceiling: float) -> list[str]:
    parts = []
    for number in range(5):
        value = ceiling * number / 4
        y = _y(value, ceiling)
        parts += [
            f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>',
            f'<text class="f4" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>',
        ]
    return parts


def _curve(line: Line, ceiling: float) -> str:
    places = [(_x(merges), _y(value, ceiling)) for merges, value in line.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dots = "".join(
        f'<circle class="f{line.style}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        for x, y in places
        if line.style != REFERENCE
    )
    return f'<path class="line l{line.style}" d="{path}"/>{dots}'


def _names(lines: Sequence[Line], ceiling: float) -> list[str]:
    """Write each name at the end of its line, moved up where two would overlap."""
    placed = []
    lowest = math.inf
    for line in sorted(lines, key=lambda line: line.points[-1][1]):
        value = line.points[-1][1]
        lowest = min(lowest - GAP, _y(value, ceiling) + 4)
        placed.append(
            f'<text class="f{line.style}" x="{RIGHT + 6}" y="{lowest:.1f}">'
            f"{escape(line.name)}: {value:.2f}</text>"
        )
    return placed


if __name__ == "__main__":
    main()
