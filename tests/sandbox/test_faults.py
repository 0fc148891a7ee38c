"""Faults as plain decisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotasks.sandbox import OPERATIONS, Fault
from aiotasks.sandbox._faults import Faults
from aiotasks.sandbox._reply import Reply


NAMES = [
    "400",
    "503",
    "429",
    "429:5",
    "429:0.5",
    "disconnect",
    "disconnect-after",
    "hang",
    "truncate",
    "malformed",
    "huge",
    "html",
    "wrong-types",
    "latency=2.5",
    "status=cancelled",
]
DATE = {"Date": "Mon, 01 Jan 2029 00:00:00 GMT"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("suffix", "times"), [("", 1), ("x3", 3), (" x12", 12), ("x*", None)])
@pytest.mark.parametrize("on", ["", *OPERATIONS])
def test_every_written_fault_is_read(name: str, suffix: str, times: int | None, on: str) -> None:
    """A name, an operation and a number of times can be combined freely."""
    fault = Fault.parse(f"{name}@{on}{suffix}" if on else f"{name}{suffix}")
    assert fault.times == times
    if on:
        assert fault.on == (on,)


@pytest.mark.parametrize(
    "text", ["", "boom", "200", "5030", "503@nowhere", "503@", "503x0", "429:soon", "@task", "x3"]
)
def test_unknown_faults_are_explained(text: str) -> None:
    """What is no fault is an error that lists what can be written."""
    with pytest.raises(ValueError, match=r"disconnect-after.*@OPERATION.*xTIMES"):
        Fault.parse(text)


@given(st.one_of(st.text(max_size=30), st.sampled_from(NAMES)))
def test_no_text_breaks_the_parser(text: str) -> None:
    """Any text is either a fault or a ValueError."""
    try:
        fault = Fault.parse(text)
    except ValueError as error:
        assert "is no fault" in str(error)  # noqa: PT017 - either way is right
    else:
        assert fault.name


def test_faults_happen_in_order_and_run_out() -> None:
    """The oldest fault that fits comes first; when its times are over the next one comes."""
    faults = Faults()
    for text in ("503@task x2", "500", "502 x*"):
        faults.add(Fault.parse(text))
    taken = [faults.take(name) for name in ("merge", "task", "task", "task", "merge")]
    assert [fault and fault.name for fault in taken] == ["500", "503", "503", "502", "502"]
    faults.clear()
    assert faults.take("task") is None


def test_a_fault_may_fit_nothing_here() -> None:
    """A fault for one operation leaves the others alone."""
    faults = Faults()
    faults.add(Fault.task_status("cancelled"))
    assert faults.take("whoami") is None
    assert faults.take("tasks") is not None


def test_retry_after_comes_in_every_form() -> None:
    """Seconds, a date by the sandbox's own clock, any text, or nothing at all."""

    def told(fault: Fault) -> str | None:
        return fault.effect(Reply(200, b"", dict(DATE))).headers.get("Retry-After")

    assert told(Fault.rate_limit()) is None
    assert told(Fault.rate_limit(retry_after=3)) == "3"
    assert told(Fault.parse("429:5")) == "5"
    assert told(Fault.rate_limit(retry_after=90, as_date=True)) == "Mon, 01 Jan 2029 00:01:30 GMT"
    assert told(Fault.status(503, retry_after="soon")) == "soon"


@pytest.mark.parametrize(
    ("cause", "user", "org"),
    [("minute", "0", None), ("month", "1", "0"), ("concurrency", "1", None)],
)
def test_headers_blame_one_limit(cause: "str", user: str, org: str | None) -> None:
    """Only the limit that is to blame has nothing remaining."""
    fault = Fault.rate_limit(cause=cause)  # type: ignore[arg-type] # parametrized literals
    headers = fault.effect(Reply(200, b"", {"X-Ratelimit-Limit-User-Remaining": "0"})).headers
    assert headers["X-Ratelimit-Limit-User-Remaining"] == user
    assert headers.get("X-Ratelimit-Limit-Org-Remaining") == org
    assert ("X-Ratelimit-Limit-Org-Reset" in headers) is (cause == "month")


def test_status_edits_leave_other_answers_alone() -> None:
    """An answer without a status keeps what it has."""
    effect = Fault.task_status("odd").effect
    assert effect(Reply(200, b'{"data":[{"status":"success"}]}')).body == (
        b'{"data":[{"status":"odd"}]}'
    )
    assert effect(Reply(400, b'{"errors":[]}')).body == b'{"errors":[]}'
