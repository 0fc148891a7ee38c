"""The loop that finds out what became of merges whose requests were not answered."""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable
from itertools import chain
from typing import Any, Final

from aiotasks.backoff import poll_backoff, poll_delay
from aiotasks.dedupe.models import Pair, PairState
from aiotasks.errors import AffinityError, ClosedError, LedgerError, NetworkError

from .indeterminate import (
    Case,
    IndeterminateMerge,
    Resolution,
    failed_task,
    is_open_in_lists,
    resolve_by_lists,
    task_id_of,
)
from .server_lists import ServerLists
from .task_history import TaskHistory
from .tracker import PairTracker


MAX_INDETERMINATE: Final = 32
"""With so many indeterminate merges no more are sent: something is wrong with the server.

It has to be more than the 16 that a crash can leave, so that the next run can still send later
merges, which show how much the server's lists lag.
"""

PATIENCE: Final = 300.0
"""Seconds after which a merge is left unsettled whose evidence cannot be read. A choice."""

# A choice: merges may take several minutes, and a task that never ends must not keep a job.
_LONGEST_MERGE = 3600.0
# A choice: a merge that the server can never answer must not be sent forever.
_MAX_ATTEMPTS = 5
# A choice: quick at first, then four rounds a minute.
_BACKOFF = poll_backoff(1.0, 15.0)
_PAGE = 100
_UNSETTLED = "Neither the server's lists nor the records show what became of it"
_NEVER_STARTED = f"It was sent {_MAX_ATTEMPTS} times, and neither answered nor started"


