"""The command that finds out what only the user's own account can tell."""

import shutil
import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from aiotasks.client import Client, ClientSettings
from aiotasks.dedupe import Ledger
from aiotasks.dedupe.job import lateness_of
from aiotasks.errors import AffinityError
from aiotasks.models import Lateness

from .client_options import with_client_settings
from .command import fail, run_command
from .commands import Commands
from .exit_codes import Exit, exit_of
from .output import OutputFile, note, open_output, print_line, print_text, say


_WRAPPER = partial(
    textwrap.wrap, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
)

commands = Commands()


@commands.command(short_help="Find out whether a job could run now.")
@with_client_settings
def doctor(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where the ledgers of earlier jobs are.")
    ] = Path(),
    *,
    json: Annotated[
        bool, typer.Option("--json", help="Print all that was found as one line of JSON.")
    ] = False,
    output: OutputFile = None,
    client: ClientSettings,
) -> None:
    """Find out whether a job could run now, and what this account's API is like.

    It only reads, and asks at most 20 times. The page that it prints has neither key nor names nor
    ids, so that it can go into a report of an error. The exit code is 0 if a job could run.
    """
    if not folder.is_dir():
        fail(f"There is no folder {folder}: name that of your ledgers, or none.")
    ledgers = sorted(folder.glob("*.job.db"))
    # Only a terminal has a width.
    width = shutil.get_terminal_size(fallback=(0, 0)).columns if output is None else 0
    with open_output(output, is_whole=False):
        run_command(_doctor(ledgers, client, json=json, width=width))


async def _doctor(ledgers: list[Path], settings: ClientSettings, *, json: bool, width: int) -> Exit:
    note("Asking the API at most 20 times, only to read.")
    urls, lateness = await _known_from(ledgers)
    async with Client.from_env(**settings) as client:
        found = await client.diagnose(
            task_urls=[url for url in urls if url.startswith(client.base_url)], lateness=lateness
        )
    if json:
        print_line({**found.to_dict(), "can_run": found.can_run})
    else:
        for line in wrapped(found.text, width):
            print_text(line)
    return Exit.SUCCEEDED if found.error is None else exit_of(found.error)


def wrapped(text: str, width: int) -> Iterator[str]:
    """Yield the lines of a text, wrapped at word ends if there is a width."""
    for line in text.splitlines():
        yield from [line] if not width else _WRAPPER(line, width)


async def _known_from(ledgers: list[Path]) -> tuple[list[str], Lateness]:
    """Return the tasks of ledgers, and how late these became visible."""
    urls, lateness = list[str](), Lateness()
    for path in ledgers:
        try:
            async with Ledger.reading(path) as ledger:
                urls += await ledger.task_urls()
                lateness += lateness_of(await ledger.notes())
        except AffinityError as error:
            say(f"Left out: {error}")
    return urls, lateness
