"""Server-sent events of jobs: one reader of each watched ledger, shared by all subscribers."""

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiotasks.dedupe import JobInfo, Ledger, LedgerReader, LoggedTransition
from aiotasks.errors import AffinityError

from . import _json
from ._background import BackgroundTasks
from ._queries import names_of, state_view
from ._runner import JobRunner


_TICK: Final = 1.0
"""Seconds between two polls of a watched ledger."""

_PAGE: Final = 200
"""How many events are sent in one chunk."""

_RING: Final = 4000
"""How many events of a job are kept in memory, about 300 bytes each, for all its subscribers."""

_CHUNKS_KEPT = 16
_seq = itemgetter(0)


class Event(NamedTuple):
    """A transition of a pair, encoded once for all subscribers."""

    seq: int
    data: bytes


class Chunk(NamedTuple):
    """Consecutive events, and the ``seq`` of the last of them."""

    data: bytes
    seq: int


class Ring:
    """The newest events of a log: all those after ``start``, up to ``end``."""

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self._events: list[Event] = []
        self._chunks: dict[int, Chunk] = {}

    def append(self, events: Sequence[Event]) -> None:
        """Add newer events, and forget the oldest when there are too many."""
        self._events += events
        self.end = events[-1].seq
        if len(self._events) > _RING:
            # Half of them at a time, so that the list is seldom copied.
            self.start = self._events[-_RING // 2 - 1].seq
            self._events = self._events[-_RING // 2 :]
        self._chunks.clear()

    def after(self, seq: int) -> Chunk:
        """Return the first events after ``seq``, which must not be before ``start``."""
        # Most subscribers are at the same place: one chunk for all of them bounds the memory that
        # slow connections hold, and saves joining the events again for each.
        if seq not in self._chunks:
            if len(self._chunks) == _CHUNKS_KEPT:
                self._chunks.clear()
            index = bisect_right(self._events, seq, key=_seq)
            events = self._events[index : index + _PAGE]
            data = b"".join(event.data for event in events)
            self._chunks[seq] = Chunk(data, events[-1].seq if events else seq)
        return self._chunks[seq]


class Subscriber:
    """One event stream: its place in the log, and how many updates and endings it was sent."""

    def __init__(self, seq: int, is_gone: Callable[[], bool]) -> None:
        self.seq = seq
        self.wake = asyncio.Event()
        self.is_gone = is_gone
        self.updates = 0
        self.endings = 0


class LedgerFollower:
    """Follows one ledger, for as long as it has subscribers.

    The ledger is polled once a second, and each transition is encoded once. A subscriber that is
    behind the ring, because it comes late or reads slowly, gets a ``resync`` event instead of what
    it missed: replaying a long log to every subscriber would cost memory and time without bounds.
    """

    def __init__(self, job_id: str, path: Path, runner: JobRunner) -> None:
        self.subscribers: set[Subscriber] = set()
        self.opened = asyncio.Event()
        self.failure: AffinityError | None = None
        self.is_over = False
        self._job_id = job_id
        self._path = path
        self._runner = runner
        self._local_state = partial(runner.local_state, job_id)
        self._runs_ended = runner.ended(job_id)
        self._due = asyncio.Event()
        self._ring = Ring(0)
        # The newest event of each kind, and how many there were: a subscriber whose count differs
        # has not been sent it.
        self._update = self._ending = b""
        self._updates = self._endings = 0

    async def follow(self) -> None:
        """Follow the ledger until cancelled, or until it cannot be read any more."""
        try:
            async with Ledger.reading(self._path) as ledger:
                job = ledger.require_job()
                self._ring = Ring(max(0, await ledger.last_seq() - _RING // 2))
                while True:
                    await self._poll(ledger, job)
                    self.opened.set()
                    await self._pause()
        except AffinityError as error:
            self.failure = error
        finally:
            self.is_over = True
            self.opened.set()
            self._wake_all()

    def subscribe(self, subscriber: Subscriber) -> None:
        """Add a subscriber; a run that has ended before is not reported to it."""
        subscriber.endings = self._endings
        self.subscribers.add(subscriber)

    def poll_now(self) -> None:
        """Poll the ledger without waiting for the next tick."""
        self._due.set()

    def next_chunk(self, subscriber: Subscriber) -> bytes:
        """Return what to send to a subscriber next, or nothing if it is up to date."""
        if subscriber.seq < self._ring.start:
            subscriber.seq = self._ring.end
            data = _json.event("resync", {"seq": subscriber.seq}, subscriber.seq)
        else:
            data, subscriber.seq = self._ring.after(min(subscriber.seq, self._ring.end))
        # Totals must not be older than the transitions before them, so they come last.
        if subscriber.seq == self._ring.end:
            if subscriber.updates != self._updates:
                subscriber.updates = self._updates
                data += self._update
            if subscriber.endings != self._endings:
                subscriber.endings = self._endings
                data += self._ending
        return data

    async def _poll(self, ledger: LedgerReader, job: JobInfo) -> None:
        # Read before the ledger: once a run has ended, all of its transitions are on disk.
        run, ended = self._local_state().run, self._runner.ended(self._job_id)
        was_at = self._ring.end
        while transitions := await ledger.history(after=self._ring.end, limit=_PAGE):
            self._ring.append(await _encoded(ledger, job, transitions))
        # Counted, since a run may begin and end between two polls.
        has_ended, self._runs_ended = ended != self._runs_ended, ended
        if has_ended or run is not None or self._ring.end != was_at or not self._updates:
            await self._publish(ledger, job, has_ended=has_ended)
        for subscriber in self.subscribers:
            if subscriber.is_gone():
                subscriber.wake.set()

    async def _publish(self, ledger: LedgerReader, job: JobInfo, *, has_ended: bool) -> None:
        state = await state_view(ledger, self._local_state)
        self._update = _json.event("progress", {**state, "point": _point(job, state)})
        self._updates += 1
        if has_ended:
            self._ending = _json.event("done", state)
            self._endings += 1
        self._wake_all()

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_TICK):
                _ = await self._due.wait()
        self._due.clear()

    def _wake_all(self) -> None:
        for subscriber in self.subscribers:
            subscriber.wake.set()


class Followers:
    """The ledgers that are watched."""

    def __init__(self, tasks: BackgroundTasks, runner: JobRunner) -> None:
        self._tasks = tasks
        self._runner = runner
        self._followers: dict[str, tuple[LedgerFollower, asyncio.Task[None]]] = {}
        self._unwatched = asyncio.Event()
        runner.on_change = self._poll_now

    @contextmanager
    def subscribed(
        self, job_id: str, path: Path, subscriber: Subscriber
    ) -> Iterator[LedgerFollower]:
        """Subscribe to a ledger; the last subscriber that leaves ends its follower.

        Raises:
            EndingError: when the application ends.
        """
        known = self._followers.get(job_id)
        follower, task = known if known and not known[0].is_over else self._follow(job_id, path)
        follower.subscribe(subscriber)
        try:
            yield follower
        finally:
            follower.subscribers.discard(subscriber)
            if not follower.subscribers:
                _ = task.cancel()
                # One that failed may have been replaced already.
                if self._followers.get(job_id) == (follower, task):
                    del self._followers[job_id]
                self._unwatched.set()

    async def unwatched(self) -> None:
        """Wait until there are no subscribers any more."""
        while self._followers:
            self._unwatched.clear()
            _ = await self._unwatched.wait()

    def _follow(self, job_id: str, path: Path) -> tuple[LedgerFollower, asyncio.Task[None]]:
        follower = LedgerFollower(job_id, path, self._runner)
        task = self._tasks.run(follower.follow(), name=f"watch of {job_id}")
        self._followers[job_id] = (follower, task)
        return follower, task

    def _poll_now(self, job_id: str) -> None:
        if job_id in self._followers:
            self._followers[job_id][0].poll_now()


async def _encoded(
    ledger: LedgerReader, job: JobInfo, transitions: Sequence[LoggedTransition]
) -> Sequence[Event]:
    numbers = {logged.transition.number for logged in transitions}
    pairs = {pair.number: pair for pair in await ledger.numbered(numbers)}
    ids = {each for pair in pairs.values() for each in (pair.primary_id, pair.duplicate_id)}
    names = await names_of(ledger, job, ids)

    views = (
        (each.seq, _json.transition_view(pairs[each.transition.number], each.transition, names))
        for each in transitions
    )
    return [Event(seq, _json.event("pair", view, seq)) for seq, view in views]


def _point(job: JobInfo, state: dict[str, Any]) -> list[Any]:
    """Return the newest point of the curve: seconds, merges that ended, calls left."""
    counts, progress = state["counts"], state["progress"]
    return [
        round(time.time() - job.begun_at, 3),
        counts["ended"] + counts["left_out"],
        progress and progress["minute_left"],
    ]