class Reconciler:
    """The indeterminate merges of a run, and the loop that resolves them by evidence."""

    def __init__(self, tracker: PairTracker, lists: ServerLists) -> None:
        self._tracker = tracker
        self._lists = lists
        self._history: TaskHistory = tracker.history
        self._settle_after = tracker.settings.settle_after
        self._patience = max(PATIENCE, 5 * self._settle_after)
        self._loop = asyncio.get_running_loop()
        self._indeterminate: dict[int, IndeterminateMerge] = {}
        self._attempts: Counter[int] = Counter()
        self._is_unreachable = False
        self._has_evidence = True
        self._pages = 0.0
        self._left_unsettled = 0
        self._added = asyncio.Event()

    def __len__(self) -> int:
        return sum(each.was_sent for each in self._indeterminate.values())

    def add(self, pair: Pair, *, sent_at: float = -math.inf, task_url: str | None = None) -> None:
        """Find out what became of a pair that was sent at a time, or by an earlier run."""
        self._attempts[pair.number] += 1
        self._indeterminate[pair.number] = IndeterminateMerge(
            pair=pair, sent_at=sent_at, since=self._loop.time(), task_url=task_url
        )
        self._added.set()

    def was_indeterminate(self, pair: Pair) -> bool:
        """Return whether an earlier merge of the pair in this run was indeterminate."""
        return self._attempts[pair.number] > 0

    async def is_explained(self, pair: Pair) -> bool:
        """Return whether the failure of a merge that was found in the lists is all that happened.

        It may be another program's merge of the same pair, which has failed because this job's
        own has succeeded.
        """
        missing = await self._request(self._lists.missing([pair.duplicate_id]))
        return missing is not None and not missing

    async def run(self) -> None:
        """Resolve indeterminate merges as they come, backing off while some remain."""
        while True:
            _ = await self._added.wait()
            self._added.clear()
            rounds = 0
            while self._indeterminate:
                rounds += 1
                # Long lists are read less often.
                await asyncio.sleep(max(poll_delay(_BACKOFF, rounds), self._pages))
                await self._reconcile()

    async def _reconcile(self) -> None:
        now = self._loop.time()
        batch = [each for each in self._indeterminate.values() if now >= each.next_at]
        if not batch:
            return
        self._is_unreachable, self._has_evidence = False, True
        accepted = [task_id_of(each.task_url) for each in batch if each.task_url is not None]
        _ = await self._request(self._lists.name_tasks(accepted))
        is_read = await self._request(self._read_lists(batch))
        left = [each for each in batch if not await self._settle_by_lists(each)]
        if is_read:
            for each in left:
                # A list proves what was so when it was requested, not when its last page arrived.
                each.fix_suspects(self._history, asked_at=now, settle_after=self._settle_after)
        ready = [each for each in left if self._needs_records(each, is_read=bool(is_read))]
        await self._settle_by_records(ready)
        # An outage proves nothing, and must not use up the patience: it ends, or it stops the job.
        if not self._is_unreachable:
            await self._give_up_old_ones(left)

    async def _read_lists(self, batch: list[IndeterminateMerge]) -> bool:
        """Read the lists as far as they can show these merges."""
        oldest = min(each.sent_at for each in batch)
        self._pages = await self._lists.read_tasks(back_to=oldest) / _PAGE
        await self._lists.name_tasks(each.id for each in self._history.candidates(oldest))
        suspects = chain.from_iterable(each.open_suspects(self._history) for each in batch)
        await self._lists.read_old_tasks({each.id for each in suspects})
        return True

    async def _settle_by_lists(self, merge: IndeterminateMerge) -> bool:
        resolution = resolve_by_lists(merge, self._history)
        if merge.task_url is not None:
            # Nobody sends it again, so it is read again only when the lists must show it.
            settled_at = merge.since + self._settle_after + self._history.lag(merge.sent_at)
            merge.next_at = max(settled_at, self._loop.time() + self._settle_after)
        if resolution is not None:
            await self._apply(merge, resolution)
        return resolution is not None

    def _needs_records(self, merge: IndeterminateMerge, *, is_read: bool) -> bool:
        if not is_read:
            # The record of a duplicate may name its survivor, which is proof without a list.
            return merge.was_sent
        is_open = merge.task_url is not None and is_open_in_lists(merge, self._history)
        return not is_open and merge.needs_records(self._history)

    async def _settle_by_records(self, merges: list[IndeterminateMerge]) -> None:
        if not merges:
            return
        ids = [(each.pair.duplicate_id, each.pair.primary_id) for each in merges]
        records = await self._request(self._lists.read_records(chain.from_iterable(ids)))
        if records is None:
            return
        was_local = await self._tracker.were_local({each.pair.primary_id for each in merges})
        for merge in merges:
            case = Case(
                merge,
                merge.open_suspects(self._history),
                records,
                was_local=was_local[merge.pair.primary_id],
                taken_by=self._history.taken_by(merge.pair.duplicate_id),
                rivals=self._unanswered - 1,
                failed_task=failed_task(merge, self._history),
                settle_after=self._settle_after,
            )
            if (resolution := case.decide()) is not None:
                await self._apply(merge, resolution)

    @property
    def _unanswered(self) -> int:
        """How many merges of this run are tasks of which nothing shows whose they are."""
        merges = self._indeterminate.values()
        is_open = sum(each.was_sent and each.task_url is None for each in merges)
        return is_open + self._left_unsettled

    async def _give_up_old_ones(self, merges: list[IndeterminateMerge]) -> None:
        now, patience = self._loop.time(), _LONGEST_MERGE if self._has_evidence else self._patience
        for merge in merges:
            is_left = self._indeterminate.get(merge.pair.number) is merge
            if is_left and now - merge.since >= patience:
                await self._apply(merge, Resolution(PairState.UNSETTLED, _UNSETTLED))

    async def _apply(self, merge: IndeterminateMerge, resolution: Resolution) -> None:
        # Deleted before the first await: put back, the pair can be sent and be added again while
        # its transition is being written.
        del self._indeterminate[merge.pair.number]
        pair, (state, reason, task_id) = merge.pair, resolution
        self._left_unsettled += state is PairState.UNSETTLED and merge.task_url is None
        if state is PairState.STARTED and task_id is not None:
            await self._tracker.start(pair, self._lists.task_url(task_id))
        elif state is PairState.UNSETTLED and not merge.was_sent:
            self._tracker.leave()
        elif state is not PairState.PLANNED:
            self._history.use(task_id)
            await self._tracker.end(pair, state, reason=reason)
        elif self._attempts[pair.number] < _MAX_ATTEMPTS:
            await self._tracker.put_back(pair)
        else:
            await self._tracker.end(pair, PairState.REFUSED, reason=_NEVER_STARTED, is_refusal=True)

    async def _request(self, answer: Awaitable[Any]) -> Any:
        """Return an answer, or none if there is none for now."""
        try:
            return await answer
        except (ClosedError, LedgerError):
            raise
        except AffinityError as error:
            self._has_evidence = False
            self._is_unreachable = self._is_unreachable or isinstance(error, NetworkError)
            _ = self._tracker.stop_for(error)
            return None
