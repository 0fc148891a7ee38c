"""Files that the commands read and write: tables of all kinds, columns of all names."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import xlsxwriter
from typer.testing import CliRunner, Result

from aiotasks.cli.app import app
from aiotasks.cli.exit_codes import Exit
from aiotasks.sandbox import Sandbox
from tests.processes import in_thread
from tests.servers import habits


pytestmark = pytest.mark.real_time

KIND = ("--kind", "company")


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox that the environment names."""
    for name in [name for name in os.environ if name.startswith("AFFINITY_")]:
        monkeypatch.delenv(name)
    with in_thread(**habits(request.node)) as opened:
        monkeypatch.setenv("AFFINITY_BASE_URL", opened.url)
        monkeypatch.setenv("AFFINITY_API_KEY", "sandbox-key")
        yield opened


def run(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    arguments += ("--poll-interval", "0.05") if arguments[0] in {"merge", "wait"} else ()
    done = CliRunner().invoke(app, [str(each) for each in arguments], input=stdin)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def book(*rows: tuple[object, ...], sheet: str = "Pairs") -> bytes:
    file = io.BytesIO()
    with xlsxwriter.Workbook(file) as written:
        _ = written.add_worksheet("About").write(0, 0, "Exported on Monday")
        table = written.add_worksheet(sheet)
        for number, row in enumerate(rows):
            _ = table.write_row(number, 0, row)
    return file.getvalue()


def test_clusters_of_a_sheet(sandbox: Sandbox, tmp_path: Path) -> None:
    """A sheet of clusters is planned as told; the plan says how, and what to type to merge it."""
    pairs, never = tmp_path / "pairs.xlsx", tmp_path / "never.csv"
    rows = ("Group", "No", "Score"), ("A", 1, 0.5), ("A", 2, 0.9), ("B", 5, 1), ("B", 6, 0)
    _ = pairs.write_bytes(book(*rows, ("B", 7, 0)))
    _ = never.write_bytes("VIP;Name\n7;x\n".encode("utf-16"))
    options = ("--sheet", "pairs", "--cluster-column", "Group", "--id-column", "No")
    rules = (*options, "--keep", "score", "--protect", str(never), "--protect-column", "VIP")

    done = run("plan", pairs, *KIND, *rules)

    assert "Understood: the record of each cluster that 'score' ranks highest" in done.stdout
    assert "[row 2" in done.stdout
    assert "row 6: 7 may not be merged (protect)" in done.stdout
    assert f"Merge it: aiotasks merge {pairs} --kind company {' '.join(rules)} --f" in done.stdout
    assert done.exit_code == Exit.SUCCEEDED
    merged = run("merge", pairs, *KIND, *rules, "--yes")
    assert sandbox.merged("company") == {1: 2, 6: 5}
    assert "Understood: the record of each cluster that 'score'" in merged.stderr


def test_standard_input(sandbox: Sandbox) -> None:
    """Standard input may be whatever a file may be."""
    for content in (
        "primary_id\tduplicate_id\r\n1\t2\r\n".encode("utf-16"),
        b"sep=;\nprimary_id;duplicate_id\n1;2\n",
    ):
        assert "1 company would be merged" in run("plan", "-", *KIND, stdin=content).stdout
    workbook = book(("primary_id", "duplicate_id"), (1, 2))
    done = run("plan", "-", *KIND, "--sheet", "Pairs", stdin=workbook)
    assert "standard input: 1 company would be merged into 1" in done.stdout


def test_options_that_make_no_sense(sandbox: Sandbox, tmp_path: Path) -> None:
    """Options that do not go together are refused before anything is asked."""
    done = run("plan", "-", *KIND, "--primary-column", "a", "--keep", "first", stdin=b"")
    assert "keep is for clusters" in done.stderr
    assert done.exit_code == Exit.WRONG_USE
    assert sandbox.requests == 0


def test_lists_of_tasks(sandbox: Sandbox, tmp_path: Path) -> None:
    """Task URLs are read from a column of a table, too; what cannot be read is one sentence."""
    path = tmp_path / "tasks.csv"
    _ = path.write_text("name,task_url\nx,nonsense\n", "utf-16")
    done = run("wait", "--file", path)
    assert f"{path}:2, column 2 (task_url): 'nonsense' is not a task URL" in done.stderr
    done = run("wait", "--file", path, "--column", "name")
    assert f"{path}:2, column 1 (name): 'x' is not a task URL" in done.stderr
    done = run("wait", "--file", path, "--column", "none")
    assert "there is no column 'none' among name, task_url: --column names it" in done.stderr
    assert f"Nothing was waited for: fix {path} and try again." in done.stderr
    assert done.exit_code == Exit.WRONG_USE
