"""Looking again and again: what is known is answered, and a task is looked at once an interval."""

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
from tests.servers import Recorded, assert_idle, connect, debug_off, now


UNKNOWN = "/v2/tasks/company-merges/00000000-0000-4000-8000-000000000000"


async def test_many_who_look_at_once_share_one_look(sandbox: Recorded, client: Client) -> None:
    """However many press reload, and however often, a task is looked at once an interval."""
    [url] = sandbox.start(1, duration=60.0)
    for _ in range(10):
        async with asyncio.TaskGroup() as group:
            sightings = [group.create_task(client.tasks.peek(url)) for _ in range(200)]
        assert {each.result().task.status for each in sightings} == {TaskStatus.IN_PROGRESS}
        await asyncio.sleep(0.5)
    polls = sandbox.polls(url)
    assert len(polls) == sandbox.requests == 3
    assert all(later - sooner >= 2.0 for sooner, later in itertools.pairwise(polls))


async def test_an_answer_tells_its_age(sandbox: Recorded, client: Client) -> None:
    """What is not older than the interval is answered at once, with how old it is."""
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


async def test_what_has_ended_is_not_looked_at_again(sandbox: Recorded, client: Client) -> None:
    """A task that has ended stays as it is, whatever it came to."""
    [good] = sandbox.start(1, duration=0.0)
    [bad] = sandbox.start(1, first=2, duration=0.0, reason="Locked")
    for _ in range(3):
        assert (await client.tasks.peek(good)).task.status == TaskStatus.SUCCESS
        assert (await client.tasks.peek(bad)).task.status == TaskStatus.FAILED
        await asyncio.sleep(100.0)
    assert sandbox.requests == 2


async def test_what_others_wait_for_is_known(sandbox: Recorded, client: Client) -> None:
    """A look costs nothing where a wait of the same client has news that is young enough."""
    [url] = sandbox.start(1, duration=60.0)
    async with client.tasks.watch([url], poll_interval=2.0):
        await asyncio.sleep(1.0)
        sighting = await client.tasks.peek(url)
        assert sighting.age == pytest.approx(1.0)
        assert sandbox.requests == 1
        await asyncio.sleep(0.5)
        assert (await client.tasks.peek(url, interval=1.0)).age == 0.0
        assert sandbox.requests == 2
        # What was asked for by somebody else is younger than what the wait has asked for.
        assert (await client.tasks.peek(url, interval=1.0)).age == 0.0


async def test_a_look_tells_those_who_wait(sandbox: Recorded, client: Client) -> None:
    """Whoever waits for the task gets the news of a look, too."""
    [url] = sandbox.start(1, duration=10.0)
    async with client.tasks.watch([url], poll_interval=30.0) as watch:
        await asyncio.sleep(11.0)
        _ = await client.tasks.peek(url)
        outcome = await anext(watch)
    assert outcome.waited == pytest.approx(11.0, abs=0.1)


async def test_a_task_that_is_not_there_is_not_asked_for_all_the_time(
    sandbox: Recorded, client: Client
) -> None:
    """A wrong URL costs one look an interval, too, and is then asked for again."""
    for _ in range(3):
        with pytest.raises(NotFoundError):
            await client.tasks.peek(sandbox.url + UNKNOWN)
        await asyncio.sleep(1.0)
    assert sandbox.requests == 2


async def test_who_leaves_disturbs_nobody(sandbox: Recorded, client: Client) -> None:
    """A handler that is cancelled leaves the look to the others; the last one takes it along."""
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


async def test_a_look_that_takes_too_long(sandbox: Recorded, client: Client) -> None:
    """What was seen before is answered with its age; what never was is a time-out."""
    [url, other] = sandbox.start(2, duration=600.0)
    _ = await client.tasks.peek(url)
    await asyncio.sleep(5.0)
    sandbox.inject(Fault.hang(), times=None)
    assert (await client.tasks.peek(url, timeout=3.0)).age == pytest.approx(8.0, abs=0.1)
    with pytest.raises(TaskTimeoutError):
        await client.tasks.peek(other, timeout=3.0)


async def test_closing_tells_who_looks(sandbox: Recorded) -> None:
    """Nobody hangs on when the client closes."""
    sandbox.inject(Fault.hang(), times=None)
    [url] = sandbox.start(1)
    async with connect(sandbox) as client:
        looking = asyncio.ensure_future(client.tasks.peek(url))
        await asyncio.sleep(1.0)
    with pytest.raises(ClosedError):
        await looking
    with pytest.raises(ClosedError):
        await client.tasks.peek(url)


async def test_wrong_urls_and_settings(sandbox: Recorded, client: Client) -> None:
    """What cannot be looked at is refused before anything is sent."""
    with pytest.raises(ConfigurationError):
        await client.tasks.peek("nonsense")
    with pytest.raises(ConfigurationError):
        await client.tasks.peek(sandbox.url + UNKNOWN, timeout=-1.0)
    assert sandbox.requests == 0


async def test_only_the_newest_are_remembered(
    sandbox: Recorded, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that runs for years does not keep all tasks that anybody ever looked at."""
    monkeypatch.setattr(peek_cache, "KEPT", 2)
    urls = sandbox.start(3, duration=0.0)
    for url in urls:
        _ = await client.tasks.peek(url)
    _ = await client.tasks.peek(urls[2])
    assert sandbox.requests == 3
    _ = await client.tasks.peek(urls[0])
    assert sandbox.requests == 4


@pytest.mark.slow
async def test_ten_thousand_handlers_cost_the_looks_of_their_tasks(
    sandbox: Recorded, client: Client
) -> None:
    """10,000 handlers that wait on 500 tasks cost no more than 500 waits do."""
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
    assert await wait_for(sandbox.start(500, first=501, duration=20.0), 10_000) <= alone
    await assert_idle(client)
