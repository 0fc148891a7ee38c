"""The one place where a client waits: asks for what is due and hands out what it learns."""

import asyncio
import math
from contextlib import suppress
from typing import Final, get_args

from aiotasks._http import wire
from aiotasks._http.pacer import Lane
from aiotasks._http.transport import Transport
from aiotasks._http.urls import TaskRef
from aiotasks._http.wire import Page, Request
from aiotasks.backoff import is_worth_a_retry, retry_delay
from aiotasks.errors import (
    AffinityError,
    AuthenticationError,
    AuthorizationError,
    ClosedError,
    MonthlyQuotaError,
    NetworkError,
    NotFoundError,
    RateLimitError,
    ResponseError,
    ServerError,
)
from aiotasks.models import Kind, MergeState, TaskStatus
from aiotasks.outcomes import OutcomeState

from .pending import ListPage, PendingTask
from .schedule import GRACE, PollTarget, Schedule
from .started import Hints
from .webhooks import WebhookHint


REASON_LINGER: Final = 10.0
"""How long a failure waits, in seconds, for others to ask for their reasons together."""

_REASONS_PER_CALL = 100
_REASON_PAGES = 5
_PAGE = 100
_MAX_LEAD = 1.0
_TRANSIENT = (NetworkError, RateLimitError, ServerError)


