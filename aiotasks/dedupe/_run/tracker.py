"""The transitions of a run's pairs, with everything that depends on them."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Final

from aiotasks import Watch
from aiotasks.dedupe._durations import Durations
from aiotasks.dedupe._effects import is_global
from aiotasks.dedupe._progress import (
    CanaryPassed,
    JobEvent,
    Meter,
    OnEvent,
    PairChanged,
    Stopping,
    log_event,
)
from aiotasks.dedupe.ledger import Ledger
from aiotasks.dedupe.models import Pair, PairState, StopReason, Transition
from aiotasks.dedupe.settings import JobSettings
from aiotasks.errors import (
    AffinityError,
    AuthenticationError,
    AuthorizationError,
    MonthlyQuotaError,
)

from .indeterminate import task_id_of
from .queue import MergeQueue
from .task_history import TaskHistory


_REASON_OF: Final[tuple[tuple[type[AffinityError], StopReason], ...]] = (
    (AuthenticationError, StopReason.NOT_AUTHORISED),
    (AuthorizationError, StopReason.NOT_AUTHORISED),
    (MonthlyQuotaError, StopReason.MONTH),
)


class PairTracker:
    """Moves the pairs of a run from state to state: ledger, totals, events, queue and watch.

    A transition is on disk before it is counted, reported or acted on. Only what the server did may
    be ahead of the ledger after a crash: the reconciler finds that out.
    """

    def __init__(
        self,
        ledger: Ledger,
        watch: Watch,
        queue: MergeQueue,
        *,
        totals: dict[PairState, int],
        seq: int,
        history: TaskHistory,
        durations: Durations,
        settings: JobSettings,
        clock: Callable[[], float],
        on_event: OnEvent | None,
    ) -> None:
        self.ledger = ledger
        self.watch = watch
        self.queue = queue
        self.totals = totals
        self.seq = seq
        self.history = history
        self.durations = durations
        self.settings = settings
        self.clock = clock
        self.error: AffinityError | None = None
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._meter = Meter(self._loop.time())
        self._answered_at = self._loop.time()
        self._watched: dict[str, list[Pair]] = {}
        # Primary records into which this job has merged one: they are local since then.
        self._merged_into: set[int] = set()
        self._has_reported_stop = False
        self._changed = asyncio.Event()

    @property
    def silent_for(self) -> float:
        """Seconds since a merge was started or a task ended."""
        return self._loop.time() - self._answered_at

    @property
    def per_minute(self) -> float:
        """How many pairs end a minute."""
        return self._meter.per_minute(self._loop.time())

    async def record(
        self,
        pair: Pair,
        state: PairState,
        *,
        reason: str | None = None,
        task_url: str | None = None,
    ) -> Pair:
        """Write a transition to the ledger, then count and report it; return the pair after it."""
        transition = Transition(
            number=pair.number, state=state, at=self.clock(), reason=reason, task_url=task_url
        )
        seq = await self.ledger.record(transition)
        # Writes of one commit return in any order.
        self.seq = max(self.seq, seq)
        self.totals[pair.state] -= 1
        self.totals[state] += 1
        pair = pair.after(transition)
        self._report(PairChanged(seq=seq, pair=pair))
        return pair

    async def start(self, pair: Pair, task_url: str) -> None:
        """Record that a merge was started, and watch its task."""
        self._answered_at = self._loop.time()
        self.durations.start(pair.number, self._answered_at)
        self.history.add_own(task_id_of(task_url), self._answered_at)
        self.watch_task(await self.record(pair, PairState.STARTED, task_url=task_url))
        self.notify()

    def watch_task(self, pair: Pair) -> None:
        """Watch the task of a started pair."""
        assert pair.task_url is not None  # noqa: S101 - what was started has a task
        # A task is a batch: should the API ever put several merges in one, they share its task.
        pairs = self._watched.setdefault(pair.task_url, [])
        if not pairs:
            self.watch.add(pair.task_url)
        pairs.append(pair)

    def note_failure(self, task_url: str) -> None:
        """Count a task that was polled as failed, before its reason is known.

        The poller calls this, so a stop is reported elsewhere: the callback for that may raise.
        """
        pairs = self._watched[task_url]
        # Of a batch it is not known yet which of its merges have failed.
        if len(pairs) == 1:
            self.queue.note_failure(pairs[0])
            self.notify()

    def unwatch_task(self, task_url: str) -> list[Pair]:
        """Return the pairs of a task that has an outcome."""
        self._answered_at = self._loop.time()
        pairs = self._watched.pop(task_url)
        for pair in pairs:
            self.durations.end(pair.number, self._answered_at)
        return pairs

    async def end(
        self,
        pair: Pair,
        state: PairState,
        *,
        reason: str | None = None,
        is_refusal: bool = False,
    ) -> None:
        """Record the end of a pair, and let others start in its place.

        ``is_refusal`` tells that the server refused it when it was sent.
        """
        _ = await self.record(pair, state, reason=reason)
        if state is PairState.SUCCEEDED:
            self._merged_into.add(pair.primary_id)
        was_opening = self.queue.is_opening
        self.queue.end(pair, state, is_refusal=is_refusal)
        self._meter.count(self._loop.time())
        if self.queue.stopped:
            self.report_stop()
        elif was_opening and not self.queue.is_opening:
            self._report(CanaryPassed(ended=self.queue.succeeded))
        self.notify()

    async def skip(self, pair: Pair, reason: str) -> None:
        """Refuse a pair that must not be sent, and let others start in its place."""
        _ = await self.record(pair, PairState.REFUSED, reason=reason)
        self.queue.skip(pair)
        self.notify()

    async def put_back(self, pair: Pair) -> None:
        """Plan a pair again that certainly did not run."""
        if pair.state.is_left and pair.state is not PairState.PLANNED:
            pair = await self.record(pair, PairState.PLANNED)
        self.queue.put_back(pair)
        self.notify()

    async def were_local(self, primary_ids: Collection[int]) -> Mapping[int, bool | None]:
        """Return whether records were local before the merges that are open now.

        ``None`` if that is not known. Only then does the merge list have a row for such a merge.
        """
        snapshots = await self.ledger.records(primary_ids) if primary_ids else {}
        kind = self.ledger.require_job().kind

        def was_local(primary_id: int) -> bool | None:
            if primary_id in self._merged_into:
                return True
            found = is_global(kind, snapshots.get(primary_id))
            return None if found is None else not found

        return {each: was_local(each) for each in primary_ids}

    def leave(self) -> None:
        """Leave an open pair to the next run."""
        self.queue.leave()
        self.notify()

    def stop(self, reason: StopReason, error: AffinityError | None = None) -> None:
        """Stop the job: no more merges are sent. The first reason and its error count."""
        if self.queue.stopped is None:
            self.queue.stop(reason)
            self.error = error
            self.report_stop()
            self.notify()

    def stop_for(self, error: AffinityError | None) -> bool:
        """Stop the job if no request can succeed after this error; return whether that is so."""
        for class_, reason in _REASON_OF:
            if isinstance(error, class_):
                self.stop(reason, error)
                return True
        return False

    def notify(self) -> None:
        """Wake everything that waits for a change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def next_change(self) -> None:
        """Wait until the queue, or something else that keeps it waiting, has changed."""
        _ = await self._changed.wait()

    def report_stop(self) -> None:
        """Report that the job was stopped, once."""
        if self.queue.stopped is not None and not self._has_reported_stop:
            self._has_reported_stop = True
            self._report(Stopping(reason=self.queue.stopped, grace=self.settings.grace))

    def _report(self, event: JobEvent) -> None:
        log_event(event)
        if self._on_event is not None:
            _ = self._on_event(event)
