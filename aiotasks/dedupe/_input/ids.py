"""Ids in the shapes that spreadsheets, exports and browsers give them."""

import re
from typing import Final, Literal, TypeAlias

from aiotasks._checks import shorten
from aiotasks.models import Kind


Form: TypeAlias = Literal["csv", "json", "workbook"]
"""How a table is stored, which decides how a cell in it can be corrected."""

# The largest integer that every JSON parser keeps exact, and so the largest id that can be right.
MAX_ID: Final = 2**53 - 1
_SURELY_SMALLER = len(str(MAX_ID))
# What browsers and messengers copy along: marks of direction, joiners, byte order marks.
_INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\ufeff"
TRIMMED: Final = _INVISIBLE + "".join(filter(str.isspace, map(chr, range(0x3001))))
"""What may stand around an id, a name or an object and means nothing."""

# ="123" and =123 keep a spreadsheet from changing an id, quotes are left over from another program.
_WRAPPED = re.compile(r"""=?\s*"([^"]*)"|'([^']*)'?|=\s*(\d+(?:\.0+)?)""", re.ASCII)
_WHOLE_FLOAT = re.compile(r"(\d+)[.,](0+)", re.ASCII)
_NEGATIVE = re.compile(r"-\d+(?:[.,]0+)?", re.ASCII)
_SCIENTIFIC = re.compile(r"\d+(?:[.,]\d+)?[eE][+-]?\d+", re.ASCII)
# How spreadsheets group digits: 1,234 and 1.234 and 1 234 and 1'234.
_GROUPED = re.compile(r"\d{1,3}(?:[.,'\u2019 \u00a0\u202f]\d{3})+(?:[.,]\d+)?", re.ASCII)
_FRACTION = re.compile(r"[+-]?\d*[.,]\d+", re.ASCII)
_HYPERLINK = re.compile(
    r"""=\s*HYPERLINK\s*\(\s*"([^"]*)"\s*(?:[,;]\s*(?:"([^"]*)"|(\d+))\s*)?\)""",
    re.ASCII | re.IGNORECASE,
)
_LINK = re.compile(r"(?:https?://)?([^/?#@\s]*)(/[^?#\s]*)\S*", re.IGNORECASE)
_RECORD = re.compile(r"/(companies|organizations|persons|people)/(\d+)(?=/|$)", re.ASCII)
_KIND_OF_PATH: dict[str, Kind] = {
    "companies": "company",
    "organizations": "company",
    "persons": "person",
    "people": "person",
}
_OUR_HOSTS = frozenset({"affinity.co", "localhost", "127.0.0.1"})
_NO_VALUES = frozenset(
    {"nan", "null", "none", "nil", "n/a", "na", "#n/a", "#ref!", "#value!", "#name?", "-"}
)
_GROUP = 3

_PLAIN: dict[Form, str] = {
    "csv": "format the column as a number without decimals and separators",
    "json": "write the id as a whole number, such as 123",
    "workbook": "enter the id as a number, without decimals and separators",
}
_EXACT: dict[Form, str] = {
    "csv": "format the column as a number without decimals, and export it again",
    "json": "write the id as an integer with all of its digits",
    "workbook": "a workbook keeps 15 digits of a number: enter the id as text",
}
_NO_ID: dict[Form, str] = {
    "csv": "give it, or remove the row",
    "json": "write the id as a whole number, or leave out the line",
    "workbook": "enter the id, or remove the row",
}
_EMPTY: dict[Form, str] = {
    "csv": "it is empty",
    "json": f"it is empty: {_NO_ID['json']}",
    "workbook": f"it is empty, or a formula that was never calculated: {_NO_ID['workbook']}",
}


def flaw_of_size(number: int) -> str | None:
    if number < 1:
        return "is not positive"
    return f"is larger than any id ({MAX_ID})" if number > MAX_ID else None


def id_of(text: str, kind: Kind, form: Form = "csv") -> int | str:
    """Return the id in a cell, or what is wrong with it.

    What can be read in two ways is refused, never guessed.
    """
    # Nearly all cells are only digits.
    if text.isdigit() and text.isascii() and text[0] != "0" and len(text) < _SURELY_SMALLER:
        return int(text)
    cell = text.strip(TRIMMED)
    if link := _HYPERLINK.fullmatch(cell.removeprefix("'")):
        return _id_of_hyperlink(link, kind, cell)
    if wrapped := _WRAPPED.fullmatch(cell):
        cell = next(filter(None, wrapped.groups()), "").strip(TRIMMED)
    if not cell:
        return _EMPTY[form]
    if "/" in cell and (link := _LINK.fullmatch(cell)):
        return _id_of_link(link, kind, cell)
    return _id_of_number(cell, form)


def _id_of_number(cell: str, form: Form) -> int | str:
    digits = cell
    if decimal := _WHOLE_FLOAT.fullmatch(cell):
        whole, zeros = decimal.groups()
        # 1.000 may be one, or a thousand.
        if len(zeros) != _GROUP or len(whole) > _GROUP:
            digits = whole
    if not (digits.isascii() and digits.isdigit()):
        return f"{shorten(cell)} {_flaw_of_text(cell, form)}"
    if digits[0] == "0" and digits.strip("0"):
        return (
            f"{shorten(cell)} begins with 0, as what follows the separator of a large number does: "
            "give the whole id, without separators"
        )
    # Cut, since int() refuses texts of more than 4,300 digits.
    number = int(digits[: _SURELY_SMALLER + 1])
    if flaw := flaw_of_size(number):
        was_rounded = number > MAX_ID and digits != cell
        hint = f" and was rounded: {_EXACT[form]}" if was_rounded else ""
        return f"{shorten(cell)} {flaw}{hint}"
    return number


def _flaw_of_text(cell: str, form: Form) -> str:
    if _NEGATIVE.fullmatch(cell):
        return "is not positive"
    if cell.casefold() in _NO_VALUES:
        return f"is no id: {_NO_ID[form]}"
    if _SCIENTIFIC.fullmatch(cell):
        return f"is not a whole number, and digits of it may be lost: {_EXACT[form]}"
    is_formatted = _GROUPED.fullmatch(cell) or _FRACTION.fullmatch(cell)
    return "is not a whole number" + (f": {_PLAIN[form]}" if is_formatted else "")


def _id_of_hyperlink(link: re.Match[str], kind: Kind, cell: str) -> int | str:
    address, *labels = link.groups()
    found = _LINK.fullmatch(address.strip(TRIMMED))
    number = (
        f"{shorten(cell)} is no link to a record"
        if found is None
        else _id_of_link(found, kind, address)
    )
    label = next((each.strip(TRIMMED) for each in labels if each), "")
    if isinstance(number, int) and label.isdigit() and label != str(number):
        return f"{shorten(cell)} links to {number}, but shows {label}: give one id"
    return number


def _id_of_link(link: re.Match[str], kind: Kind, shown: str) -> int | str:
    host, path = link.groups()
    name = host.partition(":")[0].lower()
    records = set(_RECORD.findall(path))
    if name and name not in _OUR_HOSTS and not name.endswith(".affinity.co"):
        return f"{shorten(shown)} is a link to another site than Affinity: give the record's id"
    if len(records) != 1:
        which = "no" if not records else "more than one"
        return f"{shorten(shown)} is a link to {which} record: give the record's id"
    ((place, digits),) = records
    if (other := _KIND_OF_PATH[place]) != kind:
        return f"{shorten(shown)} is a link to a {other}, but the kind is {kind}"
    return _id_of_number(digits, "csv")
