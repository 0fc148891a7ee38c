"""Waiting for many tasks: every URL gets its outcome, and no task affects another."""

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import pytest
from tenacity import wait_fixed

from aiotasks import (
    AuthenticationError,
    AuthorizationError,
    Client,
    ConfigurationError,
    NotFoundError,
    OutcomeState,
    Progress,
    TaskFailedError,
    TaskTimeoutError,
    UnknownStatusError,
)
from aiotasks.sandbox import PLAIN, Fault
from tests.servers import Recorded, assert_idle, client_tasks, connect, debug_off, now


@pytest.mark.slow
@pytest.mark.parametrize(("is_listed", "calls", "most"), [(True, 30, 1), (False, 3001, 16)])
async def test_thousands_are_waited_for_together(is_listed: bool, calls: int, most: int) -> None:
    """Three thousand tasks cost a record each, but no asyncio task or connection each."""
    debug_off()
    seen: list[int] = []

    def on_progress(_progress: Progress) -> None:
        if len(seen) % 100 == 0:
            assert len(client_tasks()) <= 20
        seen.append(client.quota.in_flight)

    async with (
        Recorded(**PLAIN, quota=0, latency=0.1, companies=6000, duration=0.0) as sandbox,
        connect(sandbox) as client,
    ):
        if not is_listed:
            sandbox.refuse_lists()
        urls = sandbox.start(3000)
        outcomes = await client.tasks.wait_many(urls, on_progress=on_progress)
        assert [outcome.url for outcome in outcomes] == urls
        assert len(outcomes.succeeded) == len(seen) == 3000
        assert (sandbox.requests, sandbox.max_in_flight) == (calls, most)
        assert max(seen) <= most
        assert now() == pytest.approx(calls / most * 0.1, rel=0.05)
        await assert_idle(client)


async def test_outcomes_are_in_the_order_of_the_urls(sandbox: Recorded, client: Client) -> None:
    """In whatever order tasks end, each outcome has the position of its URL, with its own task."""
    urls = [
        sandbox.start_merge("company", 1, 2, duration=9.0),
        sandbox.start_merge("person", 1, 2, duration=0.0),
        sandbox.start_merge("company", 3, 4, duration=4.0),
        sandbox.start_merge("person", 3, 4, duration=6.0),
    ]
    outcomes = await client.tasks.wait_many(urls, backoff=wait_fixed(1))
    assert [outcome.url for outcome in outcomes] == urls
    ids = [outcome.task.id for outcome in outcomes if outcome.task]
    assert ids == [url.rsplit("/", 1)[1] for url in urls]
    waited = [outcome.waited for outcome in outcomes]
    assert waited == [9.0, 0.0, 4.0, 6.0]


async def test_any_iterable_is_read_once(sandbox: Recorded, client: Client) -> None:
    """A generator of URLs is accepted as a list is."""
    read = []

    def generate() -> Iterator[str]:
        for url in sandbox.start(5):
            read.append(url)
            yield url

    outcomes = await client.tasks.wait_many(generate())
    assert [outcome.url for outcome in outcomes] == read
    assert len(outcomes.succeeded) == 5


async def test_a_generator_that_raises_ends_the_wait(sandbox: Recorded, client: Client) -> None:
    """An error of the caller's own iterable is raised unchanged, and nothing is left waiting."""

    def generate() -> Iterator[str]:
        yield from sandbox.start(2)
        message = "mine"
        raise LookupError(message)

    with pytest.raises(LookupError, match="mine"):
        await client.tasks.wait_many(generate())
    await assert_idle(client)


async def test_a_duplicate_url_is_polled_once(sandbox: Recorded, client: Client) -> None:
    """Duplicate URLs get an outcome each and share one poll."""
    (url,) = sandbox.start(1, duration=3.0)
    same = url.replace("/v2/", "/")
    outcomes = await client.tasks.wait_many([url, same, url, url], backoff=wait_fixed(3))
    assert [outcome.url for outcome in outcomes] == [url, same, url, url]
    assert len(outcomes.succeeded) == 4
    assert sandbox.times == [0.0, 3.0]


