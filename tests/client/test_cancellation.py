"""Cancellation: at every stage it is raised unchanged, and leaves nothing behind."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import aiohappyeyeballs
import aiohttp
import pytest
from tenacity import wait_fixed

from aiotasks import Client, TaskFailedError
from aiotasks.sandbox import Fault
from tests.servers import (
    Recorded,
    assert_idle,
    client_tasks,
    connect,
    debug_off,
    host,
    now,
    saying,
)


Patch = pytest.MonkeyPatch
Stage = Callable[[Recorded, Client, Patch], Awaitable[object]]
Call = Callable[[Client, str], Awaitable[object]]


async def waiting_for_a_slot(sandbox: Recorded, client: Client, _patch: Patch) -> None:
    sandbox.set_quota(1)
    await client.tasks.get(sandbox.task_urls("company")[0])


async def connecting(_sandbox: Recorded, _client: Client, patch: Patch) -> None:
    async def never(*_arguments: Any, **_settings: Any) -> None:
        await asyncio.get_running_loop().create_future()

    patch.setattr(aiohappyeyeballs, "start_connection", never)


async def waiting_for_headers(sandbox: Recorded, _client: Client, _patch: Patch) -> None:
    sandbox.inject(Fault.hang())


async def waiting_for_headers_on_a_used_connection(
    sandbox: Recorded, client: Client, _patch: Patch
) -> None:
    await client.tasks.get(sandbox.task_urls("company")[0])
    sandbox.inject(Fault.hang())


async def pausing_after_a_failure(sandbox: Recorded, _client: Client, _patch: Patch) -> None:
    sandbox.inject(Fault.status(503), on="task", times=2)
    sandbox.inject(Fault.status(503), on="tasks", times=2)
    sandbox.inject(Fault.rate_limit(cause="concurrency"), on="merge")


async def waiting_out_a_refusal(sandbox: Recorded, _client: Client, _patch: Patch) -> None:
    sandbox.inject(Fault.rate_limit(cause="concurrency", retry_after=60))


STAGES: list[Stage] = [
    waiting_for_a_slot,
    connecting,
    waiting_for_headers,
    waiting_for_headers_on_a_used_connection,
    pausing_after_a_failure,
    waiting_out_a_refusal,
]

CALLS: dict[str, Call] = {
    "get": lambda client, url: client.tasks.get(url),
    "wait": lambda client, url: client.tasks.wait(url),
    "wait_many": lambda client, url: client.tasks.wait_many([url, url]),
    "merge": lambda client, _url: client.persons.merge(5, 6),
    "list": lambda client, _url: anext(aiter(client.tasks.list("company"))),
}


async def cancel(call: Awaitable[object], *, after: float) -> None:
    task = asyncio.ensure_future(call)
    await asyncio.sleep(after)
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("stage", STAGES)
async def test_a_call_is_cancelled_at_any_stage(
    sandbox: Recorded, client: Client, monkeypatch: Patch, stage: Stage, call: Call
) -> None:
    """Cancelling ends a call immediately in whatever stage it is, and the client stays usable."""
    (url,) = sandbox.start(1, duration=math.inf)
    with monkeypatch.context() as patch:
        await stage(sandbox, client, patch)
        await cancel(call(client, url), after=0.3)
    assert now() == pytest.approx(0.3)
    sandbox.clear_faults()
    sandbox.set_quota(0)
    await client.tasks.get(url)
    await assert_idle(client)
    began = now()
    await client.tasks.wait_many([url], timeout=10.0)
    assert sandbox.polls(url)[-1] == pytest.approx(began + 10.0, abs=0.05)


@pytest.mark.parametrize("call", ["get", "wait", "wait_many", "merge"])
async def test_a_call_is_cancelled_while_its_answer_arrives(call: str) -> None:
    """A connection with half an answer is closed when its call is cancelled."""
    half = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    async with host(half) as server, Client("key", base_url=server.url) as client:
        url = f"{server.url}/v2/tasks/company-merges/a"
        await cancel(CALLS[call](client, url), after=1.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await client.tasks.get(url)
        await assert_idle(client)
        assert server.requests == server.connections == 2


async def test_a_wait_is_cancelled_between_polls(sandbox: Recorded, client: Client) -> None:
    """A cancelled wait leaves no timer that would poll again."""
    urls = sandbox.start(20, duration=math.inf)
    await cancel(client.tasks.wait_many(urls, backoff=wait_fixed(2)), after=5.0)
    await assert_idle(client)
    assert client._opened is not None
    assert client._opened.poller._timer is None
    before = sandbox.requests
    await asyncio.sleep(100.0)
    assert sandbox.requests == before


@pytest.mark.parametrize("is_requested", [False, True], ids=["collecting", "requesting"])
async def test_a_wait_is_cancelled_before_the_reason_arrives(
    sandbox: Recorded, client: Client, is_requested: bool
) -> None:
    """A failure without a waiter gets no reason, and the next failure gets its own."""
    first, second = sandbox.start(2, duration=0.0, reason="Locked")
    (running,) = sandbox.start(1, first=3, duration=math.inf)
    sandbox.latency = 3.0
    await cancel(
        client.tasks.wait_many([first, running], timeout=None), after=14.0 if is_requested else 4.0
    )
    assert sandbox.calls["merges"] == is_requested
    with pytest.raises(TaskFailedError, match="Locked"):
        await client.tasks.wait(second)
    await assert_idle(client)


async def test_one_of_two_waits_is_cancelled_during_a_poll(
    sandbox: Recorded, client: Client
) -> None:
    """A poll goes on when only one of its two waiters is cancelled."""
    (url,) = sandbox.start(1, duration=0.0)
    sandbox.latency = 2.0
    remaining = asyncio.create_task(client.tasks.wait(url))
    await cancel(client.tasks.wait(url), after=1.0)
    await remaining
    assert now() == 2.0
    assert sandbox.requests == 1


async def test_a_poll_without_waiters_is_cancelled(sandbox: Recorded, client: Client) -> None:
    """A request ends with its last waiter, and its slot is free immediately."""
    (url,) = sandbox.start(1)
    sandbox.inject(Fault.hang())
    await cancel(client.tasks.wait(url), after=5.0)
    await client.tasks.get(url)
    assert now() == 5.0
    assert sandbox.in_flight == 0
    await assert_idle(client)


async def test_a_wait_at_the_same_time_as_a_cancelled_one(
    sandbox: Recorded, client: Client
) -> None:
    """A waiter that is added while the last one is cancelled gets a poll of its own."""
    (url,) = sandbox.start(1, duration=0.0)
    sandbox.inject(Fault.hang())
    first = asyncio.create_task(client.tasks.wait(url))
    await asyncio.sleep(1.0)
    first.cancel()
    second = asyncio.create_task(client.tasks.wait(url))
    assert (await second).status == "success"
    assert now() <= 1.1
    assert first.cancelled()
    await assert_idle(client)


async def steps(count: int) -> None:
    """Let the loop run some iterations; no time passes."""
    for _ in range(count):
        await asyncio.sleep(0)


async def work(sandbox: Recorded, client: Client) -> None:
    await client.persons.merge(3, 4)
    # A task that this client started is polled later; no time is to pass here.
    (url,) = sandbox.start(1)
    await client.tasks.wait(url)
    await client.tasks.wait_many([url, url, "nonsense"])
    with pytest.raises(TaskFailedError):
        await client.tasks.wait(sandbox.start_merge("person", 1, 9999))
    assert len([task async for task in client.tasks.list("company")]) == 1


async def is_cancelled(call: Awaitable[None], *, after: int) -> bool:
    task = asyncio.ensure_future(call)
    await steps(after)
    task.cancel()
    await asyncio.wait([task])
    return task.cancelled() or task.result() is not None


async def test_cancelled_at_every_step_of_the_loop() -> None:
    """Cancelling at no moment leaves a task, a slot, a record or a connection behind."""
    debug_off()
    step, was_cancelled = 0, True
    while was_cancelled:
        async with Recorded(duration=0.0) as sandbox, connect(sandbox) as client:
            was_cancelled = await is_cancelled(work(sandbox, client), after=step)
            (url,) = sandbox.start(1, first=2)
            assert (await client.tasks.wait(url)).status == "success"
            await client.tasks.get(url)
            await assert_idle(client)
        step += 1
    assert step > 30
    assert now() == 0.0


async def test_a_scope_is_cancelled_at_every_step_of_the_loop() -> None:
    """From entering the scope to leaving it, cancelling at no moment leaves anything behind."""
    debug_off()
    step = 0
    async with Recorded(duration=0.0) as sandbox:
        while await is_cancelled(work_in_a_fresh_scope(sandbox), after=step):
            assert client_tasks() == []
            step += 1
    assert step > 30


async def work_in_a_fresh_scope(sandbox: Recorded) -> None:
    (good,) = sandbox.start(1, duration=0.0)
    (bad,) = sandbox.start(1, duration=0.0, reason="Locked")
    client = connect(sandbox)
    session = None
    try:
        async with client:
            assert client._opened is not None
            session = client._opened.session
            await client.tasks.wait_many([good, bad])
            await client.tasks.get(good)
    finally:
        assert session is None or session.closed
        assert client.quota.in_flight == 0


async def test_leaving_is_cancelled(sandbox: Recorded, monkeypatch: Patch) -> None:
    """If leaving is cancelled while the session closes, both are closed in the end."""
    closing = asyncio.Event()
    close = aiohttp.ClientSession.close

    async def close_slowly(session: aiohttp.ClientSession) -> None:
        await close(session)
        closing.set()
        await asyncio.sleep(10.0)

    monkeypatch.setattr(aiohttp.ClientSession, "close", close_slowly)
    client = connect(sandbox)

    async def use() -> None:
        async with client:
            await client.tasks.get(sandbox.start(1)[0])

    using = asyncio.create_task(use())
    await closing.wait()
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    assert now() == 0.0
    assert client_tasks() == []


async def test_a_cancelled_body_leaves_the_scope(sandbox: Recorded) -> None:
    """Cancelling the task that holds the scope ends the waits of other tasks in it."""
    (url,) = sandbox.start(1, duration=math.inf)

    async def use() -> None:
        async with connect(sandbox) as client, asyncio.TaskGroup() as group:
            group.create_task(client.tasks.wait(url))
            group.create_task(client.tasks.wait_many([url]))

    await cancel(use(), after=3.0)
    assert client_tasks() == []
    assert now() == 3.0


async def test_a_failing_sibling_ends_the_scope_with_a_group(sandbox: Recorded) -> None:
    """The caller's own TaskGroup works as usual: its error cancels the waits in it."""
    (url,) = sandbox.start(1, duration=math.inf)

    async def fail() -> None:
        await asyncio.sleep(2.0)
        message = "mine"
        raise LookupError(message)

    async def use() -> None:
        async with connect(sandbox) as client, asyncio.TaskGroup() as group:
            group.create_task(client.tasks.wait(url))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        await use()
    assert [type(error) for error in caught.value.exceptions] == [LookupError]
    assert client_tasks() == []
