"""A web application with a new folder of jobs, and a sandbox."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace

from aiotasks import Client
from aiotasks.dedupe import JobResult, JobSettings, resume
from aiotasks.sandbox import Sandbox
from aiotasks.web import _events, _runner, jobs_app


class Event(NamedTuple):
    """A server-sent event."""

    name: str
    data: Any
    seq: int | None


class Answer(NamedTuple):
    """A complete response."""

    status: int
    headers: Any
    text: str
    json: Any


class Site:
    """A running application, and the requests that users make."""

    def __init__(self, url: str, session: aiohttp.ClientSession, folder: Path) -> None:
        self.url = url
        self.session = session
        self.folder = folder

    async def ask(self, path: str, *, method: str = "GET", **settings: Any) -> Answer:
        """Send a request to a path below the application's mount point."""
        url = f"{self.url}/{path}"
        async with self.session.request(method, url, allow_redirects=False, **settings) as answer:
            text = await answer.text()
            is_json = answer.content_type == "application/json"
            return Answer(
                answer.status, answer.headers, text, await answer.json() if is_json else None
            )

    async def send(self, path: str, **settings: Any) -> Answer:
        """Send a POST."""
        return await self.ask(path, method="POST", **settings)

    async def upload(self, count: int = 3, **params: str) -> Any:
        """Upload a job of some pairs, and return its JSON."""
        rows = "".join(f"{2 * n - 1},{2 * n}\n" for n in range(1, count + 1))
        params = {"kind": "company", "name": "pairs.csv", **params}
        answer = await self.send("jobs", params=params, data=f"primary_id,duplicate_id\n{rows}")
        assert answer.status == 201, answer.text
        return answer.json

    async def start(self, job: Any, **more: Any) -> Answer:
        """Start a job as its page does."""
        return await self.send(
            f"jobs/{job['id']}/start", json={"fingerprint": job["fingerprint"], **more}
        )

    async def finish(self, job: Any, **more: Any) -> Any:
        """Run a job to its end, and return its JSON."""
        async with self.watch(job) as events:
            assert (await self.start(job, **more)).status == 202
            async for event in events:
                if event.name == "done":
                    break
        return (await self.ask(f"jobs/{job['id']}")).json

    @asynccontextmanager
    async def watch(self, job: Any, **settings: Any) -> AsyncIterator[AsyncIterator[Event]]:
        """Follow the events of a job."""
        url = f"{self.url}/jobs/{job['id']}/events"
        async with self.session.get(url, **settings) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.content_type == "text/event-stream"
            yield events_of(answer)


async def events_of(answer: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    fields: dict[str, str] = {}
    async for line in answer.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif "event" in fields:
            data = json.loads(fields["data"])
            seq = int(fields["id"]) if "id" in fields else None
            yield Event(fields["event"], data, seq)
            fields = {}


OpenSite = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merges of the tests are short, so everything is polled sooner."""

    async def poll_often(*opened: Any, settings: JobSettings, **more: Any) -> JobResult:
        return await resume(*opened, settings=replace(settings, poll_interval=0.02), **more)

    monkeypatch.setattr(_runner, "resume", poll_often)
    monkeypatch.setattr(_events, "_TICK", 0.05)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    asyncio.get_running_loop().set_debug(False)
    async with Sandbox(quota=0, month_quota=0, duration=0.0) as sandbox:
        yield sandbox


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[Client]:
    async with Client("sandbox-key", base_url=sandbox.url) as client:
        yield client


@pytest.fixture
def open_site(client: Client, tmp_path: Path) -> OpenSite:
    """Open an application with the given settings, mounted in another one."""

    @asynccontextmanager
    async def open_site(**settings: Any) -> AsyncIterator[Site]:
        parent = web.Application()
        parent.add_subapp("/merges", jobs_app(client, tmp_path, **settings))
        runner = web.AppRunner(parent, access_log=None, lingering_time=0.1)
        # Cookies of IP addresses are kept, too. Clients are connected until the application ends.
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as session:
            await runner.setup()
            try:
                listener = socket.create_server(("127.0.0.1", 0))
                # So small that the server soon blocks on a client that does not read.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
                await web.SockSite(runner, listener).start()
                url = f"http://127.0.0.1:{runner.addresses[0][1]}/merges"
                yield Site(url, session, tmp_path)
            finally:
                await runner.cleanup()

    return open_site


@pytest.fixture
async def site(open_site: OpenSite) -> AsyncIterator[Site]:
    async with open_site() as site:
        yield site
