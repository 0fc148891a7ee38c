"""Waiting for one task: when it is polled, when the wait ends, and with what."""

import asyncio
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from tenacity import RetryCallState, wait_chain, wait_fixed, wait_incrementing

from aiotasks import (
    AffinityError,
    AuthenticationError,
    Client,
    ConfigurationError,
    TaskFailedError,
    TaskStatus,
    TaskTimeoutError,
    UnknownStatusError,
)
from aiotasks.sandbox import Fault
from tests.servers import Recorded, assert_idle, connect, now


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


async def timed_out(client: Client, task_url: str, **settings: Any) -> TaskTimeoutError:
    with pytest.raises(TaskTimeoutError) as caught:
        await client.tasks.wait(task_url, **settings)
    return caught.value


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [2, 3, 4.5, 6.75, 10.125, 15.1875, 22.78125, 30, 30, 30, 30]),
        ({"poll_interval": 1, "max_poll_interval": 2}, [1, 1.5, 2, 2, 2]),
        ({"poll_interval": 40.0}, [40, 40, 40, 40]),
    ],
)
async def test_polls_follow_the_backoff(
    sandbox: Recorded, client: Client, settings: dict[str, float], expected: list[float]
) -> None:
    """A task is polled immediately, then after growing intervals up to the cap, and at the deadline."""
    (url,) = sandbox.start(1, duration=math.inf)
    await timed_out(client, url, timeout=200.0, **settings)
    polls = sandbox.polls(url)
    assert polls[0] == 0.0
    assert polls[-1] == 200.0
    between = gaps(polls)[:-1]
    assert len(between) >= len(expected) - 3
    for gap, interval in zip(between, expected, strict=False):
        assert interval <= gap <= interval * 1.1 + 1e-5


async def test_jitter_spreads_the_polls(sandbox: Recorded, client: Client) -> None:
    """Jitter separates the polls of two waits that begin together."""
    first, second = sandbox.start(2, duration=math.inf)
    await asyncio.gather(timed_out(client, first), timed_out(client, second))
    assert sandbox.log[0].path == "/v2/tasks/company-merges?limit=100"
    assert 0.0 == sandbox.times[0] < sandbox.times[1]
    polls = sandbox.polls(first), sandbox.polls(second)
    assert all(polls)
    assert {*polls[0]} & {*polls[1]} == {300.0}


@pytest.mark.parametrize("kind", ["company", "person"])
async def test_a_wait_returns_the_task_as_it_ended(
    sandbox: Recorded, client: Client, kind: Any
) -> None:
    """The first poll after its end returns the task, and nothing is polled after it."""
    url = sandbox.start_merge(kind, 1, 2, duration=5.0)
    task = await client.tasks.wait(url)
    assert task.status == "success"
    assert task.results_summary is not None
    assert (task.results_summary.total, task.results_summary.success) == (1, 1)
    assert now() == sandbox.polls(url)[-1]
    assert 5.0 <= now() <= 5.5
    assert sandbox.requests == 3
    await assert_idle(client)


async def test_the_final_poll_is_at_the_deadline(sandbox: Recorded, client: Client) -> None:
    """The final poll at the deadline finds a task that ended just before it."""
    (url,) = sandbox.start(1, duration=9.999)
    task = await client.tasks.wait(url, timeout=10.0, backoff=wait_fixed(7))
    assert task.status == "success"
    assert sandbox.polls(url) == [0.0, 7.0, 10.0]


async def test_the_final_poll_starts_early_enough_to_be_answered(sandbox: Recorded) -> None:
    """With slow answers the final poll is sent early enough to be answered before the deadline."""
    sandbox.latency = 0.5
    (url,) = sandbox.start(1, duration=9.5)
    async with connect(sandbox) as client:
        task = await client.tasks.wait(url, timeout=10.0, backoff=wait_fixed(6))
    assert task.status == "success"
    assert sandbox.polls(url) == pytest.approx([0.0, 6.5, 9.52], abs=1e-3)
    assert now() <= 10.05


