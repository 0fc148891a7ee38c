"""The records as merges have left them, at any time up to now."""

from collections import defaultdict
from dataclasses import dataclass

from aiotasks.sandbox._records import COMPANY, Directory, Record


KEPT, HIDDEN, LOCAL_COPY, REPLACED = "kept", "hidden", "local-copy", "replaced"


@dataclass(frozen=True, slots=True)
class Fate:
    """What a merge has made of its records; without an effect, nothing."""

    effect: str | None = None
    can_undo: bool | None = None
    new_id: int | None = None


class Store:
    """The records of one kind. Changes come in the order of their times."""

    def __init__(self, directory: Directory) -> None:
        self.kind = directory.kind
        self.directory = directory
        self._new: dict[int, tuple[float, Record]] = {}
        self._gone: dict[int, tuple[float, int]] = {}
        self._local_since: dict[int, float] = {}
        self._gained: defaultdict[int, list[tuple[float, str]]] = defaultdict(list)
        self._last_id = max(directory.ids, default=0)

    def ids(self) -> list[int] | range:
        """Return the ids of all records that ever were, in order."""
        return [*self.directory.ids, *self._new] if self._new else self.directory.ids

    def heirs(self) -> dict[int, int]:
        """Map each record that is gone to the one that has taken its place."""
        return {record_id: heir for record_id, (_, heir) in self._gone.items()}

    def heir(self, record_id: int, now: float) -> int | None:
        """Return what has taken the place of a record, or None if that is still there."""
        gone_at, heir = self._gone.get(record_id, (now, None))
        return heir if gone_at <= now else None

    def is_there(self, record_id: int, now: float) -> bool:
        """Return whether a record exists, and is not gone."""
        since = self._new[record_id][0] if record_id in self._new else now
        is_known = record_id in self._new or record_id in self.directory
        return is_known and since <= now and self.heir(record_id, now) is None

    def is_global(self, record_id: int, now: float) -> bool:
        """Return whether a record is a company that is shared with other organizations."""
        return (
            self.kind is COMPANY
            and record_id in self.directory.special_ids
            and not self._local_since.get(record_id, now + 1) <= now
        )

    def find(self, record_id: int, now: float) -> Record | None:
        """Return a record as it was, with what it had gained, or None if it never was there."""
        if record_id in self._new:
            since, record = self._new[record_id]
            if now < since:
                return None
            record = record | {self.kind.several: [*record[self.kind.several]]}
        elif record_id in self.directory:
            record = self.directory.record(record_id)
        else:
            return None
        if self.kind is COMPANY:
            record["isGlobal"] = self.is_global(record_id, now)
        record[self.kind.several] += [
            value for since, value in self._gained.get(record_id, ()) if since <= now
        ]
        return record

    def obstacle(self, primary_id: int, duplicate_id: int, now: float) -> str | None:
        """Return why a merge fails at this time, or None if it succeeds."""
        if primary_id == duplicate_id:
            return None
        for role, record_id in (("Primary", primary_id), ("Duplicate", duplicate_id)):
            if not self.is_there(record_id, now):
                return f"{role} {self.kind.name} not found"
        is_internal = self.kind is not COMPANY and duplicate_id in self.directory.special_ids
        return "Internal persons cannot be merged into another one" if is_internal else None

    def merge(self, primary_id: int, duplicate_id: int, now: float) -> Fate:
        """Merge two records, and return what has become of them."""
        if primary_id == duplicate_id:
            return Fate()
        is_global = [self.is_global(each, now) for each in (primary_id, duplicate_id)]
        values, others = (self._values(each, now) for each in (primary_id, duplicate_id))
        gained = [value for value in others if value not in values]
        if is_global[0] and (is_global[1] or gained):
            return self._replace(primary_id, duplicate_id, now, values + gained)
        self._gained[primary_id] += [(now, value) for value in gained]
        _ = self._gone.setdefault(duplicate_id, (now, primary_id))
        if is_global[0]:
            self._local_since[primary_id] = now
            return Fate(LOCAL_COPY, can_undo=False)
        return Fate(HIDDEN, can_undo=False) if is_global[1] else Fate(KEPT, can_undo=True)

    def _replace(self, primary_id: int, duplicate_id: int, now: float, values: list[str]) -> Fate:
        self._last_id += 1
        record = self.find(primary_id, now) or {}
        self._new[self._last_id] = now, {**record, "id": self._last_id, self.kind.several: values}
        for record_id in (primary_id, duplicate_id):
            _ = self._gone.setdefault(record_id, (now, self._last_id))
        return Fate(REPLACED, can_undo=False, new_id=self._last_id)

    def _values(self, record_id: int, now: float) -> list[str]:
        record = self.find(record_id, now)
        return [*record[self.kind.several]] if record else []
