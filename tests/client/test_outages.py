"""Outages: a wait survives them, unless no answer was ever received."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from tenacity import wait_fixed

from aiotasks import (
    Client,
    ConnectError,
    NetworkError,
    NotFoundError,
    RequestTimeoutError,
    TaskTimeoutError,
)
from aiotasks.sandbox import Fault, Sandbox
from tests.servers import Recorded, assert_idle, connect, debug_off, now


OUTAGES = {
    "503": Fault.status(503),
    "502 of a proxy": Fault.status(502, html=True),
    "disconnects": Fault.disconnect(),
    "truncated": Fault.truncate(),
    "hangs": Fault.hang(),
}


@pytest.mark.parametrize("name", OUTAGES)
@pytest.mark.parametrize("count", [1, 30])
async def test_an_outage_delays_a_wait(
    sandbox: Recorded, client: Client, name: str, count: int
) -> None:
    """An outage of minutes costs few requests and no outcome, and polling resumes soon after."""
    urls = sandbox.start(count, duration=10.0)
    loop = asyncio.get_running_loop()
    loop.call_at(5.0, lambda: sandbox.inject(OUTAGES[name], times=None))
    loop.call_at(185.0, sandbox.clear_faults)
    outcomes = await client.tasks.wait_many(urls, timeout=None)
    assert len(outcomes.succeeded) == count
    # The longest pause is six seconds; a request that hangs times out after half a minute.
    assert 185.0 <= now() <= 185.0 + 6.0 + 30.0 * (name == "hangs")
    during = [request for request in sandbox.log if 5.0 <= request.at < 185.0]
    # A GET on a dead connection is repeated by aiohttp itself.
    assert 3 <= len(during) <= 50 * (1 + (name == "disconnects"))
    await assert_idle(client)


async def test_five_minutes_of_503_during_a_job() -> None:
    """A long outage costs few calls and no outcome, and a minute later the pace is normal again."""
    debug_off()
    async with (
        Recorded(quota=900, latency=0.1, duration=30.0) as sandbox,
        connect(sandbox) as client,
    ):
        loop = asyncio.get_running_loop()
        loop.call_at(20.0, lambda: sandbox.inject(Fault.status(503), times=None))
        loop.call_at(320.0, sandbox.clear_faults)
        urls = [await client.companies.merge(2 * n + 1, 2 * n + 2) for n in range(100)]
        urls += sandbox.start(200, first=101)
        late = sandbox.start(100, first=301, duration=340.0)
        outcomes = await client.tasks.wait_many(urls + late, timeout=None)
        assert len(outcomes.succeeded) == 400
        assert max(outcome.waited for outcome in outcomes[:300]) <= 316.0
        assert now() <= 10.0 + 340.0 + 33.0
        during = [request for request in sandbox.log if 20.0 <= request.at < 320.0]
        assert 20 <= len(during) <= 80
        assert sandbox.calls["tasks"] <= len(during) + 60
        assert sandbox.calls["task"] <= 10
        await assert_idle(client)


@asynccontextmanager
async def restarting(url: str, *, after: float) -> AsyncIterator[Sandbox]:
    await asyncio.sleep(after)
    async with Sandbox(port=urlsplit(url).port or 0, duration=0.0) as sandbox:
        yield sandbox


async def test_a_wait_survives_a_restart_of_the_server() -> None:
    """Minutes of refused connections during a wait only delay it."""
    async with Sandbox(duration=math.inf) as before:
        url = before.start_merge("company", 1, 2)
        client = connect(before)
        async with client:
            waiting = asyncio.create_task(client.tasks.wait(url, timeout=None))
            await asyncio.sleep(1.0)
            await before.__aexit__(None, None, None)
            async with restarting(before.url, after=180.0) as after:
                # The same seed gives the first task the same id.
                assert after.start_merge("company", 1, 2) == url
                assert (await waiting).status == "success"
                assert 181.0 <= now() <= 197.0
            await assert_idle(client)


async def test_an_outage_does_not_move_the_deadline(sandbox: Recorded, client: Client) -> None:
    """What was polled before the outage is in the timeout's error."""
    (url,) = sandbox.start(1, duration=10.0)
    asyncio.get_running_loop().call_at(1.0, lambda: sandbox.inject("503x*"))
    with pytest.raises(TaskTimeoutError) as caught:
        await client.tasks.wait(url, timeout=100.0)
    assert 100.0 <= now() <= 100.05
    assert caught.value.task is not None


