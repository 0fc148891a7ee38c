"""The client's scope: what it needs, what it owns, and where the client cannot be used."""

import asyncio
import math
import pydoc
import re
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import aiohttp
import async_solipsism
import pytest

from aiotasks import AffinityError, Client, ClosedError, ConfigurationError, TaskFailedError
from aiotasks.sandbox import Sandbox
from tests.servers import Recorded, assert_idle, client_tasks, connect, now


def test_a_client_is_made_without_a_loop() -> None:
    """Settings are checked when the client is made, and nothing is opened yet."""
    client = Client("secret-key")
    assert client.base_url == "https://api.affinity.co"
    assert repr(client) == "<Client https://api.affinity.co: not entered>"
    assert client.quota.sent == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"api_key": ""}, "API key"),
        ({"api_key": "a b"}, "API key"),
        ({"api_key": "a\r\nX-Evil: 1"}, "API key"),
        ({"api_key": "schlüssel"}, "API key"),
        ({"api_key": None}, "API key"),
        ({"base_url": "http://api.affinity.co"}, "in the clear"),
        ({"base_url": "https://api.affinity.co/v2"}, "not a base URL"),
        ({"base_url": "https://user@api.affinity.co"}, "not a base URL"),
        ({"base_url": None}, "not a base URL"),
        ({"api_version": "1\r\n2"}, "api_version"),
        ({"api_version": ""}, "api_version"),
        ({"api_version": 2024}, "api_version"),
        ({"request_timeout": 0}, "request_timeout"),
        ({"request_timeout": math.nan}, "request_timeout"),
        ({"request_timeout": math.inf}, "request_timeout"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"max_in_flight": 1.5}, "max_in_flight"),
        ({"max_in_flight": True}, "max_in_flight"),
        ({"reserve": -1}, "reserve"),
        ({"allow_http": "0"}, "allow_http must be True or False"),
        ({"on_request": "log"}, "on_request must be a function"),
    ],
    ids=str,
)
def test_invalid_settings_are_named(settings: dict[str, Any], message: str) -> None:
    """An invalid setting raises a ConfigurationError that names it and does not show the key."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        Client(**{"api_key": "secret-key", **settings})
    assert "secret" not in str(caught.value)


def test_nothing_awaits_a_callback() -> None:
    """A callback that would have to be awaited is refused before it is called in vain."""
    on_request: Any = asyncio.sleep
    with pytest.raises(ConfigurationError, match="on_request must be a function, and not an async"):
        Client("key", on_request=on_request)


@pytest.mark.parametrize(
    "base_url", ["http://localhost:8080", "http://127.3.2.1", "http://[::1]:1/"]
)
def test_plain_http_is_for_loopback(base_url: str) -> None:
    """Plain HTTP is accepted for a loopback address, which needs no certificate."""
    assert Client("key", base_url=base_url).base_url == base_url.rstrip("/")


async def test_the_key_is_never_shown(sandbox: Recorded) -> None:
    """Neither the client nor an error shows the key."""
    async with connect(sandbox, api_key="secret-key") as client:
        assert "secret" not in repr(client)
        with pytest.raises(AffinityError) as caught:
            await client.tasks.get(f"{sandbox.url}/v2/tasks/company-merges/a")
        assert "secret" not in repr(caught.value) + str(caught.value)


async def test_from_env_reads_three_variables(
    sandbox: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key, the origin and the version are read from the environment."""
    monkeypatch.setenv("AFFINITY_API_KEY", sandbox.api_key)
    monkeypatch.setenv("AFFINITY_BASE_URL", sandbox.url)
    monkeypatch.setenv("AFFINITY_API_VERSION", "current")
    (url,) = sandbox.start(1)
    async with Client.from_env() as client:
        await client.tasks.get(url)
    assert client._headers["X-Affinity-Api-Version"] == "current"


def test_arguments_take_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument takes precedence over the environment, and an empty variable counts as unset."""
    monkeypatch.setenv("AFFINITY_API_KEY", "one")
    monkeypatch.setenv("AFFINITY_BASE_URL", "")
    monkeypatch.delenv("AFFINITY_API_VERSION", raising=False)
    client = Client.from_env(api_key="two", api_version="2024-01-01")
    assert client.base_url == "https://api.affinity.co"
    assert client._headers["Authorization"] == "Bearer two"
    assert client._headers["X-Affinity-Api-Version"] == "2024-01-01"


def test_from_env_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key the error says where to put it."""
    monkeypatch.setenv("AFFINITY_API_KEY", "")
    with pytest.raises(ConfigurationError, match="set AFFINITY_API_KEY"):
        Client.from_env()


