"""The commands that merge: show a plan, run it, and continue it."""

import asyncio
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from aiotasks import dedupe
from aiotasks._text import duration
from aiotasks.client import Client, ClientSettings
from aiotasks.dedupe import (
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
from aiotasks.dedupe._input import read_ids
from aiotasks.dedupe.models import OnConflict, has_pairs_left
from aiotasks.errors import AffinityError, LedgerError
from aiotasks.models import Kind, Quota

from . import job_text, plan_text
from .command import complete, fail
from .exit_codes import EXIT_CODES, Exit
from .options import (
    ApiVersion,
    BaseUrl,
    Conflicts,
    KindOption,
    LedgerFile,
    MaxCluster,
    Page,
    PairsFile,
    Protect,
    RetryFailed,
    must_exist,
    settings_of,
    with_job_settings,
)
from .output import say
from .progress import JobProgressBar
from .serve import page_beside


_MOST_REASONS = 5
_NOTHING_LOST = "Nothing is lost: run the same command again to continue."
commands = typer.Typer()


@commands.command(epilog=EXIT_CODES)
def plan(
    pairs: PairsFile,
    *,
    kind: KindOption,
    on_conflict: Conflicts = "refuse",
    protect: Protect = None,
    max_cluster: MaxCluster = None,
    base_url: BaseUrl = None,
    api_version: ApiVersion = None,
) -> None:
    """Show what a file of pairs would merge, with names and cost. Nothing is merged."""
    planned = _read(pairs, kind, on_conflict, protect, max_cluster)
    preview, quota = complete(
        _preview(planned, settings_of(base_url, api_version)), "Nothing was merged."
    )
    for line in plan_text.whole(preview, quota):
        typer.echo(line)
    merge_it = _command_for(
        "merge", pairs, kind, on_conflict=on_conflict, protect=protect, max_cluster=max_cluster
    )
    if merge_it is not None:
        fingerprint = planned.fingerprint[: plan_text.SHOWN]
        typer.echo(f"Merge it: {merge_it} --fingerprint {fingerprint}")


@commands.command(epilog=EXIT_CODES)
@with_job_settings
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
    on_conflict: Conflicts = "refuse",
    protect: Protect = None,
    max_cluster: MaxCluster = None,
    settings: JobSettings,
    retry_failed: RetryFailed = False,
    page: Page = False,
    base_url: BaseUrl = None,
    api_version: ApiVersion = None,
) -> None:
    """Show the plan of a file of pairs, ask for confirmation, and merge each pair at most once.

    The same command continues after Ctrl-C, a crash, or a lost network. Merges of companies are
    PERMANENT.
    """
    path = ledger or _ledger_beside(pairs)
    client_settings = settings_of(base_url, api_version)
    planned = _read(pairs, kind, on_conflict, protect, max_cluster)
    _require(planned, fingerprint)
    preview = None
    if not (path.exists() and complete(_has_begun(path), "Nothing was merged.")):
        preview, quota = complete(_preview(planned, client_settings), "Nothing was merged.")
        whole_by = _command_for(
            "plan", pairs, kind, on_conflict=on_conflict, protect=protect, max_cluster=max_cluster
        )
        _confirm(preview, quota, whole_by, is_given=yes)
    job = partial(run, plan=planned, preview=preview, settings=settings, retry_failed=retry_failed)
    _end(_work(path, client_settings, job, settings.grace, is_page=page))


@commands.command("resume", epilog=EXIT_CODES)
@with_job_settings
def go_on(
    ledger: LedgerFile,
    *,
    settings: JobSettings,
    retry_failed: RetryFailed = False,
    page: Page = False,
    base_url: BaseUrl = None,
    api_version: ApiVersion = None,
) -> None:
    """Continue a job; only its ledger is needed."""
    must_exist(ledger)
    job = partial(resume, settings=settings, retry_failed=retry_failed)
    client_settings = settings_of(base_url, api_version)
    _end(_work(ledger, client_settings, job, settings.grace, is_page=page))


def _read(
    path: Path, kind: Kind, on_conflict: OnConflict, protect: Path | None, max_cluster: int | None
) -> Plan:
    source = sys.stdin.buffer if str(path) == "-" else path
    try:
        return Plan.read(
            source,
            kind=kind,
            source="standard input" if str(path) == "-" else str(path),
            on_conflict=on_conflict,
            protect=_protected(protect),
            max_cluster=max_cluster,
        )
    except OSError as error:
        fail(f"Cannot read {error.filename or path}: {error.strerror}. Nothing was merged.")
    except AffinityError as error:
        fail(str(error))


def _protected(protect: Path | None) -> frozenset[int]:
    if protect is None:
        return frozenset()
    with protect.open("rb") as file:
        return read_ids(file, source=str(protect))


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


def _command_for(
    verb: str,
    pairs: Path,
    kind: Kind,
    *,
    on_conflict: OnConflict,
    protect: Path | None,
    max_cluster: int | None,
) -> str | None:
    if str(pairs) == "-":
        return None
    words = ["aiotasks", verb, str(pairs), "--kind", kind]
    words += ["--on-conflict", on_conflict] if on_conflict != "refuse" else []
    words += ["--protect", str(protect)] if protect is not None else []
    words += ["--max-cluster", str(max_cluster)] if max_cluster is not None else []
    return shlex.join(words)


def _ledger_beside(pairs: Path) -> Path:
    if str(pairs) == "-":
        fail("Pairs from standard input need a place for the job's ledger: give --ledger.")
    return pairs.with_suffix(".job.db")


async def _has_begun(path: Path) -> bool:
    async with Ledger(path) as ledger:
        return ledger.job is not None


async def _preview(planned: Plan, settings: ClientSettings) -> tuple[Preview, Quota]:
    async with Client.from_env(**settings) as client:
        preview = await dedupe.preview(client, planned)
        return preview, client.quota


def _confirm(preview: Preview, quota: Quota, whole_by: str | None, *, is_given: bool) -> None:
    for line in plan_text.short(preview, quota, whole_by=whole_by):
        say(line)
    findings = [transition.state for transition in preview.findings(0.0)]
    if len(findings) == len(preview.plan.merges):
        say("There is nothing to merge.")
        is_done = not preview.plan.left_out and set(findings) <= {PairState.SUCCEEDED}
        raise typer.Exit(Exit.SUCCEEDED if is_done else Exit.FAILED)
    if is_given:
        return
    if not sys.stdin.isatty():
        fail("Nothing was merged: there is no terminal to ask on, so give --yes to confirm.")
    kind = preview.plan.kind
    warning = "Merges of companies are PERMANENT. " if kind == "company" else ""
    try:
        is_agreed = typer.confirm(f"{warning}Merge them?", err=True)
    except typer.Abort:
        is_agreed = False
    if not is_agreed:
        say("Nothing was merged.")
        raise typer.Exit(Exit.RUNNING)


async def _work(
    path: Path,
    client_settings: ClientSettings,
    job: Callable[..., Awaitable[JobResult]],
    grace: float,
    *,
    is_page: bool,
) -> Exit:
    async with Ledger(path) as ledger, Client.from_env(**client_settings) as client:
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


@contextmanager
def _interruptible(stop: asyncio.Event, grace: float) -> Iterator[None]:
    """Let the first Ctrl-C stop the job, and the second one end it immediately."""
    loop = asyncio.get_running_loop()
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

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


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
        say(job_text.why_stopped(result.stopped))
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
