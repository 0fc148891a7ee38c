"""Lists that are stale, endless or unreadable, and GETs that are always refused: all are bounded."""

import asyncio
import logging
import math

import pytest
from tenacity import wait_fixed

from aiotasks import Client, DecodeError, OutcomeState
from aiotasks._http.transport import MAX_EMPTY_PAGES
from aiotasks.sandbox import Fault
from tests.servers import Recorded, assert_idle, host, now, saying


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "aiotasks"]


def show_as_running(sandbox: Recorded, urls: list[str]) -> None:
    """Let all lists show these tasks in progress from now on."""
    rows = ",".join(f'{{"id": "{url.rsplit("/", 1)[1]}", "status": "in-progress"}}' for url in urls)
    body = f'{{"data": [{rows}], "pagination": {{"nextUrl": null}}}}'
    sandbox.inject(Fault.content(body.encode()), on="tasks", times=None)


async def test_a_list_that_is_stale_for_ever(
    sandbox: Recorded, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """A list that shows ended tasks in progress is found out by GETs now and then, and dropped."""
    caplog.set_level(logging.INFO, "aiotasks")
    urls = sandbox.start(50, duration=100.0)
    show_as_running(sandbox, urls)
    outcomes = await client.tasks.wait_many(urls, timeout=None)
    assert len(outcomes.succeeded) == 50
    assert now() <= 100.0 + 180.0 + 66.0
    assert sandbox.calls["task"] <= 55
    assert sandbox.calls["tasks"] <= 20
    assert logged(caplog)[0] == "The list of company merge tasks is stale: polling each task"
    await assert_idle(client)


async def test_a_single_stale_row(sandbox: Recorded, client: Client) -> None:
    """A task that only the list shows in progress is asked for itself after five minutes."""
    stuck, *urls = sandbox.start(2, duration=1.0) + sandbox.start(6, first=3, duration=(1, 900))
    task_id = stuck.rsplit("/", 1)[1]
    sandbox.set_status(stuck, "in-progress")
    watch = client.tasks.watch([stuck, *urls], timeout=None)
    asyncio.get_running_loop().call_at(100.0, sandbox.set_status, stuck, None)
    async with watch:
        outcomes = {outcome.url: outcome async for outcome in watch}
    assert outcomes[stuck].state is OutcomeState.SUCCESS
    assert len(task_id) == 36


async def test_long_tasks_cost_hardly_any_gets(sandbox: Recorded, client: Client) -> None:
    """While a list tells the truth, checks of it cost less than a GET in ten seconds."""
    urls = sandbox.start(100, duration=3000.0)
    outcomes = await client.tasks.wait_many(urls, timeout=None)
    assert len(outcomes.succeeded) == 100
    assert sandbox.calls["task"] <= 300
    assert sandbox.calls["tasks"] <= 110


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("others", [0, 5])
async def test_gets_that_are_always_refused(
    sandbox: Recorded, client: Client, caplog: pytest.LogCaptureFixture, count: int, others: int
) -> None:
    """Where GETs are refused and lists are not, tasks are polled by the list, with a GET now and then."""
    caplog.set_level(logging.WARNING, "aiotasks")
    urls = sandbox.start(count, duration=1000.0)
    sandbox.inject(Fault.rate_limit(cause="concurrency"), on="task", times=None)
    # Another wait may have pages polled all the time.
    shared = sandbox.start(others, first=10, duration=math.inf)
    background = asyncio.create_task(
        client.tasks.wait_many(shared, timeout=None, backoff=wait_fixed(5))
    )
    waits = [client.tasks.wait(url, timeout=None) for url in urls]
    tasks = await asyncio.gather(*waits)
    assert {task.status for task in tasks} == {"success"}
    assert now() <= 1040.0
    assert sandbox.calls["task"] <= 30
    assert logged(caplog)[0] == (
        "Polls of single company merge tasks are refused: polling them by the list"
    )
    background.cancel()


async def test_gets_are_tried_again(sandbox: Recorded, client: Client) -> None:
    """When GETs are answered again after a pause, they are used again."""
    urls = sandbox.start(5, duration=math.inf)
    (url,) = sandbox.start(1, first=10, duration=500.0)
    sandbox.inject(Fault.rate_limit(cause="concurrency"), on="task", times=6)
    background = asyncio.create_task(
        client.tasks.wait_many(urls, timeout=None, backoff=wait_fixed(5))
    )
    asyncio.get_running_loop().call_at(300.0, background.cancel)
    await client.tasks.wait(url, timeout=None)
    assert now() <= 533.0
    assert sandbox.polls(url)[-1] == pytest.approx(now())


async def test_gets_do_not_pause_while_lists_are_refused_too(
    sandbox: Recorded, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """While everything is refused, no way of polling is preferred, and nothing is said of it."""
    caplog.set_level(logging.WARNING, "aiotasks")
    sandbox.inject(Fault.rate_limit(cause="concurrency"), on=None, times=40)
    (url,) = sandbox.start(1, duration=5.0)
    await client.tasks.wait(url, timeout=None)
    assert logged(caplog) == []
    await assert_idle(client)


ENDLESS = b'{"data": [], "pagination": {"nextUrl": "%s/v2/tasks/company-merges?cursor=%d"}}'


async def test_a_list_without_an_end(sandbox: Recorded, client: Client) -> None:
    """A list of empty pages with ever new links is given up after some, and a wait needs one."""

    async def speak(writer: asyncio.StreamWriter) -> None:
        body = ENDLESS % (server.url.encode(), server.requests)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body) + body)

    async with host(speak) as server, Client("key", base_url=server.url) as endless:
        with pytest.raises(DecodeError, match="21 empty pages in a row"):
            _ = [task async for task in endless.tasks.list("company")]
        assert server.requests == MAX_EMPTY_PAGES + 1
        urls = [f"{server.url}/v2/tasks/company-merges/{name}" for name in "abc"]
        outcomes = await endless.tasks.wait_many(urls, timeout=30.0)
        assert len(outcomes.unknown) == 3
        assert server.requests <= MAX_EMPTY_PAGES + 30


