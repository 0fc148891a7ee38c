"""The commands that merge: run a plan, and continue it."""

import asyncio
import shlex
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from aiotasks._text import counted, duration
from aiotasks.client import Client, ClientSettings
from aiotasks.dedupe import (
    InputOptions,
    JobProgress,
    JobResult,
    JobSettings,
    Ledger,
    PairState,
    Plan,
    Preview,
    resume,
    run,
)
from aiotasks.dedupe.models import has_pairs_left
from aiotasks.errors import LedgerError, NoJobError
from aiotasks.models import Quota

from . import job_text, plan_text
from .client_options import with_client_settings
from .command import complete, fail
from .commands import Commands
from .end_hooks import EndHooks, with_end_hooks
from .exit_codes import Exit
from .interrupts import on_interrupt
from .json_progress import JsonProgress
from .options import (
    Conflicts,
    KindOption,
    LedgerFile,
    MaxCluster,
    NoNewCompany,
    Page,
    PairsFile,
    Protect,
    ProtectColumn,
    Recover,
    RetryFailed,
    is_there,
    must_exist,
    with_input_options,
    with_job_settings,
)
from .output import note, say
from .plan import dry_run, preview_of
from .plan_input import PlanInput, ProtectedIds
from .progress import JobProgressBar
from .serve import page_beside
from .wrapping import on_terminal


_MOST_REASONS = 5
_NOTHING_LOST = "Nothing is lost: run the same command again to continue."
commands = Commands()

JsonLines = Annotated[
    bool, typer.Option("--json", help="Print the progress as JSON lines, and at last the totals.")
]


class JobView(NamedTuple):
    """How a job is shown while it runs, and what is called at its end."""

    as_json: bool
    is_page: bool
    hooks: EndHooks


@commands.command(short_help="Merge the pairs of a file, after a question.")
@with_input_options
@with_job_settings
@with_end_hooks
@with_client_settings
def merge(
    pairs: PairsFile,
    *,
    kind: KindOption,
    ledger: Annotated[
        Path | None,
        typer.Option(
            help="The file that stores the job.", show_default="PAIRS with the ending .job.db"
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Merge without asking for confirmation.")
    ] = False,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan only, as `aiotasks plan` does.")
    ] = False,
    fingerprint: Annotated[
        str | None, typer.Option(help="Merge only if the plan has this fingerprint.")
    ] = None,
    columns: InputOptions,
    on_conflict: Conflicts = "refuse",
    protect: Protect = None,
    protect_column: ProtectColumn = None,
    max_cluster: MaxCluster = None,
    no_new_company: NoNewCompany = False,
    settings: JobSettings,
    retry_failed: RetryFailed = False,
    recover: Recover = False,
    page: Page = False,
    json: JsonLines = False,
    hooks: EndHooks,
    client: ClientSettings,
) -> None:
    """Show the plan of a file of pairs, ask for confirmation, and merge each pair at most once.

    The same command continues after Ctrl-C, a crash, or a lost network. The plan shows which merges
    can be undone, and which NEVER can.
    """
    protected = ProtectedIds(protect, protect_column)
    rules = PlanInput(pairs, kind, columns, on_conflict, protected, max_cluster, no_new_company)
    planned = rules.read()
    _require(planned, fingerprint)
    if is_dry_run:
        dry_run(rules, planned, client, as_json=json)
        return
    path = ledger or _ledger_beside(pairs)
    preview = None
    has_begun = _has_begun(path, is_there=is_there(path), recover=recover)
    if not complete(has_begun, "Nothing was merged."):
        preview, quota = complete(preview_of(planned, client), "Nothing was merged.")
        _confirm(preview, quota, rules.command("plan"), is_given=yes)
    job = partial(run, plan=planned, preview=preview, settings=settings, retry_failed=retry_failed)
    opened = Ledger(path, recover=recover)
    _end(_work(opened, client, job, settings.grace, JobView(json, page, hooks)))


@commands.command("resume")
@with_job_settings
@with_end_hooks
@with_client_settings
def go_on(
    ledger: LedgerFile,
    *,
    settings: JobSettings,
    retry_failed: RetryFailed = False,
    recover: Recover = False,
    page: Page = False,
    json: JsonLines = False,
    hooks: EndHooks,
    client: ClientSettings,
) -> None:
    """Continue a job; only its ledger is needed."""
    must_exist(ledger)
    job = partial(resume, settings=settings, retry_failed=retry_failed)
    opened = Ledger(ledger, recover=recover)
    _end(_work(opened, client, job, settings.grace, JobView(json, page, hooks)))


def _require(planned: Plan, fingerprint: str | None) -> None:
    if fingerprint is None:
        return
    if len(fingerprint) < plan_text.SHOWN:
        fail(f"--fingerprint takes the {plan_text.SHOWN} characters that `aiotasks plan` shows.")
    if not planned.fingerprint.startswith(fingerprint.lower()):
        fail(
            f"The plan's fingerprint is {planned.fingerprint[: plan_text.SHOWN]}, not "
            f"{fingerprint}: check it again with `aiotasks plan`. Nothing was merged."
        )


