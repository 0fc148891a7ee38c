"""The three limits, without a server."""

from hypothesis import given
from hypothesis import strategies as st

from aiotasks.sandbox._limits import UNLIMITED, Limits, Window


def limits(*, minute: int = 2, month: int = 0, at_once: int | None = None) -> Limits:
    return Limits(
        minute=Window(minute, 60.0, origin=0.0),
        month=Window(month, 2_592_000.0, origin=0.0),
        max_concurrent=at_once,
    )


def test_each_window_starts_fresh() -> None:
    """Each window begins with its full quota."""
    both = limits()
    assert [
        both.admit(
            now,
        )
        for now in (0.0, 59.0, 59.9, 60.0)
    ] == [None, None, "minute", None]
    assert both.minute.remaining(60.0) == 1


def test_refusals_cost_nothing() -> None:
    """A refused request costs nothing in any window."""
    both = limits(minute=1, month=2)
    assert [both.admit(0.0) for _ in range(3)] == [None, "minute", "minute"]
    assert both.admit(60.0) is None
    assert both.admit(120.0) == "month"
    assert both.month.used(120.0) == 2


def test_no_limit_has_no_headers() -> None:
    """A limit of 0 refuses nothing and has no headers, but requests are still counted."""
    both = limits(minute=0, month=0)
    assert all(both.admit(0.0) is None for _ in range(5000))
    assert both.headers(0.0) == {}
    assert both.view(0.0) == {
        "callerPerMinute": {
            "limit": UNLIMITED,
            "remaining": UNLIMITED - 5000,
            "reset": 60,
            "used": 5000,
        }
    }


def test_headers_round_the_reset_up() -> None:
    """The reset is in whole seconds and never too early."""
    both = limits(minute=5, month=9)
    both.use(7, 0.0)
    assert both.headers(0.5) == {
        "X-Ratelimit-Limit-User": "5",
        "X-Ratelimit-Limit-User-Remaining": "0",
        "X-Ratelimit-Limit-User-Reset": "60",
        "X-Ratelimit-Limit-Org": "9",
        "X-Ratelimit-Limit-Org-Remaining": "2",
        "X-Ratelimit-Limit-Org-Reset": "2592000",
    }


@given(st.floats(0, 1e6), st.floats(0.5, 120), st.floats(0, 1e5), st.integers(1, 50))
def test_after_the_reset_the_quota_is_fresh(
    origin: float, seconds: float, later: float, count: int
) -> None:
    """After the seconds of the reset header the window is full, however they are rounded."""
    window = Window(50, seconds, origin=origin)
    now = origin + later
    window.use(count, now)
    assert window.used(now + window.reset(now)) == 0


def test_crowds_and_waits() -> None:
    """Only more concurrent requests than allowed are refused; each cause has its own wait."""
    both = limits(at_once=2)
    assert [both.crowded(number) for number in (1, 2, 3)] == [False, False, True]
    assert not limits().crowded(10_000)
    assert [both.wait(cause, 10.0) for cause in ("minute", "month", "concurrency")] == [
        50,
        2_591_990,
        1,
    ]
