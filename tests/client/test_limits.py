"""The API's three limits: read from the headers, and never the end of a wait."""

import asyncio
import math
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import pytest
from tenacity import wait_fixed

from aiotasks import Client, MonthlyQuotaError, Outcome, OutcomeState, Watch
from aiotasks.sandbox import PLAIN, Fault
from tests.profiles import is_thorough
from tests.servers import Recorded, assert_idle, connect, debug_off, now


class Job(NamedTuple):
    """The result of a bulk job: its outcomes, and how long after its end each was reported."""

    outcomes: list[Outcome]
    delays: list[float]


async def bulk_job(client: Client, count: int, *, duration: float, workers: int = 20) -> Job:
    """Merge and wait, as a dedupe job does: each task is watched as soon as it is started."""
    ends: dict[str, float] = {}
    numbers = iter(range(count))

    async def merge(watch: Watch) -> None:
        for number in numbers:
            url = await client.companies.merge(2 * number + 1, 2 * number + 2)
            ends[url] = now() + duration
            watch.add(url)

    async def merge_all(watch: Watch) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(merge(watch))
        watch.close()

    async with client.tasks.watch(timeout=None) as watch, asyncio.TaskGroup() as group:
        group.create_task(merge_all(watch))
        job = Job([], [])
        async for outcome in watch:
            job.outcomes.append(outcome)
            job.delays.append(now() - ends[outcome.url])
    assert len(job.outcomes) == count
    return job


