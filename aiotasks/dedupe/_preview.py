"""What a plan would do: its records by name, and those that are gone already."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from aiotasks._http.wire import PAGE_LIMIT, profile_of
from aiotasks._merges import batches
from aiotasks.client import Client
from aiotasks.errors import MergedEntityError, NotFoundError
from aiotasks.models import Kind, Record

from ._taskgroups import unwrap_errors
from .models import PairState, PlannedMerge, Transition
from .plan import Plan


_READERS = 8


class Preview(Struct, frozen=True, kw_only=True):
    """The records of a plan, as they were just now.

    ``records`` has what the API sent for each record that is there; ``gone`` maps each other one
    to the record that it was merged into, or to ``None`` if there is no such record.
    """

    plan: Plan
    records: Mapping[int, bytes]
    gone: Mapping[int, int | None]

    def label(self, record_id: int) -> str:
        """Return the name of a record and what tells it from others of that name."""
        if record_id in self.records:
            return label_of(self.plan.kind, self.records[record_id])
        target = self.gone.get(record_id)
        return "does not exist" if target is None else f"was merged into {target}"

    def findings(self, at: float) -> list[Transition]:
        """Return what is known already of merges that cannot run, or need not.

        A duplicate that lives on as its primary has ``SUCCEEDED``; any other record that is gone
        makes its merge ``REFUSED``. ``at`` is the time, in seconds since the epoch.
        """
        found = (
            _finding(number, merge, self.gone, self.plan.kind, at)
            for number, merge in enumerate(self.plan.merges, start=1)
        )
        return [transition for transition in found if transition is not None]


async def preview(client: Client, plan: Plan) -> Preview:
    """Look at all records of a plan, a hundred a call, and at each that is gone by itself.

    Nothing is written to the server.

    Raises:
        AffinityError: when a record cannot be read, after retries.
    """
    looker = _Looker(client.merges_of(plan.kind))
    await looker.look(plan.record_ids)
    return Preview(plan=plan, records=looker.records, gone=looker.gone)


def label_of(kind: Kind, json: bytes) -> str:
    """Return the name of a record, out of what the API sent for it."""
    return str(profile_of(kind, json).label)


class _Looker:
    def __init__(self, service: Any) -> None:
        self._service = service
        self.records: dict[int, bytes] = {}
        self.gone: dict[int, int | None] = {}

    async def look(self, ids: Iterable[int]) -> None:
        wanted = list(ids)
        await _in_parallel(self._read, batches(wanted, PAGE_LIMIT))
        missing = [record_id for record_id in wanted if record_id not in self.records]
        await _in_parallel(self._trace, iter(missing))

    async def _read(self, ids: list[int]) -> None:
        async for record in self._service.records(ids):
            self.records[record.profile.id] = record.json

    async def _trace(self, record_id: int) -> None:
        """Follow a record that is gone to the one that it lives on as."""
        current: int | None = record_id
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


async def _in_parallel(work: Any, items: Iterator[Any]) -> None:
    async def reader() -> None:
        for item in items:
            await work(item)

    with unwrap_errors():
        async with asyncio.TaskGroup() as group:
            for _ in range(_READERS):
                _ = group.create_task(reader())


def _finding(
    number: int, merge: PlannedMerge, gone: Mapping[int, int | None], kind: Kind, at: float
) -> Transition | None:
    for record_id in (merge.duplicate_id, merge.primary_id):
        if record_id not in gone:
            continue
        state, reason = _fate(record_id, merge, gone, kind)
        return Transition(number=number, state=state, at=at, reason=reason)
    return None


def _fate(
    record_id: int, merge: PlannedMerge, gone: Mapping[int, int | None], kind: Kind
) -> tuple[PairState, str]:
    target = survivor(record_id, gone)
    if target is None:
        return PairState.REFUSED, f"There is no {kind} {record_id}"
    if record_id == merge.duplicate_id and target == merge.primary_id:
        return PairState.SUCCEEDED, f"{record_id} had been merged into {target} before this job"
    return PairState.REFUSED, f"{record_id} had been merged into {target} before this job"


def survivor(record_id: int, merged_into: Mapping[int, int | None]) -> int | None:
    """Return what a record lives on as, by what is known of those that are gone; or none."""
    seen = set()
    current: int | None = record_id
    while current is not None and current in merged_into and current not in seen:
        seen.add(current)
        current = merged_into[current]
    return current
