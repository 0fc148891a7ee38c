"""The exit codes: one table, and no error of a command looks like merges that failed."""

import errno
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aiotasks import errors
from aiotasks.cli import app as app_module
from aiotasks.cli import job_text
from aiotasks.cli.app import app
from aiotasks.cli.exit_codes import MEANINGS, Exit, exit_of
from aiotasks.dedupe import JobInfo, JobPhase, JobStatus, PairState, StopReason
from aiotasks.errors import AffinityError


pytestmark = pytest.mark.real_time

COMMAND = [sys.executable, "-m", "aiotasks"]
COMMANDS = (
    *("wait", "get", "tasks", "quota", "sandbox", "demo", "plan", "merge", "resume", "status"),
    *("report", "suggestions", "serve"),
)
# Raised for what was begun, and did not go well.
AFTER_THE_START = {
    errors.IndeterminateMergeError,
    errors.TaskFailedError,
    errors.UnknownStatusError,
}


def all_errors(kind: type[AffinityError] = AffinityError) -> Iterator[type[AffinityError]]:
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield each
            yield from all_errors(each)


def test_the_table() -> None:
    """Each code has a meaning, and the help of all commands and the README have the same."""
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    assert [*MEANINGS] == [*Exit]
    assert [f"| {code.value} | {meaning} |" for code, meaning in MEANINGS.items()] == [
        line for line in readme.splitlines() if re.match(r"\| \d \|", line)
    ]
    for command in ([], *([name] for name in COMMANDS)):
        shown = CliRunner().invoke(app, [*command, "--help"]).output
        assert all(f"  {code.value}  {meaning}\n" in shown for code, meaning in MEANINGS.items())


@pytest.mark.parametrize("kind", [*all_errors()])
def test_errors(kind: type[AffinityError]) -> None:
    """No error that ends a command has the code of merges that failed, unless some were begun."""
    code = exit_of(kind.__new__(kind))
    assert (code is Exit.FAILED) == (kind in AFTER_THE_START)
    assert code is not Exit.SUCCEEDED


@pytest.mark.parametrize(
    ("states", "stopped", "code"),
    [
        (["succeeded"], None, Exit.SUCCEEDED),
        (["succeeded", "failed"], None, Exit.FAILED),
        (["succeeded", "refused"], None, Exit.FAILED),
        (["succeeded", "unsettled"], None, Exit.FAILED),
        (["succeeded", "unsettled", "started"], None, Exit.RUNNING),
        (["failed", "planned"], None, Exit.RUNNING),
        (["planned"], StopReason.INTERRUPTED, Exit.RUNNING),
        (["planned"], StopReason.NOT_AUTHORISED, Exit.NOT_AUTHORISED),
        (["planned"], StopReason.UNREACHABLE, Exit.UNREACHABLE),
        (["planned"], StopReason.FAILURES, Exit.STOPPED),
        (["planned"], StopReason.MONTH, Exit.STOPPED),
        (["planned"], "a reason of a later version", Exit.STOPPED),
    ],
)
def test_jobs(states: list[str], stopped: str | None, code: Exit) -> None:
    """The code of a job tells the same story as its phase: 3 only if pairs have not ended."""
    totals = dict.fromkeys(PairState, 0) | {PairState(state): 1 for state in states}
    assert job_text.exit_of(totals, stopped) is code
    job = JobInfo(
        kind="person",
        origin="https://api.affinity.co",
        fingerprint="f",
        source="pairs.csv",
        digest="d",
        columns=(),
        merges=len(states),
        begun_at=0.0,
    )
    status = JobStatus.of(job, totals, {"stopped": stopped} if stopped else {})
    assert (status.phase is JobPhase.FINISHED) == (code <= Exit.FAILED)


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Exit:
    monkeypatch.setattr(sys, "argv", ["aiotasks", *arguments])
    with pytest.raises(SystemExit) as ended:
        app_module.main()
    return Exit(int(ended.value.code or 0))


def test_an_error_of_our_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error that nothing foresees is shown, and is not taken for merges that failed."""
    monkeypatch.setattr(app_module, "prepare_output", lambda: 1 / 0)
    assert main(monkeypatch, "quota") is Exit.BUG
    shown = capsys.readouterr().err
    assert "ZeroDivisionError" in shown
    assert "an error in aiotasks itself" in shown


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EOFError()])
def test_an_interruption_outside_of_all_work(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Ctrl-C while a command reads its input has the code of an interruption."""

    def interrupt() -> None:
        raise error

    monkeypatch.setattr(app_module, "prepare_output", interrupt)
    assert main(monkeypatch, "quota") is Exit.RUNNING


def test_a_closed_pipe_outside_of_all_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Help that is not read to its end is a success."""

    def close() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    stdout = sys.stdout
    monkeypatch.setattr(app_module, "prepare_output", close)
    assert main(monkeypatch, "quota") is Exit.SUCCEEDED
    monkeypatch.setattr(sys, "stdout", stdout)


def test_wrong_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """What typer itself refuses has the same code as what is refused later."""
    assert main(monkeypatch, "get") is Exit.WRONG_USE
    assert main(monkeypatch, "report", "none.job.db") is Exit.WRONG_USE


@pytest.mark.process
def test_ctrl_c_while_input_is_read(tmp_path: Path) -> None:
    """Ctrl-C before a plan is read ends the command with one line, and nothing was begun."""
    fifo = tmp_path / "pairs.csv"
    os.mkfifo(fifo)
    command = [*COMMAND, "plan", str(fifo), "--kind", "company"]
    # It is opened for writing once the command reads from it.
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process,
        fifo.open("w"),
    ):
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=20)
    assert "Traceback" not in shown
    assert process.returncode == Exit.RUNNING


@pytest.mark.process
@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("merge", "--help")])
def test_a_reader_that_has_gone(arguments: tuple[str, ...]) -> None:
    """A pipe that its reader has closed is no error, and ends the command in silence."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, *arguments], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=20
    )
    os.close(writer)
    assert (done.stderr, done.returncode) == (b"", Exit.SUCCEEDED)


def test_an_answer_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """An API that does not answer as it should has the code of one that cannot be reached."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("AFFINITY_API_KEY", "key")
        server.settimeout(5)
        done = _asked(server, f"http://127.0.0.1:{port}")
    assert done == Exit.UNREACHABLE


def _asked(server: socket.socket, url: str) -> int:
    def answer() -> None:
        connection, _ = server.accept()
        with connection:
            # A read is repeated once if its answer cannot be read.
            for _ in range(2):
                _ = connection.recv(65536)
                body = json.dumps([]).encode()
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
                )

    task = f"{url}/v2/tasks/company-merges/00000000-0000-4000-8000-000000000000"
    with ThreadPoolExecutor(1) as threads:
        answered = threads.submit(answer)
        done = CliRunner().invoke(app, ["get", task, "--base-url", url])
        answered.result()
    return done.exit_code


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("merge", "-h")])
def test_a_full_disk_outside_of_all_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    """Help that cannot be written is said in one sentence."""

    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(app_module, "prepare_output", lambda: None)
    monkeypatch.setattr(sys, "stdout", Full())
    assert main(monkeypatch, *arguments) is Exit.RUNNING
    assert capsys.readouterr().err == (
        "The output cannot be written (No space left on device): it is not complete.\n"
    )
