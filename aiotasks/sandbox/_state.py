"""The life cycle of merges, computed from the time that is passed in; there is no clock here."""

import math
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import Any

from aiotasks.sandbox._filters import Filter
from aiotasks.sandbox._pages import Cursor, Key, Page, cut
from aiotasks.sandbox._records import Kind, Record, Suggestion
from aiotasks.sandbox._reply import Problem
from aiotasks.sandbox._store import Fate, Store


Draw = float | tuple[float, float] | Callable[[Random], float]
Pair = tuple[int, int]
GONE = 422
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
    checks_posts: bool = False
    exclusive_primary: bool = False
    rows_for_global: bool = False
    task_lag: Draw = (0.0, 2.0)
    task_lag_share: float = 0.3
    empty_share: float = 0.01
    list_lag: Draw = 0.0
    unlisted_share: float = 0.0
    list_shuffle: float = 0.0
    record_lag: float = 0.0
    gone_status: int = 404


@dataclass(slots=True, eq=False)
class Merge:
    """The merge of one record into another, whose outcome and fate are decided when it ends."""

    id: int
    task: "Task"
    primary_id: int
    duplicate_id: int
    started: float
    ends: float
    outcome: str | None
    reason: str | None
    is_foreign: bool
    place: float
    fate: Fate | None = None

    @property
    def listed(self) -> float:
        return self.task.listed

    def status(self, now: float) -> str:
        return IN_PROGRESS if now < self.ends or self.outcome is None else self.outcome


