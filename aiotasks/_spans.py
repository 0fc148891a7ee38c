"""Spans of merges, waits and jobs, for OpenTelemetry where an application asked for them."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError


if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

_NOTHING = nullcontext()
_tracers: list[Any] = []


def instrument(tracer_provider: "TracerProvider | None" = None) -> None:
    """Let all clients of this process make OpenTelemetry spans, from now on.

    ``aiotasks.merge`` is one merge request with its retries, ``aiotasks.wait`` and
    ``aiotasks.wait_many`` a wait, ``aiotasks.job`` a run of a dedupe job; the merges and waits of a
    job are its children. An error of the call is recorded on its span. No span shows the key.

    Args:
        tracer_provider: Who makes the spans; without it, the one that is set for the process.

    Raises:
        ConfigurationError: when OpenTelemetry is not installed.
    """
    try:
        from opentelemetry import trace  # noqa: PLC0415 - an extra, and slow to import
    except ModuleNotFoundError as error:
        message = "OpenTelemetry is not installed: `pip install affinity-aiotasks[otel]`"
        raise ConfigurationError(message) from error
    _tracers[:] = [trace.get_tracer("aiotasks", tracer_provider=tracer_provider)]


def span(name: str, **attributes: str | int) -> "AbstractContextManager[Span | None]":
    """Return a span of what is done in its scope, if the process is instrumented."""
    if not _tracers:
        return _NOTHING
    named = {f"aiotasks.{key}": value for key, value in attributes.items()}
    found: AbstractContextManager[Span] = _tracers[0].start_as_current_span(
        f"aiotasks.{name}", attributes=named
    )
    return found
