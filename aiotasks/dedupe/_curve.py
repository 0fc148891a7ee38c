"""The curve of a job: how far it was over all of its runs, in few points."""

from collections.abc import Iterable
from itertools import pairwise
from statistics import median_high
from typing import Final, NamedTuple, Self

import msgspec

from ._progress import TICK


_MOST_POINTS: Final = 300


class Point(NamedTuple):
    """How far a job was at a time: pairs that had ended, and calls left in the minute."""

    at: float
    ended: int
    minute_left: int | None


class Curve:
    """Keeps how far a job was over all of its runs, in few points.

    When there are too many, every second one goes, and new ones come half as often.
    """

    def __init__(self, points: Iterable[Point] = ()) -> None:
        self.points = [*points]
        # Runs may be days apart: the middle gap is that between the points of a run.
        gaps = sorted(later.at - earlier.at for earlier, later in pairwise(self.points))
        self._gap = median_high(gaps) if gaps else 0.0

    @classmethod
    def read(cls, text: str | None) -> Self:
        """Return the curve that was noted, or an empty one for what is none."""
        try:
            return cls(msgspec.json.decode(text or "[]", type=list[Point]))
        except msgspec.MsgspecError:
            return cls()

    def text(self) -> str:
        """Return the curve as it is noted: a JSON list of points."""
        return msgspec.json.encode(self.points).decode()

    def add(self, point: Point) -> None:
        """Take a point, unless it comes too soon after the last."""
        if self._is_too_soon(point):
            return
        if len(self.points) == _MOST_POINTS:
            self.points = self.points[::2]
            self._gap = 2 * max(self._gap, TICK)
        self.points.append(point)

    def end(self, point: Point) -> None:
        """Take the last point of a run, if need be instead of the one before it."""
        if self._is_too_soon(point):
            del self.points[-1]
        self.add(point)

    def _is_too_soon(self, point: Point) -> bool:
        # Points that are taken once a second do not come to the millisecond.
        return bool(self.points) and point.at - self.points[-1].at < self._gap * 0.9
