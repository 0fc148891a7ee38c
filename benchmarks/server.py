"""A sandbox in a process of its own, with tasks that never end or have ended already."""

import asyncio
import math
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import NamedTuple

from aiotasks.sandbox import PLAIN, Sandbox


# No request is ever refused, but every answer has the headers that a client has to read.
_UNREACHED = 10**9


class Server(NamedTuple):
    """The origin of a sandbox, its key, and the URLs of its tasks."""

    url: str
    api_key: str
    task_urls: list[str]


@contextmanager
def serving(tasks: int, *, have_ended: bool = False) -> Iterator[Server]:
    """Serve tasks that are in progress, or have ended, until the scope ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, tasks, have_ended), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        ours.close()
        process.join()


def _serve(connection: Connection, tasks: int, have_ended: bool) -> None:  # noqa: FBT001 - by position
    duration = 0.0 if have_ended else math.inf
    asyncio.run(_serve_until_closed(connection, tasks, duration))


async def _serve_until_closed(connection: Connection, tasks: int, duration: float) -> None:
    async with Sandbox(
        **PLAIN, quota=_UNREACHED, month_quota=_UNREACHED, companies=0, persons=0, duration=duration
    ) as sandbox:
        urls = [
            sandbox.start_merge("company", 2 * number - 1, 2 * number, outcome="success")
            for number in range(1, tasks + 1)
        ]
        connection.send(Server(sandbox.url, sandbox.api_key, urls))
        # However the other process ends, the connection closes, and no server remains.
        _ = await asyncio.to_thread(connection.poll, None)
