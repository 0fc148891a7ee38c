"""The commands that report what became of the pairs of a job, and what may be a pair."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, Literal

import typer

from aiotasks._text import counted
from aiotasks.client import Client, ClientSettings
from aiotasks.dedupe import Ledger, PairState, snapshot_lines
from aiotasks.dedupe.report import report_columns, report_rows
from aiotasks.models import Kind
from aiotasks.web import report_page

from .client_options import with_client_settings
from .command import complete, fail
from .commands import Commands
from .options import KindOption, LedgerFile, must_exist
from .output import OutputFile, note, open_output, print_bytes, print_data
from .tables import Bom, FormatOption, format_of, print_table


_SUGGESTED = ("primary_id", "duplicate_id", "primary", "duplicate", "criteria", "suggestion_id")

commands = Commands()


@commands.command()
def report(
    ledger: LedgerFile,
    *,
    format: Annotated[  # noqa: A002
        Literal["csv", "jsonl", "xlsx", "html"] | None,
        typer.Option(
            help="How it is written; html is one page for a browser, in one file.",
            show_default="as --output ends, or csv",
        ),
    ] = None,
    output: OutputFile = None,
    bom: Bom = True,
    only: Annotated[
        list[PairState] | None, typer.Option(help="Only pairs in this state; may be repeated.")
    ] = None,
    snapshots: Annotated[
        bool, typer.Option("--snapshots", help="The records as they were before, as JSON lines.")
    ] = False,
) -> None:
    """Print what became of each pair, one a row. Failed rows can be input again."""
    must_exist(ledger)
    written = format_of(format, output, "html")
    if written == "html" and (only or snapshots):
        fail("A page is of the whole job: it goes without --only and --snapshots.")
    if snapshots and (only or written not in {"csv", "jsonl"}):
        fail("Snapshots are JSON lines of all records: they go without --only and --format.")
    with open_output(output):
        if written == "html":
            complete(_page(ledger), "")
        elif snapshots:
            complete(_snapshots(ledger), "")
        else:
            _ = complete(_report(ledger, only or [], written, bom=bom), "")


@commands.command(short_help="Write the duplicates that Affinity suggests.")
@with_client_settings
def suggestions(
    *,
    kind: KindOption,
    criteria: Annotated[
        list[str] | None,
        typer.Option(help="Only those found by this, such as domain-match; may be repeated."),
    ] = None,
    format: FormatOption = None,  # noqa: A002
    output: OutputFile = None,
    bom: Bom = True,
    client: ClientSettings,
) -> None:
    """Write the duplicates that Affinity suggests as a file of pairs, to be reviewed first."""
    rows = _suggested(kind, set(criteria or ()), client)
    written = format_of(format, output)
    with open_output(output):
        table = print_table(_SUGGESTED, rows, written, bom=bom, title="Suggestions")
        count = complete(table, "The list is not complete.")
    note(f"{counted(count, 'pair')}. Read through them before you merge.")


async def _report(path: Path, states: list[PairState], written: str, *, bom: bool) -> int:
    async with Ledger.reading(path) as ledger:
        columns = report_columns(ledger.require_job().columns)
        separator = (await ledger.notes()).get("separator", ",")
        rows = report_rows(ledger, *states)
        return await print_table(columns, rows, written, separator=separator, bom=bom)


async def _snapshots(path: Path) -> None:
    async with Ledger.reading(path) as ledger:
        async for line in snapshot_lines(ledger):
            print_data(line)


async def _page(path: Path) -> None:
    async with Ledger.reading(path) as ledger:
        # The page declares UTF-8, whatever the terminal is set to.
        print_bytes((await report_page(ledger)).encode())


async def _suggested(
    kind: Kind, criteria: set[str], settings: ClientSettings
) -> AsyncGenerator[dict[str, object]]:
    async with Client.from_env(**settings) as client:
        async for found in client.merges_of(kind).suggestions():
            if criteria and found.match_criteria not in criteria:
                continue
            primary = found.primary_profile
            for duplicate in found.duplicate_profiles:
                ids, names = (primary.id, duplicate.id), (primary.label, duplicate.label)
                row = (*ids, *names, found.match_criteria, found.id)
                yield dict(zip(_SUGGESTED, row, strict=True))
