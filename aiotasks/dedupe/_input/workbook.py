"""Sheets of workbooks as rows of texts."""

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time
from importlib import import_module
from types import ModuleType
from typing import Any, Final, NamedTuple

from aiotasks._checks import shorten

from .formulas import links_of
from .places import Problem


# Doubles keep whole numbers exact up to here.
_MOST_EXACT: Final = 2**53
# A choice: a workbook of a million rows has less; a small file can be made that has much more.
_MOST_UNPACKED: Final = 2**29
_SAVE_AS = 'save the sheet as "CSV UTF-8"'
_INSTALL = f"install affinity-aiotasks[excel] to read it, or {_SAVE_AS}"


class Sheet(NamedTuple):
    """The rows of a sheet with their numbers, or the problem with it."""

    name: str
    rows: Iterable[tuple[int, list[str]]]
    problems: list[Problem]
    note: str | None = None
    links: Mapping[tuple[int, int], str] = {}


def read_sheet(content: bytes, source: str, wanted: str | None) -> Sheet:
    """Read one sheet, by default the first that is visible."""
    try:
        calamine = import_module("python_calamine")
    except ImportError:
        return _nothing(f"{source}: it is a workbook: {_INSTALL}")
    if flaw := _flaw_of_archive(content):
        return _nothing(f"{source}: it is a workbook {flaw}: {_SAVE_AS}")
    try:
        with calamine.CalamineWorkbook.from_filelike(io.BytesIO(content)) as opened:
            found = _sheet_of(calamine, opened, source, wanted)
    except calamine.PasswordError:
        return _nothing(f"{source}: it is protected by a password: save it without one")
    except calamine.CalamineError as error:
        return _nothing(f"{source}: it is no workbook that can be read ({error}): {_SAVE_AS}")
    return found._replace(links=links_of(content, found.name))


def _nothing(text: str) -> Sheet:
    return Sheet("", (), [Problem(0, text)])


def _flaw_of_archive(content: bytes) -> str | None:
    """Return what is wrong with a file that packs sheets, before they are unpacked."""
    if not content.startswith(b"PK"):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return "that is damaged"
    return "that is too large" if size > _MOST_UNPACKED else None


def _sheet_of(calamine: ModuleType, opened: Any, source: str, wanted: str | None) -> Sheet:
    names = [
        each.name
        for each in opened.sheets_metadata
        if each.typ == calamine.SheetTypeEnum.WorkSheet
        and (wanted is not None or each.visible == calamine.SheetVisibleEnum.Visible)
    ]
    found = names[:1] if wanted is None else _named(names, wanted)
    if len(found) != 1:
        known = shorten(", ".join(names))[1:-1] or "none"
        what = "no sheet to read" if wanted is None else f"no one sheet {wanted!r}"
        return _nothing(f"{source}: there is {what}: its sheets are {known}")
    sheet = opened.get_sheet_by_name(found[0])
    first = (sheet.start or (0, 0))[0] + 1
    indent = [""] * (sheet.start or (0, 0))[1]
    rows = enumerate((indent + list(map(_text_of, row)) for row in sheet.to_python()), first)
    note = f"the sheet {found[0]!r}, of {len(names)}" if len(names) > 1 and not wanted else None
    return Sheet(found[0], rows, [], note)


def _named(names: Sequence[str], wanted: str) -> list[str]:
    exact = [name for name in names if name == wanted]
    return exact or [name for name in names if name.casefold() == wanted.casefold()]


def _text_of(cell: Any) -> str:
    if isinstance(cell, str):
        return cell
    # Numbers of a workbook are doubles; larger ones were rounded, which their text has to show.
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < _MOST_EXACT:
        return str(int(cell))
    if isinstance(cell, datetime):
        return cell.isoformat(" ")
    return cell.isoformat() if isinstance(cell, date | time) else str(cell)
