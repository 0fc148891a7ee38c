"""JSON for programs and lines for people: what each command prints on a pipe and on a terminal."""

import asyncio
import io
import json
import os
import pydoc
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from aiotasks.cli import output, status, tasks
from aiotasks.cli.app import app
from aiotasks.cli.exit_codes import Exit
from aiotasks.cli.task_text import limits
from aiotasks.dedupe import Ledger
from aiotasks.models import Quota
from aiotasks.sandbox import PLAIN, Sandbox
from tests.processes import in_thread


pytestmark = pytest.mark.real_time


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with in_thread(**PLAIN) as sandbox:
        monkeypatch.setenv("AFFINITY_BASE_URL", sandbox.url)
        monkeypatch.setenv("AFFINITY_API_KEY", "sandbox-key")
        yield sandbox


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    _ = path.write_text("primary_id,duplicate_id\n1,2\n3,4\n5,6\n", "utf-8")
    return path


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType], None]:
    """Let the commands of a module see a terminal."""

    def pretend(module: ModuleType) -> None:
        monkeypatch.setattr(module, "is_for_people", lambda as_json: not as_json)

    return pretend


def run(*arguments: str | Path) -> Result:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def merge(pairs: Path, *options: str | Path) -> Result:
    return run("merge", pairs, "--kind", "company", "--yes", "--poll-interval", "0.05", *options)


