"""The curve of a job: how far it was over all of its runs, in few points."""

from collections.abc import Iterable
from itertools import pairwise
from statistics import median_high
from typing import Final, NamedTuple, Self

import msgspec

from ._progress import TICK


# A choice: as many as a chart of a few hundred pixels can show.
_MOST_POINTS: Final = 300


class Point(NamedTuple):
    """How far a job was at a time: pairs that had ended, and calls left in the minute."""

    at: float
    ended: int
    minute_left: int | None


class Curve:
    """How far a job was over all of its runs, in at most 300 points.

    When there are more, every second point is dropped, and new ones come half as often.
    """

    def __init__(self, points: Iterable[Point] = ()) -> None:
        self.points = [*points]
        # Runs may be days apart, but most gaps are between points of one run: so is the median.
        gaps = sorted(later.at - earlier.at for earlier, later in pairwise(self.points))
        self._gap = median_high(gaps) if gaps else 0.0

    @classmethod
    def read(cls, text: str | None) -> Self:
        """Return the curve in a note of the ledger; without a readable one, an empty curve."""
        try:
            return cls(msgspec.json.decode(text or "[]", type=list[Point]))
        except msgspec.MsgspecError:
            return cls()

    def text(self) -> str:
        """Return the curve as a note of the ledger: a JSON list of points."""
        return msgspec.json.encode(self.points).decode()

    def add(self, point: Point) -> None:
        """Add a point, unless it comes too soon after the last."""
        if self._is_too_soon(point):
            return
        if len(self.points) == _MOST_POINTS:
            self.points = self.points[::2]
            self._gap = 2 * max(self._gap, TICK)
        self.points.append(point)

    def end(self, point: Point) -> None:
        """Add the last point of a run, in place of the one before if that is too recent."""
        if self._is_too_soon(point):
            del self.points[-1]
        self.add(point)

    def _is_too_soon(self, point: Point) -> bool:
        # A tick of the loop is never exact: without some tolerance every second one is too soon.
        return bool(self.points) and point.at - self.points[-1].at < self._gap * 0.9
