"""What all commands share: their options, and how they end."""

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from ._console import Exit, exit_of, say
from ._http import urls
from .errors import AffinityError


T = TypeVar("T")

EXIT_CODES = """
Exit codes: 0 all succeeded, 1 some failed, 2 wrong use, 3 still running or interrupted,
4 not authorised, 5 API unreachable, 6 stopped by itself. Of several, the highest counts.
"""

BaseUrl = Annotated[
    str | None,
    typer.Option(
        help="Where the API is.  [env: AFFINITY_BASE_URL]", show_default=urls.DEFAULT_BASE_URL
    ),
]
ApiVersion = Annotated[
    str | None,
    typer.Option(
        help="The API version to pin.  [env: AFFINITY_API_VERSION]", show_default="the key's own"
    ),
]


def settings_of(base_url: str | None, api_version: str | None) -> dict[str, str]:
    """Return the settings of a client that were given as options."""
    given = {"base_url": base_url, "api_version": api_version}
    return {name: value for name, value in given.items() if value is not None}


def fail(message: str) -> NoReturn:
    """End the command as wrong use, and say why."""
    say(message)
    raise typer.Exit(Exit.WRONG_USE)


def run_command(command: Coroutine[Any, Any, Exit]) -> NoReturn:
    """Run a command to its end, and exit as it says."""
    raise typer.Exit(
        complete(
            command,
            "What was started goes on at the server; wait again for the same URLs.",
        )
    )


def complete(work: Coroutine[Any, Any, T], if_interrupted: str) -> T:
    """Run what is a part of a command; errors and Ctrl-C end the command with a sentence."""
    try:
        result = asyncio.run(work)
        # What is still in the buffer may not fit on the disk.
        sys.stdout.flush()
    except KeyboardInterrupt:
        say(f"Interrupted. {if_interrupted}")
        code = Exit.RUNNING
    except AffinityError as error:
        say(str(error))
        code = exit_of(error)
    except BrokenPipeError:
        # Whoever reads the output has read enough of it.
        raise
    except OSError as error:
        say(f"The output cannot be written ({error.strerror}): it is not complete.")
        _give_up_output()
        code = Exit.RUNNING
    else:
        return result
    raise typer.Exit(code)


def _give_up_output() -> None:
    # Python tries once more when it ends, and would end with a code of its own.
    output = sys.__stdout__
    if output is not None and sys.stdout is output:
        with Path(os.devnull).open("wb") as nothing:
            _ = os.dup2(nothing.fileno(), output.fileno())
