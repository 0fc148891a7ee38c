"""What an application can observe: logs, a call for each request, and spans."""

import asyncio
import builtins
import logging
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aiotasks import (
    Client,
    ConfigurationError,
    RequestInfo,
    TaskFailedError,
    _spans,
    instrument,
)
from aiotasks.sandbox import Fault
from tests.leaks import KEY
from tests.servers import Recorded, connect


pytestmark = pytest.mark.plain


def logged(caplog: pytest.LogCaptureFixture, name: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == f"aiotasks.{name}"]


async def test_requests_are_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Each request is logged at DEBUG, with its data as fields, and never with the key."""
    caplog.set_level(logging.DEBUG, "aiotasks")
    url = await client.companies.merge(1, 2)
    await client.tasks.wait(url)
    merge, poll, *_ = logged(caplog, "http")
    assert (merge.levelname, merge.method, merge.path) == ("DEBUG", "POST", "/v2/company-merges")  # type: ignore[attr-defined]
    assert (merge.status, poll.status) == (202, 200)  # type: ignore[attr-defined]
    assert merge.getMessage() == "POST /v2/company-merges: 202 after 0.000 s"
    (ended,) = logged(caplog, "polling")
    assert (ended.levelname, ended.state, ended.task_url) == ("DEBUG", "success", url)  # type: ignore[attr-defined]
    assert client._headers["Authorization"].removeprefix("Bearer ") not in caplog.text


async def test_retries_and_pauses_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Retries and pauses are logged at INFO, a pause once for all that wait for it."""
    caplog.set_level(logging.INFO, "aiotasks")
    async with Recorded(quota=1, api_key=KEY) as sandbox, connect(sandbox) as client:
        url = sandbox.start_merge("company", 1, 2, duration=0.0)
        sandbox.inject(Fault.status(503))
        await client.tasks.get(url)
        await asyncio.gather(client.tasks.get(url), client.tasks.get(url))
    (retry,) = [each for each in logged(caplog, "http") if hasattr(each, "attempt")]
    assert (retry.levelname, retry.attempt, retry.error) == ("INFO", 1, "ServerError")  # type: ignore[attr-defined]
    pauses = [each for each in logged(caplog, "http") if hasattr(each, "waiting")]
    assert pauses
    assert all(each.seconds >= 1 for each in pauses)  # type: ignore[attr-defined]
    starts = [each.created for each in pauses]
    assert len(starts) <= 4
    assert KEY not in caplog.text


