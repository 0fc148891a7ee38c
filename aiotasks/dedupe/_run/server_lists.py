"""Reads what the server has of tasks, merges and records, a page or a hundred records a call."""

import asyncio
import math
from collections.abc import Iterable, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final

from aiotasks.client import Client
from aiotasks.dedupe._preview import NEWEST
from aiotasks.errors import MergedEntityError, NotFoundError, ValidationError
from aiotasks.models import Kind, MergeTask, TaskStatus

from .indeterminate import RecordStates
from .task_history import Merge, Reading, TaskHistory


# A choice: the API documents no bound for the terms of a filter. Refused ones are halved.
_TASKS_PER_CALL: Final = 25
# A choice: bounds the calls for tasks of others that run for hours.
_OLD_TASKS_PER_READING: Final = 20
# A choice: a server that does not name the survivor of the first few does not name others.
_ASKED_FOR_SURVIVORS: Final = 3


class ServerLists:
    """Reads the server's lists of one kind into a history."""

    def __init__(self, client: Client, kind: Kind, history: TaskHistory) -> None:
        self._service: Any = client.merges_of(kind)
        self._client = client
        self._kind = kind
        self._history = history
        self._loop = asyncio.get_running_loop()
        self._tasks_per_call = _TASKS_PER_CALL
        self._untold = 0.0

    async def read_tasks(self, *, back_to: float) -> int:
        """Read the task list back to the tasks of a time, and return how many it had."""
        reading = Reading(self._history, asked_at=self._loop.time(), back_to=back_to)
        async with aclosing(self._client.tasks.list(self._kind)) as tasks:
            async for task in tasks:
                if not reading.read(task):
                    break
        self._history.apply(reading, now=self._loop.time())
        return len(reading.listed)

    async def newest_tasks(self) -> list[MergeTask]:
        """Return the newest page of the task list."""
        return [task async for task in self._client.tasks.list(self._kind, limit=NEWEST)]

    async def read_open_tasks(self) -> None:
        """Read the tasks that are in progress."""
        reading = Reading(self._history, asked_at=self._loop.time(), back_to=0.0)
        tasks = self._client.tasks.list(self._kind, status=TaskStatus.IN_PROGRESS)
        reading.listed = {task.id: task async for task in tasks}
        self._history.apply(reading, now=self._loop.time())

    async def read_old_tasks(self, task_ids: Iterable[str]) -> None:
        """Read tasks one by one that are in progress, and that the last reading did not reach."""
        old = [self._history.foreign[each] for each in task_ids if each not in self._history.listed]
        for task in [each for each in old if not each.status.is_ended][:_OLD_TASKS_PER_READING]:
            # It may have been deleted: then it has ended, and how is not known.
            with suppress(NotFoundError):
                task.status = (await self._client.tasks.get(self.task_url(task.id))).status

    def task_url(self, task_id: str) -> str:
        """Return the URL of a task."""
        return self._client.tasks.url_of(self._kind, task_id)

    async def name_tasks(self, task_ids: Iterable[str]) -> None:
        """Read the merges of some tasks, many a call."""
        wanted, merges = [*task_ids], list[Merge]()
        while wanted:
            batch = wanted[: self._tasks_per_call]
            urls = [self.task_url(each) for each in batch]
            try:
                async with aclosing(self._service.merges(task_urls=urls)) as found:
                    merges += [merge async for merge in found]
            except ValidationError:
                if len(batch) == 1:
                    raise
                self._tasks_per_call = (len(batch) + 1) // 2
                continue
            del wanted[: len(batch)]
        self._history.name(merges)

    async def missing(self, ids: Sequence[int]) -> set[int]:
        """Return which records do not exist any more."""
        async with aclosing(self._service.records(ids)) as records:
            return {*ids} - {record.profile.id async for record in records}

    async def read_records(self, ids: Iterable[int]) -> RecordStates:
        """Return which records exist, and what became of the others as far as the server tells."""
        asked_at, wanted = self._loop.time(), list(dict.fromkeys(ids))
        present: dict[int, bool | None] = {}
        async with aclosing(self._service.records(wanted)) as records:
            async for record in records:
                present[record.profile.id] = _is_global(record.profile)
        survivors: dict[int, int | None] = {}
        for each in wanted:
            if each not in present and self._untold < _ASKED_FOR_SURVIVORS:
                await self._ask_for_survivor(each, present, survivors)
        return RecordStates(asked_at, present, survivors)

    async def _ask_for_survivor(
        self, record_id: int, present: dict[int, bool | None], survivors: dict[int, int | None]
    ) -> None:
        try:
            record = await self._service.get_record(record_id)
        except MergedEntityError as error:
            survivors[record_id] = error.target_id
            # It tells: it will be asked for the others too, however many it does not know.
            self._untold = -math.inf
        except NotFoundError:
            survivors[record_id] = None
            self._untold += 1
        else:
            present[record_id] = _is_global(record.profile)


def _is_global(profile: Any) -> bool | None:
    # Persons are never global, and have no such field.
    return getattr(profile, "is_global", False)
