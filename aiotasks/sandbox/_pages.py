"""Pages and the cursors that lead from one to the next."""

import base64
import binascii
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Self

from aiotasks.sandbox._reply import Problem


_CURSOR = re.compile(r" *(after|before):::([1-9][0-9]{0,17})")
Matches = Callable[[int], bool]
Key = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place beside an item, which stays right when newer items arrive."""

    direction: Literal["after", "before"]
    anchor: int

    def __str__(self) -> str:
        text = f"{self.direction:>12}:::{self.anchor}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Self:
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            found = _CURSOR.fullmatch(raw.decode())
        except (binascii.Error, ValueError):
            found = None
        if found is None:
            message = f"The cursor {text!r} is not one that a page has returned."
            raise Problem(400, message, param="cursor")
        direction: Literal["after", "before"] = "after" if found[1] == "after" else "before"
        return cls(direction, int(found[2]))


@dataclass(frozen=True, slots=True)
class Page:
    """The numbers on one page, in the order shown, and where to go from it."""

    numbers: list[int]
    next: Cursor | None = None
    previous: Cursor | None = None


def cut(
    order: Sequence[int],
    *,
    limit: int,
    cursor: Cursor | None = None,
    newest_first: bool = True,
    key: Key = float,
    matches: Matches | None = None,
) -> Page:
    """Cut one page out of numbers that are strictly ordered by their keys.

    Ranges are sliced without a copy, so an unfiltered page costs the same however long the list.
    """
    sign = -1 if newest_first else 1

    def split(number: int, *, right: bool) -> int:
        bisect = bisect_right if right else bisect_left
        return bisect(order, sign * key(number), key=lambda other: sign * key(other))

    numbers = _take(order, limit, cursor, split, matches)
    if not numbers:
        return Page([])
    newer = order[: split(numbers[0], right=False)][::-1] if cursor else ()
    older = order[split(numbers[-1], right=True) :]
    return Page(
        numbers,
        next=Cursor("after", numbers[-1]) if _some(older, matches) else None,
        previous=Cursor("before", numbers[0]) if _some(newer, matches) else None,
    )


def _take(
    order: Sequence[int],
    limit: int,
    cursor: Cursor | None,
    split: Callable[..., int],
    matches: Matches | None,
) -> list[int]:
    if cursor is None:
        return _first(order, limit, matches)
    if cursor.direction == "after":
        return _first(order[split(cursor.anchor, right=True) :], limit, matches)
    before = order[: split(cursor.anchor, right=False)]
    return _first(before[::-1], limit, matches)[::-1]


def _first(numbers: Sequence[int], limit: int, matches: Matches | None) -> list[int]:
    if matches is None:
        return list(numbers[:limit])
    return list(islice(filter(matches, numbers), limit))


def _some(numbers: Sequence[int], matches: Matches | None) -> bool:
    return bool(numbers) if matches is None else any(map(matches, numbers))
