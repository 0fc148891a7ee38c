"""Starting merges: once, or provably not at all."""

import asyncio
from typing import Any

import aiohappyeyeballs
import pytest

from aiotasks import (
    AffinityError,
    AuthenticationError,
    AuthorizationError,
    Client,
    ConflictError,
    ConnectError,
    DecodeError,
    IndeterminateMergeError,
    MergedEntityError,
    NetworkError,
    RateLimitError,
    RequestTimeoutError,
    ResponseError,
    ServerError,
    ValidationError,
)
from aiotasks.sandbox import Fault
from tests.servers import Recorded, assert_idle, connect, host, now, saying


@pytest.mark.parametrize("kind", ["company", "person"])
async def test_a_merge_returns_its_task_url(sandbox: Recorded, client: Client, kind: Any) -> None:
    """One POST starts the merge, and its URL is accepted by all calls for tasks."""
    service: Any = client.companies if kind == "company" else client.persons
    url = await service.merge(1, 2)
    assert url == sandbox.task_urls(kind)[0]
    assert sandbox.posted(kind) == {(1, 2): 1}
    assert (await client.tasks.wait(url)).status == "success"
    assert sandbox.merged(kind) == {2: 1}
    assert sandbox.calls["merge"] == 1


async def test_the_callback_before_a_merge_is_sent(sandbox: Recorded) -> None:
    """The callback for recording a merge is awaited once, when the limits let the merge go."""
    sandbox.set_quota(3)
    called_at: list[float] = []

    async def record_call() -> None:
        called_at.append(now())
        await asyncio.sleep(0.5)

    async with connect(sandbox) as client:
        _ = await asyncio.gather(
            *(client.companies.merge(n, n + 1, before_send=record_call) for n in (1, 3, 5, 7))
        )
        await assert_idle(client)
    posts = [request.at for request in sandbox.log if request.method == "POST"]
    assert posts == [pytest.approx(each + 0.5) for each in sorted(called_at)]
    assert len(called_at) == 4
    # The fourth waited for the next window, and its callback was called only then.
    assert max(called_at) >= 59.0


@pytest.mark.parametrize("error", [RuntimeError("no"), asyncio.CancelledError()], ids=repr)
async def test_a_callback_that_raises(
    sandbox: Recorded, client: Client, error: BaseException
) -> None:
    """When the callback raises, the merge is not sent, and its slot is free again."""

    async def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        await client.companies.merge(1, 2, before_send=fail)
    assert sandbox.requests == 0
    await assert_idle(client)
    _ = await client.companies.merge(1, 2)


async def test_a_refused_merge_is_reported_once(sandbox: Recorded, client: Client) -> None:
    """A merge that is sent again after a refusal for a limit calls its callback once."""
    sandbox.inject(Fault.rate_limit(retry_after=1), on="merge")
    called_at: list[float] = []

    async def record_call() -> None:
        called_at.append(now())

    _ = await client.companies.merge(1, 2, before_send=record_call)
    assert (len(called_at), sandbox.calls["merge"]) == (1, 2)


@pytest.mark.plain
async def test_a_record_that_was_merged_away_names_its_successor(
    sandbox: Recorded, client: Client
) -> None:
    """The error for a record that was merged away carries both ids."""
    sandbox.start_merge("company", 1, 2, duration=0.0)
    with pytest.raises(MergedEntityError) as caught:
        await client.companies.merge(3, 2)
    assert (caught.value.source_id, caught.value.target_id) == (2, 1)


@pytest.mark.plain
async def test_a_record_of_another_merge_is_a_conflict(sandbox: Recorded, client: Client) -> None:
    """A merge that contradicts one in progress is refused, and the error says to wait."""
    await client.companies.merge(1, 2)
    with pytest.raises(ConflictError, match="wait for it"):
        await client.companies.merge(3, 2)
    assert sum(sandbox.posted("company").values()) == 1


REFUSALS = [
    (400, ValidationError),
    (401, AuthenticationError),
    (403, AuthorizationError),
    (409, ConflictError),
    (422, ValidationError),
]


