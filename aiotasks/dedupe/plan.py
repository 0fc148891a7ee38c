"""From pairs to a plan: which merges are asked for, in which order, and what they will cost."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Final, NamedTuple, Self, get_args

from msgspec import Struct

from aiotasks._checks import reject, shorten
from aiotasks.errors import PlanError
from aiotasks.models import Kind

from ._pairs import Pairs, Problem, Source, flaw_of_size, read_pairs, sentences
from .models import LeftOut, OnConflict, PlannedMerge, Rewrite, Row


_ID_NAMES = ("primary_id", "duplicate_id")
RECORDS_PER_CALL: Final = 100
# What a merge costs with all looks at its task, as measured by the benchmark of bulk jobs.
CALLS_PER_MERGE: Final = 1.10
# Merges into one record run one after the other.
TYPICAL_MERGE_SECONDS: Final = 20.0
_SMALLEST_CLUSTER = 2


class Cost(Struct, frozen=True, kw_only=True):
    """What a plan will cost, about.

    ``month_share`` is the share of the organization's month, 1.0 for all of it; ``None`` where its
    limit is not known.
    """

    calls: int
    minutes: float
    month_share: float | None


class Plan(Struct, frozen=True, kw_only=True):
    """Pairs that were understood: each duplicate is merged once, into a record that survives.

    ``merges`` are in the order in which they are to be started. Rows that a plan takes otherwise
    than they are written are listed in ``rewrites``: those that repeat an earlier row, and merges
    whose primary is itself a duplicate and that therefore go into its survivor. So each of the
    ``rows`` that were read is a merge, or left out, or a repetition. ``digest`` is the SHA-256 of
    the input, ``columns`` names the further columns of its rows.
    """

    kind: Kind
    source: str
    digest: str
    columns: tuple[str, ...]
    merges: tuple[PlannedMerge, ...]
    left_out: tuple[LeftOut, ...]
    rewrites: tuple[Rewrite, ...]
    rows: int

    def __repr__(self) -> str:
        return (
            f"<Plan of {self.source}: {len(self.merges)} {self.kind} merges, "
            f"{len(self.left_out)} rows left out>"
        )

    @classmethod
    def read(
        cls,
        file: str | os.PathLike[str] | Iterable[bytes],
        *,
        kind: Kind,
        source: str | None = None,
        on_conflict: OnConflict = "refuse",
        never: Iterable[int] = (),
        max_cluster: int | None = None,
    ) -> Self:
        """Make a plan of a CSV file or of JSON lines, read line by line.

        The columns are ``primary_id`` and ``duplicate_id``, or the API's ``primaryCompanyId`` and
        so on, in any order and among others, which are kept. CSV has commas, semicolons or tabs.

        Args:
            file: A path, or a file opened for reading bytes, which is left open.
            kind: ``"company"`` or ``"person"``.
            source: What problems call the input; its path or name by default.
            on_conflict: What becomes of rows that contradict earlier ones, by two primaries of one
                duplicate or by a circle: ``"refuse"`` raises, ``"first"`` leaves them out.
            never: Ids of records that nothing may touch: rows with one of them are left out, before
                anything else is made of them.
            max_cluster: How many records, survivor included, may become one. The rows of a larger
                cluster are left out, all of them.

        Raises:
            PlanError: with all problems, when rows cannot be read or contradict each other.
            OSError: when the file cannot be read.
            ConfigurationError: when a setting cannot be used.
        """
        rules = _rules(kind, on_conflict, never, max_cluster)
        if isinstance(file, str | os.PathLike):
            with Path(file).open("rb") as opened:
                pairs = read_pairs(opened, kind=kind, source=source or os.fspath(file))
        else:
            name = source or getattr(file, "name", None)
            # What is opened by a descriptor has a number for its name.
            pairs = read_pairs(file, kind=kind, source=name if isinstance(name, str) else "input")
        return cls._of(rules, pairs)

    @classmethod
    def of(
        cls,
        pairs: Iterable[tuple[int, int]],
        *,
        kind: Kind,
        on_conflict: OnConflict = "refuse",
        never: Iterable[int] = (),
        max_cluster: int | None = None,
    ) -> Self:
        """Make a plan of pairs (primary id, duplicate id); the other settings are those of ``read``.

        The place of a problem is the number of its pair, from 1.

        Raises:
            PlanError: with all problems, when pairs cannot be used or contradict each other.
            ConfigurationError: when a setting cannot be used.
        """
        return cls._of(_rules(kind, on_conflict, never, max_cluster), _numbered(pairs))

    @classmethod
    def _of(cls, rules: "_Rules", pairs: Pairs) -> Self:
        planner = _Planner(pairs.source, rules)
        planner.understand(pairs.rows)
        problems = [*pairs.problems]
        if rules.on_conflict == "refuse":
            problems += planner.conflicts()
        if problems:
            raise PlanError(pairs.source.name, sentences(problems))
        planner.leave_out_conflicts()
        planner.leave_out_large_clusters()
        return cls(
            kind=rules.kind,
            source=pairs.source.name,
            digest=pairs.digest,
            columns=pairs.columns,
            merges=planner.merges(),
            left_out=planner.left_out(),
            rewrites=planner.rewrites(),
            rows=len(pairs.rows),
        )

    @property
    def fingerprint(self) -> str:
        """What a plan does, as a hex SHA-256: that of its kind and its merges in their order."""
        digest = sha256(f"{self.kind}\n".encode())
        for merge in self.merges:
            digest.update(f"{merge.primary_id},{merge.duplicate_id}\n".encode())
        return digest.hexdigest()

    @property
    def record_ids(self) -> tuple[int, ...]:
        """The ids of all records of ``merges``, each once, in the order in which they come."""
        ids = ((merge.primary_id, merge.duplicate_id) for merge in self.merges)
        return tuple(dict.fromkeys(chain.from_iterable(ids)))

    def cost(self, *, limit: int, month_limit: int | None) -> Cost:
        """Return what the plan costs: its preview, and its merges with all looks at their tasks.

        Args:
            limit: How many calls a minute takes.
            month_limit: How many the organization's month takes, where that is known.

        Raises:
            ConfigurationError: when ``limit`` is not 1 or more.
        """
        if limit < 1:
            reject(f"limit must be 1 or more, not {shorten(limit)}")
        looks = math.ceil(len(self.record_ids) / RECORDS_PER_CALL)
        # Rounded first, since 1.1 times 10 is a little more than 11.
        calls = looks + math.ceil(round(len(self.merges) * CALLS_PER_MERGE, 6))
        in_a_row = max(Counter(merge.primary_id for merge in self.merges).values(), default=0)
        return Cost(
            calls=calls,
            minutes=max(calls / limit, in_a_row * TYPICAL_MERGE_SECONDS / 60),
            month_share=calls / month_limit if month_limit else None,
        )


class _Rules(NamedTuple):
    kind: Kind
    on_conflict: OnConflict
    never: frozenset[int]
    max_cluster: float


def _rules(
    kind: Kind, on_conflict: OnConflict, never: Iterable[int], max_cluster: int | None
) -> _Rules:
    if kind not in get_args(Kind):
        reject(f"{shorten(kind)} is not a kind: it is company or person")
    if on_conflict not in get_args(OnConflict):
        reject(f"{shorten(on_conflict)} is not a rule for conflicts: it is refuse or first")
    if max_cluster is not None and max_cluster < _SMALLEST_CLUSTER:
        reject(f"max_cluster counts the survivor too: give 2 or more, not {shorten(max_cluster)}")
    return _Rules(kind, on_conflict, frozenset(map(_protected, never)), max_cluster or math.inf)


def _protected(record_id: object) -> int:
    # The text "5" would protect nothing.
    if not isinstance(record_id, int):
        reject(f"never takes ids, which are whole numbers, not {shorten(record_id)}")
    return record_id


def _numbered(pairs: Iterable[tuple[int, int]]) -> Pairs:
    source = Source("the pairs", "pair")
    rows, problems = list[Row](), list[Problem]()
    for number, pair in enumerate(pairs, 1):
        flaws = _flaws_of(pair)
        problems += [Problem(number, source.at(number) + flaw) for flaw in flaws]
        if not flaws:
            rows.append(Row(line=number, primary_id=pair[0], duplicate_id=pair[1]))
    if not rows and not problems:
        problems.append(Problem(0, "There is no pair: give at least one."))
    text = "".join(f"{row.primary_id},{row.duplicate_id}\n" for row in rows)
    return Pairs(source, sha256(text.encode()).hexdigest(), rows, (), problems)


def _flaws_of(pair: object) -> list[str]:
    if not isinstance(pair, Sequence) or len(pair) != len(_ID_NAMES):
        return [f": {shorten(pair)} is not a pair of ids"]
    flaws: list[str] = []
    for name, value in zip(_ID_NAMES, pair, strict=True):
        if not isinstance(value, int) or isinstance(value, bool):
            flaws.append(f", {name}: {shorten(value)} is not a whole number")
        elif flaw := flaw_of_size(value):
            flaws.append(f", {name}: it {flaw}")
    if not flaws and pair[0] == pair[1]:
        flaws.append(f": primary and duplicate are the same record, {pair[0]}")
    return flaws


class _Clusters:
    """Which records become one, as far as rows are taken in."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self._above: dict[int, int] = {}

    def take(self, row: Row) -> None:
        self.rows[row.duplicate_id] = row
        self._above[row.duplicate_id] = row.primary_id

    def survivor(self, record_id: int) -> int:
        above = self._above
        while (parent := above.get(record_id)) is not None:
            # Each walk halves its way, so that nobody goes the whole of a long chain again.
            above[record_id] = record_id = above.get(parent, parent)
        return record_id


