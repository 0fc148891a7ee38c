"""Single requests: one task, and how a read handles each failure."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import aiohappyeyeballs
import pytest

from aiotasks import (
    AffinityError,
    AuthenticationError,
    AuthorizationError,
    Client,
    ConfigurationError,
    ConflictError,
    ConnectError,
    NetworkError,
    NotFoundError,
    RateLimitError,
    RequestTimeoutError,
    ResponseError,
    ServerError,
    ValidationError,
)
from aiotasks.sandbox import Fault, Sandbox
from tests.servers import Recorded, assert_idle, connect, host, now, saying


@pytest.mark.parametrize("kind", ["company", "person"])
@pytest.mark.plain
async def test_get_returns_a_task(sandbox: Recorded, client: Client, kind: Any) -> None:
    """One request returns one task in its current state."""
    url = sandbox.start_merge(kind, 1, 2, duration=5.0)
    assert (await client.tasks.get(url)).status == "in-progress"
    sandbox.finish(url, outcome="failed")
    task = await client.tasks.get(url)
    assert (task.status, task.id) == ("failed", url.rsplit("/", 1)[1])
    assert sandbox.requests == 2


async def test_an_unknown_task_is_an_error(sandbox: Recorded, client: Client) -> None:
    """A 404 raises its error, with the request id and the next step."""
    with pytest.raises(NotFoundError, match="Check the id") as caught:
        await client.tasks.get(sandbox.start_merge("person", 1, 2).replace("person", "company"))
    assert caught.value.code == "not-found"
    assert caught.value.request_id == "sandbox-1"
    assert sandbox.requests == 1


async def test_requests_carry_key_and_version(sandbox: Recorded) -> None:
    """The headers carry the key and the pinned version, and the answer's version is reported."""
    async with connect(sandbox, api_version="2024-01-01") as client:
        with pytest.raises(NotFoundError, match="2024-01-01"):
            _ = [each async for each in client.companies.suggestions()]
    assert sandbox.log[0].is_authorized


PASSING = [
    Fault.status(500),
    Fault.status(502, html=True),
    Fault.status(503),
    Fault.status(504, html=True),
    Fault.status(408),
    Fault.disconnect(),
    Fault.truncate(),
    Fault.rate_limit(cause="concurrency"),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: fault.name)
@pytest.mark.parametrize("times", [1, 3])
async def test_reads_are_retried(
    sandbox: Recorded, client: Client, fault: Fault, times: int
) -> None:
    """A transient failure is retried after growing pauses, and the caller gets only the result."""
    (url,) = sandbox.start(1, duration=60.0)
    sandbox.inject(fault, times=times)
    assert (await client.tasks.get(url)).status == "in-progress"
    assert now() <= {1: 1.0, 3: 7.0}[times]
    polls = sandbox.polls(url)
    pauses = [later - earlier for earlier, later in pairwise(polls)]
    # On a connection that was used before, aiohttp itself repeats a read immediately.
    assert fault.name == "disconnect" or (pauses == sorted(pauses) and pauses[0] >= 0.5)
    await assert_idle(client)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.status(500), ServerError),
        (Fault.status(408), ServerError),
        (Fault.disconnect(), NetworkError),
        (Fault.truncate(), NetworkError),
    ],
    ids=["500", "408", "disconnect", "truncate"],
)
async def test_reads_are_retried_three_times(
    sandbox: Recorded, client: Client, fault: Fault, error: type[AffinityError]
) -> None:
    """A server that keeps failing gets four requests, and then its failure is raised."""
    (url,) = sandbox.start(1)
    sandbox.inject(fault, times=None)
    with pytest.raises(error):
        await client.tasks.get(url)
    assert client.quota.sent == 4
    await assert_idle(client)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, ValidationError),
        (401, AuthenticationError),
        (403, AuthorizationError),
        (404, NotFoundError),
        (405, ResponseError),
        (409, ConflictError),
        (418, ResponseError),
        (422, ValidationError),
    ],
)
async def test_refusals_are_final(
    sandbox: Recorded, client: Client, status: int, error: type[ResponseError]
) -> None:
    """A 4xx answer is raised immediately and not retried."""
    (url,) = sandbox.start(1)
    sandbox.inject(Fault.status(status), times=None)
    with pytest.raises(ResponseError) as caught:
        await client.tasks.get(url)
    assert type(caught.value) is error
    assert caught.value.status == status
    assert sandbox.requests == 1


