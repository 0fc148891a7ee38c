"""What other programs, or other ledgers, have begun: found out before the first merge of a run."""

import asyncio
import math
from collections.abc import Iterable

from aiotasks.dedupe.models import Pair
from aiotasks.models import TaskStatus

from .reconciler import Reconciler
from .server_lists import ServerLists
from .task_history import ANCHORS
from .tracker import PairTracker


class Opening:
    """Takes up the merges of the plan that somebody else has started already."""

    def __init__(self, tracker: PairTracker, lists: ServerLists, reconciler: Reconciler) -> None:
        self._tracker = tracker
        self._history = tracker.history
        self._lists = lists
        self._reconciler = reconciler
        self._loop = asyncio.get_running_loop()

    async def read(self) -> None:
        """Read what there is, and hold the pairs that may be concerned.

        Raises:
            AffinityError: when it cannot be read.
        """
        if self._tracker.queue.is_over:
            return
        notes = await self._tracker.ledger.notes()
        if "anchors" in notes:
            _ = await self._lists.read_tasks(back_to=-math.inf)
            is_new = False
        else:
            is_new = await self._set_anchors(notes.get("previewed"))
        await self._take_up()
        if is_new or self.is_doubtful:
            await self._hold_merged()

    async def read_again(self) -> None:
        """Read again what lists may not have shown yet."""
        await asyncio.sleep(self._tracker.settings.settle_after)
        _ = await self._lists.read_tasks(back_to=-math.inf)
        await self._take_up()

    @property
    def is_doubtful(self) -> bool:
        """Whether somebody else is merging, or this job may have done so without its ledger."""
        return bool(self._history.foreign) or not self._tracker.ledger.was_closed_cleanly

    async def _set_anchors(self, previewed: str | None) -> bool:
        """Note which tasks had ended before this job, and return whether others are newer.

        Without a task that is newer than the preview, no record can have been merged since then.
        """
        await self._lists.read_open_tasks()
        newest = await self._lists.newest_tasks()
        known = {task.id for task in newest} if previewed is None else {*previewed.split()}
        ended = [task.id for task in newest if task.status.is_ended and task.id in known]
        self._history.anchors = frozenset(ended[:ANCHORS])
        await self._tracker.ledger.note(anchors=" ".join(ended[:ANCHORS]))
        for task in newest:
            if task.id not in known:
                self._history.add_foreign(task, self._loop.time())
        return previewed is None or not {task.id for task in newest} <= known

    async def _take_up(self) -> None:
        await self._lists.name_tasks(each.id for each in self._history.unattributed())
        merges = self._history.foreign_merges()
        taken = {each.duplicate_id for each in merges if each.status is not TaskStatus.FAILED}
        tasks = self._history.unattributed()
        has_nameless = any(each.status is not TaskStatus.FAILED for each in tasks)
        planned = self._tracker.queue.planned()
        primaries = {pair.primary_id for pair in planned} if has_nameless else set[int]()
        was_local = await self._tracker.were_local(primaries)
        self._hold(
            pair
            for pair in planned
            if pair.duplicate_id in taken or was_local.get(pair.primary_id, True) is not True
        )

    async def _hold_merged(self) -> None:
        planned = self._tracker.queue.planned()
        missing = await self._lists.missing([pair.duplicate_id for pair in planned])
        self._hold(pair for pair in planned if pair.duplicate_id in missing)

    def _hold(self, pairs: Iterable[Pair]) -> None:
        # Some may have been started since they were read.
        for pair in filter(self._tracker.queue.withdraw, pairs):
            self._reconciler.add(pair)
