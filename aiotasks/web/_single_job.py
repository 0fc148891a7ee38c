"""The page of one job that the caller runs, for as long as it runs."""

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


_SHUTDOWN_NOTICE_SECONDS = 1.0
"""How long the end of the job waits for pages to receive it."""


class JobPage:
    """A page that is served at ``link``; pass ``show`` to the job as ``on_progress``."""

    def __init__(self, link: str, run: RunningJob) -> None:
        self.link = link
        self._run = run

    def show(self, progress: JobProgress) -> None:
        """Update the page with the progress of the job."""
        self._run.update(progress)


@asynccontextmanager
async def serve_job(
    client: Client, path: str | os.PathLike[str], *, stop: asyncio.Event
) -> AsyncIterator[JobPage]:
    """Serve the page of a job that is run in this ``async with``, on a free port of loopback.

    The server reads the ledger, beside the run that writes it. The page's stop button sets
    ``stop``, and the second time cancels the task that entered this; the page cannot start
    anything. Leaving it waits up to a second for open pages to receive the end of the job.

    Args:
        client: The client with which the job is run.
        path: The job's ledger, in which the job must have begun before the page is opened.
        stop: The event that is passed to ``run`` or ``resume`` too.

    Raises:
        ConfigurationError: when there is no free port.
    """
    run = RunningJob(Path(path))
    run.stop = stop
    run.task = asyncio.current_task()
    site = JobApp(client, path)
    async with Serving(site.app, site.path) as link:
        with site.attached(run):
            yield JobPage(link, run)
        with suppress(TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_NOTICE_SECONDS):
                await site.unwatched()
