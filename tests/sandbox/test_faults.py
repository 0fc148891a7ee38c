"""Faults: how they are written, and which requests they hit."""

from random import Random

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
    "text",
    [
        *("", "boom", "200", "5030", "503@nowhere", "503@", "503x0", "429:soon", "@task", "x3"),
        *("503~0%", "503~101%", "503~5", "503~%", "503~-5%", "503x3~5%", "~5%"),
    ],
)
def test_unknown_faults_are_explained(text: str) -> None:
    """The error for an unknown fault lists what can be written."""
    with pytest.raises(ValueError, match=r"disconnect-after.*@OPERATION.*~PERCENT%.*xTIMES"):
        Fault.parse(text)


@pytest.mark.parametrize(
    ("text", "on", "share", "times"),
    [
        ("disconnect-after@merge~5%", ("merge",), 0.05, None),
        ("429:5 ~0.5% x3", (), 0.005, 3),
        ("status=odd~100%x*", ("merges", "get_merge", "task", "tasks"), 1.0, None),
        ("503@task", ("task",), 1.0, 1),
    ],
)
def test_a_share_is_written_in_percent(
    text: str, on: tuple[str, ...], share: float, times: int | None
) -> None:
    """A fault with a share has no limit unless a number of times is written."""
    fault = Fault.parse(text)
    assert (fault.on, fault.share, fault.times) == (on, share, times)


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
    """The oldest matching fault comes first; when its times are used up, the next one comes."""
    faults = Faults(Random(1))
    for text in ("503@task x2", "500", "502 x*"):
        faults.add(Fault.parse(text))
    taken = [faults.take(name) for name in ("merge", "task", "task", "task", "merge")]
    assert [fault and fault.name for fault in taken] == ["500", "503", "503", "502", "502"]
    faults.clear()
    assert faults.take("task") is None


def test_a_fault_is_for_its_operation() -> None:
    """A fault for one operation does not affect the others."""
    faults = Faults(Random(1))
    faults.add(Fault.task_status("cancelled"))
    assert faults.take("whoami") is None
    assert faults.take("tasks") is not None


def test_a_share_hits_by_chance() -> None:
    """About that share of the requests is hit, the same ones for the same seed."""

    def hits(seed: int) -> list[bool]:
        faults = Faults(Random(seed))
        faults.add(Fault.parse("503~5%"))
        return [faults.take("merge") is not None for _ in range(2000)]

    assert 70 <= sum(hits(1)) <= 130
    assert hits(1) == hits(1)
    assert hits(1) != hits(2)


def test_a_fault_that_does_not_hit_passes_to_the_next() -> None:
    """A fault that does not hit is not counted, and the next one may hit the request."""
    faults = Faults(Random(1))
    faults.add(Fault.parse("503~10%x3"))
    faults.add(Fault.parse("500x*"))
    taken = [fault and fault.name for fault in (faults.take("task") for _ in range(200))]
    assert taken.count("503") == 3
    assert taken.count("500") == 197
    assert taken[:3] != ["503"] * 3


def test_certain_faults_draw_no_random_number() -> None:
    """A fault that always hits draws nothing, so it does not change which requests a share hits."""

    def hits(*others: str) -> list[bool]:
        faults = Faults(Random(7))
        for text in (*others, "503@task~50%"):
            faults.add(Fault.parse(text))
        requests = ["merge", "task"] * 50
        return [faults.take(name) is not None for name in requests][1::2]

    assert hits() == hits("500@merge x*")


def test_retry_after_comes_in_every_form() -> None:
    """Seconds, a date by the sandbox's own clock, any text, or nothing at all."""

    def header(fault: Fault) -> str | None:
        return fault.effect(Reply(200, b"", dict(DATE))).headers.get("Retry-After")

    assert header(Fault.rate_limit()) is None
    assert header(Fault.rate_limit(retry_after=3)) == "3"
    assert header(Fault.parse("429:5")) == "5"
    assert header(Fault.rate_limit(retry_after=90, as_date=True)) == "Mon, 01 Jan 2029 00:01:30 GMT"
    assert header(Fault.status(503, retry_after="soon")) == "soon"


@pytest.mark.parametrize(
    ("cause", "user", "org"),
    [("minute", "0", None), ("month", "1", "0"), ("concurrency", "1", None)],
)
def test_headers_blame_one_limit(cause: "str", user: str, org: str | None) -> None:
    """Only the limit that caused the refusal has nothing remaining."""
    fault = Fault.rate_limit(cause=cause)  # type: ignore[arg-type] # parametrized literals
    headers = fault.effect(Reply(200, b"", {"X-Ratelimit-Limit-User-Remaining": "0"})).headers
    assert headers["X-Ratelimit-Limit-User-Remaining"] == user
    assert headers.get("X-Ratelimit-Limit-Org-Remaining") == org
    assert ("X-Ratelimit-Limit-Org-Reset" in headers) is (cause == "month")


def test_status_edits_change_only_answers_with_a_status() -> None:
    """An answer without a status is not changed."""
    effect = Fault.task_status("odd").effect
    assert effect(Reply(200, b'{"data":[{"status":"success"}]}')).body == (
        b'{"data":[{"status":"odd"}]}'
    )
    assert effect(Reply(400, b'{"errors":[]}')).body == b'{"errors":[]}'
