"""From pairs to a plan: which merges are asked for, in which order, and what they will cost."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Final, Self

from msgspec import Struct

from aiotasks._checks import reject, shorten
from aiotasks.errors import PlanError
from aiotasks.models import Kind

from ._input import ParsedPairs, Problem, Source, flaw_of_size, read_pairs, sentences
from ._planner import Planner, PlanRules, plan_rules
from .models import OnConflict, PlannedMerge, Rewrite, Row, SkippedRow


_ID_NAMES = ("primary_id", "duplicate_id")
RECORDS_PER_CALL: Final = 100
# What a merge costs with all looks at its task, as measured by the benchmark of bulk jobs.
CALLS_PER_MERGE: Final = 1.10
# Merges into one record run one after the other.
TYPICAL_MERGE_SECONDS: Final = 20.0


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
    left_out: tuple[SkippedRow, ...]
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
        protect: Iterable[int] = (),
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
            protect: Ids of records that nothing may touch: rows with one of them are left out, before
                anything else is made of them.
            max_cluster: How many records, survivor included, may become one. The rows of a larger
                cluster are left out, all of them.

        Raises:
            PlanError: with all problems, when rows cannot be read or contradict each other.
            OSError: when the file cannot be read.
            ConfigurationError: when a setting cannot be used.
        """
        rules = plan_rules(kind, on_conflict, protect, max_cluster)
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
        protect: Iterable[int] = (),
        max_cluster: int | None = None,
    ) -> Self:
        """Make a plan of pairs (primary id, duplicate id); the other settings are those of ``read``.

        The place of a problem is the number of its pair, from 1.

        Raises:
            PlanError: with all problems, when pairs cannot be used or contradict each other.
            ConfigurationError: when a setting cannot be used.
        """
        return cls._of(plan_rules(kind, on_conflict, protect, max_cluster), _numbered(pairs))

    @classmethod
    def _of(cls, rules: PlanRules, pairs: ParsedPairs) -> Self:
        planner = Planner(pairs.source, rules)
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


def _numbered(pairs: Iterable[tuple[int, int]]) -> ParsedPairs:
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
    return ParsedPairs(source, sha256(text.encode()).hexdigest(), rows, (), problems)


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
