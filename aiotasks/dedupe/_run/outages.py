"""Outages: back off while the server does not answer, and stop the job when that lasts."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Final

from aiotasks.backoff import poll_backoff, poll_delay
from aiotasks.client import Client
from aiotasks.dedupe.models import StopReason
from aiotasks.errors import AffinityError, NetworkError, RateLimitError, ServerError
from aiotasks.models import Kind

from .tracker import PairTracker


PROBE_AFTER: Final = 60.0
"""Seconds without a start or an end of a merge after which a probe is sent. A choice: one call a
minute, also for merges that take longer than that."""

# A choice: a single lost answer now and then is no outage.
_SILENT_AFTER = 5.0
# A choice, the same as for indeterminate merges: quick at first, then four calls a minute.
_BACKOFF = poll_backoff(1.0, 15.0)
# A choice: a job without a server should end, but not for a server that restarts.
_MAX_OUTAGE = 600.0


class Outage:
    """How many requests in a row had no answer, and since when."""

    def __init__(self) -> None:
        self.failures = 0
        self._since = 0.0

    def add_failure(self, now: float) -> bool:
        """Count a failure, and return whether the first of them is ten minutes ago."""
        self._since = self._since if self.failures else now
        self.failures += 1
        return now - self._since >= _MAX_OUTAGE

    def end(self) -> None:
        """Note that there was an answer."""
        self.failures = 0


class Outages:
    """Delays merges while they fail, and probes the server when nothing else would notice.

    The client's polls wait for the end of an outage however long it is. So when all merges are sent
    and only polls are left, only a probe can find out that the server has been gone for too long.
    """

    def __init__(self, client: Client, kind: Kind, tracker: PairTracker) -> None:
        self._client = client
        self._tasks: Callable[[], Any] = lambda: client.tasks.list(kind)
        self._tracker = tracker
        self._sending = Outage()
        self._probing = Outage()
        self._loop = asyncio.get_running_loop()

    @property
    def is_on(self) -> bool:
        """Whether the last merge or probe had no answer, or no request had one for a while."""
        failures = self._sending.failures + self._probing.failures
        return failures > 0 or self._client.silent_for > _SILENT_AFTER

    def note_answer(self) -> None:
        """Note that a merge was answered, even if it was refused."""
        self._sending.end()

    async def back_off(self, error: AffinityError) -> None:
        """Wait before the next merge is sent, longer after each failure in a row."""
        self._add_failure(self._sending, error)
        await asyncio.sleep(poll_delay(_BACKOFF, self._sending.failures))

    async def run(self) -> None:
        """Send a probe whenever no merge has started or ended for a minute."""
        while True:
            await asyncio.sleep(PROBE_AFTER)
            if self._tracker.silent_for < PROBE_AFTER:
                self._probing.end()
            else:
                await self._probe()

    async def _probe(self) -> None:
        tasks = self._tasks()
        try:
            async with aclosing(tasks):
                _ = await anext(tasks, None)
        except (NetworkError, RateLimitError, ServerError) as error:
            self._add_failure(self._probing, error)
        except AffinityError:
            # A refusal is an answer: the server is there. Whether it ends the job, polls decide.
            self._probing.end()
        else:
            self._probing.end()

    def _add_failure(self, outage: Outage, error: AffinityError) -> None:
        if outage.add_failure(self._loop.time()):
            self._tracker.stop(StopReason.UNREACHABLE, error)
