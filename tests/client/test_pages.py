"""Asking by pages: a hundred tasks for one call, and nothing that a list hides is lost."""

import asyncio
import logging
import math
from typing import Any

import pytest
from tenacity import wait_fixed

from aiotasks import OutcomeState
from aiotasks.client import Client
from aiotasks.sandbox import Fault
from tests.servers import Recorded, assert_idle, connect, hurry, now


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
    """Tasks that are due together are asked for by the hundred, round after round."""
    hurry()
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


async def test_both_kinds_are_asked_for_by_pages_at_once() -> None:
    """The lists of companies and of persons are read side by side."""
    async with Recorded(quota=0, latency=1.0, duration=0.0) as sandbox, connect(sandbox) as client:
        urls = sandbox.start(50)
        urls += [sandbox.start_merge("person", 2 * n + 1, 2 * n + 2) for n in range(50)]
        await client.tasks.get(urls[0])
        began = now()
        outcomes = await client.tasks.wait_many(urls)
        assert len(outcomes.succeeded) == 100
        assert now() == began + 1.0
        assert sandbox.calls == {"task": 1, "tasks": 2}


async def test_waits_from_anywhere_share_pages(sandbox: Recorded, client: Client) -> None:
    """A hundred single waits for different tasks cost one call a round."""
    urls = sandbox.start(100, duration=9.0)
    waits = [client.tasks.wait(url, backoff=wait_fixed(3)) for url in urls]
    tasks = await asyncio.gather(*waits)
    assert {task.status for task in tasks} == {"success"}
    assert sandbox.times == [0.0, 3.0, 6.0, 9.0]
    assert sandbox.calls == {"tasks": 4}


async def test_a_page_tells_of_tasks_that_were_not_due(sandbox: Recorded, client: Client) -> None:
    """What a page shows of a task that was not due ends its wait, or starts its interval anew."""
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


async def test_page_mates_stay_together(sandbox: Recorded, client: Client) -> None:
    """Tasks that were seen on one page wake together, so that jitter never makes two calls of one."""
    outcomes = await client.tasks.wait_many(sandbox.start(100, duration=100.0))
    assert len(outcomes.succeeded) == 100
    assert len({outcome.waited for outcome in outcomes}) == 1
    assert sandbox.calls == {"tasks": outcomes[0].polls}


async def test_a_single_task_is_asked_for_by_itself(sandbox: Recorded, client: Client) -> None:
    """Where only one task is due a page pays for nothing."""
    sandbox.start(300)
    (url,) = sandbox.start(1, first=301, duration=9.0)
    await client.tasks.wait_many([url], backoff=wait_fixed(3))
    assert sandbox.looks(url) == sandbox.times == [0.0, 3.0, 6.0, 9.0]


async def test_tasks_on_their_own_are_looked_at_after_the_interval() -> None:
    """A task that this client started just now is first looked at after ``poll_interval``."""
    async with Recorded(duration=1.0) as sandbox, connect(sandbox) as client:
        outcomes = await client.tasks.wait_many(await merge_all(client, 50))
        assert len(outcomes.succeeded) == 50
        assert {outcome.polls for outcome in outcomes} == {1}
        assert sandbox.calls == {"merge": 50, "tasks": 1}
        assert 2.0 <= now() <= 2.2


@pytest.mark.parametrize("lag", [3.0, 15.0])
async def test_a_list_that_lags_loses_nothing(lag: float) -> None:
    """Own tasks that the list does not show yet are given time, not a GET each."""
    hurry()
    async with Recorded(duration=40.0, list_lag=lag) as sandbox, connect(sandbox) as client:
        urls = await merge_all(client, 200)
        outcomes = await client.tasks.wait_many(urls)
        assert len(outcomes.succeeded) == 200
        assert now() <= 46.5
        assert sandbox.calls["task"] == 0
        assert sandbox.calls["tasks"] <= 12


@pytest.mark.parametrize("is_own", [False, True])
async def test_a_list_that_never_shows_our_tasks_is_left(is_own: bool) -> None:
    """Tasks that no page ever shows are asked for by GET, and the list is tried again rarely."""
    hurry()
    async with (
        Recorded(quota=0, duration=200.0, list_lag=math.inf) as sandbox,
        connect(sandbox) as client,
    ):
        urls = await merge_all(client, 30) if is_own else sandbox.start(30)
        outcomes = await client.tasks.wait_many(urls, timeout=None)
        assert len(outcomes.succeeded) == 30
        assert now() <= 200.0 + 33.0
        assert sandbox.calls["tasks"] <= 20
        assert all(len(sandbox.looks(url)) >= 6 for url in urls)
        # An own task is given half a minute to appear, and one interval more.
        assert all(sandbox.looks(url)[0] <= 46.0 for url in urls)


