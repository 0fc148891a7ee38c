"""The commands for tasks, run as processes."""

import asyncio
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import typer
from typer.testing import CliRunner, Result

from aiotasks import Outcome, OutcomeState, Quota, __main__
from aiotasks.cli.app import app
from aiotasks.cli.command import complete
from aiotasks.cli.exit_codes import Exit
from aiotasks.cli.output import OutcomeSummary
from aiotasks.cli.sandbox import _summarise


pytestmark = pytest.mark.real_time

Command = Callable[..., AbstractContextManager[subprocess.Popen[str]]]
Serve = Callable[..., AbstractContextManager[str]]

UNKNOWN = "00000000-0000-4000-8000-000000000000"
# The tests of a module share a sandbox, so each test merges other records.
DUPLICATES = iter(range(2, 2000, 2))


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, arguments, input=stdin)


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


async def start_merge(url: str, primary_id: int, duplicate_id: int) -> str:
    """Start a merge without the client, and return its task URL."""
    body = {"primaryCompanyId": primary_id, "duplicateCompanyId": duplicate_id}
    headers = {"Authorization": "Bearer sandbox-key"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{url}/v2/company-merges", json=body) as response,
    ):
        return str((await response.json())["taskUrl"])


@pytest.fixture
async def task_url(environment: str) -> str:
    """A task that will succeed."""
    duplicate = next(DUPLICATES)
    return await start_merge(environment, duplicate - 1, duplicate)


@pytest.fixture
async def failing_url(environment: str) -> str:
    """A task that will fail because its duplicate does not exist."""
    return await start_merge(environment, 1, 999_999)


def test_version_and_help() -> None:
    """``--version`` prints the version, and the help of each command lists its exit codes."""
    assert re.fullmatch(r"aiotasks \d+\.\d+\.\d+\n", run("--version").output)
    for command in ("wait", "get", "tasks", "demo"):
        assert "3 still running or interrupted" in " ".join(run(command, "--help").output.split())


def test_wait_prints_an_outcome_for_each_task(task_url: str, failing_url: str) -> None:
    """Outcomes go to standard output as JSON lines, the summary to standard error."""
    done = run("wait", task_url, failing_url, "--poll-interval", "0.2")

    outcomes = {line["url"]: line for line in lines(done.stdout)}
    assert outcomes[task_url]["state"] == "success"
    assert outcomes[failing_url]["reason"] == "Duplicate company not found"
    assert outcomes[failing_url]["task"]["resultsSummary"]["failed"] == 1
    assert done.stderr == "1 succeeded, 1 failed\n"
    assert done.exit_code == Exit.FAILED


def test_wait_succeeds_when_all_succeed(task_url: str) -> None:
    """The exit code is 0 when all tasks succeeded."""
    assert run("wait", task_url, "--poll-interval", "0.2").exit_code == Exit.SUCCEEDED


def test_wait_reads_files_and_names_the_line(task_url: str, tmp_path: Path) -> None:
    """A bad line of a file is named by its number and does not affect the other lines."""
    file = tmp_path / "urls.txt"
    file.write_text(f"\ufeff# tasks\n\n{task_url}\nnonsense\n", "utf-8")

    done = run("wait", "--file", str(file), "--poll-interval", "0.2")

    assert {line["state"] for line in lines(done.stdout)} == {"success", "unknown"}
    assert f"{file}:4: 'nonsense' is not a task URL" in done.stderr
    assert done.exit_code == Exit.WRONG_USE


def test_wait_reads_standard_input(task_url: str) -> None:
    """Without arguments and a file, URLs are read from standard input."""
    done = run("wait", "--poll-interval", "0.2", stdin=f"{task_url}\n")

    assert [line["state"] for line in lines(done.stdout)] == ["success"]


