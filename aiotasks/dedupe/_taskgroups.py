"""Errors of task groups, as callers expect them."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unwrap_errors() -> Iterator[None]:
    """Raise the first error of a group as itself: what a group did inside is nobody's affair."""
    try:
        yield
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from first.__cause__
