"""The rules of a job: what it starts, what it waits for, when it stops, how it is resumed."""

import asyncio
import math
import re
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aiotasks import (
    AuthenticationError,
    AuthorizationError,
    ClosedError,
    ConfigurationError,
    ConnectError,
    LedgerError,
    MonthlyQuotaError,
    NetworkError,
    RateLimitError,
    ServerError,
    dedupe,
)
from aiotasks.dedupe import (
    CanaryPassed,
    JobEvent,
    JobResult,
    JobSettings,
    Ledger,
    PairChanged,
    PairState,
    Plan,
    Stopping,
    StopReason,
    resume,
    run,
)
from aiotasks.dedupe._run.server_lists import ServerLists
from aiotasks.sandbox import Fault, LoggedRequest, Sandbox
from benchmarks import inline
from tests.dedupe.conftest import (
    Network,
    Seen,
    Server,
    begin,
    check_ledger,
    clock,
    connect,
    go,
    now,
    plan_of,
    read,
    star,
    states,
)


PLANNED, SENDING, STARTED, SUCCEEDED, FAILED, REFUSED, UNSETTLED = PairState


def later(seconds: float, action: Callable[[], object]) -> None:
    """Call a function after some seconds, during what follows."""
    _ = asyncio.get_running_loop().call_later(seconds, action)


def all_of(result: JobResult, state: PairState) -> bool:
    return result.totals[state] == sum(result.totals.values())


class TestRun:
    async def test_it_merges_what_the_plan_says(self, server: Server, job: Path) -> None:
        """Each pair is merged once, and the ledger has its task, merge id and times."""
        plan = plan_of(30, *star(101, 102, 103, 104))
        result = await go(server, job, plan)
        assert (result.stopped, result.error) == (None, None)
        assert await check_ledger(server, job) == {SUCCEEDED: 33}
        assert server.posted("company") == {
            (merge.primary_id, merge.duplicate_id): 1 for merge in plan.merges
        }
        # The preview asked for the newest tasks and merges, and for the records.
        assert result.calls == server.requests - 3
        assert result.seconds == pytest.approx(now(), abs=1.0)

    async def test_persons_too(self, server: Server, job: Path) -> None:
        """A plan of persons merges persons."""
        result = await go(server, job, Plan.of([(1, 2), (3, 4)], kind="person"))
        assert all_of(result, SUCCEEDED)
        assert server.merged("person") == {2: 1, 4: 3}

    async def test_snapshots_come_first(self, server: Server, job: Path) -> None:
        """The snapshots of the records are in the ledger before the first merge."""
        _ = await go(server, job, plan_of(60))
        first = next(place for place, asked in enumerate(server.log) if asked.method == "POST")
        assert [asked.path.partition("?")[0] for asked in server.log[:first]] == [
            "/v2/tasks/company-merges",
            *["/v2/companies"] * 2,
            "/v2/company-merges",
            "/v2/auth/whoami",
            *["/v2/tasks/company-merges"] * 2,
        ]
        async with Ledger.reading(job, connect=inline.connect) as ledger:
            assert len(await ledger.records(range(1, 121))) == 120

    async def test_a_preview_is_not_asked_for_again(self, server: Server, job: Path) -> None:
        """A preview that is passed in is not requested again."""
        plan = plan_of(2)
        async with connect(server) as client:
            preview = await dedupe.preview(client, plan)
        _ = await go(server, job, plan, preview=preview)
        assert server.calls["records"] == 1

    async def test_a_preview_of_another_plan_is_refused(self, server: Server, job: Path) -> None:
        """A preview of another plan is refused."""
        async with connect(server) as client:
            preview = await dedupe.preview(client, plan_of(2))
        with pytest.raises(ConfigurationError, match="another plan"):
            _ = await go(server, job, plan_of(3), preview=preview)
        assert server.posts == []

    async def test_there_may_be_nothing_to_do(self, server: Server, job: Path) -> None:
        """A job whose plan skips all rows ends immediately."""
        plan = Plan.of([(1, 2)], kind="company", protect=[2])
        result = await go(server, job, plan)
        assert all_of(result, REFUSED)
        assert result.stopped is None
        assert server.posts == []

    async def test_a_job_that_is_done_sends_no_requests(self, server: Server, job: Path) -> None:
        """Running a job that is done changes nothing and sends no requests."""
        plan = plan_of(3)
        _ = await go(server, job, plan)
        asked = server.requests
        result = await go(server, job, plan)
        assert all_of(result, SUCCEEDED)
        assert (server.requests, result.calls) == (asked, 0)

    async def test_never_too_many_are_open(self, server: Server, job: Path) -> None:
        """At most ``max_open`` merges are open at a time."""
        server.duration = (1.0, 30.0)
        seen = Seen()
        _ = await go(server, job, plan_of(40), seen=seen, canary=0, max_open=7)
        spans = [(merge.started, merge.ends) for merge in server.merges]
        assert max(sum(a <= at < b for a, b in spans) for at, _ in spans) == 7
        assert max(snapshot.open for snapshot in seen.snapshots) <= 7
        assert "open merges to end (at most 7 at once)" in seen.waited_for

    async def test_a_cluster_is_merged_one_by_one(self, server: Server, job: Path) -> None:
        """One merge of a cluster is open at a time, as a server may refuse two."""
        server.exclusive_primary = True
        server.duration = (0.0, 9.0)
        seen = Seen()
        plan = plan_of(0, *star(1, *range(2, 12)), *star(21, *range(22, 27)))
        _ = await go(server, job, plan, seen=seen)
        assert await check_ledger(server, job) == {SUCCEEDED: 15}
        assert seen.of(REFUSED) == []
        assert "the open merges of their clusters to end" in seen.waited_for

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("max_open", 0),
            ("canary", -1),
            ("max_failure_rate", 1.1),
            ("max_failure_rate", math.nan),
            ("grace", -1.0),
            ("grace", math.inf),
            ("settle_after", math.inf),
            ("settle_after", -0.1),
            ("poll_interval", 0.0),
        ],
    )
    def test_settings_are_checked(self, setting: str, value: float) -> None:
        """A setting out of its range is refused with its name, before a job can use it."""
        settings: dict[str, Any] = {setting: value}
        with pytest.raises(ConfigurationError, match=f"{setting} must be"):
            _ = JobSettings(**settings)

    async def test_another_plan_is_refused(self, server: Server, job: Path) -> None:
        """A ledger refuses any plan but its own."""
        _ = await go(server, job, plan_of(1))
        with pytest.raises(LedgerError, match="the ledger of another job"):
            _ = await go(server, job, plan_of(2))

    async def test_another_server_is_refused(self, server: Server, job: Path) -> None:
        """A job is resumed only at the server where it was begun."""
        _ = await go(server, job, plan_of(1))
        async with Sandbox() as other:
            with pytest.raises(LedgerError, match="give the base URL"):
                _ = await go(other, job)
            with pytest.raises(LedgerError, match="its server is"):
                _ = await go(other, job, plan_of(1))
            assert other.requests == 0

    async def test_without_a_job_there_is_nothing_to_resume(
        self, server: Server, job: Path
    ) -> None:
        """An empty ledger cannot be resumed."""
        with pytest.raises(LedgerError, match="no job in it yet"):
            _ = await go(server, job)


