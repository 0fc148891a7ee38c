"""Where in an input something is, and what is wrong there."""

from collections.abc import Iterable
from typing import NamedTuple


class Source(NamedTuple):
    """The name of an input, the unit that counts its rows, and the sheet if it is a workbook."""

    name: str
    unit: str = "line"
    sheet: str | None = None

    def at(self, line: int) -> str:
        if self.sheet is not None:
            return f"{self.name}, sheet {self.sheet!r}, {self.unit} {line}"
        return f"{self.name}:{line}" if self.unit == "line" else f"{self.unit} {line}"


class Problem(NamedTuple):
    """A sentence that begins with its place, and the line by which it is sorted."""

    line: int
    text: str


def sentences(problems: Iterable[Problem]) -> tuple[str, ...]:
    """Return the texts of problems, in the order of their lines."""
    return tuple(problem.text for problem in sorted(problems, key=lambda problem: problem.line))
