"""Dedupe jobs with real files, processes and signals, checked against the sandbox's log."""

import asyncio
import json
import math
import os
import re
import resource
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from aiotasks.cli.exit_codes import Exit
from aiotasks.dedupe import Ledger, PairState
from aiotasks.sandbox import PLAIN, Sandbox
from aiotasks.sandbox._reply import Reply
from aiotasks.sandbox._routes import ApiRequest, Route
from tests.profiles import is_thorough


pytestmark = [pytest.mark.real_time, pytest.mark.process]

KILLS = 50 if is_thorough() else 8
MANY = 10_000 if is_thorough() else 1_000

DRIVER = Path(__file__).with_name("driver.py")
# Merges of the tests are short, so they are polled sooner.
POLL_SOON = ("--poll-interval", "0.05")
LOST = ("disconnect-after@merge~5%", "disconnect@merge~5%")


class MergeRecorder(Sandbox):
    """A sandbox that records the merges that it refused because they ran or had run already."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.repeats: list[bytes] = []

    def _reply(self, call: ApiRequest, route: Route) -> Reply:
        reply = super()._reply(call, route)
        if route.operation == "merge" and reply.status in {409, 422}:
            self.repeats.append(call.body)
        return reply


class Ended(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    output: str
    errors: str


class Job:
    """A file of pairs with its ledger, for one sandbox."""

    def __init__(self, folder: Path, sandbox: MergeRecorder, url: str | None = None) -> None:
        self.pairs = folder / "pairs.csv"
        self.ledger = folder / "pairs.job.db"
        self.sandbox = sandbox
        self.url = url or sandbox.url
        self.wanted: dict[int, int] = {}
        self.processes: list[Process] = []

    def write(self, count: int, *, cluster: int = 2) -> None:
        """Write pairs in chains, so that all records of a cluster are merged into its first one."""
        rows = []
        for record_id in range(1, count + count // (cluster - 1) + 1):
            if survivor := (record_id - 1) % cluster:
                rows.append(f"{record_id - 1},{record_id}")
                self.wanted[record_id] = record_id - survivor
        assert len(rows) == count
        _ = self.pairs.write_text("\n".join(["primary_id,duplicate_id", *rows]))

    async def begin(self, *options: str, key: str = "sandbox-key") -> Process:
        """Start the command without a prompt."""
        arguments = ("merge", str(self.pairs), "--kind", "company", "--yes", *POLL_SOON, *options)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "aiotasks", *arguments),
            env=environment(AFFINITY_BASE_URL=self.url, AFFINITY_API_KEY=key),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )
        self.processes.append(process)
        return process

    async def run(self, *options: str, key: str = "sandbox-key") -> Ended:
        """Run the command to its end."""
        return await ended(await self.begin(*options, key=key))

    async def end(self) -> None:
        """Kill what a test has left running."""
        for process in self.processes:
            if process.returncode is None:
                process.kill()
                _ = await process.communicate()

    async def totals(self) -> Counter[PairState]:
        """Count the pairs in each state, leaving out those without any."""
        async with Ledger.reading(self.ledger) as ledger:
            return +Counter(await ledger.totals())

    async def check(self) -> None:
        """Check that every pair was accepted once and merged, and that the ledger says so.

        Requests for merges that run or have run already are not allowed either.
        """
        count = len(self.wanted)
        asked = self.sandbox.posted("company")
        assert asked == {(primary, duplicate): 1 for duplicate, primary in self.wanted.items()}
        done = [each for each in self.sandbox.history("company") if each.outcome == "success"]
        assert {each.duplicate_id: each.primary_id for each in done} == self.wanted
        assert not self.sandbox.repeats
        assert await self.totals() == {PairState.SUCCEEDED: count}

    @property
    def posted(self) -> int:
        """How many merges the server has accepted."""
        return self.sandbox.posted("company").total()


class Runs:
    """The runs of one job, each a process forked by the driver."""

    def __init__(self, job: Job, driver: Process, settings: dict[str, Any]) -> None:
        self._driver = driver
        self._request = json.dumps(
            {"pairs": str(job.pairs), "ledger": str(job.ledger), "url": job.url, **settings}
        )

    async def begin(self) -> tuple[int, "asyncio.Task[int]"]:
        """Start a run; return its process id, and its exit code when that is known."""
        assert self._driver.stdin is not None
        self._driver.stdin.write(f"{self._request}\n".encode())
        pid = await self._read()
        self._code = asyncio.create_task(self._read())
        return pid, self._code

    async def end(self) -> None:
        """Kill what a test has left running."""
        _ = self._code.cancel()
        os.killpg(self._driver.pid, signal.SIGKILL)
        _ = await self._driver.wait()

    async def _read(self) -> int:
        assert self._driver.stdout is not None
        return int(await self._driver.stdout.readline())


@asynccontextmanager
async def runs_of(job: Job, *, poll_interval: float = 0.05, **settings: Any) -> AsyncIterator[Runs]:
    driver = await asyncio.create_subprocess_exec(
        *(sys.executable, DRIVER),
        env=environment(),
        stdin=PIPE,
        stdout=PIPE,
        start_new_session=True,
    )
    runs = Runs(job, driver, {"settings": {"poll_interval": poll_interval, **settings}})
    try:
        yield runs
    finally:
        await runs.end()


class Relay:
    """A proxy to the sandbox that can be cut."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.url = ""
        self._port = 0
        self._target = int(sandbox.url.rpartition(":")[2])
        self._writers: set[asyncio.StreamWriter] = set()

    async def restore(self) -> None:
        """Let connections through."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    def cut(self) -> None:
        """End all connections, and refuse others."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        further, onward = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, onward}
        async with asyncio.TaskGroup() as group:
            _ = group.create_task(self._pass(reader, onward))
            _ = group.create_task(self._pass(further, writer))
        self._writers -= {writer, onward}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except ConnectionError:
            pass
        writer.close()


