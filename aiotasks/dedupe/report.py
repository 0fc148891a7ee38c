"""Reports of how each pair ended, for spreadsheets and for programs."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from aiotasks._text import iso_time

from ._effects import Effect, effect_of_pair
from ._new_companies import read_new_ids
from ._outlook import read_outlook
from ._preview import Preview, label_of
from ._tables import WorkbookWriter, csv_line, json_line
from .ledger import LedgerReader
from .models import REPORT_COLUMNS, Pair, PairState


ReportFormat = Literal["csv", "jsonl"]

# A choice: as many names as are worth holding in memory at a time.
_BATCH: Final = 500
TIMES: Final = ("planned_at", "sending_at", "started_at", "ended_at")
"""The columns of times in UTC."""


async def report_lines(
    ledger: LedgerReader,
    *states: PairState,
    format: ReportFormat = "csv",  # noqa: A002
) -> AsyncIterator[str]:
    """Yield a report line by line, with one row for each pair.

    A row has the pair's ids, the further columns of the input, the names of both records before
    the merge, the state with its reason, the effect of a merge that was made or is to come, who can
    undo it, the new company's id if it has made one and the API names it, the server's id of the
    merge, and the times of the transitions. A report can be used as input. CSV has the separator of
    the job's input if that was CSV, otherwise commas; cells that a spreadsheet would run as formulas
    begin with an apostrophe, and control characters are replaced. In JSON, these are escaped, as are
    those that turn the direction of text. All else stays as it is. A file of CSV for spreadsheets
    has to begin with a byte order mark, which is not among the lines.

    Args:
        ledger: An open ledger.
        states: Only pairs in these states; all pairs if there are none.
        format: ``"csv"`` with a header, or ``"jsonl"``, one object a line.

    Raises:
        NoJobError: when the ledger has no job.
        LedgerError: when the file cannot be read.
    """
    columns = report_columns(ledger.require_job().columns)
    separator = (await ledger.notes()).get("separator", ",")
    if format == "csv":
        yield csv_line(columns, separator)
    async for row in report_rows(ledger, *states):
        if format == "csv":
            yield csv_line([row.get(column) for column in columns], separator)
        else:
            yield json_line(row)


async def report_workbook(ledger: LedgerReader, *states: PairState) -> bytes:
    """Return a report as a workbook, with numbers, times in UTC, and widths. It needs ``excel``.

    It is work for the processor, of seconds for 10,000 pairs, for which the event loop waits.

    Raises:
        NoJobError: when the ledger has no job.
        LedgerError: when the file cannot be read.
        ConfigurationError: when the extra is not installed, or there are more pairs than a sheet
            can have rows.
    """
    columns = report_columns(ledger.require_job().columns)
    with WorkbookWriter("Report", columns, TIMES) as writer:
        async for row in report_rows(ledger, *states):
            writer.add(row)
        return writer.content()


async def snapshot_lines(ledger: LedgerReader) -> AsyncIterator[str]:
    """Yield the snapshot of each record from before its merge, as JSON lines.

    Raises:
        NoJobError: when the ledger has no job.
        LedgerError: when the file cannot be read.
    """
    kind = ledger.require_job().kind
    async for record_id, json in ledger.snapshots():
        yield json_line({"kind": kind, "id": record_id, "record": msgspec.Raw(json)})


def report_columns(further: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of a report; ``further`` are those of the input."""
    return ("primary_id", "duplicate_id", *further, *REPORT_COLUMNS)


async def report_rows(ledger: LedgerReader, *states: PairState) -> AsyncGenerator[dict[str, Any]]:
    """Yield the rows of a report; those that have no value in a column may be without it."""
    kind = ledger.require_job().kind
    outlook, new_ids = await read_outlook(ledger), read_new_ids(await ledger.notes())
    pairs = await ledger.pairs(*states)
    for start in range(0, len(pairs), _BATCH):
        batch = pairs[start : start + _BATCH]
        records = await ledger.records(
            [each for pair in batch for each in (pair.primary_id, pair.duplicate_id)]
        )
        names = {each: label_of(kind, json) for each, json in records.items()}
        for pair in batch:
            yield _row(pair, names, effect_of_pair(pair, outlook), new_ids)


async def plan_rows(preview: Preview) -> AsyncGenerator[dict[str, Any]]:
    """Yield what the report of a job would be before its first merge."""
    plan = preview.plan
    names = {each: label_of(plan.kind, json) for each, json in preview.records.items()}
    for pair in _planned(preview):
        yield _row(pair, names, effect_of_pair(pair, preview.outlook), {})


def _planned(preview: Preview) -> Iterator[Pair]:
    findings = {transition.number: transition for transition in preview.findings(0.0)}
    number = 0
    for number, merge in enumerate(preview.plan.merges, 1):
        asked = merge.row.primary_id
        pair = Pair(
            number=number,
            line=merge.row.line,
            primary_id=merge.primary_id,
            duplicate_id=merge.duplicate_id,
            state=PairState.PLANNED,
            asked_primary_id=None if asked == merge.primary_id else asked,
            extra=merge.row.extra,
        )
        found = findings.get(number)
        known = {} if found is None else {"state": found.state, "reason": found.reason}
        yield msgspec.structs.replace(pair, **known)
    for skipped, left in enumerate(preview.plan.left_out, number + 1):
        yield Pair(
            number=skipped,
            line=left.row.line,
            primary_id=left.row.primary_id,
            duplicate_id=left.row.duplicate_id,
            state=PairState.REFUSED,
            is_planned=False,
            extra=left.row.extra,
            reason=left.reason,
        )


def _row(
    pair: Pair, names: Mapping[int, str], effect: Effect | None, new_ids: Mapping[int, int | None]
) -> dict[str, Any]:
    return {
        "primary_id": pair.primary_id,
        "duplicate_id": pair.duplicate_id,
        **pair.extra,
        "primary_name": names.get(pair.primary_id),
        "duplicate_name": names.get(pair.duplicate_id),
        "state": pair.state,
        "reason": pair.reason,
        "effect": effect,
        "undo": None if effect is None else effect.undo,
        "new_id": new_ids.get(pair.number),
        "merge_id": pair.merge_id,
        "task_url": pair.task_url,
        "line": pair.line,
        "asked_primary_id": pair.asked_primary_id,
        **{name: iso_time(getattr(pair, name)) for name in TIMES},
    }
