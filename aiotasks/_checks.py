"""Checks of arguments, and the error that says which one cannot be used."""

import math
import re
from inspect import iscoroutinefunction
from typing import NoReturn, TypeVar, cast, get_args

from .errors import ConfigurationError
from .models import Kind


T = TypeVar("T")

_LONGEST = 120
_USER = re.compile(r"//[^/@]*@")


def positive(name: str, value: float) -> float:
    """Return a number of seconds that is above 0 and finite."""
    if not 0 < value < math.inf:
        reject(f"{name} must be a positive number of seconds, not {value!r}")
    return value


def whole(name: str, value: int, *, at_least: int) -> int:
    """Return a whole number that is not below ``at_least``."""
    if type(value) is not int or value < at_least:
        reject(f"{name} must be a whole number, {at_least} or more, not {value!r}")
    return value


def switch(name: str, value: object) -> bool:
    """Return a switch that is on or off; a text such as ``"0"`` would be on."""
    if not isinstance(value, bool):
        reject(f"{name} must be True or False, not {shorten(value)}")
    return value


def callback(name: str, value: T | None) -> T | None:
    """Return a function that is called without being awaited, or ``None``."""
    if value is not None and (not callable(value) or iscoroutinefunction(value)):
        reject(f"{name} must be a function, and not an async one: nothing awaits what it returns")
    return value


def known_kind(kind: str) -> Kind:
    """Return a kind that is ``"company"`` or ``"person"``."""
    if kind not in get_args(Kind):
        reject(f"{shorten(kind)} is not a kind: it is company or person")
    return cast(Kind, kind)


def shorten(value: object) -> str:
    """Return a value as an error shows it: at most 120 characters, and no key in it."""
    # Some put the key where a URL has its user.
    text = _USER.sub("//…@", repr(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def reject(message: str) -> NoReturn:
    """Raise the error of an argument that cannot be used."""
    raise ConfigurationError(message)
