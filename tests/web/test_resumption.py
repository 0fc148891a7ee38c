"""Jobs that go on when a server starts again."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from aiotasks import Client, NetworkError, ServerError, TaskFailedError
from aiotasks.dedupe import JobSettings, Ledger, PairState, resume
from aiotasks.sandbox import Fault, Sandbox
from aiotasks.web import _resumption, _runner
from aiotasks.web._resumption import RunSettings, settings_to_go_on

from .conftest import OpenSite, Site


pytestmark = pytest.mark.real_time
TOTALS = dict.fromkeys(PairState, 0)


async def started(site: Site, job: Any, **more: Any) -> None:
    """Start a job, and return when its first merge runs."""
    async with site.watch(job) as events:
        assert (await site.start(job, **more)).status == 202
        async for event in events:
            if event.name == "pair" and event.data["state"] == "started":
                return


async def finished(site: Site, job: Any) -> Any:
    """Wait for the end of a job that runs."""
    async with asyncio.timeout(10):
        while (  # noqa: ASYNC110 - no event to wait for
            found := (await site.ask(f"jobs/{job['id']}")).json
        )["phase"] == "running":
            await asyncio.sleep(0.02)
    return found


def finish_all(sandbox: Sandbox) -> None:
    sandbox.duration = 0.0
    for url in sandbox.task_urls("company"):
        sandbox.finish(url)


async def notes_of(site: Site, job: Any) -> Mapping[str, str]:
    async with Ledger.reading(site.folder / f"{job['id']}.job.db") as ledger:
        return await ledger.notes()


async def test_a_job_goes_on(open_site: OpenSite, sandbox: Sandbox) -> None:
    """A job that ran when the server ended goes on as it was started, each pair once."""
    sandbox.duration = 60.0
    async with open_site() as site:
        job = await site.upload(30)
        await started(site, job, settings={"canary": 4}, retry_failed=True)
    notes = await notes_of(site, job)
    assert notes["run_by"] == "serve"
    assert settings_to_go_on(notes, TOTALS | {PairState.STARTED: 1}) == RunSettings(
        JobSettings(canary=4), retry_failed=True
    )
    finish_all(sandbox)
    async with open_site(resume=True) as site:
        found = await finished(site, job)
        assert found["totals"]["succeeded"] == 30
    assert set(sandbox.posted("company").values()) == {1}
    assert "run_by" not in await notes_of(site, job)


async def test_a_start_names_what_goes_on(
    open_site: OpenSite, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """The audit log names each job with which a server goes on."""
    caplog.set_level(logging.INFO, "aiotasks.web.audit")
    sandbox.duration = 60.0
    async with open_site() as site:
        job = await site.upload(1)
        await started(site, job)
    async with open_site(resume=True):
        pass
    lines = [each.getMessage() for each in caplog.records if each.name == "aiotasks.web.audit"]
    assert lines[-1] == f"Job {job['id']}: resumed by this server, at its start"
    assert (await notes_of(site, job))["run_by"] == "serve"


@pytest.mark.parametrize("times", [1, 2])
async def test_a_stopped_job_stays_stopped(
    open_site: OpenSite, sandbox: Sandbox, times: int
) -> None:
    """What someone had stopped does not go on, however soon after that the server ended."""
    sandbox.duration = 60.0
    async with open_site() as site:
        job = await site.upload(3)
        await started(site, job)
        for _ in range(times):
            assert (await site.send(f"jobs/{job['id']}/stop")).status == 202
    async with open_site(resume=True) as site:
        assert (await site.ask(f"jobs/{job['id']}")).json["phase"] != "running"


async def test_what_failures_stopped_stays_stopped(open_site: OpenSite, sandbox: Sandbox) -> None:
    """What had stopped by itself does not go on by itself, also if it was in its grace."""
    sandbox.failure_rate = 1.0
    async with open_site() as site:
        job = await site.upload(40)
        _ = await site.finish(job)
    async with open_site(resume=True) as site:
        found = (await site.ask(f"jobs/{job['id']}")).json
        assert (found["phase"], found["stopped"]) == ("stopped", "failures")


async def test_what_an_error_ended_stays_ended(open_site: OpenSite, sandbox: Sandbox) -> None:
    """A job that a refused key had ended does not go on."""
    async with open_site() as site:
        job = await site.upload(1)
        sandbox.inject(Fault.status(403), on=None, times=None)
        _ = await site.finish(job)
    sandbox.clear_faults()
    async with open_site(resume=True) as site:
        assert (await site.ask(f"jobs/{job['id']}")).json["phase"] != "running"


async def test_the_default_is_to_leave_it(open_site: OpenSite, sandbox: Sandbox) -> None:
    """An application that is mounted goes on with nothing unless that is asked for."""
    sandbox.duration = 60.0
    async with open_site() as site:
        job = await site.upload(1)
        await started(site, job)
    async with open_site() as site:
        assert (await site.ask(f"jobs/{job['id']}")).json["phase"] == "broken-off"


async def test_what_others_ran_stays(open_site: OpenSite, client: Client, sandbox: Sandbox) -> None:
    """A job that something else ran later, such as the command line, is never taken over."""
    sandbox.duration = 60.0
    async with open_site() as site:
        job = await site.upload(1)
        await started(site, job)
    async with Ledger(site.folder / f"{job['id']}.job.db") as ledger:
        other = asyncio.create_task(resume(client, ledger))
        await asyncio.sleep(0.1)
        _ = other.cancel()
        _ = await asyncio.wait([other])
    async with open_site(resume=True) as site:
        assert (await site.ask(f"jobs/{job['id']}")).json["phase"] == "broken-off"


async def test_a_ledger_in_use(
    open_site: OpenSite, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """What another process runs, and what is no ledger, keeps no server from starting."""
    sandbox.duration = 60.0
    async with open_site() as site:
        job = await site.upload(1)
        await started(site, job)
    _ = (site.folder / "broken.job.db").write_text("no ledger", "utf-8")
    async with (
        Ledger(site.folder / f"{job['id']}.job.db"),
        open_site(resume=True) as site,
    ):
        assert (await site.ask("jobs")).status == 200
    assert f"The job {job['id']} does not go on" in caplog.text
    assert "broken.job.db is left as it is" in caplog.text


async def test_an_api_that_cannot_be_reached_at_first(
    open_site: OpenSite, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that goes on waits for the API, as it does for the end of an outage."""
    monkeypatch.setattr(_resumption, "_BACKOFF", lambda _: 0.01)
    sandbox.duration = 60.0
    async with open_site() as site:
        job = await site.upload(1)
        await started(site, job)
    finish_all(sandbox)
    failures = [NetworkError("x"), ServerError(503, None, "x")]
    resume_now = vars(_runner)["resume"]

    async def resume_later(*opened: Any, **settings: Any) -> Any:
        if failures:
            raise failures.pop()
        return await resume_now(*opened, **settings)

    monkeypatch.setattr(_runner, "resume", resume_later)
    async with open_site(resume=True) as site:
        found = await finished(site, job)
        assert (found["phase"], found["error"]) == ("finished", None)


