"""Run a planned job, or continue one: the public functions."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from typing import Final

from msgspec.structs import replace

from aiotasks._spans import span
from aiotasks.client import Client
from aiotasks.errors import AffinityError, ConfigurationError, LedgerError, MonthlyQuotaError
from aiotasks.models import Lateness, Value

from . import _preview
from ._durations import Durations, durations_note, noted_durations
from ._effects import Outlook
from ._new_companies import record_new_ids
from ._outlook import read_outlook
from ._preview import Preview
from ._progress import OnEvent, OnProgress
from ._run.indeterminate import task_id_of
from ._run.opening import Opening
from ._run.poll_pace import PollPace
from ._run.queue import MergeQueue
from ._run.reconciler import Reconciler
from ._run.run import JobRun
from ._run.server_lists import ServerLists
from ._run.task_history import TaskHistory
from ._run.tracker import PairTracker
from .ledger import Ledger
from .models import JobInfo, Pair, PairState, StopReason, has_pairs_left
from .plan import Plan
from .settings import JobSettings


log = logging.getLogger("aiotasks.dedupe")

# A choice: merges of others may stand between this job's, but not many.
_OTHERS_IN_A_ROW: Final = 300


class JobResult(Value, frozen=True, kw_only=True):
    """How a run ended.

    ``totals`` are those of the ledger, over all runs. If pairs are left, ``stopped`` is why, and
    ``error`` the error that stopped the job, if one did; if failures did, ``failures`` says how
    many of which merges failed. In a job that was not stopped, pairs are left only if one of their
    cluster is unsettled. ``calls`` and ``seconds`` are those of this run.
    """

    totals: Mapping[PairState, int]
    stopped: StopReason | None
    error: AffinityError | None
    failures: str | None = None
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

    Some merges can **never** be undone: show the preview first. The plan and a snapshot of all its
    records are in the ledger before the first merge is sent, and each transition is on disk before
    the run acts on it. After a crash, call this again, or ``resume``: it continues where the ledger
    ends. A merge whose request was not answered is searched in the server's lists, and is sent
    again only when those and both records prove that it never ran. What other programs, or another
    ledger, have begun of the plan is read before the first merge is sent, and taken up.

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
        await begin(ledger, preview, origin=client.base_url, at=clock())
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


async def begin(ledger: Ledger, preview: Preview, *, origin: str, at: float) -> None:
    """Write the job of a preview to a new ledger; ``resume`` runs it.

    Raises:
        LedgerError: when the ledger has a job, or cannot be written.
    """
    await ledger.begin(
        preview.plan,
        origin=origin,
        records=preview.records,
        findings=preview.findings(at),
        at=at,
    )
    await ledger.note(
        previewed=" ".join(preview.tasks), durations=durations_note(preview.durations)
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
    run_by: str | None = None,
) -> JobResult:
    """Continue the job of a ledger, which contains everything that is needed; see ``run``.

    The ledger's note ``run_by`` says who runs the job, and is left to who gave it.

    Raises:
        LedgerError: when the ledger has no job, or one of another origin, or cannot be written.
        AffinityError: when the API cannot be reached at the start.
    """
    job = _job_of(ledger, client)
    log.info("A job of %d merges begins or goes on", job.merges, extra={"merges": job.merges})
    with span("job", kind=job.kind, merges=job.merges):
        result = await _resume(
            client,
            ledger,
            job,
            settings=settings,
            retry_failed=retry_failed,
            stop=stop,
            on_progress=on_progress,
            on_event=on_event,
            clock=clock,
            run_by=run_by,
        )
    fields = {
        "stopped": result.stopped and str(result.stopped),
        "calls": result.calls,
        "seconds": result.seconds,
        "totals": {str(state): count for state, count in result.totals.items() if count},
    }
    log.info("The job has ended: %(totals)s after %(seconds).1f s", fields, extra=fields)
    return result


async def _resume(
    client: Client,
    ledger: Ledger,
    job: JobInfo,
    *,
    settings: JobSettings,
    retry_failed: bool,
    stop: asyncio.Event | None,
    on_progress: OnProgress | None,
    on_event: OnEvent | None,
    clock: Callable[[], float],
    run_by: str | None,
) -> JobResult:
    # The error of an earlier run, which a server may have noted, says nothing about this one.
    await ledger.note(error=None, run_by=run_by)
    started, calls_before = asyncio.get_running_loop().time(), client.quota.sent
    lateness_before = client.lateness
    outlook = await read_outlook(ledger)
    pairs = await _pairs_to_do(ledger, outlook, retry_failed=retry_failed)
    queue = await _queue_of(ledger, pairs, settings)
    durations = Durations(noted_durations(await ledger.notes()))
    loop = asyncio.get_running_loop()
    async with client.tasks.watch(
        timeout=None,
        backoff=PollPace(settings.poll_interval, durations, queue, loop.time),
        on_failure=lambda url: tracker.note_failure(url),  # noqa: PLW0108 - it needs the watch
    ) as watch:
        tracker = PairTracker(
            ledger,
            watch,
            queue,
            totals=dict(await ledger.totals()),
            seq=await ledger.last_seq(),
            history=await _history_of(ledger, settings, now=started),
            durations=durations,
            settings=settings,
            clock=clock,
            on_event=on_event,
        )
        lists = ServerLists(client, job.kind, tracker.history)
        reconciler = Reconciler(tracker, lists)
        opening = Opening(client, tracker, lists, reconciler)
        try:
            await opening.read()
        except MonthlyQuotaError as error:
            _ = tracker.stop_for(error)
        job_run = JobRun(client, tracker, reconciler, opening, outlook, on_progress=on_progress)
        for pair in pairs:
            if pair.state.is_left and pair.state is not PairState.PLANNED:
                await job_run.adopt(pair)
        await job_run.run(stop or asyncio.Event())
        opening.end()
    await _note_lateness(client, ledger, lateness_before)
    stopped = tracker.queue.stopped
    if stopped in {None, StopReason.FAILURES}:
        await _record_merge_ids(client, ledger, job)
        await record_new_ids(client, ledger, outlook)
    totals = await ledger.totals()
    if on_progress is not None:
        _ = on_progress(replace(job_run.progress(), totals=totals))
    is_left = has_pairs_left(totals) or tracker.queue.left > 0
    return JobResult(
        totals=totals,
        stopped=stopped if is_left else None,
        error=tracker.error if is_left else None,
        failures=tracker.queue.failures if is_left else None,
        calls=client.quota.sent - calls_before,
        seconds=asyncio.get_running_loop().time() - started,
    )


async def _note_lateness(client: Client, ledger: Ledger, before: Lateness) -> None:
    """Note how late this job's tasks became visible, for diagnoses."""
    now = client.lateness
    run = Lateness(tasks=now.tasks - before.tasks, late=now.late - before.late, longest=now.longest)
    total = lateness_of(await ledger.notes()) + run
    await ledger.note(lateness=f"{total.tasks} {total.late} {total.longest:.1f}")


