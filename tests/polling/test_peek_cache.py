"""Repeated peeks return a known state with its age, and poll once per interval."""

import asyncio
import itertools

import pytest

from aiotasks import (
    Client,
    ClosedError,
    ConfigurationError,
    NotFoundError,
    TaskStatus,
    TaskTimeoutError,
)
from aiotasks._polling import peek_cache
from aiotasks.sandbox import Fault
from tests.profiles import is_thorough
from tests.servers import Recorded, assert_idle, connect, debug_off, now


HANDLERS = 10_000 if is_thorough() else 500


UNKNOWN = "/v2/tasks/company-merges/00000000-0000-4000-8000-000000000000"


async def test_many_simultaneous_peeks_share_one_poll(sandbox: Recorded, client: Client) -> None:
    """However many handlers peek, and however often, a task is polled once per interval."""
    [url] = sandbox.start(1, duration=60.0)
    for _ in range(10):
        async with asyncio.TaskGroup() as group:
            snapshots = [group.create_task(client.tasks.peek(url)) for _ in range(200)]
        assert {each.result().task.status for each in snapshots} == {TaskStatus.IN_PROGRESS}
        await asyncio.sleep(0.5)
    polls = sandbox.polls(url)
    assert len(polls) == sandbox.requests == 3
    assert all(later - sooner >= 2.0 for sooner, later in itertools.pairwise(polls))


async def test_a_snapshot_has_its_age(sandbox: Recorded, client: Client) -> None:
    """A state younger than the interval is returned immediately, with its age."""
    sandbox.latency = 0.2
    [url] = sandbox.start(1, duration=60.0)
    first = await client.tasks.peek(url, interval=5.0)
    assert first.age == 0.0
    assert now() == pytest.approx(0.2)
    await asyncio.sleep(3.0)
    later = await client.tasks.peek(url, interval=5.0)
    assert later.task == first.task
    assert later.age == pytest.approx(3.0)
    assert sandbox.requests == 1


async def test_a_task_that_has_ended_is_not_polled_again(sandbox: Recorded, client: Client) -> None:
    """A task that has ended is not polled again, whatever its outcome."""
    [good] = sandbox.start(1, duration=0.0)
    [bad] = sandbox.start(1, first=2, duration=0.0, reason="Locked")
    for _ in range(3):
        assert (await client.tasks.peek(good)).task.status == TaskStatus.SUCCESS
        assert (await client.tasks.peek(bad)).task.status == TaskStatus.FAILED
        await asyncio.sleep(100.0)
    assert sandbox.requests == 2


async def test_a_peek_uses_the_polls_of_waits(sandbox: Recorded, client: Client) -> None:
    """A peek costs nothing where a wait of the same client has polled within the interval."""
    [url] = sandbox.start(1, duration=60.0)
    async with client.tasks.watch([url], poll_interval=2.0):
        await asyncio.sleep(1.0)
        snapshot = await client.tasks.peek(url)
        assert snapshot.age == pytest.approx(1.0)
        assert sandbox.requests == 1
        await asyncio.sleep(0.5)
        assert (await client.tasks.peek(url, interval=1.0)).age == 0.0
        assert sandbox.requests == 2
        # The answer to a peek is also younger than the last poll of the wait.
        assert (await client.tasks.peek(url, interval=1.0)).age == 0.0


async def test_a_wait_uses_the_polls_of_peeks(sandbox: Recorded, client: Client) -> None:
    """A waiter of the task also gets the answer to a peek."""
    [url] = sandbox.start(1, duration=10.0)
    async with client.tasks.watch([url], poll_interval=30.0) as watch:
        await asyncio.sleep(11.0)
        _ = await client.tasks.peek(url)
        outcome = await anext(watch)
    assert outcome.waited == pytest.approx(11.0, abs=0.1)


