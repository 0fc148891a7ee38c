"""Tables of text cells, from CSV, JSON lines or a workbook, each row with its place."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

from . import json_lines, workbook
from .ids import TRIMMED, Form
from .places import Problem, Source
from .text import is_workbook, text_of


# A choice: how much of a header is parsed for the separator. A csv cell has at most 131,072.
_LONGEST = 100_000
_SEPARATORS: Final = ",;\t|"
# Spreadsheets write and read such a first line. One that was saved again has empty cells after it.
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\r\n])"?\1*[ \t]*[\r\n]*', re.IGNORECASE)

Names: TypeAlias = tuple[str, ...]
Fitness: TypeAlias = Callable[[Sequence[str]], int]
"""How many columns of a header are understood."""


class TableRow(NamedTuple):
    """A row: its line, the names of its columns, and their cells, of which the last may be missing."""

    line: int
    names: Names
    cells: Sequence[str]


class Table(NamedTuple):
    """The rows of an input, and the problems that are known once they are read.

    ``separator`` is that of CSV. ``note`` says which sheet is read, if there are others. ``links``
    are formulas in workbooks, by row and column.
    """

    source: Source
    form: Form
    digest: str
    header: TableRow | None
    rows: Iterable[TableRow]
    problems: list[Problem]
    separator: str | None = None
    note: str | None = None
    links: Mapping[tuple[int, int], str] = {}

    def id_cell(self, row: TableRow, index: int) -> str:
        """Return the cell of an id: the formula of a link, of which cells show only the label."""
        if self.links and (link := self.links.get((row.line, index))) is not None:
            return link
        return row.cells[index] if index < len(row.cells) else ""


def read_table(content: bytes, source: str, *, sheet: str | None, fitness: Fitness) -> Table:
    """Find the kind of a file, and its rows; ``fitness`` decides which separator a CSV has."""
    digest = sha256(content).hexdigest()
    if is_workbook(content):
        return _of_workbook(content, source, sheet, digest)
    place = Source(source)
    text, problems = text_of(content, place)
    if sheet is not None and not problems:
        problems.append(Problem(0, f"{source}: it is no workbook, so it has no sheet {sheet!r}"))
    first = text.lstrip()[:1]
    if first not in {"{", "["}:
        return _of_csv(text, place, digest, problems, fitness)
    rows = json_lines.rows_of(text, place, problems)
    header = next(rows, None)
    table = Table(place, "json", digest, None, (), problems)
    if header is None:
        return table
    named = (TableRow(line, names, cells) for line, names, cells in chain([header], rows))
    return table._replace(header=TableRow(*header), rows=named)


def _of_workbook(content: bytes, source: str, sheet: str | None, digest: str) -> Table:
    found = workbook.read_sheet(content, source, sheet)
    place = Source(source, "row", found.name or None)
    table = Table(
        place, "workbook", digest, None, (), found.problems, note=found.note, links=found.links
    )
    linked = {line for line, _ in found.links}
    rows = (
        (line, cells) for line, cells in found.rows if line in linked or any(map(str.strip, cells))
    )
    return _with_header(table, rows)


def _of_csv(
    text: str, place: Source, digest: str, problems: list[Problem], fitness: Fitness
) -> Table:
    declared = _SEPARATOR_LINE.match(text)
    separator = declared[1] if declared else _separator(text, fitness)
    table = Table(place, "csv", digest, None, (), problems, separator)
    known = len(problems)
    table = _with_header(
        table, _csv_rows(table, text, separator, 0 if declared is None else declared.end())
    )
    # The row after a header that cannot be read is no header.
    return table if len(problems) == known else table._replace(header=None, rows=())


def _separator(text: str, fitness: Fitness) -> str:
    # Names may contain other separators: the right one is that which finds the most id columns.
    header = next(filter(str.strip, io.StringIO(text, newline="")), "")[:_LONGEST]

    def fits(separator: str) -> tuple[int, int]:
        names = next(csv.reader([header], delimiter=separator), [])
        return fitness([name.strip() for name in names]), len(names)

    return max(_SEPARATORS, key=fits)


def _has_space_before_quotes(text: str, separator: str) -> bool:
    if f"{separator} " not in text and not text.startswith(" ") and "\n " not in text:
        return False
    # Two quotes may be one within quoted text, which does not begin a cell.
    pattern = f'(?:^|{re.escape(separator)}) +"(?!")'
    return re.search(pattern, text, re.MULTILINE) is not None


def _csv_rows(
    table: Table, text: str, separator: str, begin: int
) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(
        io.StringIO(text[begin:], newline=""),
        delimiter=separator,
        strict=True,
        skipinitialspace=_has_space_before_quotes(text, separator),
    )
    # The line that tells the separator counts too.
    skipped = 1 if begin else 0
    while True:
        line = reader.line_num + 1 + skipped
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            flaw = _flaw_of_csv(error, line, reader.line_num + skipped)
            table.problems.append(Problem(line, table.source.at(line) + flaw))
            continue
        if any(map(str.strip, cells)):
            yield line, cells


def _with_header(table: Table, rows: Iterator[tuple[int, list[str]]]) -> Table:
    first = next(rows, None)
    if first is None:
        return table
    line, cells = first
    names = [name.strip(TRIMMED) for name in cells]
    if not names[-1]:
        known = list(rows)
        names = _without_empty_end(names, known)
        rows = iter(known)
    header = TableRow(line, tuple(names), ())
    return table._replace(header=header, rows=_fitting(table, header.names, rows))


def _without_empty_end(names: list[str], rows: list[tuple[int, list[str]]]) -> list[str]:
    """Return the names without those at the end that are empty, and have empty cells only."""
    width = len(names)
    while width > 1 and not names[width - 1]:
        if any(len(cells) >= width and cells[width - 1].strip() for _, cells in rows):
            break
        width -= 1
    return names[:width]


def _fitting(
    table: Table, names: Names, rows: Iterable[tuple[int, list[str]]]
) -> Iterator[TableRow]:
    width = len(names)
    for line, cells in rows:
        if len(cells) > width:
            if any(map(str.strip, cells[width:])):
                table.problems.append(
                    Problem(line, table.source.at(line) + _too_long(cells, width))
                )
                continue
            del cells[width:]
        yield TableRow(line, names, cells)


def _too_long(cells: Sequence[str], width: int) -> str:
    return (
        f": the row has {len(cells)} cells, but the header only {width}, so its ids may be in other "
        "columns: quote cells that contain the separator"
    )


def _flaw_of_csv(error: csv.Error, begin: int, end: int) -> str:
    where = "the row" if begin == end else f"lines {begin} to {end}"
    reason = str(error).replace("unexpected end of data", "a quote is not closed")
    return (
        f": {where} cannot be read ({reason}): "
        'close every quote, and write "" for a quote within quoted text'
    )