async def test_repeated_429s_are_raised(sandbox: Recorded, client: Client) -> None:
    """After ten 429s in a row an interactive call raises an error."""
    (url,) = sandbox.start(1)
    sandbox.inject(Fault.rate_limit(cause="concurrency"), times=None)
    with pytest.raises(RateLimitError, match="Another program"):
        await client.tasks.get(url)
    assert sandbox.requests == 10


async def test_a_request_without_an_answer_times_out(sandbox: Recorded) -> None:
    """``request_timeout`` bounds each attempt."""
    (url,) = sandbox.start(1)
    sandbox.inject(Fault.hang(), times=None)
    async with connect(sandbox, request_timeout=3.0) as client:
        with pytest.raises(RequestTimeoutError, match="within 3 s") as caught:
            await client.tasks.get(url)
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.was_sent
        assert len(sandbox.polls(url)) == 4
        assert 12.0 <= now() <= 12.0 + 1.5 * 3.5
        await assert_idle(client)


async def test_a_body_that_stalls_times_out() -> None:
    """``request_timeout`` bounds the body as well as the headers."""
    async with (
        host(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")) as server,
        Client("key", base_url=server.url, request_timeout=5.0) as client,
    ):
        with pytest.raises(RequestTimeoutError):
            await client.tasks.get(f"{server.url}/v2/tasks/company-merges/a")
        assert server.requests == 4


async def test_a_refused_connection(sandbox: Recorded) -> None:
    """Refused connections are retried a few times and then raised, with the next step."""
    async with Sandbox() as closed:
        url = closed.start_merge("company", 1, 2)
    async with connect(closed) as client:
        with pytest.raises(ConnectError, match="Check base_url") as caught:
            await client.tasks.get(url)
        assert not caught.value.was_sent
        assert 3.5 <= now() <= 5.25
        await assert_idle(client)


async def test_connecting_times_out(
    sandbox: Recorded, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connecting times out after ten seconds, with an error that says that nothing was sent."""
    (url,) = sandbox.start(1)

    async def never(*_args: Any, **_settings: Any) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", never)
    with pytest.raises(ConnectError):
        await client.tasks.get(url)
    assert 43.5 <= now() <= 50.0
    assert sandbox.requests == 0
    await assert_idle(client)


Call = Callable[[Client], Awaitable[object]]


async def all_of(items: Any) -> list[Any]:
    return [item async for item in items]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda client: client.companies.merge(0, 1), "primary_id"),
        (lambda client: client.companies.merge(1, -1), "duplicate_id"),
        (lambda client: client.persons.merge(True, 2), "primary_id"),
        (lambda client: client.persons.merge("1", 2), "primary_id"),
        (lambda client: client.persons.merge(7, 7), "into itself"),
        (lambda client: client.persons.get_merge(0), "merge_id"),
        (lambda client: client.persons.get_merge(1.5), "merge_id"),
        (lambda client: all_of(client.tasks.list("deal")), "kind"),
        (lambda client: all_of(client.tasks.list("company", status="a b")), "status"),
        (lambda client: all_of(client.companies.merges(status="a|b")), "status"),
        (lambda client: all_of(client.companies.merges(task_url="x")), "task URL"),
    ],
    ids=range(11),
)
async def test_arguments_are_checked_first(
    sandbox: Recorded, client: Client, call: Call, message: str
) -> None:
    """An invalid argument raises a ConfigurationError, and nothing is sent."""
    with pytest.raises(ConfigurationError, match=message):
        await call(client)
    assert sandbox.requests == 0


async def test_a_callers_timeout_stays_the_callers(sandbox: Recorded, client: Client) -> None:
    """``asyncio.timeout`` around a request ends it with a plain TimeoutError."""
    (url,) = sandbox.start(1)
    sandbox.inject(Fault.hang())
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(5.0):
            await client.tasks.get(url)
    assert not isinstance(caught.value, AffinityError)
    assert now() == 5.0
    await client.tasks.get(url)
    await assert_idle(client)


async def test_of_two_simultaneous_timeouts_the_callers_is_raised(sandbox: Recorded) -> None:
    """When both timeouts expire at the same time, the caller's own is raised."""
    (url,) = sandbox.start(1)
    sandbox.inject(Fault.hang())
    async with connect(sandbox, request_timeout=5.0) as client:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(5.0):
                await client.tasks.get(url)
        assert not isinstance(caught.value, AffinityError)
        assert now() == 5.0