class _Planner:
    """Decides what becomes of each row, in steps that are called in their order."""

    def __init__(self, source: Source, rules: _Rules) -> None:
        self._source = source
        self._rules = rules
        self._clusters = _Clusters()
        self._merged: list[Row] = []
        self._repeated: list[Row] = []
        self._rivals: list[Row] = []
        self._closing: list[Row] = []
        self._left_out: list[LeftOut] = []

    def understand(self, rows: Iterable[Row]) -> None:
        others: list[Row] = []
        for row in rows:
            if touched := self._rules.never & {row.primary_id, row.duplicate_id}:
                ids = " and ".join(map(str, sorted(touched)))
                self._leave_out(row, f"{ids} may not be touched (never)")
            elif row.duplicate_id in self._clusters.rows:
                others.append(row)
            elif self._clusters.survivor(row.primary_id) == row.duplicate_id:
                self._closing.append(row)
            else:
                self._clusters.take(row)
                self._merged.append(row)
        # Two primaries of one duplicate are no contradiction where later rows make them one.
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
            *(self._conflict(rows, "these go in a circle") for rows in self._circles()),
        ]

    def _circles(self) -> list[list[Row]]:
        circles: list[list[Row]] = []
        circle_of: dict[int, list[Row]] = {}
        # Circles that share rows are one problem. With the latest first, what an earlier one shares
        # is all the rest of its way, so that no row is walked twice.
        for closing in reversed(self._closing):
            rows, record_id = [closing], closing.primary_id
            while record_id != closing.duplicate_id and record_id not in circle_of:
                rows.append(self._clusters.rows[record_id])
                record_id = rows[-1].primary_id
            if record_id == closing.duplicate_id:
                circles.append(circle := [])
            else:
                circle = circle_of[record_id]
            circle += rows
            circle_of.update((row.duplicate_id, circle) for row in rows[1:])
        return [sorted(rows, key=attrgetter("line")) for rows in circles]

    def _conflict(self, rows: Sequence[Row], what: str) -> Problem:
        each = ", ".join(
            f"{row.duplicate_id} into {row.primary_id} ({self._unit(row)})" for row in rows
        )
        advice = "take out what is wrong, or let the first rows count (--on-conflict first)"
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
        # Merges into one record follow each other, so the longest row of them has to begin first.
        # What is equal stays in the order of its lines.
        ranked.sort(key=lambda each: -each[0])
        return tuple(merge for _, merge in ranked)

    def rewrites(self) -> tuple[Rewrite, ...]:
        rewrites = [Rewrite(row=row, text=self._repetition(row)) for row in self._repeated]
        for row in self._merged:
            if (survivor := self._survivor(row)) != row.primary_id:
                above = self._unit(self._clusters.rows[row.primary_id])
                text = (
                    f"goes into {survivor}, since {row.primary_id} is merged away itself ({above})"
                )
                rewrites.append(Rewrite(row=row, text=text))
        return tuple(sorted(rewrites, key=lambda rewrite: rewrite.row.line))

    def _repetition(self, row: Row) -> str:
        first = self._clusters.rows[row.duplicate_id]
        if row.primary_id == first.primary_id:
            return f"repeats {self._unit(first)}"
        return (
            f"says the same as {self._unit(first)}: "
            f"{row.duplicate_id} ends in {self._survivor(row)} either way"
        )

    def left_out(self) -> tuple[LeftOut, ...]:
        return tuple(sorted(self._left_out, key=lambda left: left.row.line))

    def _leave_out(self, row: Row, reason: str) -> None:
        self._left_out.append(LeftOut(row=row, reason=reason))

    def _survivor(self, row: Row) -> int:
        return self._clusters.survivor(row.duplicate_id)

    def _unit(self, row: Row) -> str:
        return f"{self._source.unit} {row.line}"
