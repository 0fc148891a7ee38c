"""Tasks that are not there: not visible yet, answered without a body, or lost."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from aiotasks import (
    Client,
    DecodeError,
    IndeterminateMergeError,
    NotFoundError,
    OutcomeState,
)
from aiotasks._polling.missing import PATIENCE, PEEK_PATIENCE
from aiotasks._polling.started import VISIBILITY
from aiotasks.sandbox import Fault
from tests.servers import Recorded, assert_idle, connect, now


EMPTY = Fault.content(b"")
ABSENT = [Fault.status(404), EMPTY]
ABSENCES = ["404", "empty"]


@pytest.mark.parametrize("fault", ABSENT, ids=ABSENCES)
@pytest.mark.parametrize("is_own", [False, True])
@pytest.mark.parametrize("verb", ["wait", "wait_many", "peek"])
async def test_a_task_that_is_not_visible_yet(
    sandbox: Recorded, client: Client, fault: Fault, verb: str, *, is_own: bool
) -> None:
    """A task that is not there for two seconds is waited for, whoever started it."""
    sandbox.duration = 1.0
    url = await client.companies.merge(1, 2) if is_own else sandbox.start(1)[0]
    sandbox.inject(fault, on="task", times=None)
    asyncio.get_running_loop().call_at(2.0, sandbox.clear_faults)
    if verb == "wait":
        assert (await client.tasks.wait(url)).status == "success"
    elif verb == "wait_many":
        assert len((await client.tasks.wait_many([url])).succeeded) == 1
    else:
        assert (await client.tasks.peek(url)).task.status == "success"
    assert now() <= 5.5
    assert len(sandbox.polls(url)) <= 4
    await assert_idle(client)


@pytest.mark.parametrize("fault", ABSENT, ids=ABSENCES)
async def test_get_asks_again_for_a_task_that_was_just_started(
    sandbox: Recorded, client: Client, fault: Fault
) -> None:
    """A single read of an own task that is not visible yet is repeated for some seconds."""
    url = await client.companies.merge(1, 2)
    sandbox.inject(fault, on="task", times=None)
    asyncio.get_running_loop().call_at(2.0, sandbox.clear_faults)
    assert (await client.tasks.get(url)).id == url.rsplit("/", 1)[1]
    assert 2.0 <= now() <= 5.5


async def test_get_does_not_ask_for_ever(sandbox: Recorded, client: Client) -> None:
    """A read of an own task that stays missing raises its error; one of others does at once."""
    url, (other,) = await client.companies.merge(1, 2), sandbox.start(1, first=2)
    sandbox.inject(Fault.status(404), on="task", times=None)
    with pytest.raises(NotFoundError):
        await client.tasks.get(other)
    assert now() == 0.0
    with pytest.raises(NotFoundError):
        await client.tasks.get(url)
    assert 7.5 <= now() <= 11.25
    assert len(sandbox.polls(url)) == 5
    await asyncio.sleep(VISIBILITY)
    with pytest.raises(NotFoundError):
        await client.tasks.get(url)
    assert len(sandbox.polls(url)) == 6


async def test_the_patience_with_tasks_of_others(sandbox: Recorded, client: Client) -> None:
    """A task that stays missing is lost after ten seconds; a peek says so sooner."""
    (url,) = sandbox.start(1)
    sandbox.inject(Fault.status(404), on="task", times=None)
    with pytest.raises(NotFoundError):
        await client.tasks.peek(url)
    assert now() == PEEK_PATIENCE
    with pytest.raises(NotFoundError):
        await client.tasks.wait(url)
    assert now() == PEEK_PATIENCE + PATIENCE
    (outcome,) = await client.tasks.wait_many([url])
    assert (outcome.state, outcome.waited) == (OutcomeState.UNKNOWN, PATIENCE)
    await assert_idle(client)


async def test_a_task_that_was_seen_may_be_missing_for_a_while(
    sandbox: Recorded, client: Client
) -> None:
    """A replica that lags does not end the wait for a task that another one has shown."""
    (url,) = sandbox.start(1, duration=30.0)
    loop = asyncio.get_running_loop()
    loop.call_at(5.0, lambda: sandbox.inject(Fault.status(404), on="task", times=None))
    loop.call_at(12.0, sandbox.clear_faults)
    assert (await client.tasks.wait(url)).status == "success"


@pytest.mark.parametrize("operation", ["record", "merges", "suggestions"])
async def test_a_read_without_a_body_is_repeated(
    sandbox: Recorded, client: Client, operation: str
) -> None:
    """Other reads that are answered without a body are retried as after any failure."""
    sandbox.inject(EMPTY, on=operation, times=2)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "record": lambda: client.companies.get_record(1),
        "merges": lambda: anext(client.companies.merges(), None),
        "suggestions": lambda: anext(client.companies.suggestions(), None),
    }
    await calls[operation]()
    assert sandbox.calls[operation] == 3
    sandbox.inject(EMPTY, on=operation, times=None)
    with pytest.raises(DecodeError, match="no body"):
        await calls[operation]()
    assert sandbox.calls[operation] == 7


async def test_a_merge_without_a_body_is_not_repeated(sandbox: Recorded, client: Client) -> None:
    """A merge that is accepted without a body may have been started."""
    sandbox.inject(EMPTY, on="merge", times=None)
    with pytest.raises(IndeterminateMergeError):
        await client.companies.merge(1, 2)
    assert sandbox.calls["merge"] == 1


@pytest.mark.parametrize("fault", ABSENT, ids=ABSENCES)
async def test_empty_answers_now_and_then_cost_nothing(fault: Fault) -> None:
    """With answers that are missing by chance, each task gets its outcome."""
    async with Recorded(duration=(5.0, 40.0)) as sandbox, connect(sandbox) as client:
        urls = sandbox.start(200)
        for operation in ("task", "tasks"):
            if fault is EMPTY or operation == "task":
                sandbox.inject(fault, on=operation, times=None, share=0.1)
        outcomes = await client.tasks.wait_many(urls, timeout=None)
        assert len(outcomes.succeeded) == 200


@pytest.mark.parametrize("count", [3, 200, 600])
@pytest.mark.parametrize("history", [0, 1000])
@pytest.mark.parametrize("was_seen", [False, True])
async def test_tasks_that_are_lost_with_their_server(
    count: int, history: int, *, was_seen: bool
) -> None:
    """Tasks that their server has lost are looked for in its list, and cost a GET each at most."""
    async with Recorded(duration=600.0) as sandbox, connect(sandbox) as client:
        urls = [await client.companies.merge(2 * n + 1, 2 * n + 2) for n in range(count)]
        if not was_seen:
            lose(sandbox, history)
        wait = asyncio.create_task(client.tasks.wait_many(urls, timeout=None))
        if was_seen:
            await asyncio.sleep(VISIBILITY + 60.0)
            lose(sandbox, history)
        before = Counter(sandbox.calls)
        began = now()
        outcomes = await wait
        assert {type(outcome.error) for outcome in outcomes} == {NotFoundError}
        assert now() - began <= VISIBILITY + PATIENCE + 33.0
        calls = Counter(sandbox.calls) - before
        assert all(len(sandbox.polls(url)) <= 3 for url in urls)
        assert calls["task"] <= count + 5
        assert calls["tasks"] <= 15 + count / 50 + history / 50
        await assert_idle(client)


def lose(sandbox: Recorded, history: int) -> None:
    """Let the server forget all tasks, and have others that ended long ago."""
    sandbox.forget()
    sandbox.start(history, first=1000, duration=0.0)
