"""The job that every contender is given, and to which it reports."""

import asyncio
from collections import Counter
from collections.abc import Sequence


PATIENCE = 6 * 3600.0
"""Seconds that every contender may wait for one task: long enough that none fails by it."""


class Job:
    """Pairs to merge at a server, and the times at which a contender learned their outcomes.

    Args:
        url: the origin of the server.
        api_key: its key.
        pairs: primary and duplicate of each merge.
        seed: of a contender's random numbers.
        window: seconds of the server's per-minute window.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        pairs: Sequence[tuple[int, int]],
        *,
        seed: int,
        window: float = 60.0,
    ) -> None:
        self.url = url
        self.api_key = api_key
        self.pairs = pairs
        self.seed = seed
        self.window = window
        self.started = asyncio.get_running_loop().time()
        self.learned: dict[str, float] = {}
        self.errors: Counter[str] = Counter()
        self.last = 0.0

    async def begin_anew(self) -> None:
        """End the preparations: the job counts from the server's next window on."""
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(self.window - (now - self.started) % self.window)
        self.started = asyncio.get_running_loop().time()

    def end(self, task_url: str) -> None:
        """Record that a contender has just learned of the end of a merge."""
        self.last = asyncio.get_running_loop().time()
        self.learned[task_url] = self.last

    def fail(self, verb: str, error: object) -> None:
        """Record that a contender has given up a merge or a wait."""
        self.last = asyncio.get_running_loop().time()
        name = type(error).__name__ if isinstance(error, BaseException) else str(error)
        self.errors[f"{verb}: {name}"] += 1