def lateness_of(notes: Mapping[str, str]) -> Lateness:
    """Return how late the tasks of a job became visible, by the notes of its ledger."""
    try:
        tasks, late, longest = notes.get("lateness", "").split()
        return Lateness(tasks=int(tasks), late=int(late), longest=float(longest))
    except ValueError:
        return Lateness()


def _job_of(ledger: Ledger, client: Client) -> JobInfo:
    job = ledger.require_job()
    if job.origin != client.base_url:
        message = (
            f"its job is one of {job.origin}, and the client's base URL is {client.base_url}: "
            "give the base URL that it was begun with"
        )
        raise LedgerError(str(ledger.path), message)
    return job


async def _pairs_to_do(ledger: Ledger, outlook: Outlook, *, retry_failed: bool) -> list[Pair]:
    """Return what another run may change, within each cluster in the order in which it has to run.

    A pair is changed only when its new attempt is sent.
    """
    pairs = await ledger.pairs(*(state for state in PairState if state.is_left))
    if retry_failed:
        ended = await ledger.pairs(*(state for state in PairState if state.can_retry))
        pairs += [pair for pair in ended if pair.number in outlook.effects]
    order = {number: place for place, number in enumerate(outlook.effects)}
    return sorted(pairs, key=lambda pair: order.get(pair.number, math.inf))


async def _history_of(ledger: Ledger, settings: JobSettings, *, now: float) -> TaskHistory:
    notes = await ledger.notes()
    return TaskHistory(
        map(task_id_of, await ledger.task_urls()),
        notes.get("anchors", "").split(),
        settle_after=settings.settle_after,
        now=now,
    )


async def _queue_of(ledger: Ledger, pairs: list[Pair], settings: JobSettings) -> MergeQueue:
    was_stopped = (await ledger.notes()).get("stopped") == StopReason.FAILURES
    # A pair that had been merged before this job has tried nothing, and has no task.
    tried = [pair for pair in await ledger.pairs(PairState.SUCCEEDED) if pair.task_url is not None]
    return MergeQueue(
        [pair for pair in pairs if _is_to_be_sent(pair)],
        [pair for pair in pairs if not _is_to_be_sent(pair)],
        settings,
        succeeded=0 if was_stopped else len(tried),
    )


def _is_to_be_sent(pair: Pair) -> bool:
    return pair.state is PairState.PLANNED or pair.state.can_retry


async def _record_merge_ids(client: Client, ledger: Ledger, job: JobInfo) -> None:
    """Record the server's ids of this job's merges from its list, a hundred a call."""
    wanted = {
        task_id_of(pair.task_url): pair.number
        for pair in await ledger.pairs(PairState.SUCCEEDED, PairState.FAILED)
        if pair.task_url is not None and pair.merge_id is None
    }
    if not wanted:
        return
    found, others = dict[int, int](), 0
    # Best effort: a failure here is ignored, and the report leaves the missing ids blank.
    with suppress(AffinityError):
        async with aclosing(client.merges_of(job.kind).merges()) as merges:
            async for merge in merges:
                number = wanted.pop(merge.task_id, None)
                others = 0 if number is not None else others + 1
                if number is not None:
                    found[number] = merge.id
                # A merge whose primary is a global record, or gone, has no row.
                if not wanted or others == _OTHERS_IN_A_ROW:
                    break
    await ledger.record_merge_ids(found)
