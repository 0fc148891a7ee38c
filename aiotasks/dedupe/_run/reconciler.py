"""The loop that finds out what became of merges whose requests were not answered."""

import asyncio
from collections import Counter
from collections.abc import Awaitable
from contextlib import aclosing
from typing import Any, Final

from aiotasks.backoff import poll_backoff, poll_delay
from aiotasks.client import Client
from aiotasks.dedupe.models import Pair, PairState
from aiotasks.errors import (
    AffinityError,
    ClosedError,
    LedgerError,
    MergedEntityError,
    NetworkError,
    NotFoundError,
)
from aiotasks.models import Kind, TaskStatus

from .indeterminate import (
    PATIENCE,
    IndeterminateMerge,
    MergeListScan,
    OwnMerges,
    Resolution,
    resolve_merged,
)
from .tracker import PairTracker


MAX_INDETERMINATE: Final = 32
"""With so many indeterminate merges no more are sent: something is wrong with the server.

It has to be more than the 16 that a crash can leave, so that the next run can still send later
merges, which prove what did not run before the crash.
"""

# A choice: a merge that the server can never answer must not be sent forever.
_MAX_ATTEMPTS = 5
# A choice: quick at first, then four rounds a minute.
_BACKOFF = poll_backoff(1.0, 15.0)
_ENDED = {TaskStatus.SUCCESS: PairState.SUCCEEDED, TaskStatus.FAILED: PairState.FAILED}
_UNSETTLED = "Neither the server's merge list nor the record shows what became of it"
_NEVER_STARTED = f"It was sent {_MAX_ATTEMPTS} times, and neither answered nor started"


class Reconciler:
    """The indeterminate merges of a run, and the loop that resolves them by evidence."""

    def __init__(
        self, client: Client, tracker: PairTracker, *, kind: Kind, anchor: int | None
    ) -> None:
        self._service: Any = client.merges_of(kind)
        self._tasks = client.tasks
        self._tracker = tracker
        self._kind = kind
        self._anchor = anchor
        self._settle_after = tracker.settings.settle_after
        self._patience = max(PATIENCE, 2 * self._settle_after)
        self._loop = asyncio.get_running_loop()
        self._indeterminate: dict[int, IndeterminateMerge] = {}
        self._attempts: Counter[int] = Counter()
        self._is_unreachable = False
        self._own: OwnMerges | None = None
        self._added = asyncio.Event()

    def __len__(self) -> int:
        return len(self._indeterminate)

    def add(self, pair: Pair, *, age: float = 0.0, task_url: str | None = None) -> None:
        """Find out what became of a pair whose request ended just now, or ``age`` seconds ago."""
        self._indeterminate[pair.number] = IndeterminateMerge(
            pair=pair, ended=self._tracker.seq, since=self._loop.time(), age=age, task_url=task_url
        )
        self._attempts[pair.number] += 1
        self._added.set()

    def was_indeterminate(self, pair: Pair) -> bool:
        """Return whether an earlier merge of the pair in this run was indeterminate."""
        return self._attempts[pair.number] > 0

    async def run(self) -> None:
        """Resolve indeterminate merges as they come, backing off while some remain."""
        while True:
            _ = await self._added.wait()
            self._added.clear()
            rounds = 0
            while self._indeterminate:
                rounds += 1
                await asyncio.sleep(poll_delay(_BACKOFF, rounds))
                await self._reconcile(list(self._indeterminate.values()))

    async def _reconcile(self, batch: list[IndeterminateMerge]) -> None:
        self._is_unreachable = False
        unanswered = [each for each in batch if each.task_url is None]
        # A list proves what was so when it was requested, not when its last page arrived.
        now = self._loop.time()
        scan = await self._request(self._scan_list(unanswered)) if unanswered else None
        for each in batch:
            resolution: Resolution | None = None
            if not self._is_unreachable:
                resolution = await self._request(self._resolve(each, scan, now))
            if self._is_unreachable:
                # An outage proves nothing, and must not use up the patience: it ends, or it stops
                # the job.
                return
            if resolution is None and self._loop.time() - each.since >= self._patience:
                resolution = Resolution(PairState.UNSETTLED, _UNSETTLED)
            if resolution is not None:
                # Deleted before the first await: put back, the pair can be sent and be added again
                # while its transition is being written.
                del self._indeterminate[each.pair.number]
                await self._apply(each.pair, resolution)

    async def _apply(self, pair: Pair, resolution: Resolution) -> None:
        if resolution.task_url is not None:
            await self._tracker.start(pair, resolution.task_url)
        elif resolution.state is PairState.PLANNED:
            await self._tracker.put_back(pair)
        else:
            await self._tracker.end(pair, resolution.state, reason=resolution.reason)

    async def _request(self, answer: Awaitable[Any]) -> Any:
        """Return an answer, or none if there is none for now."""
        try:
            return await answer
        except (ClosedError, LedgerError):
            raise
        except AffinityError as error:
            self._is_unreachable = self._is_unreachable or isinstance(error, NetworkError)
            _ = self._tracker.stop_for(error)
            return None

    async def _scan_list(self, unanswered: list[IndeterminateMerge]) -> MergeListScan:
        ledger = self._tracker.ledger
        own = self._own = self._own or OwnMerges(await ledger.pairs())
        own.apply(await ledger.history(after=own.seq))
        scan = MergeListScan(own, unanswered, anchor=self._anchor)
        async with aclosing(self._service.merges()) as merges:
            async for merge in merges:
                if not scan.read(merge):
                    return scan
        scan.end()
        return scan

    async def _resolve(
        self, merge: IndeterminateMerge, scan: MergeListScan | None, now: float
    ) -> Resolution | None:
        """Return what the evidence proves so far, the cheapest first."""
        pair = merge.pair
        if merge.task_url is not None:
            by_task = await self._request(self._resolve_by_task(pair, merge.task_url))
            return by_task or await self._resolve_by_record(pair)
        if scan is not None and (listed := scan.found(merge)) is not None:
            task_url = self._tasks.url_of(self._kind, listed.task_id)
            return Resolution(PairState.STARTED, task_url=task_url)
        # A list may lag, or omit a merge; a duplicate that is merged away proves that it ran.
        if (by_record := await self._resolve_by_record(pair)) is not None:
            return by_record
        if scan is None or not scan.is_absent(merge, now=now, settle_after=self._settle_after):
            return None
        if self._attempts[pair.number] < _MAX_ATTEMPTS:
            return Resolution(PairState.PLANNED)
        return Resolution(PairState.REFUSED, _NEVER_STARTED)

    async def _resolve_by_record(self, pair: Pair) -> Resolution | None:
        try:
            _ = await self._service.get_record(pair.duplicate_id)
        except MergedEntityError as error:
            return resolve_merged(pair, error)
        except NotFoundError:
            # The duplicate may be gone for another reason: only the list proves this merge.
            return None
        return None

    async def _resolve_by_task(self, pair: Pair, task_url: str) -> Resolution | None:
        """Search the history for a merge that was started, but whose task cannot be read."""
        async with aclosing(self._service.merges(task_url=task_url)) as merges:
            async for merge in merges:
                state = _ENDED.get(merge.status)
                if state is not None and merge.duplicate_id == pair.duplicate_id:
                    return Resolution(state, merge.error_message)
        return None