class TestCanary:
    async def test_the_first_have_to_end(self, server: Server, job: Path) -> None:
        """The others start only when half of the first twenty have succeeded."""
        server.duration = 30.0
        seen = Seen()
        _ = await go(server, job, plan_of(45), seen=seen)
        times = [asked.at for asked in server.posts]
        assert max(times[:20]) < 5.0
        assert min(times[20:]) >= min(times[:20]) + 30.0
        assert seen.events.count(CanaryPassed(ended=10)) == 1
        assert "10 of the first 20 merges to succeed (0 have)" in seen.waited_for

    async def test_it_can_be_switched_off(self, server: Server, job: Path) -> None:
        """Without a canary all pairs start immediately."""
        server.duration = 30.0
        seen = Seen()
        _ = await go(server, job, plan_of(25), seen=seen, canary=0)
        assert max(asked.at for asked in server.posts) < 5.0
        assert not any(isinstance(event, CanaryPassed) for event in seen.events)

    async def test_it_counts_over_runs(self, server: Server, job: Path) -> None:
        """Pairs that ended in an earlier run count for the canary of a later one."""
        _ = await stopped_after(server, job, plan_of(40), ended=10)
        tried = len(server.posts)
        server.duration = 30.0
        before = now()
        _ = await go(server, job)
        assert max(asked.at for asked in server.posts[tried:]) < before + 5.0

    async def test_what_was_merged_before_has_tried_nothing(
        self, server: Server, job: Path
    ) -> None:
        """Pairs that were merged before the job do not count for the canary."""
        for n in range(1, 11):
            _ = server.start_merge("company", 2 * n - 1, 2 * n, duration=0.0)
        server.failure_rate = 1.0
        result = await go(server, job, plan_of(40))
        assert len(server.posts) == 20
        assert result.stopped is StopReason.FAILURES

    async def test_a_stop_is_no_pass(self, server: Server, job: Path) -> None:
        """A job that was stopped reports no ``CanaryPassed``, as the other pairs may not start."""
        stop = asyncio.Event()
        later(1.0, stop.set)
        seen = Seen()
        server.duration = 5.0
        result = await go(server, job, plan_of(25), seen=seen, stop=stop)
        assert result.totals[SUCCEEDED] == 20
        assert not any(isinstance(event, CanaryPassed) for event in seen.events)


async def stopped_after(server: Server, job: Path, plan: Plan, *, ended: int) -> JobResult:
    """Stop a run when so many pairs have ended, and wait for the open ones."""
    stop = asyncio.Event()
    ends = count(1)

    def report(event: JobEvent) -> None:
        if isinstance(event, PairChanged) and event.pair.state is SUCCEEDED and next(ends) == ended:
            stop.set()

    return await go(server, job, plan, stop=stop, on_event=report)