async def test_simultaneous_failures_count_as_one(sandbox: Recorded, client: Client) -> None:
    """Failures at the same time count as one failure, so the pause after them is short."""
    sandbox.latency = 0.1
    sandbox.refuse_lists()
    urls = sandbox.start(100, duration=2.0)
    loop = asyncio.get_running_loop()
    loop.call_at(3.25, lambda: sandbox.inject(Fault.disconnect(), times=None))
    loop.call_at(3.65, sandbox.clear_faults)
    outcomes = await client.tasks.wait_many(urls, backoff=wait_fixed(3))
    assert len(outcomes.succeeded) == 100
    assert len([request for request in sandbox.log if 3.25 < request.at < 3.65]) >= 16
    assert now() <= 8.0


@pytest.mark.parametrize("seconds", [300.0, None])
async def test_a_server_that_was_never_reached_ends_the_waits(seconds: float | None) -> None:
    """Without a single answer, a wait ends with the connection error after a few attempts."""
    async with Sandbox() as closed:
        urls = [closed.start_merge("company", 2 * n + 1, 2 * n + 2) for n in range(20)]
    async with connect(closed) as client:
        with pytest.raises(ConnectError, match="Check base_url"):
            await client.tasks.wait(urls[0], timeout=seconds)
        assert 3.0 <= now() <= 4.5
        outcomes = await client.tasks.wait_many(urls, timeout=seconds)
        assert {type(outcome.error) for outcome in outcomes.unknown} == {ConnectError}
        assert len(outcomes.unknown) == 20
        assert client.quota.sent == 8
        assert now() <= 10.5
        await assert_idle(client)


async def test_a_server_that_never_answers_ends_the_waits_too(sandbox: Recorded) -> None:
    """A host that accepts connections and never answers ends the waits too."""
    (url,) = sandbox.start(1)
    sandbox.inject(Fault.hang(), times=None)
    async with connect(sandbox, request_timeout=10.0) as client:
        with pytest.raises(RequestTimeoutError):
            await client.tasks.wait(url, timeout=None)
        assert 40.0 <= now() <= 46.0


async def test_a_503_of_a_proxy_is_an_answer(sandbox: Recorded, client: Client) -> None:
    """Any answer shows that the address is right: then only the deadline ends a wait."""
    (url,) = sandbox.start(1)
    sandbox.inject(Fault.status(503, html=True), times=None)
    with pytest.raises(TaskTimeoutError, match="never seen"):
        await client.tasks.wait(url, timeout=1000.0)
    assert 1000.0 <= now() <= 1000.05
    assert sandbox.requests <= 255


async def test_failures_are_reset_by_an_answer(sandbox: Recorded, client: Client) -> None:
    """The first answer resets the failures: the next wait starts without a pause."""
    first, second = sandbox.start(2, duration=0.0)
    sandbox.inject("503", times=6)
    await client.tasks.wait(first, timeout=None)
    began = now()
    await client.tasks.wait(second)
    assert now() == began


async def test_a_get_during_an_outage_is_not_delayed(sandbox: Recorded, client: Client) -> None:
    """A call ignores the poller's pauses and has its usual number of attempts."""
    (url,) = sandbox.start(1, duration=math.inf)
    waiting = asyncio.create_task(client.tasks.wait(url, timeout=None))
    await asyncio.sleep(1.0)
    sandbox.inject(Fault.disconnect(), on="task", times=None)
    await asyncio.sleep(100.0)
    began = now()
    with pytest.raises(NetworkError):
        await client.tasks.get(url)
    assert now() - began <= 5.25
    waiting.cancel()


async def test_the_time_without_an_answer(sandbox: Recorded) -> None:
    """The time without an answer counts from the first unanswered request until an answer."""
    async with connect(sandbox, request_timeout=2.0) as client:
        assert client.silent_for == 0.0
        sandbox.inject(Fault.hang(), times=4)
        with pytest.raises(RequestTimeoutError):
            await client.companies.get_merge(1)
        assert client.silent_for == pytest.approx(now(), abs=0.1)
        with pytest.raises(NotFoundError):
            await client.companies.get_merge(1)
        assert client.silent_for == 0.0
    assert client.silent_for == 0.0