async def test_a_task_under_the_id_of_another(sandbox: Recorded) -> None:
    """An answer about another task is not taken for the one that was asked for."""
    body = b'{"id": "b", "status": "success"}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    async with (
        host(saying(head % len(body) + body)) as server,
        Client("key", base_url=server.url) as client,
    ):
        url = f"{server.url}/v2/tasks/company-merges/a"
        with pytest.raises(DecodeError, match="it is the task 'b', not a"):
            await client.tasks.get(url)
        (outcome,) = await client.tasks.wait_many([url])
        assert outcome.state is OutcomeState.UNKNOWN
        assert isinstance(outcome.error, DecodeError)
        assert server.requests == 3
        upper = await client.tasks.get(url[:-1] + "B")
        assert upper.status == "success"


@pytest.mark.parametrize("fault", [Fault.malformed(), Fault.content(b"")], ids=["broken", "empty"])
async def test_an_unreadable_page_is_read_again(
    sandbox: Recorded, client: Client, fault: Fault
) -> None:
    """One page that cannot be read costs one more call, and does not suspend the list."""
    urls = sandbox.start(50, duration=5.0)
    sandbox.inject(fault, on="tasks")
    outcomes = await client.tasks.wait_many(urls)
    assert len(outcomes.succeeded) == 50
    assert sandbox.calls == {"tasks": 4}
    sandbox.inject(fault, on="tasks")
    assert len([task async for task in client.tasks.list("company")]) == 50


async def test_a_list_that_stays_unreadable_is_suspended(sandbox: Recorded, client: Client) -> None:
    """A page that cannot be read twice in a row suspends its list."""
    urls = sandbox.start(5, duration=5.0)
    sandbox.inject(Fault.malformed(), on="tasks", times=None)
    outcomes = await client.tasks.wait_many(urls)
    assert len(outcomes.succeeded) == 5
    assert sandbox.calls["tasks"] == 2
