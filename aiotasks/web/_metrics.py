"""What watches over a server reads: that it runs, its calls, and the pairs of each job."""

from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from aiotasks.client import Client

from ._responses import Refusal, json


if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

_STATES: Final = ("planned", "open", "succeeded", "failed", "refused", "unsettled", "left_out")
_MISSING: Final = "Metrics need the extra: `pip install affinity-aiotasks[metrics]`"


async def health(_: web.Request) -> web.StreamResponse:
    """Answer that the server runs, and nothing else, as everyone may ask."""
    return json({"status": "ok"})


def exposition(client: Client, jobs: Iterable[Mapping[str, Any]]) -> tuple[bytes, str]:
    """Return the metrics as Prometheus reads them, and their content type.

    Raises:
        Refusal: when the package for it is not installed.
    """
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise Refusal(HTTPStatus.NOT_IMPLEMENTED, _MISSING) from error
    return generate_latest(_Collector(client, jobs)), CONTENT_TYPE_LATEST


class _Collector:
    """What ``generate_latest`` takes for a registry: all is read at the moment of the request."""

    def __init__(self, client: Client, jobs: Iterable[Mapping[str, Any]]) -> None:
        self._client = client
        self._jobs = jobs

    def collect(self) -> "Iterator[Metric]":
        """Return all metrics."""
        from prometheus_client.core import (  # noqa: PLC0415 - an extra
            CounterMetricFamily,
            GaugeMetricFamily,
        )

        quota = self._client.quota
        counters = {
            "aiotasks_calls": ("Requests that were sent since the client was opened", quota.sent),
            "aiotasks_refusals": ("Requests that were refused for a limit (429)", quota.refused),
        }
        for name, (text, count) in counters.items():
            yield CounterMetricFamily(name, text, value=count)
        gauges = {
            "aiotasks_in_flight": ("Requests that wait for their answer", quota.in_flight),
            "aiotasks_waiting": ("Requests that wait for the limits", quota.waiting),
            "aiotasks_pending": ("Tasks that are waited for", self._client.pending),
            "aiotasks_minute_limit": ("Calls that the user has a minute", quota.limit),
            "aiotasks_minute_remaining": ("Calls left in the minute", quota.remaining),
            "aiotasks_month_limit": ("Calls that the organization has a month", quota.org_limit),
            "aiotasks_month_remaining": ("Calls left in the month", quota.org_remaining),
            "aiotasks_silent_seconds": ("Seconds without an answer", self._client.silent_for),
        }
        for name, (text, value) in gauges.items():
            if value is not None:
                yield GaugeMetricFamily(name, text, value=value)
        yield from self._of_jobs(GaugeMetricFamily)

    def _of_jobs(self, family: Any) -> "Iterator[Metric]":
        pairs = family("aiotasks_job_pairs", "Pairs of a job by state", labels=["job", "state"])
        running = family("aiotasks_job_running", "Whether this server runs a job", labels=["job"])
        for job in self._jobs:
            for state in _STATES:
                pairs.add_metric([job["id"], state], job["counts"][state])
            running.add_metric([job["id"]], job["phase"] == "running")
        yield pairs
        yield running
