"""The loops of a running job: send merges, take outcomes, stop. Decisions are elsewhere."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from msgspec import Struct

from aiotasks._http import urls
from aiotasks._polling.watch import Watch
from aiotasks.client import Client
from aiotasks.dedupe._progress import (
    TICK,
    CanaryPassed,
    JobEvent,
    JobProgress,
    Meter,
    OnEvent,
    OnProgress,
    PairChanged,
    Stopping,
)
from aiotasks.dedupe._taskgroups import unwrap_errors
from aiotasks.dedupe.ledger import Ledger
from aiotasks.dedupe.models import JobInfo, Pair, PairState, StopReason, Transition
from aiotasks.dedupe.settings import JobSettings
from aiotasks.errors import (
    AffinityError,
    AuthenticationError,
    AuthorizationError,
    ClosedError,
    ConflictError,
    ConnectError,
    IndeterminateMergeError,
    MergedEntityError,
    MonthlyQuotaError,
    RateLimitError,
    ResponseError,
)
from aiotasks.outcomes import Outcome, OutcomeState

from .curve_recorder import CurveRecorder
from .outages import Outages
from .queue import MergeQueue
from .reconciler import MOST_DOUBTS, Reconciler


SENDERS: Final = 16
"""How many merges are sent at once, and so how many can be in doubt after a crash."""

_CUT_OFF = "The run ended before its request was answered"
_STATE_OF = {OutcomeState.SUCCESS: PairState.SUCCEEDED, OutcomeState.FAILED: PairState.FAILED}
_REASON_OF: tuple[tuple[type[AffinityError], StopReason], ...] = (
    (AuthenticationError, StopReason.NOT_AUTHORISED),
    (AuthorizationError, StopReason.NOT_AUTHORISED),
    (MonthlyQuotaError, StopReason.MONTH),
)


class _NotSentError(Exception):
    """The job was stopped while a merge waited for its slot, or its step cannot be written."""


class _Attempt(Struct):
    """A pair that is being sent, as it is now."""

    pair: Pair


class JobRun:
    """One run of a job, from what the ledger has to where it ends or is stopped."""

    def __init__(
        self,
        client: Client,
        ledger: Ledger,
        watch: Watch,
        *,
        job: JobInfo,
        board: MergeQueue,
        totals: dict[PairState, int],
        settings: JobSettings,
        anchor: int | None,
        seq: int,
        clock: Callable[[], float],
        on_progress: OnProgress | None,
        on_event: OnEvent | None,
    ) -> None:
        self.error: AffinityError | None = None
        self._client = client
        self._ledger = ledger
        self._watch = watch
        self._kind = job.kind
        self._board = board
        self._totals = totals
        self._settings = settings
        self._clock = clock
        self._seq = seq
        self._on_progress = on_progress
        self._on_event = on_event
        self._service = client.merges_of(job.kind)
        self._settler = Reconciler(
            self, self._service, ledger, anchor=anchor, settle_after=settings.settle_after
        )
        self._loop = asyncio.get_running_loop()
        self._meter = Meter(self._loop.time())
        self._calls_before = client.quota.sent
        self._watched: dict[str, list[Pair]] = {}
        self._outages = Outages(client, job.kind, partial(self._stop, StopReason.UNREACHABLE))
        self._changed = asyncio.Event()
        self._group = asyncio.TaskGroup()

    async def take_up(self, pair: Pair) -> None:
        """Go on with a pair that an earlier run has left open."""
        if pair.state is PairState.STARTED:
            self._await_task(pair)
            return
        if pair.state is PairState.SENDING:
            # Refused for a limit, its request may have waited, and gone out just before the run
            # ended: time can tell something only from now on.
            pair = await self._step(pair, PairState.UNSETTLED, reason=_CUT_OFF)
        now = self._clock()
        age = max(0.0, now - (pair.ended_at or now))
        self._settler.add(pair, seq=self._seq, age=age, task_url=pair.task_url)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until all pairs have ended, or the job was stopped and its grace is over."""
        loops = [self._send_merges() for _ in range(SENDERS)]
        loops += [self._take_outcomes(), self._settler.run(), self._heed(stop)]
        sampler = CurveRecorder(self._ledger, self._clock, self.progress)
        loops += [self._outages.run(), sampler.run()]
        if self._on_progress is not None:
            loops.append(self._show_progress(self._on_progress))
        with unwrap_errors():
            async with self._group as group:
                crew = [group.create_task(loop) for loop in loops]
                await self._until_over()
                await sampler.end()
                for member in crew:
                    _ = member.cancel()

    @property
    def stopped(self) -> StopReason | None:
        """Why it was stopped, if it was."""
        return self._board.stopped

    def progress(self) -> JobProgress:
        """Tell how far the job is."""
        per_minute = self._meter.per_minute(self._loop.time())
        is_going = not (self._board.is_canary or self._board.stopped or self._outages.is_on)
        is_telling = per_minute > 0 and is_going
        left = self._board.left + self._board.open
        quota = self._client.quota
        is_known = quota.org_limit is not None and quota.org_remaining is not None
        return JobProgress(
            totals=dict(self._totals),
            waiting_for=self._obstacle(),
            per_minute=per_minute,
            seconds_left=left / per_minute * 60.0 if is_telling else None,
            calls=quota.sent - self._calls_before,
            month_used=(quota.org_limit or 0) - (quota.org_remaining or 0) if is_known else None,
            month_limit=quota.org_limit,
            is_cut_off=self._outages.is_on,
            minute_left=quota.remaining,
            minute_limit=quota.limit,
        )

    # What becomes of a pair

    async def adopt(self, pair: Pair, task_id: str) -> None:
        """Wait for a task that the merge list shows."""
        ref = urls.TaskRef(self._kind, task_id)
        await self._start(pair, urls.task_url(self._client.base_url, ref))

    async def end(self, pair: Pair, state: PairState, *, reason: str | None = None) -> None:
        """Record the end of a pair, and let others start in its place."""
        _ = await self._step(pair, state, reason=reason)
        was_canary, was_stopped = self._board.is_canary, self._board.stopped
        self._board.end(pair, state)
        self._meter.count(self._loop.time())
        if self._board.stopped is not was_stopped:
            self._tell_stop()
        elif was_canary and not (self._board.is_canary or self._board.stopped):
            self._tell(CanaryPassed(ended=self._settings.canary))
        self._notify()

    async def end_as_merged(self, pair: Pair, error: MergedEntityError) -> None:
        """Record what the error proves: the merge that was wanted, or another one."""
        if (error.source_id, error.target_id) == (pair.duplicate_id, pair.primary_id):
            state = PairState.SUCCEEDED
        else:
            state = PairState.FAILED if pair.task_url else PairState.REFUSED
        await self.end(pair, state, reason=error.message)

    async def put_back(self, pair: Pair) -> None:
        """Let a pair that did not run take its turn again."""
        if pair.state is not PairState.PLANNED:
            pair = await self._step(pair, PairState.PLANNED)
        self._board.put_back(pair)
        self._notify()

    def stop_for(self, error: AffinityError | None) -> bool:
        """Stop the job if nothing can go on after this error, and say whether it was stopped."""
        for class_, reason in _REASON_OF:
            if isinstance(error, class_):
                self._stop(reason, error)
                return True
        return False

    async def _step(
        self,
        pair: Pair,
        state: PairState,
        *,
        reason: str | None = None,
        task_url: str | None = None,
    ) -> Pair:
        """Write a step down; whoever acts on it does so afterwards."""
        transition = Transition(
            number=pair.number, state=state, at=self._clock(), reason=reason, task_url=task_url
        )
        seq = await self._ledger.record(transition)
        self._seq = max(self._seq, seq)
        self._totals[pair.state] -= 1
        self._totals[state] += 1
        pair = pair.after(transition)
        self._tell(PairChanged(seq=seq, pair=pair))
        return pair

    # Sending

    async def _send_merges(self) -> None:
        while True:
            pair = None if len(self._settler) >= MOST_DOUBTS else self._board.take()
            if pair is None:
                await self._next_change()
            else:
                await self._send(pair)

    async def _send(self, pair: Pair) -> None:
        attempt = _Attempt(pair)
        try:
            task_url = await self._service.merge(
                pair.primary_id, pair.duplicate_id, before_send=partial(self._intend, attempt)
            )
        except _NotSentError as error:
            await self._take_back(pair, error.__cause__)
        except IndeterminateMergeError:
            self._doubt(attempt.pair)
        except (ConnectError, RateLimitError, AuthenticationError, AuthorizationError) as error:
            # It certainly did not run.
            await self.put_back(attempt.pair)
            if not self.stop_for(error):
                await self._outages.sit_out(error)
        except ResponseError as error:
            self._outages.end_sending()
            await self._take_refusal(attempt.pair, error)
        else:
            self._outages.end_sending()
            await self._start(attempt.pair, task_url)

    async def _intend(self, attempt: _Attempt) -> None:
        """Write down that a merge is sent now; it may have waited for its slot for a minute."""
        if self._board.stopped is not None:
            raise _NotSentError
        try:
            attempt.pair = await self._step(attempt.pair, PairState.SENDING)
        except Exception as error:
            raise _NotSentError from error

    async def _take_back(self, pair: Pair, error: BaseException | None) -> None:
        if error is not None:
            # It is no answer of the server, whatever its class.
            raise error from error.__cause__
        await self.put_back(pair)

    async def _take_refusal(self, pair: Pair, error: ResponseError) -> None:
        if isinstance(error, MergedEntityError):
            await self.end_as_merged(pair, error)
        elif isinstance(error, ConflictError) and self._settler.has_doubted(pair):
            # What is in the way may be the very merge that was in doubt.
            self._doubt(pair)
        else:
            await self.end(pair, PairState.REFUSED, reason=error.message)

    async def _start(self, pair: Pair, task_url: str) -> None:
        self._outages.hear()
        self._await_task(await self._step(pair, PairState.STARTED, task_url=task_url))
        self._notify()

    def _doubt(self, pair: Pair, *, task_url: str | None = None) -> None:
        self._settler.add(pair, seq=self._seq, task_url=task_url)

    # Waiting

    def _await_task(self, pair: Pair) -> None:
        assert pair.task_url is not None  # noqa: S101 - what was started has a task
        # A task is a batch: should the server ever put merges of ours together, all have one task.
        pairs = self._watched.setdefault(pair.task_url, [])
        if not pairs:
            self._watch.add(pair.task_url)
        pairs.append(pair)

    async def _take_outcomes(self) -> None:
        async for outcome in self._watch:
            self._outages.hear()
            # Each by itself, so that what is learned together is written together.
            pairs = self._watched.pop(outcome.url)
            for pair in pairs:
                _ = self._group.create_task(self._conclude(pair, outcome, is_batch=len(pairs) > 1))

    async def _conclude(self, pair: Pair, outcome: Outcome, *, is_batch: bool) -> None:
        if is_batch and outcome.state is OutcomeState.FAILED:
            # Which of them has failed, only the merge list tells.
            self._doubt(pair, task_url=outcome.url)
        elif outcome.state in _STATE_OF:
            await self.end(pair, _STATE_OF[outcome.state], reason=outcome.reason)
        elif self.stop_for(outcome.error):
            self._leave()
        elif isinstance(outcome.error, ClosedError):
            self._stop(StopReason.UNREACHABLE, outcome.error)
            self._leave()
        else:
            self._doubt(pair, task_url=outcome.url)

    def _leave(self) -> None:
        self._board.leave()
        self._notify()

    # Stopping

    async def _heed(self, stop: asyncio.Event) -> None:
        _ = await stop.wait()
        self._stop(StopReason.INTERRUPTED, None)

    def _stop(self, reason: StopReason, error: AffinityError | None) -> None:
        if self._board.stopped is None:
            self._board.stop(reason)
            self.error = error
            self._tell_stop()
            self._notify()

    async def _until_over(self) -> None:
        while not self._board.is_over and self._board.stopped is None:
            await self._next_change()
        # At once, since this process may not live to see the end of the grace.
        await self._ledger.note(stopped=self._board.stopped)
        # Without a valid key nothing can be learned of what is open.
        is_hopeless = self._board.stopped is StopReason.NOT_AUTHORISED
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if is_hopeless else self._settings.grace):
                while not self._board.is_over:
                    await self._next_change()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _next_change(self) -> None:
        _ = await self._changed.wait()

    # Telling

    async def _show_progress(self, on_progress: OnProgress) -> None:
        while True:
            _ = on_progress(self.progress())
            await asyncio.sleep(TICK)

    def _tell(self, event: JobEvent) -> None:
        if self._on_event is not None:
            _ = self._on_event(event)

    def _tell_stop(self) -> None:
        assert self._board.stopped is not None  # noqa: S101 - it was stopped just now
        self._tell(Stopping(reason=self._board.stopped, grace=self._settings.grace))

    def _obstacle(self) -> str | None:
        if self._board.stopped is not None:
            return "the open merges to end (grace)"
        if self._outages.is_on:
            return "the API to answer again"
        if len(self._settler) >= MOST_DOUBTS:
            return "what became of merges that were not answered"
        is_waiting = self._board.left > 0
        return (self._board.obstacle if is_waiting else None) or self._client.quota.waiting_for