async def test_invalid_urls_are_outcomes(sandbox: Recorded, client: Client) -> None:
    """The outcome of an invalid URL is its error, and the others get theirs."""
    urls: list[Any] = [*sandbox.start(2), "nonsense", "https://evil.example/x", None, ""]
    urls.insert(1, "https://evil.example/v2/tasks/company-merges/a")
    outcomes = await client.tasks.wait_many(urls)
    assert [outcome.url for outcome in outcomes] == urls
    assert [outcome.state for outcome in outcomes] == [
        "success",
        "unknown",
        "success",
        *["unknown"] * 4,
    ]
    assert {type(outcome.error) for outcome in outcomes.unknown} == {ConfigurationError}


@pytest.mark.parametrize("urls", ["https://api.affinity.co/v2/tasks/company-merges/a", b"a", ""])
async def test_a_single_string_is_refused(sandbox: Recorded, client: Client, urls: Any) -> None:
    """A single string is refused, as iterating it would yield letters."""
    with pytest.raises(ConfigurationError, match="single string"):
        await client.tasks.wait_many(urls)
    assert sandbox.requests == 0


async def test_nothing_to_wait_for_is_no_wait(sandbox: Recorded, client: Client) -> None:
    """No URLs give no outcomes, immediately."""
    outcomes = await client.tasks.wait_many([])
    assert (len(outcomes), repr(outcomes)) == (0, "<Outcomes: none>")
    assert sandbox.requests == 0


async def test_progress_counts_each_outcome(sandbox: Recorded, client: Client) -> None:
    """``on_progress`` is called once for each URL, when it is done, invalid ones included."""
    urls = [*sandbox.start(3, duration=2.0), *sandbox.start(1, first=9, duration=0.0), "nonsense"]
    seen: list[Progress] = []
    await client.tasks.wait_many([*urls, urls[0]], on_progress=seen.append)
    assert [(progress.done, progress.total) for progress in seen] == [(n, 6) for n in range(1, 7)]
    assert [progress.outcome.url for progress in seen[:2]] == ["nonsense", urls[3]]
    assert sorted(p.outcome.url for p in seen) == sorted([*urls, urls[0]])


async def test_an_error_of_on_progress_ends_the_wait(sandbox: Recorded, client: Client) -> None:
    """An error of the callback is raised unchanged, and nothing goes on without a caller."""
    urls = [*sandbox.start(5, duration=math.inf), *sandbox.start(1, first=9, duration=3.0)]

    def stop(_progress: Progress) -> None:
        message = "enough"
        raise LookupError(message)

    with pytest.raises(LookupError, match="enough"):
        await client.tasks.wait_many(urls, on_progress=stop)
    await assert_idle(client)
    before = sandbox.requests
    await asyncio.sleep(100)
    assert sandbox.requests == before


async def test_each_end_is_an_outcome(sandbox: Recorded, client: Client) -> None:
    """Success, failure, partial failure, unknown status, lost task and timeout are outcomes."""
    good, bad, partial, odd, slow = sandbox.start(5, duration=math.inf)
    sandbox.start_merge("company", 21, 22, task_url=partial, duration=0.0, reason="Half of it")
    sandbox.finish(good)
    sandbox.finish(bad, outcome="failed", reason="Locked")
    sandbox.finish(partial)
    sandbox.finish(odd)
    sandbox.set_status(odd, "archived")
    lost = sandbox.start_merge("person", 1, 2).replace("person", "company")
    outcomes = await client.tasks.wait_many([good, bad, partial, odd, slow, lost], timeout=10.0)
    assert [outcome.state.value for outcome in outcomes] == [
        "success",
        "failed",
        "failed",
        "unknown",
        "running",
        "unknown",
    ]
    assert [outcome.reason for outcome in outcomes] == [None, "Locked", "Half of it", *[None] * 3]
    assert [type(outcome.error) for outcome in outcomes] == [
        type(None),
        TaskFailedError,
        TaskFailedError,
        UnknownStatusError,
        TaskTimeoutError,
        NotFoundError,
    ]
    assert [outcome.task is None for outcome in outcomes] == [False] * 5 + [True]
    assert [outcome.polls for outcome in outcomes][:4] == [1, 1, 1, 1]
    assert 10.0 <= now() <= 10.05
    with pytest.raises(ExceptionGroup, match="5 of 6 tasks did not succeed") as caught:
        outcomes.raise_for_failures()
    assert len(caught.value.exceptions) == 5
    outcomes.succeeded.raise_for_failures()


