"""Hostile input is refused or reported, and the key is sent to no host but the origin."""

import asyncio
import gzip
from typing import Any

import pytest

from aiotasks import (
    AffinityError,
    Client,
    ConfigurationError,
    DecodeError,
    NetworkError,
    OutcomeState,
    ResponseError,
)
from aiotasks._http.transport import MAX_BODY
from aiotasks.sandbox import Fault
from tests.servers import Recorded, assert_idle, connect, host, now, saying


ID = "0d3b4c5e-1111-4222-8333-944445555666"
URLS = [
    f"https://evil.example/v2/tasks/company-merges/{ID}",
    f"http://api.affinity.co/v2/tasks/company-merges/{ID}",
    f"https://api.affinity.co:8443/v2/tasks/company-merges/{ID}",
    f"https://api.affinity.co.evil.example/v2/tasks/company-merges/{ID}",
    f"https://user:password@api.affinity.co/v2/tasks/company-merges/{ID}",
    f"https://api.affinity.co@evil.example/v2/tasks/company-merges/{ID}",
    f"https://api.affinity.co\\@evil.example/v2/tasks/company-merges/{ID}",
    f"//api.affinity.co/v2/tasks/company-merges/{ID}",
    f"/v2/tasks/company-merges/{ID}",
    f"ftp://api.affinity.co/v2/tasks/company-merges/{ID}",
    f"file:///v2/tasks/company-merges/{ID}",
    f"javascript://api.affinity.co/v2/tasks/company-merges/{ID}",
    f"https://api.affinity.co/v1/tasks/company-merges/{ID}",
    f"https://api.affinity.co/v2/tasks/deal-merges/{ID}",
    f"https://api.affinity.co/v2/tasks/company-merges/{ID}/../../../auth/whoami",
    "https://api.affinity.co/v2/tasks/company-merges/..",
    "https://api.affinity.co/v2/tasks/company-merges/.",
    "https://api.affinity.co/v2/tasks/company-merges/",
    "https://api.affinity.co/v2/tasks/company-merges",
    "https://api.affinity.co/v2/../tasks/company-merges/a",
    "https://api.affinity.co/v2/tasks/company-merges/a%2Fb",
    "https://api.affinity.co/v2/tasks/company-merges/a%2e%2e",
    "https://api.affinity.co/v2/tasks/company-merges/a/b",
    "https://api.affinity.co/v2/tasks/company-merges/a?x=1",
    "https://api.affinity.co/v2/tasks/company-merges/a#x",
    "https://api.affinity.co/v2/tasks/company-merges/a b",
    "https://api.affinity.co/v2/tasks/company-merges/a\r\nX-Evil: 1",
    "https://api.affinity.co/v2/tasks/company-merges/a\n",
    "https://api.affinity.co/v2/tasks/company-merges/\u0430",
    "https://api.affinity.co/v2/tasks/company-merges/" + "a" * 65,
    "\x00",
    "",
]


@pytest.mark.parametrize("url", URLS, ids=range(len(URLS)))
async def test_hostile_urls_are_refused(sandbox: Recorded, client: Client, url: str) -> None:
    """A URL that is not exactly that of a task on this origin is refused, and nothing is sent."""
    with pytest.raises(ConfigurationError):
        await client.tasks.get(url)
    with pytest.raises(ConfigurationError):
        await client.tasks.wait(url)
    outcomes = await client.tasks.wait_many([url])
    assert isinstance(outcomes[0].error, ConfigurationError)
    assert sandbox.requests == 0


