"""Polling by pages: a hundred tasks per call, and no task that a list does not show is lost."""

import asyncio
import logging
import math
from typing import Any

import pytest
from tenacity import wait_fixed

from aiotasks import OutcomeState
from aiotasks.client import Client
from aiotasks.sandbox import Fault
from tests.servers import Recorded, assert_idle, connect, debug_off, now


pytestmark = pytest.mark.plain
FIRST = "/v2/tasks/company-merges?limit=100"


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "aiotasks"]


async def merge_all(client: Client, count: int, *, first: int = 1) -> list[str]:
    return [
        await client.companies.merge(2 * number - 1, 2 * number)
        for number in range(first, first + count)
    ]


@pytest.mark.parametrize("latency", [0.0, 0.1])
async def test_a_thousand_tasks_cost_ten_calls_a_round(latency: float) -> None:
    """Tasks that are due together are polled by the hundred, round after round."""
    debug_off()
    async with (
        Recorded(quota=0, latency=latency, duration=17.0) as sandbox,
        connect(sandbox) as client,
    ):
        outcomes = await client.tasks.wait_many(sandbox.start(1000), backoff=wait_fixed(5))
        assert len(outcomes.succeeded) == 1000
        assert sandbox.calls == {"tasks": 50}
        assert {outcome.polls for outcome in outcomes} == {5}
        assert 20.0 <= now() <= 20.0 + 5 * 10 * latency
        await assert_idle(client)


async def test_both_kinds_are_polled_by_pages_concurrently() -> None:
    """The lists of companies and of persons are polled concurrently."""
    async with Recorded(quota=0, latency=1.0, duration=0.0) as sandbox, connect(sandbox) as client:
        urls = sandbox.start(50)
        urls += [sandbox.start_merge("person", 2 * n + 1, 2 * n + 2) for n in range(50)]
        await client.tasks.get(urls[0])
        began = now()
        outcomes = await client.tasks.wait_many(urls)
        assert len(outcomes.succeeded) == 100
        assert now() == began + 1.0
        assert sandbox.calls == {"task": 1, "tasks": 2}


async def test_separate_waits_share_pages(sandbox: Recorded, client: Client) -> None:
    """A hundred single waits for different tasks cost one call per round."""
    urls = sandbox.start(100, duration=9.0)
    waits = [client.tasks.wait(url, backoff=wait_fixed(3)) for url in urls]
    tasks = await asyncio.gather(*waits)
    assert {task.status for task in tasks} == {"success"}
    assert sandbox.times == [0.0, 3.0, 6.0, 9.0]
    assert sandbox.calls == {"tasks": 4}


async def test_a_page_counts_for_tasks_that_were_not_due(sandbox: Recorded, client: Client) -> None:
    """A page also counts for a task that was not due: it ends its wait or restarts its interval."""
    ended, running, *urls = sandbox.start(4, duration=4.0)
    sandbox.set_status(running, "pending")
    patient = asyncio.create_task(
        client.tasks.wait_many([ended, running], timeout=30.0, backoff=wait_fixed(7))
    )
    await client.tasks.wait_many(urls, backoff=wait_fixed(5))
    assert now() == 5.0
    outcomes = await patient
    assert outcomes[0].waited == 5.0
    assert sandbox.times == [0.0, 5.0, 12.0, 19.0, 26.0, 30.0]


async def test_tasks_of_a_page_stay_together(sandbox: Recorded, client: Client) -> None:
    """Tasks of one page become due together, so that jitter never makes two calls of one."""
    outcomes = await client.tasks.wait_many(sandbox.start(100, duration=100.0))
    assert len(outcomes.succeeded) == 100
    assert len({outcome.waited for outcome in outcomes}) == 1
    assert sandbox.calls == {"tasks": outcomes[0].polls}


async def test_a_single_task_is_polled_by_get(sandbox: Recorded, client: Client) -> None:
    """Where only one task is due, it is polled by GET."""
    sandbox.start(300)
    (url,) = sandbox.start(1, first=301, duration=9.0)
    await client.tasks.wait_many([url], backoff=wait_fixed(3))
    assert sandbox.polls(url) == sandbox.times == [0.0, 3.0, 6.0, 9.0]


async def test_own_tasks_are_polled_after_the_interval() -> None:
    """A task that this client just started is first polled after ``poll_interval``."""
    async with Recorded(duration=1.0) as sandbox, connect(sandbox) as client:
        outcomes = await client.tasks.wait_many(await merge_all(client, 50))
        assert len(outcomes.succeeded) == 50
        assert {outcome.polls for outcome in outcomes} == {1}
        assert sandbox.calls == {"merge": 50, "tasks": 1}
        assert 2.0 <= now() <= 2.2