def succeeded(job: Job) -> int:
    return sum(outcome.state is OutcomeState.SUCCESS for outcome in job.outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("quota", [50, 100, 900] if is_thorough() else [50, 200])
@pytest.mark.parametrize("offset", [0.0, 17.4])
async def test_a_bulk_job_alone_on_its_key(quota: int, offset: float) -> None:
    """Merges and polls share the window: no refusals, few calls per merge, and short delays."""
    debug_off()
    count = quota * 4
    async with (
        Recorded(
            quota=quota, latency=0.1, duration=20.0, window_offset=offset, companies=10_000
        ) as sandbox,
        connect(sandbox) as client,
    ):
        job = await bulk_job(client, count, duration=20.0)
        assert succeeded(job) == count
        assert sandbox.refused == client.quota.refused <= 2
        assert sandbox.requests <= 1.1 * count
        # The calls fill at least four windows, and the last task takes its time.
        assert now() <= (offset or 60.0) + 180.0 + 20.0 + 20.0
        delays = sorted(job.delays)
        assert delays[count // 2] <= 12.0
        assert delays[int(count * 0.95)] <= 20.0
        assert delays[-1] <= 40.0


async def test_neither_merges_nor_polls_starve() -> None:
    """In every window of a bulk job merges are started and outcomes are reported."""
    debug_off()
    async with (
        Recorded(quota=60, latency=0.1, duration=10.0) as sandbox,
        connect(sandbox) as client,
    ):
        job = asyncio.create_task(bulk_job(client, 300, duration=10.0))
        for _ in range(5):
            before = sandbox.calls.copy()
            await asyncio.sleep(60.0)
            made = sandbox.calls - before
            assert made["merge"] >= 55
            assert made["tasks"] + made["task"] >= 2
        assert succeeded(await job) == 300


async def test_a_second_program_takes_a_third_of_the_limit() -> None:
    """With another program on the key at most 1 % of the calls is refused, and no wait fails."""
    debug_off()
    async with (
        Recorded(quota=300, latency=0.1, duration=15.0, companies=4000) as sandbox,
        connect(sandbox) as client,
    ):

        async def other() -> None:
            while True:
                sandbox.use_quota(5)
                await asyncio.sleep(3.0)

        second = asyncio.create_task(other())
        job = await bulk_job(client, 1000, duration=15.0)
        second.cancel()
        assert succeeded(job) == 1000
        assert sandbox.refused <= 0.01 * sandbox.requests
        # Two hundred calls per window are left.
        assert now() <= 60.0 * 5
        # The use of others is known after the first window; then polls keep their share.
        assert max(job.delays) <= 60.0
        assert sorted(job.delays)[len(job.delays) // 2] <= 10.0


async def test_a_limit_that_is_lowered_during_a_job() -> None:
    """A limit that is lowered during a job is applied with the next answer, and the job goes on."""
    debug_off()
    async with (
        Recorded(quota=300, latency=0.1, duration=15.0) as sandbox,
        connect(sandbox) as client,
    ):
        asyncio.get_running_loop().call_at(61.0, sandbox.set_quota, 60)
        job = await bulk_job(client, 600, duration=15.0)
        assert succeeded(job) == 600
        # Only the requests in flight at that time are refused.
        assert sandbox.refused <= 16
        assert now() <= 60.0 * 6


@pytest.mark.parametrize("seconds", [-2, -1, 1, 2])
async def test_a_window_that_ends_at_another_time_than_reported(seconds: int) -> None:
    """A reset that is off by seconds costs at most two refusals, not one in each window."""
    debug_off()

    class Askew(Recorded):
        def _reply(self, call: Any, route: Any) -> Any:
            reply = super()._reply(call, route)
            name = "X-Ratelimit-Limit-User-Reset"
            reset = max(0, int(reply.headers[name]) + seconds)
            return replace(reply, headers=reply.headers | {name: str(reset)})

    async with (
        Askew(quota=60, latency=0.1, duration=10.0) as sandbox,
        connect(sandbox) as client,
    ):
        job = await bulk_job(client, 400, duration=10.0)
        assert succeeded(job) == 400
        assert sandbox.refused <= 4
        assert now() <= 60.0 * 8.5


@pytest.mark.parametrize(
    ("cause", "pause"), [("minute", 60.0), ("concurrency", 10.0)], ids=["minute", "concurrency"]
)
async def test_a_refusal_during_a_job(
    cause: Literal["minute", "concurrency"], pause: float
) -> None:
    """An unexpected 429 costs its own pause and a ramp, and no merge is sent twice."""
    debug_off()
    async with (
        Recorded(quota=900, latency=0.1, duration=10.0) as sandbox,
        connect(sandbox) as client,
    ):
        loop = asyncio.get_running_loop()
        loop.call_at(2.0, lambda: sandbox.inject(Fault.rate_limit(cause=cause), times=3))
        job = await bulk_job(client, 500, duration=10.0)
        assert succeeded(job) == 500
        assert sandbox.refused == 3
        assert max(sandbox.posted("company").values()) == 1
        assert now() <= 3 * pause + 40.0


async def test_the_monthly_quota_ends_during_a_job() -> None:
    """At the end of the monthly quota merges raise, and pending tasks are returned as running."""
    debug_off()
    async with (
        Recorded(quota=900, latency=0.1, month_quota=200, duration=math.inf) as sandbox,
        connect(sandbox) as client,
    ):

        async def merge_until_refused() -> None:
            for number in range(300):
                watch.add(await client.companies.merge(2 * number + 1, 2 * number + 2))

        async with client.tasks.watch(timeout=None) as watch:
            with pytest.raises(MonthlyQuotaError):
                await merge_until_refused()
            watch.close()
            outcomes = [outcome async for outcome in watch]
        assert len(outcomes) == watch.count >= 150
        assert {outcome.state for outcome in outcomes} == {OutcomeState.RUNNING}
        assert {type(outcome.error) for outcome in outcomes} == {MonthlyQuotaError}
        assert sandbox.refused <= 1
        assert now() <= 60.0


async def test_a_call_during_a_bulk_job_is_answered_soon() -> None:
    """While the window has calls left, an interactive call waits for the next slot only."""
    debug_off()
    async with (
        Recorded(**PLAIN, quota=900, latency=0.2, duration=20.0, companies=6000) as sandbox,
        connect(sandbox) as client,
    ):
        (url,) = sandbox.start(1, first=2900)
        job = asyncio.create_task(bulk_job(client, 1500, duration=20.0, workers=100))
        for moment in (1.0, 3.0, 5.0, 20.0, 40.0, 59.0, 61.5, 65.0):
            await asyncio.sleep(moment - now())
            await client.tasks.get(url)
            assert now() - moment <= 1.0
        assert succeeded(await job) == 1500


@pytest.mark.parametrize("latency", [0.0, 0.3])
@pytest.mark.parametrize("offset", [0.0, 17.0])
async def test_nothing_is_sent_into_an_exhausted_window(latency: float, offset: float) -> None:
    """Alone on its key a long job is never refused, and uses up every window."""
    debug_off()
    async with (
        Recorded(quota=50, latency=latency, duration=100.0, window_offset=offset) as sandbox,
        connect(sandbox) as client,
    ):
        sandbox.refuse_lists()
        outcomes = await client.tasks.wait_many(sandbox.start(120), timeout=None)
        assert len(outcomes.succeeded) == 120
        assert sandbox.refused == client.quota.refused == 0
        assert all(outcome.error is None for outcome in outcomes)
        windows = [math.floor((request.at - offset) / 60.0) for request in sandbox.log]
        assert max(windows.count(window) for window in windows) == 50


async def test_a_request_waits_for_the_end_of_an_exhausted_window() -> None:
    """The first request after an exhausted window is sent at the reset."""
    async with Recorded(quota=3) as sandbox, connect(sandbox) as client:
        (url,) = sandbox.start(1)
        await asyncio.sleep(20.0)
        for _ in range(4):
            await client.tasks.get(url)
        assert sandbox.polls(url) == [20.0, 20.0, 20.0, 60.0]
        assert sandbox.refused == 0


async def test_requests_behind_one_that_gave_up_are_sent_at_the_reset() -> None:
    """A request that is cancelled while it waits for a slot holds up none of those behind it."""
    async with Recorded(quota=3) as sandbox, connect(sandbox) as client:
        (url,) = sandbox.start(1)
        for _ in range(3):
            await client.tasks.get(url)
        gets = [asyncio.create_task(client.tasks.get(url)) for _ in range(3)]
        await asyncio.sleep(1.0)
        gets[0].cancel()
        await asyncio.sleep(1.0)
        _ = await asyncio.gather(client.tasks.get(url), *gets[1:])
        assert sandbox.polls(url) == [0.0] * 3 + [60.0] * 3
        assert gets[0].cancelled()


async def test_the_use_of_a_second_program_is_applied() -> None:
    """The use of others is read from the headers, so an unexpected one costs one refusal."""
    debug_off()
    async with Recorded(quota=60, duration=30.0) as sandbox, connect(sandbox) as client:
        loop = asyncio.get_running_loop()
        for moment in range(5, 600, 10):
            loop.call_at(moment, sandbox.use_quota, 5)
        sandbox.refuse_lists()
        outcomes = await client.tasks.wait_many(sandbox.start(100), timeout=None)
        assert len(outcomes.succeeded) == 100
        assert sandbox.refused <= now() / 60.0


async def test_a_key_that_others_use_up_only_delays() -> None:
    """With nothing remaining for minutes a wait goes on as soon as calls remain again."""
    async with Recorded(quota=10, duration=5.0) as sandbox, connect(sandbox) as client:
        (url,) = sandbox.start(1)
        loop = asyncio.get_running_loop()
        for minute in range(5):
            loop.call_at(60.0 * minute + 1e-3, sandbox.use_quota, 10)
        task = await client.tasks.wait(url, timeout=None)
        assert task.status == "success"
        assert 300.0 <= now() <= 301.0
        assert sandbox.refused <= 5


LIMITS: list[dict[str, Any]] = [
    {"cause": "minute"},
    {"cause": "minute", "retry_after": 3},
    {"cause": "concurrency"},
    {"cause": "concurrency", "retry_after": 3},
    {"cause": "concurrency", "retry_after": 3, "as_date": True},
    {"cause": "concurrency", "retry_after": "soon"},
    {"cause": "concurrency", "retry_after": -1},
    {"cause": "concurrency", "retry_after": "nan"},
    {"cause": "concurrency", "retry_after": "Mon, 99 Foo 2029"},
]


@pytest.mark.parametrize("limit", LIMITS, ids=str)
async def test_a_429_never_fails_a_wait(limit: dict[str, Any]) -> None:
    """A wait goes on after a 429, whatever its form and however many there are."""
    async with Recorded(duration=5.0) as sandbox, connect(sandbox) as client:
        sandbox.inject(Fault.rate_limit(**limit), times=20)
        outcomes = await client.tasks.wait_many(sandbox.start(30), timeout=None)
        assert len(outcomes.succeeded) == 30
        assert sandbox.refused == client.quota.refused == 20
        await assert_idle(client)


@pytest.mark.parametrize("as_date", [False, True])
async def test_retry_after_is_honoured(sandbox: Recorded, client: Client, as_date: bool) -> None:
    """The server's ``Retry-After`` is obeyed, in seconds or as a date."""
    (url,) = sandbox.start(1)
    fault = Fault.rate_limit(cause="concurrency", retry_after=30, as_date=as_date)
    sandbox.inject(fault)
    await client.tasks.get(url)
    first, second = sandbox.polls(url)
    assert 28.0 <= second - first <= 30.0


async def test_retry_after_is_capped(sandbox: Recorded, client: Client) -> None:
    """A ``Retry-After`` of an hour is capped at two minutes."""
    (url,) = sandbox.start(1)
    sandbox.inject(Fault.rate_limit(cause="concurrency", retry_after=3600))
    await client.tasks.get(url)
    assert sandbox.polls(url) == [0.0, 120.0]


async def test_a_limit_on_concurrency_is_found() -> None:
    """After refusals for concurrency fewer requests are sent at a time, and all are completed."""
    async with (
        Recorded(quota=0, max_concurrent=3, latency=1.0, duration=0.0) as sandbox,
        connect(sandbox) as client,
    ):
        sandbox.refuse_lists()
        outcomes = await client.tasks.wait_many(sandbox.start(200), timeout=None)
        assert len(outcomes.succeeded) == 200
        assert sandbox.refused <= 80
        assert now() <= 200.0


async def test_never_more_than_max_in_flight() -> None:
    """``max_in_flight`` bounds the requests in flight, from the first one on."""
    async with (
        Recorded(quota=0, latency=1.0, duration=0.0) as sandbox,
        connect(sandbox, max_in_flight=2) as client,
    ):
        sandbox.refuse_lists()
        await client.tasks.wait_many(sandbox.start(20))
        assert sandbox.max_in_flight == 2


@pytest.mark.parametrize("text", [None, "unlimited", "-1", "1e400", ""])
async def test_missing_or_invalid_headers_are_ignored(text: str | None) -> None:
    """Without usable headers only the number of requests in flight is limited."""
    async with Recorded(duration=5.0) as sandbox, connect(sandbox) as client:
        sandbox.inject(Fault.limit_headers(text), times=None)
        outcomes = await client.tasks.wait_many(sandbox.start(30))
        assert len(outcomes.succeeded) == 30
        assert client.quota.remaining is None
        assert now() <= 6.0


async def test_the_end_of_the_monthly_quota_loses_no_outcome() -> None:
    """At the end of the monthly quota the rest is returned as running, with the error."""
    async with Recorded(month_quota=40, latency=0.1) as sandbox, connect(sandbox) as client:
        urls = sandbox.start(10, duration=0.0) + sandbox.start(50, first=11, duration=math.inf)
        outcomes = await client.tasks.wait_many(urls, timeout=None)
        assert len(outcomes.succeeded) == 10
        assert len(outcomes.running) == 50
        assert {type(outcome.error) for outcome in outcomes.running} == {MonthlyQuotaError}
        assert sandbox.requests - sandbox.refused == 40
        assert sandbox.refused <= 1


async def test_the_end_of_the_monthly_quota_stops_all_calls() -> None:
    """When the monthly quota has ended, calls and merges raise immediately, and nothing is sent."""
    async with Recorded(month_quota=2) as sandbox, connect(sandbox) as client:
        (url,) = sandbox.start(1)
        await client.tasks.get(url)
        await client.tasks.get(url)
        with pytest.raises(MonthlyQuotaError, match="month"):
            await client.tasks.get(url)
        with pytest.raises(MonthlyQuotaError):
            await client.companies.merge(3, 4)
        with pytest.raises(MonthlyQuotaError, match="Nothing is lost"):
            await client.tasks.wait(url)
        assert sandbox.requests == 2
        await assert_idle(client)
        assert client._opened is not None
        assert not client._opened.poller._schedule.has_due


async def test_an_exhausted_monthly_quota_is_detected() -> None:
    """The first refusal identifies the monthly quota, and ends the wait."""
    async with Recorded(month_quota=10) as sandbox, connect(sandbox) as client:
        sandbox.use_quota(10)
        outcomes = await client.tasks.wait_many(sandbox.start(20))
        assert {outcome.state for outcome in outcomes} == {OutcomeState.RUNNING}
        assert sandbox.requests == 1


@pytest.mark.parametrize("latency", [0.0, 0.1])
async def test_the_reserve_is_never_used(latency: float) -> None:
    """``reserve`` calls of the monthly quota are never used, however many are in flight."""
    async with (
        Recorded(month_quota=50, latency=latency) as sandbox,
        connect(sandbox, reserve=20) as client,
    ):
        sandbox.refuse_lists()
        outcomes = await client.tasks.wait_many(sandbox.start(100, duration=math.inf))
        assert len(outcomes.running) == 100
        assert sandbox.requests == 30


async def test_a_failure_is_reported_when_the_monthly_quota_ends() -> None:
    """A failure is reported as a failure even if its reason cannot be fetched any more."""
    async with Recorded(month_quota=1) as sandbox, connect(sandbox) as client:
        urls = sandbox.start(1, duration=0.0, reason="Locked")
        (outcome,) = await client.tasks.wait_many(urls)
        assert (outcome.state, outcome.reason) == (OutcomeState.FAILED, None)


async def test_an_interactive_call_goes_first() -> None:
    """A call during a large wait gets one of the next two slots."""
    async with (
        Recorded(quota=0, latency=1.0, duration=0.0) as sandbox,
        connect(sandbox, max_in_flight=1) as client,
    ):
        sandbox.refuse_lists()
        urls = sandbox.start(100)
        job = asyncio.create_task(client.tasks.wait_many(urls))
        for moment in (5.5, 20.5, 33.5, 47.5):
            await asyncio.sleep(moment - now())
            await client.tasks.get(urls[0])
            assert now() - moment <= 2.5
        assert len((await job).succeeded) == 100


async def test_an_interactive_call_goes_first_in_a_new_window() -> None:
    """In an exhausted window a call waits for the reset, and not for the job before it."""
    async with (
        Recorded(quota=50, duration=math.inf) as sandbox,
        connect(sandbox) as client,
    ):
        urls = sandbox.start(200)
        job = asyncio.create_task(client.tasks.wait_many(urls, backoff=wait_fixed(1)))
        await asyncio.sleep(30.0)
        await client.tasks.get(urls[199])
        assert now() == 60.0
        job.cancel()


async def test_merges_and_polls_alternate_without_a_known_limit() -> None:
    """Without a known limit, merges and polls that wait for slots get every second one each."""
    async with (
        Recorded(quota=0, latency=1.0, duration=0.0) as sandbox,
        connect(sandbox, max_in_flight=1) as client,
    ):
        sandbox.refuse_lists()
        job = asyncio.create_task(client.tasks.wait_many(sandbox.start(30, first=500)))
        await asyncio.sleep(0.5)
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(client.companies.merge(2 * number + 1, 2 * number + 2))
        assert len((await job).succeeded) == 30
        methods = [request.method for request in sandbox.log[1:]]
        assert methods == ["POST", "GET"] * 30 + ["POST"] * 10


async def test_reasons_wait_for_the_window_too() -> None:
    """The call for the reasons waits for a slot like any other."""
    async with Recorded(quota=1) as sandbox, connect(sandbox) as client:
        urls = sandbox.start(2, duration=0.0, reason="Locked")
        outcomes = await client.tasks.wait_many(urls)
        assert [outcome.reason for outcome in outcomes] == ["Locked"] * 2
        assert now() == 60.0
        assert sandbox.refused == 0
