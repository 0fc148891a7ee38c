"""The API's three limits: believed from the headers, and never the end of a wait."""

import asyncio
import math
from typing import Any

import pytest
from tenacity import wait_fixed

from aiotasks import Client, MonthlyQuotaError, OutcomeState
from aiotasks.sandbox import Fault
from tests.client.conftest import Recorded, assert_idle, connect, hurry, now


@pytest.mark.parametrize("latency", [0.0, 0.3])
@pytest.mark.parametrize("offset", [0.0, 17.0])
async def test_nothing_is_sent_into_an_exhausted_minute(latency: float, offset: float) -> None:
    """Alone on its key a long job is never refused, and uses every minute to its end."""
    hurry()
    async with (
        Recorded(quota=50, latency=latency, duration=100.0, window_offset=offset) as sandbox,
        connect(sandbox) as client,
    ):
        outcomes = await client.tasks.wait_many(sandbox.start(120), timeout=None)
        assert len(outcomes.succeeded) == 120
        assert sandbox.refused == client.quota.refused == 0
        assert all(outcome.error is None for outcome in outcomes)
        windows = [math.floor((asked.at - offset) / 60.0) for asked in sandbox.asked]
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
        assert client._scope is not None
        assert not client._scope.poller._schedule.has_due


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


async def test_merges_go_before_polls_and_starve_nobody() -> None:
    """During a big wait merges get most slots, and the polls every tenth."""
    async with (
        Recorded(quota=0, latency=1.0, duration=0.0) as sandbox,
        connect(sandbox, max_in_flight=1) as client,
    ):
        job = asyncio.create_task(client.tasks.wait_many(sandbox.start(30, first=500)))
        await asyncio.sleep(0.5)
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(client.companies.merge(2 * number + 1, 2 * number + 2))
        polls = sandbox.calls["task"]
        assert 4 <= polls <= 7
        assert len((await job).succeeded) == 30


async def test_reasons_wait_for_the_minute_too() -> None:
    """The call for the reasons needs a slot like any other."""
    async with Recorded(quota=2) as sandbox, connect(sandbox) as client:
        urls = sandbox.start(2, duration=0.0, reason="Locked")
        outcomes = await client.tasks.wait_many(urls)
        assert [outcome.reason for outcome in outcomes] == ["Locked"] * 2
        assert now() == 60.0
        assert sandbox.refused == 0
