"""The commands that report how far a job is, what became of its pairs, and what may be a pair."""

import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from aiotasks.client import Client, ClientSettings
from aiotasks.dedupe import JobStatus, Ledger, PairState, report_lines, snapshot_lines
from aiotasks.dedupe.models import has_pairs_left
from aiotasks.dedupe.report import ReportFormat, csv_line
from aiotasks.models import Kind
from aiotasks.web import report_page

from . import job_text
from .client_options import with_client_settings
from .command import complete, fail
from .commands import Commands
from .exit_codes import Exit
from .options import KindOption, LedgerFile, must_exist
from .output import note, print_data, print_text


_SUGGESTED = ("primary_id", "duplicate_id", "primary", "duplicate", "criteria", "suggestion_id")

commands = Commands()


@commands.command()
def status(ledger: LedgerFile) -> None:
    """Show how far a job is, from its ledger. The exit code is that of the job."""
    must_exist(ledger)
    raise typer.Exit(complete(_status(ledger), ""))


@commands.command()
def report(
    ledger: LedgerFile,
    *,
    format: Annotated[  # noqa: A002
        Literal["csv", "jsonl", "html"],
        typer.Option(help="How it is written; html is one page for a browser, in one file."),
    ] = "csv",
    only: Annotated[
        list[PairState] | None, typer.Option(help="Only pairs in this state; may be repeated.")
    ] = None,
    snapshots: Annotated[
        bool, typer.Option("--snapshots", help="The records as they were before, as JSON lines.")
    ] = False,
) -> None:
    """Print what became of each pair, one a row. Failed rows can be input again."""
    must_exist(ledger)
    if format == "html":
        if only or snapshots:
            fail("A page is of the whole job: it goes without --only and --snapshots.")
        complete(_page(ledger), "")
    elif snapshots and only:
        fail("Snapshots are of all records: they go without --only.")
    else:
        complete(_report(ledger, only or [], format, snapshots=snapshots), "")


@commands.command(short_help="Write the duplicates that Affinity suggests.")
@with_client_settings
def suggestions(
    *,
    kind: KindOption,
    criteria: Annotated[
        list[str] | None,
        typer.Option(help="Only those found by this, such as domain-match; may be repeated."),
    ] = None,
    client: ClientSettings,
) -> None:
    """Write the duplicates that Affinity suggests as a file of pairs, to be reviewed first."""
    found = _suggestions(kind, set(criteria or ()), client)
    count = complete(found, "The list is not complete.")
    note(f"{count:,} pairs. Read through them before you merge.")


async def _status(path: Path) -> Exit:
    async with Ledger.reading(path) as ledger:
        job, totals, notes = ledger.require_job(), await ledger.totals(), await ledger.notes()
        holder = await ledger.live_holder()
    status = JobStatus.of(job, totals, notes, holder=holder, error=notes.get("error"))
    for line in job_text.status(job, status):
        print_text(line)
    print_text(job_text.counted(totals))
    if not holder and has_pairs_left(totals):
        print_text(f"Go on with: {shlex.join(['aiotasks', 'resume', str(path)])}")
    return job_text.exit_of(totals, status.stopped)


async def _report(
    path: Path, states: list[PairState], format_: ReportFormat, *, snapshots: bool
) -> None:
    async with Ledger.reading(path) as ledger:
        lines: AsyncIterator[str]
        lines = (
            snapshot_lines(ledger) if snapshots else report_lines(ledger, *states, format=format_)
        )
        async for line in lines:
            print_data(line)


async def _page(path: Path) -> None:
    async with Ledger.reading(path) as ledger:
        # The page declares UTF-8, whatever the terminal is set to.
        typer.echo((await report_page(ledger)).encode(), nl=False)


async def _suggestions(kind: Kind, criteria: set[str], settings: ClientSettings) -> int:
    count = 0
    print_data(csv_line(_SUGGESTED))
    async with Client.from_env(**settings) as client:
        async for found in client.merges_of(kind).suggestions():
            if criteria and found.match_criteria not in criteria:
                continue
            primary = found.primary_profile
            for duplicate in found.duplicate_profiles:
                row = (primary.id, duplicate.id, primary.label, duplicate.label)
                print_data(csv_line([*row, found.match_criteria, found.id]))
                count += 1
    return count