@pytest.mark.parametrize("lag", [3.0, 15.0])
async def test_a_list_that_lags_loses_nothing(lag: float) -> None:
    """Own tasks that the list does not show yet get time, not a GET each."""
    debug_off()
    async with Recorded(duration=40.0, list_lag=lag) as sandbox, connect(sandbox) as client:
        urls = await merge_all(client, 200)
        outcomes = await client.tasks.wait_many(urls)
        assert len(outcomes.succeeded) == 200
        assert now() <= 46.5
        assert sandbox.calls["task"] == 0
        assert sandbox.calls["tasks"] <= 12


@pytest.mark.parametrize("is_own", [False, True])
async def test_a_list_that_never_shows_our_tasks_is_suspended(is_own: bool) -> None:
    """Tasks that no page ever shows are polled by GET, and the list is tried again rarely."""
    debug_off()
    async with (
        Recorded(quota=0, duration=200.0, list_lag=math.inf) as sandbox,
        connect(sandbox) as client,
    ):
        urls = await merge_all(client, 30) if is_own else sandbox.start(30)
        outcomes = await client.tasks.wait_many(urls, timeout=None)
        assert len(outcomes.succeeded) == 30
        assert now() <= 200.0 + 33.0
        assert sandbox.calls["tasks"] <= 20
        assert all(len(sandbox.polls(url)) >= 6 for url in urls)
        # An own task gets half a minute to appear, and one interval more.
        assert all(sandbox.polls(url)[0] <= 46.0 for url in urls)


async def test_a_suspended_list_is_tried_with_one_page(sandbox: Recorded, client: Client) -> None:
    """Three pages that are not worth it suspend a list; then it is tried with a single page."""
    sandbox.list_lag = math.inf
    urls = sandbox.start(10, duration=500.0)
    await client.tasks.wait_many(urls, timeout=None, backoff=wait_fixed(10))
    tries = [request.at for request in sandbox.log if request.path == FIRST]
    assert tries == [0.0, 10.0, 20.0, 80.0, 200.0, 440.0]
    assert all(sandbox.polls(url) == [10.0 * n for n in range(51)] for url in urls)


async def test_a_list_that_lags_is_polled_once_for_all_due_soon() -> None:
    """Own tasks started one after the other share the polls of a list that lags."""
    debug_off()
    async with (
        Recorded(quota=0, duration=40.0, list_lag=20.0) as sandbox,
        connect(sandbox) as client,
    ):
        async with client.tasks.watch(backoff=wait_fixed(5)) as watch:
            for url in await merge_all(client, 50):
                watch.add(url)
                await asyncio.sleep(0.01)
            watch.close()
            outcomes = [outcome async for outcome in watch]
        assert {outcome.state for outcome in outcomes} == {OutcomeState.SUCCESS}
        assert now() <= 45.5
        assert sandbox.calls["task"] == 0
        assert sandbox.calls["tasks"] <= 12


async def test_the_list_has_tasks_of_others_between_ours(sandbox: Recorded, client: Client) -> None:
    """A scan ends when it is not worth polling; tasks that it did not reach are polled by GET."""
    debug_off()
    oldest = sandbox.start(1, duration=20.0)
    sandbox.start(450, first=2)
    older = sandbox.start(60, first=500, duration=20.0)
    sandbox.start(30, first=600)
    newest = sandbox.start(50, first=650, duration=20.0)
    urls = oldest + older + newest
    outcomes = await client.tasks.wait_many(urls, backoff=wait_fixed(10))
    assert len(outcomes.succeeded) == 111
    assert now() == 20.0
    # At most three rounds of two pages with our tasks, and one that was not worth it any more.
    assert 6 <= sandbox.calls["tasks"] <= 9
    assert sandbox.polls(oldest[0]) == [0.0, 10.0, 20.0]
    assert sandbox.calls["task"] == 3


async def test_new_tasks_push_ours_down_while_pages_are_read() -> None:
    """Pages that shift during a scan lose no task, and the scan ends."""
    debug_off()
    async with (
        Recorded(quota=0, latency=1.0, duration=30.0, companies=20_000) as sandbox,
        connect(sandbox) as client,
    ):
        urls = sandbox.start(500)
        loop = asyncio.get_running_loop()
        for moment in range(60):
            loop.call_at(moment + 0.5, lambda: sandbox.start(2, first=1000))
        outcomes = await client.tasks.wait_many(urls, backoff=wait_fixed(10))
        assert len(outcomes.succeeded) == 500
        assert now() <= 60.0
        assert sandbox.calls["task"] <= 5
        assert sandbox.calls["tasks"] <= 40


