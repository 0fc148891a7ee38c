"""The commands that need no account: a sandbox of the API, and a demonstration in one."""

import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Annotated, Any

import typer

from aiotasks._text import counted
from aiotasks.client import Client
from aiotasks.models import Quota
from aiotasks.outcomes import Progress as WaitProgress
from aiotasks.sandbox import PLAIN, Sandbox

from .command import fail, run_command
from .commands import Commands
from .exit_codes import Exit
from .interrupts import on_interrupt
from .output import OutcomeSummary, note
from .progress import WaitProgressBar


commands = Commands()
_HABIT: Mapping[str, Any] = {"rich_help_panel": "Habits of the real server", "show_default": False}


@commands.command(short_help="Serve a stand-in for the API, for trying.")
def sandbox(
    *,
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0 for other containers too.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where to listen; 0 takes a free port.")] = 0,
    api_key: Annotated[str, typer.Option(help="The key that it accepts.")] = "sandbox-key",
    quota: Annotated[int, typer.Option(help="Requests a window; 0 for no limit.")] = 900,
    window: Annotated[float, typer.Option(help="Seconds of a window.")] = 60.0,
    month_quota: Annotated[int, typer.Option(help="Requests a month; 0 for no limit.")] = 100_000,
    duration: Annotated[str, typer.Option(help="Seconds a merge takes: 2, or 1-30.")] = "2",
    failure_rate: Annotated[float, typer.Option(help="Share of merges that fail, 0 to 1.")] = 0.0,
    latency: Annotated[str, typer.Option(help="Seconds an answer takes: 0.1, or 0.1-0.5.")] = "0",
    records: Annotated[int, typer.Option(help="Companies, and persons, from id 1 on.")] = 2000,
    public_url: Annotated[
        str | None, typer.Option(help="What task URLs begin with.", show_default="its own URL")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="What goes wrong, such as 503x3, disconnect-after@merge~5%, 429:5@task."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed brings the same ids and luck.")] = 0,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Have none of the habits that follow.", **_HABIT),
    ] = False,
    checks_posts: Annotated[
        bool | None,
        typer.Option(
            help="Refuse at once what cannot be merged, or let it fail when it ends.", **_HABIT
        ),
    ] = None,
    rows_for_global: Annotated[
        bool | None,
        typer.Option(help="List merges whose primary is global or gone, or not.", **_HABIT),
    ] = None,
    global_companies: Annotated[
        float | None, typer.Option(help="Share of companies that are global. [0.1]", **_HABIT)
    ] = None,
    internal_persons: Annotated[
        float | None, typer.Option(help="Share of persons that are internal. [0.02]", **_HABIT)
    ] = None,
    task_lag: Annotated[
        str | None,
        typer.Option(help="Seconds until a new task can be read. [0-2]", **_HABIT),
    ] = None,
    task_lag_share: Annotated[
        float | None, typer.Option(help="Share of new tasks that lag. [0.3]", **_HABIT)
    ] = None,
    empty_share: Annotated[
        float | None,
        typer.Option(help="Share of answers about tasks without a body. [0.01]", **_HABIT),
    ] = None,
    gone_status: Annotated[
        int | None,
        typer.Option(help="What a merged record answers: 404, or 422. [404]", **_HABIT),
    ] = None,
    list_lag: Annotated[
        str | None, typer.Option(help="Seconds until lists show a new task. [0]", **_HABIT)
    ] = None,
    unlisted_share: Annotated[
        float | None, typer.Option(help="Share of new tasks that no list shows. [0]", **_HABIT)
    ] = None,
    list_shuffle: Annotated[
        float | None, typer.Option(help="Places by which lists are out of order. [0]", **_HABIT)
    ] = None,
    record_lag: Annotated[
        float | None,
        typer.Option(help="Age of the records that are read, in seconds. [0]", **_HABIT),
    ] = None,
) -> None:
    """Serve a stand-in for the API, for trying and testing, until Ctrl-C.

    The first line on standard output is its base URL. It has the habits of the real server that
    its document does not tell; --plain takes them away.
    """
    habits = {
        "checks_posts": checks_posts,
        "rows_for_global": rows_for_global,
        "global_companies": global_companies,
        "internal_persons": internal_persons,
        "task_lag": None if task_lag is None else _draw("--task-lag", task_lag),
        "task_lag_share": task_lag_share,
        "empty_share": empty_share,
        "gone_status": gone_status,
        "list_lag": None if list_lag is None else _draw("--list-lag", list_lag),
        "unlisted_share": unlisted_share,
        "list_shuffle": list_shuffle,
        "record_lag": record_lag,
    }
    given = {name: value for name, value in habits.items() if value is not None}
    try:
        server = Sandbox(
            host=host,
            port=port,
            api_key=api_key,
            quota=quota,
            window=window,
            month_quota=month_quota,
            duration=_draw("--duration", duration),
            failure_rate=failure_rate,
            latency=_draw("--latency", latency),
            companies=records,
            persons=records,
            public_url=public_url,
            faults=fault or (),
            seed=seed,
            **{**(PLAIN if plain else {}), **given},
        )
    except ValueError as error:
        fail(str(error))
    run_command(_serve(server))


