"""Numbers, times and names as text that people read."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from .models import Kind


PLURAL: Final[Mapping[Kind, str]] = {"company": "companies", "person": "persons"}


def duration(seconds: float) -> str:
    """Return a number of seconds in the unit that suits it."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def iso_time(seconds: float | None) -> str | None:
    """Return seconds since the epoch as an ISO 8601 time in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def printable(text: str) -> str:
    """Return text without the characters that could steer a terminal that shows it."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
