"""The loops of a running job: send merges, apply outcomes, stop. Decisions are elsewhere."""

import asyncio
import math
from contextlib import suppress
from functools import partial
from typing import Final

from msgspec import Struct

from aiotasks.client import Client
from aiotasks.dedupe._effects import Outlook
from aiotasks.dedupe._exception_groups import unwrap_errors
from aiotasks.dedupe._progress import TICK, JobProgress, OnProgress
from aiotasks.dedupe.models import Pair, PairState, StopReason
from aiotasks.errors import (
    AuthenticationError,
    AuthorizationError,
    ClosedError,
    ConflictError,
    ConnectError,
    IndeterminateMergeError,
    MergedEntityError,
    RateLimitError,
    ResponseError,
)
from aiotasks.outcomes import Outcome, OutcomeState

from .indeterminate import UNEXPLAINED, resolve_merged, task_id_of
from .opening import Opening
from .outages import Outages
from .progress_recorder import ProgressRecorder
from .reconciler import MAX_INDETERMINATE, Reconciler
from .time_left import TimeLeft
from .tracker import PairTracker


SENDERS: Final = 16
"""How many merges are sent at a time, and so how many a crash can leave indeterminate. A choice:
with answers of 100 ms they send 9,600 a minute, ten times what the rate limit allows."""

_INTERRUPTED = "The run ended before its request was answered"
_STATE_OF = {OutcomeState.SUCCESS: PairState.SUCCEEDED, OutcomeState.FAILED: PairState.FAILED}


class _NotSentError(Exception):
    """The job was stopped while a merge waited for its slot, or the ledger cannot be written."""


class _Attempt(Struct):
    """A pair that is being sent, in its current state, and since when."""

    pair: Pair
    sent_at: float = math.inf


