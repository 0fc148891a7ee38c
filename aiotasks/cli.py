"""The ``aiotasks`` command: results go to standard output, everything else to standard error."""

import asyncio
import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NamedTuple, TypedDict

import typer

from . import _dedupe_cli, _report_cli, _web_cli
from ._command import EXIT_CODES, ApiVersion, BaseUrl, fail, run_command, settings_of
from ._console import (
    EXIT_OF_STATE,
    Exit,
    Screen,
    Tally,
    print_line,
    print_outcome,
    print_task,
    say,
)
from ._http import urls
from .client import Client
from .models import Kind, Quota
from .outcomes import OutcomeState
from .outcomes import Progress as WaitProgress
from .sandbox import Sandbox


_LIMITS = ("limit", "remaining", "reset", "org_limit", "org_remaining", "org_reset")

app = typer.Typer(
    help=f"Merge Affinity's duplicates. The API key is read from AFFINITY_API_KEY.\n{EXIT_CODES}",
    epilog="Try it without an account: aiotasks demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(_dedupe_cli.commands)
app.add_typer(_report_cli.commands)
app.add_typer(_web_cli.commands)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aiotasks {version('affinity-aiotasks')}")
        raise typer.Exit


@app.callback()
def options(
    *,
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command(epilog=EXIT_CODES)
def wait(
    urls: Annotated[list[str] | None, typer.Argument(metavar="URL", help="Task URLs.")] = None,
    *,
    file: Annotated[
        Path | None, typer.Option(help="Read task URLs from a file, one a line; # comments.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until the wait gives up.")] = 300.0,
    poll_interval: Annotated[float, typer.Option(help="Seconds to the second look.")] = 2.0,
    max_poll_interval: Annotated[float, typer.Option(help="Most seconds between looks.")] = 30.0,
    base_url: BaseUrl = None,
    api_version: ApiVersion = None,
) -> None:
    """Wait for tasks, and print what became of each as a JSON line when it is known.

    Without URLs and --file, they are read from standard input.
    """
    given = _given_urls(urls or [], file)
    terms = _Terms(
        timeout=timeout, poll_interval=poll_interval, max_poll_interval=max_poll_interval
    )
    run_command(_wait(given, terms, settings_of(base_url, api_version)))


@app.command(epilog=EXIT_CODES)
def get(url: str, *, base_url: BaseUrl = None, api_version: ApiVersion = None) -> None:
    """Look at a task once, and print it as a JSON line."""
    run_command(_get(url, settings_of(base_url, api_version)))


@app.command(epilog=EXIT_CODES)
def tasks(
    *,
    kind: Annotated[Kind, typer.Option(help="What was merged.")],
    status: Annotated[str | None, typer.Option(help="Only tasks with this status.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many, the newest.")] = None,
    base_url: BaseUrl = None,
    api_version: ApiVersion = None,
) -> None:
    """List the organization's merge tasks, newest first, as JSON lines."""
    run_command(_tasks(kind, status, limit, settings_of(base_url, api_version)))


@app.command(epilog=EXIT_CODES)
def quota(*, base_url: BaseUrl = None, api_version: ApiVersion = None) -> None:
    """Ask by one call what is left of the limits, and print it as a JSON line."""
    run_command(_quota(settings_of(base_url, api_version)))


@app.command()
def sandbox(
    *,
    port: Annotated[int, typer.Option(help="Where to listen; 0 takes a free port.")] = 0,
    api_key: Annotated[str, typer.Option(help="The key that it accepts.")] = "sandbox-key",
    quota: Annotated[int, typer.Option(help="Requests a window; 0 for no limit.")] = 900,
    window: Annotated[float, typer.Option(help="Seconds of a window.")] = 60.0,
    month_quota: Annotated[int, typer.Option(help="Requests a month; 0 for no limit.")] = 100_000,
    duration: Annotated[str, typer.Option(help="Seconds a merge takes: 2, or 1-30.")] = "2",
    failure_rate: Annotated[float, typer.Option(help="Share of merges that fail, 0 to 1.")] = 0.0,
    latency: Annotated[str, typer.Option(help="Seconds an answer takes: 0.1, or 0.1-0.5.")] = "0",
    list_lag: Annotated[float, typer.Option(help="Seconds until lists show a new task.")] = 0.0,
    records: Annotated[int, typer.Option(help="Companies, and persons, from id 1 on.")] = 2000,
    public_url: Annotated[
        str | None, typer.Option(help="What task URLs begin with.", show_default="its own URL")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="What goes wrong, such as 503x3, disconnect-after@merge~5%, 429:5@task."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed brings the same ids and luck.")] = 0,
) -> None:
    """Serve a stand-in for the API on loopback, for trying and testing, until Ctrl-C.

    The first line on standard output is its base URL.
    """
    try:
        server = Sandbox(
            port=port,
            api_key=api_key,
            quota=quota,
            window=window,
            month_quota=month_quota,
            duration=_draw("--duration", duration),
            failure_rate=failure_rate,
            latency=_draw("--latency", latency),
            list_lag=list_lag,
            companies=records,
            persons=records,
            public_url=public_url,
            faults=fault or (),
            seed=seed,
        )
    except ValueError as error:
        fail(str(error))
    run_command(_serve(server))


@app.command(epilog=EXIT_CODES)
def demo(
    merges: Annotated[int, typer.Option(min=1, max=1000, help="How many duplicates.")] = 300,
) -> None:
    """Merge a few hundred duplicates in a sandbox of its own. No account is needed."""
    run_command(_demo(merges))


async def _wait(given: list["_Given"], terms: "_Terms", settings: dict[str, str]) -> Exit:
    tally = Tally({item.url: item.place for item in given})
    async with (
        Client.from_env(**settings) as client,
        client.tasks.watch([item.url for item in given], **terms) as watch,
    ):
        try:
            with Screen("Waiting", len(given), client) as screen:
                async for outcome in watch:
                    print_outcome(outcome)
                    tally.add(outcome)
                    screen.advance(tally.counted())
        except asyncio.CancelledError:
            for outcome in watch.unsettled:
                print_outcome(outcome)
                tally.add(outcome)
            raise
        finally:
            tally.say()
    return tally.exit


async def _get(url: str, settings: dict[str, str]) -> Exit:
    async with Client.from_env(**settings) as client:
        task = await client.tasks.get(url)
    print_task(url, task)
    return EXIT_OF_STATE[OutcomeState.of(task)]


async def _tasks(
    kind: Kind, status: str | None, limit: int | None, settings: dict[str, str]
) -> Exit:
    async with Client.from_env(**settings) as client:
        count = 0
        async for task in client.tasks.list(kind, status=status):
            print_task(urls.task_url(client.base_url, urls.TaskRef(kind, task.id)), task)
            count += 1
            if count == limit:
                break
    return Exit.SUCCEEDED


async def _quota(settings: dict[str, str]) -> Exit:
    async with Client.from_env(**settings) as client:
        known = await client.refresh_quota()
    print_line({name: getattr(known, name) for name in _LIMITS})
    return Exit.SUCCEEDED


async def _serve(server: Sandbox) -> Exit:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stopped.set)
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    try:
        async with server:
            typer.echo(server.url)
            sys.stdout.flush()
            say(f"Sandbox with the API key {server.api_key}. To use it from another terminal:")
            say(f"  export AFFINITY_BASE_URL={server.url} AFFINITY_API_KEY={server.api_key}")
            say("Ctrl-C ends it.")
            _ = await stopped.wait()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        say(f"Cannot listen on port {server.port}: {reason}. Choose another --port.")
        return Exit.WRONG_USE
    return Exit.SUCCEEDED


async def _demo(merges: int) -> Exit:
    busy = Sandbox(duration=(0.5, 6.0), latency=(0.01, 0.05), failure_rate=0.03, seed=1)
    async with busy as server, Client(server.api_key, base_url=server.url) as client:
        say(f"A sandbox of the Affinity API listens on {server.url}.")
        now = asyncio.get_running_loop().time
        started = now()
        pairs = [
            (found.primary_profile.id, found.duplicate_profiles[0].id)
            async for found in client.companies.suggestions()
        ][:merges]
        with Screen("Starting merges", len(pairs), client) as screen:
            async with asyncio.TaskGroup() as group:
                starts = [group.create_task(client.companies.merge(*pair)) for pair in pairs]
                for start in starts:
                    start.add_done_callback(lambda _: screen.advance())
        say(f"{len(pairs)} merges are under way, {now() - started:.1f} s after the start.")
        tally = Tally()
        with Screen("Waiting", len(pairs), client) as screen:

            def show(progress: WaitProgress) -> None:
                tally.add(progress.outcome)
                screen.advance(tally.counted())

            await client.tasks.wait_many([start.result() for start in starts], on_progress=show)
        _summarise(tally, len(pairs), client.quota, now() - started)
    return Exit.SUCCEEDED


def _summarise(tally: "Tally", merges: int, quota: Quota, seconds: float) -> None:
    typer.echo(f"\n{merges} duplicates in {seconds:.1f} s: {tally.counted()}")
    for reason, count in tally.reasons.most_common():
        typer.echo(f"  {count:>4} failed: {reason}")
    typer.echo(
        f"  {quota.sent} calls, {quota.sent / merges:.2f} a merge; "
        f"{quota.refused} of them refused for a limit"
    )


class _Terms(TypedDict):
    timeout: float
    poll_interval: float
    max_poll_interval: float


class _Given(NamedTuple):
    url: str
    place: str


def _given_urls(urls: list[str], file: Path | None) -> list[_Given]:
    given = [_Given(url, "") for url in urls]
    if file is not None:
        try:
            given += _lines(file.read_text("utf-8-sig", errors="replace"), str(file))
        except OSError as error:
            fail(f"Cannot read {file}: {error.strerror}. Check --file.")
    elif not given and not sys.stdin.isatty():
        given = _lines(sys.stdin.read(), "standard input")
    if not given:
        fail("There is no task URL: give some as arguments, by --file, or on standard input.")
    return given


def _lines(text: str, source: str) -> list[_Given]:
    stripped = (line.strip() for line in text.splitlines())
    return [
        _Given(line, f"{source}:{number}: ")
        for number, line in enumerate(stripped, start=1)
        if line and not line.startswith("#")
    ]


def _draw(option: str, text: str) -> float | tuple[float, float]:
    low, dash, high = text.partition("-")
    try:
        return (float(low), float(high)) if dash else float(low)
    except ValueError:
        fail(f"{option} takes seconds such as 2, or a range such as 1-30, not {text!r}.")
