"""The README's examples, run as they are."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from aiohttp import web
from aiohttp.test_utils import TestClient as AiohttpClient
from aiohttp.test_utils import TestServer as AiohttpServer
from fastapi import FastAPI

from aiotasks.sandbox import Fault, Sandbox
from tests.processes import ASYNCIO, run_tests


pytestmark = pytest.mark.real_time

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
SERVICE = re.compile(r"# (aiohttp|FastAPI): ")
(TESTS,) = (block for block in BLOCKS if block.startswith("# pytest"))
EXAMPLES = [block for block in BLOCKS if not SERVICE.match(block) and block != TESTS]
SERVICES = {found[1]: block for block in BLOCKS if (found := SERVICE.match(block))}
CLIENTS = 50


@pytest.mark.process
@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
@pytest.mark.usefixtures("environment")
def test_examples_run_as_they_stand(example: str, tmp_path: Path) -> None:
    """Each example is a whole program that works."""
    command = [sys.executable, "-W", "error", "-c", example]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=20
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.process
def test_the_example_of_a_test(tmp_path: Path) -> None:
    """The test of the README passes with the plugin of the distribution."""
    assert "1 passed" in run_tests(tmp_path, TESTS, *ASYNCIO)


class Service:
    """A running service of the README, and requests to it."""

    def __init__(self, url: str, session: aiohttp.ClientSession, client: Any) -> None:
        self.url = url
        self.client = client
        self.session = session

    async def ask(self, path: str, *, method: str = "GET", **params: Any) -> tuple[int, Any]:
        url = f"{self.url}/{path}"
        async with self.session.request(method, url, params=params) as answer:
            return answer.status, await answer.json()

    async def merge(self, primary_id: int) -> str:
        status, answer = await self.ask(
            "merge", method="POST", primary=primary_id, duplicate=primary_id + 1
        )
        assert (status, [*answer]) == (200, ["task_url"])
        return str(answer["task_url"])

    async def waits(self, task_url: str, count: int) -> list[asyncio.Task[tuple[int, Any]]]:
        """Start requests that wait for a task, and return once the service waits for it."""
        waits = [asyncio.create_task(self.ask("wait", url=task_url)) for _ in range(count)]
        while ": 0 pending" in repr(self.client):  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(0.01)
        return waits


@asynccontextmanager
async def with_aiohttp(app: web.Application) -> AsyncIterator[int]:
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def with_uvicorn(app: FastAPI) -> AsyncIterator[int]:
    config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - no event to wait for
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


SERVERS: dict[str, Callable[[Any], AbstractAsyncContextManager[int]]] = {
    "aiohttp": with_aiohttp,
    "FastAPI": with_uvicorn,
}


@pytest.fixture
async def sandbox(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    async with Sandbox(duration=0.5, quota=0, month_quota=0) as sandbox:
        monkeypatch.setenv("AFFINITY_BASE_URL", sandbox.url)
        monkeypatch.setenv("AFFINITY_API_KEY", sandbox.api_key)
        yield sandbox


@asynccontextmanager
async def running(name: str) -> AsyncIterator[Service]:
    """Run a service as its own server does, with many connections at a time."""
    app, client = app_of(name)
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        SERVERS[name](app() if name == "aiohttp" else app) as port,
    ):
        yield Service(f"http://127.0.0.1:{port}", session, client)


@pytest.mark.parametrize("name", SERVERS)
class TestServices:
    @pytest.mark.slow
    async def test_many_simultaneous_requests(
        self, name: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A service with one client starts merges, peeks and waits for many requests at a time."""
        monkeypatch.chdir(tmp_path)

        async def use(service: Service, primary_id: int) -> None:
            task_url = await service.merge(primary_id)
            peeks = [service.ask("status", url=task_url) for _ in range(5)]
            for status, answer in await asyncio.gather(*peeks):
                assert status == 200
                assert answer["status"] in {"in-progress", "success"}
            status, task = await service.ask("wait", url=task_url)
            assert (status, task["status"]) == (200, "success")

        async with running(name) as service, asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                _ = group.create_task(use(service, 2 * number + 1))
        outcomes = [merge.outcome for merge in sandbox.history("company")]
        assert outcomes == ["success"] * CLIENTS
        # A merge, a poll for the five peeks, and what one wait needs: pages count for many.
        assert sandbox.requests < 4 * CLIENTS

    async def test_closed_connections(
        self, name: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A closed connection affects no other, and open waits end with the service."""
        monkeypatch.chdir(tmp_path)
        sandbox.duration = 600.0
        async with running(name) as service:
            abandoned, task_url = await service.merge(1), await service.merge(3)
            for wait in (leaving := await service.waits(abandoned, 10)):
                _ = wait.cancel()
            _ = await asyncio.wait(leaving)
            # FastAPI lets the handlers of closed connections run to their end.
            while name == "aiohttp" and ": 0 pending" not in repr(service.client):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            waits = await service.waits(task_url, 20)
            status, answer = await service.ask("status", url=task_url)
            assert (status, answer["status"]) == (200, "in-progress")
            assert not any(wait.done() for wait in waits)
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < {"aiohttp": 1.0, "FastAPI": 2.0}[name]
        ends = await asyncio.gather(*waits, return_exceptions=True)
        if name == "aiohttp":
            assert {end[0] for end in ends if not isinstance(end, BaseException)} == {503}
            assert all("closed" in str(end) for end in ends)
        assert not any(isinstance(end, tuple) and end[0] == 200 for end in ends)
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert not {each for each in names if each.startswith("aiotasks")}

    async def test_errors_have_their_status(
        self, name: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each error is answered by the status of its kind, in JSON, and the service goes on."""
        monkeypatch.chdir(tmp_path)
        sandbox.checks_posts, sandbox.gone_status, sandbox.duration = True, 422, 600.0

        async def refused(status: int, kind: str, path: str, **params: Any) -> None:
            method = "POST" if path == "merge" else "GET"
            found, answer = await service.ask(path, method=method, **params)
            assert (found, answer["type"]) == (status, kind)
            assert answer["error"]

        async with running(name) as service:
            task_url = await service.merge(1)
            await refused(400, "ConfigurationError", "wait", url="https://example.com/")
            await refused(400, "ConfigurationError", "merge", primary=1, duplicate=1)
            await refused(409, "ConflictError", "merge", primary=1, duplicate=2)
            sandbox.finish(task_url)
            await refused(422, "MergedEntityError", "merge", primary=2, duplicate=5)
            unknown = f"{sandbox.url}/v2/tasks/company-merges/00000000-0000-4000-8000-000000000000"
            await refused(404, "NotFoundError", "status", url=unknown)
            sandbox.inject(Fault.status(503), on="merge", times=None)
            await refused(409, "IndeterminateMergeError", "merge", primary=7, duplicate=8)
            assert (await service.ask("wait", url=task_url))[0] == 200
            if name == "aiohttp":
                assert (await service.ask("jobs-in-a-browser/jobs"))[0] == 200

    async def test_requests_at_fault(
        self, name: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A request without its arguments is the caller's own mistake."""
        monkeypatch.chdir(tmp_path)
        async with running(name) as service:
            for params in ({}, {"primary": "x", "duplicate": "2"}):
                url = f"{service.url}/merge"
                async with service.session.post(url, params=params) as answer:
                    assert answer.status in {400, 422}
        assert sandbox.requests == 0


def app_of(name: str) -> Any:
    """Return the application of a service of the README, and its client."""
    names: dict[str, Any] = {"__name__": "app"}
    exec(compile(SERVICES[name], "app.py", "exec"), names)
    return names["make_app"] if name == "aiohttp" else names["app"], names["client"]


@pytest.fixture
def unused_api(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens at the address of the API."""
    monkeypatch.setenv("AFFINITY_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AFFINITY_API_KEY", "key")


@pytest.mark.usefixtures("unused_api")
@pytest.mark.filterwarnings("ignore:Using `httpx` with")
def test_fastapi_runs_twice_under_its_test_client() -> None:
    """The service of FastAPI is started once for each test, each time on a loop of its own."""
    from fastapi.testclient import TestClient  # noqa: PLC0415 - its import warns

    app, client = app_of("FastAPI")
    for _ in range(2):
        with TestClient(app) as http:
            assert http.get("/docs").status_code == 200
            answer = http.get("/wait", params={"url": "x"})
            assert (answer.status_code, answer.json()["type"]) == (400, "ConfigurationError")
        assert repr(client).endswith(": closed>")


@pytest.mark.usefixtures("unused_api")
async def test_aiohttp_runs_twice_under_its_test_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service of aiohttp is made and started for each test, with one client for all."""
    monkeypatch.chdir(tmp_path)
    make_app, client = app_of("aiohttp")
    for _ in range(2):
        async with AiohttpClient(AiohttpServer(make_app())) as http:
            answer = await http.get("/wait", params={"url": "x"})
            assert (answer.status, (await answer.json())["type"]) == (400, "ConfigurationError")
        assert repr(client).endswith(": closed>")


def test_the_quick_start_is_two_commands() -> None:
    """The first fenced blocks are the demo and the tests, one line each, and no other is `sh`."""
    blocks = re.findall(
        r"^```(\w+)\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )

    assert [language for language, _ in blocks].count("sh") == 2
    (first, demo), (second, tests) = blocks[:2]
    assert (first, second) == ("sh", "sh")
    assert demo.count("\n") == tests.count("\n") == 1
    assert demo.endswith("aiotasks demo\n")
    assert tests.endswith("tox\n")
