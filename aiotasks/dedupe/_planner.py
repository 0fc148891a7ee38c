"""From rows to merges: clusters and their survivors, repetitions, conflicts, skipped rows."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple, get_args

from aiotasks._checks import known_kind, reject, shorten
from aiotasks.models import Kind

from ._input.places import Problem, Source
from .models import OnConflict, PlannedMerge, Rewrite, Row, SkippedRow


_SMALLEST_CLUSTER = 2


class PlanRules(NamedTuple):
    """How a plan treats its rows; see ``Plan.read``."""

    kind: Kind
    on_conflict: OnConflict
    protect: frozenset[int]
    max_cluster: float
    no_new_company: bool


def plan_rules(
    kind: Kind,
    on_conflict: OnConflict,
    protect: Iterable[int],
    max_cluster: int | None,
    *,
    no_new_company: bool,
) -> PlanRules:
    """Check the settings of a plan.

    Raises:
        ConfigurationError: when one of them cannot be used.
    """
    _ = known_kind(kind)
    if on_conflict not in get_args(OnConflict):
        reject(f"{shorten(on_conflict)} is not a rule for conflicts: it is refuse or first")
    if max_cluster is not None and max_cluster < _SMALLEST_CLUSTER:
        reject(f"max_cluster counts the survivor too: give 2 or more, not {shorten(max_cluster)}")
    protected = frozenset(map(_protected, protect))
    # Persons are never replaced, so that for them it makes no difference, nor another plan.
    is_ruled_out = no_new_company and kind == "company"
    return PlanRules(kind, on_conflict, protected, max_cluster or math.inf, is_ruled_out)


def _protected(record_id: object) -> int:
    # Rows have whole numbers, so the text "5" would silently protect no record.
    if not isinstance(record_id, int):
        reject(f"protect takes ids, which are whole numbers, not {shorten(record_id)}")
    return record_id


class _Clusters:
    """Which records become one, as a union-find forest of the rows so far."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self._above: dict[int, int] = {}

    def add(self, row: Row) -> None:
        self.rows[row.duplicate_id] = row
        self._above[row.duplicate_id] = row.primary_id

    def survivor(self, record_id: int) -> int:
        above = self._above
        while (parent := above.get(record_id)) is not None:
            # Path halving: without it, a chain of n rows costs n steps for each of them.
            above[record_id] = record_id = above.get(parent, parent)
        return record_id


