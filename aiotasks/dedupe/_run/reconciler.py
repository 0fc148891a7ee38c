"""The loop that asks the server what became of merges whose requests were not answered."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

from aiotasks.backoff import poll_backoff, poll_delay
from aiotasks.dedupe.ledger import Ledger
from aiotasks.dedupe.models import Pair, PairState
from aiotasks.errors import (
    AffinityError,
    ClosedError,
    LedgerError,
    MergedEntityError,
    NetworkError,
    NotFoundError,
)
from aiotasks.models import TaskStatus

from .evidence import PATIENCE, IndeterminateMerge, MergeListScan, OwnMerges


MOST_DOUBTS: Final = 32
"""With so many merges in doubt no more are sent: something is wrong with the server.

It is more than a crash leaves, so that later merges can prove what did not run before it.
"""

Step: TypeAlias = Callable[[Pair], Awaitable[None]]

# A merge that the server can never answer must not be sent for ever.
_MOST_ATTEMPTS = 5
_BACKOFF = poll_backoff(1.0, 15.0)
_ENDED = {TaskStatus.SUCCESS: PairState.SUCCEEDED, TaskStatus.FAILED: PairState.FAILED}
_UNSETTLED = "Neither the server's merge list nor the record tells what became of it"
_NEVER_STARTED = f"It was sent {_MOST_ATTEMPTS} times, and neither answered nor started"


class Desk(Protocol):
    """What is done with a pair once it is known what became of it."""

    async def adopt(self, pair: Pair, task_id: str) -> None:
        """Wait for the task of a merge that was started."""

    async def end(self, pair: Pair, state: PairState, *, reason: str | None = None) -> None:
        """Record the end of a pair."""

    async def end_as_merged(self, pair: Pair, error: MergedEntityError) -> None:
        """Record what the error proves."""

    async def put_back(self, pair: Pair) -> None:
        """Let a pair that did not run take its turn again."""

    def stop_for(self, error: AffinityError | None) -> bool:
        """Stop the job if nothing can go on after this error, and say whether it was stopped."""


class Reconciler:
    """The merges in doubt, and the loop that settles them."""

    def __init__(
        self, desk: Desk, service: Any, ledger: Ledger, *, anchor: int | None, settle_after: float
    ) -> None:
        self._desk = desk
        self._service = service
        self._ledger = ledger
        self._anchor = anchor
        self._settle_after = settle_after
        self._patience = max(PATIENCE, 2 * settle_after)
        self._loop = asyncio.get_running_loop()
        self._doubts: dict[int, IndeterminateMerge] = {}
        self._times: Counter[int] = Counter()
        self._is_cut_off = False
        self._journal: OwnMerges | None = None
        self._added = asyncio.Event()

    def __len__(self) -> int:
        return len(self._doubts)

    def add(self, pair: Pair, *, seq: int, age: float = 0.0, task_url: str | None = None) -> None:
        """Find out what became of a pair; its request was over at step ``seq`` of the log."""
        now = self._loop.time()
        doubt = IndeterminateMerge(pair=pair, ended=seq, since=now, age=age, task_url=task_url)
        self._doubts[pair.number] = doubt
        self._times[pair.number] += 1
        self._added.set()

    def has_doubted(self, pair: Pair) -> bool:
        """Say whether a pair was in doubt before in this run."""
        return self._times[pair.number] > 0

    async def run(self) -> None:
        """Settle doubts as they come, asking ever less often as long as some remain."""
        while True:
            _ = await self._added.wait()
            self._added.clear()
            rounds = 0
            while self._doubts:
                rounds += 1
                await asyncio.sleep(poll_delay(_BACKOFF, rounds))
                await self._ask_for(list(self._doubts.values()))

    async def _ask_for(self, doubts: list[IndeterminateMerge]) -> None:
        self._is_cut_off = False
        unanswered = [doubt for doubt in doubts if doubt.task_url is None]
        # The list proves something for the time when it was asked for, not for when it came.
        now = self._loop.time()
        listing = await self._ask(self._read_list(unanswered)) if unanswered else None
        for doubt in doubts:
            step = None if self._is_cut_off else await self._ask(self._learn(doubt, listing, now))
            if self._is_cut_off:
                # An outage is no reason to give up: it ends, or stops the job.
                return
            if step is None and self._loop.time() - doubt.since >= self._patience:
                step = partial(self._desk.end, state=PairState.UNSETTLED, reason=_UNSETTLED)
            if step is not None:
                del self._doubts[doubt.pair.number]
                await step(doubt.pair)

    async def _ask(self, answer: Awaitable[Any]) -> Any:
        """Return an answer, or none if it cannot be had for now."""
        try:
            return await answer
        except (ClosedError, LedgerError):
            raise
        except AffinityError as error:
            self._is_cut_off = self._is_cut_off or isinstance(error, NetworkError)
            _ = self._desk.stop_for(error)
            return None

    async def _read_list(self, doubts: list[IndeterminateMerge]) -> MergeListScan:
        journal = self._journal = self._journal or OwnMerges(await self._ledger.pairs())
        journal.learn(await self._ledger.history(after=journal.seq))
        listing = MergeListScan(journal, doubts, anchor=self._anchor)
        async with aclosing(self._merges()) as merges:
            async for merge in merges:
                if not listing.read(merge):
                    return listing
        listing.end()
        return listing

    async def _learn(
        self, doubt: IndeterminateMerge, listing: MergeListScan | None, now: float
    ) -> Step | None:
        """Return what is to be done with a pair, if it can be told."""
        if doubt.task_url is not None:
            by_task = await self._ask(self._learn_by_task(doubt.pair, doubt.task_url))
            return by_task or await self._learn_by_record(doubt.pair)
        if listing is not None and (merge := listing.found(doubt)) is not None:
            return partial(self._desk.adopt, task_id=merge.task_id)
        if (by_record := await self._learn_by_record(doubt.pair)) is not None:
            return by_record
        if listing is None or not listing.is_absent(
            doubt, now=now, settle_after=self._settle_after
        ):
            return None
        if self._times[doubt.pair.number] < _MOST_ATTEMPTS:
            return self._desk.put_back
        return partial(self._desk.end, state=PairState.REFUSED, reason=_NEVER_STARTED)

    async def _learn_by_record(self, pair: Pair) -> Step | None:
        try:
            _ = await self._service.get_record(pair.duplicate_id)
        except MergedEntityError as error:
            return partial(self._desk.end_as_merged, error=error)
        except NotFoundError:
            # Whatever took it away: only the list can tell whether this merge was started.
            return None
        return None

    async def _learn_by_task(self, pair: Pair, task_url: str) -> Step | None:
        """Look into the history for a merge that was started, but whose task cannot be read."""
        async with aclosing(self._merges(task_url=task_url)) as merges:
            async for merge in merges:
                state = _ENDED.get(merge.status)
                if state is not None and merge.duplicate_id == pair.duplicate_id:
                    return partial(self._desk.end, state=state, reason=merge.error_message)
        return None

    def _merges(self, **which: str) -> Any:
        return self._service.merges(**which)