async def test_an_unknown_task_is_polled_once_per_interval(
    sandbox: Recorded, client: Client
) -> None:
    """An unknown task may not be visible yet: it is polled for three seconds, once an interval."""
    for _ in range(3):
        with pytest.raises(NotFoundError):
            await client.tasks.peek(sandbox.url + UNKNOWN)
        await asyncio.sleep(1.0)
    assert [round(at) for at in sandbox.times] == [0, 2, 3, 5, 7, 8]


async def test_a_cancelled_peek_does_not_affect_the_others(
    sandbox: Recorded, client: Client
) -> None:
    """A poll goes on if one of its callers is cancelled, and is cancelled with the last one."""
    sandbox.latency = 1.0
    [url] = sandbox.start(1, duration=60.0)
    first, second = (asyncio.ensure_future(client.tasks.peek(url)) for _ in range(2))
    await asyncio.sleep(0.5)
    first.cancel()
    assert (await second).task.status == TaskStatus.IN_PROGRESS
    assert first.cancelled()
    await asyncio.sleep(10.0)
    last = asyncio.ensure_future(client.tasks.peek(url))
    await asyncio.sleep(0.5)
    last.cancel()
    await asyncio.sleep(0.1)
    await assert_idle(client)
    assert (await client.tasks.peek(url)).age == 0.0


async def test_a_poll_that_takes_too_long(sandbox: Recorded, client: Client) -> None:
    """If a poll takes too long, a peek returns the known state or times out."""
    [url, other] = sandbox.start(2, duration=600.0)
    _ = await client.tasks.peek(url)
    await asyncio.sleep(5.0)
    sandbox.inject(Fault.hang(), times=None)
    assert (await client.tasks.peek(url, timeout=3.0)).age == pytest.approx(8.0, abs=0.1)
    with pytest.raises(TaskTimeoutError):
        await client.tasks.peek(other, timeout=3.0)


async def test_closing_ends_pending_peeks(sandbox: Recorded) -> None:
    """A pending peek raises a ClosedError when the client closes."""
    sandbox.inject(Fault.hang(), times=None)
    [url] = sandbox.start(1)
    async with connect(sandbox) as client:
        peeking = asyncio.ensure_future(client.tasks.peek(url))
        await asyncio.sleep(1.0)
    with pytest.raises(ClosedError):
        await peeking
    with pytest.raises(ClosedError):
        await client.tasks.peek(url)


async def test_invalid_urls_and_settings(sandbox: Recorded, client: Client) -> None:
    """An invalid URL or setting is refused before anything is sent."""
    with pytest.raises(ConfigurationError):
        await client.tasks.peek("nonsense")
    with pytest.raises(ConfigurationError):
        await client.tasks.peek(sandbox.url + UNKNOWN, timeout=-1.0)
    assert sandbox.requests == 0


@pytest.mark.plain
async def test_only_the_newest_are_kept(
    sandbox: Recorded, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that runs for years does not keep all tasks that it ever polled."""
    monkeypatch.setattr(peek_cache, "KEPT", 2)
    urls = sandbox.start(3, duration=0.0)
    for url in urls:
        _ = await client.tasks.peek(url)
    _ = await client.tasks.peek(urls[2])
    assert sandbox.requests == 3
    _ = await client.tasks.peek(urls[0])
    assert sandbox.requests == 4


@pytest.mark.slow
async def test_many_handlers_cost_the_polls_of_their_tasks(
    sandbox: Recorded, client: Client
) -> None:
    """Thousands of handlers that wait for 500 tasks cost no more than 500 waits do."""
    debug_off()

    async def wait_for(urls: list[str], handlers: int) -> int:
        before = sandbox.requests
        async with asyncio.TaskGroup() as group:
            waits = [
                group.create_task(client.tasks.wait(urls[number % len(urls)]))
                for number in range(handlers)
            ]
        assert {wait.result().status for wait in waits} == {TaskStatus.SUCCESS}
        return sandbox.requests - before

    alone = await wait_for(sandbox.start(500, duration=20.0), 500)
    assert await wait_for(sandbox.start(500, first=501, duration=20.0), HANDLERS) <= alone
    await assert_idle(client)