class Planner:
    """Decides about each row, in steps that are called in their order."""

    def __init__(self, source: Source, rules: PlanRules) -> None:
        self._source = source
        self._rules = rules
        self._clusters = _Clusters()
        self._merged: list[Row] = []
        self._repeated: list[Row] = []
        self._rivals: list[Row] = []
        self._closing: list[Row] = []
        self._left_out: list[SkippedRow] = []

    def add_rows(self, rows: Iterable[Row]) -> None:
        others: list[Row] = []
        for row in rows:
            if touched := self._rules.protect & {row.primary_id, row.duplicate_id}:
                ids = " and ".join(map(str, sorted(touched)))
                self._leave_out(row, f"{ids} may not be merged (protect)")
            elif row.duplicate_id in self._clusters.rows:
                others.append(row)
            elif self._clusters.survivor(row.primary_id) == row.duplicate_id:
                self._closing.append(row)
            else:
                self._clusters.add(row)
                self._merged.append(row)
        # After all rows: two primaries of one duplicate agree if later rows merge them.
        for row in others:
            is_same = self._survivor(row) == self._clusters.survivor(row.primary_id)
            (self._repeated if is_same else self._rivals).append(row)

    def conflicts(self) -> list[Problem]:
        rivals: dict[int, list[Row]] = {}
        for row in self._rivals:
            first = self._clusters.rows[row.duplicate_id]
            rivals.setdefault(row.duplicate_id, [first]).append(row)
        return [
            *(
                self._conflict(rows, "different primaries of one duplicate")
                for rows in rivals.values()
            ),
            *(self._conflict(rows, "these form a cycle") for rows in self._cycles()),
        ]

    def _cycles(self) -> list[list[Row]]:
        cycles: list[list[Row]] = []
        cycle_of: dict[int, list[Row]] = {}
        # Cycles that share rows are one problem. With the latest first, an earlier cycle that meets
        # a known row shares all the rest of its path, so that no row is visited twice.
        for closing in reversed(self._closing):
            rows, record_id = [closing], closing.primary_id
            while record_id != closing.duplicate_id and record_id not in cycle_of:
                rows.append(self._clusters.rows[record_id])
                record_id = rows[-1].primary_id
            if record_id == closing.duplicate_id:
                cycles.append(cycle := [])
            else:
                cycle = cycle_of[record_id]
            cycle += rows
            cycle_of.update((row.duplicate_id, cycle) for row in rows[1:])
        return [sorted(rows, key=attrgetter("line")) for rows in cycles]

    def _conflict(self, rows: Sequence[Row], what: str) -> Problem:
        each = ", ".join(
            f"{row.duplicate_id} into {row.primary_id} ({self._unit(row)})" for row in rows
        )
        advice = "remove what is wrong, or let the first rows count (--on-conflict first)"
        line = rows[0].line
        return Problem(line, f"{self._source.at(line)}: {what}: {each}: {advice}")

    def leave_out_conflicts(self) -> None:
        for row in self._rivals:
            self._leave_out(row, self._contradicted(row.duplicate_id))
        for row in self._closing:
            end = row.duplicate_id
            is_direct = self._clusters.rows[row.primary_id].primary_id == end
            detour = "" if is_direct else f", and so in the end into {end}"
            self._leave_out(row, self._contradicted(row.primary_id) + detour)

    def _contradicted(self, record_id: int) -> str:
        row = self._clusters.rows[record_id]
        return f"contradicts {self._unit(row)}, which merges {record_id} into {row.primary_id}"

    def leave_out_large_clusters(self) -> None:
        most = self._rules.max_cluster
        merged = Counter(map(self._survivor, self._merged))
        large = {survivor: count + 1 for survivor, count in merged.items() if count + 1 > most}
        for row in [*self._merged, *self._repeated]:
            if (survivor := self._survivor(row)) in large:
                cluster = f"its cluster has {large[survivor]} records ({survivor} survives)"
                self._leave_out(row, f"{cluster}, more than {most}")
        self._merged = [row for row in self._merged if self._survivor(row) not in large]
        self._repeated = [row for row in self._repeated if self._survivor(row) not in large]

    def merges(self) -> tuple[PlannedMerge, ...]:
        left = Counter(map(self._survivor, self._merged))
        ranked: list[tuple[int, PlannedMerge]] = []
        for row in self._merged:
            survivor = self._survivor(row)
            left[survivor] -= 1
            merge = PlannedMerge(primary_id=survivor, duplicate_id=row.duplicate_id, row=row)
            ranked.append((left[survivor], merge))
        # Merges into one record run one after the other, so the longest chain of them starts first.
        # Equal ones stay in the order of their lines: sorting is stable.
        ranked.sort(key=lambda each: -each[0])
        return tuple(merge for _, merge in ranked)

    def rewrites(self) -> tuple[Rewrite, ...]:
        rewrites = [Rewrite(row=row, text=self._repetition(row)) for row in self._repeated]
        for row in self._merged:
            if (survivor := self._survivor(row)) != row.primary_id:
                above = self._unit(self._clusters.rows[row.primary_id])
                text = f"is merged into {survivor}, since {row.primary_id} is a duplicate itself ({above})"
                rewrites.append(Rewrite(row=row, text=text))
        return tuple(sorted(rewrites, key=lambda rewrite: rewrite.row.line))

    def _repetition(self, row: Row) -> str:
        first = self._clusters.rows[row.duplicate_id]
        if row.primary_id == first.primary_id:
            return f"repeats {self._unit(first)}"
        return (
            f"has the same effect as {self._unit(first)}: "
            f"{row.duplicate_id} ends in {self._survivor(row)} either way"
        )

    def left_out(self) -> tuple[SkippedRow, ...]:
        return tuple(sorted(self._left_out, key=lambda left: left.row.line))

    def _leave_out(self, row: Row, reason: str) -> None:
        self._left_out.append(SkippedRow(row=row, reason=reason))

    def _survivor(self, row: Row) -> int:
        return self._clusters.survivor(row.duplicate_id)

    def _unit(self, row: Row) -> str:
        return f"{self._source.unit} {row.line}"
