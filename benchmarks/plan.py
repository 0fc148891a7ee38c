"""Planning: a plan made from a file of pairs, beside reading the same file with ``csv``.

The two take turns, so that each round compares them under the same conditions; the ratios are
medians over the rounds.
"""

import csv
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from aiotasks.dedupe import Plan
from aiotasks.errors import PlanError
from benchmarks.figures import median


ROUNDS = 15
PAIRS = 10_000
RING = 10

Pair = tuple[int, int]
Way = Callable[[Path], object]


def measure(*, quick: bool = False) -> dict[str, Any]:
    """Measure milliseconds of CPU for each file and way."""
    rounds = 3 if quick else ROUNDS
    files = {"chains": (_chains(), _CHAINS), "circles": (_cycles(), _CYCLES)}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.csv"
        return {
            name: _compare(_write(path, pairs), {"csv": _read} | ways, rounds)
            for name, (pairs, ways) in files.items()
        }


def _chains() -> list[Pair]:
    # One of half the pairs, the worst case, and as many as fit of a usual length.
    half = PAIRS // 2
    long = pairwise(range(1, half + 2))
    firsts = range(half + 2, 2 * PAIRS, RING)
    short = [pair for first in firsts for pair in pairwise(range(first, first + RING))]
    return [*long, *short[: PAIRS - half]]


def _cycles() -> list[Pair]:
    return [
        pair
        for first in range(1, PAIRS + 1, RING)
        for pair in pairwise([*range(first, first + RING), first])
    ]


def _write(path: Path, pairs: Iterable[Pair]) -> Path:
    rows = [(*pair, f"Company {pair[0]}, Inc.") for pair in pairs]
    Random(1).shuffle(rows)  # noqa: S311
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        _ = writer.writerow(["primary_id", "duplicate_id", "name"])
        writer.writerows(rows)
    return path


def _read(path: Path) -> object:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def _plan(path: Path) -> object:
    return Plan.read(path, kind="company")


def _plan_first(path: Path) -> object:
    return Plan.read(path, kind="company", on_conflict="first")


def _refuse(path: Path) -> object:
    with suppress(PlanError):
        return Plan.read(path, kind="company")
    return None


_CHAINS: dict[str, Way] = {"aiotasks": _plan}
_CYCLES: dict[str, Way] = {"aiotasks, refused": _refuse, "aiotasks, first counts": _plan_first}


def _compare(path: Path, ways: dict[str, Way], rounds: int) -> dict[str, Any]:
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(_milliseconds(way, path))
    floor = taken["csv"]
    return {
        "unit": "milliseconds",
        "pairs": PAIRS,
        "bytes": path.stat().st_size,
        "rounds": rounds,
        "ways": {
            name: {
                "median": round(median(numbers), 2),
                "to_csv": round(median([a / b for a, b in zip(numbers, floor, strict=True)]), 2),
            }
            for name, numbers in taken.items()
        },
    }


def _milliseconds(way: Way, path: Path) -> float:
    started = time.process_time()
    _ = way(path)
    return (time.process_time() - started) * 1e3
