"""The bulk job as a careful program without a client library would do it.

Each merge is an asyncio task of its own that posts and then polls its task, after 2 s first and
1.5 times as long each time, up to 30 s. Requests are bounded, and refusals are waited out as the
headers say.
"""

import asyncio
from collections.abc import Mapping
from random import Random
from typing import Any

import aiohttp
from msgspec import json
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from benchmarks.contenders.job import PATIENCE, Job


POLL_INTERVAL, MAX_POLL_INTERVAL, GROWTH = 2.0, 30.0, 1.5
MAX_IN_FLIGHT = 16
TOO_MANY = 429
_MINUTE = 60.0


class Refused(Exception):  # noqa: N818 - it is no error, only a reason to wait
    """A 429 was answered.

    Attributes:
        seconds: how long to wait, according to the answer.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__("429")
        delay = headers.get("Retry-After") or headers.get("X-Ratelimit-Limit-User-Reset")
        self.seconds = float(delay or _MINUTE)


class HandWritten:
    """A small client: it bounds the requests in flight, and waits after refusals.

    Args:
        session: sends the requests.
        random: draws the jitter.
        shares_pause: whether one refusal makes all requests wait, and not only the refused one.
        poll_interval: seconds before the second poll of a task.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        random: Random,
        *,
        shares_pause: bool,
        poll_interval: float = POLL_INTERVAL,
    ) -> None:
        self._session = session
        self._random = random
        self._shares_pause = shares_pause
        self._poll_interval = poll_interval
        self._paused_until = 0.0
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._retrying = AsyncRetrying(
            retry=retry_if_exception_type((Refused, aiohttp.ClientConnectionError)),
            wait=self._backoff,
        )

    async def merge(self, primary_id: int, duplicate_id: int) -> str:
        """Start a merge and return its task URL."""
        body = {"primaryCompanyId": primary_id, "duplicateCompanyId": duplicate_id}
        answer: Any = await self._retrying(self._send, "POST", "/v2/company-merges", json=body)
        return str(answer["taskUrl"])

    async def wait(self, task_url: str) -> str:
        """Poll a task until it has ended, and return its status."""
        interval = self._poll_interval
        async with asyncio.timeout(PATIENCE):
            while True:
                task: Any = await self._retrying(self._send, "GET", task_url)
                if task["status"] in {"success", "failed"}:
                    return str(task["status"])
                await asyncio.sleep(interval * self._random.uniform(1.0, 1.1))
                interval = min(interval * GROWTH, MAX_POLL_INTERVAL)

    async def _send(self, method: str, url: str, **settings: Any) -> Any:
        async with self._slots:
            await self._wait_out_pause()
            async with self._session.request(method, url, **settings) as response:
                if response.status == TOO_MANY:
                    refusal = Refused(response.headers)
                    self._paused_until = asyncio.get_running_loop().time() + refusal.seconds
                    raise refusal
                response.raise_for_status()
                return json.decode(await response.read())

    async def _wait_out_pause(self) -> None:
        pause = self._paused_until - asyncio.get_running_loop().time()
        if self._shares_pause and pause > 0:
            await asyncio.sleep(pause)

    def _backoff(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        seconds = error.seconds if isinstance(error, Refused) else 1.0
        return seconds + self._random.random()


async def run(job: Job) -> None:
    """Let each refused request wait by itself, as a decorated function does."""
    await _run(job, shares_pause=False)


async def run_with_shared_pause(job: Job) -> None:
    """Let one refusal hold back all requests, as a second, more careful version does."""
    await _run(job, shares_pause=True)


async def _run(job: Job, *, shares_pause: bool) -> None:
    random = Random(job.seed)  # noqa: S311 - a seed has to bring the same again
    headers = {"Authorization": f"Bearer {job.api_key}"}
    connector = aiohttp.TCPConnector(limit=MAX_IN_FLIGHT)
    async with (
        aiohttp.ClientSession(job.url, headers=headers, connector=connector) as session,
        asyncio.TaskGroup() as group,
    ):
        client = HandWritten(session, random, shares_pause=shares_pause)
        for pair in job.pairs:
            _ = group.create_task(_follow(job, client, pair))


async def _follow(job: Job, client: HandWritten, pair: tuple[int, int]) -> None:
    verb = "merge"
    try:
        task_url = await client.merge(*pair)
        verb = "wait"
        status = await client.wait(task_url)
    except (aiohttp.ClientError, TimeoutError) as error:
        job.fail(verb, error)
        return
    if status == "success":
        job.end(task_url)
    else:
        job.fail(verb, status)
