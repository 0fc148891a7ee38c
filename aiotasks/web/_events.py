"""One reader for each ledger that is watched, shared by all who watch."""

import asyncio
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import Final, NamedTuple

from aiotasks.dedupe import JobInfo, Ledger, LedgerReader, LoggedTransition, PairState
from aiotasks.errors import AffinityError

from . import _json
from ._background import BackgroundTasks
from ._queries import names_of
from ._runner import JobRunner, RunningJob


_TICK: Final = 1.0
_PAGE: Final = 200
"""How many events are sent in one piece."""

_RING: Final = 4000
_PAGES_KEPT = 8
_PIECES_KEPT = 16
_seq = itemgetter(0)


class Event(NamedTuple):
    """A step of a pair, encoded for all who are told of it."""

    seq: int
    data: bytes


class Chunk(NamedTuple):
    """Events that follow a place in the log, and the place that they lead to."""

    data: bytes
    seq: int


class Ring:
    """The newest events of a log, in pieces that are made once for all readers."""

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self._events: list[Event] = []
        self._pieces: dict[int, Chunk] = {}

    def append(self, events: Sequence[Event]) -> None:
        """Take what has been learned, and forget the oldest in its place."""
        self._events += events
        self.end = events[-1].seq
        if len(self._events) > _RING:
            # Half of it, so that it is seldom done.
            self.start = self._events[-_RING // 2 - 1].seq
            self._events = self._events[-_RING // 2 :]
        self._pieces.clear()

    def after(self, seq: int) -> Chunk:
        """Return what follows a place that is not before the start."""
        if seq not in self._pieces:
            if len(self._pieces) == _PIECES_KEPT:
                self._pieces.clear()
            index = bisect_right(self._events, seq, key=_seq)
            self._pieces[seq] = _piece(self._events[index : index + _PAGE], seq)
        return self._pieces[seq]


class Subscriber:
    """One who watches: a place in the log, and which news of the job itself were told."""

    def __init__(self, seq: int, is_gone: Callable[[], bool]) -> None:
        self.seq = seq
        self.wake = asyncio.Event()
        self.is_gone = is_gone
        self.told = 0
        self.endings = 0


class LedgerFollower:
    """Follows one ledger, for as long as anybody watches.

    Steps are read once a second, and each is encoded once. Whoever comes late, or is slow, gets
    what has left the ring by the page, from the ledger again: the newest such pages are kept.
    """

    def __init__(
        self, path: Path, run: Callable[[], RunningJob | None], ended: Callable[[], int]
    ) -> None:
        self.readers: set[Subscriber] = set()
        self.opened = asyncio.Event()
        self.failure: AffinityError | None = None
        self.is_over = False
        self._path = path
        self._run_of = run
        self._ended = ended
        self._ended_before = ended()
        self._kicked = asyncio.Event()
        self._ring = Ring(0)
        self._ledger: LedgerReader | None = None
        self._pages: OrderedDict[int, Sequence[Event]] = OrderedDict()
        self._paging = asyncio.Lock()
        self._news = b""
        self._told = 0
        self._ending = b""
        self._endings = 0

    async def follow(self) -> None:
        """Follow the ledger until cancelled, or until it cannot be read any more."""
        try:
            async with Ledger.reading(self._path) as ledger:
                job = ledger.require_job()
                self._ledger = ledger
                self._ring = Ring(max(0, await ledger.last_seq() - _RING // 2))
                while True:
                    await self._tick(ledger, job)
                    self.opened.set()
                    await self._pause()
        except AffinityError as error:
            self.failure = error
        finally:
            self.is_over = True
            self.opened.set()
            self._wake()

    def join(self, reader: Subscriber) -> None:
        """Let somebody watch from now on; what has ended before is no news."""
        reader.endings = self._endings
        self.readers.add(reader)

    def kick(self) -> None:
        """Look at once."""
        self._kicked.set()

    async def news(self, reader: Subscriber) -> bytes:
        """Return the next piece of what a reader was not told yet, or nothing."""
        seq = min(reader.seq, self._ring.end)
        piece = self._ring.after(seq) if seq >= self._ring.start else await self._older(seq)
        reader.seq = piece.seq
        # What is told of the job itself is no older than the steps that were told.
        if piece.seq < self._ring.end:
            return piece.data or await self.news(reader)
        data = piece.data
        if reader.told != self._told:
            reader.told = self._told
            data += self._news
        if reader.endings != self._endings:
            reader.endings = self._endings
            data += self._ending
        return data

    async def _tick(self, ledger: LedgerReader, job: JobInfo) -> None:
        # Asked before the ledger is: once a run is over, all of its steps are there to be read.
        run, ended = self._run_of(), self._ended()
        was_at = self._ring.end
        while steps := await ledger.history(after=self._ring.end, limit=_PAGE):
            self._ring.append(await _encoded(ledger, job, steps))
        # A run may be too short to be seen.
        has_ended, self._ended_before = ended != self._ended_before, ended
        if has_ended or run is not None or self._ring.end != was_at or not self._told:
            await self._tell(ledger, job, run, has_ended=has_ended)
        for reader in self.readers:
            if reader.is_gone():
                reader.wake.set()

    async def _tell(
        self, ledger: LedgerReader, job: JobInfo, run: RunningJob | None, *, has_ended: bool
    ) -> None:
        totals, notes = await ledger.totals(), await ledger.notes()
        is_running = run is not None
        progress = None if run is None else run.progress
        stopped = None if is_running else notes.get("stopped")
        point = [
            round(time.time() - job.begun_at, 3),
            sum(totals[state] for state in PairState if state.is_ended),
            None if progress is None else progress.minute_left,
        ]
        told = {"totals": totals, "stopped": stopped}
        more = {"progress": _json.progress_view(progress), "is_running": is_running}
        self._news = _json.event("progress", {**told, **more, "point": point})
        self._told += 1
        if has_ended:
            self._ending = _json.event("done", told)
            self._endings += 1
        self._wake()

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_TICK):
                _ = await self._kicked.wait()
        self._kicked.clear()

    def _wake(self) -> None:
        for reader in self.readers:
            reader.wake.set()

    async def _older(self, seq: int) -> Chunk:
        assert self._ledger is not None  # noqa: S101 - it was opened
        page = seq // _PAGE
        async with self._paging:
            events = self._pages.get(page)
            if events is None:
                events = self._pages[page] = await self._page(self._ledger, page)
                if len(self._pages) > _PAGES_KEPT:
                    _ = self._pages.popitem(last=False)
            self._pages.move_to_end(page)
        # The page's end is before that of the log, so all steps of it are on disk.
        return _piece(events[bisect_right(events, seq, key=_seq) :], seq)._replace(
            seq=(page + 1) * _PAGE
        )

    async def _page(self, ledger: LedgerReader, page: int) -> Sequence[Event]:
        steps = await ledger.history(after=page * _PAGE, limit=_PAGE)
        steps = [step for step in steps if step.seq <= (page + 1) * _PAGE]
        return await _encoded(ledger, ledger.require_job(), steps)


class Followers:
    """The ledgers that are watched."""

    def __init__(self, scope: BackgroundTasks, runner: JobRunner) -> None:
        self._scope = scope
        self._runner = runner
        self._tails: dict[str, tuple[LedgerFollower, asyncio.Task[None]]] = {}
        self._left = asyncio.Event()
        runner.on_change = self._kick

    @contextmanager
    def watching(self, job_id: str, path: Path, reader: Subscriber) -> Iterator[LedgerFollower]:
        """Let somebody watch a ledger; the last to leave lets it go.

        Raises:
            EndingError: when the application ends.
        """
        known = self._tails.get(job_id)
        tail, task = self._follow(job_id, path) if known is None or known[0].is_over else known
        tail.join(reader)
        try:
            yield tail
        finally:
            tail.readers.discard(reader)
            if not tail.readers:
                _ = task.cancel()
                if self._tails.get(job_id) == (tail, task):
                    del self._tails[job_id]
                self._left.set()

    async def deserted(self) -> None:
        """Wait until nobody watches any more."""
        while self._tails:
            self._left.clear()
            _ = await self._left.wait()

    def _follow(self, job_id: str, path: Path) -> tuple[LedgerFollower, asyncio.Task[None]]:
        runner = self._runner
        tail = LedgerFollower(path, lambda: runner.run_of(job_id), lambda: runner.ended(job_id))
        task = self._scope.run(tail.follow(), name=f"watch of {job_id}")
        self._tails[job_id] = (tail, task)
        return tail, task

    def _kick(self, job_id: str) -> None:
        if job_id in self._tails:
            self._tails[job_id][0].kick()


async def _encoded(
    ledger: LedgerReader, job: JobInfo, steps: Sequence[LoggedTransition]
) -> Sequence[Event]:
    numbers = {step.transition.number for step in steps}
    pairs = {pair.number: pair for pair in await ledger.numbered(numbers)}
    ids = {each for pair in pairs.values() for each in (pair.primary_id, pair.duplicate_id)}
    names = await names_of(ledger, job, ids)
    return [
        Event(
            step.seq,
            _json.event(
                "pair",
                _json.transition_view(pairs[step.transition.number], step.transition, names),
                step.seq,
            ),
        )
        for step in steps
    ]


def _piece(events: Sequence[Event], seq: int) -> Chunk:
    return Chunk(b"".join(event.data for event in events), events[-1].seq if events else seq)
