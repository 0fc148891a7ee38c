"""A sandbox, a client of it, and servers that send fixed bytes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import pytest

from aiotasks import Client, _spans, instrument
from aiotasks.sandbox import PLAIN, Fault, Sandbox


class Recorded(Sandbox):
    """A sandbox with short names for what tests read from its log."""

    def polls(self, task_url: str) -> list[float]:
        """Return when a task was polled by GET."""
        target = task_url[task_url.index("/v2/") :]
        return [request.at for request in self.log if request.path == target]

    @property
    def times(self) -> list[float]:
        """Return when each request arrived."""
        return [request.at for request in self.log]

    def forget(self) -> None:
        """Forget all merges and tasks of companies, like a server that is put up anew."""
        self.seed += 1
        states = {**self._app.states, "company": self._state("company")}
        self._app.states = states

    def refuse_lists(self) -> None:
        """Refuse all lists of tasks, so that each task has to be polled by GET."""
        self.inject(Fault.status(400), on="tasks", times=None)

    def start(self, count: int, *, first: int = 1, **settings: Any) -> list[str]:
        """Start merges of neighbouring companies, and return their task URLs."""
        return [
            self.start_merge("company", 2 * number - 1, 2 * number, **settings)
            for number in range(first, first + count)
        ]


@dataclass
class Host:
    """A server that sends fixed bytes, and records what it received."""

    url: str
    received: list[bytes]
    connections: int = 0

    @property
    def requests(self) -> int:
        """Return how many requests arrived with a complete head."""
        return sum(data.count(b" HTTP/1.1\r\n") for data in self.received)


_servers: WeakSet[Any] = WeakSet()
Speak = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def host(speak: Speak) -> AsyncIterator[Host]:
    """Serve bytes: ``speak`` is called with the connection after each request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _servers.add(asyncio.current_task())
        server.connections += 1
        try:
            while data := await reader.read(65536):
                server.received.append(data)
                await speak(writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    server = Host(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", [])
    try:
        yield server
    finally:
        listener.close()


def saying(data: bytes, *, then_close: bool = False) -> Speak:
    """Return a handler that always sends the same answer."""

    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if then_close:
            writer.close()

    return speak


def connect(sandbox: Sandbox, **settings: Any) -> Client:
    """Return a client of a sandbox."""
    return Client(**{"api_key": sandbox.api_key, "base_url": sandbox.url, **settings})


def now() -> float:
    """Return the time of the loop."""
    return asyncio.get_running_loop().time()


def debug_off() -> None:
    """Switch asyncio's debug mode off, which takes most of the time of a long test."""
    asyncio.get_running_loop().set_debug(False)


def client_tasks() -> list[str]:
    """Return the names of the asyncio tasks besides the test's own and the servers'."""
    others = {asyncio.current_task(), *_servers}
    return sorted(
        task.get_name()
        for task in asyncio.all_tasks() - others
        if "RequestHandler." not in repr(task.get_coro())
    )


async def assert_idle(client: Client) -> None:
    """Check that a client has nothing left to do, and nothing left over, without time passing."""
    for _ in range(5):
        # What was cancelled ends in the next iterations of the loop.
        await asyncio.sleep(0)
    assert client._opened is not None
    poller = client._opened.poller
    assert client.quota.in_flight == 0
    assert poller.pending == 0
    assert poller._polls == {}
    assert not poller._schedule.queue.in_flight
    assert not poller._schedule.queue._due
    for tasks_list in poller._schedule.lists.values():
        assert not any(page.size or page.due for page in (tasks_list.scan, *tasks_list.pages))
    assert client._opened.session.connector is not None
    assert not client._opened.session.connector._acquired
    assert client_tasks() == ["aiotasks: poller", "aiotasks: reasons"]


def habits(node: pytest.Item) -> dict[str, Any]:
    """Return the settings of a sandbox that a test needs: with ``plain``, it is a plain one."""
    return {**PLAIN} if node.get_closest_marker("plain") else {}


@pytest.fixture
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Recorded]:
    async with Recorded(quota=0, month_quota=0, **habits(request.node)) as sandbox:
        yield sandbox


@pytest.fixture
async def client(sandbox: Recorded) -> AsyncIterator[Client]:
    async with connect(sandbox) as client:
        yield client


@pytest.fixture
def spans() -> Iterator[Any]:
    """The spans of an instrumented process, in an exporter of OpenTelemetry."""
    # Where the lowest versions are tried, its two packages do not fit together.
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import (  # noqa: PLC0415
        InMemorySpanExporter,
    )

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrument(provider)
    yield exporter
    _spans._tracers.clear()
