"""Lists of ids and of task URLs: one a line, or a column of a table as exports have it."""

import io
import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Final, NamedTuple

from aiotasks.errors import PlanError
from aiotasks.models import Kind

from .columns import Header, column_named, label_of, listed
from .ids import Form, id_of
from .places import Problem, Source, sentences
from .tables import Table, read_table
from .text import is_workbook, text_of


# The addresses of some pages have /# within.
_COMMENT = re.compile(r"(?<!/)#.*", re.DOTALL)
_URL_NAMES: Final = frozenset({"taskurl", "url"})

_WHAT = {"--protect-column": "of ids", "--column": "of task URLs"}

_Finder = Callable[[Sequence[str]], Sequence[int]]


class Item(NamedTuple):
    """A line or a cell of a list, and its place."""

    line: int
    place: str
    text: str


def read_ids(
    content: bytes, *, source: str, kind: Kind, column: str | None = None
) -> frozenset[int]:
    """Parse ids, one a line, where ``#`` begins a comment, or in a column of a table.

    Without ``column``, it is the one whose name says that it has the ids.

    Raises:
        PlanError: with all problems, when one of them is no id.
    """
    option = "--protect-column"
    found = _read(content, source, option, column, lambda names: _id_columns(names, kind))
    ids, problems = set[int](), found.problems
    for item in found.items:
        number = id_of(item.text, kind, found.form)
        if isinstance(number, int):
            ids.add(number)
        else:
            is_name = found.is_plain and item is found.items[0]
            hint = f" (nor the name of a column of ids, unless {option} says so)" if is_name else ""
            problems.append(Problem(item.line, f"{item.place}: {number}{hint}"))
    if problems:
        raise PlanError(source, sentences(problems))
    return frozenset(ids)


def read_urls(
    content: bytes, *, source: str, column: str | None = None
) -> tuple[list[Item], tuple[str, ...]]:
    """Parse task URLs like ids, and return them with the problems of the list."""
    found = _read(content, source, "--column", column, _url_columns)
    return [item for item in found.items if item.text], sentences(found.problems)


class _List(NamedTuple):
    items: list[Item]
    problems: list[Problem]
    form: Form = "csv"
    is_plain: bool = False


def _read(content: bytes, source: str, option: str, column: str | None, find: _Finder) -> _List:
    def found_in(names: Sequence[str]) -> Sequence[int]:
        return find(names) if column is None else column_named(names, column)

    table = read_table(content, source, sheet=None, fitness=lambda names: len(found_in(names)))
    names = () if table.header is None else table.header.names
    found = found_in(names)
    if len(found) == 1:
        return _of_table(table, found[0])
    if column is None and not found and not _is_table(content, table):
        return _of_lines(*text_of(content, table.source), table.source)
    what = "no column" if not found else "more than one column"
    which = _WHAT[option] if column is None else repr(column)
    flaw = f"{source}: there is {what} {which} among {listed(names)}: {option} names it"
    return _List([], [*table.problems, *([Problem(0, flaw)] if names else [])])


def _is_table(content: bytes, table: Table) -> bool:
    """Return whether it has a header, although that names no column which is understood."""
    if table.form != "csv" or is_workbook(content):
        return True
    first = next(iter(table.header.names), "") if table.header else ""
    return (
        len(table.header.names if table.header else ()) > 1
        and "#" not in first
        and "/" not in first
        and first.strip()[:1].isalpha()
    )


def _of_table(table: Table, index: int) -> _List:
    items = [
        Item(
            row.line,
            f"{table.source.at(row.line)}, {label_of(table.form, row.names, index)}",
            table.id_cell(row, index).strip(),
        )
        for row in table.rows
    ]
    return _List(items, table.problems, table.form)


def _of_lines(text: str, problems: list[Problem], source: Source) -> _List:
    lines = enumerate(io.StringIO(text, newline=""), 1)
    items = [
        Item(number, source.at(number), cell)
        for number, line in lines
        # A column that was saved as CSV may have a separator behind.
        if (cell := _COMMENT.sub("", line).strip().rstrip(",;\t "))
    ]
    return _List(items, problems, is_plain=True)


def _id_columns(names: Sequence[str], kind: Kind) -> list[int]:
    header = Header(names, kind)
    found = [*chain.from_iterable(header.own.values())] or header.like("record")
    return [index for index in found if header.other_kind(index) is None]


def _url_columns(names: Sequence[str]) -> list[int]:
    keys = ("".join(filter(str.isalnum, name.lower())) for name in names)
    return [index for index, key in enumerate(keys) if key in _URL_NAMES]
