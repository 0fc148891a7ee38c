"""Reports of how each pair ended, for spreadsheets and for programs."""

import csv
import io
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from aiotasks._text import iso_time, json_text, without_controls

from ._effects import Effect, effect_of_pair
from ._new_companies import read_new_ids
from ._outlook import read_outlook
from ._preview import label_of
from .ledger import LedgerReader
from .models import REPORT_COLUMNS, Pair, PairState


ReportFormat = Literal["csv", "jsonl"]

# A choice: as many names as are worth holding in memory at a time.
_BATCH: Final = 500
# Cells that begin like this run as formulas, unless they are numbers with a sign; the last four
# are full-width. See
# https://owasp.org/www-community/attacks/CSV_Injection.
_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)*%?", re.ASCII)
_TIMES = ("planned_at", "sending_at", "started_at", "ended_at")


async def report_lines(
    ledger: LedgerReader,
    *states: PairState,
    format: ReportFormat = "csv",  # noqa: A002
) -> AsyncIterator[str]:
    """Yield a report line by line, with one row for each pair.

    A row has the pair's ids, the further columns of the input, the names of both records before
    <<<<<<< HEAD
    the merge, the state with its reason, the effect of a merge that was made or is to come, who can
    undo it, the new company's id if it has made one and the API names it, the server's id of the
    merge, and the times of the transitions. A report can be used as input. In CSV, cells that a
    spreadsheet would run as formulas begin with an apostrophe.
    =======
    the merge, the state with its reason, the server's id of the merge, and the times of the
    transitions. A report can be used as input. In CSV, cells that a spreadsheet would run as
    formulas begin with an apostrophe, and control characters are replaced; in JSON, these are
    escaped, as are those that turn the direction of text. All else stays as it is.
    >>>>>>> 8589d71 (wip exit codes)

    Args:
        ledger: An open ledger.
        states: Only pairs in these states; all pairs if there are none.
        format: ``"csv"`` with a header, or ``"jsonl"``, one object a line.

    Raises:
        NoJobError: when the ledger has no job.
        LedgerError: when the file cannot be read.
    """
    job = ledger.require_job()
    columns = ("primary_id", "duplicate_id", *job.columns, *REPORT_COLUMNS)
    if format == "csv":
        yield csv_line(columns)
    outlook, new_ids = await read_outlook(ledger), read_new_ids(await ledger.notes())
    pairs = await ledger.pairs(*states)
    for start in range(0, len(pairs), _BATCH):
        batch = pairs[start : start + _BATCH]
        records = await ledger.records(
            [each for pair in batch for each in (pair.primary_id, pair.duplicate_id)]
        )
        names = {each: label_of(job.kind, json) for each, json in records.items()}
        for pair in batch:
            row = _row(pair, names, effect_of_pair(pair, outlook), new_ids)
            if format == "csv":
                yield csv_line([row.get(column) for column in columns])
            else:
                yield json_text(msgspec.json.encode(row)) + "\n"


async def snapshot_lines(ledger: LedgerReader) -> AsyncIterator[str]:
    """Yield the snapshot of each record from before its merge, as JSON lines.

    Raises:
        NoJobError: when the ledger has no job.
        LedgerError: when the file cannot be read.
    """
    kind = ledger.require_job().kind
    async for record_id, json in ledger.snapshots():
        line = {"kind": kind, "id": record_id, "record": msgspec.Raw(json)}
        yield json_text(msgspec.json.encode(line)) + "\n"


def escape_formula(text: str) -> str:
    """Return a cell that no spreadsheet runs as a formula."""
    is_formula = _FORMULA.match(text) and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


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
        **{name: iso_time(getattr(pair, name)) for name in _TIMES},
    }


def csv_line(cells: Sequence[object]) -> str:
    """Return a line of CSV in which no cell is a formula, or has control characters."""
    line = io.StringIO()
    # With this end, cells that contain either of its two characters are quoted.
    csv.writer(line, lineterminator="\r\n").writerow(
        ["" if cell is None else escape_formula(without_controls(str(cell))) for cell in cells]
    )
    return line.getvalue().removesuffix("\r\n") + "\n"