async def test_affinity_urls_are_polled_at_the_own_origin(
    sandbox: Recorded, client: Client
) -> None:
    """A task URL only names its task: whatever Affinity host it has, the own origin is polled."""
    (url,) = sandbox.start(1)
    ref = url.rsplit("/", 1)[1]
    for origin in ("https://api.affinity.co", "https://API.affinity.co:443", sandbox.url.upper()):
        for prefix in ("/v2", ""):
            task = await client.tasks.get(f"{origin}{prefix}/tasks/company-merges/{ref}")
            assert task.id == ref
    assert len(sandbox.polls(url)) == 6


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_refused(sandbox: Recorded, client: Client, status: int) -> None:
    """A redirect is not followed: it raises an error that names its target."""
    (url,) = sandbox.start(1)
    async with host(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")) as foreign:
        sandbox.inject(Fault.redirect(f"{foreign.url}/stolen", status=status), times=None)
        with pytest.raises(ResponseError, match="not followed") as caught:
            await client.tasks.get(url)
        assert foreign.url in str(caught.value)
        outcomes = await client.tasks.wait_many([url])
        assert isinstance(outcomes[0].error, ResponseError)
        assert foreign.connections == 0
    assert sandbox.requests == 2


async def test_the_key_goes_to_the_origin_alone() -> None:
    """Merges, waits, lists and errors send no byte to any other host."""
    async with host(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")) as foreign:
        async with Recorded(public_url=foreign.url) as sandbox, connect(sandbox) as client:
            url = await client.companies.merge(1, 2)
            await client.tasks.wait(url)
            with pytest.raises(ConfigurationError, match="base_url"):
                await client.tasks.wait(sandbox.task_urls("company")[0])
            body = b'{"data": [], "pagination": {"nextUrl": "%s/v2/x"}}' % foreign.url.encode()
            sandbox.inject(Fault.content(body))
            with pytest.raises(DecodeError):
                _ = [task async for task in client.tasks.list("company")]
            assert {request.is_authorized for request in sandbox.log} == {True}
        assert (foreign.connections, foreign.received) == (0, [])


BODIES: dict[str, tuple[Fault, str]] = {
    "html": (Fault.status(200, html=True), "text/html"),
    "malformed": (Fault.malformed(), "application/json"),
    "wrong types": (Fault.wrong_types(), "Expected"),
    "empty": (Fault.content(b""), "no body"),
    "no object": (Fault.content(b"[]"), "Expected"),
    "null": (Fault.content(b"null"), "Expected"),
    "nothing in it": (Fault.content(b"{}"), "missing required field"),
    "no text": (Fault.content(b'{"id": "a", "status": 7}'), "status"),
    "no UTF-8": (Fault.content(b'{"id": "\xff", "status": "x"}'), "cannot be read"),
    "deep": (Fault.content(b'{"x": ' + b"[" * 200_000), "cannot be read"),
    "huge": (Fault.huge(MAX_BODY + 1), "larger than 16777216 bytes"),
}


@pytest.mark.parametrize("name", BODIES)
async def test_unreadable_answers_raise_decode_errors(
    sandbox: Recorded, client: Client, name: str
) -> None:
    """An answer that is not the documented JSON is asked for once more, and raises a DecodeError."""
    fault, message = BODIES[name]
    (url,) = sandbox.start(1)
    sandbox.inject(fault, times=None)
    with pytest.raises(DecodeError, match=message) as caught:
        await client.tasks.get(url)
    assert "base_url" in str(caught.value)
    assert len(str(caught.value)) < 500
    assert sandbox.requests == (4 if name == "empty" else 2)
    (outcome,) = await client.tasks.wait_many([url])
    assert isinstance(outcome.error, DecodeError)
    assert outcome.waited <= (10.0 if name == "empty" else 2.2)
    assert outcome.state is OutcomeState.UNKNOWN
    sandbox.clear_faults()
    await client.tasks.wait(url)
    await assert_idle(client)


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked", b"Connection: close"])
async def test_an_endless_body_is_not_read_to_its_end(framing: bytes) -> None:
    """Reading stops at the size limit, twice, and the connection is closed."""
    sent = 0

    async def speak(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        block = b" " * 2**20
        data = b"100000\r\n" + block + b"\r\n" if b"chunked" in framing else block
        while True:
            writer.write(data)
            await writer.drain()
            sent += 2**20

    async with host(speak) as server, Client("key", base_url=server.url) as client:
        with pytest.raises(DecodeError, match="larger than"):
            await client.tasks.get(f"{server.url}/v2/tasks/company-merges/a")
        assert MAX_BODY <= sent <= 2 * (MAX_BODY + 4 * 2**20)
        await assert_idle(client)


async def test_a_decompressed_body_is_limited_too() -> None:
    """The size limit applies to the decompressed body."""
    body = gzip.compress(b" " * (MAX_BODY + 2**20))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with host(saying(head + body)) as server, Client("key", base_url=server.url) as client:
        with pytest.raises(DecodeError, match="larger than"):
            await client.tasks.get(f"{server.url}/v2/tasks/company-merges/a")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\xff garbage \r\n\r\n",
        b"HTTP/1.1 999999 What\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Le",
    ],
    ids=range(10),
)
async def test_broken_http_is_a_network_error(data: bytes) -> None:
    """An answer that is not HTTP is handled as a broken connection, with retries."""
    async with (
        host(saying(data, then_close=True)) as server,
        Client("key", base_url=server.url) as client,
    ):
        with pytest.raises(NetworkError):
            await client.tasks.get(f"{server.url}/v2/tasks/company-merges/a")
        assert client.quota.sent == 4
        began = now()
        url = f"{server.url}/v2/tasks/company-merges/a"
        (outcome,) = await client.tasks.wait_many([url], timeout=20.0)
        assert isinstance(outcome.error, AffinityError)
        assert now() - began <= 20.05
        await assert_idle(client)


async def test_cookies_are_not_kept(sandbox: Recorded, client: Client) -> None:
    """The client's own session stores no cookies."""
    (url,) = sandbox.start(1)
    sandbox.inject(Fault.headers({"Set-Cookie": "a=b"}))
    await client.tasks.get(url)
    assert client._opened is not None
    assert len(client._opened.session.cookie_jar) == 0


@pytest.mark.parametrize("status", ["cancelled", "CANCELLED", "\u2603", "x" * 1000])
async def test_unknown_statuses_are_kept(sandbox: Recorded, client: Client, status: Any) -> None:
    """An unknown status is no error: it is returned as the server sent it."""
    (url,) = sandbox.start(1)
    sandbox.set_status(url, status)
    assert (await client.tasks.get(url)).status == status
    assert [task.status async for task in client.tasks.list("company")] == [status]
