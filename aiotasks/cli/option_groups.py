"""Groups of options that several commands share, each declared once."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from aiotasks.errors import ConfigurationError

from .command import fail


def with_group(
    name: str, options: Mapping[str, Any], defaults: object, make: Callable[..., Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that replaces a parameter of a command by a group of options.

    Typer reads the options of a command from its signature, and knows no groups of options. The
    command gets what ``make`` returns for what was given; a command without that parameter gets
    the options for their effect.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_options(**given: Any) -> None:
            try:
                made = make(**{each: given.pop(each) for each in options})
            except ConfigurationError as error:
                fail(str(error))
            command(**({name: made} if name in signature.parameters else {}), **given)

        signature = inspect.signature(command)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            is_group = parameter.name == name
            parameters += _parameters(options, defaults) if is_group else [parameter]
        if name not in signature.parameters:
            parameters += _parameters(options, defaults)
        replaced = signature.replace(parameters=parameters)
        # What `inspect` reads in place of a function's own signature; stubs of functions lack it.
        with_options.__signature__ = replaced  # type: ignore[attr-defined]
        return with_options

    return decorate


def _parameters(options: Mapping[str, Any], defaults: object) -> list[inspect.Parameter]:
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(defaults, name, None),
            annotation=annotation,
        )
        for name, annotation in options.items()
    ]
