"""The standalone server, and how an application ends."""

import asyncio
import logging
import math
import socket
import threading
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import aiohttp
import pytest
from aiohttp import web

from aiotasks import Client, ConfigurationError
from aiotasks.sandbox import Sandbox
from aiotasks.web import expiring_link, jobs_app, serve
from aiotasks.web._background import BackgroundTasks, EndingError
from tests.web.conftest import OpenSite, Site


pytestmark = pytest.mark.real_time


def now() -> float:
    return asyncio.get_running_loop().time()


class TestServe:
    async def test_on_loopback(self, client: Client, tmp_path: Path) -> None:
        """By default only this machine has access, and needs no token."""
        async with serve(client, tmp_path) as link, aiohttp.ClientSession() as session:
            assert urlsplit(link).hostname == "127.0.0.1"
            assert urlsplit(link).query == ""
            async with session.get(link) as answer:
                assert await answer.json() == {"jobs": []}
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorError):
                _ = await session.get(link)

    @pytest.mark.parametrize(
        ("host", "name"), [("0.0.0.0", socket.gethostname().lower()), ("127.0.0.2", "127.0.0.2")]
    )
    async def test_for_others(
        self, client: Client, tmp_path: Path, host: str, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A server that others can reach has a random token, which is never logged."""
        caplog.set_level(logging.DEBUG)
        jar = aiohttp.CookieJar(unsafe=True)
        async with (
            serve(client, tmp_path, host=host) as link,
            aiohttp.ClientSession(cookie_jar=jar) as session,
        ):
            parts = urlsplit(link)
            assert parts.hostname == name
            tokens = parse_qs(parts.query).get("token", [])
            assert bool(tokens) == (host == "0.0.0.0")
            # The name of this machine may not resolve in a test.
            url = f"http://127.0.0.1:{parts.port}/jobs" if tokens else link
            headers = {"Host": f"{parts.hostname}:{parts.port}"}
            async with session.get(url, params={"token": tokens}, headers=headers) as answer:
                assert answer.status == 200
            async with aiohttp.ClientSession() as other, other.get(url) as answer:
                assert answer.status == (401 if tokens else 200)
        assert all(len(token) >= 43 for token in tokens)
        assert not any(token in caplog.text for token in tokens)

    async def test_a_given_token(self, client: Client, tmp_path: Path) -> None:
        """A given token is required on loopback, too; it gives access, and is not in the link."""
        async with serve(client, tmp_path, token="a&b", host="localhost") as link:
            assert "a&b" not in unquote(link)
            url = link.partition("?")[0]
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                assert answer.status == 401
            bearer = {"Authorization": "Bearer a&b"}
            async with aiohttp.ClientSession() as session:
                async with session.get(url, headers=bearer) as answer:
                    assert answer.status == 200
                async with session.get(link, allow_redirects=False) as answer:
                    assert answer.status == 303

    @pytest.mark.parametrize(
        ("hosts", "origin"),
        [
            ([], "https://127.0.0.1"),
            (["jobs.example.org:8443", "box"], "https://jobs.example.org:8443"),
        ],
    )
    async def test_behind_tls(
        self, client: Client, tmp_path: Path, hosts: list[str], origin: str
    ) -> None:
        """With `https` the link is that of the proxy in front, and the cookie is sent by TLS only."""
        serving = serve(client, tmp_path, token="secret", hosts=hosts, https=True)
        async with serving as link, aiohttp.ClientSession() as session:
            assert link.startswith(f"{origin}/jobs?token=")
            address, port = serving._runner.addresses[0]
            url = f"http://{address}:{port}/jobs?{urlsplit(link).query}"
            async with session.get(url, allow_redirects=False) as answer:
                assert "Secure" in answer.headers["Set-Cookie"].split("; ")

    @pytest.mark.parametrize("hours", [0, -1, math.nan, math.inf, 1e306])
    def test_links_expire_in_time(self, client: Client, tmp_path: Path, hours: float) -> None:
        """Hours that are none are refused, and no server without end can be had by them."""
        with pytest.raises(ConfigurationError, match="link_hours must be"):
            _ = serve(client, tmp_path, link_hours=hours)
        with pytest.raises(ConfigurationError, match="hours must be"):
            _ = expiring_link("http://localhost/jobs", "secret", hours=hours)

    async def test_malformed_requests(
        self, client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A request that is no HTTP, such as one with two hosts, is answered, and not logged."""
        async with serve(client, tmp_path) as link:
            parts = urlsplit(link)
            for lines in ("Host: localhost\r\nHost: localhost", "Host", "Content-Length: x"):
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
                writer.write(f"GET /jobs HTTP/1.1\r\n{lines}\r\n\r\n".encode())
                assert (await reader.readline()).split()[1] == b"400"
                writer.close()
                await writer.wait_closed()
        assert not caplog.records

    async def test_ipv6(self, client: Client, tmp_path: Path) -> None:
        """An IPv6 address is in brackets in the link."""
        if not socket.has_ipv6:
            pytest.skip("this machine has no IPv6")
        async with serve(client, tmp_path, host="::1") as link, aiohttp.ClientSession() as session:
            assert link.startswith("http://[::1]:")
            async with session.get(link) as answer:
                assert answer.status == 200

    async def test_a_port_that_is_taken(self, client: Client, tmp_path: Path) -> None:
        """An address that cannot be served on is named, and nothing remains open."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ConfigurationError, match=f"port {port}"):
                async with serve(client, tmp_path, port=port):
                    pass
        with pytest.raises(OverflowError):
            async with serve(client, tmp_path, port=70_000):
                pass

    async def test_a_folder_that_is_not_there(self, client: Client, tmp_path: Path) -> None:
        """A missing folder is named, and nothing remains open."""
        with pytest.raises(ConfigurationError, match="There is no folder"):
            _ = serve(client, tmp_path / "missing")
        with pytest.raises(ConfigurationError, match=r"0\.0\.0\.0 for all"):
            _ = serve(client, tmp_path, host="")


class TestEnd:
    async def test_all_ends_at_once(
        self, open_site: OpenSite, sandbox: Sandbox, client: Client
    ) -> None:
        """The end of an application ends runs, streams and uploads, and loses no transition."""
        sandbox.duration = 60.0
        async with open_site() as site:
            job = await site.upload(3)
            url = f"{site.url}/jobs/{job['id']}"
            streams = [await site.session.get(f"{url}/events") for _ in range(5)]
            slow = asyncio.create_task(_upload_slowly(site))
            sandbox.latency = 30.0
            planning = asyncio.create_task(
                site.send("jobs?kind=company", data=b"primary_id,duplicate_id\n5,6\n")
            )
            await _requests(sandbox, "companies")
            sandbox.latency = 0.0
            assert (await site.start(job)).status == 202
            async for line in streams[0].content:
                if b'"state":"started"' in line:
                    break
            ended = asyncio.create_task(_read(streams))
            began = now()
            threads = threading.active_count()
        assert now() - began < 1.0
        assert threading.active_count() <= threads
        _ = await asyncio.wait([ended, slow, planning])
        assert ended.exception() is None
        for each in (slow, planning):
            assert each.exception() is not None or each.result().status == 503
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert not {name for name in names if "job" in name or "watch" in name}
        sandbox.duration = 0.0
        for task_url in sandbox.task_urls("company"):
            sandbox.finish(task_url)
        async with open_site() as site:
            found = (await site.ask(f"jobs/{job['id']}")).json
            assert found["error"] is None
            assert found["is_running"] is False
            assert (await site.finish(job))["totals"]["succeeded"] == 3
        assert set(sandbox.posted("company").values()) == {1}

    async def test_the_end_does_not_wait_for_slow_clients(
        self, open_site: OpenSite, tmp_path: Path
    ) -> None:
        """A client that does not read its stream does not delay the end of an application."""
        async with open_site() as site:
            job = await site.upload(1000)
            for path in ("report.csv", "snapshots.jsonl", "events"):
                _, port = urlsplit(site.url).netloc.split(":")
                with socket.socket() as client:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
                    client.setblocking(False)
                    loop = asyncio.get_running_loop()
                    await loop.sock_connect(client, ("127.0.0.1", int(port)))
                    lines = [f"GET /merges/jobs/{job['id']}/{path} HTTP/1.1", "Host: localhost"]
                    await loop.sock_sendall(client, "\r\n".join([*lines, "", ""]).encode())
                    _ = await loop.sock_recv(client, 1)
            began = now()
        assert now() - began < 1.0

    async def test_nothing_starts_any_more(
        self, client: Client, tmp_path: Path, sandbox: Sandbox
    ) -> None:
        """While an application shuts down, it answers every request with 503."""
        app = jobs_app(client, tmp_path)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as session:
            site = Site(f"http://127.0.0.1:{runner.addresses[0][1]}", session, tmp_path)
            job = await site.upload(1)
            await app.shutdown()
            for answer in (
                await site.ask("jobs"),
                await site.start(job),
                await site.ask(f"jobs/{job['id']}/events"),
            ):
                assert answer.status == 503
                assert "shut down" in answer.json["error"]
        await runner.cleanup()
        assert not sandbox.posted("company")


async def _upload_slowly(site: Site) -> aiohttp.ClientResponse:
    async def body() -> object:
        yield b"primary_id,duplicate_id\n"
        await asyncio.sleep(60)

    return await site.session.post(f"{site.url}/jobs?kind=company", data=body())


async def _requests(sandbox: Sandbox, _: str) -> None:
    before = sandbox.in_flight
    while sandbox.in_flight <= before:  # noqa: ASYNC110 - the sandbox has no event for this
        await asyncio.sleep(0.01)


async def _read(streams: list[aiohttp.ClientResponse]) -> None:
    for stream in streams:
        _ = await stream.read()


class TestBackgroundTasks:
    async def test_a_failed_task_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        """A task that fails is logged, and does not affect the others."""
        scope = BackgroundTasks()
        await scope.open()

        async def fail() -> None:
            raise ZeroDivisionError

        async def wait() -> None:
            await asyncio.sleep(60)

        task, other = scope.run(fail(), name="one"), scope.run(wait(), name="other")
        _ = await asyncio.wait([task])
        assert "Unexpected end of one" in caplog.text
        assert not other.done()
        await asyncio.create_task(scope.close())
        assert other.cancelled()

    async def test_what_handlers_wait_for(self) -> None:
        """What a handler waits for is cancelled only by the end of the application."""
        scope = BackgroundTasks()
        await scope.open()
        assert await scope.complete(asyncio.sleep(0, "done")) == "done"

        async def late() -> None:
            raise TimeoutError

        with pytest.raises(TimeoutError):
            await scope.complete(late())
        waiting = asyncio.create_task(scope.complete(asyncio.sleep(60)))
        await asyncio.sleep(0)
        await scope.close()
        with pytest.raises(EndingError):
            await waiting
        for ask in (scope.complete, lambda work: scope.run(work, name="late")):
            with pytest.raises(EndingError):
                _ = await ask(late())
