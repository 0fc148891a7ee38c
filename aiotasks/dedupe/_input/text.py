"""From bytes to text: byte order marks, encodings, and files that are no text."""

import codecs
from collections.abc import Sequence

from .places import Problem, Source


# UTF-32 first: in little endian, it begins as UTF-16 does.
_MARKS: Sequence[tuple[bytes, str]] = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_GZIP = b"\x1f\x8b"
# A choice: so many bytes tell whether every second one is null.
_BEGINNING = 64
_ADVICE = 'save the file as "CSV UTF-8"'


def is_workbook(content: bytes) -> bool:
    """Return whether it begins as workbooks do, those of today and those before 2007."""
    return content.startswith(_WORKBOOKS)


def text_of(content: bytes, source: Source) -> tuple[str, list[Problem]]:
    """Decode UTF-8, or what a byte order mark names; ``""`` if it is no text.

    Invalid UTF-8 in many lines has one remedy, so it is one problem, and parsing continues.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and (flaw := _flaw_of_format(content)):
        return "", [Problem(0, f"{source.name}: {flaw}")]
    try:
        # Some programs put a mark before a mark.
        return content.decode(encoding).lstrip("\ufeff"), []
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            reason = f"it is {encoding.upper()} text that cannot be read ({error.reason})"
            return "", [Problem(0, f"{source.name}: {reason}: {_ADVICE}")]
    text = content.removeprefix(codecs.BOM_UTF8).decode(errors="replace")
    return text.lstrip("\ufeff"), [_invalid(content.removeprefix(codecs.BOM_UTF8), source)]


def _flaw_of_format(content: bytes) -> str | None:
    if content.startswith(_GZIP):
        return "it is compressed: unpack it first"
    if content.lstrip().startswith(b"<"):
        return f"it is HTML or XML: open it in a spreadsheet, and {_ADVICE}"
    beginning = content[:_BEGINNING]
    is_wide = any(beginning[start::2].count(0) * 4 > len(beginning) for start in (0, 1))
    return f"it is UTF-16 text without a byte order mark: {_ADVICE}" if is_wide else None


def _invalid(content: bytes, source: Source) -> Problem:
    flaws = [
        (number, error)
        for number, line in enumerate(content.splitlines(keepends=True), 1)
        if (error := _error_of(line)) is not None
    ]
    number, error = flaws[0]
    character = len(error.object[: error.start].decode()) + 1
    byte = f"the byte 0x{error.object[error.start]:02x} is not valid UTF-8"
    others = f" (nor are {len(flaws) - 1} more lines)" if len(flaws) > 1 else ""
    return Problem(number, f"{source.at(number)}, character {character}: {byte}{others}: {_ADVICE}")


def _error_of(line: bytes) -> UnicodeDecodeError | None:
    try:
        _ = line.decode()
    except UnicodeDecodeError as error:
        return error
    return None