@pytest.mark.parametrize(("status", "error"), REFUSALS)
async def test_a_refused_merge_did_not_run(
    sandbox: Recorded, client: Client, status: int, error: type[ResponseError]
) -> None:
    """The API's refusals are raised unchanged, after one request."""
    sandbox.inject(Fault.status(status), times=None)
    with pytest.raises(error):
        await client.companies.merge(1, 2)
    assert sandbox.requests == 1


@pytest.mark.parametrize("cause", ["minute", "concurrency"])
@pytest.mark.parametrize("retry_after", [None, 7])
async def test_a_merge_refused_for_a_limit_is_sent_again(
    sandbox: Recorded, client: Client, cause: Any, retry_after: int | None
) -> None:
    """After a 429, with which the merge did not run, it is sent again when the limit allows."""
    sandbox.inject(Fault.rate_limit(cause=cause, retry_after=retry_after), times=2)
    await client.companies.merge(1, 2)
    assert sandbox.requests == 3
    assert sandbox.posted("company") == {(1, 2): 1}
    wait = retry_after or {"minute": 60, "concurrency": 1}[cause]
    assert now() >= 2 * wait


async def test_a_merge_refused_repeatedly_is_raised(sandbox: Recorded, client: Client) -> None:
    """After ten refusals the error says that the merge did not run."""
    sandbox.inject(Fault.rate_limit(cause="concurrency"), times=None)
    with pytest.raises(RateLimitError):
        await client.companies.merge(1, 2)
    assert sandbox.requests == 10
    assert not sandbox.posted("company")


