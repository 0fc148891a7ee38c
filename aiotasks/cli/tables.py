"""Tables on standard output or in a file, in the format that is asked for."""

import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import typer

from aiotasks.dedupe._tables import BOM, WorkbookWriter, csv_line, json_line
from aiotasks.dedupe.report import TIMES

from .command import fail
from .output import print_bytes, print_data


TableFormat: TypeAlias = Literal["csv", "jsonl", "xlsx"]
_ENDINGS = {"htm": "html", "ndjson": "jsonl", "json": "jsonl"}
# What is written into such a file would not be what its name says.
_NOT_WRITTEN = {"xls": "xlsx", "xlsm": "xlsx", "ods": "xlsx", "pdf": "html"}
FormatOption = Annotated[
    TableFormat | None,
    typer.Option("--format", help="How it is written.", show_default="as --output ends, or csv"),
]
Bom = Annotated[
    bool,
    typer.Option(
        "--bom/--no-bom",
        help="Begin CSV in files and pipes with a byte order mark, as spreadsheets need it.",
    ),
]


def format_of(given: str | None, output: Path | None, *others: str, otherwise: str = "csv") -> str:
    """Return the format of what is written: as given, or as the file's name says."""
    ending = "" if output is None else output.suffix.lstrip(".").lower()
    if instead := _NOT_WRITTEN.get(ending):
        fail(f"Nothing is written as {ending}: give an --output that ends in .{instead}.")
    ending = _ENDINGS.get(ending, ending)
    is_known = ending in {*get_args(TableFormat), *others}
    found = given or (ending if is_known else otherwise)
    if found == "xlsx" and (output is None or str(output) == "-") and sys.stdout.isatty():
        fail("A workbook is nothing to show on a terminal: give --output FILE.")
    return found


async def print_table(
    columns: Sequence[str],
    rows: AsyncGenerator[Mapping[str, Any]],
    format_: str,
    *,
    separator: str = ",",
    bom: bool = True,
    title: str = "Report",
) -> int:
    """Write a table, and return how many rows it has."""
    if format_ == "xlsx":
        return await _print_workbook(title, columns, rows)
    if format_ == "csv":
        # A terminal would show the mark, or fail at it.
        mark = BOM if bom and not sys.stdout.isatty() else ""
        print_data(mark + csv_line(columns, separator))
    count = 0
    async with aclosing(rows):
        async for row in rows:
            count += 1
            cells = [row.get(name) for name in columns]
            print_data(csv_line(cells, separator) if format_ == "csv" else json_line(row))
    return count


async def _print_workbook(
    title: str, columns: Sequence[str], rows: AsyncGenerator[Mapping[str, Any]]
) -> int:
    count = 0
    with WorkbookWriter(title, columns, TIMES) as writer:
        async with aclosing(rows):
            async for row in rows:
                writer.add(row)
                count += 1
        print_bytes(writer.content())
    return count