def lines(done: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_plan(sandbox: Sandbox, pairs: Path) -> None:
    """A plan as JSON is one object with the pairs, as many as are asked for."""
    done = run("plan", pairs, "--kind", "company", "--json", "--limit", "2")
    [plan] = lines(done)
    assert (plan["merges"], plan["kind"], plan["left_out"]) == (3, "company", 0)
    assert [(pair["primary_id"], pair["duplicate_id"]) for pair in plan["pairs"]] == [
        (1, 2),
        (3, 4),
    ]
    assert sum(plan["effects"].values()) == 3
    assert plan["fingerprint"][:12] in plan["merge_it"]
    assert plan["cost"]["calls"] > 0
    assert done.exit_code == Exit.SUCCEEDED


def test_a_plan_of_a_few(sandbox: Sandbox, pairs: Path) -> None:
    """--limit shows the first pairs and counts the others; a table is always whole."""
    shown = run("plan", pairs, "--kind", "company", "--limit", "1").stdout
    assert "<- 2" in shown
    assert "<- 4" not in shown
    assert "… and 2 more" in shown
    table = run("plan", pairs, "--kind", "company", "--limit", "1", "-o", pairs.with_name("a.csv"))
    assert "goes without --limit" in table.stderr


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_dry_run(sandbox: Sandbox, pairs: Path, options: list[str]) -> None:
    """A dry run prints what ``plan`` does, and begins nothing."""
    planned = run("plan", pairs, "--kind", "company", *options)
    dry = merge(pairs, "--dry-run", *options)
    assert dry.stdout == planned.stdout
    assert not pairs.with_suffix(".job.db").exists()
    assert not sandbox.posted("company")


def test_a_rate_of_its_own_is_part_of_the_cost(sandbox: Sandbox, pairs: Path) -> None:
    """The cost of a plan counts with the rate that the run may have."""
    write(pairs, 40)
    text = run("plan", pairs, "--kind", "company", "--rate", "30").stdout
    assert "up to 30 a minute" in " ".join(text.split())


def test_a_job(sandbox: Sandbox, pairs: Path) -> None:
    """A job prints its progress as JSON lines, at last what came of it, and ``status`` the same."""
    done = merge(pairs, "--json")
    shown = lines(done)
    assert {line["type"] for line in shown} >= {"progress", "result"}
    assert shown[0]["total"] == 3
    assert shown[-1]["totals"] == {"succeeded": 3}
    assert shown[-1]["exit_code"] == done.exit_code == Exit.SUCCEEDED
    assert "3 succeeded" in done.stderr
    [found] = lines(run("status", pairs.with_suffix(".job.db"), "--json"))
    assert (found["phase"], found["counts"]["succeeded"]) == ("finished", 3)
    assert found["exit_code"] == Exit.SUCCEEDED


def write(pairs: Path, count: int) -> None:
    rows = "".join(f"{2 * each - 1},{2 * each}\n" for each in range(1, count + 1))
    _ = pairs.write_text(f"primary_id,duplicate_id\n{rows}", "utf-8")


def test_a_job_that_stops(sandbox: Sandbox, pairs: Path) -> None:
    """That a job stops is a line of its own, and the last one says why."""
    sandbox.failure_rate = 1.0
    write(pairs, 40)
    done = merge(pairs, "--json", "--grace", "0")
    assert "stopping" in {line["type"] for line in lines(done)}
    assert lines(done)[-1]["stopped"] == "failures"
    assert done.exit_code == Exit.STOPPED


def test_the_first_batch(sandbox: Sandbox, pairs: Path) -> None:
    """That the first merges have succeeded is a line of its own."""
    write(pairs, 9)
    done = merge(pairs, "--json", "--canary", "4")
    assert "canary-passed" in {line["type"] for line in lines(done)}


def test_jobs_of_a_folder(
    sandbox: Sandbox, pairs: Path, on_a_terminal: Callable[[ModuleType], None]
) -> None:
    """The jobs of a folder are listed with how far they are, also those that cannot be read."""
    _ = merge(pairs)
    folder = pairs.parent
    _ = (folder / "broken.job.db").write_bytes(b"nothing")
    broken, job = lines(run("jobs", folder))
    assert "broken.job.db" in broken["error"]
    assert (job["source"], job["phase"]) == (str(pairs), "finished")
    on_a_terminal(status)
    shown = run("jobs", folder)
    assert "finished   3 of 3 merged  pairs.job.db" in shown.stdout
    assert "broken.job.db: " in shown.stdout
    assert shown.exit_code == Exit.SUCCEEDED


def test_jobs_that_have_not_begun(tmp_path: Path) -> None:
    """A ledger without a job is listed as such."""

    async def make() -> None:
        async with Ledger(tmp_path / "new.job.db"):
            pass

    asyncio.run(make())
    [new] = lines(run("jobs", tmp_path))
    assert new["error"] == "it has no job yet"


def test_folders_without_jobs(tmp_path: Path, on_a_terminal: Callable[[ModuleType], None]) -> None:
    """An empty folder is said to be one, and a missing one is an error."""
    assert run("jobs", tmp_path).stdout == ""
    on_a_terminal(status)
    assert "There are no jobs" in run("jobs", tmp_path).stdout
    missing = run("jobs", tmp_path / "none")
    assert "No such file" in missing.stderr
    assert missing.exit_code == Exit.WRONG_USE


def test_failures_in_a_list_of_jobs(
    sandbox: Sandbox, pairs: Path, on_a_terminal: Callable[[ModuleType], None]
) -> None:
    """Merges that came to nothing are counted."""
    sandbox.failure_rate = 1.0
    _ = merge(pairs)
    on_a_terminal(status)
    assert "0 of 3 merged, 3 not merged  pairs.job.db" in run("jobs", pairs.parent).stdout


def test_tasks_on_a_terminal(sandbox: Sandbox, on_a_terminal: Callable[[ModuleType], None]) -> None:
    """People get a table of tasks and of limits; --json is for both."""
    url = sandbox.start_merge("company", 1, 2)
    sandbox.finish(url)
    piped = [run("tasks", "--kind", "company"), run("get", url), run("quota")]
    on_a_terminal(tasks)
    table, one, quota = run("tasks", "--kind", "company"), run("get", url), run("quota")
    assert table.stdout.splitlines() == [
        "STATUS          MERGED  URL",
        f"success         1 of 1  {url}",
    ]
    assert one.stdout == f"success         1 of 1  {url}\n"
    assert quota.stdout.splitlines()[0].startswith("This minute: ")
    as_json = [
        run("tasks", "--kind", "company", "--json"),
        run("get", url, "--json"),
        run("quota", "--json"),
    ]
    assert [lines(each)[0].keys() for each in as_json] == [lines(each)[0].keys() for each in piped]


def test_limits_that_are_not_known() -> None:
    """What no answer had is said to be unknown."""
    assert [*limits(Quota(remaining=1200, limit=1500, reset=30.0))] == [
        "This minute: 1,200 of 1,500 calls left, until they are reset in 30 s",
        "This month:  the API does not say",
    ]
    assert next(limits(Quota(remaining=5))) == "This minute: 5 calls left"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("count", "is_paged"), [(23, False), (24, True)])
def test_a_pager(monkeypatch: pytest.MonkeyPatch, count: int, is_paged: bool) -> None:
    """What is higher than a terminal goes through its pager, printable as all else."""
    paged: list[str] = []
    screen = Terminal()
    monkeypatch.setattr(pydoc, "pager", paged.append)
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((80, 24)))
    output.show_lines(["a\x1b"] * count)
    assert bool(paged) is is_paged
    assert (paged[0] if is_paged else screen.getvalue()).count("a\ufffd") == count


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space")])
def test_a_job_goes_on_without_its_output(
    sandbox: Sandbox, pairs: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """A job whose JSON lines nobody takes goes on, and its exit code is that of the job."""

    def refuse(_: object) -> None:
        raise error

    monkeypatch.setattr(output, "print_line", refuse)
    done = merge(pairs, "--json")
    assert ("goes on without it" in done.stderr) is (error.errno == 28)
    assert len(sandbox.merged("company")) == 3
    assert done.exit_code == Exit.SUCCEEDED