async def test_pages_in_a_cycle_end(sandbox: Recorded, client: Client) -> None:
    """A page whose ``nextUrl`` leads to itself costs a few calls, and no outcome."""
    urls = sandbox.start(300, duration=0.0)
    empty = b'{"data": [], "pagination": {"nextUrl": "%s", "prevUrl": null}}'
    body = empty % (sandbox.url + FIRST).encode()
    sandbox.inject(Fault.content(body), on="tasks", times=None)
    outcomes = await client.tasks.wait_many(urls)
    assert len(outcomes.succeeded) == 300
    assert sandbox.calls["tasks"] <= 3
    assert sandbox.calls["task"] == 300


@pytest.mark.parametrize(
    "fault",
    [
        Fault.malformed(),
        Fault.wrong_types(),
        Fault.status(200, html=True),
        Fault.status(404),
        Fault.content(b'{"data": [], "pagination": {"nextUrl": "https://evil.example/v2/x"}}'),
        Fault.redirect("https://evil.example/"),
    ],
    ids=["malformed", "types", "html", "404", "elsewhere", "redirect"],
)
async def test_an_unusable_page_costs_no_outcome(
    sandbox: Recorded, client: Client, fault: Fault
) -> None:
    """The tasks of a page that cannot be used are polled singly, and no other task is."""
    urls = sandbox.start(30, duration=0.0)
    sandbox.inject(fault, on="tasks", times=None)
    outcomes = await client.tasks.wait_many(urls)
    assert len(outcomes.succeeded) == 30
    assert sandbox.calls["tasks"] <= 3
    assert sandbox.calls["task"] == 30
    assert now() == 0.0
    await assert_idle(client)