async def test_the_timeout_is_for_all_together(sandbox: Recorded, client: Client) -> None:
    """At the deadline every task that still runs has had its final poll, and all are returned."""
    debug_off()
    urls = sandbox.start(50, duration=9.99) + sandbox.start(50, first=51, duration=math.inf)
    outcomes = await client.tasks.wait_many(urls, timeout=10.0)
    assert len(outcomes.succeeded) == len(outcomes.running) == 50
    assert 10.0 <= now() <= 10.05
    assert all(outcome.task is not None for outcome in outcomes)


async def test_one_slow_answer_delays_no_other_task(sandbox: Recorded) -> None:
    """A request that hangs delays its own task only."""
    urls = sandbox.start(20, duration=5.0)
    sandbox.refuse_lists()
    async with connect(sandbox, request_timeout=60.0) as client:
        await client.tasks.get(urls[0])
        sandbox.inject(Fault.hang(), on="task")
        ended_at: dict[str, float] = {}
        outcomes = await client.tasks.wait_many(
            urls, on_progress=lambda progress: ended_at.setdefault(progress.outcome.url, now())
        )
    assert len(outcomes.succeeded) == 20
    assert sorted(ended_at.values())[-2] <= 10.0
    assert max(ended_at.values()) >= 60.0


async def test_one_broken_answer_costs_no_task(sandbox: Recorded, client: Client) -> None:
    """A task whose answer cannot be read is asked for once more, and all get their outcomes."""
    urls = sandbox.start(20, duration=5.0)
    sandbox.refuse_lists()
    sandbox.inject(Fault.malformed(), on="task")
    outcomes = await client.tasks.wait_many(urls)
    assert len(outcomes.succeeded) == 20
    assert sandbox.calls["task"] >= 41


@pytest.mark.parametrize("count", [1, 100, 101, 250])
@pytest.mark.plain
async def test_reasons_are_fetched_together(sandbox: Recorded, client: Client, count: int) -> None:
    """One call fetches the reasons of a hundred failures, each with its own task."""
    debug_off()
    urls = [
        sandbox.start_merge("company", 2 * n + 1, 2 * n + 2, duration=5.0, reason=f"Reason {n}")
        for n in range(count)
    ]
    outcomes = await client.tasks.wait_many(urls)
    assert [outcome.reason for outcome in outcomes] == [f"Reason {n}" for n in range(count)]
    assert sandbox.calls["merges"] == math.ceil(count / 100)


async def test_failures_wait_briefly_for_each_other(sandbox: Recorded, client: Client) -> None:
    """While others may fail too, a failure waits ten seconds, so that they share the call."""
    urls = [
        sandbox.start_merge("company", 1, 2, duration=0.0, reason="One"),
        sandbox.start_merge("company", 3, 4, duration=1.0, reason="Two"),
        sandbox.start_merge("company", 5, 6, duration=50.0),
    ]
    ended_at: list[float] = []
    outcomes = await client.tasks.wait_many(
        urls, backoff=wait_fixed(1), on_progress=lambda _progress: ended_at.append(now())
    )
    assert [outcome.reason for outcome in outcomes] == ["One", "Two", None]
    assert ended_at == [10.0, 10.0, 50.0]
    assert sandbox.calls["merges"] == 1


@pytest.mark.parametrize("latency", [0.0, 0.2])
async def test_failures_do_not_wait_past_their_deadline(
    sandbox: Recorded, client: Client, latency: float
) -> None:
    """A reason that can arrive before the deadline is requested before the deadline."""
    urls = [
        sandbox.start_merge("company", 1, 2, duration=8.5, reason="Locked"),
        sandbox.start_merge("company", 3, 4, duration=math.inf),
    ]
    sandbox.latency = latency
    outcomes = await client.tasks.wait_many(
        urls, timeout=10.0, backoff=lambda state: 9.0 - latency * state.attempt_number
    )
    assert outcomes[0].reason == "Locked"
    assert 10.0 <= now() <= 10.05


async def test_reasons_of_both_kinds_are_found(sandbox: Recorded, client: Client) -> None:
    """Companies and persons have histories of their own: one call each."""
    urls = [
        sandbox.start_merge(kind, 1, 2, duration=0.0, reason=f"A {kind}")
        for kind in ("company", "person")
    ]
    outcomes = await client.tasks.wait_many(urls)
    assert [outcome.reason for outcome in outcomes] == ["A company", "A person"]
    assert sandbox.calls["merges"] == 2


