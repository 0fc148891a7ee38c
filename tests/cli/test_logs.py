"""What commands log, where to, and what they leave out when they are to be quiet."""

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from aiotasks.cli import progress
from aiotasks.cli.app import app
from aiotasks.cli.exit_codes import Exit
from aiotasks.cli.logs import LogOptions, begin_logs, end_logs, shown_too
from aiotasks.sandbox import Sandbox
from tests.processes import in_thread


pytestmark = pytest.mark.real_time

LOG = logging.getLogger("aiotasks.http")


@pytest.fixture(autouse=True)
def logs_end() -> Iterator[None]:
    yield
    end_logs()


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with in_thread() as sandbox:
        monkeypatch.setenv("AFFINITY_BASE_URL", sandbox.url)
        monkeypatch.setenv("AFFINITY_API_KEY", "sandbox-key")
        yield sandbox


def run(*arguments: str | Path) -> Result:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def write_records() -> None:
    fields = {"method": "GET", "status": 200, "remaining": 899}
    LOG.debug("%(method)s: %(status)d", fields, extra=fields)
    LOG.info("A pause")
    LOG.warning("A %s", "warning")


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        (LogOptions(), ["A warning"]),
        (LogOptions(verbose=1), ["A pause", "A warning"]),
        (LogOptions(verbose=2), ["GET: 200 [remaining=899]", "A pause", "A warning"]),
        (LogOptions(verbose=5), ["GET: 200 [remaining=899]", "A pause", "A warning"]),
        (LogOptions(quiet=True), []),
    ],
)
def test_what_is_shown(
    capsys: pytest.CaptureFixture[str], options: LogOptions, levels: list[str]
) -> None:
    """Each -v shows more, with the fields that a message does not have; -q shows only errors."""
    begin_logs(options)
    write_records()
    shown = capsys.readouterr().err.splitlines()
    pattern = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 aiotasks\.http: (.*)")
    found = map(pattern.fullmatch, shown)
    assert [match and match[1] for match in found] == levels


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON each record is a line with its fields, also one with a traceback."""
    begin_logs(LogOptions(verbose=2, log_format="json"))
    write_records()
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        LOG.exception("A mistake", extra={"path": Path("a\x1bb")})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines[0]["message"] == "GET: 200"
    assert (lines[0]["remaining"], lines[0]["level"]) == (899, "DEBUG")
    assert lines[0]["logger"] == "aiotasks.http"
    assert lines[-1]["message"].startswith("A mistake\nTraceback")
    assert lines[-1]["path"] == "a\x1bb"


def test_tracebacks_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    """As text a traceback follows its message, on lines of its own."""
    begin_logs(LogOptions())
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        LOG.exception("A mistake")
    assert "A mistake\nTraceback" in capsys.readouterr().err


def test_a_file_has_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of logs gets all records, is continued, and does not change what is shown."""
    path = tmp_path / "log.txt"
    for _ in range(2):
        begin_logs(LogOptions(quiet=True, log_file=path))
        write_records()
        end_logs()
    assert path.read_text("utf-8").count("GET: 200 [remaining=899]") == 2
    assert capsys.readouterr().err == ""


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """A file of logs that cannot be written ends the command before it begins."""
    done = run("status", tmp_path / "none.job.db", "--log-file", tmp_path)
    assert f"Cannot write {tmp_path}: Is a directory. Check --log-file." in done.stderr
    assert done.exit_code == Exit.WRONG_USE


@pytest.mark.parametrize("is_before", [True, False])
def test_options_before_and_after_the_command(tmp_path: Path, is_before: bool) -> None:
    """The options for logs may stand before the name of the command, or after it."""
    path, command = tmp_path / "log.txt", ["status", str(tmp_path / "none.job.db")]
    option = ["--log-file", str(path)]
    _ = run(*option, *command) if is_before else run(*command, *option)
    assert path.exists()
    assert all(
        isinstance(each, logging.NullHandler) for each in logging.getLogger("aiotasks").handlers
    )


def test_options_in_both_places(sandbox: Sandbox, tmp_path: Path) -> None:
    """What is given before the command still counts when other options follow it."""
    done = run("-vv", "quota", "--log-file", tmp_path / "log.txt")
    assert "aiotasks.http: GET /v2/rate-limit: 200" in done.stderr
    assert "GET /v2/rate-limit: 200" in (tmp_path / "log.txt").read_text("utf-8")


def test_a_quiet_wait(sandbox: Sandbox) -> None:
    """-q leaves results on standard output and the exit code, and nothing on standard error."""
    url = sandbox.start_merge("company", 1, 2)
    done = run("wait", url, "-q", "--poll-interval", "0.05")
    assert json.loads(done.stdout)["state"] == "success"
    assert done.stderr == ""
    assert done.exit_code == Exit.SUCCEEDED


@pytest.mark.parametrize("help_option", ["-h", "--help"])
def test_help(help_option: str) -> None:
    """Every command has -h, and ends its help by the exit codes."""
    for command in ("merge", "wait", "serve", "sandbox"):
        done = run(command, help_option)
        assert "3  still running or interrupted" in done.stdout
        assert "--log-file" in done.stdout


def test_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells complete the names of commands."""
    monkeypatch.setenv("_AIOTASKS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "aiotasks me")
    monkeypatch.setenv("COMP_CWORD", "1")
    done = CliRunner().invoke(app, [], prog_name="aiotasks")
    assert done.stdout.split() == ["merge"]


@pytest.mark.parametrize("is_wanted", [True, False])
def test_progress_is_quiet(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_wanted: bool
) -> None:
    """-q draws no progress of a job on a terminal, and still says what came of it."""
    screen = io.StringIO()
    monkeypatch.setattr(progress, "errors_console", Console(file=screen, force_terminal=True))
    pairs = tmp_path / "pairs.csv"
    _ = pairs.write_text("primary_id,duplicate_id\n1,2\n", "utf-8")
    options = ["-q"] if is_wanted else []
    options += ["--yes", "--poll-interval", "0.05"]
    done = run("merge", pairs, "--kind", "company", *options)
    assert ("Merging" in screen.getvalue()) is not is_wanted
    assert ("Fingerprint" in done.stderr) is not is_wanted
    assert "1 succeeded" in done.stderr


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (LogOptions(), ["request", "warning"]),
        (LogOptions(quiet=True), []),
        (LogOptions(verbose=1), ["request", "warning"]),
        (LogOptions(verbose=2), ["detail", "request", "warning"]),
    ],
    ids=str,
)
def test_what_is_shown_of_a_server(
    options: LogOptions, messages: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each record of a server is shown once, its requests without asking, and only while it runs."""
    begin_logs(options)
    log = logging.getLogger("aiotasks.web.access")
    with shown_too("aiotasks.web"):
        log.debug("detail")
        log.info("request")
        log.warning("warning")
    shown = capsys.readouterr().err.splitlines()
    assert [line.rpartition(": ")[2] for line in shown] == messages
    if not options.verbose:
        log.info("later")
    assert capsys.readouterr().err == ""


def test_a_log_file_of_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log file has everything once, whatever is shown."""
    begin_logs(LogOptions(log_file=tmp_path / "log"))
    with shown_too("aiotasks.web"):
        logging.getLogger("aiotasks.web.access").debug("detail")
        logging.getLogger("aiotasks.web.access").info("request")
    lines = (tmp_path / "log").read_text("utf-8").splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["detail", "request"]
    assert len(capsys.readouterr().err.splitlines()) == 1
