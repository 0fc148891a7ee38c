"""The curve of a run in the ledger, for programs that draw it."""

import asyncio
from collections.abc import Callable
from typing import Final

from aiotasks.dedupe._progress import TICK, JobProgress
from aiotasks.dedupe._progress_curve import Curve, Point
from aiotasks.dedupe.ledger import Ledger


# A choice: a crash loses half a minute of the curve, and its writes cost next to nothing.
_POINTS_PER_WRITE: Final = 30


class ProgressRecorder:
    """Writes the curve of a run about every half minute, continuing that of earlier runs."""

    def __init__(
        self, ledger: Ledger, clock: Callable[[], float], progress: Callable[[], JobProgress]
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._progress = progress
        self._curve: Curve | None = None

    async def run(self) -> None:
        """Add a point every second until cancelled."""
        while True:
            for _ in range(_POINTS_PER_WRITE):
                (await self._load()).add(self._point())
                await asyncio.sleep(TICK)
            await self._write()

    async def end(self) -> None:
        """Write the last point of the run."""
        (await self._load()).end(self._point())
        await self._write()

    def _point(self) -> Point:
        progress = self._progress()
        return Point(self._clock(), progress.ended, progress.minute_left)

    async def _load(self) -> Curve:
        if self._curve is None:
            self._curve = Curve.read((await self._ledger.notes()).get("curve"))
        return self._curve

    async def _write(self) -> None:
        await self._ledger.note(curve=(await self._load()).text())
