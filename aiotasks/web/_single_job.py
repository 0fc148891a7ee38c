"""The page of a job beside the run of it, for as long as that goes on."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiotasks.client import Client
from aiotasks.dedupe import JobProgress

from ._app import JobApp
from ._runner import RunningJob
from ._server import Serving


_FAREWELL = 1.0


class JobPage:
    """A page that is served: ``link`` leads to it, and ``show`` is a job's ``on_progress``."""

    def __init__(self, link: str, run: RunningJob) -> None:
        self.link = link
        self._run = run

    def show(self, progress: JobProgress) -> None:
        """Let the page tell how far the job is."""
        self._run.show(progress)


@asynccontextmanager
async def serve_job(
    client: Client, path: str | os.PathLike[str], *, stop: asyncio.Event
) -> AsyncIterator[JobPage]:
    """Serve the page of a job that is run in this ``async with``, on a free port of loopback.

    It reads the ledger, beside what runs the job. Its button to stop sets ``stop``, and the second
    time cancels the task that has entered this; nothing can be started there. Whoever watches
    until the end is told of it.

    Args:
        client: The client with which the job is run.
        path: The job's ledger, in which the job has begun before anybody looks.
        stop: The same as for ``run`` or ``resume``.

    Raises:
        ConfigurationError: when there is no free port.
    """
    run = RunningJob(Path(path))
    run.stop = stop
    run.task = asyncio.current_task()
    site = JobApp(client, path)
    async with Serving(site.app, site.path) as link:
        with site.showing(run):
            yield JobPage(link, run)
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await site.deserted()