async def test_a_timeout_of_zero_polls_once(sandbox: Recorded, client: Client) -> None:
    """With no time at all there is one poll, and its task is the result."""
    running, ended = sandbox.start(1, duration=60.0) + sandbox.start(1, first=2, duration=0.0)
    assert (await client.tasks.wait(ended, timeout=0)).status == "success"
    error = await timed_out(client, running, timeout=0)
    assert error.task is not None
    assert sandbox.polls(running) == [0.0]
    assert now() <= 0.05


async def test_without_a_timeout_a_wait_goes_on(sandbox: Recorded, client: Client) -> None:
    """``timeout=None`` waits for days, at the longest interval."""
    (url,) = sandbox.start(1, duration=50_000.0)
    task = await client.tasks.wait(url, timeout=None, max_poll_interval=600.0)
    assert task.status == "success"
    assert 50_000.0 <= now() <= 50_660.0


async def test_the_default_timeout_is_five_minutes(sandbox: Recorded, client: Client) -> None:
    """Without a timeout of the caller a wait times out after 300 seconds."""
    (url,) = sandbox.start(1, duration=math.inf)
    error = await timed_out(client, url)
    assert 300.0 <= now() <= 300.05
    assert error.waited == pytest.approx(now())


def hanging(sandbox: Recorded) -> None:
    sandbox.inject(Fault.hang(), times=None)


def slow(seconds: float) -> Callable[[Recorded], None]:
    def make(sandbox: Recorded) -> None:
        sandbox.latency = seconds

    make.__name__ = f"slow by {seconds:g}"
    return make


def asking_to_retry_after_an_hour(sandbox: Recorded) -> None:
    sandbox.inject(Fault.rate_limit(retry_after=3600), times=None)


def overloaded_for_an_hour(sandbox: Recorded) -> None:
    sandbox.inject(Fault.status(503, retry_after=3600), times=None)


def exhausted(sandbox: Recorded) -> None:
    sandbox.set_quota(5)
    sandbox.use_quota(4)


def refusing(sandbox: Recorded) -> None:
    sandbox.set_quota(5)
    sandbox.use_quota(5)


def dropping(sandbox: Recorded) -> None:
    sandbox.inject(Fault.disconnect(), times=None)


TROUBLES = [
    hanging,
    slow(0.03),
    slow(0.3),
    slow(2.0),
    slow(100.0),
    asking_to_retry_after_an_hour,
    overloaded_for_an_hour,
    exhausted,
    refusing,
    dropping,
]


@pytest.mark.parametrize("seconds", [0.0, 0.7, 10.0, 33.3])
@pytest.mark.parametrize("trouble", TROUBLES)
async def test_every_wait_ends_at_its_deadline(
    sandbox: Recorded, client: Client, trouble: Callable[[Recorded], None], seconds: float
) -> None:
    """A wait ends at its deadline, at most 50 ms late, however the server behaves."""
    (url,) = sandbox.start(1, duration=math.inf)
    await client.tasks.get(url)
    trouble(sandbox)
    error = await timed_out(client, url, timeout=seconds)
    assert seconds <= now() + 1e-6
    assert now() <= seconds + 0.05
    assert error.waited == pytest.approx(now())


async def test_a_timeout_carries_the_last_known_task(sandbox: Recorded, client: Client) -> None:
    """The error has the task, its URL and the next step, and is a TimeoutError too."""
    (url,) = sandbox.start(1, duration=math.inf)
    error = await timed_out(client, url, timeout=1.0)
    assert isinstance(error, TimeoutError)
    assert error.task_url == url
    assert error.task is not None
    assert error.task.status is TaskStatus.IN_PROGRESS
    assert "last seen as in-progress" in str(error)
    assert url in str(error)


async def test_a_timeout_without_an_answer(sandbox: Recorded, client: Client) -> None:
    """A timeout without a single answer has no task."""
    (url,) = sandbox.start(1)
    hanging(sandbox)
    error = await timed_out(client, url, timeout=1.0)
    assert error.task is None
    assert "never seen" in str(error)