class TestFailures:
    @pytest.mark.plain
    async def test_a_canary_that_fails_stops_the_job(self, server: Server, job: Path) -> None:
        """When the first batch fails, no more merges start, and all transitions are recorded."""
        server.failure_rate = 1.0
        seen = Seen()
        result = await go(server, job, plan_of(25), seen=seen)
        assert (result.stopped, result.error) == (StopReason.FAILURES, None)
        assert re.fullmatch(r"1\d of the 1\d started since pair \d+", result.failures or "")
        assert await check_ledger(server, job) == {FAILED: 20, PLANNED: 5}
        assert len(server.posts) == 20
        assert seen.events.count(Stopping(reason=StopReason.FAILURES, grace=30.0)) == 1
        failed = [pair for pair in await read(job) if pair.state is FAILED]
        assert all(pair.reason and pair.merge_id for pair in failed)

    async def test_open_merges_are_waited_for(self, server: Server, job: Path) -> None:
        """When too many merges have failed, open ones get the grace period, and are recorded."""
        server.duration = (5.0, 20.0)
        seen = Seen()

        def turn(_: LoggedRequest) -> None:
            server.failure_rate = float(len(server.posts) > 60)

        server.interrupt = turn
        result = await go(server, job, plan_of(200), seen=seen, max_open=30)
        assert result.stopped is StopReason.FAILURES
        totals = await check_ledger(server, job)
        assert totals[STARTED] == totals[SENDING] == 0
        assert totals[PLANNED] > 0
        assert totals[SUCCEEDED] + totals[FAILED] == len(server.posts)
        assert "the open merges to end (grace)" in seen.waited_for

    async def test_it_does_not_wait_for_reasons(self, server: Server, job: Path) -> None:
        """The job stops when polls have shown enough failures, before their reasons are known."""
        server.duration = lambda random: 5.0 if len(server.posts) <= 30 else 60.0
        server.interrupt = lambda _: setattr(server, "failure_rate", float(len(server.posts) <= 30))
        stopped_at = math.inf
        failed_at: list[float] = []

        def report(event: JobEvent) -> None:
            nonlocal stopped_at
            if isinstance(event, Stopping):
                stopped_at = now()
            elif isinstance(event, PairChanged) and event.pair.state is FAILED:
                failed_at.append(now())

        result = await go(server, job, plan_of(200), canary=0, on_event=report)
        assert result.stopped is StopReason.FAILURES
        assert result.totals[FAILED] == 30
        assert stopped_at <= min(failed_at) - 5.0

    async def test_a_few_may_fail(self, server: Server, job: Path) -> None:
        """Failures up to ``max_failure_rate`` do not stop the job."""
        server.failure_rate = 1.0
        result = await go(server, job, plan_of(25), max_failure_rate=1.0)
        assert result.stopped is None
        assert await check_ledger(server, job) == {FAILED: 25}

    async def test_the_canary_runs_again(self, server: Server, job: Path) -> None:
        """After a stop for failures the next run has a first batch of its own."""
        server.duration = 2.0
        server.interrupt = lambda _: setattr(server, "failure_rate", float(len(server.posts) > 20))
        _ = await go(server, job, plan_of(100), max_open=20)
        server.interrupt = lambda _: None
        assert (await check_ledger(server, job))[SUCCEEDED] >= 10
        server.failure_rate = 1.0
        tried = len(server.posts)
        result = await go(server, job, max_open=20)
        assert result.stopped is StopReason.FAILURES
        assert len(server.posts) == tried + 20
        server.failure_rate = 0.0
        result = await go(server, job)
        assert result.stopped is None
        _ = await check_ledger(server, job)

    async def test_a_crash_within_the_grace_period_keeps_the_stop(
        self, server: Server, job: Path
    ) -> None:
        """A stop for failures is in the ledger even if the run crashes within the grace period."""
        server.duration = 5.0
        server.failure_rate = 1.0
        seen = Seen()
        plan = plan_of(40, *star(1, *range(201, 204)))
        running = asyncio.create_task(go(server, job, plan, seen=seen, canary=0, grace=9e9))
        server.duration = math.inf
        later(1.0, lambda: setattr(server, "duration", 5.0))
        while not any(isinstance(event, Stopping) for event in seen.events):
            await asyncio.sleep(0.5)
            for url in server.task_urls("company")[:20]:
                server.finish(url, outcome="failed")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        async with Ledger.reading(job, connect=inline.connect) as ledger:
            assert (await ledger.notes())["stopped"] == StopReason.FAILURES

    async def test_failed_pairs_are_tried_again(self, server: Server, job: Path) -> None:
        """With ``retry_failed`` exactly the failed and refused pairs are planned again."""
        server.failure_rate = 1.0
        server.inject(Fault.status(400), on="merge")
        plan = Plan.of([(n, n + 1) for n in range(1, 12, 2)], kind="company", protect=[12])
        _ = await go(server, job, plan)
        assert (await states(job)) == [REFUSED, FAILED, FAILED, FAILED, FAILED, REFUSED]
        server.failure_rate = 0.0
        assert (await go(server, job)).totals[SUCCEEDED] == 0
        result = await go(server, job, retry_failed=True)
        assert result.totals[SUCCEEDED] == 5
        # Pairs that the plan left out are not retried.
        assert (await check_ledger(server, job)) == {SUCCEEDED: 5, REFUSED: 1}
        pairs = await read(job)
        assert all(pair.reason is None and pair.merge_id for pair in pairs if pair.is_planned)


