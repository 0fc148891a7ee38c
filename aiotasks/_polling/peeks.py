"""What is known of tasks that people look at again and again, asked for at most once an interval."""

import asyncio
from typing import Final, NamedTuple

from aiotasks._http.urls import TaskRef
from aiotasks.backoff import poll_backoff
from aiotasks.models import MergeTask
from aiotasks.outcomes import Outcome, OutcomeState, TaskSnapshot

from .pending import PendingTask, WaitOptions
from .poller import Poller


KEPT: Final = 10_000
"""How many tasks are remembered, those that were looked at last."""

_BACKOFF = poll_backoff(1.0, 1.0)


class _Seen(NamedTuple):
    """What the last look has shown: a task, or an outcome that says why none."""

    found: MergeTask | Outcome
    at: float


class _Look:
    """One look at a task, and all who wait for what it shows."""

    pending: PendingTask

    def __init__(self) -> None:
        self.news: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.watchers = 0

    def deliver(self, _: PendingTask, outcome: Outcome) -> None:
        self.news.set_result(outcome)


class PeekCache:
    """Answers what is known of a task, and looks at it when that is older than an interval."""

    def __init__(self) -> None:
        self._seen: dict[TaskRef, _Seen] = {}
        self._looks: dict[TaskRef, _Look] = {}

    async def peek(
        self, poller: Poller, ref: TaskRef, url: str, *, interval: float, patience: float
    ) -> TaskSnapshot | Outcome:
        """Return what is known, or the outcome of a look that showed nothing."""
        loop = asyncio.get_running_loop()
        seen = self._known(poller, ref)
        if seen is None or not (_is_final(seen) or loop.time() - seen.at < interval):
            outcome = await self._look(poller, ref, url, patience)
            if outcome.task is not None or seen is None or isinstance(seen.found, Outcome):
                seen = _Seen(outcome.task or outcome, loop.time())
                self._note(ref, seen)
        if isinstance(seen.found, Outcome):
            return seen.found
        return TaskSnapshot(task=seen.found, age=loop.time() - seen.at)

    def _known(self, poller: Poller, ref: TaskRef) -> _Seen | None:
        seen = self._seen.get(ref)
        pending = poller.last_polled(ref)
        # Whoever waits for it is told all news of it, be it asked for by others.
        if pending is None or pending.task is None or (seen and seen.at >= pending.polled_at):
            return seen
        return _Seen(pending.task, pending.polled_at)

    async def _look(self, poller: Poller, ref: TaskRef, url: str, patience: float) -> Outcome:
        look = self._looks.get(ref)
        if look is None:
            look = _Look()
            terms = WaitOptions(patience, _BACKOFF, look.deliver, is_urgent=True, is_once=True)
            look.pending = PendingTask(
                ref, url, terms, now=asyncio.get_running_loop().time(), index=0
            )
            poller.add(look.pending)
            self._looks[ref] = look
        look.watchers += 1
        try:
            # Who leaves disturbs no other; the last to leave takes the look along.
            return await asyncio.shield(look.news)
        finally:
            look.watchers -= 1
            if not look.watchers:
                del self._looks[ref]
                poller.discard(look.pending)

    def _note(self, ref: TaskRef, seen: _Seen) -> None:
        _ = self._seen.pop(ref, None)
        self._seen[ref] = seen
        if len(self._seen) > KEPT:
            del self._seen[next(iter(self._seen))]


def _is_final(seen: _Seen) -> bool:
    return (
        isinstance(seen.found, MergeTask)
        and OutcomeState.of(seen.found) is not OutcomeState.RUNNING
    )