async def test_an_own_session_is_closed(sandbox: Recorded) -> None:
    """Without a session the client opens one and closes it, and all its tasks are gone."""
    (url,) = sandbox.start(1)
    async with connect(sandbox) as client:
        assert client._opened is not None
        session = client._opened.session
        await client.tasks.get(url)
        await assert_idle(client)
    assert session.closed
    assert client_tasks() == []
    assert repr(client) == f"<Client {sandbox.url}: closed>"


async def test_a_borrowed_session_is_never_closed(sandbox: Recorded) -> None:
    """A given session is used as it is, with its traces, and left open."""
    traced = []

    async def trace(_session: Any, _context: Any, params: aiohttp.TraceRequestStartParams) -> None:
        traced.append(str(params.url))

    config = aiohttp.TraceConfig()
    config.on_request_start.append(trace)
    (url,) = sandbox.start(1)
    async with aiohttp.ClientSession(
        trace_configs=[config], raise_for_status=True, timeout=aiohttp.ClientTimeout(total=0.001)
    ) as session:
        async with connect(sandbox, session=session) as client:
            await client.tasks.wait(url)
            with pytest.raises(AffinityError):
                await client.tasks.get(f"{sandbox.url}/v2/tasks/company-merges/a")
        assert not session.closed
        assert traced[0] == url
        async with session.get(f"{sandbox.url}/v2/auth/whoami", raise_for_status=False) as answer:
            assert answer.status == 401


async def test_a_proxy_of_the_session_is_used(sandbox: Recorded) -> None:
    """The client's requests go through the proxy of the session."""
    (url,) = sandbox.start(1)
    # No server listens there: only a proxy can answer for it.
    origin = "http://127.0.0.1:9"
    async with (
        aiohttp.ClientSession(proxy=sandbox.url) as session,
        connect(sandbox, session=session, base_url=origin) as client,
    ):
        task = await client.tasks.wait(url.replace(sandbox.url, origin))
        assert task.status == "success"
    assert sandbox.polls(url)


@pytest.mark.parametrize("is_borrowed", [False, True])
async def test_it_is_entered_and_left_in_different_tasks(
    sandbox: Recorded, *, is_borrowed: bool
) -> None:
    """Entering, leaving and waiting may be in different tasks; the waits raise when it closes."""
    running, ending = *sandbox.start(1, duration=math.inf), *sandbox.start(1, first=2)
    async with aiohttp.ClientSession() as session:
        client = connect(sandbox, **({"session": session} if is_borrowed else {}))
        await asyncio.create_task(client.__aenter__())
        waiting = asyncio.create_task(client.tasks.wait(running))
        assert (await asyncio.create_task(client.tasks.wait(ending))).status == "success"
        await asyncio.create_task(client.__aexit__(None, None, None))
        with pytest.raises(ClosedError, match="client is closed"):
            await waiting
        assert not session.closed
    assert client_tasks() == []


async def test_two_clients_may_share_a_session(sandbox: Recorded) -> None:
    """Leaving one client leaves the session usable for the other."""
    (url,) = sandbox.start(1)
    async with aiohttp.ClientSession() as session, connect(sandbox, session=session) as one:
        async with connect(sandbox, session=session) as other:
            await other.tasks.get(url)
        await one.tasks.get(url)


async def test_a_closed_session_is_refused(sandbox: Recorded) -> None:
    """Entering the scope with a session that is closed already is an error."""
    session = aiohttp.ClientSession()
    await session.close()
    with pytest.raises(ClosedError, match="session is closed"):
        await connect(sandbox, session=session).__aenter__()
    assert client_tasks() == []


