"""The jobs that run in this process: how they start, stop and end."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aiotasks.client import Client
from aiotasks.dedupe import JobProgress, Ledger, resume
from aiotasks.errors import AffinityError, LedgerError

from ._background import BackgroundTasks


class BusyError(AffinityError):
    """Raised when a job cannot be started or stopped as it is now."""


class RunningJob:
    """A job that runs here, from the moment that somebody asked for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.progress: JobProgress | None = None
        self.stop = asyncio.Event()
        self.opened = asyncio.Event()
        self.refusal: AffinityError | None = None
        self.task: asyncio.Task[None] | None = None

    def show(self, progress: JobProgress) -> None:
        """Keep the newest that the run has told."""
        self.progress = progress


class JobRunner:
    """Runs jobs, each at most once at a time, with one client for all."""

    def __init__(self, client: Client, scope: BackgroundTasks) -> None:
        self._client = client
        self._scope = scope
        self._runs: dict[str, RunningJob] = {}
        self._errors: dict[str, str] = {}
        self._ended = Counter[str]()
        self.on_change: Callable[[str], object] = lambda _: None

    def run_of(self, job_id: str) -> RunningJob | None:
        """Return the run of a job, if it runs here."""
        return self._runs.get(job_id)

    def error_of(self, job_id: str) -> str | None:
        """Return what has ended the last run here, where the ledger could not be told."""
        return self._errors.get(job_id)

    def ended(self, job_id: str) -> int:
        """Return how many runs of a job have ended here."""
        return self._ended[job_id]

    async def start(self, job_id: str, path: Path, *, retry_failed: bool) -> None:
        """Start a job, and return once its ledger is held.

        Raises:
            BusyError: when it runs here already.
            LedgerError: when it cannot be held, since another process does, or at all.
            EndingError: when the application ends.
        """
        if job_id in self._runs:
            message = "The job runs already"
            raise BusyError(message)
        run = RunningJob(path)
        work = self._run(job_id, run, retry_failed=retry_failed)
        run.task = self._scope.run(work, name=f"job {job_id}")
        self._runs[job_id] = run
        # So it is over in any case, even when it is cancelled before its first step.
        run.task.add_done_callback(lambda _: self._leave(job_id, run))
        _ = await run.opened.wait()
        if run.refusal is not None:
            raise run.refusal

    @contextmanager
    def showing(self, job_id: str, run: RunningJob) -> Iterator[None]:
        """Show a job that something else in this process runs, for as long as it does."""
        self._runs[job_id] = run
        run.opened.set()
        try:
            yield
        finally:
            self._leave(job_id, run)

    def stop(self, job_id: str) -> None:
        """Stop a job: nothing more is started, and what is open gets its grace.

        The second time, it ends at once.

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

    async def _run(self, job_id: str, run: RunningJob, *, retry_failed: bool) -> None:
        try:
            async with Ledger(run.path) as ledger:
                _ = self._errors.pop(job_id, None)
                run.opened.set()
                self.on_change(job_id)
                await self._work(run, ledger, retry_failed=retry_failed)
        except AffinityError as error:
            if run.opened.is_set():
                self._errors[job_id] = str(error)
            run.refusal = error
        except Exception:
            self._errors[job_id] = "It ended unexpectedly: the log of the server tells more"
            raise

    def _leave(self, job_id: str, run: RunningJob) -> None:
        del self._runs[job_id]
        # What was refused has not begun.
        self._ended[job_id] += run.opened.is_set()
        run.opened.set()
        self.on_change(job_id)

    async def _work(self, run: RunningJob, ledger: Ledger, *, retry_failed: bool) -> None:
        await ledger.note(error=None)
        try:
            result = await resume(
                self._client,
                ledger,
                retry_failed=retry_failed,
                stop=run.stop,
                on_progress=run.show,
            )
        except AffinityError as error:
            with suppress(LedgerError):
                await ledger.note(error=str(error))
            raise
        if result.error is not None:
            await ledger.note(error=str(result.error))
