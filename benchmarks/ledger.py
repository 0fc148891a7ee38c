"""The ledger: transitions a second, each on disk when its call returns, and the time to resume.

Transitions are compared with the plain way, a loop of ``sqlite3`` that commits each by itself with the
same settings. The two take turns, so that each round compares them under the same conditions.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aiotasks.dedupe import Ledger, PairState, Plan, Transition
from benchmarks.figures import median


ROUNDS = 7
PAIRS = 5_000
CALLERS = 300
ROWS = 100_000

# Not in /tmp, which is often in memory: a commit there measures nothing.
FOLDER = Path(__file__).parent
TASK = "https://api.affinity.co/v2/tasks/company-merges/00000000-0000-4000-8000-000000000001"
SNAPSHOT = b'{"id": 1, "name": "%s", "domains": ["example.com"]}' % (b"x" * 200)
STEPS = (
    (PairState.SENDING, None),
    (PairState.STARTED, TASK),
    (PairState.SUCCEEDED, None),
)

Way = Callable[[Path, int], float]


def measure(*, quick: bool = False) -> dict[str, Any]:
    """Measure transitions a second for each way, and the seconds to load a large ledger."""
    with TemporaryDirectory(dir=FOLDER) as folder:
        return {
            "steps": _steps(Path(folder), PAIRS // 10 if quick else PAIRS, 3 if quick else ROUNDS),
            "resume": _resume(Path(folder), ROWS // 10 if quick else ROWS, 3 if quick else ROUNDS),
        }


def _steps(folder: Path, pairs: int, rounds: int) -> dict[str, Any]:
    taken: dict[str, list[float]] = {name: [] for name in _WAYS}
    for number in range(rounds):
        for place, (name, way) in enumerate(_WAYS.items()):
            taken[name].append(way(folder / f"{number}-{place}.db", pairs))
    ours = median(next(iter(taken.values())))
    return {
        "unit": "steps a second",
        "steps": pairs * len(STEPS),
        "callers": CALLERS,
        "rounds": rounds,
        "ways": {
            name: {"median": round(median(numbers)), "to_ours": round(median(numbers) / ours, 3)}
            for name, numbers in taken.items()
        },
    }


def _ledger(path: Path, pairs: int) -> float:
    return asyncio.run(_take_all(path, pairs))


async def _take_all(path: Path, pairs: int) -> float:
    async with Ledger(path) as ledger:
        await _begin(ledger, pairs)
        numbers = iter(range(1, pairs + 1))
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                _ = group.create_task(_take(ledger, numbers))
        return pairs * len(STEPS) / (time.perf_counter() - started)


async def _begin(ledger: Ledger, pairs: int) -> None:
    plan = Plan.of([(2 * n - 1, 2 * n) for n in range(1, pairs + 1)], kind="company")
    records = dict.fromkeys(plan.record_ids, SNAPSHOT)
    await ledger.begin(plan, origin="http://127.0.0.1", records=records, findings=[], at=1.0)


async def _take(ledger: Ledger, numbers: Iterator[int]) -> None:
    for number in numbers:
        for state, task_url in STEPS:
            transition = Transition(number=number, state=state, at=time.time(), task_url=task_url)
            _ = await ledger.record(transition)


_PLAIN = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE pairs (number INTEGER PRIMARY KEY, state TEXT, at REAL, task_url TEXT);
CREATE TABLE log (seq INTEGER PRIMARY KEY, number INTEGER, state TEXT, at REAL, task_url TEXT);
"""


def _plain(path: Path, pairs: int) -> float:
    with closing(sqlite3.connect(path)) as connection:
        _ = connection.executescript(_PLAIN)
        rows = ((number, "planned", 1.0, None) for number in range(1, pairs + 1))
        _ = connection.executemany("INSERT INTO pairs VALUES (?, ?, ?, ?)", rows)
        connection.commit()
        started = time.perf_counter()
        for number in range(1, pairs + 1):
            for state, task_url in STEPS:
                _take_plainly(connection, number, str(state), task_url)
        return pairs * len(STEPS) / (time.perf_counter() - started)


def _take_plainly(
    connection: sqlite3.Connection, number: int, state: str, task_url: str | None
) -> None:
    step = (state, time.time(), task_url, number)
    update = "UPDATE pairs SET state = ?, at = ?, task_url = ? WHERE number = ?"
    insert = "INSERT INTO log (state, at, task_url, number) VALUES (?, ?, ?, ?)"
    _ = connection.execute(update, step)
    _ = connection.execute(insert, step)
    connection.commit()


_WAYS: dict[str, Way] = {
    f"aiotasks, {CALLERS} callers": _ledger,
    "sqlite3, a commit each": _plain,
}


def _resume(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    path = folder / "large.db"
    begun = asyncio.run(_begin_large(path, rows))
    seconds = [asyncio.run(_load(path, rows)) for _ in range(rounds)]
    return {
        "unit": "seconds",
        "rows": rows,
        "megabytes": round(path.stat().st_size / 1e6),
        "rounds": rounds,
        "begin": round(begun, 2),
        "median": round(median(seconds), 2),
        "worst": round(max(seconds), 2),
    }


async def _begin_large(path: Path, rows: int) -> float:
    started = time.perf_counter()
    async with Ledger(path) as ledger:
        await _begin(ledger, rows)
        return time.perf_counter() - started


async def _load(path: Path, rows: int) -> float:
    started = time.perf_counter()
    async with Ledger(path) as ledger:
        pairs, totals = await ledger.pairs(), await ledger.totals()
        seconds = time.perf_counter() - started
    if not len(pairs) == sum(totals.values()) == rows:
        message = f"{len(pairs)} pairs were loaded, and not {rows}"
        raise AssertionError(message)
    return seconds
