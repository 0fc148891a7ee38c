"""Numbers, times and names as text that people read."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from .models import Kind


_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SEPARATORS = re.compile("[\t\n\r]")

PLURAL: Final[Mapping[Kind, str]] = {"company": "companies", "person": "persons"}


def duration(seconds: float) -> str:
    """Return a number of seconds in the unit that suits it."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def counted(count: int, noun: str) -> str:
    """Return a number of things, in the singular for one of them."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def duration_range(low: float, high: float) -> str:
    """Return two numbers of seconds in the unit that suits the higher one."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if high >= 2 * size:
            return f"{low / size:.1f} to {high / size:.1f} {unit}"
    return f"{low:.0f} to {high:.0f} s"


def iso_time(seconds: float | None) -> str | None:
    """Return seconds since the epoch as an ISO 8601 time in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def printable(text: str) -> str:
    """Return text without the characters that could steer or fool a terminal that shows it.

    These are control characters, line separators, those that turn the direction of what follows,
    and halves of characters. All others of a name are its own, however unusual.
    """
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def without_controls(text: str) -> str:
    """Return text without control characters other than tabs and the ends of lines."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def json_text(encoded: bytes) -> str:
    """Return JSON as one line of text, with what could steer or fool a terminal escaped."""
    # Outside of strings these only separate, and in strings they are escaped already.
    line = _SEPARATORS.sub(" ", encoded.decode("utf-8", "replace"))
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", line)
