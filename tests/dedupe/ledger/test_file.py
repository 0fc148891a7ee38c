"""The ledger on real files, with aiosqlite's threads and with processes that are killed."""

import asyncio
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any, Self

import aiosqlite
import pytest

from aiotasks import LedgerError
from aiotasks.dedupe.ledger import Ledger, schema
from aiotasks.dedupe.models import Pair, PairState, Transition
from aiotasks.dedupe.plan import Plan


pytestmark = pytest.mark.real_time

PLANNED, SENDING, STARTED, SUCCEEDED, *_ = PairState
ORIGIN = "https://api.affinity.co"
PAIRS = 3000


async def begin(ledger: Ledger, count: int = PAIRS, records: Mapping[int, bytes] = {}) -> None:
    plan = Plan.of([(2 * n - 1, 2 * n) for n in range(1, count + 1)], kind="company")
    await ledger.begin(plan, origin=ORIGIN, records=records, findings=[], at=1.0)


async def go_through(ledger: Ledger, numbers: Iterator[int]) -> None:
    """Record pairs from planned to succeeded, and print each transition once it is acknowledged."""
    for number in numbers:
        for state in (SENDING, STARTED, SUCCEEDED):
            seq = await ledger.record(Transition(number=number, state=state, at=2.0))
            _ = os.write(1, f"{seq} {number} {state}\n".encode())


async def work(path: str) -> None:
    """Record transitions, many at a time, until this process is killed."""
    async with Ledger(path) as ledger:
        await begin(ledger)
        numbers = iter(range(1, PAIRS + 1))
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                _ = group.create_task(go_through(ledger, numbers))


async def hold(path: str) -> None:
    """Hold the ledger until this process is killed."""
    async with Ledger(path) as ledger:
        await begin(ledger, 3)
        _ = os.write(1, f"{ledger.holder}\n".encode())
        await asyncio.sleep(60)


async def die_in_begin(path: str) -> None:
    """Die between the last statement of ``begin`` and its commit."""

    async def die(self: aiosqlite.Connection) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async with Ledger(path) as ledger:
        aiosqlite.Connection.commit = die  # type: ignore[method-assign]
        await begin(ledger, records=dict.fromkeys(range(1, PAIRS), b"{}" * 50))


async def fill(path: str) -> None:
    """Record transitions until the file may not grow, and print what was acknowledged."""
    async with Ledger(path) as ledger:
        await begin(ledger)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        try:
            await go_through(ledger, iter(range(1, PAIRS + 1)))
        except LedgerError as error:
            _ = os.write(2, f"{error}".encode())


