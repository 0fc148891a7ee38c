"""Watching: outcomes in the order in which tasks end, and more URLs at any time."""

import asyncio
import math
from typing import Any

import pytest
from tenacity import wait_fixed

from aiotasks import Client, ClosedError, ConfigurationError, OutcomeState, TaskTimeoutError
from tests.servers import Recorded, assert_idle, now


async def test_outcomes_are_in_the_order_of_the_ends(sandbox: Recorded, client: Client) -> None:
    """The iteration is in the order of the ends, and stops by itself after the URLs given."""
    urls = [
        sandbox.start_merge("company", 2 * n + 1, 2 * n + 2, duration=float(duration))
        for n, duration in enumerate([5, 2, 8])
    ]
    async with client.tasks.watch(urls, backoff=wait_fixed(1)) as watch:
        seen = [(outcome.url, now()) async for outcome in watch]
    assert seen == [(urls[1], 2.0), (urls[0], 5.0), (urls[2], 8.0)]
    await assert_idle(client)


async def test_urls_are_added_while_it_runs(sandbox: Recorded, client: Client) -> None:
    """A URL added during the iteration is waited for like the rest, until ``close``."""
    urls = sandbox.start(4, duration=3.0)
    seen = []
    async with client.tasks.watch(backoff=wait_fixed(1)) as watch:
        watch.add(urls[0])
        async for outcome in watch:
            assert outcome.state is OutcomeState.SUCCESS
            seen.append(outcome.url)
            if len(seen) < 4:
                watch.add(urls[len(seen)])
            else:
                watch.close()
    assert seen == urls
    assert watch.count == 4


async def test_after_an_add_a_watch_is_open_until_closed(sandbox: Recorded, client: Client) -> None:
    """After an ``add`` the iteration waits for more URLs or for ``close``."""
    first, second = sandbox.start(2, duration=0.0)
    loop = asyncio.get_running_loop()
    async with client.tasks.watch([first]) as watch:
        watch.add(second)
        loop.call_at(50.0, watch.close)
        outcomes = [outcome async for outcome in watch]
    assert {outcome.url for outcome in outcomes} == {first, second}
    assert len(outcomes) == 2
    assert now() == 50.0


async def test_an_empty_watch_waits_for_urls(sandbox: Recorded, client: Client) -> None:
    """A watch opened without URLs waits for the first ``add``."""
    (url,) = sandbox.start(1, duration=0.0)
    async with client.tasks.watch() as watch:
        asyncio.get_running_loop().call_at(20.0, watch.add, url)
        assert (await anext(watch)).url == url
        assert now() == 20.0


async def test_closing_an_empty_watch_ends_it(client: Client) -> None:
    """A watch that is closed with nothing pending ends immediately."""
    async with client.tasks.watch() as watch:
        watch.close()
        assert [outcome async for outcome in watch] == []
        assert repr(watch) == "<Watch: 0 of 0 pending, closed>"


async def test_what_is_pending_goes_on_after_close(sandbox: Recorded, client: Client) -> None:
    """``close`` refuses more URLs and does not affect those that were added."""
    urls = sandbox.start(3, duration=4.0)
    async with client.tasks.watch(urls[:2], backoff=wait_fixed(2)) as watch:
        watch.close()
        assert repr(watch) == "<Watch: 2 of 2 pending, closed>"
        with pytest.raises(ClosedError, match="before close"):
            watch.add(urls[2])
        # Tasks that one page shows end in its order, newest first.
        assert [outcome.url async for outcome in watch] == urls[1::-1]
        with pytest.raises(StopAsyncIteration):
            await anext(watch)


async def test_a_watch_must_be_entered(sandbox: Recorded, client: Client) -> None:
    """Before its scope and after it a watch accepts no URL."""
    (url,) = sandbox.start(1)
    watch = client.tasks.watch()
    with pytest.raises(ClosedError, match="async with"):
        watch.add(url)
    async with watch:
        assert repr(watch) == "<Watch: 0 of 0 pending, open>"
    with pytest.raises(ClosedError, match="async with"):
        watch.add(url)
    assert sandbox.requests == 0


async def test_a_watch_is_entered_once(sandbox: Recorded, client: Client) -> None:
    """A watch that was left cannot be entered again: its outcomes would mix with old ones."""
    (url,) = sandbox.start(1)
    watch = client.tasks.watch([url])
    async with watch:
        with pytest.raises(ClosedError, match="once"):
            await watch.__aenter__()
    with pytest.raises(ClosedError, match="once"):
        await watch.__aenter__()
    await client.tasks.wait(url)
    await assert_idle(client)


async def test_a_finished_watch_accepts_no_url(sandbox: Recorded, client: Client) -> None:
    """Once the iteration of a watch has ended an ``add`` is an error, not a lost URL."""
    urls = sandbox.start(2, duration=0.0)
    async with client.tasks.watch(urls[:1]) as watch:
        assert [outcome.url async for outcome in watch] == urls[:1]
        with pytest.raises(ClosedError):
            watch.add(urls[1])


