"""The command that shows what a file of pairs would merge."""

from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import msgspec
import typer

from aiotasks import dedupe
from aiotasks.client import Client, ClientSettings
from aiotasks.dedupe import InputOptions, Plan, Preview
from aiotasks.dedupe.report import plan_rows, report_columns
from aiotasks.models import DEFAULT_LIMIT, Quota

from . import plan_text
from .client_options import with_client_settings
from .command import complete, fail
from .commands import Commands
from .options import (
    AsJson,
    Conflicts,
    KindOption,
    MaxCluster,
    NoNewCompany,
    PairsFile,
    Protect,
    ProtectColumn,
    with_input_options,
)
from .output import OutputFile, note, open_output, print_line, show_lines
from .plan_input import PlanInput, ProtectedIds
from .tables import Bom, format_of, print_table


_TEXT = "text"
_JSON = "json"
commands = Commands()


class PlanView(NamedTuple):
    """How a plan is shown: as text, as one object of JSON, or as a table of a format."""

    format: str
    bom: bool = True
    limit: int | None = None


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
    limit: Annotated[
        int | None, typer.Option(min=0, help="Show the pairs that run first, at most so many.")
    ] = None,
    output: OutputFile = None,
    bom: Bom = True,
    json: AsJson = False,
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
    written = _JSON if json else format_of(None, output, otherwise=_TEXT)
    if limit is not None and written not in {_TEXT, _JSON}:
        fail("A table has all pairs: it goes without --limit.")
    with open_output(output):
        show_plan(rules, planned, client, PlanView(written, bom, limit))


def dry_run(rules: PlanInput, planned: Plan, client: ClientSettings, *, as_json: bool) -> None:
    """Show a plan in place of merging it."""
    show_plan(rules, planned, client, PlanView(_JSON if as_json else _TEXT))


def show_plan(rules: PlanInput, planned: Plan, client: ClientSettings, view: PlanView) -> None:
    """Show a plan with the names of its records, as the command ``plan`` does."""
    complete(_show(rules.command("merge"), planned, client, view), "Nothing was merged.")


async def preview_of(planned: Plan, settings: ClientSettings) -> tuple[Preview, Quota]:
    """Read the records of a plan, and return them with what is known of the limits then."""
    async with Client.from_env(**settings) as client:
        preview = await dedupe.preview(client, planned)
        quota = client.quota
    if (own_rate := settings.get("calls_per_minute")) is not None:
        quota = msgspec.structs.replace(quota, limit=min(own_rate, quota.limit or DEFAULT_LIMIT))
    return preview, quota


async def _show(
    merge_it: str | None, planned: Plan, settings: ClientSettings, view: PlanView
) -> None:
    preview, quota = await preview_of(planned, settings)
    fingerprint = planned.fingerprint[: plan_text.SHOWN]
    merge_it = None if merge_it is None else f"{merge_it} --fingerprint {fingerprint}"
    if view.format == _TEXT:
        lines = [*plan_text.whole(preview, quota, most=view.limit), *_next_step(merge_it)]
        show_lines(lines)
    elif view.format == _JSON:
        rows = [row async for row in plan_rows(preview)]
        print_line(_view(preview, quota, rows[: view.limit], merge_it))
    else:
        await _print_table(preview, view)
        for line in [*plan_text.short(preview, quota), *_next_step(merge_it)]:
            note(line)


def _next_step(merge_it: str | None) -> Iterator[str]:
    if merge_it is not None:
        yield f"Merge it: {merge_it}"


async def _print_table(preview: Preview, view: PlanView) -> None:
    planned = preview.plan
    columns, separator = report_columns(planned.columns), planned.separator or ","
    rows = plan_rows(preview)
    _ = await print_table(
        columns, rows, view.format, separator=separator, bom=view.bom, title="Plan"
    )


def _view(
    preview: Preview, quota: Quota, rows: list[dict[str, Any]], merge_it: str | None
) -> dict[str, Any]:
    planned = preview.plan
    cost = planned.cost(limit=quota.limit or DEFAULT_LIMIT, month_limit=quota.org_limit)
    return {
        "source": planned.source,
        "kind": planned.kind,
        "fingerprint": planned.fingerprint,
        "merges": len(preview.effects),
        "effects": plan_text.counted(preview),
        "need_not_run": len(preview.findings(0.0)),
        "left_out": len(planned.left_out),
        "understood": planned.understood,
        "rewrites": [{"line": each.row.line, "text": each.text} for each in planned.rewrites],
        "cost": msgspec.structs.asdict(cost),
        "merge_it": merge_it,
        "pairs": rows,
    }