def _ledger_beside(pairs: Path) -> Path:
    if str(pairs) == "-":
        fail("Pairs from standard input need a place for the job's ledger: give --ledger.")
    return pairs.with_suffix(".job.db")


async def _has_begun(path: Path, *, is_there: bool, recover: bool) -> bool:
    if is_there:
        async with Ledger(path, recover=recover) as ledger:
            return ledger.job is not None
    # This creates no file before the question is answered, but notices that one was lost.
    with suppress(NoJobError):
        async with nullcontext() if recover else Ledger.reading(path):
            pass
    return False


def _confirm(preview: Preview, quota: Quota, whole_by: str | None, *, is_given: bool) -> None:
    for line in plan_text.short(preview, quota, whole_by=whole_by):
        (note if is_given else say)(line)
    findings = [transition.state for transition in preview.findings(0.0)]
    if len(findings) == len(preview.plan.merges):
        say("There is nothing to merge.")
        is_done = not preview.plan.left_out and set(findings) <= {PairState.SUCCEEDED}
        raise typer.Exit(Exit.SUCCEEDED if is_done else Exit.FAILED)
    if is_given:
        return
    if not sys.stdin.isatty():
        fail("Nothing was merged: there is no terminal to ask on, so give --yes to confirm.")
    try:
        is_agreed = typer.confirm("\n".join(on_terminal(plan_text.question(preview))), err=True)
    except typer.Abort:
        is_agreed = False
    if not is_agreed:
        say("Nothing was merged.")
        raise typer.Exit(Exit.RUNNING)


async def _work(
    opened: Ledger,
    client_settings: ClientSettings,
    job: Callable[..., Awaitable[JobResult]],
    grace: float,
    view: JobView,
) -> Exit:
    path = opened.path
    async with opened as ledger, Client.from_env(**client_settings) as client:
        stop = asyncio.Event()
        bar = JsonProgress() if view.as_json else JobProgressBar()
        with bar, _interruptible(stop, grace):
            try:
                async with _shown(bar, client, path, stop, is_page=view.is_page) as show:
                    result = await job(
                        client=client,
                        ledger=ledger,
                        stop=stop,
                        on_progress=show,
                        on_event=bar.report,
                    )
            except LedgerError as error:
                say(str(error))
                return Exit.WRONG_USE if bar.is_empty else Exit.RUNNING
        reasons = Counter(
            pair.reason
            for pair in await ledger.pairs(*(state for state in PairState if state.is_failure))
        )
        before = [each for each in await ledger.pairs(PairState.SUCCEEDED) if not each.task_url]
        source = ledger.require_job().source
    _summarise(path, result, reasons, before=len(before))
    end = job_text.ended(path, source, result)
    bar.end(end)
    await view.hooks.call(end)
    return job_text.exit_of(result.totals, result.stopped)


def _shown(
    bar: JobProgressBar | JsonProgress,
    client: Client,
    path: Path,
    stop: asyncio.Event,
    *,
    is_page: bool,
) -> AbstractAsyncContextManager[Callable[[JobProgress], object]]:
    if not is_page:
        return nullcontext(bar.show)
    return page_beside(client, path, stop, bar.show)


def _interruptible(stop: asyncio.Event, grace: float) -> AbstractContextManager[None]:
    """Let the first Ctrl-C stop the job, and the second one end it immediately."""
    job = asyncio.current_task()
    assert job is not None  # noqa: S101 - this is called in the task of the job

    def interrupt() -> None:
        if not stop.is_set():
            say(
                f"Stopping: no new merges, and up to {grace:g} s for the open ones. "
                "Ctrl-C again ends immediately; nothing is lost either way."
            )
            stop.set()
        else:
            _ = job.cancel()

    return on_interrupt(interrupt)


def _end(work: Coroutine[Any, Any, Exit]) -> None:
    try:
        code = complete(work, _NOTHING_LOST)
    except asyncio.CancelledError:
        say(f"Ended immediately. {_NOTHING_LOST}")
        code = Exit.RUNNING
    raise typer.Exit(code)


def _summarise(path: Path, result: JobResult, reasons: Counter[str | None], *, before: int) -> None:
    totals = result.totals
    say(job_text.counted(totals))
    if before:
        say(f"  {before:>5,}  of those that succeeded had been merged already")
    for reason, count in reasons.most_common(_MOST_REASONS):
        say(f"  {count:>5,}  {reason or 'the server gave no reason'}")
    if len(reasons) > _MOST_REASONS:
        say(f"  … and {len(reasons) - _MOST_REASONS:,} more reasons, in the report")
    say(f"{counted(result.calls, 'call')} in {duration(result.seconds)} of this run")
    if result.stopped is not None:
        say(job_text.why_stopped(result.stopped, result.failures))
    if result.error is not None:
        say(str(result.error))
    if totals[PairState.UNSETTLED]:
        say("Unsettled pairs may have been merged; continuing the job checks them again.")
    resume_it = shlex.join(["aiotasks", "resume", str(path)])
    if has_pairs_left(totals):
        say(f"Go on with: {resume_it}")
    elif totals[PairState.FAILED]:
        say(f"Merge the failed pairs again: {resume_it} --retry-failed")
    say(f"Report of all pairs: {shlex.join(['aiotasks', 'report', str(path)])}")
