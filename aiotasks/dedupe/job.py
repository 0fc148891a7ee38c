"""Run a planned job, or continue one: the public functions."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress

from msgspec import Struct
from msgspec.structs import replace

from aiotasks.client import Client
from aiotasks.errors import (
    AffinityError,
    ConfigurationError,
    DecodeError,
    LedgerError,
    ResponseError,
)

from . import _preview
from ._exception_groups import unwrap_errors
from ._preview import Preview
from ._progress import OnEvent, OnProgress
from ._run.queue import MergeQueue
from ._run.reconciler import Reconciler
from ._run.run import JobRun
from ._run.tracker import PairTracker
from .ledger import Ledger
from .models import JobInfo, Pair, PairState, StopReason, Transition, has_pairs_left
from .plan import Plan
from .settings import JobSettings


class JobResult(Struct, frozen=True, kw_only=True):
    """How a run ended.

    ``totals`` are those of the ledger, over all runs. If pairs are left, ``stopped`` is why, and
    ``error`` the error that stopped the job, if one did. In a job that was not stopped, pairs are
    left only if one of their cluster is unsettled. ``calls`` and ``seconds`` are those of this run.
    """

    totals: Mapping[PairState, int]
    stopped: StopReason | None
    error: AffinityError | None
    calls: int
    seconds: float


async def run(
    client: Client,
    plan: Plan,
    ledger: Ledger,
    *,
    settings: JobSettings = JobSettings(),
    preview: Preview | None = None,
    retry_failed: bool = False,
    stop: asyncio.Event | None = None,
    on_progress: OnProgress | None = None,
    on_event: OnEvent | None = None,
    clock: Callable[[], float] = time.time,
) -> JobResult:
    """Merge the pairs of a plan, each at most once, and return how they ended.

    Merges of companies are **permanent**: show the plan first. The plan and a snapshot of all its
    records are in the ledger before the first merge is sent, and each transition is on disk before
    the run acts on it. After a crash, call this again, or ``resume``: it continues where the ledger
    ends. A merge whose request was not answered is searched in the server's merge list, and is
    sent again only when that proves that it never ran.

    Args:
        client: An open client.
        plan: What to merge.
        ledger: An open ledger: a new one, or that of the same plan.
        settings: How the job runs.
        preview: A recent ``preview`` of this plan; without it, a new job asks for one.
        retry_failed: Whether pairs that failed or were refused are planned again.
        stop: Set it to stop the job: no more merges are sent, and open ones get their grace.
            Cancelling the call ends it immediately; it loses nothing either.
        on_progress: Called with a ``JobProgress`` about once a second, and at the end.
        on_event: Called with each ``JobEvent``. An exception of either callback ends the run.
        clock: The time in seconds since the epoch, for the ledger.

    Raises:
        ConfigurationError: when the preview is that of another plan.
        LedgerError: when the ledger is that of another job, or cannot be written.
        AffinityError: when the API cannot be reached at the start. Later, a refused key, a monthly
            quota that is used up and an outage of ten minutes stop the job: see ``stopped``.
    """
    if preview is not None and preview.plan.fingerprint != plan.fingerprint:
        message = "The preview is that of another plan: make one of this plan"
        raise ConfigurationError(message)
    if ledger.job is None:
        preview = preview or await _preview.preview(client, plan)
        at = clock()
        await ledger.begin(
            plan,
            origin=client.base_url,
            records=preview.records,
            findings=preview.findings(at),
            at=at,
        )
    ledger.check(plan, origin=client.base_url)
    return await resume(
        client,
        ledger,
        settings=settings,
        retry_failed=retry_failed,
        stop=stop,
        on_progress=on_progress,
        on_event=on_event,
        clock=clock,
    )


async def resume(
    client: Client,
    ledger: Ledger,
    *,
    settings: JobSettings = JobSettings(),
    retry_failed: bool = False,
    stop: asyncio.Event | None = None,
    on_progress: OnProgress | None = None,
    on_event: OnEvent | None = None,
    clock: Callable[[], float] = time.time,
) -> JobResult:
    """Continue the job of a ledger, which contains everything that is needed; see ``run``.

    Raises:
        LedgerError: when the ledger has no job, or one of another origin, or cannot be written.
        AffinityError: when the API cannot be reached at the start.
    """
    job = _job_of(ledger, client)
    # The error of an earlier run, which a server may have noted, says nothing about this one.
    await ledger.note(error=None)
    started, calls_before = asyncio.get_running_loop().time(), client.quota.sent
    if retry_failed:
        await _plan_again(ledger, clock())
    anchor = await _load_anchor(client, ledger, job)
    pairs = await ledger.pairs(*(state for state in PairState if state.is_left))
    async with client.tasks.watch(timeout=None, poll_interval=settings.poll_interval) as watch:
        tracker = PairTracker(
            ledger,
            watch,
            await _queue_of(ledger, pairs, settings),
            totals=dict(await ledger.totals()),
            seq=await ledger.last_seq(),
            settings=settings,
            clock=clock,
            on_event=on_event,
        )
        reconciler = Reconciler(client, tracker, kind=job.kind, anchor=anchor)
        job_run = JobRun(client, tracker, reconciler, kind=job.kind, on_progress=on_progress)
        for pair in _open_of(pairs):
            await job_run.adopt(pair)
        await job_run.run(stop or asyncio.Event())
    stopped = tracker.queue.stopped
    if stopped in {None, StopReason.FAILURES}:
        await _record_merge_ids(client, ledger, job, anchor)
    totals = await ledger.totals()
    if on_progress is not None:
        _ = on_progress(replace(job_run.progress(), totals=totals))
    is_left = has_pairs_left(totals)
    return JobResult(
        totals=totals,
        stopped=stopped if is_left else None,
        error=tracker.error if is_left else None,
        calls=client.quota.sent - calls_before,
        seconds=asyncio.get_running_loop().time() - started,
    )


def _job_of(ledger: Ledger, client: Client) -> JobInfo:
    job = ledger.require_job()
    if job.origin != client.base_url:
        message = (
            f"its job is one of {job.origin}, and the client's base URL is {client.base_url}: "
            "give the base URL that it was begun with"
        )
        raise LedgerError(str(ledger.path), message)
    return job


async def _plan_again(ledger: Ledger, at: float) -> None:
    failed = await ledger.pairs(*(state for state in PairState if state.can_retry))
    with unwrap_errors():
        # A task each, so that all transitions share a commit.
        async with asyncio.TaskGroup() as group:
            for pair in failed:
                if pair.is_planned:
                    transition = Transition(number=pair.number, state=PairState.PLANNED, at=at)
                    _ = group.create_task(ledger.record(transition))


async def _load_anchor(client: Client, ledger: Ledger, job: JobInfo) -> int | None:
    """Return the newest merge that the list had before this job's first, or none if it was empty.

    Scans of the list end there, however many merges the organization had before.
    """
    anchor, totals = (await ledger.notes()).get("anchor"), await ledger.totals()
    if anchor is None:
        anchor = await _newest(client, job)
        await ledger.note(anchor=anchor)
    elif has_pairs_left(totals):
        # A run that cannot reach the server at all ends here, instead of waiting for an outage.
        with suppress(ResponseError, DecodeError):
            _ = await _newest(client, job)
    return int(anchor) if anchor else None


async def _newest(client: Client, job: JobInfo) -> str:
    async with aclosing(client.merges_of(job.kind).merges()) as merges:
        async for merge in merges:
            return str(merge.id)
    return ""


async def _queue_of(ledger: Ledger, pairs: list[Pair], settings: JobSettings) -> MergeQueue:
    was_stopped = (await ledger.notes()).get("stopped") == StopReason.FAILURES
    # A pair that had been merged before this job has tried nothing, and has no task.
    tried = [pair for pair in await ledger.pairs(PairState.SUCCEEDED) if pair.task_url is not None]
    is_tried = len(tried) >= settings.canary and not was_stopped
    return MergeQueue(
        [pair for pair in pairs if pair.state is PairState.PLANNED],
        _open_of(pairs),
        replace(settings, canary=0) if is_tried else settings,
    )


def _open_of(pairs: list[Pair]) -> list[Pair]:
    return [pair for pair in pairs if pair.state is not PairState.PLANNED]


async def _record_merge_ids(
    client: Client, ledger: Ledger, job: JobInfo, anchor: int | None
) -> None:
    """Record the server's ids of this job's merges from its list, a hundred a call."""
    wanted = {
        pair.task_url.rpartition("/")[2]: pair.number
        for pair in await ledger.pairs(PairState.SUCCEEDED, PairState.FAILED)
        if pair.task_url is not None and pair.merge_id is None
    }
    found: dict[int, int] = {}
    if not wanted:
        return
    # Best effort: a failure here is ignored, and the report leaves the missing ids blank.
    with suppress(AffinityError):
        async with aclosing(client.merges_of(job.kind).merges()) as merges:
            async for merge in merges:
                if not wanted or merge.id == anchor:
                    break
                if (number := wanted.pop(merge.task_id, None)) is not None:
                    found[number] = merge.id
    await ledger.record_merge_ids(found)
