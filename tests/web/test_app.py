"""Jobs over HTTP: upload, read, start, stop, download."""

import asyncio
import csv
import io
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError

from aiotasks import Client, ConfigurationError, LedgerError, ServerError
from aiotasks.dedupe import Ledger, LedgerReader, Plan
from aiotasks.sandbox import Fault, Sandbox
from aiotasks.web import _runner, jobs_app
from tests.web.conftest import OpenSite, Site


pytestmark = pytest.mark.real_time

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class TestUpload:
    async def test_a_file(self, site: Site, sandbox: Sandbox) -> None:
        """An uploaded file becomes a job that shows its plan; nothing is merged."""
        body = "primary_id,duplicate_id\n1,2\n2,3\n1,2\n"
        params = {"kind": "company", "name": "C:\\My Pairs.csv"}
        answer = await site.send("jobs", params=params, data=body)
        assert answer.status == 201
        job = answer.json
        assert answer.headers["Location"] == f"jobs/{job['id']}"
        assert job["id"].startswith("my-pairs-")
        assert job["source"] == "My Pairs.csv"
        assert (job["counts"]["total"], job["merges"], job["seq"]) == (2, 2, 0)
        assert job["totals"]["planned"] == 2
        assert 4 < job["cost"]["calls"] < 30
        assert job["fingerprint"] == Plan.of([(1, 2), (1, 3)], kind="company").fingerprint
        assert [each["line"] for each in job["rewrites"]] == [3, 4]
        for unknown in ("progress", "holder", "stopped", "error"):
            assert job[unknown] is None
        assert job["is_running"] is False
        assert (await site.ask(f"jobs/{job['id']}")).json == job
        assert not sandbox.posted("company")

    async def test_other_columns(self, site: Site) -> None:
        """An upload may be a workbook or have clusters; the page says how it was understood."""
        body = "sep=;\nGroup;No;Score\nA;1;0.5\nA;2;0.9\n".encode("utf-16")
        params = {"kind": "company", "name": "clusters.csv", "keep": "Score", "sheet": ""}
        params |= {"cluster_column": "group", "id_column": "no"}
        job = (await site.send("jobs", params=params, data=body)).json
        sentence = "the record of each cluster that 'Score' ranks highest or names survives"
        assert job["understood"] == [sentence]
        assert job["fingerprint"] == Plan.of([(2, 1)], kind="company").fingerprint
        page = (await site.ask(f"jobs/{job['id']}", headers=HTML)).text
        assert f"Understood: {sentence}".replace("'", "&#x27;") in page
        report = (await site.ask(f"jobs/{job['id']}/report.csv")).text
        assert report.startswith("\ufeffprimary_id;duplicate_id;Group;Score;")
        answer = await site.send("jobs", params=params, json={"pairs": [[1, 2]]})
        assert answer.status == 400
        assert "cluster_column, id_column, keep are for files" in answer.json["error"]

    async def test_pairs_as_json(self, site: Site) -> None:
        """A program can upload pairs as JSON."""
        params = {"kind": "person", "name": "nightly", "on_conflict": "first", "max_cluster": "2"}
        pairs = {"pairs": [[1, 2], [3, 4], [3, 5], [9, 2]]}
        job = (await site.send("jobs", params=params, json=pairs)).json
        assert (job["kind"], job["source"], job["merges"]) == ("person", "nightly", 1)
        assert {each["line"] for each in job["left_out"]} == {2, 3, 4}

    async def test_without_new_companies(self, site: Site) -> None:
        """An upload may leave out merges that would make a new company: that is another plan."""
        for no_new_company in (False, True):
            job = await site.upload(1, no_new_company=str(no_new_company).lower())
            plan = Plan.of([(1, 2)], kind="company", no_new_company=no_new_company)
            assert job["fingerprint"] == plan.fingerprint

    async def test_what_becomes_of_the_records(self, site: Site) -> None:
        """The JSON of a job counts the effects of its merges, and each merge has its own."""
        job = (await site.send("jobs", params={"kind": "person"}, json={"pairs": [[1, 2]]})).json
        undo = "in Settings > Duplicate Management > Merged"
        assert job["effects"] == {"kept": 1}
        assert job["undo"] == f"An admin can undo 1 of the plan's merges, {undo}."
        (merge,) = (await site.ask(f"jobs/{job['id']}/plan")).json["merges"]
        assert (merge["effect"], merge["undo"]) == ("kept", f"by an admin {undo}")

    async def test_many_jobs(self, site: Site) -> None:
        """What becomes of the records is the same each time, however many jobs are shown between."""
        params = {"kind": "person"}
        jobs = [
            (await site.send("jobs", params=params, json={"pairs": [[1, 2], [3, 4 + n]]})).json
            for n in range(10)
        ]
        for _ in range(2):
            assert [(await site.ask(f"jobs/{job['id']}")).json for job in jobs] == jobs

    async def test_mistakes(self, site: Site) -> None:
        """All mistakes of a list are named with their lines, and no job is created."""
        body = "primary_id,duplicate_id\n1,1\nx,2\n"
        params = {"kind": "company", "name": "pairs.csv"}
        answer = await site.send("jobs", params=params, data=body)
        assert answer.status == 422
        assert answer.json["error"] == "Nothing was merged: fix pairs.csv and send it again"
        assert [each.partition(":")[2][:1] for each in answer.json["problems"]] == ["2", "3"]
        assert answer.json["problem_count"] == 2
        assert [*site.folder.iterdir()] == []

    @pytest.mark.parametrize(
        ("params", "body", "status"),
        [
            ({}, "primary_id,duplicate_id\n1,2", 400),
            ({"kind": "company", "on_conflict": "last"}, "primary_id,duplicate_id\n1,2", 400),
            ({"kind": "company", "max_cluster": "two"}, "primary_id,duplicate_id\n1,2", 400),
            ({"kind": "company", "max_cluster": "1"}, "primary_id,duplicate_id\n1,2", 400),
            ({"kind": "company", "no_new_company": "on"}, "primary_id,duplicate_id\n1,2", 400),
            ({"kind": "company"}, "", 422),
        ],
    )
    async def test_what_cannot_be_used(
        self, site: Site, params: dict[str, str], body: str, status: int
    ) -> None:
        """An invalid setting is refused with a message."""
        answer = await site.send("jobs", params=params, data=body)
        assert answer.status == status
        assert answer.json["error"]

    @pytest.mark.parametrize("body", ["", "{", "[]", '{"pairs": 1}', "[" * 100_000, "\xff"])
    async def test_what_is_no_json(self, site: Site, body: str) -> None:
        """A body that is not the expected JSON is refused with a message."""
        headers = {"Content-Type": "application/json"}
        data = body.encode("latin-1")
        answer = await site.send("jobs?kind=company", data=data, headers=headers)
        assert answer.status == 400
        assert answer.json["error"].startswith("This is not what is expected")

    async def test_a_large_file(self, open_site: OpenSite) -> None:
        """An upload is read up to the limit only, with or without a Content-Length."""
        sent = 0

        async def endless() -> Any:
            nonlocal sent
            while sent < 2**28:
                yield b"1,2\n" * 2**12
                sent += 2**14

        async with open_site(max_upload=1000) as site:
            assert (await site.send("jobs?kind=company", data=b"1,2\n" * 250)).status == 422
            answer = await site.send("jobs?kind=company", data=b"1,2\n" * 251)
            assert answer.status == 413
            assert answer.json == {"error": "The upload is too large: split it into several jobs"}
            try:
                answer = await site.send("jobs?kind=company", data=endless())
            except OSError:
                # The connection may be closed before the answer is read.
                pass
            else:
                assert answer.status == 413
        assert sent < 2**26

    @pytest.mark.parametrize(
        ("fault", "status"),
        [
            (Fault.status(401), 502),
            (Fault.status(403), 502),
            (Fault.status(404), 502),
        ],
    )
    async def test_the_api_refuses(
        self, site: Site, sandbox: Sandbox, fault: Fault, status: int
    ) -> None:
        """An error of the API is passed on without the key, and no job is created."""
        sandbox.inject(fault, on=None, times=None)
        body = "primary_id,duplicate_id\n1,2\n"
        answer = await site.send("jobs?kind=company", data=body)
        assert answer.status == status, answer.text
        assert "sandbox-key" not in answer.text
        assert [*site.folder.iterdir()] == []


