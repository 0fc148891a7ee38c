"""The jobs that run in this process: how they start, stop and end."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from aiotasks.client import Client
from aiotasks.dedupe import JobProgress, JobSettings, Ledger, resume
from aiotasks.errors import AffinityError, LedgerError

from ._background import BackgroundTasks


class BusyError(AffinityError):
    """Raised when a job cannot be started or stopped as it is now."""


class RunningJob:
    """A job that runs in this process, from the request that started it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.progress: JobProgress | None = None
        self.stop = asyncio.Event()
        self.opened = asyncio.Event()
        self.refusal: AffinityError | None = None
        self.task: asyncio.Task[None] | None = None

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
        self, job_id: str, path: Path, *, settings: JobSettings, retry_failed: bool
    ) -> None:
        """Start a job, and return once its ledger is locked for this process.

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
        work = self._run(job_id, run, settings=settings, retry_failed=retry_failed)
        run.task = self._tasks.run(work, name=f"job {job_id}")
        self._runs[job_id] = run
        # Not in a `finally` of the task: one that is cancelled before its first step never runs it.
        run.task.add_done_callback(lambda _: self._remove(job_id, run))
        _ = await run.opened.wait()
        if run.refusal is not None:
            raise run.refusal

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
        if run.stop.is_set() and run.task is not None:
            _ = run.task.cancel()
        run.stop.set()

    async def _run(
        self, job_id: str, run: RunningJob, *, settings: JobSettings, retry_failed: bool
    ) -> None:
        try:
            async with Ledger(run.path) as ledger:
                _ = self._errors.pop(job_id, None)
                run.opened.set()
                self.on_change(job_id)
                await self._work(run, ledger, settings=settings, retry_failed=retry_failed)
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
        self, run: RunningJob, ledger: Ledger, *, settings: JobSettings, retry_failed: bool
    ) -> None:
        try:
            result = await resume(
                self._client,
                ledger,
                settings=settings,
                retry_failed=retry_failed,
                stop=run.stop,
                on_progress=run.update,
            )
        except AffinityError as error:
            with suppress(LedgerError):
                await ledger.note(error=str(error))
            raise
        if result.error is not None:
            await ledger.note(error=str(result.error))
