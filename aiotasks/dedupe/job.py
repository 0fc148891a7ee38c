"""Run a planned job, and go on with it: what users call."""

import asyncio
import math
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
from ._preview import Preview
from ._progress import OnEvent, OnProgress
from ._run.queue import MergeQueue
from ._run.run import JobRun, Terms
from ._taskgroups import unwrap_errors
from .ledger import Ledger
from .models import JobInfo, Pair, PairState, StopReason, Transition
from .plan import Plan


_LEFT = [state for state in PairState if state.is_left]


class JobResult(Struct, frozen=True, kw_only=True):
    """What a run came to.

    ``totals`` are those of the ledger, over all runs. ``stopped`` says why pairs are left, and
    ``error`` what stopped it, if that was one. Without having been stopped, pairs are left only
    where one of their cluster is unsettled. ``calls`` and ``seconds`` are those of this run.
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
    preview: Preview | None = None,
    max_open: int = 200,
    canary: int = 10,
    max_failure_rate: float = 0.2,
    grace: float = 30.0,
    settle_after: float = 60.0,
    poll_interval: float = 4.0,
    retry_failed: bool = False,
    stop: asyncio.Event | None = None,
    on_progress: OnProgress | None = None,
    on_event: OnEvent | None = None,
    clock: Callable[[], float] = time.time,
) -> JobResult:
    """Merge what a plan says, each pair at most once, and return what became of all of them.

    Merges of companies are **permanent**: show the plan first. The ledger has the plan and a
    snapshot of all its records before the first merge, and each step before anybody acts on it.
    After a crash, call this again, or ``resume``: it goes on where the ledger is. A merge whose
    request was not answered is looked for in the server's merge list, and sent again only when
    that proves that it never ran.

    Args:
        client: An open client.
        plan: What to merge.
        ledger: An open ledger: a new one, or that of the same plan.
        preview: What ``preview`` has found for this plan just now, so that it is not asked again.
        max_open: The most merges that are open at once.
        canary: So many merges have to end before the others start; 0 for none. It is done again
            after a job stopped for its failures.
        max_failure_rate: The job stops when more than this share of the last 50 pairs failed.
        grace: Seconds for which open merges are waited for after a stop.
        settle_after: Seconds after which a merge that is in no list counts as never started, where
            no later one is listed that would prove it sooner. Lists must not lag by more.
        poll_interval: Seconds from the start of a merge to the first look at it; the next come
            ever later. Nobody waits for one merge of a job, and later looks leave more calls to
            merges.
        retry_failed: Whether pairs that failed or were refused are tried again.
        stop: Set it to stop the job: nothing more is started, and open merges get their grace.
            Cancelling the call instead ends it at once, and loses nothing either.
        on_progress: Called with a ``JobProgress`` about once a second, and at the end.
        on_event: Called with each ``JobEvent``. What either of the two raises ends the run.
        clock: The time in seconds since the epoch, for the ledger.

    Raises:
        ConfigurationError: when a setting cannot be used.
        LedgerError: when the ledger is that of another job, or cannot be written.
        AffinityError: when the API cannot be asked at the start. Later, a key that is refused, a
            month that is used up, and an outage of ten minutes stop the job: see ``stopped``.
    """
    terms = _checked(
        Terms(
            max_open=max_open,
            canary=canary,
            max_failure_rate=max_failure_rate,
            grace=grace,
            settle_after=settle_after,
            poll_interval=poll_interval,
        )
    )
    if preview is not None and preview.plan.fingerprint != plan.fingerprint:
        message = "The preview is one of another plan: look at this one"
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
    return await _go_on(
        client,
        ledger,
        terms,
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
    max_open: int = 200,
    canary: int = 10,
    max_failure_rate: float = 0.2,
    grace: float = 30.0,
    settle_after: float = 60.0,
    poll_interval: float = 4.0,
    retry_failed: bool = False,
    stop: asyncio.Event | None = None,
    on_progress: OnProgress | None = None,
    on_event: OnEvent | None = None,
    clock: Callable[[], float] = time.time,
) -> JobResult:
    """Go on with the job in a ledger, which has all that is needed; see ``run``.

    Raises:
        ConfigurationError: when a setting cannot be used.
        LedgerError: when the ledger has no job, or one of another origin, or cannot be written.
        AffinityError: when the API cannot be asked at the start.
    """
    terms = _checked(
        Terms(
            max_open=max_open,
            canary=canary,
            max_failure_rate=max_failure_rate,
            grace=grace,
            settle_after=settle_after,
            poll_interval=poll_interval,
        )
    )
    return await _go_on(
        client,
        ledger,
        terms,
        retry_failed=retry_failed,
        stop=stop,
        on_progress=on_progress,
        on_event=on_event,
        clock=clock,
    )


async def _go_on(
    client: Client,
    ledger: Ledger,
    terms: Terms,
    *,
    retry_failed: bool,
    stop: asyncio.Event | None,
    on_progress: OnProgress | None,
    on_event: OnEvent | None,
    clock: Callable[[], float],
) -> JobResult:
    job = _job_of(ledger, client)
    started, calls_before = asyncio.get_running_loop().time(), client.quota.sent
    if retry_failed:
        await _plan_again(ledger, clock())
    anchor = await _anchor(client, ledger, job)
    pairs = await ledger.pairs(*_LEFT)
    totals = await ledger.totals()
    board = await _board(ledger, pairs, terms)
    async with client.tasks.watch(timeout=None, poll_interval=terms.poll_interval) as watch:
        work = JobRun(
            client,
            ledger,
            watch,
            job=job,
            board=board,
            totals=dict(totals),
            terms=terms,
            anchor=anchor,
            seq=await ledger.last_seq(),
            clock=clock,
            on_progress=on_progress,
            on_event=on_event,
        )
        for pair in _open_of(pairs):
            await work.take_up(pair)
        await work.run(stop or asyncio.Event())
    if work.stopped in {None, StopReason.FAILURES}:
        await _identify(client, ledger, job, anchor)
    totals = await ledger.totals()
    if on_progress is not None:
        _ = on_progress(replace(work.progress(), totals=totals))
    is_left = any(totals[state] for state in _LEFT)
    return JobResult(
        totals=totals,
        stopped=work.stopped if is_left else None,
        error=work.error if is_left else None,
        calls=client.quota.sent - calls_before,
        seconds=asyncio.get_running_loop().time() - started,
    )


def _job_of(ledger: Ledger, client: Client) -> JobInfo:
    job = ledger.require_job()
    if job.origin != client.base_url:
        message = (
            f"its job is one of {job.origin}, and the client asks {client.base_url}: "
            "give the base URL that it was begun with"
        )
        raise LedgerError(str(ledger.path), message)
    return job


async def _plan_again(ledger: Ledger, at: float) -> None:
    failed = await ledger.pairs(*(state for state in PairState if state.can_retry))
    with unwrap_errors():
        async with asyncio.TaskGroup() as group:
            for pair in failed:
                if pair.is_planned:
                    transition = Transition(number=pair.number, state=PairState.PLANNED, at=at)
                    _ = group.create_task(ledger.record(transition))


async def _anchor(client: Client, ledger: Ledger, job: JobInfo) -> int | None:
    """Return the newest merge that was there before this job's first, or none if none was."""
    anchor, totals = (await ledger.notes()).get("anchor"), await ledger.totals()
    if anchor is None:
        anchor = await _newest(client, job)
        await ledger.note(anchor=anchor)
    elif any(totals[state] for state in _LEFT):
        # A run that cannot reach the server at all ends here, and does not wait for it.
        with suppress(ResponseError, DecodeError):
            _ = await _newest(client, job)
    return int(anchor) if anchor else None


