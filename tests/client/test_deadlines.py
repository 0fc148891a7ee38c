"""What a wait does with a short time, and at its deadline."""

import asyncio
import math
from random import Random

import pytest
from tenacity import wait_fixed

from aiotasks import Client, NotFoundError, Outcome, ServerError, TaskTimeoutError
from aiotasks._polling.final_polls import GRACE
from aiotasks.sandbox import PLAIN, Fault
from tests.servers import Recorded, assert_idle, connect, now


async def never_early(client: Client) -> None:
    """Let hardly a task end before its second poll, so that first polls are skipped."""
    url = await client.companies.merge(901, 902)
    await client.tasks.wait(url, poll_interval=0.3)


async def outcome_of(client: Client, verb: str, url: str, seconds: float) -> Outcome:
    """Wait by one of the verbs, for some seconds."""
    if verb == "wait_many":
        (outcome,) = await client.tasks.wait_many([url], timeout=seconds)
        return outcome
    async with client.tasks.watch([url], timeout=seconds) as watch:
        return await anext(watch)


VERBS = ["wait_many", "watch"]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("seconds", [0.1, 0.7, 1.0, 1.9, 2.5, 4.0, 6.0, 12.0])
@pytest.mark.parametrize("latency", [0.0, 0.05])
@pytest.mark.parametrize("duration", [0.5, math.inf])
async def test_a_wait_for_an_own_task_keeps_its_time(
    verb: str, seconds: float, latency: float, duration: float
) -> None:
    """However short a wait for a task that was started just now is, it polls, and takes its time."""
    async with (
        Recorded(**PLAIN, duration=1.0, latency=latency) as sandbox,
        connect(sandbox) as client,
    ):
        await never_early(client)
        sandbox.duration = duration
        url = await client.companies.merge(1, 2)
        began = now()
        outcome = await outcome_of(client, verb, url, seconds)
        assert outcome.polls >= 1
        assert outcome.waited == pytest.approx(now() - began)
        has_ended = duration <= seconds - latency
        assert (outcome.error is None) == has_ended
        if not has_ended:
            assert seconds - 1e-6 <= now() - began <= seconds + GRACE + 1e-6
        await assert_idle(client)


async def test_waiting_again_and_again_does_not_spin() -> None:
    """Who waits a second, again and again, makes a few polls a second, not a hot loop."""
    async with Recorded(duration=1.0) as sandbox, connect(sandbox) as client:
        await never_early(client)
        sandbox.duration = 20.0
        url = await client.companies.merge(1, 2)
        began, rounds = now(), 0
        while True:
            rounds += 1
            (outcome,) = await client.tasks.wait_many([url], timeout=1.0)
            if outcome.error is None:
                break
            assert outcome.waited == pytest.approx(1.0, abs=0.05)
        assert 20.0 <= now() - began <= 21.0
        assert rounds <= 21
        assert len(sandbox.polls(url)) <= 2 * rounds


async def test_a_peek_waits_for_its_answer() -> None:
    """A peek of a task that was started just now polls it at once."""
    async with Recorded(duration=9.0, latency=0.05) as sandbox, connect(sandbox) as client:
        url = await client.companies.merge(1, 2)
        began = now()
        assert (await client.tasks.peek(url, timeout=0.2)).task.status == "in-progress"
        assert now() - began == pytest.approx(0.05)


async def test_a_peek_knows_how_old_an_answer_is() -> None:
    """The age of a peek is that of the last answer, also when later polls found no task."""
    async with Recorded(duration=99.0) as sandbox, connect(sandbox) as client:
        (url,) = sandbox.start(1)
        wait = asyncio.create_task(client.tasks.wait(url, backoff=wait_fixed(4)))
        await asyncio.sleep(1.0)
        sandbox.inject(Fault.status(404), on="task", times=None)
        await asyncio.sleep(4.0)
        snapshot = await client.tasks.peek(url, interval=30.0)
        assert snapshot.age == pytest.approx(5.0)
        sandbox.clear_faults()
        await wait


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("seconds", [1.0, 8.0, 45.0])
async def test_the_last_poll_leaves_in_time_for_its_answer(seed: int, seconds: float) -> None:
    """With jitter, and when the API becomes slower while a wait goes on, its last poll is answered."""
    random = Random(seed)
    slow_from = seconds / 3

    def latency(_: Random) -> float:
        return random.uniform(0.2, 0.4) if now() > slow_from else random.uniform(0.02, 0.06)

    async with Recorded(latency=latency) as sandbox, connect(sandbox) as client:
        # Its last poll neither leaves so late that its answer is late, nor much earlier.
        (url,) = sandbox.start(1, duration=seconds - 0.9)
        others = sandbox.start(19, first=2, duration=math.inf)
        background = asyncio.create_task(
            client.tasks.wait_many(others, timeout=60.0, backoff=wait_fixed(0.2))
        )
        await client.tasks.wait(url, timeout=seconds, backoff=wait_fixed(40))
        assert now() <= seconds + GRACE + 1e-6
        background.cancel()


