"""A cache of polled tasks for callers that ask often: each task is polled once an interval."""

import asyncio
from typing import Final, NamedTuple

from aiotasks._http.urls import TaskRef
from aiotasks.backoff import poll_backoff
from aiotasks.models import MergeTask
from aiotasks.outcomes import Outcome, OutcomeState, TaskSnapshot

from .pending import PendingTask, WaitOptions
from .poller import Poller


# A choice: bounds the memory of a service that runs for months.
KEPT: Final = 10_000
"""How many tasks are remembered, those that were polled last."""

_BACKOFF = poll_backoff(1.5, 3.0)


class _Seen(NamedTuple):
    """What the last poll returned: a task, or an outcome whose error says why there is none."""

    found: MergeTask | Outcome
    at: float


class _Poll:
    """One poll of a task, shared by all callers that wait for it."""

    pending: PendingTask

    def __init__(self) -> None:
        self.done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.watchers = 0

    def deliver(self, _: PendingTask, outcome: Outcome) -> None:
        self.done.set_result(outcome)


class PeekCache:
    """Returns tasks as last polled, and polls those that are older than an interval."""

    def __init__(self) -> None:
        self._seen: dict[TaskRef, _Seen] = {}
        self._polls: dict[TaskRef, _Poll] = {}

    async def peek(
        self, poller: Poller, ref: TaskRef, url: str, *, interval: float, patience: float
    ) -> TaskSnapshot | Outcome:
        """Return the task as last polled, or the outcome of a poll that returned none."""
        loop = asyncio.get_running_loop()
        seen = self._known(poller, ref)
        if seen is None or not (_is_final(seen) or loop.time() - seen.at < interval):
            outcome = await self._poll(poller, ref, url, patience)
            if outcome.task is not None or seen is None or isinstance(seen.found, Outcome):
                seen = _Seen(outcome.task or outcome, loop.time())
                self._remember(ref, seen)
        if isinstance(seen.found, Outcome):
            return seen.found
        return TaskSnapshot(task=seen.found, age=loop.time() - seen.at)

    def _known(self, poller: Poller, ref: TaskRef) -> _Seen | None:
        seen = self._seen.get(ref)
        pending = poller.last_polled(ref)
        # A pending wait gets the answer of every poll, even if it was made for other tasks.
        if pending is None or pending.task is None or (seen and seen.at >= pending.seen_at):
            return seen
        return _Seen(pending.task, pending.seen_at)

    async def _poll(self, poller: Poller, ref: TaskRef, url: str, patience: float) -> Outcome:
        poll = self._polls.get(ref)
        if poll is None:
            poll = _Poll()
            options = WaitOptions(patience, _BACKOFF, poll.deliver, is_urgent=True, is_once=True)
            poll.pending = PendingTask(
                ref, url, options, now=asyncio.get_running_loop().time(), index=0
            )
            poller.add(poll.pending)
            self._polls[ref] = poll
        poll.watchers += 1
        try:
            # Cancelling one caller does not affect others; the last one cancels the poll.
            return await asyncio.shield(poll.done)
        finally:
            poll.watchers -= 1
            if not poll.watchers:
                del self._polls[ref]
                poller.discard(poll.pending)

    def _remember(self, ref: TaskRef, seen: _Seen) -> None:
        _ = self._seen.pop(ref, None)
        self._seen[ref] = seen
        if len(self._seen) > KEPT:
            del self._seen[next(iter(self._seen))]


def _is_final(seen: _Seen) -> bool:
    return (
        isinstance(seen.found, MergeTask)
        and OutcomeState.of(seen.found) is not OutcomeState.RUNNING
    )