async def test_outages_are_logged(
    sandbox: Recorded, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage of the polls is logged once as a warning, and its end."""
    (url,) = sandbox.start(1, duration=20.0)
    sandbox.inject(Fault.status(503), on="task", times=3)
    await client.tasks.wait(url)
    assert [each.levelname for each in logged(caplog, "polling")] == ["WARNING"]
    caplog.clear()
    caplog.set_level(logging.INFO, "aiotasks")
    (url,) = sandbox.start(1, first=2, duration=20.0)
    sandbox.inject(Fault.status(503), on="task", times=3)
    await client.tasks.wait(url)
    messages = [each.getMessage() for each in logged(caplog, "polling")]
    assert messages[0].startswith("A poll failed: ")
    assert messages[1:] == ["Polls are answered again"]


def test_nothing_is_printed_by_default() -> None:
    """Without a logging configuration, not even a warning is printed."""
    code = "import logging, aiotasks; logging.getLogger('aiotasks.http').warning('x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stderr == b""


async def test_each_request_is_counted(sandbox: Recorded) -> None:
    """``on_request`` is called after each attempt, whatever became of it."""
    requests: list[RequestInfo] = []
    async with connect(sandbox, on_request=requests.append, request_timeout=5.0) as client:
        url = await client.companies.merge(1, 2)
        sandbox.inject(Fault.status(503))
        await client.tasks.get(url)
        sandbox.inject(Fault.hang(), times=3)
        await client.tasks.get(url)
    seen = [(each.method, each.route, each.status) for each in requests]
    task = "/v2/tasks/company-merges/{id}"
    assert seen[:3] == [
        ("POST", "/v2/company-merges", 202),
        ("GET", task, 503),
        ("GET", task, 200),
    ]
    assert seen[3:] == [*[("GET", task, None)] * 3, ("GET", task, 200)]
    assert [round(each.seconds) for each in requests] == [0, 0, 0, 5, 5, 5, 0]
    assert len(requests) == sandbox.requests


async def test_a_cancelled_request_is_counted(sandbox: Recorded) -> None:
    """A request that was cancelled was sent, and is reported without a status."""
    requests: list[RequestInfo] = []
    (url,) = sandbox.start(1)
    sandbox.latency = 10.0
    async with connect(sandbox, on_request=requests.append) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await client.tasks.get(url)
        assert [(each.status, each.seconds) for each in requests] == [(None, 1.0)]


async def test_calls_left_are_reported() -> None:
    """The calls left in the minute and the month are those of the answer."""
    requests: list[RequestInfo] = []
    async with (
        Recorded(quota=100, month_quota=1000) as sandbox,
        connect(sandbox, on_request=requests.append) as client,
    ):
        await client.user_id()
        await client.user_id()
    assert [(each.remaining, each.org_remaining) for each in requests] == [(99, 999), (98, 998)]


async def test_what_counts_requests_may_fail(
    sandbox: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of ``on_request`` is logged, and changes no call."""
    async with connect(sandbox, on_request=lambda _: 1 / 0) as client:
        await client.user_id()
    (record,) = logged(caplog, "http")
    assert record.levelname == "ERROR"
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v2/tasks/company-merges/1b-2c", "/v2/tasks/company-merges/{id}"),
        ("/v2/tasks/company-merges", "/v2/tasks/company-merges"),
        ("/v2/person-merges/12", "/v2/person-merges/{id}"),
        ("/v2/companies/12", "/v2/companies/{id}"),
        ("/v2/companies", "/v2/companies"),
        ("/v2/duplicates/person-suggestions", "/v2/duplicates/person-suggestions"),
        ("/v2/auth/whoami", "/v2/auth/whoami"),
    ],
)
def test_routes_have_no_ids(path: str, route: str) -> None:
    """The route of a request names none of its ids."""
    info = RequestInfo(method="GET", path=path, status=200, seconds=0.1)
    assert info.route == route


async def test_spans(sandbox: Recorded, client: Client, spans: InMemorySpanExporter) -> None:
    """Merges and waits have a span each, which names what they are about."""
    url = await client.companies.merge(1, 2)
    await client.tasks.wait(url)
    await client.tasks.wait_many([url])
    merge, wait, many = spans.get_finished_spans()
    assert (merge.name, dict(merge.attributes or {})) == (
        "aiotasks.merge",
        {"aiotasks.kind": "company"},
    )
    assert (wait.name, dict(wait.attributes or {})) == (
        "aiotasks.wait",
        {"aiotasks.task_url": url},
    )
    assert many.name == "aiotasks.wait_many"


async def test_spans_have_their_errors(
    sandbox: Recorded, client: Client, spans: InMemorySpanExporter
) -> None:
    """The error of a call is on its span, without the key."""
    (url,) = sandbox.start(1, duration=0.0, reason="Locked")
    with pytest.raises(TaskFailedError):
        await client.tasks.wait(url)
    (wait,) = spans.get_finished_spans()
    assert not wait.status.is_ok
    assert sandbox.api_key not in wait.to_json()
    assert "Locked" in wait.to_json()


def test_spans_need_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without OpenTelemetry, the error says how to get it."""
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ModuleNotFoundError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigurationError, match=r"pip install affinity-aiotasks\[otel\]"):
        instrument()


async def test_without_instrumentation_there_is_no_span(client: Client) -> None:
    """Nothing is traced unless it was asked for."""
    with _spans.span("merge") as span:
        assert span is None