class JobRun:
    """One run of a job, from the state in the ledger until it ends or is stopped."""

    def __init__(
        self,
        client: Client,
        tracker: PairTracker,
        reconciler: Reconciler,
        opening: Opening,
        outlook: Outlook,
        *,
        on_progress: OnProgress | None,
    ) -> None:
        self._client = client
        self._tracker = tracker
        self._queue = tracker.queue
        self._reconciler = reconciler
        self._opening = opening
        self._outlook = outlook
        self._on_progress = on_progress
        kind = tracker.ledger.require_job().kind
        self._service = client.merges_of(kind)
        self._time_left = TimeLeft(self._queue, tracker.durations)
        self._outages = Outages(client, kind, tracker)
        self._curve = ProgressRecorder(tracker.ledger, tracker.clock, self.progress)
        self._calls_before = client.quota.sent
        self._group = asyncio.TaskGroup()
        self._loop = asyncio.get_running_loop()

    async def adopt(self, pair: Pair) -> None:
        """Continue with a pair that an earlier run has left open."""
        if pair.state is PairState.STARTED:
            self._tracker.watch_task(pair)
            return
        if pair.state is PairState.SENDING:
            pair = await self._tracker.record(pair, PairState.UNSETTLED, reason=_INTERRUPTED)
        # Its request may have gone out just before the run ended, and clocks may have been set, so
        # the time that it needs to show up in the lists counts only from now on.
        self._reconciler.add(pair, task_url=pair.task_url)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until all pairs have ended, or the job was stopped and its grace is over."""
        loops = [self._send_merges() for _ in range(SENDERS)]
        loops += [self._apply_outcomes(), self._reconciler.run(), self._stop_on(stop)]
        loops += [self._outages.run(), self._curve.run()]
        if self._opening.is_doubtful:
            loops.append(self._opening.read_again())
        if self._on_progress is not None:
            loops.append(self._report_progress(self._on_progress))
        with unwrap_errors():
            async with self._group as group:
                tasks = [group.create_task(loop) for loop in loops]
                await self._wait_until_over()
                await self._curve.end()
                for task in tasks:
                    _ = task.cancel()

    def progress(self) -> JobProgress:
        """Return how far the job is."""
        tracker, quota = self._tracker, self._client.quota
        seconds_left = self._time_left.seconds(self._loop.time(), quota)
        is_month_known = quota.org_limit is not None and quota.org_remaining is not None
        month_used = (quota.org_limit or 0) - (quota.org_remaining or 0)
        return JobProgress(
            totals=dict(tracker.totals),
            waiting_for=self._obstacle(),
            per_minute=tracker.per_minute,
            seconds_left=None if self._outages.is_on else seconds_left,
            calls=quota.sent - self._calls_before,
            month_used=month_used if is_month_known else None,
            month_limit=quota.org_limit,
            is_cut_off=self._outages.is_on,
            minute_left=quota.remaining,
            minute_limit=quota.limit,
        )

    # Sending

    async def _send_merges(self) -> None:
        while True:
            is_blocked = len(self._reconciler) >= MAX_INDETERMINATE or self._opening.is_waiting
            pair = None if is_blocked else self._queue.take()
            if pair is None:
                await self._tracker.next_change()
            elif (reason := await self._ruled_out(pair)) is not None:
                await self._tracker.skip(pair, reason)
            else:
                await self._send(pair)

    async def _ruled_out(self, pair: Pair) -> str | None:
        """Return why a merge must not run: it would not have the effect that was shown."""
        first = self._outlook.relies_on.get(pair.number)
        if first is None:
            return self._outlook.left_out.get(pair.number)
        (earlier,) = await self._tracker.ledger.numbered([first])
        if earlier.state is PairState.SUCCEEDED:
            return None
        return (
            f"{pair.primary_id} was to be made local by the merge of {earlier.duplicate_id}, which "
            "did not succeed: as it is, this merge would have another effect than was shown"
        )

    async def _send(self, pair: Pair) -> None:
        attempt = _Attempt(pair)
        try:
            task_url = await self._service.merge(
                pair.primary_id, pair.duplicate_id, before_send=partial(self._intend, attempt)
            )
        except _NotSentError as error:
            await self._cancel_sending(pair, error.__cause__)
        except IndeterminateMergeError:
            self._reconciler.add(attempt.pair, sent_at=attempt.sent_at)
        except (ConnectError, RateLimitError, AuthenticationError, AuthorizationError) as error:
            # It certainly did not run: no byte was sent, or the server refused to start it.
            await self._tracker.put_back(attempt.pair)
            if not self._tracker.stop_for(error):
                await self._outages.back_off(error)
        except ResponseError as error:
            self._outages.note_answer()
            await self._apply_refusal(attempt, error)
        else:
            self._outages.note_answer()
            await self._tracker.start(attempt.pair, task_url)

    async def _intend(self, attempt: _Attempt) -> None:
        """Record that a merge is sent now, after it has waited for its slot for up to a minute.

        Recorded any earlier, a crash would leave merges to reconcile that never left this process.
        """
        if self._queue.stopped is not None:
            raise _NotSentError
        self._opening.note_post()
        attempt.sent_at = self._loop.time()
        try:
            attempt.pair = await self._tracker.record(attempt.pair, PairState.SENDING)
        except Exception as error:
            raise _NotSentError from error

    async def _cancel_sending(self, pair: Pair, error: BaseException | None) -> None:
        if error is not None:
            # The ledger's error, or a callback's: no answer of the server, whatever its class.
            raise error from error.__cause__
        await self._tracker.put_back(pair)

    async def _apply_refusal(self, attempt: _Attempt, error: ResponseError) -> None:
        pair = attempt.pair
        if isinstance(error, MergedEntityError):
            state, reason, _ = resolve_merged(pair, error)
            await self._tracker.end(pair, state, reason=reason, is_refusal=True)
        elif isinstance(error, ConflictError) and self._reconciler.was_indeterminate(pair):
            # It may conflict with its own earlier attempt, if that ran after all.
            self._reconciler.add(pair, sent_at=attempt.sent_at)
        else:
            await self._tracker.end(pair, PairState.REFUSED, reason=error.message, is_refusal=True)

    # Waiting

    async def _apply_outcomes(self) -> None:
        async for outcome in self._tracker.watch:
            pairs = self._tracker.unwatch_task(outcome.url)
            is_batch = len(pairs) > 1
            # A task each, so that outcomes of one page share a commit of the ledger.
            for pair in pairs:
                _ = self._group.create_task(self._apply_outcome(pair, outcome, is_batch=is_batch))

    async def _apply_outcome(self, pair: Pair, outcome: Outcome, *, is_batch: bool) -> None:
        if is_batch and outcome.state is OutcomeState.FAILED:
            # Only the merge list has the outcome of each merge of a batch.
            self._find_out(pair, outcome.url)
        elif outcome.state is OutcomeState.FAILED and not await self._is_own_failure(pair):
            reason = UNEXPLAINED.format(pair.duplicate_id)
            await self._tracker.end(pair, PairState.UNSETTLED, reason=reason)
        elif outcome.state in _STATE_OF:
            await self._tracker.end(pair, _STATE_OF[outcome.state], reason=outcome.reason)
        elif self._tracker.stop_for(outcome.error):
            self._tracker.leave()
        elif isinstance(outcome.error, ClosedError):
            self._tracker.stop(StopReason.UNREACHABLE, outcome.error)
            self._tracker.leave()
        else:
            self._find_out(pair, outcome.url)

    async def _is_own_failure(self, pair: Pair) -> bool:
        was_answered = not self._reconciler.was_indeterminate(pair)
        return was_answered or await self._reconciler.is_explained(pair)

    def _find_out(self, pair: Pair, task_url: str) -> None:
        answered_at = self._tracker.history.answered_at(task_id_of(task_url))
        self._reconciler.add(pair, sent_at=answered_at, task_url=task_url)

    # Stopping

    async def _stop_on(self, stop: asyncio.Event) -> None:
        _ = await stop.wait()
        self._tracker.stop(StopReason.INTERRUPTED)

    async def _wait_until_over(self) -> None:
        while not self._queue.is_over and self._queue.stopped is None:
            await self._tracker.next_change()
        self._tracker.report_stop()
        # Written before the grace, since this process may be killed during it.
        await self._tracker.ledger.note(stopped=self._queue.stopped, failures=self._queue.failures)
        # Without a valid key no open merge can be polled.
        is_refused = self._queue.stopped is StopReason.NOT_AUTHORISED
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if is_refused else self._tracker.settings.grace):
                while not self._queue.is_over:
                    await self._tracker.next_change()

    # Reporting

    async def _report_progress(self, on_progress: OnProgress) -> None:
        while True:
            _ = on_progress(self.progress())
            await asyncio.sleep(TICK)

    def _obstacle(self) -> str | None:
        if self._queue.stopped is not None:
            return "the open merges to end (grace)"
        if self._outages.is_on:
            return "the API to answer again"
        if self._opening.is_waiting:
            return "the server's lists to show what another ledger has sent"
        if len(self._reconciler) >= MAX_INDETERMINATE:
            return "what became of merges that were not answered"
        is_waiting = self._queue.left > 0
        return (self._queue.obstacle if is_waiting else None) or self._client.quota.waiting_for
