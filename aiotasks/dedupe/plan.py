"""From pairs to a plan: which merges it has, in which order, and what they will cost."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Final, Self, Unpack

from msgspec import Struct

from aiotasks._checks import reject, shorten
from aiotasks.errors import PlanError
from aiotasks.models import Kind

from ._input.columns import InputOptions, check_options
from ._input.ids import flaw_of_size
from ._input.pairs import ParsedPairs, read_pairs
from ._input.places import Problem, Source, sentences
from ._planner import Planner, PlanRules, plan_rules
from .models import OnConflict, PlannedMerge, Rewrite, Row, SkippedRow


_ID_NAMES = ("primary_id", "duplicate_id")
RECORDS_PER_CALL: Final = 100
# Measured by the benchmark of bulk jobs: a merge with all polls of its task.
CALLS_PER_MERGE: Final = 1.10
# Seconds of a merge, of which those into one record run one after the other. A choice: the median
# of the benchmarks' servers, as the API documents none.
TYPICAL_MERGE_SECONDS: Final = 20.0


class Cost(Struct, frozen=True, kw_only=True):
    """An estimate of what a plan will cost.

    ``month_share`` is the share of the organization's monthly quota, 1.0 for all of it; ``None`` if
    the quota is not known.
    """

    calls: int
    minutes: float
    month_share: float | None


class Plan(Struct, frozen=True, kw_only=True):
    """The merges of an input: each duplicate is merged once, into a record that survives.

    ``merges`` are in the order in which they are to be started. ``rewrites`` lists the rows that
    the plan changes: those that repeat an earlier row, and those whose primary is itself a
    duplicate, so that they are merged into its survivor. ``left_out`` lists the rows that it skips.
    Each of the ``rows`` that were read is a merge, skipped, or a repetition. ``digest`` is the
    SHA-256 of the input, ``columns`` names the further columns of its rows. With
    ``no_new_company`` the preview leaves out the merges that would make a new company.

    ``unit`` is what ``line`` of a row counts: lines, rows of a sheet, or pairs. ``separator`` is
    that of CSV, ``None`` for others. ``understood`` says in sentences how columns and clusters were
    understood that have other names than ours.
    """

    kind: Kind
    source: str
    digest: str
    columns: tuple[str, ...]
    merges: tuple[PlannedMerge, ...]
    left_out: tuple[SkippedRow, ...]
    rewrites: tuple[Rewrite, ...]
    rows: int
    no_new_company: bool = False
    unit: str = "line"
    separator: str | None = None
    understood: tuple[str, ...] = ()

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
        no_new_company: bool = False,
        **options: Unpack[InputOptions],
    ) -> Self:
        """Make a plan from CSV, JSON lines or, with the extra ``excel``, a workbook.

        The columns are ``primary_id`` and ``duplicate_id``, or the API's ``primaryCompanyId`` and
        so on, in any order; the usual names of other tools are understood too, and listed in
        ``understood``. Other columns are kept for the report. CSV may have commas, semicolons,
        tabs or bars. Ids may be links to records.

        Clusters have a row for each record; pairs without a direction are connected to clusters.
        Who survives is never guessed: ``keep`` says it.

        Args:
            file: A path, or a file opened for reading bytes, which is left open.
            kind: ``"company"`` or ``"person"``.
            source: The name of the input in problems; its path or name by default.
            on_conflict: How to handle rows that contradict earlier ones, with two primaries of one
                duplicate or with a cycle: ``"refuse"`` raises, ``"first"`` skips them.
            protect: Ids of records that must not be merged, in either role: rows with one of them
                are skipped before clusters are made.
            max_cluster: How many records, including the survivor, may become one. Larger clusters
                are skipped as a whole.
            no_new_company: Whether merges that would replace both companies by a new one, or
                might, are refused. Only their records tell, so the preview decides. Persons are
                never replaced.
            sheet: The name of a workbook's sheet; its first by default.
            primary_column: The name of the column with the records that survive.
            duplicate_column: The name of the column with those that are merged into them.
            cluster_column: The name of the column that tells which rows are of one cluster.
            id_column: The name of the column with the records of clusters.
            keep: Who survives of a cluster: ``"first"`` in the input, ``"lowest"`` id, or the
                record with the highest number, or the only mark (``x``, ``yes``, ``true``) in the
                column of this name, or whose id that column has in all rows of the cluster.

        Raises:
            PlanError: with all problems, when rows cannot be read or contradict each other.
            OSError: when the file cannot be read.
            ConfigurationError: when a setting cannot be used.
        """
        rules = plan_rules(kind, on_conflict, protect, max_cluster, no_new_company=no_new_company)
        check_options(options)
        if isinstance(file, str | os.PathLike):
            name, content = os.fspath(file), Path(file).read_bytes()
        else:
            # A file opened by its descriptor has that number as its name.
            named = getattr(file, "name", None)
            name, content = named if isinstance(named, str) else "input", b"".join(file)
        pairs = read_pairs(
            content, kind=kind, source=source or name, options=options, protect=rules.protect
        )
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
        no_new_company: bool = False,
    ) -> Self:
        """Make a plan from pairs (primary id, duplicate id); the settings are those of ``read``.

        The place of a problem is the number of its pair, from 1.

        Raises:
            PlanError: with all problems, when pairs cannot be used or contradict each other.
            ConfigurationError: when a setting cannot be used.
        """
        rules = plan_rules(kind, on_conflict, protect, max_cluster, no_new_company=no_new_company)
        return cls._of(rules, _numbered(pairs))

    @classmethod
    def _of(cls, rules: PlanRules, pairs: ParsedPairs) -> Self:
        planner = Planner(pairs.source, rules)
        planner.add_rows(pairs.rows)
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
            no_new_company=rules.no_new_company,
            unit=pairs.source.unit,
            separator=pairs.separator,
            understood=pairs.understood,
        )

    @property
    def fingerprint(self) -> str:
        """The hex SHA-256 of the plan's kind, its rule for new companies, and its merges in order."""
        digest = sha256(f"{self.kind}\n".encode())
        if self.no_new_company:
            digest.update(b"no new company\n")
        for merge in self.merges:
            digest.update(f"{merge.primary_id},{merge.duplicate_id}\n".encode())
        return digest.hexdigest()

    @property
    def record_ids(self) -> tuple[int, ...]:
        """The ids of all records of ``merges``, each once, in their order."""
        ids = ((merge.primary_id, merge.duplicate_id) for merge in self.merges)
        return tuple(dict.fromkeys(chain.from_iterable(ids)))

    def cost(self, *, limit: int, month_limit: int | None) -> Cost:
        """Estimate the calls and minutes of the plan: preview, merges and polls of their tasks.

        Args:
            limit: The calls that the rate limit allows a minute.
            month_limit: The organization's monthly quota of calls, or ``None`` if not known.

        Raises:
            ConfigurationError: when ``limit`` is not 1 or more.
        """
        if limit < 1:
            reject(f"limit must be 1 or more, not {shorten(limit)}")
        pages = math.ceil(len(self.record_ids) / RECORDS_PER_CALL)
        # Rounded first, since 1.1 times 10 is a little more than 11.
        calls = pages + math.ceil(round(len(self.merges) * CALLS_PER_MERGE, 6))
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
