"""The key is in no file, no event and no report of a job, whatever the server answers."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aiotasks import Client
from aiotasks.dedupe import JobResult
from tests.leaks import ANSWERS, ECHO, KEY, answer
from tests.servers import host

from .conftest import Seen, Server, go, plan_of


_EMPTY = answer(200, b'{"data": [], "pagination": {"nextUrl": null}}')
_RECORDS = answer(
    200,
    b'{"data": [%b]}' % b", ".join(b'{"id": %d, "isGlobal": false}' % number for number in (1, 2)),
)
_ANSWERS = {b"/v2/companies?": _RECORDS, b"/whoami": answer(200, b'{"user": {"id": 1}}')}


@pytest.mark.parametrize("name", ANSWERS)
async def test_no_ledger_contains_the_key(name: str, job: Path) -> None:
    """Whatever the server answers to a merge, the ledger and the events are without the key."""

    async def speak(writer: asyncio.StreamWriter) -> None:
        request = server.received[-1]
        if request.startswith(b"POST"):
            writer.write(ANSWERS[name])
            writer.close()
        else:
            writer.write(next((_ANSWERS[path] for path in _ANSWERS if path in request), _EMPTY))

    seen, unused = Seen(), Server()
    async with host(speak) as server:
        client = Client(KEY, base_url=server.url, request_timeout=1.0)
        running = asyncio.create_task(go(unused, job, plan_of(1), seen=seen, client=client))
        _ = await asyncio.wait([running], timeout=600.0)
        result = await _end(running)
        assert any(b"POST" in request for request in server.received)
    files = [*job.parent.iterdir()]
    assert files
    assert all(ECHO not in file.read_bytes() for file in files)
    assert KEY not in repr((seen.events, seen.snapshots, result))


async def _end(running: "asyncio.Task[JobResult]") -> Any:
    running.cancel()
    (result,) = await asyncio.gather(running, return_exceptions=True)
    return result
