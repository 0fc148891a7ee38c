"""The figures of a service under load that are counted are exact."""

from functools import partial
from pathlib import Path

import pytest

from benchmarks import load, virtual
from benchmarks.figures import save
from benchmarks.tables import tables


def test_many_handlers_send_no_more_requests_than_few() -> None:
    """Calls depend on the number of tasks, not of handlers, and all handlers get the outcome."""
    few, many = (
        virtual.run(partial(load._wait_virtually, 100, handlers), seed=1)
        for handlers in (100, 1_000)
    )
    assert (few["finished"], many["finished"]) == (100, 1_000)
    assert many["calls"] <= few["calls"]


@pytest.mark.parametrize("way", load.CLIENTS)
def test_a_poll_beside_a_job_is_not_delayed(way: str) -> None:
    """A task is polled without delay while a job has calls left."""
    run = virtual.run(partial(load._ask_beside, way, 60), seed=1)
    assert run["merged"] == 60
    assert run["with_calls_left"] > 10
    assert run["with_calls_left_p99"] < 1.0 + load.LATENCY[1]
    assert (run["without"], run["without_p99"]) == (0, None)


def test_the_table_has_streams_and_handlers(tmp_path: Path) -> None:
    """All figures of a service are in the table, failures included."""
    results = {
        "calls": [{"handlers": 10_000, "tasks": 500, "calls": 43, "finished": 10_000}],
        "waiting": [
            {"calls_a_second": 2.5, "share_of_a_processor": 0.013, "bytes_per_handler": 4_321}
        ],
        "streams": {
            "streams": 1_000,
            "pairs": 300,
            "events_of_each": 900,
            "streams_told_each_event_once": 997,
            "streams_with_a_resync": 1,
            "streams_told_all": 999,
            "kib_per_stream": 17.1,
            "kib_per_stream_with_the_job_at_most": 20.5,
            "microseconds_of_cpu_per_event": 0.9,
            "events_a_second_when_told_again": 400_000,
        },
        "hour": {
            "minutes": 60,
            "waits": 36_000,
            "looks": 36_000,
            "calls": 17_924,
            "refused": 0,
            "kib_grown_since_the_fifth_minute": [0, 8, 16, 20],
        },
        "beside_a_job": [
            {
                "asked_by": "another",
                "merges": 3_000,
                "with_calls_left": 683,
                "with_calls_left_p50": 0.15,
                "with_calls_left_p99": 0.25,
                "with_calls_left_max": 9.1,
                "server_takes_at_most": 0.25,
                "refused": 0,
            }
        ],
    }
    save(tmp_path, "load", results)
    text = tables(tmp_path)
    assert "| 10,000 | 500 | 43 | 2.5 | 1.3% | 4,321 |" in text
    assert "999 of them told all 900 events, 997 each of them once, 1 with a resync" in text
    assert "was 20 KiB larger at the end than after five minutes, and 4 KiB" in text
    assert "| another | 3,000 | 683 | 0.15 / 0.25 / 9.10 | up to 0.25 | 0 |" in text
