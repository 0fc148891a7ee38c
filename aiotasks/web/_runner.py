"""The jobs that run in this process: how they start, stop and end."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from aiotasks._background import running
from aiotasks.client import Client
from aiotasks.dedupe import JobEvent, JobProgress, JobResult, Ledger, Stopping, resume
from aiotasks.errors import AffinityError, LedgerError

from ._background import BackgroundTasks
from ._folder import Folder
from ._observer import audit
from ._resumption import RUN_BY, RunSettings, interrupted_jobs, pause_before_retry


log = logging.getLogger("aiotasks.web")


class BusyError(AffinityError):
    """Raised when a job cannot be started or stopped as it is now."""


class RunningJob:
    """A job that runs in this process, from the request that started it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.progress: JobProgress | None = None
        self.stop = asyncio.Event()
        # Set when the job must not go on by itself with the next start of the server.
        self.is_over = asyncio.Event()
        self.opened = asyncio.Event()
        self.refusal: AffinityError | None = None
        self.task: asyncio.Task[None] | None = None

    def note_event(self, event: JobEvent) -> None:
        """Remember that the job is being stopped, by whatever."""
        if isinstance(event, Stopping):
            self.is_over.set()

    def update(self, progress: JobProgress) -> None:
        """Keep the newest progress of the run, for the next event."""
        self.progress = progress


class LocalState(NamedTuple):
    """What this process knows of a job that its ledger may not show.

    ``error`` ended the last run here; it is also known if the ledger could not be written.
    ``is_attached`` is true for a job that the caller runs, also when that run has ended: the lock
    of its ledger is the caller's then, and not that of another program.
    """

    run: RunningJob | None = None
    error: str | None = None
    is_attached: bool = False


class JobRunner:
    """Runs jobs, each at most once at a time, with one client for all."""

    def __init__(self, client: Client, tasks: BackgroundTasks) -> None:
        self._client = client
        self._tasks = tasks
        self._runs: dict[str, RunningJob] = {}
        self._errors: dict[str, str] = {}
        self._attached: set[str] = set()
        self._ended = Counter[str]()
        self.on_change: Callable[[str], object] = lambda _: None

    def local_state(self, job_id: str) -> LocalState:
        """Return what this process knows of a job."""
        return LocalState(
            self._runs.get(job_id), self._errors.get(job_id), job_id in self._attached
        )

    def ended(self, job_id: str) -> int:
        """Return how many runs of a job have ended here."""
        return self._ended[job_id]

    async def start(
        self, job_id: str, path: Path, settings: RunSettings, *, goes_on: bool = False
    ) -> None:
        """Start a job, and return once its ledger is locked for this process.

        ``goes_on`` is for a job that an earlier server was running: it waits for an API that cannot
        be reached at first.

        Raises:
            BusyError: when it runs here already.
            LedgerError: when the ledger cannot be locked, for example because another process
                holds the lock.
            EndingError: when the application ends.
        """
        if job_id in self._runs:
            message = "The job runs already"
            raise BusyError(message)
        run = RunningJob(path)
        work = self._run(job_id, run, settings, goes_on=goes_on)
        run.task = self._tasks.run(work, name=f"job {job_id}")
        self._runs[job_id] = run
        # Not in a `finally` of the task: one that is cancelled before its first step never runs it.
        run.task.add_done_callback(lambda _: self._remove(job_id, run))
        _ = await run.opened.wait()
        if run.refusal is not None:
            raise run.refusal

    async def go_on(self, folder: Folder) -> list[str]:
        """Go on with the jobs that the last server was running; return the ids of those that do."""
        ids = []
        for job in await interrupted_jobs(folder):
            try:
                await self.start(job.job_id, job.path, job.settings, goes_on=True)
            except AffinityError as error:
                log.warning("The job %s does not go on: %s", job.job_id, error)
            else:
                ids.append(job.job_id)
                audit("resumed", job.job_id, by="this server, at its start")
        return ids

    @contextmanager
    def attached(self, job_id: str, run: RunningJob) -> Iterator[None]:
        """Treat a job as running here while the caller runs it, in this process."""
        self._attached.add(job_id)
        self._runs[job_id] = run
        run.opened.set()
        try:
            yield
        finally:
            self._remove(job_id, run)

    def stop(self, job_id: str) -> None:
        """Stop a job: no more merges are started, and open ones get their grace.

        Called again, it cancels the job.

        Raises:
            BusyError: when it does not run here.
        """
        run = self._runs.get(job_id)
        if run is None:
            message = "The job is not run by this server: stop it where it is"
            raise BusyError(message)
        run.is_over.set()
        if run.stop.is_set() and run.task is not None:
            _ = run.task.cancel()
        run.stop.set()

    async def _run(
        self, job_id: str, run: RunningJob, settings: RunSettings, *, goes_on: bool
    ) -> None:
        try:
            async with Ledger(run.path) as ledger:
                _ = self._errors.pop(job_id, None)
                # Before its start is reported, so that it goes on if this process is killed.
                await ledger.note(run_by=RUN_BY, run_settings=settings.noted())
                run.opened.set()
                self.on_change(job_id)
                stops = running(
                    _note_stop(run, ledger),
                    name="aiotasks: stop of a job",
                    end=asyncio.Task.cancel,
                    on_crash=run.stop.set,
                )
                async with stops:
                    await self._work(run, ledger, settings, goes_on=goes_on)
        except AffinityError as error:
            if run.opened.is_set():
                self._errors[job_id] = str(error)
            run.refusal = error
        except Exception:
            self._errors[job_id] = "It ended unexpectedly: the log of the server has more"
            raise

    def _remove(self, job_id: str, run: RunningJob) -> None:
        del self._runs[job_id]
        # A run that could not lock the ledger never began, so its end is not reported.
        self._ended[job_id] += run.opened.is_set()
        run.opened.set()
        self.on_change(job_id)

    async def _work(
        self, run: RunningJob, ledger: Ledger, settings: RunSettings, *, goes_on: bool
    ) -> None:
        try:
            result = await self._resume(run, ledger, settings, goes_on=goes_on)
        except asyncio.CancelledError:
            # At the end of the server it stays noted as the server's, and goes on with the next.
            if run.is_over.is_set():
                await _note_end(ledger, None)
            raise
        except Exception as error:
            await _note_end(ledger, error if isinstance(error, AffinityError) else None)
            raise
        await _note_end(ledger, result.error)

    async def _resume(
        self, run: RunningJob, ledger: Ledger, settings: RunSettings, *, goes_on: bool
    ) -> JobResult:
        attempt = 1
        while True:
            try:
                return await resume(
                    self._client,
                    ledger,
                    settings=settings.settings,
                    retry_failed=settings.retry_failed,
                    stop=run.stop,
                    on_progress=run.update,
                    on_event=run.note_event,
                    run_by=RUN_BY,
                )
            except AffinityError as error:
                failure = error
            if not (goes_on and await pause_before_retry(failure, attempt, run.stop)):
                raise failure
            attempt += 1


async def _note_stop(run: RunningJob, ledger: Ledger) -> None:
    """Note a stop at once: this process may be killed before the open merges have ended."""
    _ = await run.is_over.wait()
    await ledger.note(run_by=None)


async def _note_end(ledger: Ledger, error: AffinityError | None) -> None:
    with suppress(LedgerError):
        await ledger.note(error=None if error is None else str(error), run_by=None)