@pytest.mark.plain
async def test_reasons_are_found_without_the_filter(sandbox: Recorded, client: Client) -> None:
    """Where the server refuses the filter, its newest failures are requested instead."""
    urls = sandbox.start(30, duration=0.0, reason="Locked")
    sandbox.start(120, first=31, duration=0.0, reason="Another's")
    sandbox.inject(Fault.status(400), on="merges")
    outcomes = await client.tasks.wait_many(urls)
    assert [outcome.reason for outcome in outcomes] == ["Locked"] * 30
    assert sandbox.calls["merges"] == 3


async def test_the_search_for_reasons_is_bounded(sandbox: Recorded, client: Client) -> None:
    """A failure behind five pages of newer ones is reported without its reason."""
    (url,) = sandbox.start(1, duration=0.0, reason="Locked")
    sandbox.start(600, first=2, duration=0.0, reason="Another's")
    sandbox.inject(Fault.status(400), on="merges")
    (outcome,) = await client.tasks.wait_many([url])
    assert (outcome.state, outcome.reason) == (OutcomeState.FAILED, None)
    assert "gave no reason" in str(outcome.error)
    assert sandbox.calls["merges"] == 6


@pytest.mark.parametrize(
    ("fault", "calls"),
    [(Fault.status(403), 2), (Fault.status(503), 4), (Fault.malformed(), 2)],
    ids=["403", "503", "malformed"],
)
async def test_a_failure_is_reported_without_its_reason(
    sandbox: Recorded, client: Client, fault: Fault, calls: int
) -> None:
    """A failure is reported even if the history cannot be read."""
    (url,) = sandbox.start(1, duration=0.0, reason="Locked")
    sandbox.inject(fault, on="merges", times=None)
    (outcome,) = await client.tasks.wait_many([url])
    assert (outcome.state, outcome.reason) == (OutcomeState.FAILED, None)
    assert sandbox.calls["merges"] == calls
    await assert_idle(client)


async def test_a_reason_that_does_not_arrive_costs_no_time(
    sandbox: Recorded, client: Client
) -> None:
    """A failure whose reason does not arrive is reported at the deadline, as a failure."""
    (url,) = sandbox.start(1, duration=0.0, reason="Locked")
    sandbox.inject(Fault.hang(), on="merges", times=None)
    (outcome,) = await client.tasks.wait_many([url], timeout=10.0)
    assert (outcome.state, outcome.reason) == (OutcomeState.FAILED, None)
    assert 10.0 <= now() <= 10.05


@pytest.mark.parametrize(
    ("status", "error", "calls"), [(401, AuthenticationError, 1), (403, AuthorizationError, 2)]
)
async def test_a_refused_key_ends_all_waits(
    sandbox: Recorded, client: Client, status: int, error: type[Exception], calls: int
) -> None:
    """A wrong key costs one request, a missing permission one for the list and one for a task."""
    urls = sandbox.start(1000)
    sandbox.inject(Fault.status(status), times=None)
    outcomes = await client.tasks.wait_many(urls)
    assert len(outcomes.unknown) == 1000
    assert {type(outcome.error) for outcome in outcomes} == {error}
    assert sandbox.requests == calls
    assert now() == 0.0
    await assert_idle(client)


async def test_a_key_that_is_revoked_during_a_wait(sandbox: Recorded, client: Client) -> None:
    """Outcomes before the key was revoked are kept; the rest gets the error, in few requests."""
    urls = sandbox.start(20, duration=0.0) + sandbox.start(180, first=21, duration=math.inf)
    urls += sandbox.start(1, first=501, duration=0.0, reason="Locked")
    asyncio.get_running_loop().call_at(1.0, sandbox.inject, "401x*")
    outcomes = await client.tasks.wait_many(urls)
    assert len(outcomes.succeeded) == 20
    assert len(outcomes.failed) == 1
    assert {type(outcome.error) for outcome in outcomes.unknown} == {AuthenticationError}
    assert len(outcomes.unknown) == 180
    # Two pages and the one task below them, and after the interval a page that is refused.
    assert sandbox.calls == {"tasks": 3, "task": 1}


