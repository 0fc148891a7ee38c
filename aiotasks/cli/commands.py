"""The commands of a module, with what all commands have."""

from collections.abc import Callable
from typing import Any

import typer

from .exit_codes import EXIT_CODES
from .logs import LOG_OPTIONS, LogOptions, begin_more_logs
from .option_groups import with_group


class Commands(typer.Typer):
    """Adds the table of exit codes and the options for logs to each command."""

    def command(  # type: ignore[override] # it takes what typer's takes
        self, name: str | None = None, **settings: Any
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Return a decorator that makes a function a command."""
        register = super().command(name, **{"epilog": EXIT_CODES, **settings})

        def decorate(function: Callable[..., None]) -> Callable[..., None]:
            _ = register(_with_logs(function))
            return function

        return decorate


def _begin_given_logs(**given: Any) -> None:
    begin_more_logs(LogOptions(**given))


_with_logs = with_group("logs", LOG_OPTIONS, LogOptions(), _begin_given_logs)
