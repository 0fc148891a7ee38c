"""What a run notes of its course in the ledger, for those who draw it."""

import asyncio
from collections.abc import Callable
from typing import Final

from aiotasks.dedupe._curve import Curve, Point
from aiotasks.dedupe._progress import TICK, JobProgress
from aiotasks.dedupe.ledger import Ledger


_NOTED_EVERY: Final = 30


class CurveRecorder:
    """Notes the curve of a run about every half minute, and goes on with that of earlier runs."""

    def __init__(
        self, ledger: Ledger, clock: Callable[[], float], look: Callable[[], JobProgress]
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._look = look
        self._curve: Curve | None = None

    async def run(self) -> None:
        """Look once a second, for as long as nobody cancels it."""
        while True:
            for _ in range(_NOTED_EVERY):
                (await self._known()).add(self._point())
                await asyncio.sleep(TICK)
            await self._write()

    async def end(self) -> None:
        """Note how far the run has come."""
        (await self._known()).end(self._point())
        await self._write()

    def _point(self) -> Point:
        seen = self._look()
        return Point(self._clock(), seen.ended, seen.minute_left)

    async def _known(self) -> Curve:
        if self._curve is None:
            self._curve = Curve.read((await self._ledger.notes()).get("curve"))
        return self._curve

    async def _write(self) -> None:
        await self._ledger.note(curve=(await self._known()).text())