def environment(**settings: str) -> dict[str, str]:
    """Remove the developer's settings, and coverage, which would need disk space itself."""
    foreign = ("AFFINITY_", "COVERAGE_")
    return {
        name: os.environ[name] for name in os.environ if not name.startswith(foreign)
    } | settings


async def ended(process: Process) -> Ended:
    output, errors = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, output.decode(), errors.decode())


async def until(condition: Callable[[], bool]) -> None:
    """Wait until another process has made a condition true."""
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - it has no events
            await asyncio.sleep(0.005)


@pytest.fixture
async def debug_off() -> None:
    """Switch asyncio's debug mode off, which takes most of the time of a long test."""
    asyncio.get_running_loop().set_debug(False)


@asynccontextmanager
async def a_job(
    folder: Path, count: int, *, cluster: int = 2, **settings: Any
) -> AsyncIterator[Job]:
    """A job in a sandbox without limits, with exactly the records that it needs."""
    settings = {"quota": 0, "month_quota": 0, "companies": 2 * count, "seed": 1} | settings
    async with MergeRecorder(**settings) as sandbox:
        job = Job(folder, sandbox)
        job.write(count, cluster=cluster)
        try:
            yield job
        finally:
            await job.end()


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("debug_off")
async def test_killed_again_and_again(tmp_path: Path) -> None:
    """Killed at any time, with answers and requests lost, a job merges each pair exactly once."""
    random = Random(7)
    seen = Counter[PairState]()
    settings: dict[str, Any] = {"duration": (0.02, 0.08), "faults": LOST, "list_lag": 0.2}
    async with (
        a_job(tmp_path, 24 * KILLS, cluster=4, **settings) as job,
        runs_of(job, settle_after=1.0, max_open=20) as runs,
    ):
        for _ in range(KILLS):
            pid, code = await runs.begin()
            # Some runs are killed before they resume anything, and some get far.
            after = random.choice([0.1, 0.4, 1.5]) * random.random() if seen else 1.5
            _ = await asyncio.wait([code], timeout=after)
            assert not code.done()
            os.kill(pid, signal.SIGKILL)
            assert await code == -signal.SIGKILL
            seen.update((await job.totals()).keys() if job.ledger.exists() else ())
        _, code = await runs.begin()
        assert await code == Exit.SUCCEEDED
        await job.check()

    assert {PairState.PLANNED, PairState.SENDING, PairState.STARTED, PairState.SUCCEEDED} <= {*seen}


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("debug_off")
async def test_ten_thousand_pairs(tmp_path: Path) -> None:
    """A long job with chains merges each pair once, with few more requests than needed."""
    # A window is a second, where the API has a minute.
    settings: dict[str, Any] = {**PLAIN, "quota": 900, "window": 1.0, "duration": (0.1, 0.5)}
    async with (
        a_job(tmp_path, MANY, cluster=3, **settings) as job,
        runs_of(job, poll_interval=0.1, max_open=600) as runs,
    ):
        _, code = await runs.begin()
        assert await code == Exit.SUCCEEDED
        await job.check()
        assert job.sandbox.requests / MANY < 1.25


async def test_interrupted_once(tmp_path: Path) -> None:
    """Ctrl-C lets the open merges end and starts no more; the same command does the rest."""
    async with a_job(tmp_path, 20, duration=0.3) as job:
        process = await job.begin("--max-open", "8", "--canary", "0")
        await until(lambda: job.posted == 8)
        process.send_signal(signal.SIGINT)
        first = await ended(process)

        assert first.code == Exit.RUNNING
        assert "no new merges" in first.errors
        assert f"aiotasks resume {job.ledger}" in first.errors
        assert await job.totals() == {PairState.SUCCEEDED: 8, PairState.PLANNED: 12}
        assert job.posted == 8
        assert (await job.run()).code == Exit.SUCCEEDED
        await job.check()


