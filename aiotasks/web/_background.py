"""Background tasks that live as long as the application, and end with it."""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from aiotasks.errors import AffinityError


T = TypeVar("T")

log = logging.getLogger("aiotasks.web")


class EndingError(AffinityError):
    """Raised where the application would have to wait while it shuts down."""

    def __init__(self) -> None:
        super().__init__("The server is being shut down: try again when it is back")


class BackgroundTasks:
    """Owns all tasks that an application runs beside its handlers.

    It is opened at the application's startup and closed at its cleanup, which aiohttp may run in
    different tasks. So its task group cannot be entered with ``async with``.
    """

    def __init__(self) -> None:
        self._exit = AsyncExitStack()
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._deadlines: set[asyncio.Timeout] = set()
        self._is_ending = False

    async def open(self) -> None:
        """Open the task group; nothing can be run before."""
        _ = await self._exit.enter_async_context(self._group)

    def run(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run a task until it ends or is cancelled, at the latest when the application ends.

        Raises:
            EndingError: when the application ends.
        """
        if self._is_ending:
            work.close()
            raise EndingError
        task = self._group.create_task(_logged(work, name), name=f"aiotasks: {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A task that is cancelled before its first step never awaits its coroutine.
        task.add_done_callback(lambda _: work.close())
        return task

    async def complete(self, work: Coroutine[Any, Any, T]) -> T:
        """Await something in a handler; the end of the application interrupts it.

        Raises:
            EndingError: when the application ended first.
        """
        if self._is_ending:
            work.close()
            raise EndingError
        # Not a task of its own: `end` reschedules the deadline to now instead of cancelling it.
        deadline = asyncio.timeout(None)
        try:
            async with deadline:
                self._deadlines.add(deadline)
                try:
                    return await work
                finally:
                    self._deadlines.discard(deadline)
        except TimeoutError:
            if deadline.expired():
                raise EndingError from None
            raise

    async def end(self) -> None:
        """Interrupt handlers, cancel all tasks, and wait for their end. It can be called again."""
        self._is_ending = True
        deadlines, self._deadlines = self._deadlines, set()
        for deadline in deadlines:
            deadline.reschedule(0.0)
        for task in self._tasks:
            _ = task.cancel()
        if self._tasks:
            _ = await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """End everything, and close the task group."""
        await self.end()
        await self._exit.aclose()


async def _logged(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    except Exception:
        # An error in one job must not cancel the group, and so all other jobs.
        log.exception("Unexpected end of %s", name)
