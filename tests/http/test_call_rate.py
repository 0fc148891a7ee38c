"""The rate that a client was given: never more calls in any minute, and all of them in time."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotasks import Client, ConfigurationError
from aiotasks._http.call_rate import CallRate
from aiotasks._http.pacer import Lane, Pacer
from tests.servers import Recorded, connect, now


@given(
    most=st.integers(1, 200),
    pauses=st.lists(st.sampled_from([0.0, 0.0, 0.1, 1.0, 30.0, 100.0]), max_size=300),
)
def test_no_minute_has_more(most: int, pauses: list[float]) -> None:
    """Whenever calls come, no minute has more of them than the rate allows."""
    rate, at, sent = CallRate(most), 0.0, []
    for pause in pauses:
        at += pause
        at += max(0.0, rate.delay(at))
        rate.send(at)
        sent.append(at)
    for start, first in enumerate(sent):
        assert sum(time < first + 60.0 - 1e-6 for time in sent[start:]) <= most


@pytest.mark.parametrize("most", [1, 9, 60, 900])
def test_a_minute_is_used(most: int) -> None:
    """Calls that wait for nothing else use nearly all of each minute, and not all of it at once."""
    rate, at, sent = CallRate(most), 0.0, []
    while at < 600.0:
        rate.send(at)
        sent.append(at)
        at += max(0.0, rate.delay(at))
    assert 9.5 * most <= len(sent) <= 10 * most + 1
    assert sum(time < 1.0 for time in sent) <= 1 + most / 20 + most / 60


def test_a_call_that_is_not_sent() -> None:
    """A slot that is given back unused counts for nothing."""
    pacer = Pacer(max_in_flight=4, calls_per_minute=1)
    pacer.send(0.0, Lane.MERGE)
    assert pacer.delay(0.0, Lane.MERGE) == 60.0
    pacer.unsend()
    assert pacer.delay(0.0, Lane.MERGE) == 0.0


@pytest.mark.plain
async def test_a_job_at_a_rate_of_its_own(sandbox: Recorded) -> None:
    """Merges and their polls share the rate that a client was given, and all of them end."""
    async with connect(sandbox, calls_per_minute=30) as client:
        async with asyncio.TaskGroup() as group:
            starts = [
                group.create_task(client.companies.merge(2 * number - 1, 2 * number))
                for number in range(1, 41)
            ]
            await asyncio.sleep(5.0)
            assert client.quota.waiting_for == "the rate that this client was given"
        outcomes = await client.tasks.wait_many([start.result() for start in starts], timeout=None)
    assert len(outcomes.succeeded) == 40
    minutes = Counter(int(at // 60) for at in sandbox.times)
    assert max(minutes.values()) <= 30
    assert now() < 150.0


@pytest.mark.parametrize("rate", [0, -1, 1.5])
def test_rates_that_are_none(rate: int) -> None:
    """A rate is a whole number of calls, one or more."""
    with pytest.raises(ConfigurationError, match="calls_per_minute"):
        _ = Client("key", calls_per_minute=rate)
