"""The one place where a client waits: polls what is due and delivers the outcomes."""

import asyncio
import logging
import math
from itertools import filterfalse
from typing import Final

from aiotasks._http import wire
from aiotasks._http.pacer import Lane
from aiotasks._http.transport import Transport
from aiotasks._http.urls import TaskRef
from aiotasks.backoff import is_worth_a_retry, retry_delay
from aiotasks.errors import (
    AffinityError,
    AuthenticationError,
    AuthorizationError,
    ClosedError,
    DecodeError,
    MonthlyQuotaError,
    NetworkError,
    NotFoundError,
    RateLimitError,
)
from aiotasks.models import Lateness
from aiotasks.outcomes import OutcomeState

from .failure_reasons import TRANSIENT, FailureReasons
from .final_polls import GRACE, MAX_LEAD
from .pending import ListPage, PendingTask, Phase
from .schedule import PollTarget, Schedule
from .webhooks import WebhookHint


log = logging.getLogger("aiotasks.polling")

# A choice: forged webhooks cost at most 60 of 900 requests a minute.
HINT_PAUSE: Final = 1.0
"""Seconds between two webhooks that are followed: they are unsigned, so anyone can send them."""


class Poller:
    """Polls what the schedule takes, as the request slots allow.

    Tasks that are due together are polled by the page, and a task with many waiters once. During
    an outage there is one poll at a time, ever more slowly; waits go on until their deadlines.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._loop = asyncio.get_running_loop()
        self._schedule = Schedule()
        self._reasons = FailureReasons(transport, self._schedule)
        self._polls: dict[PollTarget, asyncio.Task[None]] = {}
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = asyncio.Event()
        self._hinted_at = -math.inf
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Poller: {self._schedule.count} pending, {len(self._polls)} in flight>"

    @property
    def pending(self) -> int:
        """How many waits are pending."""
        return self._schedule.count

    @property
    def lateness(self) -> Lateness:
        """How late the tasks became visible that this client has started."""
        return self._schedule.started.lateness

    def add(self, pending: PendingTask) -> None:
        """Add a task. Its outcome is delivered, unless it is discarded first.

        Raises:
            ClosedError: when the client is closed.
        """
        if self._is_closed:
            raise ClosedError
        self._schedule.add(pending, lead=self._lead)
        if pending.phase is Phase.FETCHING_REASON:
            self._reasons.add([pending.ref])
            self._reasons.recheck()
        self._update_pacer()
        self._arm()

    def discard(self, pending: PendingTask) -> None:
        """Stop waiting for a task; the server goes on with it."""
        self._schedule.discard(pending)
        self._update_pacer()
        self._cancel_unwanted(pending.ref)
        self._reasons.recheck()
        if not self._schedule.count:
            self._tick(self._loop.time())

    def last_polled(self, ref: TaskRef) -> PendingTask | None:
        """Return a wait for a task that has had an answer, if there is one."""
        return self._schedule.waiters.last_polled(*ref)

    def follow(self, hint: WebhookHint) -> bool:
        """Poll now what a webhook may be about; return False if that changes nothing."""
        now = self._loop.time()
        task = self._schedule.started.task_of(hint)
        pending = self._schedule.waiters.next_to_poll(hint.kind, task)
        if pending is None or now - self._hinted_at < HINT_PAUSE:
            return False
        self._hinted_at = now
        self._schedule.hasten(pending, now)
        self._tick(now)
        return True

    def note_started(self, ref: TaskRef, duplicate_id: int) -> None:
        """Remember that this client started a task now, and which record it merges away."""
        self._schedule.started.record(ref, duplicate_id, self._loop.time())

    def has_just_started(self, ref: TaskRef) -> bool:
        """Return True if this client started a task so recently that it may not be visible yet."""
        return self._schedule.started.is_recent(ref, self._loop.time())

    async def run(self) -> None:
        """Poll until cancelled."""
        async with asyncio.TaskGroup() as group:
            _ = group.create_task(self._reasons.run(), name="aiotasks: reasons")
            await self._poll_what_is_due(group)

    def close(self) -> None:
        """End all waits with ``ClosedError``."""
        self._is_closed = True
        self._schedule.give_up_all(OutcomeState.UNKNOWN, self._loop.time(), ClosedError())
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        when = self._schedule.timers.next
        if self._timer is not None:
            # A tick that comes too early costs less than a new timer for each change.
            if self._timer.when() <= when < math.inf:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._on_timer, when) if when < math.inf else None

    def _on_timer(self, when: float) -> None:
        self._timer = None
        # Loops fire early by up to their clock's resolution: with the time of the loop, nothing
        # would be due yet, and the timer would fire again and again.
        self._tick(max(when, self._loop.time()))

    def _tick(self, now: float) -> None:
        self._schedule.advance(now, lead=self._lead)
        for target in filterfalse(self._schedule.is_wanted, self._polls):
            self._cancel_unwanted(target)
        if self._schedule.has_due:
            self._due.set()
        self._reasons.recheck()
        self._update_pacer()
        self._arm()

    def _update_pacer(self) -> None:
        pacer = self.transport.slots.pacer
        pacer.has_polls = self._schedule.count > 0
        self._schedule.finals.allowed = pacer.allowed

    def _cancel_unwanted(self, target: PollTarget) -> None:
        poll = self._polls.get(target)
        if poll is not None and not self._schedule.is_wanted(target):
            # A task that is cancelled before its first step never runs its `finally`, and would
            # never give its slot back. Cancelling one round later lets it start.
            _ = self._loop.call_soon(poll.cancel)

    async def _poll_what_is_due(self, group: asyncio.TaskGroup) -> None:
        while True:
            _ = await self._due.wait()
            target = await self._next_target()
            if target is None:
                self._due.clear()
                continue
            poll = group.create_task(self._poll(target), name="aiotasks: poll")
            self._polls[target] = poll
            if self._failures:
                _ = await asyncio.wait([poll])
                await asyncio.sleep(retry_delay(self._failures) if self._failures else 0)

    async def _next_target(self) -> PollTarget | None:
        # The slot comes first: which target is best is known only when the request can go.
        slots = self.transport.slots
        try:
            await slots.acquire(Lane.POLL)
        except MonthlyQuotaError as error:
            self._give_up_all(OutcomeState.RUNNING, error)
            return None
        target = self._schedule.take(self._loop.time())
        if target is None:
            slots.give_back()
        elif not self._schedule.has_due:
            self._due.clear()
        return target

    async def _poll(self, target: PollTarget) -> None:
        failures = self._failures + 1
        try:
            if isinstance(target, ListPage):
                await self._poll_page(target)
            else:
                await self._poll_task(target)
        except AffinityError as error:
            self._apply_error(target, error, failures)
        else:
            if self._failures:
                log.info("Polls are answered again", extra={"failures": self._failures})
            self._failures = 0
        finally:
            del self._polls[target]
            self._schedule.put_back(target)
            self._tick(self._loop.time())

    async def _poll_task(self, ref: TaskRef) -> None:
        task = await self.transport.exchange(wire.get_task(ref))
        wire.require_id(task, ref)
        now = self._loop.time()
        self._reasons.add(self._schedule.apply_task(ref, task, now=now, lead=self._lead))

    async def _poll_page(self, page: ListPage) -> None:
        request = page.request
        shown = await self.transport.exchange(request)
        following = wire.follow(request, shown, self.transport.origin)
        now, lead = self._loop.time(), self._lead
        self._reasons.add(self._schedule.apply_page(page, shown, following, now=now, lead=lead))

    @property
    def _lead(self) -> float:
        # A final poll that starts this long before its deadline is answered in the middle of the
        # grace.
        return min(max(0.0, self.transport.latency - GRACE / 2), MAX_LEAD)

    def _apply_error(self, target: PollTarget, error: AffinityError, failures: int) -> None:
        now = self._loop.time()
        if isinstance(error, TRANSIENT):
            self._schedule.outage = error
            if isinstance(error, RateLimitError):
                checks = self._schedule.lists[target.kind].checks
                checks.note_refusal(now, is_list=isinstance(target, ListPage))
            self._apply_outage(error, failures)
            return
        self._failures = 0
        if isinstance(error, AuthenticationError):
            self._give_up_all(OutcomeState.UNKNOWN, error)
        elif isinstance(target, ListPage):
            # A key that may not read lists may still read tasks: their polls show that.
            is_unreadable = isinstance(error, DecodeError)
            self._schedule.apply_refusal(target, now, is_unreadable=is_unreadable)
        elif isinstance(error, AuthorizationError):
            self._give_up_all(OutcomeState.UNKNOWN, error)
        elif isinstance(error, NotFoundError | DecodeError):
            self._schedule.apply_missing(target, error, now=now, lead=self._lead)
        else:
            self._schedule.give_up(target, error, now)

    def _apply_outage(self, error: AffinityError, failures: int) -> None:
        # The pacer handles refusals: the task is queued again and nothing is counted.
        if isinstance(error, RateLimitError):
            return
        if not self._failures:
            log.warning("A poll failed: %s", error, extra={"error": type(error).__name__})
        # Failures of polls that were in flight together are one event, not many.
        self._failures = max(self._failures, failures)
        # A server that never answered is probably a wrong address: waits end after a few tries.
        is_first_contact = isinstance(error, NetworkError) and not self.transport.was_answered
        if is_first_contact and not is_worth_a_retry(error, self._failures, is_read=True):
            self._give_up_all(OutcomeState.UNKNOWN, error)
            self._failures = 0

    def _give_up_all(self, state: OutcomeState, error: AffinityError) -> None:
        self._schedule.give_up_all(state, self._loop.time(), error)
        self._tick(self._loop.time())
