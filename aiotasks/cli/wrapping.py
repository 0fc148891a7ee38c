"""Lines that fit a terminal, broken between words."""

import shutil
import sys
from typing import Final

from rich.cells import cell_len


# A choice: in less than that, indented words would stand below each other.
_NARROWEST: Final = 20
_HANGING: Final = "  "


def wrapped(line: str, width: int) -> list[str]:
    """Return a line as lines of at most so many cells; what continues it is indented.

    Words are never broken: a URL that is longer than a line stays whole.
    """
    if cell_len(line) <= width:
        return [line]
    words = line.lstrip(" ")
    indent = line[: len(line) - len(words)]
    room = max(_NARROWEST, width - len(indent) - len(_HANGING))
    first, *rest = words.split(" ")
    parts = [first]
    for word in rest:
        longer = f"{parts[-1]} {word}"
        if cell_len(longer) <= room:
            parts[-1] = longer
        else:
            parts.append(word)
    return [indent + parts[0], *(indent + _HANGING + part for part in parts[1:])]


def on_terminal(text: str) -> list[str]:
    """Return the lines of a text as standard output shows them: only a terminal has a width."""
    lines = text.split("\n")
    if not sys.stdout.isatty():
        return lines
    width = shutil.get_terminal_size().columns
    return [part for line in lines for part in wrapped(line, width)]
