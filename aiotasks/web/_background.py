"""What runs for the length of an application, and ends with it."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiotasks.errors import AffinityError


T = TypeVar("T")

log = logging.getLogger("aiotasks.web")


class EndingError(AffinityError):
    """Raised in what an application would have to wait for while it ends."""

    def __init__(self) -> None:
        super().__init__("The server is being shut down: try again when it is back")


class BackgroundTasks:
    """Holds all that an application runs beside its handlers, and ends all of it.

    It is opened at the start of an application and left at its end, perhaps in other tasks.
    """

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._deadlines: set[asyncio.Timeout] = set()
        self._is_ending = False

    async def open(self) -> None:
        """Begin; nothing can be run before."""
        _ = await self._group.__aenter__()

    def run(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run something until it ends by itself, or is cancelled, at the latest with the scope."""
        if self._is_ending:
            work.close()
            raise EndingError
        task = self._group.create_task(_logged(work, name), name=f"aiotasks: {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # What is cancelled before its first step would never be awaited.
        task.add_done_callback(lambda _: work.close())
        return task

    async def complete(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what a handler waits for; the scope's end cuts it short.

        Raises:
            EndingError: when the scope ended first.
        """
        if self._is_ending:
            work.close()
            raise EndingError
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
        """End at once all that runs, and wait until it has; calling it again is harmless."""
        self._is_ending = True
        deadlines, self._deadlines = self._deadlines, set()
        for deadline in deadlines:
            deadline.reschedule(0.0)
        for task in self._tasks:
            _ = task.cancel()
        if self._tasks:
            _ = await asyncio.wait(self._tasks)

    async def leave(self) -> None:
        """End, for good."""
        await self.end()
        await self._group.__aexit__(None, None, None)


async def _logged(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    except Exception:
        # One job's trouble is not to end all others, and the application with them.
        log.exception("Unexpected end of %s", name)