@contextmanager
def child(name: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run one of the functions above in a child process, and kill it on exit."""
    command = [sys.executable, __file__, name, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def acknowledged(output: str) -> list[tuple[int, int, str]]:
    lines = [line.split() for line in output.splitlines(keepends=True) if line.endswith("\n")]
    return [(int(seq), int(number), state) for seq, number, state in lines]


async def check_against(path: Path, steps: list[tuple[int, int, str]]) -> None:
    """Check that all acknowledged transitions are stored, and that pairs and log agree."""
    async with Ledger(path) as ledger:
        history = await ledger.history()
        pairs = {pair.number: pair for pair in await ledger.pairs()}
    logged = {each.seq: (each.transition.number, each.transition.state) for each in history}
    assert {seq: (number, state) for seq, number, state in steps}.items() <= logged.items()
    expected = {
        number: Pair(
            number=number,
            line=number,
            primary_id=2 * number - 1,
            duplicate_id=2 * number,
            state=PLANNED,
            planned_at=1.0,
        )
        for number in range(1, PAIRS + 1)
    }
    for each in history:
        expected[each.transition.number] = expected[each.transition.number].after(each.transition)
    assert pairs == expected


@pytest.mark.process
@pytest.mark.parametrize("count", [1, 200, 2000])
async def test_kill_loses_nothing(tmp_path: Path, count: int) -> None:
    """After ``kill -9`` during writes, everything acknowledged is stored and consistent."""
    path = tmp_path / "job.db"
    with child("work", path) as process:
        assert process.stdout is not None
        # The pipe keeps it from running far ahead of its reader, so it is killed during writes.
        first = "".join(process.stdout.readline() for _ in range(count))
        process.kill()
        steps = acknowledged(first + process.stdout.read())
    assert count <= len(steps) < 3 * PAIRS
    await check_against(path, steps)


@pytest.mark.process
async def test_a_crash_in_begin_begins_no_job(tmp_path: Path) -> None:
    """A process that dies before a job is committed has not begun it."""
    path = tmp_path / "job.db"
    with child("die_in_begin", path) as process:
        assert process.wait(20) == -signal.SIGKILL
    async with Ledger(path) as ledger:
        assert ledger.job is None
        assert await ledger.pairs() == []
        assert await ledger.records([1]) == {}
        await begin(ledger, 3)
        assert len(await ledger.pairs()) == 3


@pytest.mark.process
async def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """When a file cannot grow, the failing write raises; what was acknowledged is stored."""
    path = tmp_path / "job.db"
    with child("fill", path) as process:
        output, error = process.communicate(timeout=20)
    assert error.startswith(f"{path}: it cannot be written (")
    assert "free space" in error
    assert process.returncode == 0
    steps = acknowledged(output)
    assert steps
    await check_against(path, steps)


class Small(aiosqlite.Connection):
    """A connection to a database with at most so many pages."""

    pages = 0

    async def __aenter__(self) -> Self:
        _ = await super().__aenter__()
        if self.pages:
            _ = await self.execute_fetchall(f"PRAGMA max_page_count = {self.pages}")
        return self


def connect_small(database: str, **settings: Any) -> Small:
    return Small(lambda: sqlite3.connect(database, **settings), 64)


async def test_a_full_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All calls of a commit without disk space fail; with space, the job can continue."""
    path = tmp_path / "job.db"
    async with Ledger(path) as ledger:
        await begin(ledger, 100)
    monkeypatch.setattr(Small, "pages", path.stat().st_size // 4096)
    steps = [Transition(number=n, state=SENDING, at=2.0, reason="x" * 500) for n in range(1, 101)]
    async with Ledger(path, connect=connect_small) as ledger:
        transitions = [ledger.record(step) for step in steps]
        errors = await asyncio.gather(*transitions, return_exceptions=True)
        assert {type(error) for error in errors} == {LedgerError}
        assert all("free space" in str(error) for error in errors)
        assert (await ledger.totals())[PLANNED] == 100
    async with Ledger(path) as ledger:
        assert len({await ledger.record(step) for step in steps}) == 100


@pytest.mark.process
async def test_two_processes(tmp_path: Path) -> None:
    """A second writer gets the holder's name, but can read; a dead one is noticed, and blocks none."""
    path = tmp_path / "job.db"
    with child("hold", path) as process:
        assert process.stdout is not None
        holder = process.stdout.readline().strip()
        assert holder.startswith(f"process {process.pid} on ")
        with pytest.raises(LedgerError) as caught:
            async with Ledger(path):
                pass
        assert f"it is in use by {holder}: wait until" in str(caught.value)
        async with Ledger.reading(path) as reader:
            assert reader.holder == holder
            assert (await reader.totals())[PLANNED] == 3
        process.kill()
        _ = process.wait()
        async with Ledger(path) as ledger:
            assert not ledger.was_closed_cleanly
            assert ledger.holder.startswith(f"process {os.getpid()} on ")
            assert (await ledger.totals())[PLANNED] == 3
        async with Ledger(path) as ledger:
            assert ledger.was_closed_cleanly


async def test_a_holder_without_a_name(tmp_path: Path) -> None:
    """A holder that has not written its name yet is reported as "another process"."""
    path = tmp_path / "job.db"
    ledger = Ledger(path)
    assert ledger._lock.acquire()
    try:
        with pytest.raises(LedgerError, match="it is in use by another process"):
            async with Ledger(path):
                pass
        with closing(sqlite3.connect(path)) as connection:
            _ = connection.executescript(schema.CREATE)
        with pytest.raises(LedgerError, match="it is in use by another process"):
            async with Ledger(path):
                pass
    finally:
        ledger._lock.release()


async def test_a_commit_is_on_disk(tmp_path: Path) -> None:
    """Each commit is synced to disk, and other processes can read during it."""
    async with Ledger(tmp_path / "job.db") as ledger:
        assert await ledger._select("PRAGMA synchronous") == [(2,)]
        assert await ledger._select("PRAGMA fullfsync") == [(1,)]
        assert await ledger._select("PRAGMA journal_mode") == [("wal",)]


async def test_reading_beside_the_writer(tmp_path: Path) -> None:
    """A reader sees each transition once it is acknowledged, and creates no files."""
    path = tmp_path / "job.db"
    async with Ledger(path) as ledger:
        await begin(ledger, 3)
        async with Ledger.reading(path) as reader:
            for number in (1, 2, 3):
                _ = await ledger.record(Transition(number=number, state=SENDING, at=2.0))
                assert (await reader.totals())[SENDING] == number
    async with Ledger.reading(path) as reader:
        assert len(await reader.history()) == 3
    assert {file.name for file in tmp_path.iterdir()} == {"job.db", "job.db.lock"}  # noqa: ASYNC240


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of a ledger's files, except for the lock and the index of the log."""
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.is_file() and file.suffix not in {".lock", ".db-shm"}
    }


async def refusal(path: Path) -> str:
    """Return why a ledger can be opened in no mode, and check that it is not changed."""
    before = contents(path.parent) if path.parent.is_dir() else {}
    with pytest.raises(LedgerError) as written:
        async with Ledger(path):
            pass
    with pytest.raises(LedgerError) as read:
        async with Ledger.reading(path):
            pass
    assert str(read.value) == str(written.value)
    assert before == (contents(path.parent) if path.parent.is_dir() else {})
    assert written.value.path == str(path)
    return written.value.problem


async def test_a_file_that_is_no_ledger(tmp_path: Path) -> None:
    """A file that is not an SQLite database is not changed, and no file is created beside it."""
    path = tmp_path / "pairs.csv"
    _ = path.write_text("primary_id,duplicate_id\n1,2\n")
    assert "it is not a ledger: name another file with --ledger" in await refusal(path)
    assert [*tmp_path.iterdir()] == [path]  # noqa: ASYNC240


async def test_the_database_of_another_program(tmp_path: Path) -> None:
    """A database without our application id is not changed, and neither is its log."""
    path = tmp_path / "places.db"
    with left_open(path) as connection:
        _ = connection.execute("CREATE TABLE places (url)")
        connection.commit()
    assert "it is the database of another program" in await refusal(path)


@contextmanager
def left_open(path: Path) -> Iterator[sqlite3.Connection]:
    """Change a database and leave its log beside it, as a crash does."""
    original = path.with_name("original")
    if path.exists():
        shutil.copy(path, original)
    with closing(sqlite3.connect(original)) as connection:
        _ = connection.execute("PRAGMA journal_mode = WAL").fetchall()
        yield connection
        shutil.copy(original, path)
        shutil.copy(f"{original}-wal", f"{path}-wal")
    original.unlink()


@pytest.mark.parametrize("is_in_log", [False, True])
async def test_a_newer_version(tmp_path: Path, is_in_log: bool) -> None:
    """A ledger of a newer version is not changed, even if the version is only in the log."""
    path = tmp_path / "job.db"
    async with Ledger(path) as ledger:
        await begin(ledger, 3)
    with left_open(path) if is_in_log else closing(sqlite3.connect(path)) as connection:
        _ = connection.execute("PRAGMA user_version = 2")
    problem = await refusal(path)
    assert problem == "a newer aiotasks wrote it (format 2): update with `pip install -U`"


async def test_a_version_that_never_was(tmp_path: Path) -> None:
    """Tables without a version are damage, and not a new ledger."""
    path = tmp_path / "job.db"
    async with Ledger(path) as ledger:
        await begin(ledger, 3)
    with closing(sqlite3.connect(path)) as connection:
        _ = connection.execute("PRAGMA user_version = 0")
    assert (await refusal(path)).startswith("it is damaged (format 0), and was left as it is")


async def test_a_folder(tmp_path: Path) -> None:
    """A folder is not opened."""
    path = tmp_path / "job.db"
    path.mkdir()
    assert "a folder" in await refusal(path)


async def test_a_missing_folder(tmp_path: Path) -> None:
    """A missing folder is named, and not created."""
    path = tmp_path / "jobs" / "job.db"
    assert f"there is no folder {path.parent}" in await refusal(path)
    assert not path.parent.exists()


async def test_a_name_that_cannot_be(tmp_path: Path) -> None:
    """An impossible file name raises the same error as any file that cannot be opened."""
    problem = await refusal(tmp_path / ("x" * 300))
    assert problem.startswith("it cannot be opened (")
    assert problem.endswith("check its path and its permissions")


async def test_a_folder_that_takes_no_lock(tmp_path: Path) -> None:
    """If the lock file cannot be created, a ledger cannot be opened for writing."""
    path = tmp_path / "job.db"
    path.with_name("job.db.lock").mkdir()
    with pytest.raises(LedgerError, match="it cannot be opened"):
        async with Ledger(path):
            pass


async def test_a_log_without_its_file(tmp_path: Path) -> None:
    """A log without its database is not deleted: it has transitions that were acknowledged."""
    path = tmp_path / "job.db"
    with left_open(path) as connection:
        _ = connection.executescript(schema.CREATE)
    path.unlink()
    assert "its last transitions are in job.db-wal: put the two together" in await refusal(path)


async def test_an_empty_file_is_a_new_ledger(tmp_path: Path) -> None:
    """An empty file, or one whose process died before its first job, is a new ledger."""
    path = tmp_path / "job.db"
    path.touch()
    for _ in range(2):
        async with Ledger(path) as ledger:
            assert ledger.job is None
    async with Ledger.reading(path) as reader:
        assert reader.job is None


async def test_a_file_without_tables(tmp_path: Path) -> None:
    """A file with our application id, but without tables, is a new ledger without a job to read."""
    path = tmp_path / "job.db"
    with closing(sqlite3.connect(path)) as connection:
        _ = connection.execute(f"PRAGMA application_id = {schema.APPLICATION}")
    with pytest.raises(LedgerError, match="there is no job in it yet"):
        async with Ledger.reading(path):
            pass
    async with Ledger(path) as ledger:
        await begin(ledger, 3)


async def test_a_linked_file_is_locked_once(tmp_path: Path) -> None:
    """The lock belongs to the file, and not to one of its names."""
    path, link = tmp_path / "job.db", tmp_path / "link.db"
    link.symlink_to(path)
    async with Ledger(path) as ledger:
        with pytest.raises(LedgerError, match="it is in use by process"):
            async with Ledger(link):
                pass
        await begin(ledger, 3)
    async with Ledger(link) as ledger:
        assert len(await ledger.pairs()) == 3


@pytest.mark.parametrize("name", ["a b?c#d%20.db", "Aktenstücke.db"])
async def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    """A path may have characters with a special meaning in a URI."""
    async with Ledger(tmp_path / name) as ledger:
        await begin(ledger, 3)
    assert (tmp_path / name).stat().st_size > 0


async def read_all(ledger: Any) -> None:
    _ = await ledger.pairs()
    _ = await ledger.totals()
    _ = await ledger.notes()
    _ = await ledger.history()
    _ = await ledger.last_seq()
    _ = await ledger.records([1, 2, 3])
    _ = [each async for each in ledger.snapshots()]


async def use(path: Path) -> None:
    """Read everything in a ledger, and write to it."""
    async with Ledger.reading(path) as reader:
        await read_all(reader)
    async with Ledger(path) as ledger:
        _ = await ledger.record(Transition(number=30, state=SENDING, at=3.0))
        await read_all(ledger)


def damage(data: bytes, random: Random) -> bytes:
    """Return the data with a few bytes changed, or truncated."""
    changed = bytearray(data)
    first = random.choice([0, random.randrange(len(data))])
    for _ in range(random.choice([1, 4, 64])):
        changed[min(len(data) - 1, first + random.randrange(4096))] = random.randrange(256)
    return bytes(changed[: random.choice([len(data), len(data), random.randrange(len(data))])])


@pytest.fixture
async def crashed(tmp_path: Path) -> dict[str, bytes]:
    """The files of a ledger whose writer was killed: the database, and a log with transitions."""
    path = tmp_path / "whole" / "job.db"
    path.parent.mkdir()
    async with Ledger(path) as ledger:
        await begin(ledger, 30, {n: b'{"id": %d}' % n for n in range(1, 61)})
        await ledger.note(anchor="7")
    async with Ledger(path) as ledger:
        for number in range(1, 20):
            _ = await ledger.record(Transition(number=number, state=SENDING, at=2.0))
        return {name: (path.parent / name).read_bytes() for name in ("job.db", "job.db-wal")}


async def test_damage_is_an_error_of_ours(tmp_path: Path, crashed: dict[str, bytes]) -> None:
    """Whatever bytes are damaged, a ledger works or raises ``LedgerError`` and nothing else."""
    outcomes = {"works": 0, "damaged": 0}
    for seed in range(80):
        random = Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        hit = random.choice([*crashed])
        for name, data in crashed.items():
            _ = (folder / name).write_bytes(damage(data, random) if name == hit else data)
        try:
            await use(folder / "job.db")
        except LedgerError:
            outcomes["damaged"] += 1
        else:
            outcomes["works"] += 1
    assert min(outcomes.values()) > 0


@pytest.mark.parametrize("is_in_use", [False, True])
async def test_a_damaged_page(tmp_path: Path, crashed: dict[str, bytes], is_in_use: bool) -> None:
    """A damaged page is found before anything is written, with or without a log."""
    path = tmp_path / "job.db"
    data = bytearray(crashed["job.db"])
    data[4096 * 4 : 4096 * 5] = bytes(range(256)) * 16
    _ = path.write_bytes(data)
    if is_in_use:
        _ = path.with_name("job.db-wal").write_bytes(crashed["job.db-wal"])
    assert (await refusal(path)).startswith("it is damaged (")


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE pairs SET extra = x'00'",
        "UPDATE pairs SET extra = '[1]'",
        "UPDATE pairs SET line = 'x'",
        "UPDATE log SET state = 'gone'",
        "UPDATE notes SET text = x'00'",
        "UPDATE records SET json = 5",
    ],
)
async def test_values_that_no_ledger_wrote(
    tmp_path: Path, crashed: dict[str, bytes], sql: str
) -> None:
    """Values that SQLite accepts, but no ledger writes, are damage, too."""
    path = tmp_path / "job.db"
    for name, data in crashed.items():
        _ = path.with_name(name).write_bytes(data)
    with closing(sqlite3.connect(path)) as connection:
        _ = connection.execute(sql)
        connection.commit()
    async with Ledger.reading(path) as reader:
        with pytest.raises(LedgerError, match="it is damaged"):
            await read_all(reader)