class TestRead:
    async def test_the_list(self, site: Site) -> None:
        """The list has the newest job first, and only jobs."""
        first, second = await site.upload(1), await site.upload(2)
        async with Ledger(site.folder / "empty.job.db"):
            pass
        _ = (site.folder / "none.job.db").write_text("something else")
        _ = (site.folder / "notes.txt").write_text("something else")
        jobs = (await site.ask("jobs")).json["jobs"]
        assert [job["id"] for job in jobs] in (
            [second["id"], first["id"]],
            [first["id"], second["id"]],
        )
        assert {**first, **jobs[-1]}.keys() == first.keys()
        for name, status in (("empty", 404), ("none", 500)):
            answer = await site.ask(f"jobs/{name}")
            assert answer.status == status
            assert str(site.folder) not in answer.text

    async def test_pages(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """Browsers get pages with the nonce of their policy, all other clients get JSON."""
        job = await site.upload(2)
        for path in ("jobs", f"jobs/{job['id']}"):
            answer = await site.ask(path, headers=HTML)
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            policy = answer.headers["Content-Security-Policy"]
            nonce = policy.partition("script-src 'nonce-")[2].partition("'")[0]
            assert len(nonce) >= 22
            assert nonce in answer.text
            assert nonce not in (await site.ask(path, headers=HTML)).text
            for accept in ("*/*", "application/json", "application/json, text/html;q=0.5"):
                assert (await site.ask(path, headers={"Accept": accept})).json is not None

    async def test_a_saved_page(self, site: Site) -> None:
        """The current page can be saved, and needs no server."""
        job = await site.upload(2)
        answer = await site.ask(f"jobs/{job['id']}/page.html")
        assert 'attachment; filename="pairs.report.html"' in answer.headers["Content-Disposition"]
        assert answer.headers["Content-Type"].startswith("text/html")
        assert "Content-Security-Policy" in answer.text

    async def test_the_root(self, site: Site) -> None:
        """The root leads to the list, wherever it is mounted."""
        answer = await site.ask("")
        assert (answer.status, answer.headers["Location"]) == (303, "jobs")

    async def test_the_plan(self, site: Site) -> None:
        """A plan has pages of two hundred merges, with names and without the rows left out."""
        job = await site.upload(250, on_conflict="first")
        first = (await site.ask(f"jobs/{job['id']}/plan")).json
        assert [each["number"] for each in first["merges"]] == [*range(1, 201)]
        assert first["next"] == 200
        assert first["merges"][0]["primary_name"].startswith("Amber Analytics")
        second = (await site.ask(f"jobs/{job['id']}/plan?after=200")).json
        assert [each["number"] for each in second["merges"]] == [*range(201, 251)]
        assert second["next"] is None
        for after in (250, 2**53):
            answer = await site.ask(f"jobs/{job['id']}/plan?after={after}")
            assert answer.json == {"merges": [], "next": None}
        for wrong in ("-1", "x", "", "9" * 5000, "\u0661"):
            answer = await site.ask(f"jobs/{job['id']}/plan", params={"after": wrong})
            assert answer.status == 400

    @pytest.mark.parametrize(
        "path",
        [
            "jobs/missing",
            "jobs/..%2fsecret",
            "jobs/%2e%2e%2fsecret",
            "jobs/secret%00",
            "jobs/Secret",
            "jobs/link",
            "jobs/link/plan",
            "jobs/link/events",
            "jobs/link/report.csv",
            "jobs/link/snapshots.jsonl",
            "jobs/link/page.html",
            "nothing",
            "jobs//",
        ],
    )
    async def test_what_is_not_there(
        self, site: Site, tmp_path_factory: pytest.TempPathFactory, path: str
    ) -> None:
        """No path leads out of the folder, and a missing job is an error as JSON and as a page."""
        outside = tmp_path_factory.mktemp("outside")
        plan = Plan.of([(1, 2)], kind="company")
        async with Ledger(outside / "secret.job.db") as ledger:
            await ledger.begin(plan, origin="https://x.example", records={}, findings=[], at=1.0)
        (site.folder / "link.job.db").symlink_to(outside / "secret.job.db")
        answer = await site.ask(path)
        assert answer.status == 404
        assert answer.json == {"error": "There is no such page or job"}
        answer = await site.ask(path, headers=HTML)
        assert answer.status == 404
        assert "<p>There is no such page or job</p>" in answer.text

    async def test_other_methods(self, site: Site) -> None:
        """A wrong method gets the list of allowed ones."""
        answer = await site.ask("jobs", method="DELETE")
        assert answer.status == 405
        assert set(answer.headers["Allow"].split(",")) == {"GET", "HEAD", "POST"}
        job = await site.upload(1)
        assert (await site.ask(f"jobs/{job['id']}", method="HEAD")).status == 200
        assert (await site.ask(f"jobs/{job['id']}/events", method="HEAD")).status == 405
        assert (await site.ask(f"jobs/{job['id']}/start")).status == 405


class TestStart:
    async def test_a_job(self, site: Site, sandbox: Sandbox) -> None:
        """A started job merges its plan, and its JSON shows the result."""
        sandbox.duration = 0.05
        job = await site.upload(15)
        done = await site.finish(job)
        assert done["totals"]["succeeded"] == done["counts"]["total"] == 15
        assert done["is_running"] is False
        assert done["stopped"] is done["error"] is done["progress"] is None
        assert done["curve"][-1][1] == 15
        assert len(sandbox.merged("company")) == 15

    async def test_failures(self, site: Site, sandbox: Sandbox) -> None:
        """Failed pairs are listed with their reasons, and can be tried again."""
        sandbox.duration = 0.0
        sandbox.failure_rate = 1.0
        job = await site.upload(3)
        done = await site.finish(job)
        assert {each["number"] for each in done["failures"]} == {1, 2, 3}
        assert all(each["reason"] and each["ended_at"] for each in done["failures"])
        sandbox.failure_rate = 0.0
        assert (await site.finish(job))["totals"]["failed"] == 3
        assert (await site.finish(job, retry_failed=True))["totals"]["succeeded"] == 3

    async def test_settings(self, site: Site, sandbox: Sandbox) -> None:
        """A job runs with the settings of the request, and invalid ones start nothing."""
        sandbox.duration = 0.05
        job = await site.upload(4)
        wrong = await site.start(job, settings={"max_open": 0})
        assert wrong.status == 400
        assert "max_open must be 1 or more, or None, not 0" in wrong.json["error"]
        assert (await site.start(job, settings={"maxopen": 1})).status == 400
        assert (await site.start(job, seting={})).status == 400
        await site.finish(job, settings={"max_open": 1})
        sent = [request.at for request in sandbox.log if request.operation == "merge"]
        assert len(sent) == 4
        assert all(later - earlier >= 0.05 for earlier, later in pairwise(sent))

    async def test_another_plan(self, site: Site) -> None:
        """With the fingerprint of another plan nothing starts."""
        job = await site.upload(1)
        for wrong in ("", job["fingerprint"][:12], "f" * 64):
            answer = await site.start({**job, "fingerprint": wrong})
            assert answer.status == 409
            assert "read it again" in answer.json["error"]
        for body in (b"", b"{}", b'{"fingerprint": 1}', b"x" * 70_000):
            answer = await site.send(f"jobs/{job['id']}/start", data=body)
            assert answer.status in {400, 413}
        assert (await site.send("jobs/missing/start", json={})).status == 404

    async def test_twice(self, site: Site, sandbox: Sandbox) -> None:
        """A job that runs cannot be started again."""
        sandbox.duration = 30.0
        job = await site.upload(1)
        assert (await site.start(job)).json["is_running"] is True
        answer = await site.start(job)
        assert (answer.status, answer.json) == (409, {"error": "The job runs already"})
        (listed,) = (await site.ask("jobs")).json["jobs"]
        assert listed["is_running"] is True
        assert listed["holder"] is None

    async def test_held_by_another(self, site: Site) -> None:
        """A job that another program runs can be read, but started only later."""
        job = await site.upload(1)
        async with Ledger(site.folder / f"{job['id']}.job.db"):
            answer = await site.start(job)
            assert answer.status == 409
            assert "it is in use by process" in answer.json["error"]
            assert str(site.folder) not in answer.text
            found = (await site.ask(f"jobs/{job['id']}")).json
            assert found["is_running"] is False
            assert found["holder"].startswith(f"process {os.getpid()} on ")
            assert found["error"] is None
        assert (await site.ask(f"jobs/{job['id']}")).json["holder"] is None
        assert (await site.finish(job))["totals"]["succeeded"] == 1

    async def test_stop_and_go_on(self, site: Site, sandbox: Sandbox) -> None:
        """A stopped job waits for its open merges, starts no more, and can be resumed."""
        sandbox.duration = 1.0
        job = await site.upload(30)
        path = f"jobs/{job['id']}"
        assert (await site.send(f"{path}/stop")).status == 409
        async with site.watch(job) as events:
            _ = await site.start(job)
            async for event in events:
                if event.name == "pair" and event.data["state"] == "started":
                    stopped = await site.send(f"{path}/stop")
                    assert stopped.status == 202, stopped.text
                    assert stopped.json["is_running"]
                    break
            async for event in events:
                if event.name == "done":
                    assert event.data["stopped"] == "interrupted"
                    break
        found = (await site.ask(path)).json
        assert found["stopped"] == "interrupted"
        assert 0 < found["totals"]["succeeded"] < 30
        assert found["totals"]["started"] == 0
        assert (await site.finish(job))["totals"]["succeeded"] == 30
        assert set(sandbox.posted("company").values()) == {1}

    async def test_stop_at_once(self, site: Site, sandbox: Sandbox) -> None:
        """Stopped twice, a job ends without its grace; nothing is lost."""
        sandbox.duration = 60.0
        job = await site.upload(1)
        async with site.watch(job) as events:
            _ = await site.start(job)
            async for event in events:
                if event.name == "pair" and event.data["state"] == "started":
                    break
            for _ in range(2):
                assert (await site.send(f"jobs/{job['id']}/stop")).status == 202
            async for event in events:
                if event.name == "done":
                    break
        assert (await site.ask(f"jobs/{job['id']}")).json["totals"]["started"] == 1

    async def test_an_error(self, open_site: OpenSite, sandbox: Sandbox) -> None:
        """The error that ended a job is kept, also after a restart, until it runs again."""
        async with open_site() as site:
            job = await site.upload(1)
            sandbox.inject(Fault.status(403), on=None, times=None)
            failed = await site.finish(job)
            assert "Manage duplicates" in failed["error"]
            assert "sandbox-key" not in failed["error"]
        sandbox.clear_faults()
        async with open_site() as site:
            assert (await site.ask(f"jobs/{job['id']}")).json["error"] == failed["error"]
            assert (await site.finish(job))["error"] is None

    async def test_an_error_on_the_way(self, site: Site, sandbox: Sandbox) -> None:
        """An error that stopped a job while it ran is kept, too."""
        job = await site.upload(1)
        sandbox.inject(Fault.status(403), on="merge", times=None)
        failed = await site.finish(job)
        assert "Manage duplicates" in failed["error"]
        assert failed["stopped"] == "not-authorised"

    async def test_a_bug(
        self, site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A job that ends by a bug of this library is logged, and does not affect other jobs."""

        async def fail(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError

        job, other = await site.upload(1), await site.upload(2)
        with monkeypatch.context() as patch:
            patch.setattr(_runner, "resume", fail)
            failed = await site.finish(job)
        assert failed["error"] == "It ended unexpectedly: the log of the server has more"
        assert "ZeroDivisionError" in caplog.text
        assert (await site.finish(other))["totals"]["succeeded"] == 2
        assert (await site.finish(job))["error"] is None

    async def test_a_full_disk(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """An error that cannot be written to the ledger is reported anyway."""
        job = await site.upload(1)

        async def fail(*_: Any, **__: Any) -> None:
            monkeypatch.setattr(Ledger, "_written", Ledger._refusal)
            raise ServerError(500, None, "Something broke")

        monkeypatch.setattr(_runner, "resume", fail)
        monkeypatch.setattr(Ledger, "_refusal", _full)
        assert (await site.finish(job))["error"] == "Something broke (HTTP 500). Try again later."


async def _full(self: Ledger, *_: object) -> None:
    raise LedgerError(str(self.path), "it cannot be written")


class TestDownload:
    async def test_reports(self, site: Site) -> None:
        """Reports and snapshots can be downloaded, also while a job runs."""
        job = await site.upload(1200)
        base = f"jobs/{job['id']}"
        answer = await site.ask(f"{base}/report.csv")
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert 'attachment; filename="pairs.report.csv"' in answer.headers["Content-Disposition"]
        assert answer.text.startswith("\ufeffprimary_id,")
        assert len([*csv.DictReader(io.StringIO(answer.text))]) == 1200
        answer = await site.ask(f"{base}/report.jsonl")
        rows = [json.loads(line) for line in answer.text.splitlines()]
        assert rows[-1]["duplicate_id"] == 2400 or len(rows) == 1200
        answer = await site.ask(f"{base}/snapshots.jsonl")
        assert 'filename="pairs.snapshots.jsonl"' in answer.headers["Content-Disposition"]
        assert len(answer.text.splitlines()) == 2000

    async def test_names(self, site: Site) -> None:
        """A download is named after the input, whatever characters that name has."""
        name = '/tmp/Z\u00fcrich "old".pairs.csv'
        job = await site.upload(1, name=name)
        for path, ending in (
            ("report.csv", "report.csv"),
            ("report.jsonl", "report.jsonl"),
            ("snapshots.jsonl", "snapshots.jsonl"),
            ("page.html", "report.html"),
        ):
            answer = await site.ask(f"jobs/{job['id']}/{path}")
            assert answer.headers["Content-Disposition"] == (
                f'attachment; filename="Z?rich _old_.pairs.{ending}"; '
                f"filename*=UTF-8''Z%C3%BCrich%20%22old%22.pairs.{ending}"
            )

    async def test_some_states(self, site: Site) -> None:
        """``?only=`` limits a report to pairs in some states, or is refused; it is never ignored."""
        job = await site.upload(3, max_cluster="2")
        base = f"jobs/{job['id']}"
        for only, count in (("planned", 3), ("failed", 0), ("failed&only=planned", 3)):
            text = (await site.ask(f"{base}/report.csv?only={only}")).text
            assert len([*csv.DictReader(io.StringIO(text))]) == count
            text = (await site.ask(f"{base}/report.jsonl?only={only}")).text
            assert len(text.splitlines()) == count
        answer = await site.ask(f"{base}/report.csv?only=failures")
        assert answer.status == 400
        assert "only must be one of planned, sending, started, succeeded" in answer.json["error"]
        for path in ("snapshots.jsonl", "page.html"):
            answer = await site.ask(f"{base}/{path}?only=failed")
            assert answer.status == 400
            assert "this is of all pairs" in answer.json["error"]

    async def test_an_incomplete_download(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A client can detect that a download is incomplete."""
        job = await site.upload(1200)
        records, count = LedgerReader.records, 0

        async def fail(self: Any, ids: Any) -> Any:
            nonlocal count
            count += 1
            if count == 2:
                raise LedgerError(str(self.path), "the disk is gone")
            return await records(self, ids)

        monkeypatch.setattr(LedgerReader, "records", fail)
        with pytest.raises(ClientPayloadError):
            _ = await site.ask(f"jobs/{job['id']}/report.csv")

    async def test_a_download_that_breaks_off(self, site: Site) -> None:
        """A client that breaks off a download causes no error and no log record."""
        job = await site.upload(1200)
        async with site.session.get(f"{site.url}/jobs/{job['id']}/report.csv") as answer:
            _ = await answer.content.readline()
            answer.close()
        assert (await site.ask("jobs")).status == 200


async def test_an_upload_that_breaks_off(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A client that breaks off an upload causes no error and no log record."""
    host, port = site.url.removeprefix("http://").split("/")[0].split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = (
        "POST /merges/jobs?kind=company HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n"
    )
    writer.write(head.encode())
    await writer.drain()
    _ = await site.ask("jobs")
    writer.transport.abort()
    _ = await site.ask("jobs")
    assert caplog.text == ""
    assert [*site.folder.iterdir()] == []


async def test_errors_for_people(site: Site) -> None:
    """The page of an error escapes what the request contained."""
    answer = await site.send("jobs?kind=<b>x</b>", data=b"1,2", headers=HTML)
    assert answer.status == 400
    assert "&lt;b&gt;" in answer.text
    assert "<b>" not in answer.text


async def test_settings(client: Client, tmp_path: Path) -> None:
    """Invalid settings are refused before anything is served."""
    with pytest.raises(ConfigurationError, match="There is no folder"):
        _ = jobs_app(client, tmp_path / "missing")
    with pytest.raises(ConfigurationError, match="token must be"):
        _ = jobs_app(client, tmp_path, token="")
