"""The key is in no text, no repr, no frame of an error and no log, whatever a server answers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from aiotasks import (
    AffinityError,
    Client,
    ConfigurationError,
    ConnectError,
    NetworkError,
    TaskFailedError,
)
from aiotasks.sandbox import Fault
from tests.leaks import ANSWERS, ECHO, KEY, answer, find_key
from tests.servers import Recorded, Speak, connect, host, saying


async def _all_of(pages: Any) -> None:
    _ = [each async for each in pages]


async def _errors_of(client: Client, url: str) -> None:
    outcomes = await client.tasks.wait_many([url, url[:-1] + "b", url[:-1] + "c"], timeout=3.0)
    for outcome in outcomes:
        assert KEY not in repr(outcome)
        if outcome.error:
            raise outcome.error


async def _cancelled(client: Client, url: str) -> None:
    async with asyncio.timeout(0.01):
        await client.tasks.get(url)


CALLS: dict[str, Callable[[Client, str], Awaitable[Any]]] = {
    "get": lambda client, url: client.tasks.get(url),
    "wait": lambda client, url: client.tasks.wait(url, timeout=3.0),
    "wait_many": _errors_of,
    "peek": lambda client, url: client.tasks.peek(url, timeout=3.0),
    "list": lambda client, url: _all_of(client.tasks.list("company")),
    "merges": lambda client, url: _all_of(client.companies.merges()),
    "records": lambda client, url: _all_of(client.companies.records([1])),
    "get_record": lambda client, url: client.companies.get_record(1),
    "merge": lambda client, url: client.companies.merge(1, 2),
    "quota": lambda client, url: client.refresh_quota(),
    "cancelled": _cancelled,
}


@pytest.fixture(autouse=True)
def all_logs(caplog: pytest.LogCaptureFixture) -> None:
    """Record what all loggers say, of asyncio and aiohttp too."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "asyncio")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ANSWERS)
async def test_no_answer_shows_the_key(
    name: str, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No error that an answer causes, and no log, shows the key, not even what the server repeats."""
    caught: BaseException | None = None
    async with (
        host(saying(ANSWERS[name], then_close=True)) as server,
        Client(KEY, base_url=server.url, request_timeout=5.0) as client,
    ):
        try:
            await CALLS[call](client, f"{server.url}/v2/tasks/company-merges/a")
        except (AffinityError, TimeoutError) as error:
            caught = error
        assert KEY not in repr(client)
    assert caught is None or find_key(caught) == []
    assert ECHO not in caplog.text.encode()


async def _hang(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("speak", [_hang, _close])
async def test_no_silence_shows_the_key(
    speak: Speak, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a server that says nothing nor one that closes makes an error that shows the key."""
    async with (
        host(speak) as server,
        Client(KEY, base_url=server.url, request_timeout=1.0) as client,
    ):
        with pytest.raises((AffinityError, TimeoutError)) as caught:
            await CALLS[call](client, f"{server.url}/v2/tasks/company-merges/a")
    assert find_key(caught.value) == []
    assert ECHO not in caplog.text.encode()


FAULTS = [
    Fault.status(500),
    Fault.status(200, html=True),
    Fault.malformed(),
    Fault.wrong_types(),
    Fault.disconnect(),
    Fault.hang(),
    Fault.truncate(),
    Fault.rate_limit(),
    Fault.rate_limit(cause="month"),
    Fault.redirect("https://evil.example"),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", FAULTS, ids=range(len(FAULTS)))
async def test_no_fault_shows_the_key(
    fault: Fault, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No fault of the sandbox makes an error that shows the key."""
    caught: BaseException | None = None
    async with Recorded(api_key=KEY) as sandbox:
        (url,) = sandbox.start(1)
        sandbox.inject(fault, on=None, times=None)
        async with connect(sandbox, request_timeout=1.0) as client:
            try:
                await CALLS[call](client, url)
            except (AffinityError, TimeoutError) as error:
                caught = error
    assert caught is not None
    assert find_key(caught) == []
    assert ECHO not in caplog.text.encode()


async def test_a_reason_does_not_show_the_key() -> None:
    """Where the server repeats the key in the reason of a failure, that is replaced."""
    async with Recorded(api_key=KEY) as sandbox, connect(sandbox) as client:
        (url,) = sandbox.start(1, duration=0.0, reason=f"{KEY} may not")
        with pytest.raises(TaskFailedError, match=r"\[the API key\] may not") as caught:
            await client.tasks.wait(url)
    assert find_key(caught.value) == []


async def test_nothing_that_listens() -> None:
    """An address at which nothing listens makes an error with its cause, and without the key."""
    async with host(_hang) as server:
        url = server.url
    async with Client(KEY, base_url=url) as client:
        with pytest.raises(ConnectError, match="o socket listening") as caught:
            await client.companies.merge(1, 2)
    assert find_key(caught.value) == []


async def test_the_words_of_aiohttp_are_kept() -> None:
    """The error says what was wrong with the answer, on one line."""
    data = ANSWERS["two lengths"]
    async with (
        host(saying(data, then_close=True)) as server,
        Client(KEY, base_url=server.url) as client,
    ):
        with pytest.raises(NetworkError, match="broke") as caught:
            await client.companies.get_record(1)
    assert "content" in str(caught.value).lower()
    assert "\n" not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


async def test_a_short_key_changes_no_answer() -> None:
    """A key that may be a word of an answer is not replaced in it."""
    async with (
        host(saying(answer(200, b'{"id": "a", "status": "success"}'))) as server,
        Client("success", base_url=server.url) as client,
    ):
        task = await client.tasks.get(f"{server.url}/v2/tasks/company-merges/a")
    assert task.status == "success"


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": KEY + "\n"},
        {"api_key": " " + KEY},
        {"api_key": KEY.encode()},
        {"api_key": KEY, "base_url": "https://api.affinity.co/v2"},
        {"api_key": KEY, "base_url": f"https://{KEY}@api.affinity.co"},
        {"api_key": KEY, "base_url": f"https://user:{KEY}@api.affinity.co"},
        {"api_key": KEY, "request_timeout": 0},
        {"api_key": KEY, "api_version": ""},
    ],
    ids=range(8),
)
@pytest.mark.parametrize("make", [Client, Client.from_env])
def test_no_setting_shows_the_key(
    make: Callable[..., Client], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error about a setting shows the key in none of its frames, not even a key that is unusable."""
    monkeypatch.setenv("AFFINITY_API_KEY", KEY)
    with pytest.raises(ConfigurationError) as caught:
        make(**settings)
    assert find_key(caught.value) == []


async def test_no_proxy_shows_its_password() -> None:
    """The credentials of a proxy that refuses the request are in no text of the error."""
    async with host(saying(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")) as proxy:
        address = proxy.url.replace("//", f"//user:{KEY}@")
        async with (
            aiohttp.ClientSession(proxy=address) as session,
            Client("key", base_url="https://affinity.example", session=session) as client,
        ):
            with pytest.raises(NetworkError, match=r"the proxy answers 407 \('No'\)") as caught:
                await client.companies.get_record(1)
    assert find_key(caught.value) == []
