"""Hints: unsigned webhooks make tasks due earlier, prove nothing, and cannot cause many polls."""

import asyncio
import json
from typing import Any

import pytest

from aiotasks import Client, ClosedError
from aiotasks._polling import started
from aiotasks._polling.webhooks import WebhookHint
from tests.servers import Recorded, connect, now


def merged(duplicate_id: int, *, kind: str = "company") -> dict[str, Any]:
    """Return Affinity's webhook for a record that was merged away."""
    name = "organization" if kind == "company" else "person"
    body = {f"removed_{kind}": {"id": duplicate_id, "name": "Old"}, kind: {"id": 1}}
    return {"type": f"{name}.merged", "body": body, "sent_at": 1_700_000_000}


@pytest.mark.parametrize(
    "form",
    [dict, json.dumps, lambda hint: json.dumps(hint).encode()],
    ids=["parsed", "text", "bytes"],
)
async def test_a_hint_makes_its_task_due(sandbox: Recorded, client: Client, form: Any) -> None:
    """The task that merges the named record away is polled when the hint arrives, not later."""
    sandbox.duration = 30.0
    urls = [await client.companies.merge(number, number + 1) for number in (1, 3, 5)]
    async with client.tasks.watch(urls, poll_interval=100.0) as watch:
        await asyncio.sleep(31.0)
        assert client.hint(form(merged(4)))
        outcome = await anext(watch)
    assert outcome.url == urls[1]
    assert now() == pytest.approx(31.0, abs=0.1)


async def test_persons_have_hints_too(sandbox: Recorded, client: Client) -> None:
    """A hint of one kind does not affect the other."""
    sandbox.duration = 30.0
    url = await client.persons.merge(1, 2)
    async with client.tasks.watch([url], poll_interval=100.0) as watch:
        await asyncio.sleep(31.0)
        assert not client.hint(merged(2))
        assert client.hint(merged(2, kind="person"))
        assert (await anext(watch)).waited == pytest.approx(31.0, abs=0.1)


async def test_a_hint_proves_nothing(sandbox: Recorded, client: Client) -> None:
    """A forged hint costs a poll, and the task is still waited for."""
    sandbox.duration = 30.0
    url = await client.companies.merge(1, 2)
    async with client.tasks.watch([url], poll_interval=10.0) as watch:
        await asyncio.sleep(5.0)
        assert client.hint(merged(2))
        assert (await anext(watch)).waited >= 30.0
    assert len(sandbox.polls(url)) >= 3


async def test_a_hint_for_a_task_of_others(sandbox: Recorded, client: Client) -> None:
    """Where no task is known for a record, the task that was polled longest ago is polled."""
    [first] = sandbox.start(1, duration=60.0)
    [second] = sandbox.start(1, first=2, duration=60.0)
    async with client.tasks.watch([first], poll_interval=50.0) as watch:
        await asyncio.sleep(5.0)
        watch.add(second)
        await asyncio.sleep(5.0)
        assert client.hint(merged(999))
        await asyncio.sleep(0.1)
        assert sandbox.polls(first) == [0.0, 10.0]
        assert sandbox.polls(second) == [5.0]


async def test_at_most_one_hint_per_second_is_followed(sandbox: Recorded, client: Client) -> None:
    """A thousand forged hints do not make a thousand requests."""
    urls = sandbox.start(50, duration=1000.0)
    async with client.tasks.watch(urls, poll_interval=500.0):
        await asyncio.sleep(1.0)
        before = sandbox.requests
        followed = 0
        for _ in range(1000):
            followed += client.hint(merged(2))
            await asyncio.sleep(0.01)
        assert followed == 10
        assert sandbox.requests - before <= 10


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        "{}",
        "[]",
        None,
        7,
        {"type": "person.created", "body": {}},
        {"type": "organization.merged", "body": {"removed_company": {"id": "2"}}},
        {"type": 3},
        b"[" * 10_000,
        b" " * 2_000_000,
    ],
    ids=lambda payload: repr(payload)[:30],
)
async def test_anything_else_is_ignored(sandbox: Recorded, client: Client, payload: Any) -> None:
    """Any other payload is ignored, and no request is sent."""
    [url] = sandbox.start(1, duration=60.0)
    async with client.tasks.watch([url], poll_interval=50.0):
        await asyncio.sleep(1.0)
        assert not client.hint(payload)
        await asyncio.sleep(1.0)
    assert sandbox.requests == 1


async def test_without_waiters(sandbox: Recorded, client: Client) -> None:
    """Without waiters a hint sends no request; on a closed client it raises an error."""
    assert not client.hint(merged(2))
    assert sandbox.requests == 0
    async with connect(sandbox) as other:
        pass
    with pytest.raises(ClosedError):
        other.hint(merged(2))


async def test_only_the_newest_merges_are_remembered(
    sandbox: Recorded, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that runs for years does not keep all merges that it ever started."""
    monkeypatch.setattr(started, "MAX_MERGES", 1)
    assert client._opened is not None
    known = client._opened.poller._schedule.started
    for number in (1, 3):
        _ = await client.companies.merge(number, number + 1)
    assert known.task_of(WebhookHint("company", 2)) is None
    assert known.task_of(WebhookHint("company", 4)) is not None