async def test_a_session_with_auth_is_refused(sandbox: Recorded) -> None:
    """A session that would replace the key by an authorization of its own is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        session = aiohttp.ClientSession(auth=aiohttp.BasicAuth("user", "password"))
    async with session:
        with pytest.raises(ConfigurationError, match="auth"):
            await connect(sandbox, session=session).__aenter__()


async def test_the_headers_of_a_session_do_not_replace_the_key(sandbox: Recorded) -> None:
    """Where the session has an Authorization header of its own, the client still sends its key."""
    (url,) = sandbox.start(1)
    async with (
        aiohttp.ClientSession(headers={"Authorization": "Basic x"}) as session,
        connect(sandbox, session=session) as client,
    ):
        await client.tasks.get(url)
    assert [request.is_authorized for request in sandbox.log] == [True]


async def test_a_session_that_is_closed_during_the_scope(sandbox: Recorded) -> None:
    """When the owner of the session closes it, calls and waits raise immediately."""
    (url,) = sandbox.start(1, duration=math.inf)
    session = aiohttp.ClientSession()
    async with connect(sandbox, session=session) as client:
        waiting = asyncio.create_task(client.tasks.wait(url))
        await client.tasks.get(url)
        await session.close()
        with pytest.raises(ClosedError, match="session that is open"):
            await client.tasks.get(url)
        with pytest.raises(ClosedError):
            await waiting
        assert now() <= 2.2
        assert client.quota.in_flight == 0


CALLS: dict[str, Callable[[Client], Awaitable[object]]] = {
    "get": lambda client: client.tasks.get("https://api.affinity.co/v2/tasks/company-merges/a"),
    "wait": lambda client: client.tasks.wait("https://api.affinity.co/v2/tasks/company-merges/a"),
    "wait_many": lambda client: client.tasks.wait_many([]),
    "list": lambda client: anext(aiter(client.tasks.list("company"))),
    "merge": lambda client: client.companies.merge(1, 2),
    "merges": lambda client: anext(aiter(client.persons.merges())),
    "get_merge": lambda client: client.persons.get_merge(1),
    "suggestions": lambda client: anext(aiter(client.persons.suggestions())),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_client_cannot_be_used_outside_its_scope(
    sandbox: Recorded, call: Callable[[Client], Awaitable[object]]
) -> None:
    """Before and after its scope every call raises a ClosedError that says what to do."""
    client = connect(sandbox)
    with pytest.raises(ClosedError, match="async with Client"):
        await call(client)
    async with client:
        pass
    with pytest.raises(ClosedError, match="async with Client"):
        await call(client)
    assert sandbox.requests == 0


async def test_a_client_is_opened_once_at_a_time(sandbox: Recorded) -> None:
    """An open client cannot be opened a second time, and stays open."""
    async with connect(sandbox) as client:
        with pytest.raises(ClosedError, match="open already"):
            await client.open()
        await client.user_id()


async def test_a_client_is_opened_again(sandbox: Recorded) -> None:
    """A closed client can be opened again, knows nothing of before, and works."""
    (url,) = sandbox.start(1)
    client = connect(sandbox)
    for _ in range(3):
        assert await client.open() is client
        assert client.quota.sent == 0
        assert (await client.tasks.wait(url)).status == "success"
        assert (await client.tasks.peek(url)).task.status == "success"
        await client.aclose()
    assert client_tasks() == []


async def test_closing_twice_does_nothing(sandbox: Recorded) -> None:
    """Closing a client that is not open does nothing, also at the end of a scope."""
    client = connect(sandbox)
    await client.aclose()
    async with client:
        await client.aclose()
    await client.aclose()
    assert client_tasks() == []


def use_on_a_loop_of_its_own(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        runner.run(work())


def test_a_client_is_opened_on_another_loop() -> None:
    """A client can be opened on one loop after the other, as test suites of services do."""
    client = Client("key", base_url="http://127.0.0.1:9")

    async def use() -> None:
        async with client:
            assert client.quota.reset is None

    for _ in range(2):
        use_on_a_loop_of_its_own(use)
    assert repr(client).endswith(": closed>")


@pytest.mark.parametrize("is_borrowed", [False, True])
def test_a_client_survives_a_loop_that_was_closed_under_it(*, is_borrowed: bool) -> None:
    """A client that was not closed before its loop was is opened again, and loses no socket."""
    session: aiohttp.ClientSession | None = None
    client = Client("key", base_url="http://127.0.0.1:9")

    async def leave() -> None:
        nonlocal session
        if is_borrowed:
            client._borrowed = aiohttp.ClientSession()
        await client.open()
        assert client._opened is not None
        session = client._opened.session

    async def come_back() -> None:
        assert session is not None
        if is_borrowed:
            await session.close()
            with pytest.raises(ClosedError, match="given session is closed"):
                await client.open()
            client._borrowed = None
        async with client:
            assert session.closed

    use_on_a_loop_of_its_own(leave)
    use_on_a_loop_of_its_own(come_back)


async def test_a_crash_of_the_poller_ends_all_waits(
    sandbox: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in the poller leaves no wait hanging, ends no foreign task, and is raised at the end."""
    (url,) = sandbox.start(1, duration=math.inf)
    client = await connect(sandbox).open()
    waiting = asyncio.create_task(client.tasks.wait(url))
    await asyncio.sleep(1)
    assert client._opened is not None
    monkeypatch.setattr(client._opened.poller._schedule, "take", lambda _: 1 / 0)
    with pytest.raises(ClosedError):
        await waiting
    with pytest.raises(ClosedError):
        await client.tasks.wait(url)
    with pytest.RaisesGroup(ZeroDivisionError):
        await client.aclose()
    assert client_tasks() == []


