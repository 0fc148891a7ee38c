"""Tasks that a page has shown as ended: a wait right after it needs no poll."""

import asyncio

import pytest

from aiotasks import OutcomeState, TaskFailedError
from aiotasks._http.urls import TaskRef
from aiotasks._polling.ended_tasks import MAX_ENDED, EndedTasks
from aiotasks.models import MergeTask, TaskStatus
from tests.servers import Recorded, assert_idle, connect


pytestmark = pytest.mark.plain


async def test_a_wait_right_after_a_page() -> None:
    """What a page has shown of tasks that nobody waited for answers a wait for one of them."""
    async with Recorded(quota=0, duration=0.0) as sandbox, connect(sandbox) as client:
        urls = sandbox.start(60)
        _ = await client.tasks.wait_many(urls[:30])
        calls = sandbox.requests
        outcomes = await client.tasks.wait_many(urls[30:])
        assert len(outcomes.succeeded) == 30
        assert (await client.tasks.wait(urls[45])).status == "success"
        assert (await client.tasks.peek(urls[50])).task.status == "success"
        assert sandbox.requests == calls
        await assert_idle(client)


async def test_after_a_minute_it_is_asked_for() -> None:
    """What was shown more than a minute ago is asked for again."""
    async with Recorded(quota=0, duration=0.0) as sandbox, connect(sandbox) as client:
        urls = sandbox.start(60)
        _ = await client.tasks.wait_many(urls[:30])
        await asyncio.sleep(61.0)
        calls = sandbox.requests
        _ = await client.tasks.wait(urls[45])
        assert sandbox.requests == calls + 1


async def test_what_was_in_progress_is_asked_for() -> None:
    """A task that a page has shown in progress may have ended since, so a wait polls it."""
    async with Recorded(quota=0, duration=0.0) as sandbox, connect(sandbox) as client:
        running = sandbox.start_merge("company", 901, 902, duration=0.5)
        _ = await client.tasks.wait_many(sandbox.start(30))
        await asyncio.sleep(1.0)
        calls = sandbox.requests
        _ = await client.tasks.wait(running)
        assert sandbox.requests == calls + 1


async def test_a_failure_comes_with_its_reason() -> None:
    """The reason of a failure that a page has shown is fetched, and nothing else."""
    async with Recorded(quota=0, duration=0.0) as sandbox, connect(sandbox) as client:
        failed = sandbox.start_merge("company", 901, 902, outcome="failed", reason="No luck")
        _ = await client.tasks.wait_many(sandbox.start(30))
        calls = dict(sandbox.calls)
        with pytest.raises(TaskFailedError, match="No luck"):
            _ = await client.tasks.wait(failed)
        assert sandbox.calls == calls | {"merges": 1}


async def test_a_watch_takes_it() -> None:
    """A watch that is given such a task has its outcome immediately, and goes on."""
    async with Recorded(quota=0, duration=0.0) as sandbox, connect(sandbox) as client:
        urls = sandbox.start(60)
        _ = await client.tasks.wait_many(urls[:30])
        async with client.tasks.watch() as watch:
            watch.add(urls[40])
            assert (await anext(watch)).state is OutcomeState.SUCCESS
            watch.add(sandbox.start_merge("company", 901, 902, duration=0.0))
            watch.close()
            assert [outcome.state async for outcome in watch] == [OutcomeState.SUCCESS]


def test_the_oldest_are_forgotten() -> None:
    """At most five thousand ends are remembered, the newest; one that is shown again is new."""
    ended = EndedTasks()
    for number in range(MAX_ENDED):
        ended.note("person", MergeTask(id=str(number), status=TaskStatus.SUCCESS), 0.0)
    ended.note("person", MergeTask(id="0", status=TaskStatus.SUCCESS), 50.0)
    ended.note("person", MergeTask(id="new", status=TaskStatus.FAILED), 50.0)
    ended.note("person", MergeTask(id="other", status=TaskStatus.IN_PROGRESS), 50.0)
    assert len(ended) == MAX_ENDED
    found = [ended.find(TaskRef("person", each), 70.0) for each in ("0", "1", "2", "new", "other")]
    assert [task is not None for task in found] == [True, False, False, True, False]
