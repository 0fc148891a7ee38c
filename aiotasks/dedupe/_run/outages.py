"""How long the server has been silent, and when that is too long."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Final

from aiotasks.backoff import poll_backoff, poll_delay
from aiotasks.client import Client
from aiotasks.errors import AffinityError, NetworkError, RateLimitError, ServerError
from aiotasks.models import Kind


SILENCE: Final = 60.0
"""Seconds without any news after which something is asked."""

# A lost answer now and then is no outage.
_SILENT = 5.0
_BACKOFF = poll_backoff(1.0, 15.0)
_MAX_OUTAGE = 600.0


class Outage:
    """How often in a row there was no answer, and since when."""

    def __init__(self) -> None:
        self.failures = 0
        self._since = 0.0

    def is_too_long(self, now: float) -> bool:
        """Count one more failure, and say whether the first of them is ten minutes ago."""
        self._since = self._since if self.failures else now
        self.failures += 1
        return now - self._since >= _MAX_OUTAGE

    def end(self) -> None:
        """Note that there was an answer."""
        self.failures = 0


class Outages:
    """Waits out that merges cannot be sent, and asks something when all is silent.

    Polls wait for the end of any outage, and where nothing is to be sent nobody else would notice
    one. ``give_up`` is told the error when it lasts for too long.
    """

    def __init__(
        self, client: Client, kind: Kind, give_up: Callable[[AffinityError], object]
    ) -> None:
        self._client = client
        self._tasks: Callable[[], Any] = lambda: client.tasks.list(kind)
        self._give_up = give_up
        self._sending = Outage()
        self._asking = Outage()
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()

    @property
    def is_on(self) -> bool:
        """Whether the last that was tried had no answer, or nothing had one for a while."""
        failures = self._sending.failures + self._asking.failures
        return failures > 0 or self._client.silent_for > _SILENT

    def hear(self) -> None:
        """Note that there was news."""
        self._heard_at = self._loop.time()

    def end_sending(self) -> None:
        """Note that a merge was answered, be it by a refusal."""
        self._sending.end()

    async def sit_out(self, error: AffinityError) -> None:
        """Wait before the next merge is sent, ever longer."""
        self._endure(self._sending, error)
        await asyncio.sleep(poll_delay(_BACKOFF, self._sending.failures))

    async def run(self) -> None:
        """Ask something whenever all has been silent."""
        while True:
            await asyncio.sleep(SILENCE)
            if self._loop.time() - self._heard_at < SILENCE:
                self._asking.end()
            else:
                await self._ask()

    async def _ask(self) -> None:
        tasks = self._tasks()
        try:
            async with aclosing(tasks):
                _ = await anext(tasks, None)
        except (NetworkError, RateLimitError, ServerError) as error:
            self._endure(self._asking, error)
        except AffinityError:
            # What is refused is answered.
            self._asking.end()
        else:
            self._asking.end()

    def _endure(self, outage: Outage, error: AffinityError) -> None:
        if outage.is_too_long(self._loop.time()):
            _ = self._give_up(error)