@pytest.mark.usefixtures("environment")
def test_wait_requires_urls(tmp_path: Path) -> None:
    """No URL or a missing file is a usage error with a one-line message."""
    nothing = run("wait", stdin="")
    missing = run("wait", "--file", str(tmp_path / "none.txt"))

    assert "no task URL" in nothing.stderr
    assert "Cannot read" in missing.stderr
    assert nothing.exit_code == missing.exit_code == Exit.WRONG_USE


@pytest.mark.usefixtures("environment")
def test_many_problems_are_summarised() -> None:
    """Of many problems only the first are printed; standard output has all of them."""
    done = run("wait", stdin="\n".join(f"nonsense-{number}" for number in range(20)))

    assert len(lines(done.stdout)) == 20
    assert "… and 10 more such problems" in done.stderr


def test_wait_says_what_still_runs(task_url: str) -> None:
    """A task that did not end before the timeout has its own state and exit code."""
    done = run("wait", task_url, "--timeout", "0.1")

    assert lines(done.stdout)[0]["state"] == "running"
    assert done.exit_code == Exit.RUNNING


@pytest.mark.process
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is full")
def test_a_full_disk_below_the_output(task_url: str) -> None:
    """Output that cannot be written is an error with a one-line message."""
    command = [sys.executable, "-m", "aiotasks", "wait", task_url, "--poll-interval", "0.2"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=20
        )

    assert "The output cannot be written (No space left on device)" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == Exit.RUNNING


def test_output_that_cannot_be_written() -> None:
    """A full disk is reported; a pipe that its reader has closed is a success."""

    async def fail(error: OSError) -> None:
        raise error

    with pytest.raises(typer.Exit) as ended:
        complete(fail(OSError(28, "No space left on device")), "")
    assert ended.value.exit_code == Exit.RUNNING
    with pytest.raises(typer.Exit) as ended:
        complete(fail(BrokenPipeError(32, "Broken pipe")), "")
    assert ended.value.exit_code == Exit.SUCCEEDED


def test_a_file_that_cannot_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    """An error of the system that names a file is not taken for one of the output."""

    async def fail() -> None:
        raise PermissionError(13, "Permission denied", "secret/pairs.job.db")

    with pytest.raises(typer.Exit) as ended:
        complete(fail(), "")
    assert ended.value.exit_code == Exit.WRONG_USE
    assert "Cannot use secret/pairs.job.db: Permission denied." in capsys.readouterr().err