async def test_a_table_that_is_gone(tmp_path: Path, crashed: dict[str, bytes]) -> None:
    """The error for a missing table has the name of the table."""
    path = tmp_path / "job.db"
    _ = path.write_bytes(crashed["job.db"])
    with closing(sqlite3.connect(path)) as connection:
        _ = connection.execute("DROP TABLE job")
    assert "it cannot be opened or read (no such table: job)" in await refusal(path)


async def session(path: Path) -> None:
    async with Ledger(path) as ledger:
        if ledger.job is None:
            await begin(ledger, 3)
        async with asyncio.TaskGroup() as group:
            for number in (1, 2, 3):
                step = Transition(number=number, state=SENDING, at=2.0)
                _ = group.create_task(ledger.record(step))
        _ = await ledger.pairs()


async def test_cancelled_at_any_time(tmp_path: Path) -> None:
    """Whenever a session is cancelled, no thread, task or lock remains, nor half a transition."""
    threads, tasks = {*threading.enumerate()}, asyncio.all_tasks()
    was_cancelled = []
    for run in range(40):
        path = tmp_path / f"{run}.db"
        task = asyncio.create_task(session(path))
        await asyncio.sleep(run * 0.0003)
        _ = task.cancel()
        _ = await asyncio.wait([task])
        was_cancelled.append(task.cancelled())
        # A thread of aiosqlite sends its last result before it ends.
        for thread in {*threading.enumerate()} - threads:
            thread.join(5)
            assert not thread.is_alive()
        assert asyncio.all_tasks() == tasks
        async with Ledger(path) as ledger:
            sending = [pair.number for pair in await ledger.pairs(SENDING)]
            assert sending == sorted(each.transition.number for each in await ledger.history())
    assert was_cancelled[0]


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]](sys.argv[2]))
