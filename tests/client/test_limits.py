"""The API's three limits: believed from the headers, and never the end of a wait."""

import asyncio
import math
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import pytest
from tenacity import wait_fixed

from aiotasks import Client, MonthlyQuotaError, Outcome, OutcomeState, Watch
from aiotasks.sandbox import Fault
from tests.servers import Recorded, assert_idle, connect, hurry, now


class Job(NamedTuple):
    """What became of a bulk job: its outcomes, and how long after its end each was known."""

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
@pytest.mark.parametrize("quota", [50, 100, 900])
@pytest.mark.parametrize("offset", [0.0, 17.4])
async def test_a_bulk_job_alone_on_its_key(quota: int, offset: float) -> None:
    """Merges and polls share the minute: no refusals, few calls a merge, and no news is old."""
    hurry()
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
        # Four minutes' worth takes till the fourth turn at least, and the last task its time.
        assert now() <= (offset or 60.0) + 180.0 + 20.0 + 20.0
        delays = sorted(job.delays)
        assert delays[count // 2] <= 12.0
        assert delays[int(count * 0.95)] <= 20.0
        assert delays[-1] <= 40.0


async def test_neither_merges_nor_polls_starve() -> None:
    """In every minute of a bulk job merges are started and outcomes come."""
    hurry()
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
    """What others take is left to them: one in a hundred calls is refused at most, and no wait fails."""
    hurry()
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
        # Two hundred calls a minute are left.
        assert now() <= 60.0 * 5
        # What the others take is known after the first minute; then the polls keep their share.
        assert max(job.delays) <= 60.0
        assert sorted(job.delays)[len(job.delays) // 2] <= 10.0


async def test_a_limit_that_is_lowered_in_the_middle_of_a_job() -> None:
    """The limit may be lowered at any time: the next answer tells, and the job goes on by it."""
    hurry()
    async with (
        Recorded(quota=300, latency=0.1, duration=15.0) as sandbox,
        connect(sandbox) as client,
    ):
        asyncio.get_running_loop().call_at(61.0, sandbox.set_quota, 60)
        job = await bulk_job(client, 600, duration=15.0)
        assert succeeded(job) == 600
        # Only what was on its way in that moment is refused.
        assert sandbox.refused <= 16
        assert now() <= 60.0 * 6


@pytest.mark.parametrize("seconds", [-2, -1, 1, 2])
async def test_a_window_that_turns_at_another_time_than_it_says(seconds: int) -> None:
    """A reset that is off by seconds costs a refusal or two, not one each minute."""
    hurry()

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
async def test_a_refusal_in_the_middle_of_a_job(
    cause: Literal["minute", "concurrency"], pause: float
) -> None:
    """A 429 out of the blue costs its own pause and a ramp, and no merge is sent twice."""
    hurry()
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


async def test_the_month_ends_in_the_middle_of_a_job() -> None:
    """Merges stop with an error at once, and what is pending comes back as running."""
    hurry()
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
    """An interactive call waits for the next slot, not for the job, while the minute has calls left."""
    hurry()
    async with (
        Recorded(quota=900, latency=0.2, duration=20.0, companies=6000) as sandbox,
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
async def test_nothing_is_sent_into_an_exhausted_minute(latency: float, offset: float) -> None:
    """Alone on its key a long job is never refused, and uses every minute to its end."""
    hurry()
    async with (
        Recorded(quota=50, latency=latency, duration=100.0, window_offset=offset) as sandbox,
        connect(sandbox) as client,
    ):
        sandbox.refuse_lists()
        outcomes = await client.tasks.wait_many(sandbox.start(120), timeout=None)
        assert len(outcomes.succeeded) == 120
        assert sandbox.refused == client.quota.refused == 0
        assert all(outcome.error is None for outcome in outcomes)
        windows = [math.floor((asked.at - offset) / 60.0) for asked in sandbox.log]
        assert max(windows.count(window) for window in windows) == 50


async def test_an_exhausted_minute_is_waited_out() -> None:
    """The request after the last of the minute goes out with the reset."""
    async with Recorded(quota=3) as sandbox, connect(sandbox) as client:
        (url,) = sandbox.start(1)
        await asyncio.sleep(20.0)
        for _ in range(4):
            await client.tasks.get(url)
        assert sandbox.looks(url) == [20.0, 20.0, 20.0, 60.0]
        assert sandbox.refused == 0


async def test_a_second_user_of_the_key_is_believed() -> None:
    """What others take from the minute is in the headers, so a surprise costs one refusal."""
    hurry()
    async with Recorded(quota=60, duration=30.0) as sandbox, connect(sandbox) as client:
        loop = asyncio.get_running_loop()
        for moment in range(5, 600, 10):
            loop.call_at(moment, sandbox.use_quota, 5)
        sandbox.refuse_lists()
        outcomes = await client.tasks.wait_many(sandbox.start(100), timeout=None)
        assert len(outcomes.succeeded) == 100
        assert sandbox.refused <= now() / 60.0


async def test_a_key_that_others_use_up_delays_only() -> None:
    """With nothing left for minutes a wait goes on when there is something again."""
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
    """However a refusal looks, and however often it comes, the wait goes on after it."""
    async with Recorded(duration=5.0) as sandbox, connect(sandbox) as client:
        sandbox.inject(Fault.rate_limit(**limit), times=20)
        outcomes = await client.tasks.wait_many(sandbox.start(30), timeout=None)
        assert len(outcomes.succeeded) == 30
        assert sandbox.refused == client.quota.refused == 20
        await assert_idle(client)


@pytest.mark.parametrize("as_date", [False, True])
async def test_retry_after_is_honoured(sandbox: Recorded, client: Client, as_date: bool) -> None:
    """The server's own time is kept, in seconds or as a date."""
    (url,) = sandbox.start(1)
    fault = Fault.rate_limit(cause="concurrency", retry_after=30, as_date=as_date)
    sandbox.inject(fault)
    await client.tasks.get(url)
    first, second = sandbox.looks(url)
    assert 28.0 <= second - first <= 30.0


async def test_retry_after_is_capped(sandbox: Recorded, client: Client) -> None:
    """A server that says an hour is asked again after two minutes."""
    (url,) = sandbox.start(1)
    sandbox.inject(Fault.rate_limit(cause="concurrency", retry_after=3600))
    await client.tasks.get(url)
    assert sandbox.looks(url) == [0.0, 120.0]


async def test_a_limit_on_concurrency_is_learned() -> None:
    """Refused for too many at once, the client sends fewer, and gets everything done."""
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
    """The setting bounds what is sent at once, from the first request on."""
    async with (
        Recorded(quota=0, latency=1.0, duration=0.0) as sandbox,
        connect(sandbox, max_in_flight=2) as client,
    ):
        sandbox.refuse_lists()
        await client.tasks.wait_many(sandbox.start(20))
        assert sandbox.max_in_flight == 2


@pytest.mark.parametrize("text", [None, "unlimited", "-1", "1e400", ""])
async def test_missing_or_senseless_headers_are_no_obstacle(text: str | None) -> None:
    """Without usable headers requests go out by the limit in flight alone."""
    async with Recorded(duration=5.0) as sandbox, connect(sandbox) as client:
        sandbox.inject(Fault.limit_headers(text), times=None)
        outcomes = await client.tasks.wait_many(sandbox.start(30))
        assert len(outcomes.succeeded) == 30
        assert client.quota.remaining is None
        assert now() <= 6.0


async def test_the_month_ends_a_wait_without_losing_anything() -> None:
    """With the month used up the rest is returned as running, with the error that says why."""
    async with Recorded(month_quota=40, latency=0.1) as sandbox, connect(sandbox) as client:
        urls = sandbox.start(10, duration=0.0) + sandbox.start(50, first=11, duration=math.inf)
        outcomes = await client.tasks.wait_many(urls, timeout=None)
        assert len(outcomes.succeeded) == 10
        assert len(outcomes.running) == 50
        assert {type(outcome.error) for outcome in outcomes.running} == {MonthlyQuotaError}
        assert sandbox.requests - sandbox.refused == 40
        assert sandbox.refused <= 1


async def test_the_month_ends_everything_else_too() -> None:
    """Calls and merges raise the error at once, and nothing is sent."""
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


async def test_a_month_that_was_used_up_before_is_noticed() -> None:
    """The first refusal tells which limit it is, and ends the wait."""
    async with Recorded(month_quota=10) as sandbox, connect(sandbox) as client:
        sandbox.use_quota(10)
        outcomes = await client.tasks.wait_many(sandbox.start(20))
        assert {outcome.state for outcome in outcomes} == {OutcomeState.RUNNING}
        assert sandbox.requests == 1


@pytest.mark.parametrize("latency", [0.0, 0.1])
async def test_the_reserve_of_the_month_is_left_to_others(latency: float) -> None:
    """``reserve`` calls of the month are not touched, however many are in flight."""
    async with (
        Recorded(month_quota=50, latency=latency) as sandbox,
        connect(sandbox, reserve=20) as client,
    ):
        sandbox.refuse_lists()
        outcomes = await client.tasks.wait_many(sandbox.start(100, duration=math.inf))
        assert len(outcomes.running) == 100
        assert sandbox.requests == 30


async def test_a_failure_is_reported_when_the_month_ends() -> None:
    """A failure that was seen stays one, though its reason cannot be asked for any more."""
    async with Recorded(month_quota=1) as sandbox, connect(sandbox) as client:
        urls = sandbox.start(1, duration=0.0, reason="Locked")
        (outcome,) = await client.tasks.wait_many(urls)
        assert (outcome.state, outcome.reason) == (OutcomeState.FAILED, None)


async def test_who_waits_for_an_answer_goes_first() -> None:
    """A call during a big wait gets the next slot but one at the latest."""
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


async def test_who_waits_for_an_answer_goes_first_in_a_new_minute() -> None:
    """In an exhausted minute a call waits for the reset, and not for the job before it."""
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


async def test_merges_and_polls_take_turns_where_no_limit_is_known() -> None:
    """Without a minute to divide, merges and polls that wait for slots get every second one each."""
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
        methods = [asked.method for asked in sandbox.log[1:]]
        assert methods == ["POST", "GET"] * 30 + ["POST"] * 10


async def test_reasons_wait_for_the_minute_too() -> None:
    """The call for the reasons needs a slot like any other."""
    async with Recorded(quota=1) as sandbox, connect(sandbox) as client:
        urls = sandbox.start(2, duration=0.0, reason="Locked")
        outcomes = await client.tasks.wait_many(urls)
        assert [outcome.reason for outcome in outcomes] == ["Locked"] * 2
        assert now() == 60.0
        assert sandbox.refused == 0