async def test_interrupted_twice(tmp_path: Path) -> None:
    """A second Ctrl-C ends a job immediately; the next run finds the open merges again."""
    async with a_job(tmp_path, 12, duration=math.inf) as job:
        process = await job.begin("--max-open", "5", "--canary", "0")
        await until(lambda: job.posted == 5)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = await process.stderr.readuntil(b"Ctrl-C again ends immediately")
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(3):
            first = await ended(process)

        assert first.code == Exit.RUNNING, said
        assert "run the same command again" in first.errors
        assert job.posted == 5
        job.sandbox.duration = 0.1
        for url in job.sandbox.task_urls("company"):
            job.sandbox.finish(url)
        assert (await job.run()).code == Exit.SUCCEEDED
        await job.check()


async def test_a_full_disk(tmp_path: Path) -> None:
    """A full disk stops a job with a message; with space the same command continues."""
    async with a_job(tmp_path, 200, duration=0.02) as job:
        process = await job.begin("--max-open", "5", "--settle-after", "1")
        await until(lambda: job.posted >= 20)
        log = job.ledger.with_name(f"{job.ledger.name}-wal")
        full = log.stat().st_size + 10_000
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (full, full))
        first = await ended(process)

        assert first.code == Exit.RUNNING
        assert f"{job.ledger}: it cannot be written" in first.errors
        assert "free space" in first.errors
        assert job.posted < 200
        assert (await job.run("--settle-after", "1")).code == Exit.SUCCEEDED
        await job.check()


async def test_a_disk_without_space_from_the_start(tmp_path: Path) -> None:
    """A job whose ledger cannot be written is not begun."""
    async with a_job(tmp_path, 10) as job:
        process = await job.begin()
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2000, 2000))
        first = await ended(process)

        assert first.code == Exit.WRONG_USE
        assert str(job.ledger) in first.errors
        assert "Traceback" not in first.errors
        assert job.posted == 0
        job.sandbox.duration = 0.1
        assert (await job.run()).code == Exit.SUCCEEDED
        await job.check()


async def test_two_processes_on_one_ledger(tmp_path: Path) -> None:
    """The second process gets an error that names the holder, and changes nothing."""
    async with a_job(tmp_path, 12, duration=math.inf) as job:
        process = await job.begin("--max-open", "5")
        await until(lambda: job.posted == 5)
        await asyncio.sleep(0.1)  # until the last answers are written down
        before, asked = job.ledger.stat(), job.sandbox.calls["merge"]
        second = await job.run()

        assert second.code == Exit.WRONG_USE
        assert re.search(rf"in use by process {process.pid} on .+ since 2", second.errors)
        assert job.ledger.stat().st_mtime_ns == before.st_mtime_ns
        assert job.sandbox.calls["merge"] == asked == 5


async def test_no_server_at_the_start(tmp_path: Path) -> None:
    """An unreachable server has its own exit code, and no job is begun."""
    async with a_job(tmp_path, 2) as job:
        relay = Relay(job.sandbox)
        await relay.restore()
        relay.cut()
        job.url = relay.url
        first = await job.run()

        assert first.code == Exit.UNREACHABLE
        assert "No connection" in first.errors
        assert not job.ledger.exists()


async def test_no_server_for_a_while(tmp_path: Path) -> None:
    """A job waits for a server that becomes unreachable during the run."""
    async with a_job(tmp_path, 60, duration=0.1) as job:
        relay = Relay(job.sandbox)
        await relay.restore()
        job.url = relay.url
        process = await job.begin("--max-open", "5", "--settle-after", "1")
        await until(lambda: job.posted >= 20)
        relay.cut()
        await asyncio.sleep(1)
        assert process.returncode is None
        await relay.restore()

        assert (await ended(process)).code == Exit.SUCCEEDED
        await job.check()
        relay.cut()


async def test_a_wrong_key(tmp_path: Path) -> None:
    """A key that is refused ends the command, and no job is begun."""
    async with a_job(tmp_path, 2) as job:
        first = await job.run(key="another-key")

        assert first.code == Exit.NOT_AUTHORISED
        assert "another-key" not in first.errors
        assert job.posted == 0
        assert not job.ledger.exists()


@pytest.mark.usefixtures("debug_off")
async def test_killed_after_a_long_wait_for_a_slot(tmp_path: Path) -> None:
    """A merge that is not listed yet is not sent again, however long it waited for a slot."""
    settings: dict[str, Any] = {"quota": 8, "window": 2.0, "list_lag": 0.6, "latency": 0.1}
    async with (
        a_job(tmp_path, 12, **settings) as job,
        runs_of(job, settle_after=1.0, canary=0) as runs,
    ):
        pid, code = await runs.begin()
        await until(lambda: job.posted > 0)
        await asyncio.sleep(1.2)
        sent = job.posted
        # The next slot is free only after the merges have waited for it for more than a second.
        await until(lambda: job.posted > sent)
        os.kill(pid, signal.SIGKILL)
        assert await code == -signal.SIGKILL
        job.sandbox.set_quota(0)
        job.sandbox.duration = 0.1
        _, code = await runs.begin()
        await until(lambda: job.posted == 12)
        for url in job.sandbox.task_urls("company"):
            job.sandbox.finish(url)
        assert await code == Exit.SUCCEEDED
        await job.check()
