"""Fetches why tasks have failed: the merge list has the server's reasons, a task has not.

The merge list and its filters: https://developer.affinity.co/docs/v2
"""

import asyncio
import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, get_args

from aiotasks._http import wire
from aiotasks._http.pacer import Lane
from aiotasks._http.transport import Transport
from aiotasks._http.urls import TaskRef
from aiotasks._http.wire import Page, Request
from aiotasks.errors import (
    AffinityError,
    NetworkError,
    RateLimitError,
    ResponseError,
    ServerError,
)
from aiotasks.models import Kind, MergeState, TaskStatus

from .schedule import Schedule


# A choice: failures are reported up to this much later, for fewer calls.
REASON_LINGER: Final = 10.0
"""How many seconds a failure waits for others, to fetch their reasons in one call."""

TRANSIENT: Final = (NetworkError, RateLimitError, ServerError)
"""Errors that say nothing about the request: a later one may succeed."""

# The API's largest page: more reasons do not fit in one answer.
_TASKS_PER_CALL = 100
# A choice: bounds the search for a reason among the newest failures.
_MAX_PAGES = 5


class FailureReasons:
    """Fetches the reasons of failed tasks, many in one call, and applies them to the schedule."""

    def __init__(self, transport: Transport, schedule: Schedule) -> None:
        self._transport = transport
        self._schedule = schedule
        self._loop = asyncio.get_running_loop()
        # In the order of their failing: a dict is an ordered set.
        self._failed: dict[TaskRef, None] = {}
        self._changed = asyncio.Event()

    def add(self, failed: Iterable[TaskRef]) -> None:
        """Fetch the reasons of these tasks, soon."""
        self._failed.update(dict.fromkeys(failed))

    def recheck(self) -> None:
        """Check again whether to wait for more failures: pending tasks have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Fetch reasons until cancelled."""
        while True:
            await self._collect()
            refs = list(self._failed)[:_TASKS_PER_CALL]
            for ref in refs:
                del self._failed[ref]
            for kind in get_args(Kind):
                wanted = [ref for ref in refs if ref.kind == kind and ref in self._schedule.waiters]
                if wanted:
                    await self._fetch(kind, wanted)

    async def _collect(self) -> None:
        while not self._failed:
            await self._next_change()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._linger_until()):
                while not self._is_worth_a_call():
                    await self._next_change()

    def _linger_until(self) -> float:
        # A reason that comes after the deadline is of no use.
        waits = (each for ref in self._failed for each in self._schedule.waiters.of(*ref))
        deadline = min((each.deadline for each in waits), default=math.inf)
        return min(self._loop.time() + REASON_LINGER, deadline - self._transport.latency)

    def _is_worth_a_call(self) -> bool:
        # Only a task that is still pending can fail and share the call.
        waiters = self._schedule.waiters
        most = min(_TASKS_PER_CALL, len(waiters))
        return len(self._failed) >= most or any(map(waiters.is_urgent, self._failed))

    async def _next_change(self) -> None:
        self._changed.clear()
        _ = await self._changed.wait()

    async def _fetch(self, kind: Kind, refs: list[TaskRef]) -> None:
        ids = [ref.id for ref in refs]
        reasons: dict[str, str] = {}
        exact = wire.list_merges(kind, task_ids=ids)
        newest = wire.list_merges(kind, status=TaskStatus.FAILED)
        # How many terms a filter may have is not documented. If it is refused, the newest failures
        # are searched instead.
        for request in (exact, newest):
            try:
                await self._read(request, ids, reasons)
                break
            except AffinityError as error:
                if isinstance(error, TRANSIENT) or not isinstance(error, ResponseError):
                    break
        # Without a reason a failure is still a failure.
        for ref in refs:
            self._schedule.apply_reason(ref, reasons.get(ref.id), self._loop.time())

    async def _read(
        self, request: Request[Page[MergeState]] | None, ids: list[str], reasons: dict[str, str]
    ) -> None:
        for _ in range(_MAX_PAGES):
            if request is None or len(reasons) == len(ids):
                return
            page = await self._transport.send(request, lane=Lane.POLL)
            for merge in page.data:
                if merge.error_message and merge.task_id in ids:
                    reasons.setdefault(merge.task_id, merge.error_message)
            request = wire.follow(request, page, self._transport.origin)