class TestKey:
    @pytest.mark.parametrize(
        "how",
        [("api_key", "another", AuthenticationError), ("permissions", False, AuthorizationError)],
    )
    @pytest.mark.parametrize("at", [0.5, 2.0, 6.0])
    async def test_a_key_that_is_refused_stops_the_job(
        self, server: Server, job: Path, how: tuple[str, object, type[Exception]], at: float
    ) -> None:
        """Nothing is lost when the key is revoked, and the next run completes the job."""
        setting, value, error = how
        server.duration = (1.0, 20.0)
        before = getattr(server, setting)
        later(at, lambda: setattr(server, setting, value))
        seen = Seen()
        result = await go(server, job, plan_of(60, *star(203, 204, 205)), seen=seen, max_open=20)
        assert result.stopped is StopReason.NOT_AUTHORISED
        assert isinstance(result.error, error)
        assert result.totals[REFUSED] == result.totals[FAILED] == result.totals[UNSETTLED] == 0
        assert len(seen.of(SENDING)) < 60
        # The job does not wait, as no request would succeed.
        assert result.seconds < at + 20.0
        setattr(server, setting, before)
        assert (await go(server, job)).stopped is None
        assert await check_ledger(server, job) == {SUCCEEDED: 62}

    async def test_a_key_that_is_refused_at_the_start_is_an_error(
        self, server: Server, job: Path
    ) -> None:
        """A key that is refused for the preview raises, and no job is begun."""
        with pytest.raises(AuthenticationError):
            _ = await go(server, job, plan_of(1), client=connect(server, api_key="wrong"))
        async with Ledger(job, connect=inline.connect) as ledger:
            assert ledger.job is None

    async def test_a_key_that_is_refused_while_reconciling(self, server: Server, job: Path) -> None:
        """A key that is refused while a merge is reconciled stops the job, too."""
        server.inject(Fault.disconnect(after_work=True), on="merge")
        server.inject(Fault.status(403), on="merges", times=None)
        server.duration = 20.0
        async with connect(server) as client:
            await begin(client, job, plan_of(1))
            result = await go(server, job)
        assert result.stopped is StopReason.NOT_AUTHORISED
        assert await states(job) == [SENDING]
        server.clear_faults()
        assert all_of(await go(server, job), SUCCEEDED)
        assert len(server.posts) == 1

    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            (Fault.status(401), StopReason.NOT_AUTHORISED),
            (Fault.status(403), StopReason.NOT_AUTHORISED),
            (Fault.rate_limit(cause="month"), StopReason.MONTH),
        ],
    )
    async def test_a_merge_that_the_limits_refuse_remains_planned(
        self, server: Server, job: Path, fault: Fault, reason: StopReason
    ) -> None:
        """A merge refused for the key or the monthly quota did not run, and remains planned."""
        server.inject(fault, on="merge", times=None)
        result = await go(server, job, plan_of(1))
        assert result.stopped is reason
        assert await check_ledger(server, job) == {PLANNED: 1}
        server.clear_faults()
        assert all_of(await go(server, job), SUCCEEDED)

    async def test_an_exhausted_monthly_quota_stops_the_job(
        self, server: Server, job: Path
    ) -> None:
        """When the monthly quota is used up nothing is lost, and the next run completes the job."""
        server.duration = (1.0, 20.0)
        later(2.0, lambda: server.inject(Fault.rate_limit(cause="month"), on=None, times=None))
        result = await go(server, job, plan_of(60, *star(203, 204, 205)), max_open=20)
        assert result.stopped is StopReason.MONTH
        assert isinstance(result.error, MonthlyQuotaError)
        assert result.totals[REFUSED] == result.totals[FAILED] == result.totals[UNSETTLED] == 0
        server.clear_faults()
        assert (await go(server, job)).stopped is None
        assert await check_ledger(server, job) == {SUCCEEDED: 62}