async def test_a_timeout_counts_from_the_add(sandbox: Recorded, client: Client) -> None:
    """Each task has the whole time, however late it was added."""
    urls = sandbox.start(3, duration=math.inf)
    loop = asyncio.get_running_loop()
    async with client.tasks.watch(urls[:1], timeout=10.0) as watch:
        loop.call_at(4.0, watch.add, urls[1])
        loop.call_at(7.5, watch.add, urls[2])
        ends = []
        for _ in range(3):
            outcome = await anext(watch)
            assert isinstance(outcome.error, TaskTimeoutError)
            assert outcome.waited == 10.0
            ends.append(now())
    assert ends == [10.0, 14.0, 17.5]


async def test_leaving_early_discards_the_rest(sandbox: Recorded, client: Client) -> None:
    """After the scope nothing more is polled, and the server's tasks go on."""
    urls = sandbox.start(50, duration=5.0)
    async with client.tasks.watch(urls, backoff=wait_fixed(2)) as watch:
        await asyncio.sleep(3.0)
        assert repr(watch) == "<Watch: 50 of 50 pending, open>"
    await assert_idle(client)
    before = sandbox.requests
    await asyncio.sleep(100.0)
    assert sandbox.requests == before
    assert {sandbox.status(url) for url in urls} == {"success"}


async def test_an_iteration_can_be_resumed(sandbox: Recorded, client: Client) -> None:
    """Within the scope an iteration can be resumed where it stopped."""
    urls = sandbox.start(3, duration=0.0)
    async with client.tasks.watch(urls) as watch:
        assert (await anext(watch)).url == urls[2]
        assert [outcome.url async for outcome in watch] == urls[1::-1]


async def test_an_error_in_the_body_is_raised_unchanged(sandbox: Recorded, client: Client) -> None:
    """An error that the body of a watch raises is not wrapped, and nothing is left behind."""

    async def use() -> None:
        async with client.tasks.watch(sandbox.start(3)):
            message = "mine"
            raise LookupError(message)

    with pytest.raises(LookupError, match="mine"):
        await use()
    await assert_idle(client)


async def test_invalid_urls_are_outcomes_here_too(sandbox: Recorded, client: Client) -> None:
    """An invalid URL does not end the watch."""
    (good,) = sandbox.start(1, duration=0.0)
    bad: Any = 7
    async with client.tasks.watch([good]) as watch:
        watch.add(bad)
        watch.close()
        outcomes = [outcome async for outcome in watch]
    assert [outcome.url for outcome in outcomes] == [bad, good]
    assert isinstance(outcomes[0].error, ConfigurationError)


async def test_the_same_url_twice_gives_two_outcomes(sandbox: Recorded, client: Client) -> None:
    """Every ``add`` has an outcome, and equal ones share their polls."""
    (url,) = sandbox.start(1, duration=2.0)
    async with client.tasks.watch([url, url], backoff=wait_fixed(2)) as watch:
        outcomes = [outcome async for outcome in watch]
    assert len(outcomes) == 2
    assert sandbox.times == [0.0, 2.0]


async def test_a_watch_may_be_left_while_another_iterates(
    sandbox: Recorded, client: Client
) -> None:
    """Leaving the scope ends an iteration that waits in another task."""
    watch = client.tasks.watch(sandbox.start(2, duration=math.inf))

    async def iterate() -> list[object]:
        return [outcome async for outcome in watch]

    async with watch:
        iterating = asyncio.create_task(iterate())
        await asyncio.sleep(1.0)
    assert await iterating == []


async def test_unfinished_outcomes_can_be_read(sandbox: Recorded, client: Client) -> None:
    """``unsettled`` returns the outcomes of the unfinished waits as of now, without ending them."""
    running, failed, ended = sandbox.start(3, duration=math.inf)
    sandbox.finish(ended)
    sandbox.finish(failed, outcome="failed", reason="Locked")
    async with client.tasks.watch([running, failed, ended]) as watch:
        assert (await anext(watch)).url == ended
        states = {outcome.url: outcome.state for outcome in watch.unsettled}
        assert states == {running: OutcomeState.RUNNING, failed: OutcomeState.FAILED}
        outcome = await anext(watch)
        assert (outcome.url, outcome.reason) == (failed, "Locked")
        assert [left.url for left in watch.unsettled] == [running]


async def test_a_failure_is_reported_before_its_reason(sandbox: Recorded, client: Client) -> None:
    """``on_failure`` gets the URL of a failed task once, some seconds before its outcome."""
    failed = sandbox.start_merge("company", 1, 2, duration=3.0, outcome="failed")
    others = sandbox.start(2, duration=60.0)
    seen: list[tuple[str, float]] = []
    async with client.tasks.watch(
        [failed, *others],
        backoff=wait_fixed(1),
        on_failure=lambda url: seen.append((url, now())),
    ) as watch:
        ends = {outcome.url: now() async for outcome in watch}
    assert seen == [(failed, 3.0)]
    assert ends[failed] == 13.0
