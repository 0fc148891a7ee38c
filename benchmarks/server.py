"""A sandbox in a process of its own, with tasks that never end."""

import asyncio
import math
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import NamedTuple

from aiotasks.sandbox import Sandbox


# No request is ever refused, yet every answer carries the headers that a client has to read.
_UNREACHED = 10**9


class Server(NamedTuple):
    """Where it listens, its key, and the URLs of its tasks."""

    url: str
    api_key: str
    task_urls: list[str]


@contextmanager
def serving(tasks: int) -> Iterator[Server]:
    """Serve tasks that stay in progress while the scope is open."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, tasks), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        ours.close()
        process.join()


def _serve(connection: Connection, tasks: int) -> None:
    asyncio.run(_serve_until_hung_up(connection, tasks))


async def _serve_until_hung_up(connection: Connection, tasks: int) -> None:
    async with Sandbox(
        quota=_UNREACHED, month_quota=_UNREACHED, companies=0, persons=0, duration=math.inf
    ) as sandbox:
        urls = [
            sandbox.start_merge("company", 2 * number - 1, 2 * number)
            for number in range(1, tasks + 1)
        ]
        connection.send(Server(sandbox.url, sandbox.api_key, urls))
        # However the other side ends, it hangs up, and no server is left behind.
        _ = await asyncio.to_thread(connection.poll, None)