class TestOutage:
    @pytest.mark.parametrize("minutes", [1, 5, 9])
    @pytest.mark.parametrize("at", [0.2, 3.0, 7.0])
    async def test_an_outage_is_waited_out(
        self, server: Server, network: Network, job: Path, minutes: int, at: float
    ) -> None:
        """Some minutes without a network cost time, and nothing else."""
        server.duration = (1.0, 20.0)
        server.latency = 0.02
        later(at, lambda: network.cut(server))
        later(at + 60.0 * minutes, lambda: network.restore(server))
        seen = Seen()
        result = await go(server, job, plan_of(60, *star(203, 204, 205)), seen=seen, max_open=20)
        assert result.stopped is None
        assert await check_ledger(server, job) == {SUCCEEDED: 62}
        assert result.seconds < 60.0 * minutes + 150.0
        assert minutes == 1 or "the API to answer again" in seen.waited_for

    @pytest.mark.parametrize("duration", [20.0, 2000.0])
    async def test_ten_minutes_are_too_long(
        self, server: Server, network: Network, job: Path, duration: float
    ) -> None:
        """A longer outage stops the job, whether it was sending or only waiting."""
        server.duration = duration
        later(10.0, lambda: network.cut(server))
        result = await go(server, job, plan_of(30), canary=20)
        assert result.stopped is StopReason.UNREACHABLE
        assert isinstance(result.error, NetworkError)
        assert 600.0 < result.seconds < 900.0
        assert result.totals[UNSETTLED] == 0
        network.restore(server)
        assert (await go(server, job)).stopped is None
        assert await check_ledger(server, job) == {SUCCEEDED: 30}

    async def test_a_server_that_is_down_is_an_outage_too(self, server: Server, job: Path) -> None:
        """A job whose polls all get 503 stops after ten minutes, with that error."""
        server.duration = 2000.0
        later(10.0, lambda: server.inject(Fault.status(503), on=None, times=None))
        result = await go(server, job, plan_of(3))
        assert result.stopped is StopReason.UNREACHABLE
        assert isinstance(result.error, ServerError)
        assert result.totals[STARTED] == 3

    async def test_tasks_that_can_never_be_read(self, server: Server, job: Path) -> None:
        """If only polls fail, and no merge ends, the job stops for that as well."""
        later(10.0, lambda: server.inject(Fault.status(503), on="tasks", times=None))
        later(10.0, lambda: server.inject(Fault.status(503), on="task", times=None))
        server.duration = 60.0
        result = await go(server, job, plan_of(9))
        assert result.stopped is StopReason.UNREACHABLE
        assert result.totals[STARTED] == 9

    async def test_tasks_that_are_refused_by_the_page(self, server: Server, job: Path) -> None:
        """If only the task list is refused, each task is polled by itself."""
        later(1.0, lambda: server.inject(Fault.status(403), on="tasks", times=None))
        server.duration = 1000.0
        assert all_of(await go(server, job, plan_of(3)), SUCCEEDED)

    async def test_long_merges_are_no_outage(self, server: Server, job: Path) -> None:
        """Merges of half an hour are waited for, with one extra call a minute."""
        server.duration = 1800.0
        result = await go(server, job, plan_of(3))
        assert all_of(result, SUCCEEDED)
        # The polls take two calls a minute by themselves.
        assert server.calls["tasks"] + server.calls["task"] <= 1.1 * 3 * 30 + 10

    async def test_merges_that_are_always_refused_for_a_limit(
        self, server: Server, job: Path
    ) -> None:
        """If every merge gets a 429, the job stops after ten minutes, too."""
        server.inject(Fault.rate_limit(cause="concurrency"), on="merge", times=None)
        result = await go(server, job, plan_of(3))
        assert result.stopped is StopReason.UNREACHABLE
        assert isinstance(result.error, RateLimitError)
        # The grace period ends between two attempts.
        assert result.totals[PLANNED] + result.totals[SENDING] == 3
        server.clear_faults()
        assert all_of(await go(server, job), SUCCEEDED)
        assert server.posted("company").total() == 3

    @pytest.mark.plain
    async def test_a_refusal_ends_an_outage(
        self, server: Server, network: Network, job: Path
    ) -> None:
        """A refusal is an answer and ends an outage: two short outages are not one long one."""
        async with connect(server) as client:
            await begin(client, job, plan_of(0, *star(2, 3, 4, 5)))
        for duplicate_id in (3, 4, 5):
            merge = partial(server.start_merge, "company", 9, duplicate_id, duration=0.0)
            later(10.0, merge)
        first = iter([0.0, 0.0, 20.0])

        def be_slow(asked: LoggedRequest) -> None:
            server.latency = 700.0 * (asked.method == "POST")
            outage = next(first, 720.0)
            network.is_cut = outage == 20.0 or len(server.posts) == 2
            later(outage, lambda: setattr(network, "is_cut", False))

        server.interrupt = be_slow
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            client = connect(server, session=session, request_timeout=1000.0)
            result = await go(server, job, client=client)
        assert result.stopped is None
        assert result.totals[REFUSED] == 3
        assert result.seconds > 2100.0

    async def test_a_server_that_never_was_there(
        self, server: Server, network: Network, job: Path
    ) -> None:
        """A run that resumes open merges ends immediately if it cannot reach the server."""
        server.duration = 600.0
        stop = asyncio.Event()
        later(5.0, stop.set)
        result = await go(server, job, plan_of(3), stop=stop, grace=1.0)
        assert result.totals[STARTED] == 3
        network.is_cut = True
        started = now()
        with pytest.raises(ConnectError):
            _ = await go(server, job)
        assert now() - started < 60.0
        assert {pair.state for pair in await read(job)} == {STARTED}

    async def test_a_client_that_is_closed_ends_the_job(self, server: Server, job: Path) -> None:
        """Closing the client under a job raises, or stops it."""
        server.duration = 600.0
        client = connect(server)
        async with Ledger(job, connect=inline.connect) as ledger:
            async with client:
                running = asyncio.create_task(run(client, plan_of(3), ledger, clock=clock))
                await asyncio.sleep(5.0)
            result = await running
            assert result.stopped is StopReason.UNREACHABLE
            assert isinstance(result.error, ClosedError)
            assert result.totals[STARTED] == 3


