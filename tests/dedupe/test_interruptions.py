"""A job that is interrupted at any point can be resumed, and merges nothing twice."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import async_solipsism
import platformdirs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from aiotasks import AffinityError
from aiotasks.dedupe import PairState, Plan
from aiotasks.sandbox import Fault
from benchmarks import inline
from tests.dedupe.conftest import Server, check_ledger, go, plan_of, star
from tests.profiles import examples, is_thorough


PLANNED, SENDING, STARTED, SUCCEEDED, FAILED, REFUSED, UNSETTLED = PairState
OPEN = {PLANNED, SENDING, STARTED, UNSETTLED}


class Crash(Struct, frozen=True):
    """A time: so many iterations of the loop after the n-th request or commit."""

    after: str
    count: int
    iterations: int


class Crasher:
    """Ends a run as ``kill -9`` does: the ledger remains as its file is at that time."""

    def __init__(self, server: Server, path: Path, crash: Crash | None) -> None:
        self._server = server
        self._path = path
        self._crash = crash
        self._left = crash.count if crash else 0
        self._runner: asyncio.Task[Any] | None = None
        self._crash_task: asyncio.Task[None] | None = None
        self.left_behind: Path | None = None

    async def run(self, plan: Plan, **terms: Any) -> Path:
        """Run or resume a job, and return the path of its ledger afterwards."""
        self._server.interrupt = lambda _: self._count("request")
        with counting_commits(lambda: self._count("commit")):
            self._runner = asyncio.create_task(go(self._server, self._path, plan, **terms))
            with suppress(AffinityError, asyncio.CancelledError):
                await self._runner
            if self._crash_task is not None:
                _ = self._crash_task.cancel()
                _ = await asyncio.wait([self._crash_task])
        self._server.interrupt = lambda _: None
        return self.left_behind or self._path

    def _count(self, what: str) -> None:
        if self._crash is None or self._crash.after != what:
            return
        self._left -= 1
        if self._left == 0:
            self._crash_task = asyncio.create_task(self._crash_after(self._crash.iterations))

    async def _crash_after(self, iterations: int) -> None:
        for _ in range(iterations):
            await asyncio.sleep(0)
        assert self._runner is not None
        if not self._runner.done():
            self.left_behind = salvage(self._path)
            _ = self._runner.cancel()


@contextmanager
def counting_commits(notify: Any) -> Iterator[None]:
    commit = inline.Connection.commit

    async def count(self: inline.Connection) -> None:
        await commit(self)
        notify()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inline.Connection, "commit", count)
        yield


def salvage(path: Path) -> Path:
    """Return the ledger as a crash leaves it now; other programs take it for the same file."""
    left = copy_of(path)
    for note in platformdirs.user_state_path("aiotasks", appauthor=False).glob("last-post-*"):
        _ = note.write_text(note.read_text().replace(_file_of(path), _file_of(left)))
    return left


def copy_of(path: Path) -> Path:
    """Copy the files of a ledger as they are on disk now."""
    copy = path.with_name(f"{path.stem}+.db")
    for suffix in ("", "-wal"):
        if (source := path.with_name(path.name + suffix)).exists():
            _ = copyfile(source, copy.with_name(copy.name + suffix))
    return copy


def _file_of(path: Path) -> str:
    return f"{path.stat().st_dev}:{path.stat().st_ino}"


async def finish(server: Server, path: Path, plan: Plan, **terms: Any) -> None:
    """Run the job to its end without faults, and check its ledger."""
    server.clear_faults()
    result = await go(server, path, plan, **terms)
    assert result.stopped is None
    totals = await check_ledger(server, path)
    assert not OPEN & {state for state in totals if totals[state]}
    assert sum(totals.values()) == len(plan.merges)


@pytest.mark.slow
class TestCancellation:
    @pytest.mark.parametrize("after", ["request", "commit"])
    @pytest.mark.parametrize("is_crash", [True, False])
    async def test_at_any_moment(self, tmp_path: Path, after: str, is_crash: bool) -> None:
        """Wherever a run is interrupted, the next one continues and repeats nothing."""
        asyncio.get_running_loop().set_debug(False)
        plan = plan_of(3, *star(101, 102, 103))
        for count in range(1, 24):
            path = tmp_path / f"{count}.db"
            async with Server(quota=0, month_quota=0, latency=0.01, list_lag=5.0) as server:
                crasher = Crasher(server, path, Crash(after, count, count % 5))
                left = await crasher.run(plan, canary=0)
                await finish(server, left if is_crash else path, plan)
                assert server.posted("company").total() == 5

    async def test_between_two_steps_of_the_loop(self, tmp_path: Path) -> None:
        """A run may be interrupted at any iteration of the event loop."""
        asyncio.get_running_loop().set_debug(False)
        plan = plan_of(2, *star(101, 102, 103))
        for iterations in range(0, 600, 3 if is_thorough() else 29):
            path = tmp_path / f"{iterations}.db"
            async with Server(quota=0, month_quota=0, duration=0.5) as server:
                left = await Crasher(server, path, Crash("request", 2, iterations)).run(
                    plan, canary=0
                )
                await finish(server, left, plan)
                assert server.posted("company").total() == 4


FAULTS = {
    "lost answer": Fault.disconnect(after_work=True),
    "reset": Fault.disconnect(),
    "hang": Fault.hang(),
    "hang after": Fault.hang(after_work=True),
    "500": Fault.status(500),
    "500 after": Fault.status(500, after_work=True),
    "503 of a proxy": Fault.status(503, html=True),
    "429": Fault.rate_limit(),
    "429 of too many": Fault.rate_limit(cause="concurrency"),
    "month": Fault.rate_limit(cause="month"),
    "401": Fault.status(401),
    "403": Fault.status(403),
    "truncated": Fault.truncate(),
    "malformed": Fault.malformed(),
}
# A refusal of these operations would be an answer, and not a failure.
OPERATIONS = ("merge", "merges", "task", "tasks", "record", "records", None)


class InjectedFault(Struct, frozen=True):
    """A fault for the next request of an operation, or for a share of several requests."""

    fault: str
    on: str | None
    times: int
    share: float


class Round(Struct, frozen=True):
    """One run with its faults and its crash, and the pause after it."""

    faults: list[InjectedFault]
    crash: Crash | None
    pause: float
    retry_failed: bool


class Scenario(Struct, frozen=True):
    """A job with the faults and crashes of its runs."""

    singles: int
    cluster: int
    canary: int
    max_open: int
    sandbox: dict[str, Any]
    rounds: list[Round]


injected_faults = st.builds(
    InjectedFault,
    fault=st.sampled_from(sorted(FAULTS)),
    on=st.sampled_from(OPERATIONS),
    times=st.sampled_from([1, 1, 2, 4, 8, 50]),
    share=st.sampled_from([1.0, 0.5, 0.2]),
)
crashes = st.builds(
    Crash,
    after=st.sampled_from(["request", "commit"]),
    count=st.integers(1, 25),
    iterations=st.integers(0, 40),
)
rounds = st.builds(
    Round,
    faults=st.lists(injected_faults, max_size=4),
    crash=crashes | crashes | st.none(),
    pause=st.sampled_from([0.0, 0.0, 7.0, 100.0]),
    retry_failed=st.booleans(),
)
sandboxes = st.fixed_dictionaries(
    {
        "duration": st.sampled_from([0.0, 2.0, (0.0, 10.0), (5.0, 60.0)]),
        "failure_rate": st.sampled_from([0.0, 0.0, 0.3]),
        "list_lag": st.sampled_from([0.0, 0.0, 2.0, 20.0]),
        "task_lag": st.sampled_from([0.0, 0.0, 3.0]),
        "latency": st.sampled_from([0.0, 0.05, (0.0, 2.0)]),
        "quota": st.sampled_from([0, 0, 12]),
        "exclusive_primary": st.booleans(),
        "seed": st.integers(0, 3),
    }
)
scenarios = st.builds(
    Scenario,
    singles=st.integers(0, 5),
    cluster=st.integers(1, 4),
    canary=st.sampled_from([0, 2]),
    max_open=st.sampled_from([1, 3, 200]),
    sandbox=sandboxes,
    rounds=st.lists(rounds, min_size=1, max_size=4),
)


async def play(scenario: Scenario, folder: Path) -> None:
    """Play a scenario, then run the job to its end without faults, and check its ledger."""
    plan = plan_of(scenario.singles, *star(101, *range(102, 102 + scenario.cluster)))
    terms = {
        "canary": scenario.canary,
        "max_open": scenario.max_open,
        "max_failure_rate": 1.0,
        "settle_after": 30.0,
    }
    path = folder / "job.db"
    async with Server(month_quota=0, **scenario.sandbox) as server:
        for each in scenario.rounds:
            for injected in each.faults:
                fault = FAULTS[injected.fault]
                server.inject(fault, on=injected.on, times=injected.times, share=injected.share)
            crasher = Crasher(server, path, each.crash)
            path = await crasher.run(plan, retry_failed=each.retry_failed, **terms)
            server.clear_faults()
            await asyncio.sleep(each.pause)
        await finish(server, path, plan, **terms)


def check(scenario: Scenario) -> None:
    with (
        TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner,
    ):
        runner.run(play(scenario, Path(folder)))


class TestMachine:
    @settings(
        max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    @given(scenarios)
    def test_no_fault_merges_twice(self, scenario: Scenario) -> None:
        """Crashes, lost answers, resets, lagging lists and failures cost time, and nothing else."""
        check(scenario)
