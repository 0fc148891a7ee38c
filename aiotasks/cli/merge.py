"""The commands that merge: show a plan, run it, and continue it."""

import asyncio
import shlex
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from aiotasks import dedupe
from aiotasks._text import duration
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
from aiotasks.dedupe.report import plan_rows, report_columns
from aiotasks.errors import LedgerError, NoJobError
from aiotasks.models import Quota

from . import job_text, plan_text
from .client_options import with_client_settings
from .command import complete, fail
from .commands import Commands
from .exit_codes import Exit
from .interrupts import on_interrupt
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
from .output import OutputFile, note, open_output, print_text, say
from .plan_input import PlanInput, ProtectedIds
from .progress import JobProgressBar
from .serve import page_beside
from .tables import Bom, format_of, print_table


_MOST_REASONS = 5
_TEXT = "text"
_NOTHING_LOST = "Nothing is lost: run the same command again to continue."
commands = Commands()


@commands.command(short_help="Show what a file of pairs would merge.")
@with_input_options
@with_client_settings
def plan(
    pairs: PairsFile,
    *,
    kind: KindOption,
    columns: InputOptions,
    on_conflict: Conflicts = "refuse",
    protect: Protect = None,
    protect_column: ProtectColumn = None,
    max_cluster: MaxCluster = None,
    no_new_company: NoNewCompany = False,
    output: OutputFile = None,
    bom: Bom = True,
    client: ClientSettings,
) -> None:
    """Show what a file of pairs would merge, its effects and its cost. Nothing is merged.

    An --output that ends in .csv, .jsonl or .xlsx is a table of all pairs.
    """
    protected = ProtectedIds(protect, protect_column)
    rules = PlanInput(pairs, kind, columns, on_conflict, protected, max_cluster, no_new_company)
    planned = rules.read()
    if output is not None and output.exists() and pairs.exists() and output.samefile(pairs):
        fail(f"{output} is the input, and is not overwritten: give another --output.")
    table = format_of(None, output, otherwise=_TEXT)
    with open_output(output):
        shown = _show(planned, client, rules.command("merge"), table=table, bom=bom)
        complete(shown, "Nothing was merged.")


@commands.command(short_help="Merge the pairs of a file, after a question.")
@with_input_options
@with_job_settings
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
    client: ClientSettings,
) -> None:
    """Show the plan of a file of pairs, ask for confirmation, and merge each pair at most once.

    The same command continues after Ctrl-C, a crash, or a lost network. The plan shows which merges
    can be undone, and which NEVER can.
    """
    path = ledger or _ledger_beside(pairs)
    protected = ProtectedIds(protect, protect_column)
    rules = PlanInput(pairs, kind, columns, on_conflict, protected, max_cluster, no_new_company)
    planned = rules.read()
    _require(planned, fingerprint)
    preview = None
    has_begun = _has_begun(path, is_there=is_there(path), recover=recover)
    if not complete(has_begun, "Nothing was merged."):
        preview, quota = complete(_preview(planned, client), "Nothing was merged.")
        _confirm(preview, quota, rules.command("plan"), is_given=yes)
    job = partial(run, plan=planned, preview=preview, settings=settings, retry_failed=retry_failed)
    opened = Ledger(path, recover=recover)
    _end(_work(opened, client, job, settings.grace, is_page=page))


@commands.command("resume")
@with_job_settings
@with_client_settings
def go_on(
    ledger: LedgerFile,
    *,
    settings: JobSettings,
    retry_failed: RetryFailed = False,
    recover: Recover = False,
    page: Page = False,
    client: ClientSettings,
) -> None:
    """Continue a job; only its ledger is needed."""
    must_exist(ledger)
    job = partial(resume, settings=settings, retry_failed=retry_failed)
    opened = Ledger(ledger, recover=recover)
    _end(_work(opened, client, job, settings.grace, is_page=page))


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


async def _show(
    planned: Plan,
    settings: ClientSettings,
    merge_it: str | None,
    *,
    table: str,
    bom: bool,
) -> None:
    preview, quota = await _preview(planned, settings)
    if table != _TEXT:
        columns, separator = report_columns(planned.columns), planned.separator or ","
        rows = plan_rows(preview)
        _ = await print_table(columns, rows, table, separator=separator, bom=bom, title="Plan")
    text = plan_text.whole(preview, quota) if table == _TEXT else plan_text.short(preview, quota)
    write = print_text if table == _TEXT else note
    for line in text:
        write(line)
    if merge_it is not None:
        write(f"Merge it: {merge_it} --fingerprint {planned.fingerprint[: plan_text.SHOWN]}")


async def _preview(planned: Plan, settings: ClientSettings) -> tuple[Preview, Quota]:
    async with Client.from_env(**settings) as client:
        preview = await dedupe.preview(client, planned)
        return preview, client.quota


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
        is_agreed = typer.confirm(plan_text.question(preview), err=True)
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
    *,
    is_page: bool,
) -> Exit:
    path = opened.path
    async with opened as ledger, Client.from_env(**client_settings) as client:
        stop = asyncio.Event()
        bar = JobProgressBar()
        with bar, _interruptible(stop, grace):
            try:
                async with _shown(bar, client, path, stop, is_page=is_page) as show:
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
    _summarise(path, result, reasons, before=len(before))
    return job_text.exit_of(result.totals, result.stopped)


def _shown(
    bar: JobProgressBar, client: Client, path: Path, stop: asyncio.Event, *, is_page: bool
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
    say(f"{result.calls:,} calls in {duration(result.seconds)} of this run")
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