class TestStop:
    async def test_nothing_more_is_started(self, server: Server, job: Path) -> None:
        """After a stop open merges get the grace period, and the next run does the rest."""
        server.duration = 10.0
        stop = asyncio.Event()
        later(5.0, stop.set)
        seen = Seen()
        result = await go(server, job, plan_of(30), seen=seen, stop=stop)
        assert (result.stopped, result.error) == (StopReason.INTERRUPTED, None)
        assert await check_ledger(server, job) == {SUCCEEDED: 20, PLANNED: 10}
        assert seen.events.count(Stopping(reason=StopReason.INTERRUPTED, grace=30.0)) == 1
        assert (await go(server, job)).stopped is None
        assert await check_ledger(server, job) == {SUCCEEDED: 30}

    async def test_merges_that_wait_for_a_slot_are_not_sent(
        self, server: Server, job: Path
    ) -> None:
        """Merges that wait for the next window when the job is stopped remain planned."""
        server.set_quota(20)
        server.duration = 1.0
        stop = asyncio.Event()
        later(30.0, stop.set)
        result = await go(server, job, plan_of(60), stop=stop, grace=100.0, canary=0)
        sent = len(server.posts)
        assert 0 < sent < 20
        assert await check_ledger(server, job) == {SUCCEEDED: sent, PLANNED: 60 - sent}
        assert result.stopped is StopReason.INTERRUPTED
        server.set_quota(0)
        assert all_of(await go(server, job), SUCCEEDED)

    async def test_grace_ends(self, server: Server, job: Path) -> None:
        """Merges that have not ended within the grace period are resumed by the next run."""
        server.duration = 100.0
        stop = asyncio.Event()
        later(5.0, stop.set)
        result = await go(server, job, plan_of(30), stop=stop, grace=7.0)
        assert result.stopped is StopReason.INTERRUPTED
        assert result.seconds == pytest.approx(12.0, abs=1.0)
        assert await check_ledger(server, job) == {STARTED: 20, PLANNED: 10}
        assert all_of(await go(server, job), SUCCEEDED)
        assert len(server.posts) == 30

    async def test_a_stop_that_was_set_before(self, server: Server, job: Path) -> None:
        """A job that is stopped at its start sends at most one merge per sender."""
        stop = asyncio.Event()
        stop.set()
        result = await go(server, job, plan_of(30), stop=stop)
        assert result.stopped is StopReason.INTERRUPTED
        assert result.totals[PLANNED] >= 14
        _ = await check_ledger(server, job)

    async def test_a_stop_at_the_end_stopped_nothing(self, server: Server, job: Path) -> None:
        """If all pairs end within the grace period, the job is not reported as stopped."""
        server.duration = 10.0
        stop = asyncio.Event()
        later(5.0, stop.set)
        result = await go(server, job, plan_of(3), stop=stop)
        assert result.stopped is None
        assert all_of(result, SUCCEEDED)

    async def test_a_cancelled_run_records_no_end(self, server: Server, job: Path) -> None:
        """A run that is cancelled does not change the state of open pairs."""
        server.duration = 100.0
        running = asyncio.create_task(go(server, job, plan_of(3)))
        await asyncio.sleep(5.0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert now() == 5.0
        assert await states(job) == [STARTED] * 3


class SpoiledError(Exception):
    """What a callback raises."""


class TestCallbacks:
    async def test_the_events_have_all_transitions(self, server: Server, job: Path) -> None:
        """The events have every transition of the ledger, in its order."""
        server.failure_rate = 0.2
        server.inject(Fault.disconnect(after_work=True), on="merge", times=None, share=0.2)
        seen = Seen()
        _ = await go(server, job, plan_of(40), seen=seen, max_failure_rate=1.0)
        transitions = [event for event in seen.events if isinstance(event, PairChanged)]
        async with Ledger.reading(job, connect=inline.connect) as ledger:
            history = await ledger.history()
            reported = sorted(
                (event.seq, event.pair.number, event.pair.state) for event in transitions
            )
            assert reported == [
                (each.seq, each.transition.number, each.transition.state) for each in history
            ]
            last = {event.pair.number: event.pair for event in transitions}
            for pair in await ledger.pairs():
                known = last[pair.number]
                assert (known.state, known.task_url) == (pair.state, pair.task_url)
                assert (known.reason, known.ended_at) == (pair.reason, pair.ended_at)

    async def test_progress_is_reported_each_second(self, server: Server, job: Path) -> None:
        """Snapshots come once a second and at the end, and each counts every pair once."""
        server.duration = 10.0
        server.set_quota(900)
        seen = Seen()
        result = await go(server, job, plan_of(30), seen=seen)
        assert len(seen.snapshots) == pytest.approx(result.seconds + 2, abs=2)
        assert {snapshot.total for snapshot in seen.snapshots} == {30}
        assert seen.snapshots[0].seconds_left is None
        assert any(snapshot.seconds_left for snapshot in seen.snapshots)
        # The calls before the first merge are not those of the curve.
        assert seen.snapshots[-1].calls == result.calls - 3
        assert seen.snapshots[-1].month_used is None

    async def test_the_monthly_quota_is_reported(self, job: Path) -> None:
        """Progress has the monthly quota if the API reports it."""
        async with Server(quota=0, month_quota=1000) as server:
            seen = Seen()
            _ = await go(server, job, plan_of(3), seen=seen)
            assert seen.snapshots[-1].month_limit == 1000
            assert seen.snapshots[-1].month_used == server.requests

    @pytest.mark.parametrize("error", [SpoiledError(), ConnectError("mine"), LedgerError("a", "b")])
    @pytest.mark.parametrize("state", [SENDING, STARTED, SUCCEEDED, FAILED, PLANNED, UNSETTLED])
    async def test_what_a_callback_raises_ends_the_run(
        self, server: Server, job: Path, state: PairState, error: Exception
    ) -> None:
        """An exception of ``on_event`` ends the run, is raised unchanged, and loses nothing."""

        def report(event: JobEvent) -> None:
            if isinstance(event, PairChanged) and event.pair.state is state:
                raise error

        server.failure_rate = float(state is FAILED)
        plan = plan_of(5, *star(101, 102, 103))
        async with connect(server) as client:
            await begin(client, job, plan)
        server.inject(Fault.disconnect(), on="merge")
        if state is UNSETTLED:
            server.inject(Fault.status(503), on="records", times=None)
        with pytest.raises(type(error)) as caught:
            _ = await go(server, job, on_event=report)
        assert caught.value is error
        server.clear_faults()
        server.failure_rate = 0.0
        assert all_of(await go(server, job, retry_failed=True), SUCCEEDED)
        _ = await check_ledger(server, job)

    @pytest.mark.parametrize("after", [0, 3])
    async def test_so_does_what_on_progress_raises(
        self, server: Server, job: Path, after: int
    ) -> None:
        """An exception of ``on_progress`` ends the run, and is raised unchanged."""
        calls = count()

        def show(_: object) -> None:
            if next(calls) >= after:
                raise SpoiledError

        server.duration = 10.0
        with pytest.raises(SpoiledError):
            _ = await go(server, job, plan_of(3), on_progress=show)
        assert all_of(await go(server, job), SUCCEEDED)
        _ = await check_ledger(server, job)

    async def test_callbacks_are_optional(self, server: Server, job: Path) -> None:
        """A job runs without callbacks."""
        async with connect(server) as client, Ledger(job, connect=inline.connect) as ledger:
            assert all_of(await run(client, plan_of(3), ledger), SUCCEEDED)
            assert all_of(await resume(client, ledger), SUCCEEDED)


class TestMergesOfOthers:
    @pytest.mark.plain
    async def test_what_is_merged_already_is_not_sent(self, server: Server, job: Path) -> None:
        """A pair merged before has succeeded; a duplicate merged into another record is refused."""
        _ = server.start_merge("company", 1, 2, duration=0.0)
        _ = server.start_merge("company", 9, 4, duration=0.0)
        server.duration = 5.0
        _ = await go(server, job, Plan.of([(1, 2), (3, 4), (5, 6), (7, 999_999)], kind="company"))
        pairs = await read(job)
        assert [pair.state for pair in pairs] == [SUCCEEDED, REFUSED, SUCCEEDED, REFUSED]
        assert pairs[0].reason == "2 had been merged into 1 before this job"
        assert pairs[1].reason == "4 had been merged into 9 before this job"
        assert pairs[3].reason == "There is no company 999999 (any more)"
        assert server.posted("company") == {(5, 6): 1}

    async def test_what_others_merge_meanwhile(self, server: Server, job: Path) -> None:
        """What others merge between the plan and the start is found out before it is sent."""
        async with connect(server) as client:
            await begin(client, job, plan_of(3))
        _ = server.start_merge("company", 1, 2, duration=0.0)
        _ = server.start_merge("company", 9, 4, duration=0.0)
        _ = await go(server, job)
        pairs = await read(job)
        assert [pair.state for pair in pairs] == [SUCCEEDED, REFUSED, SUCCEEDED]
        assert pairs[1].reason == "4 no longer exists as it has been merged into 9"
        assert server.posted("company") == {(5, 6): 1}

    async def test_what_others_have_under_way(self, server: Server, job: Path) -> None:
        """A pair that others are merging at the time is taken up, and not sent."""
        task_url = server.start_merge("company", 1, 2, duration=60.0)
        _ = await go(server, job, plan_of(1))
        (pair,) = await read(job)
        assert (pair.state, pair.task_url) == (SUCCEEDED, task_url)
        assert server.posted("company") == {}


class TestMergeIds:
    @pytest.mark.plain
    async def test_they_are_recorded_once(self, server: Server, job: Path) -> None:
        """Ids are read a hundred a call at the end of a run, until all are known."""
        for n in range(500, 850):
            _ = server.start_merge("company", 2 * n - 1, 2 * n, duration=0.0)
        before = server.calls["merges"]
        _ = await go(server, job, plan_of(150))
        # One more is the preview's.
        assert server.calls["merges"] == before + 3
        ids = {(merge.primary_id, merge.duplicate_id): merge.id for merge in server.merges}
        for pair in await read(job):
            assert pair.merge_id == ids[pair.primary_id, pair.duplicate_id]
        _ = await go(server, job)
        assert server.calls["merges"] == before + 3

    async def test_a_failure_to_read_them_is_ignored(self, server: Server, job: Path) -> None:
        """If the list cannot be read, the ids are recorded by the next run."""
        _ = server.start_merge("company", 1001, 1002, duration=0.0)
        async with connect(server) as client:
            await begin(client, job, plan_of(3))
        later(1.0, lambda: server.inject(Fault.status(400), on="merges", times=1))
        assert all_of(await go(server, job), SUCCEEDED)
        assert {pair.merge_id for pair in await read(job)} == {None}
        _ = await go(server, job)
        assert [pair.merge_id for pair in await read(job)] == [2, 3, 4]


class TestOtherLedgers:
    async def begin(self, server: Server, job: Path) -> None:
        """Begin a job that is killed after it has sent nine long merges."""
        server.duration = 200.0
        running = asyncio.create_task(go(server, job, plan_of(9), canary=0))
        await asyncio.sleep(1.0)
        assert server.posted("company").total() == 9
        _ = running.cancel()
        _ = await asyncio.wait([running])
        server.duration = 1.0

    async def test_a_new_ledger_waits_for_the_lists(self, server: Server, job: Path) -> None:
        """What another ledger has sent just now is in the lists before a merge is sent."""
        server.list_lag = 40.0
        await self.begin(server, job)
        seen = Seen()
        result = await go(server, job.with_name("other.db"), plan_of(10), seen=seen)
        assert all_of(result, SUCCEEDED)
        assert server.repeated("company") == set()
        assert "the server's lists to show what another ledger has sent" in seen.waited_for
        assert server.history("company")[-1].started == pytest.approx(61.0, abs=1.0)

    async def test_it_reads_on_in_an_outage(self, server: Server, job: Path) -> None:
        """If the lists cannot be read when the time is over, no merge is sent before they are."""
        await self.begin(server, job)
        later(30.0, lambda: server.inject(Fault.status(503), on="tasks", times=20))
        assert all_of(await go(server, job.with_name("other.db"), plan_of(10)), SUCCEEDED)
        assert server.posted("company").total() == 10
        assert server.posts[-1].at > 70.0

    async def test_a_closed_client_ends_the_wait(
        self, server: Server, job: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What no later attempt can mend ends the run."""

        async def fail(*_: object, **__: object) -> int:
            raise ClosedError

        await self.begin(server, job)
        later(30.0, lambda: monkeypatch.setattr(ServerLists, "read_tasks", fail))
        with pytest.raises(ClosedError):
            _ = await go(server, job.with_name("other.db"), plan_of(10))

    async def test_the_same_ledger_does_not_wait(self, server: Server, job: Path) -> None:
        """Resumed, a job knows what it has sent, and goes on at once."""
        stop = asyncio.Event()
        later(3.0, stop.set)
        server.duration = 1.0
        _ = await go(server, job, plan_of(40), stop=stop, max_open=2)
        before = now()
        _ = await go(server, job, max_open=2)
        assert server.posts[-1].at > before
        assert min(post.at for post in server.posts if post.at >= before) < before + 1.0

    async def test_a_note_that_cannot_be_written(
        self,
        server: Server,
        job: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Without a folder for its note a job runs, and says once what not to do."""
        monkeypatch.setenv("XDG_STATE_HOME", str(job.parent / "file" / "state"))
        _ = (job.parent / "file").write_text("")
        assert all_of(await go(server, job, plan_of(3)), SUCCEEDED)
        (record,) = caplog.records
        assert "cannot be noted" in record.message

    async def test_a_key_that_is_refused_while_it_waits(self, server: Server, job: Path) -> None:
        """A key that is refused when the lists are to be read stops the job."""
        await self.begin(server, job)
        later(30.0, lambda: server.inject(Fault.status(401), on="tasks", times=None))
        result = await go(server, job.with_name("other.db"), plan_of(12))
        assert result.stopped is StopReason.NOT_AUTHORISED

    async def test_what_has_ended_there_is_found(self, server: Server, job: Path) -> None:
        """What another ledger has merged is taken up, though its records do not show it yet."""
        server.duration, server.record_lag = 1.0, 600.0
        _ = await go(server, job, plan_of(9))
        ended = now()
        result = await go(server, job.with_name("other.db"), plan_of(9))
        assert all_of(result, SUCCEEDED)
        assert server.posted("company").total() == 9
        # What has ended keeps nobody waiting.
        assert now() < ended + 10.0
