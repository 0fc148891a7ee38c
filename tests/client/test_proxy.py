"""The way to the API: through a proxy or directly, and whose certificates are trusted."""

import base64
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aiotasks import Client, ConfigurationError, ConnectError, RequestTimeoutError
from aiotasks._http import transport
from aiotasks.sandbox import Fault
from tests.servers import Recorded, connect
from tests.tls_proxy import ORIGIN, tls_proxy


@pytest.fixture(autouse=True)
def retry_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "retry_delay", lambda _: 0.0)


def through(url: str, ca_file: Path | None, **settings: Any) -> Client:
    return Client("sandbox-key", base_url=ORIGIN, proxy=url, ca_file=ca_file, **settings)


@pytest.mark.real_time
async def test_a_tunnel_through_a_proxy(sandbox: Recorded, tmp_path: Path) -> None:
    """A proxy is asked for a tunnel with its own user, and never sees the key."""
    async with tls_proxy(sandbox, tmp_path) as proxy:
        url = proxy.url.replace("http://", "http://me:s%40cret@")
        async with through(url, proxy.ca_file) as client:
            assert await client.user_id() > 0
    assert proxy.asked == ["CONNECT api.affinity.test:443 HTTP/1.1"]
    assert base64.b64encode(b"me:s@cret").decode() in proxy.heads[0]
    assert "sandbox-key" not in proxy.heads[0]
    assert len(sandbox.log) == 1


@pytest.mark.real_time
async def test_certificates_of_a_network(sandbox: Recorded, tmp_path: Path) -> None:
    """A certificate that nobody vouches for is refused, and the message names the way out."""
    async with tls_proxy(sandbox, tmp_path) as proxy, through(proxy.url, None) as client:
        with pytest.raises(ConnectError, match=r"certificate verify failed.*ca_file \(--ca-file\)"):
            _ = await client.user_id()
    assert not sandbox.log


@pytest.mark.real_time
async def test_a_proxy_that_refuses(sandbox: Recorded, tmp_path: Path) -> None:
    """A proxy that refuses a tunnel is named with its reason, without its password."""
    refusing = tls_proxy(sandbox, tmp_path, refuses_with="407 Log in first")
    async with refusing as proxy:
        url = proxy.url.replace("http://", "http://me:secret@")
        async with through(url, proxy.ca_file) as client:
            with pytest.raises(ConnectError) as caught:
                _ = await client.user_id()
    assert str(caught.value) == (
        f"No connection to {ORIGIN} through the proxy {proxy.url}: the proxy answers 407 "
        "('Log in first'). Check its address, user and password."
    )
    assert not caught.value.was_sent


async def test_an_api_that_cannot_be_reached() -> None:
    """The message says which proxy was asked, or that none was; of a given session it is unknown."""
    with pytest.raises(ConnectError, match=r"through the proxy http://127.0.0.1:9 \(.*HTTPS_PROXY"):
        async with Client("key", base_url=ORIGIN, proxy="http://me:secret@127.0.0.1:9") as client:
            _ = await client.user_id()
    with pytest.raises(ConnectError, match=r"to https://127.0.0.1:9, without a proxy \("):
        async with Client("key", base_url="https://127.0.0.1:9") as client:
            _ = await client.user_id()
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ConnectError, match=r"to https://127.0.0.1:9 \("):
            async with Client("key", base_url="https://127.0.0.1:9", session=session) as client:
                _ = await client.user_id()


async def test_an_answer_that_does_not_come(sandbox: Recorded) -> None:
    """Silence, too, names the way that was taken."""
    sandbox.inject(Fault.hang(), times=None)
    with pytest.raises(RequestTimeoutError, match="without a proxy"):
        async with connect(sandbox, request_timeout=1.0) as client:
            _ = await client.user_id()


@pytest.mark.parametrize("base_url", [None, "https://localhost:9", "https://[::1]:9"])
async def test_loopback_is_never_proxied(sandbox: Recorded, base_url: str | None) -> None:
    """A proxy is not asked for loopback, and may be one that cannot be used."""
    client = connect(sandbox, base_url=base_url or sandbox.url, proxy="socks5://127.0.0.1:9")
    assert client._route.proxy is None
    if base_url is None:
        async with client:
            assert await client.user_id() > 0


@pytest.mark.parametrize(
    "proxy",
    [
        *("", " ", "socks5://proxy:1080", "http://", "http://me:secret@", "proxy:99999", 3128),
        *("http://me:secret@proxy/path", "http://me:se/cret@proxy:3128", "http://me:se cret@proxy"),
    ],
)
def test_proxies_that_cannot_be_used(proxy: Any) -> None:
    """What is no proxy is refused, and never shown: it may contain a password."""
    with pytest.raises(ConfigurationError, match=r"HTTPS_PROXY") as caught:
        _ = Client("key", proxy=proxy)
    assert "secret" not in str(caught.value)
    assert "se cret" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["proxy:3128", "http://proxy:3128", "http://me@proxy:3128/"])
def test_ways_to_name_a_proxy(proxy: str) -> None:
    """A proxy is a host and a port, with or without a scheme and a user."""
    assert Client("key", proxy=proxy)._route.words == " through the proxy http://proxy:3128"


def test_a_proxy_would_see_a_key_in_the_clear() -> None:
    """Plain http is never sent through a proxy, not even where it is allowed."""
    with pytest.raises(ConfigurationError, match="would see the API key"):
        _ = Client("key", base_url="http://sandbox:80", allow_http=True, proxy="http://proxy:1")


def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    """A file of certificates that is missing, or none, is named."""
    nothing = tmp_path / "nothing.pem"
    with pytest.raises(ConfigurationError, match=r"nothing\.pem: No such file"):
        _ = Client("key", ca_file=nothing)
    _ = nothing.write_text("nothing")
    with pytest.raises(ConfigurationError, match=r"nothing\.pem has no certificates"):
        _ = Client("key", ca_file=str(nothing))


async def test_a_session_has_its_own_way(tmp_path: Path) -> None:
    """A proxy or certificates beside a session are refused, as that would not use them."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ConfigurationError, match="give proxy and ca_file to that"):
            _ = Client("key", session=session, proxy="http://proxy:3128")