async def _newest(client: Client, job: JobInfo) -> str:
    async with aclosing(client.merges_of(job.kind).merges()) as merges:
        async for merge in merges:
            return str(merge.id)
    return ""


async def _board(ledger: Ledger, pairs: list[Pair], terms: Terms) -> MergeQueue:
    was_stopped = (await ledger.notes()).get("stopped") == StopReason.FAILURES
    # What had been merged before this job has tried nothing.
    tried = [pair for pair in await ledger.pairs(PairState.SUCCEEDED) if pair.task_url is not None]
    is_tried = len(tried) >= terms.canary and not was_stopped
    return MergeQueue(
        [pair for pair in pairs if pair.state is PairState.PLANNED],
        _open_of(pairs),
        max_open=terms.max_open,
        canary=0 if is_tried else terms.canary,
        max_failure_rate=terms.max_failure_rate,
    )


def _open_of(pairs: list[Pair]) -> list[Pair]:
    return [pair for pair in pairs if pair.state is not PairState.PLANNED]


async def _identify(client: Client, ledger: Ledger, job: JobInfo, anchor: int | None) -> None:
    """Note the server's ids of this job's merges, out of its list, a hundred a call."""
    wanted = {
        pair.task_url.rpartition("/")[2]: pair.number
        for pair in await ledger.pairs(PairState.SUCCEEDED, PairState.FAILED)
        if pair.task_url is not None and pair.merge_id is None
    }
    found: dict[int, int] = {}
    if not wanted:
        return
    # They are worth a few calls, and no failure: the report leaves blank what was not learned.
    with suppress(AffinityError):
        async with aclosing(client.merges_of(job.kind).merges()) as merges:
            async for merge in merges:
                if not wanted or merge.id == anchor:
                    break
                if (number := wanted.pop(merge.task_id, None)) is not None:
                    found[number] = merge.id
    await ledger.identify(found)


def _checked(terms: Terms) -> Terms:
    rules = {
        "max_open": (terms.max_open >= 1, "1 or more"),
        "canary": (terms.canary >= 0, "0 (none) or more"),
        "max_failure_rate": (0 <= terms.max_failure_rate <= 1, "a share from 0 to 1"),
        "grace": (0 <= terms.grace < math.inf, "a number of seconds, 0 or more"),
        "settle_after": (0 <= terms.settle_after < math.inf, "a number of seconds, 0 or more"),
        "poll_interval": (0 < terms.poll_interval < math.inf, "a positive number of seconds"),
    }
    for name, (holds, rule) in rules.items():
        if not holds:
            message = f"{name} must be {rule}, not {getattr(terms, name)!r}"
            raise ConfigurationError(message)
    return terms
