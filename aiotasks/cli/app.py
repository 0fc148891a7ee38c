"""The application that all commands belong to."""

import errno
import signal
import sys
import traceback
from importlib.metadata import version
from typing import Annotated

import typer

from . import doctor, merge, plan, report, sandbox, serve, status, tasks
from .command import refused_by_system
from .exit_codes import EXIT_CODES, Exit
from .logs import LOG_OPTIONS, LogOptions, begin_logs, end_logs
from .option_groups import with_group
from .output import give_up, prepare_output, say


_BY_CTRL_C = 128 + signal.SIGINT

app = typer.Typer(
    help=(
        "Merge Affinity's duplicates. The API key is read from AFFINITY_API_KEY. Try it without an "
        "account: aiotasks demo"
    ),
    epilog=EXIT_CODES,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (plan, merge, status, report, serve, tasks, doctor, sandbox):
    app.add_typer(module.commands)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aiotasks {version('affinity-aiotasks')}")
        raise typer.Exit


@app.callback()
@with_group("logs", LOG_OPTIONS, LogOptions(), LogOptions)
def options(
    context: typer.Context,
    *,
    logs: LogOptions,
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Prepare what all commands use."""
    _ = show_version
    prepare_output()
    begin_logs(logs)
    _ = context.call_on_close(end_logs)


def main() -> None:
    """Run the command line; what no command foresees has exit codes of its own."""
    try:
        app(prog_name="aiotasks")
    except SystemExit as end:
        # Ctrl-C and a closed pipe outside of what a command awaits. Versions of typer end these with
        # 130, or with 1, which says that some merges failed.
        if end.code == _BY_CTRL_C or isinstance(end.__context__, typer.Abort):
            raise SystemExit(Exit.RUNNING) from None
        if isinstance(end.__context__, OSError) and end.__context__.errno == errno.EPIPE:
            give_up("stdout")
            raise SystemExit(Exit.SUCCEEDED) from None
        raise
    except OSError as error:
        # Help and the version are printed before a command begins.
        sys.exit(refused_by_system(error))
    except Exception:  # noqa: BLE001 - it is shown
        traceback.print_exc()
        say("This is an error in aiotasks itself: please report it, with the lines above.")
        sys.exit(Exit.BUG)