def test_a_wrong_key(task_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused key has its own exit code, and is reported once for all tasks."""
    monkeypatch.setenv("AFFINITY_API_KEY", "another-key")

    done = run("wait", task_url, f"{task_url[:-4]}0000")

    assert done.stderr.count("Check the API key") == 1
    assert "another-key" not in done.output
    assert done.exit_code == Exit.NOT_AUTHORISED


def test_no_key(task_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key, the message names the environment variable to set."""
    monkeypatch.delenv("AFFINITY_API_KEY")

    done = run("wait", task_url)

    assert "set AFFINITY_API_KEY" in done.stderr
    assert done.exit_code == Exit.WRONG_USE


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("command", ["get", "wait"])
def test_an_unreachable_api(command: str) -> None:
    """An API that cannot be reached ends the command soon, not at the timeout."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        done = run(command, f"{url}/v2/tasks/company-merges/{UNKNOWN}", "--base-url", url)

    assert "No connection" in done.stderr
    assert done.exit_code == Exit.UNREACHABLE


def test_get(task_url: str, failing_url: str) -> None:
    """The exit code of ``get`` is that of the task's status."""
    assert run("get", task_url).exit_code == Exit.RUNNING
    assert run("wait", task_url, failing_url, "--poll-interval", "0.2").exit_code == Exit.FAILED
    succeeded, failed = run("get", task_url), run("get", failing_url)

    assert lines(succeeded.stdout)[0]["task"]["status"] == "success"
    assert succeeded.exit_code == Exit.SUCCEEDED
    assert failed.exit_code == Exit.FAILED


def test_get_of_no_task(environment: str) -> None:
    """An unknown task gives a one-line message, not a traceback."""
    done = run("get", f"{environment}/v2/tasks/company-merges/{UNKNOWN}")

    assert "HTTP 404" in done.stderr
    assert done.exit_code == Exit.WRONG_USE


def test_tasks(task_url: str, failing_url: str) -> None:
    """Tasks are listed newest first, with the URLs that the other commands accept."""
    newest = lines(run("tasks", "--kind", "company", "--limit", "2").stdout)
    failed = lines(run("tasks", "--kind", "company", "--status", "failed").stdout)

    assert {line["url"] for line in newest} == {task_url, failing_url}
    assert all(line["task"]["status"] == "failed" for line in failed)
    assert run("tasks", "--kind", "person").stdout == ""
    assert run("tasks", "--kind", "place").exit_code == Exit.WRONG_USE


@pytest.mark.process
@pytest.mark.usefixtures("environment")
def test_a_monthly_quota_that_is_used_up(serve: Serve) -> None:
    """An exhausted monthly quota stops the command, as it stops a job."""
    with serve("--month-quota", "1") as url:
        task = f"{url}/v2/tasks/company-merges/{UNKNOWN}"
        assert run("get", task, "--base-url", url).exit_code == Exit.WRONG_USE
        done = run("get", task, "--base-url", url, "--api-version", "current")

    assert "month" in done.stderr
    assert done.exit_code == Exit.STOPPED


@pytest.mark.process
@pytest.mark.usefixtures("environment")
async def test_ctrl_c_ends_with_what_is_known(serve: Serve, command: Command) -> None:
    """An interrupted wait prints its outcomes at once, and that the tasks continue."""
    with serve("--duration", "100") as url:
        running = await start_merge(url, 1, 2)
        with command("wait", running, "nonsense", "--base-url", url) as process:
            assert process.stdout is not None
            first = process.stdout.readline()  # now it is waiting
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=30)

    assert time.monotonic() - started < 4
    assert [line["state"] for line in lines(first + rest)] == ["unknown", "running"]
    assert "1 still running, 1 unknown" in errors
    assert "goes on at the server" in errors
    assert process.returncode == Exit.RUNNING


@pytest.mark.process
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_sandbox(command: Command, stop: signal.Signals) -> None:
    """The first line of the sandbox is its URL, and a signal to stop is its normal end."""
    options = ["--duration", "1-2", "--latency", "0.01", "--host", "0.0.0.0"]
    with command("sandbox", *options) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        process.send_signal(stop)
        _, errors = process.communicate(timeout=5)

    assert f"AFFINITY_BASE_URL={url}" in errors
    assert "From elsewhere: the name of this machine, and AFFINITY_ALLOW_HTTP=1" in errors
    assert process.returncode == Exit.SUCCEEDED


@pytest.mark.process
def test_sandbox_shows_its_requests(command: Command) -> None:
    """With -v the sandbox shows each request with its answer, and never the key."""
    with command("sandbox", "-v", "--api-key", "secret-key") as process:
        assert process.stdout is not None
        url = f"{process.stdout.readline().strip()}/v2/auth/whoami"
        request = urllib.request.Request(url, headers={"Authorization": "Bearer secret-key"})
        with urllib.request.urlopen(request, timeout=5):
            pass
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=5)
    (line,) = (line for line in errors.splitlines() if "whoami" in line)
    assert line.endswith("aiotasks.sandbox: GET /v2/auth/whoami: 200")
    assert "secret-key" not in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--duration", "long"], "--duration takes seconds"),
        (["--failure-rate", "2"], "failure_rate has to be from 0 to 1"),
        (["--fault", "nonsense"], "'nonsense' is no fault"),
        (["--plain", "--global-companies", "2"], "global_companies has to be a share"),
        (["--task-lag", "3-1"], "task_lag has to be 0 seconds or more"),
    ],
)
def test_sandbox_refuses_wrong_settings(arguments: list[str], message: str) -> None:
    """An invalid setting is named."""
    done = run("sandbox", *arguments)

    assert message in done.stderr
    assert done.exit_code == Exit.WRONG_USE


