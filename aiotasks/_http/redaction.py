"""What keeps the key out of everything that is printed, logged, stored or reported.

Reports of errors (Sentry, ``pytest --showlocals``) contain the repr of each local variable in each
frame of a traceback, and servers may repeat what they were sent.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from multidict import CIMultiDict

from aiotasks.errors import ConfigurationError


P = ParamSpec("P")
T = TypeVar("T")

SHORTEST: Final = 8
"""The length from which a key is replaced in answers; a shorter one may be a word of them."""

REPLACEMENT: Final = "[the API key]"
"""What an answer contains in place of the key."""


class Hidden(str):
    """A text that is sent like any other, and whose repr does not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


class Redactor:
    """Replaces a key in what a server sends."""

    def __init__(self, key: str) -> None:
        # A text that no answer contains stands for a key that is too short.
        self._key = Hidden(key if len(key) >= SHORTEST else "\0")
        self._bytes = self._key.encode()

    def text(self, text: str) -> str:
        """Return a text without the key."""
        return text.replace(self._key, REPLACEMENT)

    def body(self, body: bytes) -> bytes:
        """Return a body without the key."""
        return body.replace(self._bytes, REPLACEMENT.encode())

    def headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return headers without the key in their values."""
        if not any(self._key in value for value in headers.values()):
            return headers
        return CIMultiDict({name: self.text(value) for name, value in headers.items()})


def without_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """Let the ``ConfigurationError``s of a function have no frame that contains its arguments."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except ConfigurationError as error:
            # The error that is raised here would have the other one as its context.
            problem = str(error)
        del args, kwargs
        raise ConfigurationError(problem)

    return call