async def test_closing_can_be_cancelled(sandbox: Recorded) -> None:
    """A client whose closing is cancelled is closed all the same."""
    client = await connect(sandbox).open()
    closing = asyncio.create_task(client.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert client_tasks() == []
    assert client._opened is None


@pytest.mark.parametrize(
    ("value", "is_allowed"), [("1", True), ("0", False), ("", False), (None, False)]
)
def test_plain_http_to_others_is_for_who_asks(
    value: str | None, is_allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a variable or an argument that says so lets the key go to another machine in clear."""
    monkeypatch.setenv("AFFINITY_BASE_URL", "http://sandbox:8080")
    if value is None:
        monkeypatch.delenv("AFFINITY_ALLOW_HTTP", raising=False)
    else:
        monkeypatch.setenv("AFFINITY_ALLOW_HTTP", value)
    if is_allowed:
        assert Client.from_env(api_key="key").base_url == "http://sandbox:8080"
    else:
        with pytest.raises(ConfigurationError, match="AFFINITY_ALLOW_HTTP=1"):
            Client.from_env(api_key="key")
    assert Client.from_env(api_key="key", allow_http=True).base_url == "http://sandbox:8080"
    with pytest.raises(ConfigurationError, match="in the clear"):
        Client.from_env(api_key="key", allow_http=False)


def test_a_switch_is_one_or_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch of the environment that is neither 1 nor 0 is an error that names it."""
    monkeypatch.setenv("AFFINITY_ALLOW_HTTP", "yes")
    with pytest.raises(ConfigurationError, match="AFFINITY_ALLOW_HTTP must be 1 or 0, not 'yes'"):
        Client.from_env(api_key="key")


def test_help_shows_the_verbs() -> None:
    """``help(Client)`` shows where the verbs are, and what they are about."""
    # It prints bold letters twice, with a backspace between them.
    text = re.sub(".\b", "", pydoc.render_doc(Client))
    for name in ("tasks", "companies", "persons", "open", "aclose"):
        assert re.search(rf"^ \|  (async )?{name}\b", text, re.MULTILINE), name


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_client_belongs_to_its_loop(
    client: Client, call: Callable[[Client], Awaitable[object]]
) -> None:
    """Using the client on another event loop raises a clear error and does not hang."""

    async def use() -> None:
        _ = await call(client)

    def elsewhere() -> None:
        with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
            with pytest.raises(ClosedError, match="another event loop"):
                runner.run(use())
            with pytest.raises(ClosedError, match="another event loop"):
                runner.run(client.__aexit__(None, None, None))

    await asyncio.to_thread(elsewhere)


async def test_the_quota_can_be_read_at_any_time() -> None:
    """The quota from the headers can be read before, in and after the scope."""
    async with Recorded(quota=50, month_quota=1000) as sandbox:
        client = connect(sandbox)
        assert (client.quota.limit, client.quota.remaining, client.quota.reset) == (None,) * 3
        (url,) = sandbox.start(1)
        async with client:
            await client.tasks.get(url)
            await asyncio.sleep(10)
            quota = client.quota
            assert (quota.limit, quota.remaining, quota.reset) == (50, 49, 50.0)
            assert (quota.org_limit, quota.org_remaining) == (1000, 999)
            assert quota.org_reset == pytest.approx(30 * 86400 - 10)
            assert (quota.in_flight, quota.sent, quota.refused) == (0, 1, 0)
        assert client.quota.sent == 1
        assert client.quota.limit == 50
        assert client.quota.reset is None
        assert sandbox.requests == 1


async def test_the_repr_shows_the_current_state(sandbox: Recorded, client: Client) -> None:
    """The repr shows the current waits and slots."""
    (url,) = sandbox.start(1)
    waiting = asyncio.create_task(client.tasks.wait(url))
    sandbox.latency = 1.0
    calls = [asyncio.create_task(client.companies.merge(3, 4 + number)) for number in range(2)]
    await asyncio.sleep(0.5)
    assert "<Poller: 1 pending, 0 in flight>" in repr(client)
    assert "<Slots: 1 in flight; waiting: 0 interactive, 1 merge, 1 poll>" in repr(client)
    await asyncio.gather(waiting, *calls)
    assert "<Poller: 0 pending, 0 in flight>" in repr(client)
    assert "<Slots: 0 in flight; waiting: 0 interactive, 0 merge, 0 poll>" in repr(client)


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), TimeoutError("mine")])
async def test_the_error_of_the_body_is_raised_unchanged(
    sandbox: Recorded, error: BaseException
) -> None:
    """An error that the body raises leaves the scope unchanged, in no ExceptionGroup."""
    with pytest.raises(type(error)) as caught:
        async with connect(sandbox):
            raise error
    assert caught.value is error
    assert client_tasks() == []