async def test_a_failure_has_the_servers_reason(sandbox: Recorded, client: Client) -> None:
    """The reason, which only the merge history has, costs one call."""
    (url,) = sandbox.start(1, duration=1.0, reason="Primary company not found")
    with pytest.raises(TaskFailedError) as caught:
        await client.tasks.wait(url)
    assert caught.value.reason == "Primary company not found"
    assert caught.value.task.status == "failed"
    assert caught.value.task_url == url
    assert "Primary company not found" in str(caught.value)
    assert sandbox.calls == {"task": 2, "merges": 1}
    assert now() == sandbox.polls(url)[-1]
    await assert_idle(client)


async def test_a_partial_failure_is_a_failure(sandbox: Recorded, client: Client) -> None:
    """A task whose status is success is a failure if one of its merges failed."""
    (url,) = sandbox.start(1, duration=1.0)
    sandbox.start_merge("company", 3, 4, duration=1.0, reason="Locked", task_url=url)
    with pytest.raises(TaskFailedError) as caught:
        await client.tasks.wait(url)
    assert caught.value.task.status == "success"
    assert caught.value.reason == "Locked"
    assert "1 of its 2 merges" in str(caught.value)


@pytest.mark.parametrize("status", ["pending", "in-progress", "reviewing"])
async def test_a_task_in_progress_runs_with_any_status(
    sandbox: Recorded, client: Client, status: str
) -> None:
    """With any status, known or not, a task is waited for while one of its merges is in progress."""
    (url,) = sandbox.start(1, duration=20.0)
    sandbox.set_status(url, status)
    asyncio.get_running_loop().call_at(20.0, sandbox.set_status, url, None)
    assert (await client.tasks.wait(url)).status == "success"
    assert now() >= 20.0


async def test_an_unknown_status_is_an_outcome_of_its_own(
    sandbox: Recorded, client: Client
) -> None:
    """An unknown status with nothing in progress is neither success nor failure."""
    (url,) = sandbox.start(1, duration=3.0)
    sandbox.set_status(url, "archived")
    with pytest.raises(UnknownStatusError, match="archived") as caught:
        await client.tasks.wait(url)
    assert caught.value.task.status == "archived"
    assert caught.value.task_url == url
    assert 3.0 <= now() <= 5.5


@pytest.mark.parametrize(
    ("backoff", "polls"),
    [
        (wait_fixed(3), [0.0, 3.0, 6.0, 9.0, 10.0]),
        (wait_incrementing(1, 1), [0.0, 1.0, 3.0, 6.0, 10.0]),
        (wait_chain(wait_fixed(1), wait_fixed(4)), [0.0, 1.0, 5.0, 9.0, 10.0]),
        (lambda state: 2.0 * state.attempt_number, [0.0, 2.0, 6.0, 10.0]),
    ],
    ids=["fixed", "incrementing", "chain", "function"],
)
async def test_any_strategy_of_tenacity_sets_the_intervals(
    sandbox: Recorded, client: Client, backoff: Any, polls: list[float]
) -> None:
    """``backoff`` is called for each interval, and the deadline bounds it."""
    (url,) = sandbox.start(1, duration=math.inf)
    await timed_out(client, url, timeout=10.0, backoff=backoff)
    assert sandbox.polls(url) == polls


@pytest.mark.parametrize("seconds", [0.0, -5.0])
async def test_a_strategy_cannot_busy_loop(
    sandbox: Recorded, client: Client, seconds: float
) -> None:
    """Polls are at least a hundredth of a second apart, whatever the strategy returns."""
    (url,) = sandbox.start(1, duration=math.inf)
    await timed_out(client, url, timeout=0.1, backoff=lambda _state: seconds)
    assert 5 <= len(sandbox.polls(url)) <= 12


def raising(_state: RetryCallState) -> float:
    message = "no more"
    raise LookupError(message)


