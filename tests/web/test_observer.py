"""What a server logs, and what it shows to those that watch over it."""

import asyncio
import builtins
import logging
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from prometheus_client.parser import text_string_to_metric_families

from aiotasks.sandbox import Sandbox
from aiotasks.web import expiring_link
from aiotasks.web._observer import shown_path

from .conftest import OpenSite, Site


pytestmark = pytest.mark.real_time
BEARER = {"Authorization": "Bearer s3cret"}


def records(caplog: pytest.LogCaptureFixture, name: str) -> list[Any]:
    return [each for each in caplog.records if each.name == f"aiotasks.web.{name}"]


async def test_requests_are_logged(open_site: OpenSite, caplog: pytest.LogCaptureFixture) -> None:
    """Each request is logged with its peer, path, status and time, and without any token."""
    caplog.set_level(logging.INFO, "aiotasks.web")
    async with open_site(token="s3cret") as site:
        link = expiring_link(f"{site.url}/jobs", "s3cret")
        token = link.partition("token=")[2]
        async with site.session.get(link) as answer:
            assert answer.status == 200
        _ = await site.ask("jobs", headers=BEARER)
        assert (await site.ask("jobs/none", headers={"Authorization": "Bearer x"})).status == 404
    lines = [each.getMessage().partition(" after ")[0] for each in records(caplog, "access")]
    assert lines == [
        "127.0.0.1 - GET /merges/jobs?token=removed: 303",
        "127.0.0.1 - GET /merges/jobs: 200",
        "127.0.0.1 - GET /merges/jobs: 200",
        "127.0.0.1 - GET /merges/jobs/none: 404",
    ]
    assert "s3cret" not in caplog.text
    assert token not in caplog.text


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/jobs?token=abc&x=1&token=d", "/jobs?x=1&token=removed"),
        ("/jobs?after=2", "/jobs?after=2"),
        ("/jobs/%0a%1b[31m", "/jobs/%0A%1B%5B31m"),
    ],
)
def test_paths_are_shown_without_tokens(path: str, shown: str) -> None:
    """No token of a query is shown, nor what would fool a terminal."""
    found = shown_path(make_mocked_request("GET", path))
    assert "abc" not in found
    assert sorted(found.partition("?")[2].split("&")) == sorted(shown.partition("?")[2].split("&"))
    assert found.isprintable()


async def test_a_client_that_left(open_site: OpenSite, caplog: pytest.LogCaptureFixture) -> None:
    """A request whose client has left before the answer is logged as such."""
    caplog.set_level(logging.INFO, "aiotasks.web")
    async with open_site() as site:
        job = await site.upload(1)
        async with site.watch(job):
            pass
    events = [each for each in records(caplog, "access") if each.path.endswith("/events")]
    assert [each.status for each in events] in ([200], [499])


async def test_nothing_is_logged_to_no_one(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Without a listener there is no access log."""
    caplog.set_level(logging.WARNING, "aiotasks.web")
    _ = await site.ask("jobs")
    assert records(caplog, "access") == []


async def test_actions_are_logged(
    open_site: OpenSite, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Who planned, started and stopped a job is logged, with the name that a proxy gives."""
    caplog.set_level(logging.INFO, "aiotasks.web.audit")
    sandbox.duration = 60.0
    async with open_site(user_header="X-User") as site:
        site.session.headers["X-User"] = "ada"
        job = await site.upload(1)
        async with site.watch(job) as events:
            _ = await site.start(job)
            async for event in events:
                if event.name == "pair" and event.data["state"] == "started":
                    break
            for _ in range(2):
                _ = await site.send(f"jobs/{job['id']}/stop")
            async for event in events:
                if event.name == "done":
                    break
        _ = await site.send("jobs/none/stop")
    found = records(caplog, "audit")
    assert [each.action for each in found] == ["planned", "started", "stopped", "stopped"]
    assert {(each.job, each.peer, each.user) for each in found} == {(job["id"], "127.0.0.1", "ada")}
    assert found[0].getMessage() == f"Job {job['id']}: planned by ada at 127.0.0.1"


async def test_a_user_is_believed_only_when_asked_for(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the setting, no header names a user."""
    caplog.set_level(logging.INFO, "aiotasks.web")
    site.session.headers["X-User"] = "ada"
    _ = await site.upload(1)
    assert [hasattr(each, "user") for each in records(caplog, "audit")] == [False]
    assert "ada" not in caplog.text


async def test_health(open_site: OpenSite) -> None:
    """Everyone may ask whether a server runs, by any name, and learns nothing else."""
    async with open_site(token="s3cret") as site:
        answer = await site.ask("healthz", headers={"Host": "10.0.0.7:8080"})
        assert (answer.status, answer.json) == (200, {"status": "ok"})
        assert (await site.ask("jobs", headers={"Host": "10.0.0.7:8080"})).status == 403
        assert (await site.send("healthz")).status == 401


def metrics_of(text: str) -> dict[str, float]:
    return {
        "".join([sample.name, *(f" {value}" for value in sample.labels.values())]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics(open_site: OpenSite, sandbox: Sandbox) -> None:
    """Metrics want the token, and have the client's calls and the pairs of each job."""
    async with open_site(token="s3cret") as site:
        assert (await site.ask("metrics")).status == 401
        site.session.headers.update(BEARER)
        job = await site.upload(3)
        _ = await site.finish(job)
        answer = await site.ask("metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    found = metrics_of(answer.text)
    assert found["aiotasks_calls_total"] == sandbox.requests
    assert found["aiotasks_refusals_total"] == 0
    assert found["aiotasks_in_flight"] == found["aiotasks_pending"] == 0
    assert found[f"aiotasks_job_pairs {job['id']} succeeded"] == 3
    assert found[f"aiotasks_job_running {job['id']}"] == 0
    # The sandbox has no limits here, so nothing is known of them.
    assert "aiotasks_minute_limit" not in found


async def test_metrics_of_waits(open_site: OpenSite, client: Any, sandbox: Sandbox) -> None:
    """What is waited for at the moment is counted."""
    url = sandbox.start_merge("company", 1, 2, duration=60.0)
    waiting = asyncio.create_task(client.tasks.wait(url))
    await asyncio.sleep(0.05)
    async with open_site() as site:
        assert metrics_of((await site.ask("metrics")).text)["aiotasks_pending"] == 1
    sandbox.finish(url)
    _ = waiting.cancel()


async def test_metrics_need_their_package(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, the answer says how to get it."""
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ModuleNotFoundError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    answer = await site.ask("metrics")
    assert answer.status == 501
    assert "pip install affinity-aiotasks[metrics]" in answer.json["error"]