async def test_a_merge_without_a_connection_is_sent_again(
    sandbox: Recorded, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge of which no byte was sent is sent again, and runs once."""
    start_connection = aiohappyeyeballs.start_connection
    tries = []

    async def start(*arguments: Any, **settings: Any) -> Any:
        tries.append(now())
        if len(tries) < 4:
            raise ConnectionRefusedError
        return await start_connection(*arguments, **settings)

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", start)
    await client.companies.merge(1, 2)
    assert len(tries) == 4
    assert sandbox.posted("company") == {(1, 2): 1}


async def test_a_merge_without_a_connection_is_not_indeterminate(
    sandbox: Recorded, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge without a connection raises a ConnectError: nothing is indeterminate about it."""

    async def refuse(*_arguments: Any, **_settings: Any) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", refuse)
    with pytest.raises(ConnectError) as caught:
        await client.companies.merge(1, 2)
    assert not caught.value.was_sent
    assert sandbox.requests == 0
    await assert_idle(client)


UNCLEAR = {
    "disconnect before the work": (Fault.disconnect(), NetworkError),
    "disconnect after the work": (Fault.disconnect(after_work=True), NetworkError),
    "500": (Fault.status(500), ServerError),
    "500 after the work": (Fault.status(500, after_work=True), ServerError),
    "502": (Fault.status(502, html=True, after_work=True), ServerError),
    "503": (Fault.status(503, retry_after=1), ServerError),
    "408": (Fault.status(408), ServerError),
    "hang": (Fault.hang(after_work=True), RequestTimeoutError),
    "truncated": (Fault.truncate(), NetworkError),
    "malformed": (Fault.malformed(), DecodeError),
    "html": (Fault.status(200, html=True, after_work=True), DecodeError),
    "wrong types": (Fault.wrong_types(), DecodeError),
    "nothing": (Fault.content(b"", status=204), DecodeError),
    "no taskUrl": (Fault.content(b"{}", status=202), DecodeError),
    "huge": (Fault.huge(17 * 2**20), DecodeError),
}


@pytest.mark.parametrize("name", UNCLEAR)
@pytest.mark.parametrize("is_warm", [False, True], ids=["first request", "used connection"])
async def test_a_merge_is_never_repeated_on_a_guess(
    sandbox: Recorded, client: Client, name: str, is_warm: bool
) -> None:
    """Where no answer shows whether it runs, the merge is sent once and the error says so."""
    fault, cause = UNCLEAR[name]
    if is_warm:
        await client.tasks.get(sandbox.start(1, first=9)[0])
    sandbox.inject(fault, on="merge", times=None)
    with pytest.raises(IndeterminateMergeError, match="merge history") as caught:
        await client.companies.merge(1, 2)
    assert isinstance(caught.value.__cause__, cause)
    assert (caught.value.kind, caught.value.primary_id, caught.value.duplicate_id) == (
        "company",
        1,
        2,
    )
    assert sandbox.calls["merge"] == 1
    sandbox.clear_faults()
    await client.companies.merge(5, 6)
    await assert_idle(client)


HOSTILE = [
    "",
    "task",
    "https://api.affinity.co/v2/companies/1",
    "https://api.affinity.co/v2/tasks/person-merges/a",
    "https://api.affinity.co/v2/tasks/company-merges/",
    "https://api.affinity.co/v2/tasks/company-merges/../../auth/whoami",
    "https://api.affinity.co/v2/tasks/company-merges/%2e%2e",
    "https://api.affinity.co/v2/tasks/company-merges/a%2Fb",
    "https://api.affinity.co/v2/tasks/company-merges/a?x=1",
    "https://api.affinity.co/v2/tasks/company-merges/a#b",
    "https://api.affinity.co/v2/tasks/company-merges/a\\r\\nHost: evil",
    "javascript:alert(1)",
    "/v2/tasks/company-merges/a",
    "//evil.example/v2/tasks/company-merges/a",
]


@pytest.mark.parametrize("task_url", HOSTILE)
async def test_an_answer_that_names_no_task_is_indeterminate(
    sandbox: Recorded, client: Client, task_url: str
) -> None:
    """An invalid taskUrl leaves the merge indeterminate, and no request is sent to it."""
    body = f'{{"taskUrl": "{task_url}"}}'.encode()
    sandbox.inject(Fault.content(body, status=202), on="merge")
    with pytest.raises(IndeterminateMergeError) as caught:
        await client.companies.merge(1, 2)
    assert isinstance(caught.value.__cause__, DecodeError)
    assert sandbox.requests == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirected_merge_is_not_followed_and_indeterminate(
    sandbox: Recorded, client: Client, status: int
) -> None:
    """A redirected merge is indeterminate, as a proxy may have passed it on."""
    async with host(saying(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")) as foreign:
        sandbox.inject(Fault.redirect(f"{foreign.url}/v2/company-merges", status=status))
        with pytest.raises(IndeterminateMergeError) as caught:
            await client.companies.merge(1, 2)
        assert "not followed" in str(caught.value.__cause__)
        assert foreign.connections == 0
    assert sandbox.requests == 1


async def test_a_task_on_another_host_is_polled_at_the_own_origin() -> None:
    """Where the server names its tasks by a public URL, only the configured origin is polled."""
    async with host(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as foreign:
        async with Recorded(public_url=foreign.url) as sandbox, connect(sandbox) as client:
            url = await client.companies.merge(1, 2)
            assert sandbox.task_urls("company")[0].startswith(foreign.url)
            assert url.startswith(sandbox.url)
            assert (await client.tasks.wait(url)).status == "success"
            # A task that this client started is polled after the interval.
            (polled_at,) = sandbox.polls(url)
            assert 2.0 <= polled_at == now() <= 2.21
        assert foreign.connections == 0


async def test_a_cancelled_merge_is_sent_once_at_most(sandbox: Recorded, client: Client) -> None:
    """A cancelled merge is sent once at most, and the server may have received it."""
    sandbox.latency = 5.0
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(1.0):
            await client.companies.merge(1, 2)
    assert not isinstance(caught.value, AffinityError)
    sandbox.latency = 0.0
    assert sandbox.posted("company") == {(1, 2): 1}
    await client.companies.merge(3, 4)
    assert sandbox.calls["merge"] == 2
    await assert_idle(client)
