"""Errors of task groups, as callers expect them."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unwrap_errors() -> Iterator[None]:
    """Unwrap an ``ExceptionGroup``: callers see the first error, not the group."""
    try:
        yield
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from first.__cause__