@pytest.mark.parametrize("count", [1, 3, 30])
@pytest.mark.parametrize("latency", [0.0, 0.1])
async def test_a_task_that_a_list_shows_in_progress_is_asked_for(
    count: int, latency: float
) -> None:
    """At the deadline the tasks themselves are polled, as the list that was polled may be stale."""
    async with Recorded(latency=latency) as sandbox, connect(sandbox) as client:
        urls = sandbox.start(count, duration=5.0)
        stale_since(sandbox, 0.0)
        outcomes = await client.tasks.wait_many(urls, timeout=8.0, backoff=wait_fixed(1))
        assert len(outcomes.succeeded) == count
        assert now() <= 8.05
        await assert_idle(client)


async def test_not_more_than_a_page_of_tasks_is_asked_for_at_a_deadline() -> None:
    """Of many tasks that time out together, a hundred are polled by GET, and the rest by page."""
    async with Recorded() as sandbox, connect(sandbox) as client:
        urls = sandbox.start(300, duration=math.inf)
        outcomes = await client.tasks.wait_many(urls, timeout=8.0, backoff=wait_fixed(5))
        assert len(outcomes.running) == 300
        assert {outcome.waited for outcome in outcomes} == {8.0}
        assert sandbox.calls["task"] == 100
        assert sandbox.calls["tasks"] == 9


def stale_since(sandbox: Recorded, at: float) -> None:
    """Let the lists of tasks stay as they are now."""
    rows = ",".join(
        f'{{"id": "{url.rsplit("/", 1)[1]}", "status": "in-progress"}}'
        for url in sandbox.task_urls("company")
    )
    body = f'{{"data": [{rows}], "pagination": {{"nextUrl": null}}}}'.encode()
    asyncio.get_running_loop().call_at(
        at, lambda: sandbox.inject(Fault.content(body), on="tasks", times=None)
    )


@pytest.mark.parametrize(
    ("fault", "words", "cause"),
    [
        (Fault.hang(), "no answer came", type(None)),
        (Fault.status(404), "not-found", NotFoundError),
        (Fault.content(b""), "no body", Exception),
        (Fault.status(503), "503", ServerError),
        (Fault.rate_limit(cause="concurrency"), "429", Exception),
    ],
    ids=["hang", "404", "empty", "503", "429"],
)
async def test_a_wait_without_an_answer_says_why(
    sandbox: Recorded, client: Client, fault: Fault, words: str, cause: type
) -> None:
    """A task that was never seen makes a timeout at the deadline, with what was in the way."""
    (url,) = sandbox.start(1)
    await client.refresh_quota()
    sandbox.inject(fault, on="task", times=None)
    (outcome,) = await client.tasks.wait_many([url], timeout=4.0)
    assert outcome.polls == 0
    assert outcome.waited == pytest.approx(4.0, abs=0.05)
    assert isinstance(outcome.error, TaskTimeoutError)
    assert "never seen: " in str(outcome.error)
    assert words in str(outcome.error)
    assert isinstance(outcome.error.__cause__, cause)
    with pytest.raises(TaskTimeoutError, match="never seen: ") as caught:
        await client.tasks.wait(url, timeout=1.0)
    assert isinstance(caught.value.__cause__, cause)


async def test_a_wait_without_a_slot_says_why() -> None:
    """A wait for which no request could be sent says so."""
    async with Recorded(quota=1) as sandbox, connect(sandbox) as client:
        (url,) = sandbox.start(1)
        await client.refresh_quota()
        (outcome,) = await client.tasks.wait_many([url], timeout=4.0)
    assert outcome.polls == 0
    assert outcome.waited == pytest.approx(4.0, abs=0.05)
    assert "no request could be sent" in str(outcome.error)
