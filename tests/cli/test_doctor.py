"""The command that finds out whether a job could run."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aiotasks.cli.app import app
from aiotasks.cli.doctor import wrapped
from aiotasks.cli.exit_codes import Exit
from aiotasks.sandbox import Sandbox
from tests.processes import in_thread


pytestmark = pytest.mark.real_time


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with in_thread(task_lag=0.5, task_lag_share=1.0) as sandbox:
        monkeypatch.setenv("AFFINITY_BASE_URL", sandbox.url)
        monkeypatch.setenv("AFFINITY_API_KEY", "sandbox-key")
        yield sandbox


def run(*arguments: str | Path) -> Result:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def test_a_job_could_run(sandbox: Sandbox, tmp_path: Path) -> None:
    """The page is on standard output, the number of calls is said before, and nothing is sent."""
    done = run("doctor", tmp_path)
    assert done.exit_code == Exit.SUCCEEDED
    assert done.stderr == "Asking the API at most 20 times, only to read.\n"
    assert "A job could run now." in done.stdout
    assert "sandbox-key" not in done.stdout
    assert {request.method for request in sandbox.log} == {"GET"}
    assert len(sandbox.log) <= 20


def test_what_jobs_have_seen(sandbox: Sandbox, tmp_path: Path) -> None:
    """Ledgers tell which tasks are the user's own, and how late those became visible."""
    pairs = tmp_path / "pairs.csv"
    _ = pairs.write_text("primary_id,duplicate_id\n1,2\n", "utf-8")
    options = ("--yes", "--poll-interval", "0.01")
    assert run("merge", pairs, "--kind", "company", *options).exit_code == Exit.SUCCEEDED
    _ = (tmp_path / "broken.job.db").write_text("no ledger", "utf-8")
    done = run("doctor", tmp_path)
    assert "Left out: " in done.stderr
    assert "broken.job.db" in done.stderr
    assert "Of 1 new tasks 1 answered 404 at first, the last for 0." in done.stdout
    assert "under way: 0, 0 of them none of the given jobs" in done.stdout
    again = json.loads(run("doctor", tmp_path, "--json").stdout)
    assert again["lateness"]["tasks"] == 1
    assert again["can_run"] is True
    assert again["error"] is None


def test_no_job_could_run(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the way is said, and decides the exit code."""
    sandbox.permissions = False
    done = run("doctor", tmp_path)
    assert "No job can run now" in done.stdout
    assert done.exit_code == Exit.NOT_AUTHORISED
    assert json.loads(run("doctor", tmp_path, "--json").stdout)["can_run"] is False
    monkeypatch.setenv("AFFINITY_BASE_URL", "http://127.0.0.1:9")
    assert run("doctor", tmp_path).exit_code == Exit.UNREACHABLE


def test_no_folder(sandbox: Sandbox, tmp_path: Path) -> None:
    """A folder that is not there is said before anything is asked."""
    done = run("doctor", tmp_path / "none")
    assert "There is no folder" in done.stderr
    assert done.exit_code == Exit.WRONG_USE
    assert sandbox.requests == 0


def test_a_narrow_terminal(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a terminal, lines are wrapped at word ends; elsewhere they are whole."""
    whole = run("doctor", tmp_path).stdout
    monkeypatch.setenv("COLUMNS", "40")
    narrow = run("doctor", tmp_path).stdout
    assert max(map(len, narrow.splitlines())) <= 40
    assert [*wrapped("  a bc def", 6)] == ["  a bc", "    def"]
    # Latencies and counts differ.
    assert len(narrow.split()) == len(whole.split())
    assert len(narrow.splitlines()) > len(whole.splitlines())


def test_a_file(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page can be written to a file, also where no job could run, and is not wrapped there."""
    monkeypatch.setenv("COLUMNS", "40")
    sandbox.permissions = False
    done = run("doctor", tmp_path, "-o", tmp_path / "page.txt")
    assert (done.exit_code, done.stdout) == (Exit.NOT_AUTHORISED, "")
    page = (tmp_path / "page.txt").read_text("utf-8")
    assert "No job can run now" in page
    assert max(map(len, page.splitlines())) > 60