@dataclass(slots=True, eq=False)
class Task:
    """A batch of merges, mostly of one; times say from when on it can be read and is listed."""

    id: str
    readable: float
    listed: float
    place: float
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
    """All merges and tasks of one kind of record. Times never go back from call to call."""

    def __init__(self, kind: Kind, store: Store, *, settings: MergeSettings, seed: str) -> None:
        self.kind = kind
        self.store = store
        self.posted: Counter[Pair] = Counter()
        self.tasks: list[Task] = []
        self.task_by_id: dict[str, Task] = {}
        self.merges: list[Merge] = []
        self._settings = settings
        # The same seed has to give the same numbers; delays change none of the other ones.
        self._random = Random(seed)  # noqa: S311 - as said above
        self._delays = Random(f"{seed} delays")  # noqa: S311 - as said above
        self._is_in_order = True
        self._undecided: list[tuple[float, int, Merge]] = []
        self._leaving: Counter[int] = Counter()
        self._receiving: Counter[int] = Counter()

    # Requests that change something

    def post(self, primary_id: int, duplicate_id: int, now: float) -> Task:
        """Accept a merge; where requests are checked, refuse what cannot begin."""
        self.decide(now)
        if self._settings.checks_posts:
            self._check(primary_id, duplicate_id, now)
        self.posted[primary_id, duplicate_id] += 1
        return self.start(primary_id, duplicate_id, now, is_foreign=False)

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
        is_foreign: bool = True,
    ) -> Task:
        """Start a merge, whatever the records are doing."""
        task = task or self._open_task(now)
        seconds = draw(self._settings.duration if duration is None else duration, self._random)
        is_unlucky = self._random.random() < self._settings.failure_rate
        if outcome is None and (reason or is_unlucky):
            outcome = FAILED
        if outcome == FAILED:
            reason = reason or self._random.choice(REASONS)
        merge = Merge(
            id=len(self.merges) + 1,
            task=task,
            primary_id=primary_id,
            duplicate_id=duplicate_id,
            started=now,
            ends=now + seconds,
            outcome=outcome,
            reason=reason,
            is_foreign=is_foreign,
            place=self._draw_place(len(self.merges) + 1),
        )
        task.merges.append(merge)
        self.merges.append(merge)
        self._leaving[duplicate_id] += 1
        self._receiving[primary_id] += 1
        heappush(self._undecided, (merge.ends, merge.id, merge))
        return task

    def finish(self, task: Task, now: float, *, outcome: str, reason: str | None) -> None:
        self.decide(now)
        for merge in task.merges:
            if merge.fate is None:
                merge.ends, merge.outcome = now, outcome
                merge.reason = reason or REASONS[0] if outcome == FAILED else reason
                heappush(self._undecided, (now, merge.id, merge))
        self.decide(now)

    def decide(self, now: float) -> None:
        """Decide the fates of the merges that have ended, in the order of their ends."""
        while self._undecided and self._undecided[0][0] <= now:
            merge = heappop(self._undecided)[-1]
            if merge.fate is None:
                self._decide(merge)

    # Requests that read

    def task(self, task_id: str, now: float) -> Task:
        self.decide(now)
        task = self.task_by_id.get(task_id)
        if task is None or now < task.readable:
            raise Problem(404, f"There is no {self.kind.name} merge task {task_id}.")
        return task

    def is_answer_empty(self) -> bool:
        """Draw whether an answer about a task has no body."""
        return self._delays.random() < self._settings.empty_share

    def merge(self, merge_id: int, now: float) -> Merge:
        self.decide(now)
        if merge_id > len(self.merges) or not self._has_row(self.merges[merge_id - 1], now):
            raise Problem(404, f"There is no {self.kind.name} merge {merge_id}.")
        return self.merges[merge_id - 1]

    def task_page(
        self, now: float, *, limit: int, cursor: Cursor | None, where: Filter | None
    ) -> Page:
        def status(number: int) -> dict[str, str]:
            return {"status": self.tasks[number - 1].status(now)}

        self.decide(now)
        order, key = self._newest_first(self.tasks, now)
        matches = None if where is None else lambda number: where.matches(status(number))
        return cut(order, limit=limit, cursor=cursor, key=key, matches=matches)

    def merge_page(
        self, now: float, *, limit: int, cursor: Cursor | None, where: Filter | None
    ) -> Page:
        def matches(number: int) -> bool:
            merge = self.merges[number - 1]
            item = {"status": merge.status(now), "taskId": merge.task.id}
            return self._has_row(merge, now) and (where is None or where.matches(item))

        self.decide(now)
        order, key = self._newest_first(self.merges, now)
        task_ids = where.values("taskId") if where else None
        if task_ids is not None:
            listed = order if isinstance(order, range) else {*order}
            named = [number for number in self._numbers_of(task_ids) if number in listed]
            order = sorted(named, key=key, reverse=True)
        return cut(order, limit=limit, cursor=cursor, key=key, matches=matches)

    def record(self, record_id: int, now: float) -> Record:
        """Return a record with what was merged into it."""
        seen = self._seen(now)
        heir = self.store.heir(record_id, seen)
        if heir is not None and self._settings.gone_status == GONE:
            raise self._gone(record_id, heir)
        record = self.store.find(record_id, seen) if heir is None else None
        if record is None:
            raise Problem(404, f"There is no {self.kind.name} {record_id}.")
        return record

    def is_there(self, record_id: int, now: float) -> bool:
        """Return whether a record can be read."""
        return self.store.is_there(record_id, self._seen(now))

    def is_open(self, suggestion: Suggestion, now: float) -> bool:
        """Return whether both records of a suggestion exist and take part in no merge."""
        return all(
            self.is_there(record_id, now) and not self._leaving[record_id]
            for record_id in (suggestion.primary_id, suggestion.duplicate_id)
        )

    # Internals

    def _open_task(self, now: float) -> Task:
        settings, number = self._settings, len(self.tasks) + 1
        is_late = self._delays.random() < settings.task_lag_share
        is_listed = self._delays.random() >= settings.unlisted_share
        list_lag = draw(settings.list_lag, self._delays) if is_listed else math.inf
        task = Task(
            id=str(uuid.UUID(int=self._random.getrandbits(128), version=4)),
            readable=now + draw(settings.task_lag, self._delays) * is_late,
            listed=now + list_lag,
            place=self._draw_place(number),
        )
        self._is_in_order &= not list_lag
        self.tasks.append(task)
        self.task_by_id[task.id] = task
        return task

    def _draw_place(self, number: int) -> float:
        if not self._settings.list_shuffle:
            return number
        self._is_in_order = False
        return number + self._delays.uniform(0, self._settings.list_shuffle)

    def _check(self, primary_id: int, duplicate_id: int, now: float) -> None:
        if primary_id == duplicate_id:
            raise Problem(422, f"A {self.kind.name} cannot be merged with itself.")
        for record_id in (primary_id, duplicate_id):
            if (heir := self.store.heir(record_id, now)) is not None:
                raise self._gone(record_id, heir)
        if (
            self._leaving[primary_id]
            or self._leaving[duplicate_id]
            or self._receiving[duplicate_id]
            or (self._settings.exclusive_primary and self._receiving[primary_id])
        ):
            message = f"A merge of {primary_id} or {duplicate_id} is already in progress."
            raise Problem(409, message)

    def _gone(self, record_id: int, heir: int) -> Problem:
        return Problem(GONE, f"{record_id} no longer exists as it has been merged into {heir}")

    def _decide(self, merge: Merge) -> None:
        ids = merge.primary_id, merge.duplicate_id
        self._receiving[merge.primary_id] -= 1
        self._leaving[merge.duplicate_id] -= 1
        if merge.outcome is None:
            merge.reason = self.store.obstacle(*ids, merge.ends)
            merge.outcome = FAILED if merge.reason else SUCCESS
        merge.fate = self.store.merge(*ids, merge.ends) if merge.outcome == SUCCESS else Fate()

    def _has_row(self, merge: Merge, now: float) -> bool:
        return self._settings.rows_for_global or not (
            self.store.is_global(merge.primary_id, now)
            or self.store.heir(merge.primary_id, now) is not None
        )

    def _seen(self, now: float) -> float:
        """Return the time whose records are shown now."""
        self.decide(now)
        return now - self._settings.record_lag

    def _newest_first(
        self, items: Sequence[Task] | Sequence[Merge], now: float
    ) -> tuple[Sequence[int], Key]:
        """Return the numbers of what is listed, and by what they are ordered."""

        def key(number: int) -> float:
            return items[number - 1].place if number <= len(items) else number

        order = range(len(items), 0, -1)
        if self._is_in_order:
            return order, key
        listed = [number for number in order if items[number - 1].listed <= now]
        return sorted(listed, key=key, reverse=True), key

    def _numbers_of(self, task_ids: Iterable[str]) -> Iterator[int]:
        for task_id in task_ids:
            if task := self.task_by_id.get(task_id):
                yield from (merge.id for merge in task.merges)