async def test_the_error_of_a_wait_leaves_the_scope_unchanged(sandbox: Recorded) -> None:
    """``except TaskFailedError`` around the scope catches the error of a wait in it."""
    (url,) = sandbox.start(1, duration=0.0, reason="Locked")
    with pytest.raises(TaskFailedError, match="Locked"):
        async with connect(sandbox) as client:
            await client.tasks.wait(url)
    assert client_tasks() == []


async def test_leaving_the_scope_ends_the_waits_of_others(sandbox: Recorded) -> None:
    """A wait in another task raises a ClosedError when the scope is left."""
    running = sandbox.start(3, duration=math.inf)
    async with connect(sandbox) as client:
        one = asyncio.create_task(client.tasks.wait(running[0]))
        many = asyncio.create_task(client.tasks.wait_many(running))
        await asyncio.sleep(5)
    with pytest.raises(ClosedError, match="client is closed"):
        await one
    outcomes = await many
    assert [type(outcome.error) for outcome in outcomes.unknown] == [ClosedError] * 3
    assert now() == 5.0
    assert client_tasks() == []


async def test_leaving_the_scope_ends_the_wait_for_a_slot() -> None:
    """A call that waits for a slot raises a ClosedError immediately when the scope is left."""
    async with Recorded(quota=1) as sandbox:
        (url,) = sandbox.start(1)
        async with connect(sandbox) as client:
            await client.tasks.get(url)
            calls = [asyncio.create_task(client.tasks.get(url)) for _ in range(3)]
            await asyncio.sleep(5)
        for call in calls:
            with pytest.raises(ClosedError):
                await call
        assert now() == 5.0
        assert sandbox.requests == 1


async def test_leaving_the_scope_with_a_cancelled_call_in_the_queue() -> None:
    """One of two calls that wait for a slot may be cancelled while the scope is left."""
    async with Recorded(quota=1) as sandbox:
        (url,) = sandbox.start(1)
        async with connect(sandbox) as client:
            await client.tasks.get(url)
            remaining, cancelled_wait = [
                asyncio.create_task(client.tasks.get(url)) for _ in range(2)
            ]
            await asyncio.sleep(5)
            cancelled_wait.cancel()
        await asyncio.wait([remaining, cancelled_wait])
        assert cancelled_wait.cancelled()
        assert isinstance(remaining.exception(), ClosedError)


async def test_leaving_the_scope_ends_the_retries_of_others(sandbox: Recorded) -> None:
    """A call that pauses before its next attempt raises a ClosedError when the scope is left."""
    (url,) = sandbox.start(1)
    sandbox.inject("503x*")
    async with connect(sandbox) as client:
        call = asyncio.create_task(client.tasks.get(url))
        await asyncio.sleep(0.1)
    with pytest.raises(ClosedError):
        await call
    assert sandbox.requests == 1


async def test_a_watch_ends_with_its_client(sandbox: Recorded) -> None:
    """A watch that is still open accepts no URL once its client is closed."""
    running = sandbox.start(2, duration=math.inf)
    async with connect(sandbox) as client:
        watch = await client.tasks.watch(running[:1]).__aenter__()
    assert isinstance((await anext(watch)).error, ClosedError)
    with pytest.raises(ClosedError):
        watch.add(running[1])
    await watch.__aexit__(None, None, None)


async def test_two_clients_are_independent(sandbox: Recorded) -> None:
    """Each client has its own limits and its own key."""
    (url,) = sandbox.start(1)
    async with Sandbox(api_key="other") as second, connect(sandbox) as one, connect(second) as two:
        await one.tasks.get(url)
        other = await two.companies.merge(1, 2)
        await two.tasks.get(other)
    assert (one.quota.sent, two.quota.sent) == (1, 2)
    assert (sandbox.requests, second.requests) == (1, 2)