@pytest.mark.parametrize(
    ("notes", "totals", "goes_on"),
    [
        ({"run_by": "serve"}, {PairState.STARTED: 1}, True),
        ({"run_by": "serve", "run_settings": "of another version"}, {PairState.PLANNED: 1}, True),
        ({"run_by": "serve"}, {PairState.SUCCEEDED: 3, PairState.UNSETTLED: 1}, False),
        ({}, {PairState.STARTED: 1}, False),
        ({"run_by": "another"}, {PairState.STARTED: 1}, False),
    ],
    ids=str,
)
def test_what_goes_on(notes: dict[str, str], totals: dict[PairState, int], goes_on: bool) -> None:
    """Only what a server was running, and has not ended, goes on."""
    found = settings_to_go_on(notes, TOTALS | totals)
    assert found == (RunSettings() if goes_on else None)


async def test_an_error_is_waited_out_only_if_it_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job waits for what may pass, until it is stopped, and not for ever."""
    monkeypatch.setattr(_resumption, "_BACKOFF", lambda _: 0.01)
    stop = asyncio.Event()
    pause = _resumption.pause_before_retry
    assert await pause(NetworkError("x"), 1, stop)
    assert not await pause(ServerError(500, None, "x"), _resumption._ATTEMPTS, stop)
    assert not await pause(TaskFailedError("u", None, None), 1, stop)  # type: ignore[arg-type]
    stop.set()
    assert not await pause(NetworkError("x"), 1, stop)
