"""The life cycle of merges, computed from the time that is passed in; there is no clock here."""

import uuid
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from aiotasks.sandbox._filters import Filter
from aiotasks.sandbox._pages import Cursor, Matches, Page, cut
from aiotasks.sandbox._records import Directory, Kind, Record, Suggestion
from aiotasks.sandbox._reply import Problem


Draw = float | tuple[float, float] | Callable[[Random], float]
Pair = tuple[int, int]
IN_PROGRESS, SUCCESS, FAILED = "in-progress", "success", "failed"
REASONS = (
    "The two profiles could not be merged because of conflicting field values",
    "The merge took too long and was stopped",
    "The duplicate profile is locked by another operation",
    "An unexpected error occurred while merging",
)


def draw(source: Draw, random: Random) -> float:
    """Take one number from a setting that may be fixed, a range or a function."""
    if callable(source):
        return source(random)
    if isinstance(source, tuple):
        return random.uniform(*source)
    return source


@dataclass(kw_only=True)
class MergeSettings:
    """How merges run by default."""

    duration: Draw = 2.0
    failure_rate: float = 0.0
    list_lag: float = 0.0
    task_lag: float = 0.0
    exclusive_primary: bool = False


@dataclass(slots=True, eq=False)
class Merge:
    """The merge of one record into another."""

    id: int
    task: "Task"
    primary_id: int
    duplicate_id: int
    started: float
    ends: float
    outcome: str
    reason: str | None

    def status(self, now: float) -> str:
        return IN_PROGRESS if now < self.ends else self.outcome

    def has_happened(self, now: float) -> bool:
        return self.status(now) == SUCCESS


@dataclass(slots=True, eq=False)
class Task:
    """A batch of merges, mostly of one."""

    number: int
    id: str
    started: float
    merges: list[Merge] = field(default_factory=list)
    shown: str | None = None

    def status(self, now: float) -> str:
        return self.shown or _sum_up([merge.status(now) for merge in self.merges])

    def view(self, now: float) -> dict[str, Any]:
        statuses = [merge.status(now) for merge in self.merges]
        return {
            "id": self.id,
            "status": self.shown or _sum_up(statuses),
            "resultsSummary": {
                "total": len(statuses),
                "inProgress": statuses.count(IN_PROGRESS),
                "success": statuses.count(SUCCESS),
                "failed": statuses.count(FAILED),
            },
        }


def _sum_up(statuses: list[str]) -> str:
    """Return the status of a batch: one success is enough, once nothing is in progress."""
    for status in (IN_PROGRESS, SUCCESS, FAILED):
        if status in statuses:
            return status
    return statuses[0]


