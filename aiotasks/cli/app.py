"""The application that all commands belong to."""

from importlib.metadata import version
from typing import Annotated

import typer

from . import merge, report, sandbox, serve, tasks
from .exit_codes import EXIT_CODES


app = typer.Typer(
    help=f"Merge Affinity's duplicates. The API key is read from AFFINITY_API_KEY.\n{EXIT_CODES}",
    epilog="Try it without an account: aiotasks demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (tasks, sandbox, merge, report, serve):
    app.add_typer(module.commands)


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