async def test_a_list_that_does_not_pay_is_tried_with_one_page(
    sandbox: Recorded, client: Client
) -> None:
    """Three pages for nothing end the use of a list; after its rest a single one tells."""
    sandbox.list_lag = math.inf
    urls = sandbox.start(10, duration=500.0)
    await client.tasks.wait_many(urls, timeout=None, backoff=wait_fixed(10))
    tries = [asked.at for asked in sandbox.log if asked.path == FIRST]
    assert tries == [0.0, 10.0, 20.0, 80.0, 200.0, 440.0]
    assert all(sandbox.looks(url) == [10.0 * n for n in range(51)] for url in urls)


async def test_a_list_that_lags_is_read_once_for_all_that_are_due_soon() -> None:
    """Own tasks that were started one after the other do not each ask for a page without them."""
    hurry()
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


async def test_others_tasks_stand_between_ours(sandbox: Recorded, client: Client) -> None:
    """The walk goes on only while it pays; what it does not reach is asked for by GET."""
    hurry()
    oldest = sandbox.start(1, duration=20.0)
    sandbox.start(450, first=2)
    older = sandbox.start(60, first=500, duration=20.0)
    sandbox.start(30, first=600)
    newest = sandbox.start(50, first=650, duration=20.0)
    urls = oldest + older + newest
    outcomes = await client.tasks.wait_many(urls, backoff=wait_fixed(10))
    assert len(outcomes.succeeded) == 111
    assert now() == 20.0
    # Three rounds of two pages with ours on them, and one that stopped paying at the most.
    assert 6 <= sandbox.calls["tasks"] <= 9
    assert sandbox.looks(oldest[0]) == [0.0, 10.0, 20.0]
    assert sandbox.calls["task"] == 3


async def test_new_tasks_push_ours_down_while_pages_are_read() -> None:
    """Pages that shift during a walk lose no task and end."""
    hurry()
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


async def test_pages_that_lead_in_a_circle_end(sandbox: Recorded, client: Client) -> None:
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
async def test_a_page_that_is_no_use_costs_no_outcome(
    sandbox: Recorded, client: Client, fault: Fault
) -> None:
    """Whatever is wrong with a page, its tasks are asked for by themselves, and nobody else is."""
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
    """Refused, the list is left for a minute, then for longer each time; one log line tells of it."""
    hurry()
    caplog.set_level(logging.INFO, "aiotasks")
    sandbox.inject(Fault.status(status), on="tasks", times=None)
    urls = sandbox.start(10, duration=1000.0)
    outcomes = await client.tasks.wait_many(urls, timeout=None, backoff=wait_fixed(10))
    assert len(outcomes.succeeded) == 10
    assert now() == 1000.0
    tries = [asked.at for asked in sandbox.log if asked.path == FIRST]
    assert tries == [0.0, 60.0, 180.0, 420.0, 900.0]
    assert all(outcome.polls == 101 for outcome in outcomes)
    assert logged(caplog) == [
        "The list of company merge tasks is not worth its calls: polling each task"
    ]


