"""What a plan would do: its records by name, what becomes of them, and those that are gone."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, suppress
from functools import cached_property
from typing import Any, Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from aiotasks.client import Client
from aiotasks.errors import AffinityError, MergedEntityError, NotFoundError
from aiotasks.models import Kind, Record, TaskStatus

from ._effects import Effect, Merge, Outlook, foresee, profile_of, traits_of
from ._exception_groups import unwrap_errors
from .models import PairState, PlannedMerge, Transition
from .plan import RECORDS_PER_CALL, Cost, Plan


T = TypeVar("T")

NEWEST: Final = 100
"""How many of the newest tasks are compared with those before the preview: one page."""

# A choice: at most 800 records a round trip, as each reads a hundred.
_READERS: Final = 8


class Preview(Struct, frozen=True, kw_only=True, dict=True):
    """The records of a plan when they were read.

    ``records`` has the JSON that the API sent for each record that exists; ``gone`` maps each other
    record to the one that it was merged into, or to ``None`` if there is no such record (any more).
    ``tasks`` are the newest merge tasks that had ended before the records were read, and
    ``durations`` the seconds that the newest merges took that succeeded.
    """

    plan: Plan
    records: Mapping[int, bytes]
    gone: Mapping[int, int | None]
    tasks: tuple[str, ...] = ()
    durations: tuple[float, ...] = ()

    def label(self, record_id: int) -> str:
        """Return the name of a record, and what distinguishes it from others of that name."""
        if record_id in self.records:
            return label_of(self.plan.kind, self.records[record_id])
        target = self.gone.get(record_id)
        return "does not exist (any more)" if target is None else f"was merged into {target}"

    @cached_property
    def outlook(self) -> Outlook:
        """What becomes of the merges of the plan, also of those that are gone."""
        plan = self.plan
        merges = (
            Merge(number, merge.primary_id, merge.duplicate_id)
            for number, merge in enumerate(plan.merges, 1)
        )
        traits = {each: traits_of(plan.kind, json) for each, json in self.records.items()}
        return foresee(merges, traits, no_new_company=plan.no_new_company)

    @cached_property
    def effects(self) -> Mapping[int, Effect]:
        """The effects of the merges that can run, by their numbers, in the order in which they run.

        Numbers count ``plan.merges`` from 1. Clusters share no record, so they run in any order.
        """
        idle = {transition.number for transition in self.findings(0.0)}
        return {
            number: effect for number, effect in self.outlook.effects.items() if number not in idle
        }

    def cost(self, *, limit: int, month_limit: int | None) -> Cost:
        """Estimate what the merges cost that can run; see ``Plan.cost``.

        Raises:
            ConfigurationError: when ``limit`` is not 1 or more.
        """
        merges = tuple(self.plan.merges[number - 1] for number in self.effects)
        left = replace(self.plan, merges=merges)
        return left.cost(limit=limit, month_limit=month_limit, durations=self.durations)

    def findings(self, at: float) -> list[Transition]:
        """Return the transitions of merges that cannot run, or need not.

        A pair whose duplicate survives as its primary has ``SUCCEEDED``; one with any other record
        that is gone is ``REFUSED``, as is one that must not run for what would become of its
        records. ``at`` is the time, in seconds since the epoch.
        """
        found = (
            self._finding(number, merge, at)
            for number, merge in enumerate(self.plan.merges, start=1)
        )
        return [transition for transition in found if transition is not None]

    def _finding(self, number: int, merge: PlannedMerge, at: float) -> Transition | None:
        for record_id in (merge.duplicate_id, merge.primary_id):
            if record_id in self.gone:
                state, reason = _state_without(record_id, merge, self.gone, self.plan.kind)
                return Transition(number=number, state=state, at=at, reason=reason)
        if number not in self.outlook.left_out:
            return None
        reason = self.outlook.left_out[number]
        return Transition(number=number, state=PairState.REFUSED, at=at, reason=reason)


async def preview(client: Client, plan: Plan) -> Preview:
    """Read all records of a plan, a hundred a call, and each missing one by itself.

    Only reads: nothing is changed on the server.

    Raises:
        AffinityError: when a record cannot be read, after retries.
    """
    tasks = await _ended_tasks(client, plan.kind)
    reader = _RecordReader(client.merges_of(plan.kind))
    await reader.read(plan.record_ids)
    durations = await _durations(client, plan.kind)
    return Preview(
        plan=plan, records=reader.records, gone=reader.gone, tasks=tasks, durations=durations
    )


async def _ended_tasks(client: Client, kind: Kind) -> tuple[str, ...]:
    """Return which of the newest tasks have ended, by one call."""
    newest = [task async for task in client.tasks.list(kind, limit=NEWEST)]
    return tuple(task.id for task in newest if task.status.is_ended)


async def _durations(client: Client, kind: Kind) -> tuple[float, ...]:
    """Return how many seconds the newest merges took that succeeded, by one call."""
    found: list[float] = []
    newest = client.merges_of(kind).merges(status=TaskStatus.SUCCESS)
    # Best effort: without them an estimate assumes what is typical.
    with suppress(AffinityError):
        async with aclosing(newest) as merges:
            async for merge in merges:
                if merge.started_at is not None and merge.completed_at is not None:
                    found.append((merge.completed_at - merge.started_at).total_seconds())
                if len(found) == NEWEST:
                    break
    return tuple(found)


def label_of(kind: Kind, json: bytes) -> str:
    """Return the name of a record, from the JSON that the API sent for it.

    A snapshot that was damaged on disk has no name, but a report must not fail for that.
    """
    profile = profile_of(kind, json)
    return "a record that cannot be read" if profile is None else profile.label


class _RecordReader:
    def __init__(self, service: Any) -> None:
        self._service = service
        self.records: dict[int, bytes] = {}
        self.gone: dict[int, int | None] = {}

    async def read(self, ids: Iterable[int]) -> None:
        wanted = list(ids)
        starts = range(0, len(wanted), RECORDS_PER_CALL)
        batches = (wanted[start : start + RECORDS_PER_CALL] for start in starts)
        await _for_each(self._read_batch, batches)
        # A list leaves out what is gone without a reason, so each of these is read by itself.
        missing = [record_id for record_id in wanted if record_id not in self.records]
        await _for_each(self._trace, iter(missing))

    async def _read_batch(self, ids: list[int]) -> None:
        async for record in self._service.records(ids):
            self.records[record.profile.id] = record.json

    async def _trace(self, record_id: int) -> None:
        """Follow a record that is gone to the one that it survives as."""
        current: int | None = record_id
        # A merge target may itself have been merged since, or be read already.
        while current is not None and current not in self.records and current not in self.gone:
            current = await self._follow(current)

    async def _follow(self, record_id: int) -> int | None:
        try:
            record: Record[Any] = await self._service.get_record(record_id)
        except MergedEntityError as error:
            self.gone[record_id] = error.target_id
            return error.target_id
        except NotFoundError:
            self.gone[record_id] = None
            return None
        self.records[record_id] = record.json
        return None


async def _for_each(work: Callable[[T], Awaitable[None]], items: Iterator[T]) -> None:
    """Work on all items, a few at a time."""

    async def worker() -> None:
        # All workers share the iterator, so each takes the next item when it is free.
        for item in items:
            await work(item)

    with unwrap_errors():
        async with asyncio.TaskGroup() as group:
            for _ in range(_READERS):
                _ = group.create_task(worker())


def _state_without(
    record_id: int, merge: PlannedMerge, gone: Mapping[int, int | None], kind: Kind
) -> tuple[PairState, str]:
    target = survivor(record_id, gone)
    if target is None:
        return PairState.REFUSED, f"There is no {kind} {record_id} (any more)"
    if record_id == merge.duplicate_id and target == merge.primary_id:
        return PairState.SUCCEEDED, f"{record_id} had been merged into {target} before this job"
    return PairState.REFUSED, f"{record_id} had been merged into {target} before this job"


def survivor(record_id: int, merged_into: Mapping[int, int | None]) -> int | None:
    """Return the record that a record survives as, or ``None`` if there is none any more."""
    # A server that contradicts itself could have them in a cycle.
    seen = set()
    current: int | None = record_id
    while current is not None and current in merged_into and current not in seen:
        seen.add(current)
        current = merged_into[current]
    return current