@pytest.mark.parametrize("status", [400, 403])
async def test_a_refused_list_is_tried_again_rarely(
    sandbox: Recorded, client: Client, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """A refused list is suspended for a minute, then ever longer, with one log line."""
    debug_off()
    caplog.set_level(logging.INFO, "aiotasks")
    sandbox.inject(Fault.status(status), on="tasks", times=None)
    urls = sandbox.start(10, duration=1000.0)
    outcomes = await client.tasks.wait_many(urls, timeout=None, backoff=wait_fixed(10))
    assert len(outcomes.succeeded) == 10
    assert now() == 1000.0
    tries = [request.at for request in sandbox.log if request.path == FIRST]
    assert tries == [0.0, 60.0, 180.0, 420.0, 900.0]
    assert all(outcome.polls == 101 for outcome in outcomes)
    assert logged(caplog) == [
        "The list of company merge tasks is not worth its calls: polling each task"
    ]


async def test_a_list_is_used_again(
    sandbox: Recorded, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """A suspended list is used again after one try that is worth it, with one log line."""
    caplog.set_level(logging.INFO, "aiotasks")
    sandbox.refuse_lists()
    asyncio.get_running_loop().call_at(100.0, sandbox.clear_faults)
    urls = sandbox.start(10, duration=300.0)
    outcomes = await client.tasks.wait_many(urls, timeout=None, backoff=wait_fixed(10))
    assert len(outcomes.succeeded) == 10
    assert all(sandbox.polls(url)[-1] == 170.0 for url in urls)
    tries = [request.at for request in sandbox.log if request.path == FIRST]
    assert tries == [0.0, 60.0, *(180.0 + 10.0 * n for n in range(13))]
    assert logged(caplog) == [
        "The list of company merge tasks is not worth its calls: polling each task",
        "The list of company merge tasks is worth its calls again",
    ]


async def test_a_refused_list_does_not_affect_the_other_kind(
    sandbox: Recorded, client: Client
) -> None:
    """Each kind has a list of its own, which is suspended on its own."""
    sandbox.inject(Fault.status(400), on="tasks")
    urls = sandbox.start(5, duration=20.0)
    await client.tasks.wait_many(urls, timeout=10.0, backoff=wait_fixed(5))
    people = [sandbox.start_merge("person", 2 * n + 1, 2 * n + 2) for n in range(5)]
    outcomes = await client.tasks.wait_many(people, backoff=wait_fixed(5))
    assert len(outcomes.succeeded) == 5
    assert sandbox.calls == {"tasks": 3, "task": 15}


async def test_a_page_that_hangs_delays_only_its_own_tasks(sandbox: Recorded) -> None:
    """While a page does not answer, tasks of the other kind are still polled."""
    urls = sandbox.start(20, duration=0.0)
    people = [sandbox.start_merge("person", 2 * n + 1, 2 * n + 2, duration=5.0) for n in range(20)]
    sandbox.inject(Fault.hang(), on="tasks")
    ended_at: dict[str, float] = {}
    async with connect(sandbox, request_timeout=30.0) as client:
        await client.tasks.get(urls[0])
        outcomes = await client.tasks.wait_many(
            urls + people,
            on_progress=lambda progress: ended_at.setdefault(progress.outcome.url, now()),
        )
    assert len(outcomes.succeeded) == 40
    assert max(ended_at[url] for url in people) <= 5.6
    assert 30.0 <= max(ended_at[url] for url in urls) <= 32.0


async def test_absence_from_the_list_is_no_outcome(sandbox: Recorded, client: Client) -> None:
    """A task that vanishes from the list is neither finished nor lost: it is polled by GET."""
    urls = sandbox.start(20, duration=40.0)
    vanish = Fault.content(b'{"data": [], "pagination": {"nextUrl": null, "prevUrl": null}}')
    loop = asyncio.get_running_loop()
    loop.call_at(15.0, lambda: sandbox.inject(vanish, on="tasks", times=None))
    outcomes = await client.tasks.wait_many(urls, backoff=wait_fixed(10))
    assert {outcome.state for outcome in outcomes} == {OutcomeState.SUCCESS}
    assert now() == 40.0
    assert all(sandbox.polls(url) == [20.0, 30.0, 40.0] for url in urls)


async def test_pages_stop_with_the_last_waiter(sandbox: Recorded, client: Client) -> None:
    """A scan without waiters is not continued."""
    sandbox.latency = 1.0
    job = asyncio.create_task(client.tasks.wait_many(sandbox.start(900)))
    await asyncio.sleep(2.5)
    job.cancel()
    await asyncio.wait([job])
    await assert_idle(client)
    await asyncio.sleep(100.0)
    assert sandbox.requests == 3


async def test_known_pages_need_no_scan(sandbox: Recorded, client: Client) -> None:
    """Tasks on a known old page are polled there, without reading the newer pages again."""
    debug_off()
    old = sandbox.start(50, duration=50.0)
    new = sandbox.start(950, first=51, duration=0.0)
    outcomes = await client.tasks.wait_many(old + new, backoff=wait_fixed(10))
    assert len(outcomes.succeeded) == 1000
    assert now() == 50.0
    # Ten pages once, and then the last of them at each interval.
    assert sandbox.calls == {"tasks": 10 + 5}


async def test_a_hundred_failures_cost_one_call_for_the_reasons() -> None:
    """Failures that are seen over some seconds share the call for their reasons."""
    debug_off()
    async with Recorded(quota=0, companies=0) as sandbox, connect(sandbox) as client:
        urls = [
            sandbox.start_merge("company", 2 * n + 1, 2 * n + 2, duration=n / 20)
            for n in range(100)
        ]
        ended_at: list[float] = []
        outcomes = await client.tasks.wait_many(
            urls, backoff=wait_fixed(1), on_progress=lambda _progress: ended_at.append(now())
        )
        assert {outcome.reason for outcome in outcomes} == {"Primary company not found"}
        assert sandbox.calls["merges"] == 1
        assert max(ended_at) == 5.0


async def test_a_single_wait_gets_its_reason_immediately(sandbox: Recorded, client: Client) -> None:
    """A single wait does not wait for the failures of other tasks."""
    (url,) = sandbox.start(1, duration=3.0, reason="Locked")
    others = asyncio.create_task(
        client.tasks.wait_many(sandbox.start(5, first=2, duration=30.0), backoff=wait_fixed(3))
    )
    with pytest.raises(Exception, match="Locked"):
        await client.tasks.wait(url, backoff=wait_fixed(3))
    assert now() == 3.0
    await others


async def watched(client: Client, urls: list[str], **settings: Any) -> dict[str, float]:
    ended_at = {}
    async with client.tasks.watch(urls, **settings) as watch:
        async for outcome in watch:
            ended_at[outcome.url] = now()
    return ended_at


async def test_a_short_poll_interval_is_used_for_pages_too() -> None:
    """The caller's own interval is used for any number of tasks, while polls are cheap."""
    debug_off()
    async with Recorded(quota=0, duration=7.3) as sandbox, connect(sandbox) as client:
        ended_at = await watched(client, sandbox.start(300), backoff=wait_fixed(0.5))
        assert set(ended_at.values()) == {7.5}
        assert sandbox.calls == {"tasks": 16 * 3}


async def test_pages_are_forgotten_with_their_tasks(sandbox: Recorded, client: Client) -> None:
    """A client with a long life keeps no page without pending tasks."""
    debug_off()
    for job in range(20):
        urls = sandbox.start(300, first=300 * job + 1, duration=math.inf)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await client.tasks.wait_many(urls)
    await assert_idle(client)
    assert client._opened is not None
    tasks_list = client._opened.poller._schedule.lists["company"]
    assert len(tasks_list.pages) <= 2