@pytest.mark.parametrize(
    "backoff",
    [
        raising,
        lambda _state: "soon",
        lambda _state: None,
        wait_fixed(math.inf),
        lambda _state: math.nan,
    ],
    ids=["raises", "text", "none", "never", "nan"],
)
async def test_a_broken_strategy_ends_its_own_wait(
    sandbox: Recorded, client: Client, backoff: Any
) -> None:
    """A strategy that raises or returns no number ends its own wait, and only that."""
    (url,) = sandbox.start(1, duration=5.0)
    good = asyncio.create_task(client.tasks.wait(url))
    with pytest.raises(ConfigurationError, match=r"backoff strategy .* at attempt 1"):
        await client.tasks.wait(url, backoff=backoff)
    assert (await good).status == "success"


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": -1},
        {"timeout": math.nan},
        {"timeout": math.inf},
        {"poll_interval": 0},
        {"poll_interval": -2},
        {"poll_interval": math.nan},
        {"max_poll_interval": 0},
        {"max_poll_interval": math.inf},
    ],
)
async def test_invalid_settings_are_refused(
    sandbox: Recorded, client: Client, settings: dict[str, float]
) -> None:
    """An invalid setting is named, and nothing is sent."""
    (url,) = sandbox.start(1)
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        await client.tasks.wait(url, **settings)  # type: ignore[arg-type]
    assert sandbox.requests == 0


async def test_an_unusable_url_is_refused_immediately(sandbox: Recorded, client: Client) -> None:
    """A URL that is not that of a task is an error before anything is sent."""
    with pytest.raises(ConfigurationError, match="is not a task URL"):
        await client.tasks.wait("https://api.affinity.co/v2/companies/1")
    assert sandbox.requests == 0


async def test_a_callers_timeout_stays_the_callers(sandbox: Recorded, client: Client) -> None:
    """``asyncio.timeout`` around a wait ends it with a plain TimeoutError, and nothing is left."""
    running, ended = sandbox.start(1, duration=math.inf) + sandbox.start(1, first=2, duration=0)
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(5.0):
            await client.tasks.wait(running)
    assert not isinstance(caught.value, AffinityError)
    assert now() == 5.0
    await client.tasks.wait(ended)
    await assert_idle(client)


async def test_two_waits_for_one_task_share_one_poll(sandbox: Recorded, client: Client) -> None:
    """Waits that are due together share one poll."""
    (url,) = sandbox.start(1, duration=9.0)
    waits = [client.tasks.wait(url, backoff=wait_fixed(3)) for _ in range(50)]
    tasks = await asyncio.gather(*waits)
    assert {task.status for task in tasks} == {"success"}
    assert sandbox.times == [0.0, 3.0, 6.0, 9.0]


async def test_the_answer_to_one_wait_counts_for_all(sandbox: Recorded, client: Client) -> None:
    """The answer to a poll of one wait ends the others too, before their own next poll."""
    (url,) = sandbox.start(1, duration=4.0)
    slow_one = asyncio.create_task(client.tasks.wait(url, backoff=wait_fixed(100)))
    await client.tasks.wait(url, backoff=wait_fixed(5))
    await slow_one
    assert now() == 5.0
    assert sandbox.times == [0.0, 5.0]


async def test_each_wait_raises_an_error_of_its_own(sandbox: Recorded, client: Client) -> None:
    """One answer that ends several waits raises a separate exception in each."""
    sandbox.inject(Fault.status(401))
    waits = [client.tasks.wait(url) for url in sandbox.start(3)]
    errors = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(error) for error in errors] == [AuthenticationError] * 3
    assert len({id(error) for error in errors}) == 3
    assert len({str(error) for error in errors}) == 1
    assert sandbox.requests == 1


async def test_a_poll_ends_with_its_last_waiter(sandbox: Recorded, client: Client) -> None:
    """A poll without waiters is cancelled at the deadline, and its slot is free."""
    (url,) = sandbox.start(1, duration=0.0)
    sandbox.inject(Fault.hang())
    await timed_out(client, url, timeout=5.0)
    assert (await client.tasks.get(url)).status == "success"
    assert now() <= 5.05
    assert sandbox.in_flight == 0
    await assert_idle(client)