@commands.command(short_help="Merge duplicates in a sandbox of its own.")
def demo(
    merges: Annotated[int, typer.Option(min=1, max=1000, help="How many duplicates.")] = 300,
) -> None:
    """Merge a few hundred duplicates in a sandbox of its own. No account is needed."""
    run_command(_demo(merges))


async def _serve(server: Sandbox) -> Exit:
    stopped = asyncio.Event()
    async with AsyncExitStack() as stack:
        _ = stack.enter_context(on_interrupt(stopped.set))
        try:
            _ = await stack.enter_async_context(server)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            fail(
                f"Cannot listen on {server.host}, port {server.port}: {reason}. "
                "Choose another --port or --host."
            )
        _introduce(server)
        _ = await stopped.wait()
    return Exit.SUCCEEDED


def _introduce(server: Sandbox) -> None:
    typer.echo(server.url)
    sys.stdout.flush()
    note(f"Sandbox with the API key {server.api_key}. To use it from another terminal:")
    note(f"  export AFFINITY_BASE_URL={server.url} AFFINITY_API_KEY={server.api_key}")
    if server.host not in {"127.0.0.1", "localhost", "::1"}:
        note("From elsewhere: the name of this machine, and AFFINITY_ALLOW_HTTP=1 besides.")
    note("Ctrl-C ends it.")


async def _demo(merges: int) -> Exit:
    busy = Sandbox(duration=(0.5, 6.0), latency=(0.01, 0.05), failure_rate=0.03, seed=1)
    async with busy as server, Client(server.api_key, base_url=server.url) as client:
        note(f"A sandbox of the Affinity API listens on {server.url}.")
        now = asyncio.get_running_loop().time
        started = now()
        pairs = [
            (found.primary_profile.id, found.duplicate_profiles[0].id)
            async for found in client.companies.suggestions()
        ][:merges]
        with WaitProgressBar("Starting merges", len(pairs), client) as screen:
            async with asyncio.TaskGroup() as group:
                starts = [group.create_task(client.companies.merge(*pair)) for pair in pairs]
                for start in starts:
                    start.add_done_callback(lambda _: screen.advance())
        note(f"{counted(len(pairs), 'merge')} under way, {now() - started:.1f} s after the start.")
        summary = OutcomeSummary()
        with WaitProgressBar("Waiting", len(pairs), client) as screen:

            def show(progress: WaitProgress) -> None:
                summary.add(progress.outcome)
                screen.advance(summary.counted())

            await client.tasks.wait_many([start.result() for start in starts], on_progress=show)
        _summarise(summary, len(pairs), client.quota, now() - started)
    return Exit.SUCCEEDED


def _summarise(summary: "OutcomeSummary", merges: int, quota: Quota, seconds: float) -> None:
    typer.echo(f"\n{counted(merges, 'duplicate')} in {seconds:.1f} s: {summary.counted()}")
    for reason, count in summary.reasons.most_common():
        typer.echo(f"  {count:>4} failed: {reason}")
    typer.echo(
        f"  {counted(quota.sent, 'call')}, {quota.sent / merges:.2f} a merge; "
        f"{quota.refused} of them refused for a limit"
    )


def _draw(option: str, text: str) -> float | tuple[float, float]:
    low, dash, high = text.partition("-")
    try:
        return (float(low), float(high)) if dash else float(low)
    except ValueError:
        fail(f"{option} takes seconds such as 2, or a range such as 1-30, not {text!r}.")