class Poller:
    """Keeps the schedule, and asks by it as the slots allow.

    It looks at a task that many wait for once, and at tasks that are due together by the page.
    While the API does not answer it asks one question at a time and ever more slowly; the waits go
    on until their deadlines.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._loop = asyncio.get_running_loop()
        self._schedule = Schedule()
        self._hints = Hints()
        self._polls: dict[PollTarget, asyncio.Task[None]] = {}
        # In the order of their failing.
        self._failed: dict[TaskRef, None] = {}
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = asyncio.Event()
        self._changed = asyncio.Event()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Poller: {self._schedule.count} pending, {len(self._polls)} asked>"

    @property
    def pending(self) -> int:
        """How many tasks are waited for."""
        return self._schedule.count

    def add(self, pending: PendingTask) -> None:
        """Take in a task. Its outcome is delivered, unless it is discarded first."""
        if self._is_closed:
            raise ClosedError
        self._schedule.add(pending)
        self._note_count()
        self._arm()

    def discard(self, pending: PendingTask) -> None:
        """Forget a task; the server goes on with it."""
        self._schedule.discard(pending)
        self._note_count()
        self._drop_unwanted(pending.ref)
        self._changed.set()
        if not self._schedule.count:
            self._tick(self._loop.time())

    def last_polled(self, ref: TaskRef) -> PendingTask | None:
        """Return somebody who waits for a task and has been told of it, if there is one."""
        return self._schedule.last_polled(ref)

    def follow(self, hint: WebhookHint) -> bool:
        """Look at once at what a hint may be about; say whether anything was brought forward."""
        now = self._loop.time()
        pending = self._schedule.next_to_poll(hint.kind, self._hints.task_of(hint))
        if pending is None or not self._hints.may_follow(now):
            return False
        self._schedule.make_due(pending, now)
        self._tick(now)
        return True

    def note_started(self, ref: TaskRef, duplicate_id: int) -> None:
        """Remember that this client started a task just now, and what it merges away."""
        self._schedule.note_started(ref, self._loop.time())
        self._hints.note(ref, duplicate_id)

    async def run(self) -> None:
        """Ask until cancelled."""
        async with asyncio.TaskGroup() as group:
            _ = group.create_task(self._explain_failures(), name="aiotasks: reasons")
            await self._poll_what_is_due(group)

    def close(self) -> None:
        """Tell everybody who still waits that the client is closed."""
        self._is_closed = True
        self._schedule.give_up_all(OutcomeState.UNKNOWN, self._loop.time(), ClosedError())
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        when = self._schedule.next_wake()
        if self._timer is not None:
            # A tick that comes too early costs less than a timer for each change.
            if self._timer.when() <= when < math.inf:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._on_timer, when) if when < math.inf else None

    def _tick(self, now: float) -> None:
        self._schedule.advance(now)
        for target in list(self._polls):
            self._drop_unwanted(target)
        if self._schedule.has_due:
            self._due.set()
        self._changed.set()
        self._note_count()
        self._arm()

    def _note_count(self) -> None:
        self.transport.slots.pacer.has_polls = self._schedule.count > 0

    def _on_timer(self, when: float) -> None:
        self._timer = None
        # Loops fire early by up to their clock's resolution, and would do so again and again.
        self._tick(max(when, self._loop.time()))

    def _drop_unwanted(self, target: PollTarget) -> None:
        poll = self._polls.get(target)
        if poll is not None and not self._schedule.is_wanted(target):
            # Not at once: a task that is cancelled before its first step never gives its slot back.
            _ = self._loop.call_soon(poll.cancel)

    async def _poll_what_is_due(self, group: asyncio.TaskGroup) -> None:
        while True:
            _ = await self._due.wait()
            target = await self._next_target()
            if target is None:
                self._due.clear()
                continue
            poll = group.create_task(self._poll(target), name="aiotasks: ask")
            self._polls[target] = poll
            if self._failures:
                _ = await asyncio.wait([poll])
                await asyncio.sleep(retry_delay(self._failures) if self._failures else 0)

    async def _next_target(self) -> PollTarget | None:
        # The slot comes first: what is most worth asking is known when the request can go.
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
            self._failures = 0
        finally:
            del self._polls[target]
            self._schedule.put_back(target)
            self._tick(self._loop.time())

    async def _poll_task(self, ref: TaskRef) -> None:
        task = await self.transport.exchange(wire.get_task(ref))
        if self._schedule.apply_task(ref, task, now=self._loop.time(), lead=self._lead):
            self._failed[ref] = None

    async def _poll_page(self, page: ListPage) -> None:
        shown = await self.transport.exchange(page.request)
        following = wire.follow(page.request, shown, self.transport.origin)
        failures = self._schedule.apply_page(
            page, shown, following, now=self._loop.time(), lead=self._lead
        )
        self._failed.update(dict.fromkeys(failures))

    @property
    def _lead(self) -> float:
        # Looks that start this long before a deadline are answered in the middle of its grace,
        # one after the other if there are more pages to read than may be asked for at once.
        rounds = 1 + self._schedule.tasks / _PAGE / self.transport.slots.pacer.allowed
        return min(max(0.0, self.transport.latency * rounds - GRACE / 2), _MAX_LEAD)

    def _apply_error(self, target: PollTarget, error: AffinityError, failures: int) -> None:
        now = self._loop.time()
        if isinstance(error, _TRANSIENT):
            self._apply_outage(error, failures)
            return
        self._failures = 0
        if isinstance(error, AuthenticationError):
            self._give_up_all(OutcomeState.UNKNOWN, error)
        elif isinstance(target, ListPage):
            # If the key may not look at tasks either, the next question will tell.
            self._schedule.apply_refusal(target, now)
        elif isinstance(error, AuthorizationError):
            self._give_up_all(OutcomeState.UNKNOWN, error)
        elif not self._is_to_come(target, error, now):
            self._schedule.give_up(target, error, now)

    def _is_to_come(self, ref: TaskRef, error: AffinityError, now: float) -> bool:
        is_missing = isinstance(error, NotFoundError)
        return is_missing and self._schedule.apply_not_found(ref, now=now, lead=self._lead)

    def _apply_outage(self, error: AffinityError, failures: int) -> None:
        # A refusal is the pacer's affair: the task goes back in the queue and nothing is counted.
        if isinstance(error, RateLimitError):
            return
        # Failures of what was on its way together are one event, not many.
        self._failures = max(self._failures, failures)
        is_first_contact = isinstance(error, NetworkError) and not self.transport.was_answered
        if is_first_contact and not is_worth_a_retry(error, self._failures, is_read=True):
            self._give_up_all(OutcomeState.UNKNOWN, error)
            self._failures = 0

    def _give_up_all(self, state: OutcomeState, error: AffinityError) -> None:
        self._schedule.give_up_all(state, self._loop.time(), error)
        self._tick(self._loop.time())

    async def _explain_failures(self) -> None:
        while True:
            await self._collect_failures()
            refs = list(self._failed)[:_REASONS_PER_CALL]
            for ref in refs:
                del self._failed[ref]
            for kind in get_args(Kind):
                waiters_of = [
                    ref for ref in refs if ref.kind == kind and self._schedule.waiters_of(ref)
                ]
                if waiters_of:
                    await self._explain(kind, waiters_of)

    async def _collect_failures(self) -> None:
        while not self._failed:
            await self._next_change()
        # Only a task that is still pending can fail and be asked for in the same call.
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._linger_until()):
                while not self._is_worth_a_call():
                    await self._next_change()

    def _linger_until(self) -> float:
        # A reason that comes after its deadline is of no use.
        waiting = (pending for ref in self._failed for pending in self._schedule.waiters_of(ref))
        deadline = min((pending.deadline for pending in waiting), default=math.inf)
        return min(self._loop.time() + REASON_LINGER, deadline - self.transport.latency)

    def _is_worth_a_call(self) -> bool:
        most = min(_REASONS_PER_CALL, self._schedule.tasks)
        return len(self._failed) >= most or any(map(self._schedule.is_urgent, self._failed))

    async def _next_change(self) -> None:
        self._changed.clear()
        _ = await self._changed.wait()

    async def _explain(self, kind: Kind, refs: list[TaskRef]) -> None:
        ids = [ref.id for ref in refs]
        reasons: dict[str, str] = {}
        exact = wire.list_merges(kind, task_ids=ids)
        newest = wire.list_merges(kind, status=TaskStatus.FAILED)
        # How many terms a filter takes is not documented; the newest failures are the fallback.
        for request in (exact, newest):
            try:
                await self._read_reasons(request, ids, reasons)
                break
            except AffinityError as error:
                if isinstance(error, _TRANSIENT) or not isinstance(error, ResponseError):
                    break
        for ref in refs:
            self._schedule.apply_reason(ref, reasons.get(ref.id), self._loop.time())

    async def _read_reasons(
        self, request: Request[Page[MergeState]] | None, ids: list[str], reasons: dict[str, str]
    ) -> None:
        for _ in range(_REASON_PAGES):
            if request is None or len(reasons) == len(ids):
                return
            page = await self.transport.send(request, lane=Lane.POLL)
            for merge in page.data:
                if merge.error_message and merge.task_id in ids:
                    reasons.setdefault(merge.task_id, merge.error_message)
            request = wire.follow(request, page, self.transport.origin)