class State:
    """All merges and tasks of one kind of record."""

    def __init__(
        self, kind: Kind, directory: Directory, *, settings: MergeSettings, random: Random
    ) -> None:
        self.kind = kind
        self.directory = directory
        self.posted: Counter[Pair] = Counter()
        self.tasks: list[Task] = []
        self.task_by_id: dict[str, Task] = {}
        self.merges: list[Merge] = []
        self._settings = settings
        self._random = random
        self._last_of_duplicate: dict[int, Merge] = {}
        self._of_primary: dict[int, list[Merge]] = {}

    # Requests that change something

    def post(self, primary_id: int, duplicate_id: int, now: float) -> Task:
        """Accept a merge as the API does: refuse what cannot begin, let the rest run."""
        if primary_id == duplicate_id:
            raise Problem(422, f"A {self.kind.name} cannot be merged with itself.")
        self._refuse_gone(primary_id, duplicate_id, now=now)
        self._refuse_busy(primary_id, duplicate_id, now)
        self.posted[primary_id, duplicate_id] += 1
        return self.start(primary_id, duplicate_id, now)

    def start(
        self,
        primary_id: int,
        duplicate_id: int,
        now: float,
        *,
        duration: Draw | None = None,
        outcome: str | None = None,
        reason: str | None = None,
        task: Task | None = None,
    ) -> Task:
        """Start a merge, whatever the records are doing."""
        task = task or self._open_task(now)
        seconds = draw(self._settings.duration if duration is None else duration, self._random)
        drawn, drawn_reason = self._draw_outcome(primary_id, duplicate_id)
        outcome = outcome or (FAILED if reason else drawn)
        if outcome == FAILED:
            reason = reason or drawn_reason or self._random.choice(REASONS)
        merge = Merge(
            id=len(self.merges) + 1,
            task=task,
            primary_id=primary_id,
            duplicate_id=duplicate_id,
            started=now,
            ends=now + seconds,
            outcome=outcome,
            reason=reason,
        )
        self._add(merge)
        return task

    def finish(self, task: Task, now: float, *, outcome: str, reason: str | None) -> None:
        for merge in task.merges:
            if merge.status(now) == IN_PROGRESS:
                merge.ends, merge.outcome = now, outcome
                merge.reason = reason or REASONS[0] if outcome == FAILED else reason

    # Requests that read

    def task(self, task_id: str, now: float) -> Task:
        task = self.task_by_id.get(task_id)
        if task is None or now < task.started + self._settings.task_lag:
            raise Problem(404, f"There is no {self.kind.name} merge task {task_id}.")
        return task

    def merge(self, merge_id: int) -> Merge:
        if merge_id > len(self.merges):
            raise Problem(404, f"There is no {self.kind.name} merge {merge_id}.")
        return self.merges[merge_id - 1]

    def task_page(
        self, now: float, *, limit: int, cursor: Cursor | None, where: Filter | None
    ) -> Page:
        def item(number: int) -> dict[str, str]:
            return {"status": self.tasks[number - 1].status(now)}

        order = self._newest_first(self.tasks, now)
        return cut(order, limit=limit, cursor=cursor, matches=_matches(where, item))

    def merge_page(
        self, now: float, *, limit: int, cursor: Cursor | None, where: Filter | None
    ) -> Page:
        def item(number: int) -> dict[str, str]:
            merge = self.merges[number - 1]
            return {"status": merge.status(now), "taskId": merge.task.id}

        order: Sequence[int] = self._newest_first(self.merges, now)
        task_ids = where.values("taskId") if where else None
        if task_ids is not None:
            order = sorted(self._numbers_of(task_ids, visible=len(order)), reverse=True)
        return cut(order, limit=limit, cursor=cursor, matches=_matches(where, item))

    def record(self, record_id: int, now: float) -> Record:
        """Return a record with what was merged into it."""
        self._refuse_gone(record_id, now=now)
        if record_id not in self.directory:
            raise Problem(404, f"There is no {self.kind.name} {record_id}.")
        record = self.directory.record(record_id)
        several = "domains" if "domains" in record else "emailAddresses"
        for other in self._absorbed(record_id, now):
            gained = self.directory.record(other)[several]
            record[several] += [value for value in gained if value not in record[several]]
        return record

    def is_gone(self, record_id: int, now: float) -> bool:
        merge = self._last_of_duplicate.get(record_id)
        return merge is not None and merge.has_happened(now)

    def is_open(self, suggestion: Suggestion, now: float) -> bool:
        """Return whether both records of a suggestion exist and take part in no merge."""
        return not any(
            self.is_gone(record_id, now) or self._is_leaving(record_id, now)
            for record_id in (suggestion.primary_id, suggestion.duplicate_id)
        )

    def merged(self, now: float) -> dict[int, int]:
        return {
            merge.duplicate_id: merge.primary_id for merge in self.merges if merge.has_happened(now)
        }

    # Internals

    def _open_task(self, now: float) -> Task:
        task_id = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        task = Task(number=len(self.tasks) + 1, id=task_id, started=now)
        self.tasks.append(task)
        self.task_by_id[task_id] = task
        return task

    def _add(self, merge: Merge) -> None:
        merge.task.merges.append(merge)
        self.merges.append(merge)
        self._last_of_duplicate[merge.duplicate_id] = merge
        self._of_primary.setdefault(merge.primary_id, []).append(merge)

    def _draw_outcome(self, primary_id: int, duplicate_id: int) -> tuple[str, str | None]:
        for role, record_id in (("Primary", primary_id), ("Duplicate", duplicate_id)):
            if record_id not in self.directory:
                return FAILED, f"{role} {self.kind.name} not found"
        if self._random.random() < self._settings.failure_rate:
            return FAILED, self._random.choice(REASONS)
        return SUCCESS, None

    def _refuse_gone(self, *record_ids: int, now: float) -> None:
        for record_id in record_ids:
            if self.is_gone(record_id, now):
                heir = self._last_of_duplicate[record_id].primary_id
                raise Problem(
                    422, f"{record_id} no longer exists as it has been merged into {heir}"
                )

    def _refuse_busy(self, primary_id: int, duplicate_id: int, now: float) -> None:
        if (
            self._is_leaving(primary_id, now)
            or self._is_leaving(duplicate_id, now)
            or self._is_receiving(duplicate_id, now)
            or (self._settings.exclusive_primary and self._is_receiving(primary_id, now))
        ):
            message = f"A merge of {primary_id} or {duplicate_id} is already in progress."
            raise Problem(409, message)

    def _is_leaving(self, record_id: int, now: float) -> bool:
        merge = self._last_of_duplicate.get(record_id)
        return merge is not None and merge.status(now) == IN_PROGRESS

    def _is_receiving(self, record_id: int, now: float) -> bool:
        merges = self._of_primary.get(record_id, ())
        return any(merge.status(now) == IN_PROGRESS for merge in merges)

    def _absorbed(self, record_id: int, now: float) -> list[int]:
        found = [record_id]
        for heir in found:
            for merge in self._of_primary.get(heir, ()):
                other = merge.duplicate_id
                if merge.has_happened(now) and other in self.directory and other not in found:
                    found.append(other)
        return found[1:]

    def _newest_first(self, items: Sequence[Task] | Sequence[Merge], now: float) -> range:
        lag = self._settings.list_lag
        visible = bisect_right(items, now - lag, key=_started) if lag else len(items)
        return range(visible, 0, -1)

    def _numbers_of(self, task_ids: set[str], *, visible: int) -> Iterator[int]:
        for task_id in task_ids:
            if task := self.task_by_id.get(task_id):
                yield from (merge.id for merge in task.merges if merge.id <= visible)


def _matches(where: Filter | None, item: Callable[[int], Mapping[str, str]]) -> Matches | None:
    return None if where is None else lambda number: where.matches(item(number))


def _started(item: Task | Merge) -> float:
    return item.started
