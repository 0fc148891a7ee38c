"""The task that outlives the call that started it, and ends when its owner is closed.

Clients and ledgers are opened and closed by whatever task an application does that in: a lifespan,
a cell of a notebook, a request that needs a client. A task group would bind them to the task that
opened them, and cancel that one when something in the group fails.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any


@asynccontextmanager
async def running(
    work: Coroutine[Any, Any, None],
    *,
    name: str,
    end: Callable[["asyncio.Task[None]"], object],
    on_crash: Callable[[], object],
) -> AsyncIterator[None]:
    """Run a coroutine in a task of its own; entering and leaving may be in different tasks.

    Leaving calls ``end`` with the task, which has to make it end, waits for that, and raises its
    error. ``on_crash`` is called as soon as it ends by an error.
    """
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(lambda _: None if _is_fine(task) else on_crash())
    try:
        yield
    finally:
        _ = end(task)
        await _until_done(task)
        with suppress(asyncio.CancelledError):
            task.result()


async def _until_done(task: asyncio.Task[None]) -> None:
    """Wait until a task is done, even when cancelled meanwhile; then raise the cancellation."""
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            _ = await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is not None:
        raise cancellation


def _is_fine(task: asyncio.Task[None]) -> bool:
    return task.cancelled() or task.exception() is None
