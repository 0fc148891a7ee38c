"""What all commands share: their options, and how they end."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

import typer

from aiotasks.errors import AffinityError

from .exit_codes import Exit, exit_of
from .output import give_up, say


T = TypeVar("T")


def fail(message: str) -> NoReturn:
    """End the command as wrong use, with a message."""
    say(message)
    raise typer.Exit(Exit.WRONG_USE)


def run_command(command: Coroutine[Any, Any, Exit]) -> NoReturn:
    """Run a command to its end, and exit with its code."""
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
        # The reader of the output has closed it, as `head` does: it has what it wanted.
        give_up("stdout")
        code = Exit.SUCCEEDED
    except OSError as error:
        code = refused_by_system(error)
    else:
        return result
    raise typer.Exit(code)


def refused_by_system(error: OSError) -> Exit:
    """Say what the system refused, and return the exit code for that."""
    # An error of the output names no file.
    if error.filename is not None:
        say(f"Cannot use {error.filename}: {error.strerror}.")
        return Exit.WRONG_USE
    say(f"The output cannot be written ({error.strerror}): it is not complete.")
    # Python tries once more when it ends, and would end with a code of its own.
    give_up("stdout")
    return Exit.RUNNING