async def test_after_a_refused_key_a_wait_may_be_tried_again(
    sandbox: Recorded, client: Client
) -> None:
    """After a refused key the next wait polls anew, because a permission can be granted."""
    (url,) = sandbox.start(1)
    sandbox.inject(Fault.status(403))
    with pytest.raises(AuthorizationError):
        await client.tasks.wait(url)
    assert (await client.tasks.wait(url)).status == "success"


async def test_an_unknown_task_is_final(sandbox: Recorded, client: Client) -> None:
    """A 404 for a task that this client did not start is its outcome after ten seconds."""
    urls = [sandbox.start_merge("person", 1, 2).replace("person", "company"), *sandbox.start(1)]
    outcomes = await client.tasks.wait_many(urls)
    assert isinstance(outcomes[0].error, NotFoundError)
    assert outcomes[0].waited == 10.0
    assert outcomes[1].state is OutcomeState.SUCCESS


async def test_a_task_that_was_just_started_may_be_invisible() -> None:
    """A 404 for a task that this client started seconds ago means that it is not visible yet."""
    async with (
        Recorded(task_lag=12.0, task_lag_share=1.0, duration=1.0) as sandbox,
        connect(sandbox) as client,
    ):
        url = await client.companies.merge(1, 2)
        task = await client.tasks.wait(url, backoff=wait_fixed(4))
        assert task.status == "success"
        assert sandbox.polls(url) == [4.0, 8.0, 12.0]


async def test_the_wait_for_an_invisible_task_is_bounded() -> None:
    """Half a minute after the start a 404 is the outcome of an own task."""
    async with Recorded(task_lag=1000.0, task_lag_share=1.0) as sandbox, connect(sandbox) as client:
        url = await client.companies.merge(1, 2)
        with pytest.raises(NotFoundError):
            await client.tasks.wait(url, timeout=None, backoff=wait_fixed(6))
        assert sandbox.polls(url) == [6.0, 12.0, 18.0, 24.0, 30.0]


async def test_merges_started_long_ago_are_forgotten() -> None:
    """Only the merges of the last half minute are remembered, however many a client starts."""
    async with Recorded(duration=0.0) as sandbox, connect(sandbox) as client:
        for number in range(1, 6):
            await client.companies.merge(2 * number, 2 * number + 1)
            await asyncio.sleep(20)
        assert client._opened is not None
        assert len(client._opened.poller._schedule.started) == 2


async def test_a_cancelled_waiter_does_not_affect_the_others(
    sandbox: Recorded, client: Client
) -> None:
    """Cancelling one of several waits for the same tasks does not affect the others."""
    urls = sandbox.start(5, duration=10.0)
    remaining = asyncio.create_task(client.tasks.wait_many(urls))
    cancelled_wait = asyncio.create_task(client.tasks.wait_many(urls))
    await asyncio.sleep(5)
    cancelled_wait.cancel()
    outcomes = await remaining
    assert len(outcomes.succeeded) == 5
    assert cancelled_wait.cancelled()
    await assert_idle(client)


async def test_two_jobs_share_a_client(sandbox: Recorded, client: Client) -> None:
    """Waits run together; an interval counts from the last poll of any, and the last are GETs."""
    urls = sandbox.start(4, duration=math.inf)
    short, long = await asyncio.gather(
        client.tasks.wait_many(urls, timeout=5.0, backoff=wait_fixed(2)),
        client.tasks.wait_many(urls, timeout=20.0, backoff=wait_fixed(7)),
    )
    assert {outcome.waited for outcome in short} == {5.0}
    assert {outcome.waited for outcome in long} == {20.0}
    assert sandbox.times == [0.0, 2.0, 4.0, *[5.0] * 4, 12.0, 19.0, *[20.0] * 4]


async def test_a_wait_with_frequent_polls_does_not_slow_another(
    sandbox: Recorded, client: Client
) -> None:
    """The polls of one wait are no attempts of another, which keeps its own short intervals."""
    (url,) = sandbox.start(1, duration=math.inf)
    patient = asyncio.create_task(client.tasks.wait_many([url], timeout=20.0))
    await client.tasks.wait_many([url], timeout=5.0, backoff=wait_fixed(0.1))
    left_at = now()
    await patient
    after = [poll for poll in sandbox.polls(url) if poll > left_at]
    assert after[0] - left_at <= 2.2
    assert 3.0 <= after[1] - after[0] <= 3.3
