"""The commands that show jobs in a browser: the server, the page of a run, the saved page."""

import asyncio
import json
import os
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from queue import Queue
from subprocess import Popen
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from aiotasks.cli import serve as serve_module
from aiotasks.cli.app import app
from aiotasks.cli.exit_codes import Exit
from aiotasks.cli.output import say
from aiotasks.sandbox import Sandbox
from aiotasks.web import _single_job
from tests.processes import in_thread


pytestmark = pytest.mark.real_time

KIND = ("--kind", "company")
LINK = re.compile(r"http://127\.0\.0\.1:\d+/\S+")
Command = Callable[..., AbstractContextManager[Popen[str]]]


async def test_a_second_signal_changes_nothing() -> None:
    """A second Ctrl-C does not interrupt the cleanup."""
    ended = []

    async def serve() -> None:
        with serve_module._ended_by_signals():
            try:
                _ = await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.1)
                ended.append(True)

    serving = asyncio.ensure_future(serve())
    for _ in range(2):
        await asyncio.sleep(0.03)
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert ended == [True]


@pytest.fixture(scope="module")
def server() -> Iterator[Sandbox]:
    with in_thread(duration=0.02, companies=2000) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(server: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """A sandbox with short merges, to which the environment points."""
    for name in [name for name in os.environ if name.startswith(("AFFINITY_", "AIOTASKS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AFFINITY_BASE_URL", server.url)
    monkeypatch.setenv("AFFINITY_API_KEY", "sandbox-key")
    server.duration = 0.02
    return server


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> "Queue[str]":
    """Collect the links that commands print."""
    found: Queue[str] = Queue()

    def record(text: str) -> None:
        for link in LINK.findall(text):
            found.put(link)
        say(text)

    monkeypatch.setattr(serve_module, "say", record)
    return found


first_id = iter(range(1, 2000, 20))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Three pairs of records that no other test merges."""
    path = tmp_path / "My pairs.csv"
    first = next(first_id)
    rows = [f"{number},{number + 1}" for number in range(first, first + 6, 2)]
    _ = path.write_text("\n".join(["primary_id,duplicate_id", *rows]) + "\n", "utf-8")
    return path


def run(*arguments: str | Path) -> Result:
    arguments += ("--poll-interval", "0.05") if arguments[0] in {"merge", "resume"} else ()
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def ledger_of(pairs: Path) -> Path:
    return pairs.with_suffix(".job.db")


def ask(url: str, *, body: bytes | None = None, accept: str = "application/json") -> Any:
    """Send a request as a program or a browser does; return the status of a refusal."""
    request = urllib.request.Request(url, body, {"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            text = answer.read().decode()
            return json.loads(text) if accept == "application/json" else text
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class TestServe:
    @pytest.mark.process
    def test_from_the_link_to_ctrl_c(
        self, sandbox: Sandbox, command: Command, tmp_path: Path, pairs: Path
    ) -> None:
        """The first line is the link; Ctrl-C ends the server and its jobs, which can be resumed."""
        sandbox.duration, before = 100.0, sandbox.calls["merge"]
        with command("serve", str(tmp_path), "--token", "secret") as process:
            assert process.stdout is not None
            link = process.stdout.readline().strip()
            assert LINK.fullmatch(link)
            assert "/jobs?token=" in link
            assert "secret" not in link
            jobs = link.partition("?")[0]
            assert ask(jobs) == 401
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            with opener.open(link, timeout=5) as answer:
                assert json.load(answer) == {"jobs": []}

            def send(path: str, body: bytes) -> Any:
                with opener.open(urllib.request.Request(jobs + path, body), timeout=5) as answer:
                    return json.load(answer)

            job = send("?kind=company&name=pairs.csv", pairs.read_bytes())
            start = json.dumps({"fingerprint": job["fingerprint"]}).encode()
            assert send(f"/{job['id']}/start", start)["is_running"] is True
            while sandbox.calls["merge"] == before:
                time.sleep(0.01)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=10)
            assert time.monotonic() - began < 2.0
        assert stdout == ""
        assert "jobs that ran go on when the server is started again" in stderr
        assert "Traceback" not in stderr
        assert "sandbox-key" not in stderr
        assert re.search(r"127\.0\.0\.1 - GET /jobs\?token=removed: 303 after ", stderr)
        assert f"Job {job['id']}: started by 127.0.0.1" in stderr
        assert link.partition("token=")[2] not in stderr
        assert process.returncode == Exit.SUCCEEDED
        sandbox.duration = 0.0
        for task_url in sandbox.task_urls("company"):
            sandbox.finish(task_url)
        ledger = tmp_path / f"{job['id']}.job.db"
        assert run("resume", ledger, "--settle-after", "1").exit_code == Exit.SUCCEEDED

    @pytest.mark.process
    @pytest.mark.parametrize("option", [(), ("--no-resume",)])
    def test_a_kill_and_a_restart(
        self, sandbox: Sandbox, command: Command, pairs: Path, option: tuple[str, ...]
    ) -> None:
        """What a killed server was running goes on with the next, unless that is to leave it."""
        tmp_path, goes_on = pairs.parent, not option
        sandbox.duration = 100.0
        with command("serve", str(tmp_path)) as process:
            assert process.stdout is not None
            jobs = process.stdout.readline().strip()
            job = ask(f"{jobs}?kind=company", body=pairs.read_bytes())
            start = json.dumps({"fingerprint": job["fingerprint"]}).encode()
            before = sandbox.calls["merge"]
            _ = ask(f"{jobs}/{job['id']}/start", body=start)
            while sandbox.calls["merge"] < before + 3:
                time.sleep(0.01)
            process.kill()
        for task_url in sandbox.task_urls("company"):
            sandbox.finish(task_url)
        with command("serve", str(tmp_path), *option) as process:
            assert process.stdout is not None
            jobs = process.stdout.readline().strip()
            deadline = time.monotonic() + 20
            while goes_on and ask(f"{jobs}/{job['id']}")["phase"] != "finished":
                assert time.monotonic() < deadline
                time.sleep(0.05)
            found = ask(f"{jobs}/{job['id']}")
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=10)
        assert found["phase"] == ("finished" if goes_on else "broken-off")
        words = f"Going on with what the last server was running: {job['id']}."
        assert (words in stderr) == goes_on
        assert set(sandbox.posted("company").values()) == {1}

    def test_links(self, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """When a link expires, a new one is printed, which names the proxy that ends TLS."""
        found: list[str] = []
        print_link = serve_module._print

        def record(link: str) -> None:
            found.append(link)
            print_link(link)
            if len(found) == 2:
                interrupt()

        monkeypatch.setattr(serve_module, "_print", record)
        options = ("--token", "secret", "--link-hours", "0.0003", "--https", "--name", "box")
        done = run("serve", tmp_path, *options)
        links = done.stdout.splitlines()
        assert links == found
        assert len(set(links)) == 2
        assert all(link.startswith("https://box/jobs?token=") for link in links)
        assert done.exit_code == Exit.SUCCEEDED
        none = run("serve", tmp_path, "--link-hours", "0")
        assert "link_hours must be a positive number of hours" in none.stderr
        assert none.exit_code == Exit.WRONG_USE

    def test_a_port_that_is_taken(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A port that is in use is named, and the command ends."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            done = run("serve", tmp_path, "--port", port)
        assert f"port {port}" in done.stderr
        assert done.stdout == ""
        assert done.exit_code == Exit.WRONG_USE

    def test_no_folder(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A missing folder is not created, and no request is sent to the API."""
        before = sandbox.requests
        done = run("serve", tmp_path / "none")
        assert "There is no folder" in done.stderr
        assert done.exit_code == Exit.WRONG_USE
        assert sandbox.requests == before

    def test_a_wrong_key(
        self, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A wrong key is reported before the link is printed; so is a missing one."""
        monkeypatch.setenv("AFFINITY_API_KEY", "another")
        done = run("serve", tmp_path)
        assert done.exit_code == Exit.NOT_AUTHORISED
        assert (done.stdout, "another" in done.stderr) == ("", False)
        monkeypatch.delenv("AFFINITY_API_KEY")
        assert run("serve", tmp_path).exit_code == Exit.WRONG_USE

    @pytest.mark.parametrize("fault", ["503x*", "hang"])
    def test_an_api_that_does_not_answer(
        self, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
    ) -> None:
        """If the API does not answer, jobs can still be shown, and a message explains it."""
        monkeypatch.setattr(serve_module, "_KEY_CHECK_SECONDS", 0.3)
        monkeypatch.chdir(tmp_path)
        sandbox.inject(fault)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        answers: list[Any] = []

        def visit() -> None:
            deadline = time.monotonic() + 5
            while not answers and time.monotonic() < deadline:
                try:
                    answers.append(ask(f"http://127.0.0.1:{port}/jobs"))
                except urllib.error.URLError:
                    time.sleep(0.05)
            interrupt()

        with ThreadPoolExecutor(1) as threads:
            visited = threads.submit(visit)
            done = run("serve", "--port", str(port))
            visited.result()
        sandbox.clear_faults()
        assert answers == [{"jobs": []}]
        assert "the API does not answer now" in done.stderr
        assert done.stdout == f"http://127.0.0.1:{port}/jobs\n"
        assert done.exit_code == Exit.SUCCEEDED


class TestPage:
    def test_beside_a_merge(
        self, sandbox: Sandbox, pairs: Path, links: "Queue[str]", tmp_path: Path
    ) -> None:
        """A job serves its page while it runs, and an open page receives the ``done`` event."""
        sandbox.duration, threads_before = 0.5, threading.active_count()
        _ = (tmp_path / "other.job.db").write_bytes(b"")

        def watch() -> tuple[Any, str, Any, Any, list[str], Any]:
            link = links.get(timeout=10)
            root = link.rpartition("/jobs/")[0]
            with urllib.request.urlopen(f"{link}/events", timeout=10) as stream:
                job = ask(link)
                page = ask(f"{root}/", accept="text/html")
                start = json.dumps({"fingerprint": job["fingerprint"]}).encode()
                refused = [ask(f"{link}/start", body=start), ask(f"{root}/jobs", body=b"")]
                other = ask(f"{root}/jobs/other")
                events = []
                for line in stream:
                    events.append(line.decode().strip())
                    if line == b"event: done\n":
                        break
                state = json.loads(stream.readline().removeprefix(b"data: "))
            return job, page, refused, other, events, state

        with ThreadPoolExecutor(1) as threads:
            watched = threads.submit(watch)
            done = run("merge", pairs, *KIND, "--yes", "--page")
            job, page, refused, other, events, state = watched.result()
        assert done.exit_code == Exit.SUCCEEDED
        assert done.stdout == ""
        assert (job["is_running"], job["source"]) == (True, str(pairs))
        assert job["progress"]["calls"] is not None
        assert '"is_single_job":true' in page
        assert "All jobs" not in page
        assert (refused, other) == ([404, 405], 404)
        assert sum('"state":"succeeded"' in event for event in events) == 3
        assert events[-1] == "event: done"
        # The command still holds the ledger then, and is not reported as another program.
        assert (state["phase"], state["holder"]) == ("finished", None)
        assert threading.active_count() <= threads_before

    @pytest.mark.parametrize("times", [1, 2])
    def test_stopping_on_the_page(
        self, sandbox: Sandbox, pairs: Path, links: "Queue[str]", times: int
    ) -> None:
        """The page stops the job as Ctrl-C does, the second time immediately; it can be resumed."""
        sandbox.duration = 0.5 if times == 1 else 100.0

        answers: list[Any] = []

        def stop() -> None:
            link = links.get(timeout=10)
            while not ask(link)["totals"]["started"]:
                time.sleep(0.02)
            # The second time, the server ends with the job, before or after its response.
            with suppress(OSError):
                for _ in range(times):
                    answers.append(ask(f"{link}/stop", body=b"{}"))  # noqa: PERF401 - one by one

        with ThreadPoolExecutor(1) as threads:
            stopped = threads.submit(stop)
            done = run("merge", pairs, *KIND, "--yes", "--page", "--max-open", "1")
            stopped.result()
        assert answers[0]["is_running"] is True
        assert done.exit_code == Exit.RUNNING
        assert ("Ended immediately" in done.stderr) == (times == 2)
        sandbox.duration = 0.02
        for task_url in sandbox.task_urls("company"):
            sandbox.finish(task_url)
        again = run("resume", ledger_of(pairs), "--page", "--settle-after", "1")
        assert again.exit_code == Exit.SUCCEEDED
        assert links.get_nowait()
        # A job that has ended already has no page.
        assert run("resume", ledger_of(pairs), "--page").exit_code == Exit.SUCCEEDED
        assert links.empty()

    def test_a_client_that_remains_connected_delays_only_briefly(
        self, sandbox: Sandbox, pairs: Path, links: "Queue[str]", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A client that stays connected after the `done` event delays the command only briefly."""
        monkeypatch.setattr(_single_job, "_SHUTDOWN_NOTICE_SECONDS", 0.1)
        sandbox.duration = 0.3

        def watch() -> bytes:
            with urllib.request.urlopen(f"{links.get(timeout=10)}/events", timeout=10) as stream:
                return bytes(stream.read())

        with ThreadPoolExecutor(1) as threads:
            watched = threads.submit(watch)
            done = run("merge", pairs, *KIND, "--yes", "--page")
            assert b"event: done" in watched.result()
        assert done.exit_code == Exit.SUCCEEDED


class TestReport:
    def test_a_page_as_one_file(
        self, sandbox: Sandbox, pairs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A page is saved from a ledger alone, without key or network, and makes no requests."""
        assert run("merge", pairs, *KIND, "--yes").exit_code == Exit.SUCCEEDED
        monkeypatch.delenv("AFFINITY_API_KEY")
        monkeypatch.delenv("AFFINITY_BASE_URL")
        before = sandbox.requests
        done = run("report", ledger_of(pairs), "--format", "html")
        assert done.exit_code == Exit.SUCCEEDED
        assert done.stdout.startswith("<!doctype html>")
        assert done.stdout.endswith("</html>\n")
        assert "Every merge has come to an end." in done.stdout
        assert "Merges (3)" in done.stdout
        assert "default-src 'none'" in done.stdout
        for live in ("EventSource", 'id="start"', "src=", "sandbox-key"):
            assert live not in done.stdout
        assert sandbox.requests == before

    @pytest.mark.parametrize("option", [("--only", "failed"), ("--snapshots",)])
    def test_a_part_of_a_page(
        self, sandbox: Sandbox, tmp_path: Path, option: tuple[str, ...]
    ) -> None:
        """A page shows a whole job; other options are refused, and nothing is written."""
        ledger = tmp_path / "x.job.db"
        ledger.touch()
        done = run("report", ledger, "--format", "html", *option)
        assert "whole job" in done.stderr
        assert (done.stdout, done.exit_code) == ("", Exit.WRONG_USE)
        nothing = run("report", ledger, "--format", "html")
        assert "there is no job in it yet" in nothing.stderr
        assert (nothing.stdout, nothing.exit_code) == ("", Exit.WRONG_USE)