async def test_a_list_is_taken_up_again(
    sandbox: Recorded, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Once a try of the list pays it is used as before, and one log line tells of it."""
    caplog.set_level(logging.INFO, "aiotasks")
    sandbox.refuse_lists()
    asyncio.get_running_loop().call_at(100.0, sandbox.clear_faults)
    urls = sandbox.start(10, duration=300.0)
    outcomes = await client.tasks.wait_many(urls, timeout=None, backoff=wait_fixed(10))
    assert len(outcomes.succeeded) == 10
    assert all(sandbox.looks(url)[-1] == 170.0 for url in urls)
    tries = [asked.at for asked in sandbox.log if asked.path == FIRST]
    assert tries == [0.0, 60.0, *(180.0 + 10.0 * n for n in range(13))]
    assert logged(caplog) == [
        "The list of company merge tasks is not worth its calls: polling each task",
        "The list of company merge tasks is worth its calls again",
    ]


async def test_one_kinds_refused_list_is_no_matter_of_the_other(
    sandbox: Recorded, client: Client
) -> None:
    """Each kind has a list of its own, which pays or not by itself."""
    sandbox.inject(Fault.status(400), on="tasks")
    urls = sandbox.start(5, duration=20.0)
    await client.tasks.wait_many(urls, timeout=10.0, backoff=wait_fixed(5))
    people = [sandbox.start_merge("person", 2 * n + 1, 2 * n + 2) for n in range(5)]
    outcomes = await client.tasks.wait_many(people, backoff=wait_fixed(5))
    assert len(outcomes.succeeded) == 5
    assert sandbox.calls == {"tasks": 3, "task": 15}


async def test_a_page_that_hangs_delays_only_its_own_tasks(sandbox: Recorded) -> None:
    """While an answer to one page does not come, the other kind's tasks get theirs."""
    urls = sandbox.start(20, duration=0.0)
    people = [sandbox.start_merge("person", 2 * n + 1, 2 * n + 2, duration=5.0) for n in range(20)]
    sandbox.inject(Fault.hang(), on="tasks")
    settled: dict[str, float] = {}
    async with connect(sandbox, request_timeout=30.0) as client:
        await client.tasks.get(urls[0])
        outcomes = await client.tasks.wait_many(
            urls + people,
            on_progress=lambda progress: settled.setdefault(progress.outcome.url, now()),
        )
    assert len(outcomes.succeeded) == 40
    assert max(settled[url] for url in people) <= 5.6
    assert 30.0 <= max(settled[url] for url in urls) <= 32.0


async def test_absence_is_no_proof(sandbox: Recorded, client: Client) -> None:
    """A task that vanishes from the list is neither finished nor lost: it is asked for by GET."""
    urls = sandbox.start(20, duration=40.0)
    loop = asyncio.get_running_loop()
    loop.call_at(15.0, setattr, sandbox, "list_lag", math.inf)
    outcomes = await client.tasks.wait_many(urls, backoff=wait_fixed(10))
    assert {outcome.state for outcome in outcomes} == {OutcomeState.SUCCESS}
    assert now() == 40.0
    assert all(sandbox.looks(url) == [20.0, 30.0, 40.0] for url in urls)


async def test_pages_stop_with_the_last_waiter(sandbox: Recorded, client: Client) -> None:
    """A walk that nobody needs any more is not finished."""
    sandbox.latency = 1.0
    job = asyncio.create_task(client.tasks.wait_many(sandbox.start(900)))
    await asyncio.sleep(2.5)
    job.cancel()
    await asyncio.wait([job])
    await assert_idle(client)
    await asyncio.sleep(100.0)
    assert sandbox.requests == 3


async def test_pages_known_from_before_need_no_walk(sandbox: Recorded, client: Client) -> None:
    """The few that are left on an old page are found there, without reading the newer ones again."""
    hurry()
    old = sandbox.start(50, duration=50.0)
    new = sandbox.start(950, first=51, duration=0.0)
    outcomes = await client.tasks.wait_many(old + new, backoff=wait_fixed(10))
    assert len(outcomes.succeeded) == 1000
    assert now() == 50.0
    # Ten pages once, and then the last of them at each interval.
    assert sandbox.calls == {"tasks": 10 + 5}


async def test_a_hundred_failures_cost_one_call_for_the_reasons() -> None:
    """Failures that come in over seconds share the call for their reasons."""
    hurry()
    async with Recorded(quota=0, companies=0) as sandbox, connect(sandbox) as client:
        urls = [
            sandbox.start_merge("company", 2 * n + 1, 2 * n + 2, duration=n / 20)
            for n in range(100)
        ]
        settled: list[float] = []
        outcomes = await client.tasks.wait_many(
            urls, backoff=wait_fixed(1), on_progress=lambda _progress: settled.append(now())
        )
        assert {outcome.reason for outcome in outcomes} == {"Primary company not found"}
        assert sandbox.calls["merges"] == 1
        assert max(settled) == 5.0


async def test_a_single_wait_gets_its_reason_at_once(sandbox: Recorded, client: Client) -> None:
    """Somebody who waits for just this task does not wait for others' failures."""
    (url,) = sandbox.start(1, duration=3.0, reason="Locked")
    others = asyncio.create_task(
        client.tasks.wait_many(sandbox.start(5, first=2, duration=30.0), backoff=wait_fixed(3))
    )
    with pytest.raises(Exception, match="Locked"):
        await client.tasks.wait(url, backoff=wait_fixed(3))
    assert now() == 3.0
    await others


async def watched(client: Client, urls: list[str], **settings: Any) -> dict[str, float]:
    settled = {}
    async with client.tasks.watch(urls, **settings) as watch:
        async for outcome in watch:
            settled[outcome.url] = now()
    return settled


async def test_a_short_poll_interval_is_kept_for_pages_too() -> None:
    """The caller's own pace holds for as many tasks as one likes, while asking is cheap."""
    hurry()
    async with Recorded(quota=0, duration=7.3) as sandbox, connect(sandbox) as client:
        settled = await watched(client, sandbox.start(300), backoff=wait_fixed(0.5))
        assert set(settled.values()) == {7.5}
        assert sandbox.calls == {"tasks": 16 * 3}


async def test_pages_are_forgotten_with_their_tasks(sandbox: Recorded, client: Client) -> None:
    """A client that lives for long keeps no page on which nothing of ours is pending."""
    hurry()
    for job in range(20):
        urls = sandbox.start(300, first=300 * job + 1, duration=math.inf)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await client.tasks.wait_many(urls)
    await assert_idle(client)
    assert client._opened is not None
    tasks_list = client._opened.poller._schedule.lists["company"]
    assert len(tasks_list.pages) <= 2
