"""CPU time of a poll, and of a task that a page answers, in real time.

The server is a process of its own. The contenders take turns in one process, so that each round
compares them under the same conditions; the ratios are medians over the rounds.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import affinity
import aiohttp
import msgspec

import aiotasks
from benchmarks.figures import median
from benchmarks.server import Server, serving


ROUNDS = 9
GETS = 300
AT_ONCE = 50
TASKS = 2000
PAGE = 100
WATCHED = 2.0
POLL_INTERVAL = 0.2

Turn = Callable[[], Awaitable[float]]
"""Work for a while, and return the microseconds of CPU that one unit of the work took."""


class Page(msgspec.Struct):
    """A page of tasks, as the bare loop reads it."""

    data: list[aiotasks.MergeTask]


def measure(*, quick: bool = False) -> dict[str, Any]:
    """Measure all of it."""
    rounds = 3 if quick else ROUNDS
    with serving(TASKS) as server:
        results = asyncio.run(_measure(server, rounds))
    with serving(TASKS, have_ended=True) as server:
        return results | asyncio.run(_measure_at_once(server, rounds))


async def _measure(server: Server, rounds: int) -> dict[str, Any]:
    async with _opened(server) as turns:
        polls = {
            "aiohttp + msgspec": turns.bare_get,
            "aiotasks": turns.our_get,
            "affinity-sdk": turns.sdk_get,
        }
        pages = {
            "aiohttp + msgspec": turns.bare_page,
            "aiotasks": turns.our_watch,
            "aiotasks, wait_many from start to end": turns.our_wait_many,
            "affinity-sdk": turns.sdk_pages,
        }
        return {
            "poll": await _compare(polls, rounds),
            "task_on_a_page": await _compare(pages, rounds)
            | {"answers_per_call_of_wait_many": round(median(turns.answers_per_call), 1)},
        }


async def _measure_at_once(server: Server, rounds: int) -> dict[str, Any]:
    async with _opened(server) as by_default, _opened(server, in_flight=AT_ONCE) as turns:
        polls = {
            "aiohttp + msgspec": turns.bare_at_once,
            "aiotasks, get": turns.our_gets_at_once,
            "aiotasks, get, 16 in flight": by_default.our_gets_at_once,
            "aiotasks, wait, by pages": turns.our_waits_at_once,
            "aiotasks, wait, by pages, 16 in flight": by_default.our_waits_at_once,
            "aiotasks, wait_many, by pages": turns.our_wait_many_of_ended,
        }
        compared = await _compare(polls, rounds)
        requests = await turns.requests_of(turns.our_waits_at_once)
        return {
            f"task_that_has_ended,_{AT_ONCE}_at_once": compared
            | {"requests_per_wait": round(requests / GETS, 3)}
        }


@asynccontextmanager
async def _opened(server: Server, in_flight: int = 16) -> AsyncIterator["_Turns"]:
    headers = {"Authorization": f"Bearer {server.api_key}", "Accept": "application/json"}
    async with (
        aiotasks.Client(server.api_key, base_url=server.url, max_in_flight=in_flight) as client,
        affinity.AsyncAffinity(
            server.api_key, v1_base_url=server.url, v2_base_url=f"{server.url}/v2"
        ) as sdk,
        aiohttp.ClientSession(headers=headers) as session,
    ):
        yield _Turns(server, client, sdk, session)


async def _compare(turns: Mapping[str, Turn], rounds: int) -> dict[str, Any]:
    taken: dict[str, list[float]] = {name: [] for name in turns}
    for turn in turns.values():
        _ = await turn()  # warms up connections, caches and branch predictors
    for _ in range(rounds):
        for name, turn in turns.items():
            taken[name].append(await turn())
    floor = taken["aiohttp + msgspec"]
    return {
        "unit": "microseconds of CPU",
        "rounds": rounds,
        "contenders": {
            name: {
                "median": round(median(numbers), 2),
                "to_floor": round(median(_ratios(numbers, floor)), 3),
                "all": [round(number, 2) for number in numbers],
            }
            for name, numbers in taken.items()
        },
    }


def _ratios(numbers: Sequence[float], floor: Sequence[float]) -> list[float]:
    return [number / least for number, least in zip(numbers, floor, strict=True)]


class _Turns:
    """The functions that are measured, one for each contender."""

    def __init__(
        self,
        server: Server,
        client: aiotasks.Client,
        sdk: affinity.AsyncAffinity,
        session: aiohttp.ClientSession,
    ) -> None:
        self._urls = server.task_urls
        self._batches = [
            server.task_urls[first : first + AT_ONCE] for first in range(0, GETS, AT_ONCE)
        ]
        self._client = client
        self._sdk = sdk
        self._session = session
        self._list_url = f"{server.url}/v2/tasks/company-merges?limit={PAGE}"
        self._task = msgspec.json.Decoder(aiotasks.MergeTask)
        self._page = msgspec.json.Decoder(Page)
        self.answers_per_call: list[float] = []

    async def bare_get(self) -> float:
        return await self._each_get(self._get)

    async def our_get(self) -> float:
        return await self._each_get(self._client.tasks.get)

    async def sdk_get(self) -> float:
        return await self._each_get(self._sdk.tasks.get)

    async def bare_page(self) -> float:
        started = time.process_time()
        for _ in range(TASKS // PAGE):
            async with self._session.get(self._list_url) as response:
                _ = self._page.decode(await response.read())
        return _microseconds(started, TASKS)

    async def our_watch(self) -> float:
        async with self._client.tasks.watch(
            self._urls,
            timeout=None,
            poll_interval=POLL_INTERVAL,
            max_poll_interval=POLL_INTERVAL,
        ) as watch:
            await asyncio.sleep(POLL_INTERVAL)
            before = sum(outcome.polls for outcome in watch.unsettled)
            started = time.process_time()
            await asyncio.sleep(WATCHED)
            taken = time.process_time() - started
            after = sum(outcome.polls for outcome in watch.unsettled)
        return taken / (after - before) * 1e6

    async def our_wait_many(self) -> float:
        sent = self._client.quota.sent
        started = time.process_time()
        outcomes = await self._client.tasks.wait_many(
            self._urls,
            timeout=WATCHED,
            poll_interval=POLL_INTERVAL,
            max_poll_interval=POLL_INTERVAL,
        )
        answers = sum(outcome.polls for outcome in outcomes)
        self.answers_per_call.append(answers / (self._client.quota.sent - sent))
        return _microseconds(started, answers)

    async def bare_at_once(self) -> float:
        return await self._all_at_once(self._get)

    async def our_gets_at_once(self) -> float:
        return await self._all_at_once(self._client.tasks.get)

    async def our_waits_at_once(self) -> float:
        return await self._all_at_once(self._client.tasks.wait)

    async def requests_of(self, turn: Turn) -> int:
        """Return how many requests a turn sends: waits share pages, so they send fewer than gets."""
        before = self._client.quota.sent
        _ = await turn()
        return self._client.quota.sent - before

    async def our_wait_many_of_ended(self) -> float:
        started = time.process_time()
        for urls in self._batches:
            (await self._client.tasks.wait_many(urls)).raise_for_failures()
        return _microseconds(started, AT_ONCE * len(self._batches))

    async def sdk_pages(self) -> float:
        started = time.process_time()
        count = 0
        async for _ in self._sdk.tasks.iter_merge_tasks("company"):
            count += 1
        return _microseconds(started, count)

    async def _each_get(self, get: Callable[[str], Awaitable[object]]) -> float:
        started = time.process_time()
        for url in self._urls[:GETS]:
            _ = await get(url)
        return _microseconds(started, GETS)

    async def _all_at_once(self, read: Callable[[str], Awaitable[object]]) -> float:
        started = time.process_time()
        for urls in self._batches:
            _ = await asyncio.gather(*map(read, urls))
        return _microseconds(started, AT_ONCE * len(self._batches))

    async def _get(self, url: str) -> aiotasks.MergeTask:
        async with self._session.get(url) as response:
            response.raise_for_status()
            return self._task.decode(await response.read())


def _microseconds(started: float, count: int) -> float:
    return (time.process_time() - started) / count * 1e6
