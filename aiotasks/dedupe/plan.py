"""From pairs to a plan: which merges it has, in which order, and what they will cost."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Final, Self, Unpack

from msgspec import Struct

from aiotasks._checks import reject, shorten
from aiotasks._text import duration, duration_range
from aiotasks.errors import PlanError
from aiotasks.models import Kind

from . import _forecast
from ._durations import TYPICAL, Lognormal, fit
from ._input.columns import InputOptions, check_options
from ._input.ids import flaw_of_size
from ._input.pairs import ParsedPairs, read_pairs
from ._input.places import Problem, Source, sentences
from ._planner import Planner, PlanRules, plan_rules
from .models import OnConflict, PlannedMerge, Rewrite, Row, SkippedRow
from .settings import JobSettings


_ID_NAMES = ("primary_id", "duplicate_id")
RECORDS_PER_CALL: Final = 100
# The preview reads the newest tasks and merges, and a run whose key it is, the open and the newest
# tasks.
_CALLS_BEFORE: Final = 5
# By simulation of default jobs: half of the first batch has succeeded a little after the median.
_OPENS_AFTER: Final = 1.15
# Measured with default jobs: the share of the median after which the end of a merge is known.
_KNOWN_AFTER: Final = 0.35
# The chance that a job is over within the fewest, the typical and the most minutes.
_SHARES: Final = (0.1, 0.5, 0.9)
# Choices: from how many merges on the time is shown as one number, and what clusters may add to it.
_MANY: Final = 1000
_LONGER: Final = 1.1


class Cost(Struct, frozen=True, kw_only=True):
    """An estimate of what a plan will cost with default settings, if no other program uses the key.

    How long the last merge takes decides when a job is over, and is not known before: half of
    all such jobs take ``minutes`` or less, and eight of ten between ``fewest_minutes`` and
    ``most_minutes``. ``month_share`` is the share of the organization's monthly quota, 1.0 for all
    of it; ``None`` if the quota is not known. ``in_a_row`` is how many merges into one record run one
    after the other, if that makes the job longer. ``is_assumed`` means that nothing was known of
    how long merges take.
    """

    merges: int
    calls: int
    minutes: float
    fewest_minutes: float
    most_minutes: float
    month_share: float | None
    in_a_row: int | None
    is_assumed: bool

    @property
    def time(self) -> str:
        """How long the job takes, as text: below 1,000 merges a range."""
        if self.merges >= _MANY:
            return f"about {duration(self.minutes * 60)}"
        return duration_range(self.fewest_minutes * 60, self.most_minutes * 60)

    @property
    def notes(self) -> list[str]:
        """What the estimate rests on, and what the defaults mean, in sentences."""
        notes: list[str] = []
        if self.merges and self.is_assumed:
            notes.append(
                f"Nothing is known of the server: {TYPICAL.median:.0f} s a merge are assumed."
            )
        if self.in_a_row is not None:
            notes.append(f"Up to {self.in_a_row:,} merges into one record run one after the other.")
        return notes


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
            cluster_column: The name of the column that says which rows are of one cluster.
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

    def cost(self, *, limit: int, month_limit: int | None, durations: Sequence[float] = ()) -> Cost:
        """Estimate the calls and minutes of the plan: preview, merges and polls of their tasks.

        Args:
            limit: The calls that the rate limit allows a minute.
            month_limit: The organization's monthly quota of calls, or ``None`` if not known.
            durations: The seconds that merges took lately, as a preview has them. With fewer than
                five, merges are assumed to take 20 s in the median.

        Raises:
            ConfigurationError: when ``limit`` is not 1 or more.
        """
        if limit < 1:
            reject(f"limit must be 1 or more, not {shorten(limit)}")
        lengths = Counter(Counter(merge.primary_id for merge in self.merges).values())
        durations_of = fit(durations) or TYPICAL
        fewest, typical, most = _minutes(lengths, durations_of, limit)
        calls = self._calls(lengths, durations_of) if lengths else 0
        apart = _minutes({1: len(self.merges)}, durations_of, limit)[1]
        return Cost(
            merges=len(self.merges),
            calls=calls,
            fewest_minutes=fewest,
            minutes=typical,
            most_minutes=most,
            month_share=calls / month_limit if month_limit else None,
            in_a_row=max(lengths) if typical > _LONGER * apart else None,
            is_assumed=fit(durations) is None,
        )

    def _calls(self, lengths: Mapping[int, int], durations: Lognormal) -> int:
        merges, records = len(self.merges), len(self.record_ids)
        # The ids of the merges are read at the end, and records before, a hundred a call.
        pages = math.ceil(records / RECORDS_PER_CALL) + math.ceil(merges / RECORDS_PER_CALL)
        return _CALLS_BEFORE + pages + merges + _forecast.polls(lengths, durations)


def _minutes(lengths: Mapping[int, int], durations: Lognormal, limit: int) -> tuple[float, ...]:
    """Return by when a default job is over, with a small, an even and a high chance."""
    if not any(lengths.values()):
        return (0.0, 0.0, 0.0)
    batches = _forecast.batches(
        lengths,
        _forecast.Limits.of(limit),
        first=JobSettings().canary,
        opens_at=_OPENS_AFTER * durations.median,
    )
    pause = _KNOWN_AFTER * durations.median
    return tuple(_forecast.ends_by(batches, durations, pause, each) / 60.0 for each in _SHARES)


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
