"""Tables as files: lines of CSV and of JSON, and workbooks."""

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from importlib import import_module
from typing import Any, Final, Self

import msgspec

from aiotasks._checks import reject
from aiotasks._text import json_text, without_controls


BOM: Final = "\ufeff"
"""What begins CSV for people: spreadsheets take other files for text of an older encoding."""

# Cells that begin like this run as formulas, unless they are numbers with a sign; the last four
# are full-width. See
# https://owasp.org/www-community/attacks/CSV_Injection.
_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)*%?", re.ASCII)
# What spreadsheets take: see
# https://support.microsoft.com/en-us/office/excel-specifications-and-limits-1672b34d-7043-467e-8e27-269d656771c3.
_MOST_ROWS: Final = 2**20 - 1
_LONGEST_CELL: Final = 32_767
_LONGEST_SHOWN: Final = 60


def csv_line(cells: Sequence[object], separator: str = ",") -> str:
    """Return a line of CSV in which no cell is a formula, or has control characters."""
    line = io.StringIO()
    # With this end, cells that contain either of its two characters are quoted.
    csv.writer(line, lineterminator="\r\n", delimiter=separator).writerow(
        ["" if cell is None else escape_formula(without_controls(str(cell))) for cell in cells]
    )
    return line.getvalue().removesuffix("\r\n") + "\n"


def json_line(row: Mapping[str, Any]) -> str:
    """Return a line of JSON, with what could steer or fool a terminal escaped."""
    return json_text(msgspec.json.encode(row)) + "\n"


def escape_formula(text: str) -> str:
    """Return a cell that no spreadsheet runs as a formula."""
    is_formula = _FORMULA.match(text) and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


class WorkbookWriter:
    """A workbook of one sheet: numbers as numbers, times as times in UTC, all else as text.

    A text is never run as a formula, so that it stays as it is. Rows are kept on disk until the
    context is left.

    Raises:
        ConfigurationError: when the extra ``excel`` is not installed, or there are too many rows.
    """

    def __init__(self, title: str, columns: Sequence[str], times: Collection[str] = ()) -> None:
        try:
            xlsxwriter = import_module("xlsxwriter")
        except ImportError:
            reject("a workbook needs the extra excel: install affinity-aiotasks[excel]")
        self._content = io.BytesIO()
        self._book = xlsxwriter.Workbook(self._content, {"constant_memory": True})
        self._sheet = self._book.add_worksheet(title)
        self._time = self._book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
        self._columns = columns
        self._times = times
        self._widths = [len(name) for name in columns]
        self._rows = 0
        self._sheet.freeze_panes(1, 0)
        bold = self._book.add_format({"bold": True})
        for index, name in enumerate(columns):
            self._sheet.write_string(0, index, name, bold)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._book.fileclosed:
            self._book.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row."""
        self._rows += 1
        if self._rows > _MOST_ROWS:
            reject(f"a sheet has at most {_MOST_ROWS:,} rows: write CSV instead")
        for index, name in enumerate(self._columns):
            if (cell := row.get(name)) is not None:
                shown = self._write(index, name, cell)
                self._widths[index] = max(self._widths[index], shown)

    def _write(self, index: int, name: str, cell: Any) -> int:
        if isinstance(cell, int):
            self._sheet.write_number(self._rows, index, cell)
        elif name in self._times:
            time = datetime.fromisoformat(cell).replace(tzinfo=None)
            self._sheet.write_datetime(self._rows, index, time, self._time)
        else:
            text = without_controls(str(cell))[:_LONGEST_CELL]
            self._sheet.write_string(self._rows, index, text)
        return len(str(cell))

    def content(self) -> bytes:
        """Return the whole file."""
        for index, width in enumerate(self._widths):
            self._sheet.set_column(index, index, min(width, _LONGEST_SHOWN) + 2)
        self._sheet.autofilter(0, 0, self._rows, len(self._columns) - 1)
        self._book.close()
        return self._content.getvalue()
