"""What an application can observe of a job: logs and spans."""

import logging
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.dedupe.conftest import Server, go, plan_of


async def test_a_job_is_logged(server: Server, job: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Transitions are logged at DEBUG with their data as fields, the rest of a job at INFO."""
    caplog.set_level(logging.DEBUG, "aiotasks.dedupe")
    _ = await go(server, job, plan_of(12))
    records = [each for each in caplog.records if each.name == "aiotasks.dedupe"]
    info = [each.getMessage() for each in records if each.levelno == logging.INFO]
    assert info[0] == "A job of 12 merges begins or goes on"
    assert info[1] == "The first 10 merges have succeeded"
    assert info[-1].startswith("The job has ended: {'succeeded': 12} after ")
    steps = [(each.number, each.state) for each in records if hasattr(each, "number")]  # type: ignore[attr-defined]
    assert [state for number, state in steps if number == 1] == ["sending", "started", "succeeded"]
    assert len(steps) == 36


async def test_no_transition_is_logged_by_default(
    server: Server, job: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At INFO a job has a few lines, however many merges it has; a stop is one of them."""
    caplog.set_level(logging.INFO, "aiotasks.dedupe")
    server.failure_rate = 1.0
    _ = await go(server, job, plan_of(60))
    messages = [each.getMessage() for each in caplog.records if each.name == "aiotasks.dedupe"]
    assert messages[1] == "The job stops: failures"
    assert len(messages) == 3


async def test_a_job_has_a_span(server: Server, job: Path, spans: InMemorySpanExporter) -> None:
    """The merges of a job are children of its span."""
    _ = await go(server, job, plan_of(3))
    *merges, whole = spans.get_finished_spans()
    assert (whole.name, dict(whole.attributes or {})) == (
        "aiotasks.job",
        {"aiotasks.kind": "company", "aiotasks.merges": 3},
    )
    assert [each.name for each in merges] == ["aiotasks.merge"] * 3
    assert {each.parent and each.parent.span_id for each in merges} == {whole.context.span_id}
