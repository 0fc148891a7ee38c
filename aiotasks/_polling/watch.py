"""A watch: the outcomes of many tasks as an async iterator."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from aiotasks._http.urls import parse_task_url
from aiotasks.backoff import Backoff
from aiotasks.errors import ClosedError, ConfigurationError
from aiotasks.outcomes import Outcome, OutcomeState

from .pending import PendingTask, Phase, WaitOptions
from .poller import Poller


_SETTLED_KEPT = 64

log = logging.getLogger("aiotasks.polling")


class Watch:
    """Iterate over the outcomes of tasks, in the order in which they finish.

    Enter it with ``async with``. Leaving it stops waiting for what is still pending; the server
    goes on with those tasks. ``add`` takes more URLs at any time. After an ``add``, call ``close``
    when no more will come: the iteration ends once all have finished. A watch that only has the
    URLs it was opened with needs no ``close``.
    """

    def __init__(
        self,
        poller: Poller,
        urls: Iterable[str],
        timeout: float,
        backoff: Backoff,
        *,
        origin: str,
        is_urgent: bool = False,
        on_failure: Callable[[str], object] | None = None,
    ) -> None:
        self._poller = poller
        self._origin = origin
        self._urls = urls
        self._options = WaitOptions(timeout, backoff, self._deliver, is_urgent)
        if on_failure is not None:
            self._options = self._options._replace(note_failure=on_failure)
        self._pending: list[PendingTask] = []
        self._left = 0
        self._outcomes: deque[tuple[int, Outcome]] = deque()
        self._changed = asyncio.Event()
        self._count = 0
        self._was_entered = False
        self._is_open = False
        self._is_complete = False

    def __repr__(self) -> str:
        state = "open" if self._is_open else "closed"
        return f"<Watch: {self._left} of {self._count} pending, {state}>"

    async def __aenter__(self) -> Self:
        if self._was_entered:
            message = "A watch can be entered once: make a new one for each `async with`"
            raise ClosedError(message)
        self._was_entered = self._is_open = True
        try:
            now = self._now()
            for url in self._urls:
                self._add(url, now)
        except BaseException:
            self._forget()
            raise
        self._is_complete = self._count > 0
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._forget()

    def add(self, task_url: str) -> None:
        """Wait for one more task; its ``timeout`` counts from now.

        A URL that cannot be used raises nothing here: its outcome is ``UNKNOWN``, with the
        ``ConfigurationError`` as its ``error``.

        Raises:
            ClosedError: when the watch was closed or left, or is not entered yet.
        """
        if not self._is_open:
            message = "This watch is not open: add URLs inside its `async with`, before close()"
            raise ClosedError(message)
        self._is_complete = False
        self._add(task_url, self._now())

    def close(self) -> None:
        """Declare that no more URLs will come. Pending tasks are still waited for."""
        self._is_open = False
        self._is_complete = True
        self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        return (await self.next_settled())[1]

    async def next_settled(self) -> tuple[int, Outcome]:
        """Return the next outcome and the number (from 0) of the URL that it belongs to."""
        while not self._outcomes:
            if not self._left and (self._is_complete or not self._is_open):
                self._is_open = False
                raise StopAsyncIteration
            self._changed.clear()
            _ = await self._changed.wait()
        return self._outcomes.popleft()

    @property
    def unsettled(self) -> list[Outcome]:
        """The outcomes of the pending tasks if the wait ended now."""
        now = self._now()
        return [pending.timed_out(now) for pending in self._present()]

    @property
    def count(self) -> int:
        """How many URLs were given."""
        return self._count

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _add(self, url: str, now: float) -> None:
        index, self._count = self._count, self._count + 1
        try:
            ref = parse_task_url(url, self._origin)
        except ConfigurationError as error:
            self._emit(index, Outcome(url=url, state=OutcomeState.UNKNOWN, error=error))
            return
        pending = PendingTask(ref, url, self._options, now=now, index=index)
        self._poller.add(pending)
        self._left += 1
        self._pending.append(pending)
        if len(self._pending) > 2 * self._left + _SETTLED_KEPT:
            self._pending = self._present()

    def _present(self) -> list[PendingTask]:
        return [pending for pending in self._pending if pending.phase is not Phase.DONE]

    def _forget(self) -> None:
        self._is_open = False
        for pending in self._present():
            self._poller.discard(pending)
        self._pending.clear()
        self._left = 0
        self._changed.set()

    def _deliver(self, pending: PendingTask, outcome: Outcome) -> None:
        self._left -= 1
        if log.isEnabledFor(logging.DEBUG):
            fields = {
                "task_url": outcome.url,
                "state": str(outcome.state),
                "polls": outcome.polls,
                "seconds": outcome.waited,
            }
            log.debug("%(task_url)s: %(state)s after %(seconds).1f s", fields, extra=fields)
        self._emit(pending.index, outcome)

    def _emit(self, index: int, outcome: Outcome) -> None:
        self._outcomes.append((index, outcome))
        self._changed.set()
