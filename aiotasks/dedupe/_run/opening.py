"""What other programs, or other ledgers, have begun: found out before the first merge of a run."""

import asyncio
import logging
import math
from collections.abc import Iterable
from uuid import uuid4

from aiotasks.backoff import poll_backoff, poll_delay
from aiotasks.client import Client
from aiotasks.dedupe._last_post import LastPost
from aiotasks.dedupe.ledger import Ledger
from aiotasks.dedupe.models import Pair, PairState
from aiotasks.errors import AffinityError, ClosedError, LedgerError
from aiotasks.models import TaskStatus

from .reconciler import Reconciler
from .server_lists import ServerLists
from .task_history import ANCHORS
from .tracker import PairTracker


_logger = logging.getLogger("aiotasks")
_BACKOFF = poll_backoff(1.0, 15.0)
_OPEN = (PairState.SENDING, PairState.STARTED, PairState.UNSETTLED)


class Opening:
    """Takes up the merges of the plan that somebody else has started already.

    Where another ledger of this machine has sent merges just now, it keeps the run waiting until the
    server's lists have to show them.
    """

    def __init__(
        self, client: Client, tracker: PairTracker, lists: ServerLists, reconciler: Reconciler
    ) -> None:
        self._client = client
        self._tracker = tracker
        self._history = tracker.history
        self._lists = lists
        self._reconciler = reconciler
        self._loop = asyncio.get_running_loop()
        self._posts: LastPost | None = None
        self._settled_at: float | None = None
        self._follows_another = False

    async def read(self) -> None:
        """Read what there is, and hold the pairs that may be concerned.

        Raises:
            AffinityError: when it cannot be read.
        """
        if self._tracker.queue.is_over:
            return
        await self._find_last_post()
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
        """Read again what lists may not have shown yet, and let the run begin if it waits."""
        settle_after = self._tracker.settings.settle_after
        at = self._loop.time() + settle_after if self._settled_at is None else self._settled_at
        await asyncio.sleep(at - self._loop.time())
        attempts = 1
        while not await self._has_read_again():
            await asyncio.sleep(poll_delay(_BACKOFF, attempts))
            attempts += 1
        self._settled_at = None
        self._tracker.notify()

    async def _has_read_again(self) -> bool:
        try:
            _ = await self._lists.read_tasks(back_to=-math.inf)
            await self._take_up()
            if self.is_waiting:
                await self._hold_merged()
        except AffinityError as error:
            if isinstance(error, ClosedError | LedgerError):
                raise
            _ = self._tracker.stop_for(error)
            return False
        return True

    def note_post(self) -> None:
        """Note that a merge is sent now, for jobs with other ledgers."""
        sentence = None if self._posts is None else self._posts.note()
        if sentence is not None:
            _logger.warning(sentence)

    def end(self) -> None:
        """Note that nothing of this ledger is open, so that no other one has to wait."""
        totals = self._tracker.totals
        if self._posts is not None and not any(totals[state] for state in _OPEN):
            self._posts.end()

    @property
    def is_waiting(self) -> bool:
        """Whether no merge must be sent yet, for what another ledger may have sent."""
        return self._settled_at is not None

    @property
    def is_doubtful(self) -> bool:
        """Whether somebody else is merging, or this job may have done so without its ledger."""
        has_others = bool(self._history.foreign) or self.is_waiting
        return has_others or not self._tracker.ledger.was_closed_cleanly

    async def _find_last_post(self) -> None:
        ledger, settle_after = self._tracker.ledger, self._tracker.settings.settle_after
        self._posts = LastPost(
            self._client.base_url,
            await self._client.user_id(),
            ledger=await _identify(ledger),
            clock=self._tracker.clock,
        )
        noted = self._posts.read()
        self._follows_another = noted is not None and noted.age < settle_after
        if noted is not None and self._follows_another and noted.is_open:
            self._settled_at = self._loop.time() + settle_after - noted.age

    async def _set_anchors(self, previewed: str | None) -> bool:
        """Note which tasks had ended before this job, and return whether others are newer.

        Without a task that is newer than the preview, no record can have been merged since then.
        What another ledger has sent just now may have ended, with records that still look unmerged.
        """
        await self._lists.read_open_tasks()
        newest = await self._lists.newest_tasks()
        known = {task.id for task in newest} if previewed is None else {*previewed.split()}
        ended = [task.id for task in newest if task.status.is_ended and task.id in known]
        for task in newest:
            if task.id not in known or self._follows_another:
                self._history.add_foreign(task, self._loop.time())
        self._history.anchors = frozenset(ended[:ANCHORS])
        await self._tracker.ledger.note(anchors=" ".join(ended[:ANCHORS]))
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


async def _identify(ledger: Ledger) -> str:
    """Return what tells a ledger from all others: a number of its own, and which file it is.

    A copy has the same number, and is another file; a new ledger may be where an old one was.
    """
    number = (await ledger.notes()).get("number")
    if number is None:
        number = uuid4().hex
        await ledger.note(number=number)
    file = ledger.path.stat()
    return f"{number} {file.st_dev}:{file.st_ino}"
