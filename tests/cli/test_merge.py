"""The commands for dedupe jobs, with real files and a sandbox to merge in."""

import csv
import inspect
import json
import os
import pty
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from aiotasks._text import duration
from aiotasks.backoff import poll_backoff
from aiotasks.cli import merge as merge_module
from aiotasks.cli import progress as progress_module
from aiotasks.cli.app import app
from aiotasks.cli.exit_codes import Exit
from aiotasks.cli.job_text import status
from aiotasks.cli.progress import JobProgressBar
from aiotasks.dedupe import (
    JobInfo,
    JobProgress,
    JobSettings,
    JobStatus,
    PairState,
    Stopping,
    StopReason,
)
from aiotasks.dedupe._run import reconciler
from aiotasks.sandbox import Sandbox
from tests.processes import in_thread
from tests.servers import habits


pytestmark = pytest.mark.real_time

# Merges of the tests take hundredths of a second, so they are polled as often.
POLL_SOON = ("--poll-interval", "0.05")
KIND = ("--kind", "company")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Sandbox]]:
    """Serve a sandbox with the given settings, and point the environment to it."""
    monkeypatch.setattr(reconciler, "_BACKOFF", poll_backoff(0.05, 0.2))
    opened = []

    def begin(**settings: Any) -> Sandbox:
        scope = in_thread(**settings)
        sandbox = scope.__enter__()
        opened.append(scope)
        for name in [name for name in os.environ if name.startswith("AFFINITY_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AFFINITY_BASE_URL", sandbox.url)
        monkeypatch.setenv("AFFINITY_API_KEY", "sandbox-key")
        return sandbox

    yield begin
    for scope in opened:
        scope.__exit__(None, None, None)


@pytest.fixture
def sandbox(serve: Callable[..., Sandbox], request: pytest.FixtureRequest) -> Sandbox:
    """A sandbox with a hundred companies and short merges."""
    return serve(**habits(request.node))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Three pairs with a column of notes; one pair is the end of a chain."""
    return write(tmp_path, "1,2,sure", "2,3,=SUM(A1)", "5,6,")


def write(folder: Path, *rows: str, header: str = "primary_id,duplicate_id,note") -> Path:
    path = folder / "pairs.csv"
    _ = path.write_text("\n".join([header, *rows]) + "\n", "utf-8")
    return path


def run(*arguments: str | Path, stdin: str | None = None) -> Result:
    arguments += POLL_SOON if arguments[0] in {"merge", "resume"} else ()
    done = CliRunner().invoke(app, [str(each) for each in arguments], input=stdin)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def merge(pairs: Path, *options: str | Path) -> Result:
    return run("merge", pairs, *KIND, "--yes", *options)


def ledger_of(pairs: Path) -> Path:
    return pairs.with_suffix(".job.db")


def table(pairs: Path, *options: str) -> list[dict[str, str]]:
    done = run("report", ledger_of(pairs), "--no-bom", *options)
    assert done.exit_code == Exit.SUCCEEDED
    return [*csv.DictReader(done.stdout.splitlines())]


def is_nothing_done(sandbox: Sandbox, pairs: Path) -> bool:
    return not sandbox.posted("company") and not ledger_of(pairs).exists()


# What would be done


def test_plan(sandbox: Sandbox, pairs: Path, tmp_path: Path) -> None:
    """A plan shows names, rewrites, skipped and missing records, and the cost; no merge runs."""
    write(tmp_path, "1,2", "2,3", "1,2", "5,6", "7,999", "9,10", header="primary_id,duplicate_id")
    never = tmp_path / "never.txt"
    _ = never.write_text("6  # the bank\n")

    done = run("plan", pairs, *KIND, "--protect", never)

    shown = " ".join(done.stdout.split())
    assert "4 companies" not in shown  # one of the four does not exist
    assert "3 companies would be merged into 2" in shown
    assert "1 Amber" in shown.replace("  ", " ") or "(" in shown  # names with domains
    assert "line 3: is merged into 1, since 2 is a duplicate itself" in shown
    assert "line 4: repeats line 2" in shown
    assert "line 5:" in shown
    assert "There is no company 999" in shown
    assert "calls" in shown
    assert "Fingerprint: " in shown
    assert done.exit_code == Exit.SUCCEEDED
    assert is_nothing_done(sandbox, pairs)


def test_a_file_with_mistakes(sandbox: Sandbox, tmp_path: Path) -> None:
    """All mistakes of a file are reported together with their lines, and no request is sent."""
    pairs = write(tmp_path, "1,x", "2,2", "3,\x1b[31m", "4,5", "6,5")

    done = merge(pairs)

    for place in ("csv:2", "csv:3", "csv:4", "csv:5"):
        assert place in done.stderr
    assert "Nothing was merged" in done.stderr
    assert "\x1b" not in done.output
    assert done.exit_code == Exit.WRONG_USE
    assert sandbox.requests == 0
    assert is_nothing_done(sandbox, pairs)


@pytest.mark.parametrize("option", [(), ("--protect", "none.txt")])
def test_a_file_that_is_not_there(
    sandbox: Sandbox, tmp_path: Path, option: tuple[str, ...]
) -> None:
    """A file that cannot be read is named."""
    pairs = write(tmp_path, "1,2,") if option else tmp_path / "none.txt"

    done = merge(pairs, *option)

    assert "Cannot read" in done.stderr
    assert "none.txt" in done.stderr
    assert done.exit_code == Exit.WRONG_USE


def test_names_cannot_steer_the_terminal(
    sandbox: Sandbox, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control characters in the name of a record do not reach the terminal."""
    directory = sandbox._app.states["company"].store.directory
    record = directory.record
    evil = {"name": "\x1b]0;evil\x07\x9b31m"}
    monkeypatch.setattr(directory, "record", lambda record_id: record(record_id) | evil)

    shown = run("plan", pairs, *KIND).output + merge(pairs).output

    assert "]0;evil" in shown
    assert not {"\x1b", "\x07", "\x9b"} & {*shown}


# Asking


def test_merging(sandbox: Sandbox, pairs: Path) -> None:
    """With ``--yes`` a job runs to its end, with its ledger beside the input, and a summary."""
    done = merge(pairs)

    assert sandbox.merged("company") == {2: 1, 3: 1, 6: 5}
    assert "3 succeeded" in done.stderr
    assert f"aiotasks report {ledger_of(pairs)}" in done.stderr
    assert "aiotasks resume" not in done.stderr
    assert done.stdout == ""
    assert done.exit_code == Exit.SUCCEEDED
    again = merge(pairs)
    assert again.exit_code == Exit.SUCCEEDED
    assert sandbox.calls["merge"] == 3


def test_no_terminal_to_ask_on(sandbox: Sandbox, pairs: Path) -> None:
    """Without a terminal and without ``--yes`` nothing is merged."""
    done = run("merge", pairs, *KIND)

    assert "--yes" in done.stderr
    assert "3 companies would be merged into 2" in done.stderr
    assert done.exit_code == Exit.WRONG_USE
    assert is_nothing_done(sandbox, pairs)


def on_a_terminal(*arguments: str | Path, answer: str) -> tuple[int, str]:
    """Run the command on a terminal, answer its question, and return its exit code and output."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "aiotasks", *map(str, arguments), *POLL_SOON]
    drawn = b""
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            while b"[y/N]" not in drawn:
                drawn += os.read(ours, 65536)
            if answer == "\x03":
                interrupt(process)
            else:
                _ = os.write(ours, answer.encode())
            while more := os.read(ours, 65536):
                drawn += more
        except OSError:
            pass  # Linux reports so that the other end of the terminal is closed.
        finally:
            # Do not wait for the process if the test fails.
            with suppress(subprocess.TimeoutExpired):
                _ = process.wait(5)
            process.kill()
    os.close(ours)
    return process.returncode, drawn.decode()


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Press Ctrl-C until it takes effect: right before the prompt it may be lost."""
    for _ in range(10):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            _ = process.wait(1)
            return


@pytest.mark.process
def test_yes_on_a_terminal(sandbox: Sandbox, pairs: Path) -> None:
    """A job begins once the user confirms it, and its progress is drawn."""
    code, drawn = on_a_terminal("merge", pairs, *KIND, answer="y\n")

    assert "Merge them?" in drawn
    assert "Merging" in drawn
    assert "3/3" in drawn
    assert sandbox.merged("company") == {2: 1, 3: 1, 6: 5}
    assert code == Exit.SUCCEEDED


@pytest.mark.process
@pytest.mark.parametrize("answer", ["n\n", "\n", "\x03"])
def test_anything_else_on_a_terminal(sandbox: Sandbox, pairs: Path, answer: str) -> None:
    """Any answer but yes, Ctrl-C included, changes nothing."""
    code, drawn = on_a_terminal("merge", pairs, *KIND, answer=answer)

    assert "Nothing was merged" in drawn
    assert code == Exit.RUNNING
    assert is_nothing_done(sandbox, pairs)


def test_the_plan_that_was_shown(sandbox: Sandbox, pairs: Path) -> None:
    """With a fingerprint only the plan with this fingerprint is merged."""
    shown = run("plan", pairs, *KIND).stdout
    (fingerprint,) = [line.split()[1] for line in shown.splitlines() if "Fingerprint" in line]
    with pairs.open("a") as file:
        _ = file.write("7,8,\n")

    refused = merge(pairs, "--fingerprint", fingerprint)

    assert fingerprint in refused.stderr
    assert refused.exit_code == Exit.WRONG_USE
    assert is_nothing_done(sandbox, pairs)
    # An empty shell variable is a prefix of every fingerprint.
    assert "takes the 12 characters" in merge(pairs, "--fingerprint", "").stderr
    assert is_nothing_done(sandbox, pairs)
    _ = pairs.write_text(pairs.read_text().replace("7,8,\n", ""))
    assert merge(pairs, "--fingerprint", fingerprint.upper()).exit_code == Exit.SUCCEEDED


def test_rules(sandbox: Sandbox, tmp_path: Path) -> None:
    """Records can be protected, clusters bounded, and contradictions decided by the first row."""
    pairs = write(tmp_path, "1,2,", "3,4,", "3,5,", "3,6,", "7,8,", "9,8,", "10,11,")
    never = tmp_path / "never.txt"
    _ = never.write_text("2\n")
    rules = ("--protect", never, "--max-cluster", "3")

    assert merge(pairs, *rules).exit_code == Exit.WRONG_USE
    done = merge(pairs, *rules, "--on-conflict", "first")

    assert sandbox.merged("company") == {8: 7, 11: 10}
    assert [row["state"] for row in table(pairs)] == ["succeeded"] * 2 + ["refused"] * 5
    assert done.exit_code == Exit.FAILED


@pytest.mark.plain
def test_nothing_to_merge(sandbox: Sandbox, pairs: Path, tmp_path: Path) -> None:
    """If all pairs are merged already, or none can be merged, no job begins."""
    assert merge(pairs).exit_code == Exit.SUCCEEDED
    for file in pairs.parent.glob("*.job.db*"):
        file.unlink()

    done = merge(pairs)
    gone = merge(write(tmp_path, "1,999,"))

    assert "nothing to merge" in done.stderr
    assert "nothing to merge" in gone.stderr
    assert done.exit_code == Exit.SUCCEEDED
    assert gone.exit_code == Exit.FAILED
    assert not ledger_of(pairs).exists()


def test_standard_input(sandbox: Sandbox, pairs: Path, tmp_path: Path) -> None:
    """Pairs can come from standard input if a path for the ledger is given."""
    ledger = tmp_path / "job.db"
    text = pairs.read_text()
    arguments = ("merge", "-", *KIND, "--yes")

    nowhere = run(*arguments, stdin=text)
    done = run(*arguments, "--ledger", ledger, stdin=text)

    assert "--ledger" in nowhere.stderr
    assert nowhere.exit_code == Exit.WRONG_USE
    assert sandbox.merged("company") == {2: 1, 3: 1, 6: 5}
    assert done.exit_code == Exit.SUCCEEDED
    assert "standard input" in run("status", ledger).stdout


# Resuming


def test_the_ledger_of_another_job(sandbox: Sandbox, pairs: Path) -> None:
    """A job continues only with the input that it was begun with."""
    assert merge(pairs).exit_code == Exit.SUCCEEDED
    with pairs.open("a") as file:
        _ = file.write("7,8,\n")

    done = merge(pairs)

    assert "another job" in done.stderr
    assert done.exit_code == Exit.WRONG_USE
    assert sandbox.calls["merge"] == 3


@pytest.mark.parametrize("command", [merge_module.merge, merge_module.go_on])
def test_the_settings_of_a_job(command: Callable[..., None]) -> None:
    """Each job setting is an option of both commands, with the default of the library."""
    options = inspect.signature(command).parameters
    settings = msgspec.structs.asdict(JobSettings())
    assert {name: options[name].default for name in settings} == settings


def test_a_setting_out_of_its_range(sandbox: Sandbox, pairs: Path) -> None:
    """A setting that only the library refuses is a usage error, too, and is named."""
    done = merge(pairs, "--grace", "inf")
    assert "grace must be" in done.stderr
    assert done.exit_code == Exit.WRONG_USE
    assert sandbox.requests == 0


def test_no_ledger(tmp_path: Path) -> None:
    """A missing ledger is an error, and is not created."""
    for command in ("resume", "status", "report"):
        done = run(command, tmp_path / "none.job.db")
        assert "There is no ledger" in done.stderr
        assert done.exit_code == Exit.WRONG_USE
    assert not [*tmp_path.iterdir()]


def test_a_ledger_without_a_job(sandbox: Sandbox, tmp_path: Path) -> None:
    """A ledger without a job is reported as such."""
    ledger = tmp_path / "empty.job.db"
    ledger.touch()
    for command in ("resume", "status", "report"):
        done = run(command, ledger)
        assert str(ledger) in done.stderr
        assert done.exit_code == Exit.WRONG_USE


def test_a_ledger_that_was_removed(sandbox: Sandbox, pairs: Path) -> None:
    """A ledger that is gone is not begun anew; with ``--recover`` it is, and nothing is sent again."""
    assert merge(pairs).exit_code == Exit.SUCCEEDED
    posted = sandbox.calls["merge"]
    ledger_of(pairs).unlink()
    for done in (merge(pairs), run("resume", ledger_of(pairs)), run("status", ledger_of(pairs))):
        assert "the file is gone, but 9 transitions were written to it: put it back" in done.stderr
        assert done.exit_code == Exit.WRONG_USE
    assert not ledger_of(pairs).exists()
    again = merge(pairs, "--recover")
    assert "There is nothing to merge" in again.stderr
    assert sandbox.calls["merge"] == posted


def test_an_older_copy_of_a_ledger(sandbox: Sandbox, pairs: Path) -> None:
    """An older copy of a ledger is refused; with ``--recover`` it goes on, and sends nothing again."""
    ledger = ledger_of(pairs)
    assert merge(pairs).exit_code == Exit.SUCCEEDED
    with closing(sqlite3.connect(ledger)) as connection:
        _ = connection.executescript(
            "DELETE FROM log; UPDATE pairs SET state = 'planned', task_url = NULL"
        )
    done = run("resume", ledger)
    assert "it has 0 transitions, but 9 were written to it: it is an older copy" in done.stderr
    assert done.exit_code == Exit.WRONG_USE
    posted = sandbox.calls["merge"]
    again = run("resume", ledger, "--recover")
    assert "3 succeeded" in again.stderr
    assert sandbox.calls["merge"] == posted


def test_stopping_by_itself(serve: Callable[..., Sandbox], tmp_path: Path) -> None:
    """A job stops when too many merges fail; failed pairs can be retried from the ledger."""
    sandbox = serve(failure_rate=1.0)
    pairs = write(tmp_path, *(f"{number},{number + 1}," for number in range(1, 60, 2)))

    done = merge(pairs, "--canary", "4", "--grace", "5")

    assert "10 failed" in done.stderr
    assert "20 planned" in done.stderr
    assert "too many merges failed: 10 of the 10 started since pair 1." in done.stderr
    assert "--max-failure-rate" in done.stderr
    assert f"aiotasks resume {ledger_of(pairs)}" in done.stderr
    assert done.exit_code == Exit.STOPPED
    status = run("status", ledger_of(pairs))
    assert "10 failed" in status.stdout
    assert f"Go on with: aiotasks resume {ledger_of(pairs)}" in status.stdout
    assert status.exit_code == Exit.STOPPED

    sandbox.failure_rate = 0.0
    rest = run("resume", ledger_of(pairs), "--canary", "4")
    assert "2 of the first merges have succeeded; the others start now." in rest.stderr
    assert "20 succeeded, 10 failed" in rest.stderr
    assert rest.exit_code == Exit.FAILED
    assert run("status", ledger_of(pairs)).exit_code == Exit.FAILED
    again = run("resume", ledger_of(pairs), "--retry-failed")
    assert "30 succeeded" in again.stderr
    assert again.exit_code == Exit.SUCCEEDED
    assert run("status", ledger_of(pairs)).exit_code == Exit.SUCCEEDED


def test_the_next_step(sandbox: Sandbox, pairs: Path, tmp_path: Path) -> None:
    """``plan`` ends with the command that merges exactly this plan if its input is a file."""
    never = tmp_path / "ids of ours.txt"
    _ = never.write_text("6\n")
    rules = ("--protect", never, "--no-new-company")
    shown = run("plan", pairs, *KIND, *rules).stdout.splitlines()[-1]
    words = shlex.split(shown.removeprefix("Merge it: "))
    assert words[:2] == ["aiotasks", "merge"]
    assert run(*words[1:], "--yes").exit_code == Exit.FAILED
    assert sandbox.merged("company") == {2: 1, 3: 1}
    assert "Merge it" not in run("plan", "-", *KIND, stdin="primary_id,duplicate_id\n7,8\n").stdout


def test_cost(serve: Callable[..., Sandbox], tmp_path: Path) -> None:
    """A plan says how long it takes and why, and if the monthly quota is too small for it."""
    _ = serve(quota=1000, month_quota=20)
    many = write(tmp_path, *(f"{number},{number + 1}," for number in range(1, 60, 2)))
    text = " ".join(run("plan", many, *KIND).stdout.split())
    assert "MORE than the organization has in a month" in text
    assert "It begins with 20 merges." in text
    _ = serve(quota=10, month_quota=100_000)
    few = write(tmp_path, *(f"{number},{number + 1}," for number in range(1, 40, 2)))
    text = " ".join(run("plan", few, *KIND).stdout.split())
    assert "calls (less than 0.1% of the month) and 2.4 to 3.4 min. Nothing is known" in text
    assert "It begins with" not in text


@pytest.mark.plain
def test_the_summary(sandbox: Sandbox, tmp_path: Path) -> None:
    """Earlier merges are counted separately, and of many reasons only the first are printed."""
    _ = sandbox.start_merge("company", 1, 2, duration=0.0)
    missing = [f"{number},{1000 + number}," for number in range(11, 25, 2)]
    pairs = write(tmp_path, "1,2,", "3,4,", *missing)

    done = merge(pairs)

    assert "2 succeeded, 7 refused" in done.stderr
    assert "1  of those that succeeded had been merged already" in done.stderr
    assert "… and 2 more reasons, in the report" in done.stderr
    assert done.exit_code == Exit.FAILED
    both = run("report", ledger_of(pairs), "--snapshots", "--only", "failed")
    assert "go without --only" in both.stderr
    assert both.exit_code == Exit.WRONG_USE


def test_status_names_the_holder() -> None:
    """The status names the process that runs the job, or else the reason why it stopped."""
    job = JobInfo(
        kind="person",
        origin="https://api.affinity.co",
        fingerprint="f",
        source="pairs.csv",
        digest="d",
        columns=(),
        merges=2,
        begun_at=0.0,
    )
    totals = dict.fromkeys(PairState, 0) | {PairState.PLANNED: 2}
    notes = {"stopped": "failures"}
    running = [*status(job, JobStatus.of(job, totals, notes, holder="process 7 on here"))]
    stopped = [*status(job, JobStatus.of(job, totals, notes))]

    assert running[0] == stopped[0] == "Job of pairs.csv: 2 pairs of persons"
    assert running[-1].startswith("It is run by process 7 on here,")
    assert "too many merges failed" in stopped[-2]
    assert "--max-failure-rate" in stopped[-1]


def test_a_monthly_quota_that_is_used_up(serve: Callable[..., Sandbox], tmp_path: Path) -> None:
    """A job stops when the monthly quota is used up; the next run does the rest."""
    sandbox = serve(month_quota=20)
    pairs = write(tmp_path, *(f"{number},{number + 1}," for number in range(1, 60, 2)))

    done = merge(pairs, "--grace", "0.1")

    assert "month" in done.stderr
    again = merge(pairs)
    assert "month" in again.stderr
    assert again.exit_code == Exit.STOPPED
    assert "stopped by itself" in done.stderr
    assert 0 < sandbox.posted("company").total() < 30
    assert done.exit_code == Exit.STOPPED


def test_a_key_that_may_not_merge(
    serve: Callable[..., Sandbox], pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is refused before or during a job has its own exit code."""
    sandbox = serve()
    sandbox.permissions = False
    refused = merge(pairs)
    sandbox.permissions = True
    assert merge(pairs).exit_code == Exit.SUCCEEDED
    monkeypatch.setenv("AFFINITY_API_KEY", "another")
    again = merge(pairs.rename(pairs.with_name("others.csv")))

    assert refused.exit_code == again.exit_code == Exit.NOT_AUTHORISED
    assert "another" not in again.output


def test_what_cannot_be_settled(
    sandbox: Sandbox, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs that stay unsettled are reported as such, with the command that retries them."""
    monkeypatch.setattr(reconciler, "_LONGEST_MERGE", 0.2)
    sandbox.inject("disconnect@merge", times=None)

    done = merge(pairs, "--settle-after", "1")

    assert "2 unsettled" in done.stderr
    assert "may have been merged" in done.stderr
    assert f"aiotasks resume {ledger_of(pairs)}" in done.stderr
    assert done.exit_code == Exit.RUNNING


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(serve: Callable[..., Sandbox], pairs: Path, times: int) -> None:
    """Ctrl-C stops a job, immediately when given twice; nothing is lost."""
    sandbox = serve(duration=0.5 if times == 1 else 100.0)

    def interrupt() -> None:
        deadline = time.monotonic() + 5
        while not sandbox.posted("company") and time.monotonic() < deadline:
            time.sleep(0.01)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    with ThreadPoolExecutor(1) as threads:
        interrupted = threads.submit(interrupt)
        done = merge(pairs, "--max-open", "1")
        interrupted.result()

    assert "no new merges" in done.stderr
    assert "run the same command again" in done.stderr or "aiotasks resume" in done.stderr
    assert sandbox.posted("company").total() == 1
    assert done.exit_code == Exit.RUNNING


def test_a_merge_that_was_cut_off(sandbox: Sandbox, pairs: Path) -> None:
    """The next run reconciles a merge that was in flight, and sends it again if it is absent."""
    sandbox.inject("hang@merge")

    def interrupt() -> None:
        deadline = time.monotonic() + 5
        while not sandbox.calls["merge"] and time.monotonic() < deadline:
            time.sleep(0.01)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    with ThreadPoolExecutor(1) as threads:
        interrupted = threads.submit(interrupt)
        done = merge(pairs, "--max-open", "1")
        interrupted.result()

    assert done.exit_code == Exit.RUNNING
    assert "1 sending" in run("status", ledger_of(pairs)).stdout
    rest = run("resume", ledger_of(pairs), "--settle-after", "1")
    assert rest.exit_code == Exit.SUCCEEDED
    assert sandbox.merged("company") == {2: 1, 3: 1, 6: 5}


def test_ctrl_c_before_the_job(sandbox: Sandbox, pairs: Path) -> None:
    """Ctrl-C during the preview ends the command, and nothing was merged."""
    # It answers at last: a signal that arrives just before the loop waits is handled only then.
    sandbox.inject("latency=2@records", times=None)

    def interrupt() -> None:
        deadline = time.monotonic() + 5
        while not sandbox.in_flight and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor(1) as threads:
        interrupted = threads.submit(interrupt)
        done = merge(pairs)
        interrupted.result()

    assert "Nothing was merged" in done.stderr
    assert done.exit_code == Exit.RUNNING
    assert is_nothing_done(sandbox, pairs)


# Results


def test_report(sandbox: Sandbox, pairs: Path) -> None:
    """A report has a row for each pair: the input's columns, names, state, merge and times."""
    assert merge(pairs).exit_code == Exit.SUCCEEDED

    rows = {row["duplicate_id"]: row for row in table(pairs)}

    assert rows["3"]["primary_id"] == "1"
    assert rows["3"]["asked_primary_id"] == "2"
    assert rows["2"]["note"] == "sure"
    assert rows["2"]["state"] == "succeeded"
    assert all(row["primary_name"] and row["duplicate_name"] for row in rows.values())
    assert {row["merge_id"] for row in rows.values()} == {"1", "2", "3"}
    assert all(row["planned_at"] <= row["started_at"] <= row["ended_at"] for row in rows.values())
    jsonl = run("report", ledger_of(pairs), "--format", "jsonl").stdout
    assert [json.loads(line)["duplicate_id"] for line in jsonl.splitlines()] == [2, 3, 6]
    assert table(pairs, "--only", "failed", "--only", "planned") == []


def test_a_report_runs_no_formulas(sandbox: Sandbox, tmp_path: Path) -> None:
    """Cells that a spreadsheet would evaluate are text in a report; numbers remain numbers."""
    formulas = ("=1+1", "+A1", "-A1", "@SUM(A1)", "-5", "+1,5")
    rows = [f'{2 * n + 1},{2 * n + 2},"{text}"' for n, text in enumerate(formulas)]
    pairs = write(tmp_path, *rows)
    assert merge(pairs).exit_code == Exit.SUCCEEDED

    notes = [row["note"] for row in table(pairs)]

    assert notes == ["'=1+1", "'+A1", "'-A1", "'@SUM(A1)", "-5", "+1,5"]


def test_failed_rows_are_input_again(serve: Callable[..., Sandbox], pairs: Path) -> None:
    """A report of pairs that failed, and so kept others from running, is input of another job."""
    sandbox = serve(failure_rate=1.0)
    assert merge(pairs, "--max-failure-rate", "1").exit_code == Exit.FAILED
    failed = run("report", ledger_of(pairs), "--only", "failed", "--only", "refused").stdout
    again = pairs.with_name("again.csv")
    _ = again.write_text(failed)
    sandbox.failure_rate = 0.0

    assert merge(again).exit_code == Exit.SUCCEEDED
    assert sandbox.merged("company") == {2: 1, 3: 1, 6: 5}
    assert [row["note"] for row in table(again)] == [row["note"] for row in table(pairs)]


def test_snapshots(sandbox: Sandbox, pairs: Path) -> None:
    """Snapshots of the records can be exported after the duplicates are merged."""
    assert merge(pairs).exit_code == Exit.SUCCEEDED

    lines = run("report", ledger_of(pairs), "--snapshots").stdout.splitlines()

    records = {line["id"]: line for line in map(json.loads, lines)}
    assert [*records] == [1, 2, 3, 5, 6]
    assert records[2]["kind"] == "company"
    assert records[2]["record"]["domains"]


def test_suggestions(sandbox: Sandbox, tmp_path: Path) -> None:
    """The server's suggestions are exported as pairs, all of them or those of one criterion."""
    everything = run("suggestions", *KIND)
    some = run("suggestions", *KIND, "--criteria", "domain-match")
    pairs = tmp_path / "pairs.csv"
    _ = pairs.write_text(some.stdout)

    rows = [*csv.DictReader(some.stdout.splitlines())]
    assert {row["criteria"] for row in rows} == {"domain-match"}
    assert all(row["primary"] and row["duplicate"] for row in rows)
    assert 0 < len(rows) < len(everything.stdout.splitlines()) - 1 == 50
    assert "50 pairs" in everything.stderr
    assert f"{len(rows)} companies would be merged" in run("plan", pairs, *KIND).stdout


def test_suggestions_that_break_off(sandbox: Sandbox) -> None:
    """A list that the API refuses is no list of which some failed."""
    done = run("suggestions", *KIND, "--api-version", "2024-01-01")

    assert "404" in done.stderr
    assert done.exit_code == Exit.WRONG_USE


# Progress


def progress(**settings: Any) -> JobProgress:
    totals = dict.fromkeys(PairState, 0) | settings.pop("totals", {})
    return JobProgress(totals=totals, **settings)


async def test_an_outage_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """The beginning and the end of an outage are each reported once."""
    screen = JobProgressBar()
    with screen:
        for is_cut_off in (False, True, True, False):
            screen.show(progress(is_cut_off=is_cut_off))
    reported = capsys.readouterr().err
    assert reported.count("No answer from the API. The job waits") == 1
    assert reported.count("The API answers again.") == 1


async def test_lines_of_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a line of progress is printed every half minute."""
    screen = JobProgressBar()
    with screen:
        for _ in range(3):
            screen.show(
                progress(
                    totals={PairState.PLANNED: 5, PairState.STARTED: 2, PairState.FAILED: 1},
                    per_minute=12.0,
                    seconds_left=700.0,
                    calls=1234,
                    month_used=250,
                    month_limit=1000,
                    waiting_for="open merges to end",
                )
            )
        screen.report(Stopping(reason=StopReason.FAILURES, grace=30.0))

    (line, stopping) = capsys.readouterr().err.splitlines()
    for words in (
        *("1 of 8 pairs", "2 open", "1 failed", "12 a minute", "11.7 min left", "1,234 calls"),
        *("25% of the month", "open merges to end"),
    ):
        assert words in line
    assert "30 s" in stopping
    assert not screen.is_empty


def test_progress_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal progress is drawn."""
    console = Console(stderr=True, force_terminal=True, width=80)
    monkeypatch.setattr(progress_module, "errors_console", console)
    screen = JobProgressBar()
    with screen:
        screen.show(progress(totals={PairState.SUCCEEDED: 3}))

    drawn = capsys.readouterr().err
    assert "3/3" in drawn
    assert "left" not in drawn


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (119, "119 s"),
        (120, "2.0 min"),
        (7199, "120.0 min"),
        (7200, "2.0 h"),
        (172_800, "2.0 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """A duration is printed in a suitable unit."""
    assert duration(seconds) == text
