"""The commands for tasks: wait for them, read one, list them; and what is left of the limits."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, NamedTuple, TypedDict

import typer

from aiotasks.client import Client, ClientSettings
from aiotasks.dedupe._input.lists import read_urls
from aiotasks.models import Kind
from aiotasks.outcomes import OutcomeState

from .client_options import with_client_settings
from .command import fail, run_command
from .commands import Commands
from .exit_codes import EXIT_OF_STATE, Exit
from .options import AsJson, is_for_people
from .output import (
    OutcomeSummary,
    OutputFile,
    open_output,
    print_line,
    print_outcome,
    print_task,
    print_text,
)
from .progress import WaitProgressBar
from .task_text import HEADING, limits, task_line


_LIMITS = ("limit", "remaining", "reset", "org_limit", "org_remaining", "org_reset")

commands = Commands()


@commands.command(short_help="Wait for tasks, and print their outcomes.")
@with_client_settings
def wait(
    urls: Annotated[list[str] | None, typer.Argument(metavar="URL", help="Task URLs.")] = None,
    *,
    file: Annotated[
        Path | None,
        typer.Option(help="Read task URLs from a file: one a line, or a table with them."),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="The column of a table of task URLs.", metavar="NAME")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until the wait gives up.")] = 300.0,
    poll_interval: Annotated[
        float, typer.Option(help="Seconds from the first poll to the second.")
    ] = 2.0,
    max_poll_interval: Annotated[
        float, typer.Option(help="The longest time between two polls, in seconds.")
    ] = 30.0,
    output: OutputFile = None,
    client: ClientSettings,
) -> None:
    """Wait for tasks, and print the outcome of each as a JSON line as soon as it is known.

    Without URLs and --file, they are read from standard input.
    """
    given = _given_urls(urls or [], file, column)
    terms = _Terms(
        timeout=timeout, poll_interval=poll_interval, max_poll_interval=max_poll_interval
    )
    with open_output(output, is_whole=False):
        run_command(_wait(given, terms, client))


@commands.command()
@with_client_settings
def get(
    url: Annotated[str, typer.Argument(metavar="URL", help="A task URL.")],
    *,
    output: OutputFile = None,
    json: AsJson = False,
    client: ClientSettings,
) -> None:
    """Read a task once, and print it: as a line for people, or as a JSON line."""
    with open_output(output, is_whole=False):
        run_command(_get(url, client, is_for_people=is_for_people(json)))


@commands.command(short_help="List the organization's merge tasks.")
@with_client_settings
def tasks(
    *,
    kind: Annotated[Kind, typer.Option(help="What was merged.")],
    status: Annotated[str | None, typer.Option(help="Only tasks with this status.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many, the newest.")] = None,
    output: OutputFile = None,
    json: AsJson = False,
    client: ClientSettings,
) -> None:
    """List the organization's merge tasks, newest first: as a table for people, or as JSON lines."""
    with open_output(output):
        run_command(_tasks(kind, status, limit, client, is_for_people=is_for_people(json)))


@commands.command(short_help="Ask what is left of the limits.")
@with_client_settings
def quota(*, output: OutputFile = None, json: AsJson = False, client: ClientSettings) -> None:
    """Ask by one call what is left of the limits, and print it: for people, or as a JSON line."""
    with open_output(output):
        run_command(_quota(client, is_for_people=is_for_people(json)))


async def _wait(given: list["_Given"], terms: "_Terms", settings: ClientSettings) -> Exit:
    summary = OutcomeSummary({item.url: item.place for item in given})
    async with (
        Client.from_env(**settings) as client,
        client.tasks.watch([item.url for item in given], **terms) as watch,
    ):
        try:
            with WaitProgressBar("Waiting", len(given), client) as screen:
                async for outcome in watch:
                    print_outcome(outcome)
                    summary.add(outcome)
                    screen.advance(summary.counted())
        except asyncio.CancelledError:
            for outcome in watch.unsettled:
                print_outcome(outcome)
                summary.add(outcome)
            raise
        finally:
            summary.print()
    return summary.exit


async def _get(url: str, settings: ClientSettings, *, is_for_people: bool) -> Exit:
    async with Client.from_env(**settings) as client:
        task = await client.tasks.get(url)
    if is_for_people:
        print_text(task_line(url, task))
    else:
        print_task(url, task)
    return EXIT_OF_STATE[OutcomeState.of(task)]


async def _tasks(
    kind: Kind,
    status: str | None,
    limit: int | None,
    settings: ClientSettings,
    *,
    is_for_people: bool,
) -> Exit:
    if is_for_people:
        print_text(HEADING)
    async with Client.from_env(**settings) as client:
        async for task in client.tasks.list(kind, status=status, limit=limit):
            url = client.tasks.url_of(kind, task.id)
            if is_for_people:
                print_text(task_line(url, task))
            else:
                print_task(url, task)
    return Exit.SUCCEEDED


async def _quota(settings: ClientSettings, *, is_for_people: bool) -> Exit:
    async with Client.from_env(**settings) as client:
        known = await client.refresh_quota()
    if is_for_people:
        for line in limits(known):
            print_text(line)
    else:
        print_line({name: getattr(known, name) for name in _LIMITS})
    return Exit.SUCCEEDED


class _Terms(TypedDict):
    timeout: float
    poll_interval: float
    max_poll_interval: float


class _Given(NamedTuple):
    url: str
    place: str


def _given_urls(urls: list[str], file: Path | None, column: str | None) -> list[_Given]:
    given = [_Given(url, "") for url in urls]
    if file is not None:
        try:
            given += _listed(file.read_bytes(), str(file), column)
        except OSError as error:
            fail(f"Cannot read {file}: {error.strerror}. Check --file.")
    elif not given and not sys.stdin.isatty():
        given = _listed(sys.stdin.buffer.read(), "standard input", column)
    if not given:
        fail("There is no task URL: give some as arguments, by --file, or on standard input.")
    return given


def _listed(content: bytes, source: str, column: str | None) -> list[_Given]:
    items, problems = read_urls(content, source=source, column=column)
    if problems:
        fail("\n".join([*problems, f"Nothing was waited for: fix {source} and try again."]))
    return [_Given(item.text, f"{item.place}: ") for item in items]