def test_sandbox_says_that_its_port_is_taken() -> None:
    """A port that is in use gives a one-line message."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("sandbox", "--port", str(taken.getsockname()[1]))

    assert "Address already in use" in done.stderr
    assert done.exit_code == Exit.WRONG_USE


def test_demo() -> None:
    """The demo merges, waits and prints a summary, without any settings."""
    done = run("demo", "--merges", "10")

    assert "10 duplicates in" in done.stdout
    assert re.search(r"\d+ calls, \d+\.\d\d a merge; 0 of them refused", done.stdout)
    assert done.exit_code == Exit.SUCCEEDED


def run_on_a_terminal(*arguments: str) -> tuple[int, str, str]:
    """Run the command with a terminal as standard error; return its code, output and drawing."""
    command = [sys.executable, "-m", "aiotasks", *arguments]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        assert process.stdout is not None
        output = process.stdout.read().decode()
    drawn = os.read(ours, 65536).decode()
    os.close(ours)
    return process.returncode, output, drawn


@pytest.mark.process
def test_progress_on_a_terminal(task_url: str) -> None:
    """On a terminal progress is drawn during the wait, and does not mix with the outcomes."""
    code, output, drawn = run_on_a_terminal("wait", task_url, "--poll-interval", "1")

    assert [line["state"] for line in lines(output)] == ["success"]
    assert "Waiting" in drawn
    assert "0/1" in drawn
    assert code == Exit.SUCCEEDED


@pytest.mark.process
@pytest.mark.usefixtures("environment")
async def test_progress_says_what_it_waits_for(serve: Serve) -> None:
    """The line of progress says so while the per-minute window is used up."""
    with serve("--plain", "--quota", "1", "--window", "4", "--duration", "8") as url:
        task = await start_merge(url, 1, 2)
        wait = ("wait", task, "--poll-interval", "1", "--base-url", url)
        code, _, drawn = await asyncio.to_thread(run_on_a_terminal, *wait)

    assert "the minute's limit is used up" in drawn
    assert code == Exit.SUCCEEDED


def test_the_summary_names_each_reason_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Failures are grouped by their reasons, the most frequent first."""
    summary = OutcomeSummary()
    for reason in ("Locked", "Gone", "Locked", None):
        summary.add(Outcome(url="", state=OutcomeState.FAILED, reason=reason))
    _summarise(summary, 4, Quota(sent=8, refused=1), 2.0)

    assert capsys.readouterr().out.splitlines()[1:] == [
        "4 duplicates in 2.0 s: 4 failed",
        "     2 failed: Locked",
        "     1 failed: Gone",
        "     1 failed: the server gave no reason",
        "  8 calls, 2.00 a merge; 1 of them refused for a limit",
    ]


@pytest.mark.process
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("version", ["current", "2024-01-01"])
def test_quota(serve: Serve, version: str) -> None:
    """One call reports the remaining quota, even if the API has no endpoint for it."""
    with serve("--quota", "500") as url:
        done = run("quota", "--base-url", url, "--api-version", version)

    (known,) = lines(done.stdout)
    assert (known["limit"], known["remaining"]) == (500, 499)
    assert known["org_remaining"] == 99_999
    assert done.exit_code == Exit.SUCCEEDED


def forget_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("aiotasks.cli")]:
        monkeypatch.delitem(sys.modules, name)


def test_the_extra_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its optional dependencies, the command says what to install."""
    forget_the_command_line(monkeypatch)
    monkeypatch.setitem(sys.modules, "typer", None)

    with pytest.raises(SystemExit, match=re.escape("pip install 'affinity-aiotasks[cli]'")):
        __main__.main()


def test_other_missing_modules_are_not_blamed_on_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a module that is missing for another reason is raised unchanged."""
    forget_the_command_line(monkeypatch)
    monkeypatch.setitem(sys.modules, "msgspec", None)

    with pytest.raises(ModuleNotFoundError, match="msgspec"):
        __main__.main()
