"""Files that the commands read and write: tables of all kinds, columns of all names."""

import asyncio
import codecs
import csv
import io
import json
import os
import sys
from collections.abc import AsyncGenerator, Iterator
from datetime import datetime
from pathlib import Path

import pytest
import typer
import xlsxwriter
from python_calamine import CalamineWorkbook
from typer.testing import CliRunner, Result

from aiotasks.cli.app import app
from aiotasks.cli.exit_codes import Exit
from aiotasks.cli.tables import format_of, print_table
from aiotasks.dedupe import Ledger, LedgerReader, PairState, Plan, _tables, report_workbook
from aiotasks.dedupe._tables import WorkbookWriter
from aiotasks.errors import ConfigurationError, LedgerError
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


OWN = "Zo\u00eb\u00a0\u5c71\u200d\u00ad\u202e"


def report_of(ledger: Path, *options: str | Path) -> bytes:
    done = run("report", ledger, *options)
    assert done.exit_code == Exit.SUCCEEDED, done.stderr
    return done.stdout_bytes


@pytest.fixture
def ledger(sandbox: Sandbox, tmp_path: Path) -> Path:
    """The ledger of a job with semicolons in its input, of which one pair failed."""
    pairs = tmp_path / "pairs.csv"
    text = f'primary_id;duplicate_id;owner\n1;2;{OWN}\n3;4;=1+1\n5;999;"a\x07;b"\n'
    _ = pairs.write_text(text, "utf-8-sig")
    assert run("merge", pairs, *KIND, "--yes").exit_code == Exit.FAILED
    return pairs.with_suffix(".job.db")


def test_csv(ledger: Path) -> None:
    """CSV has the separator of the input, and begins with a byte order mark unless told not to."""
    written = report_of(ledger)
    assert written.startswith(codecs.BOM_UTF8)
    assert report_of(ledger, "--no-bom") == written.removeprefix(codecs.BOM_UTF8)
    rows = [*csv.reader(io.StringIO(written.decode("utf-8-sig"), newline=""), delimiter=";")]
    assert rows[0][:4] == ["primary_id", "duplicate_id", "owner", "primary_name"]
    assert [row[2] for row in rows[1:]] == [OWN, "'=1+1", "a\ufffd;b"]


def test_a_workbook(ledger: Path, tmp_path: Path) -> None:
    """A workbook has numbers, times and texts as such, which run nothing and stay as they are."""
    path = tmp_path / "report.XLSX"
    assert report_of(ledger, "-o", path) == b""
    rows = CalamineWorkbook.from_path(path).get_sheet_by_name("Report").to_python()
    named = [dict(zip(map(str, rows[0]), row, strict=True)) for row in rows[1:]]
    assert [row["owner"] for row in named] == [OWN, "=1+1", "a\ufffd;b"]
    assert [(row["primary_id"], row["line"]) for row in named] == [(1, 2), (3, 3), (5, 4)]
    assert isinstance(named[0]["ended_at"], datetime)
    assert named[2]["state"] == "refused"
    assert report_of(ledger, "--format", "xlsx").startswith(b"PK")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "ndjson", "json", "xlsx"])
def test_reports_are_input(ledger: Path, tmp_path: Path, sandbox: Sandbox, ending: str) -> None:
    """A report in each format is read as the pairs that it has, with their further column."""
    path = tmp_path / f"again.{ending}"
    _ = report_of(ledger, "-o", path, "--only", "refused")
    plan = Plan.read(path, kind="company")
    assert [(each.primary_id, each.duplicate_id) for each in plan.merges] == [(5, 999)]
    assert (plan.columns, plan.understood) == (("owner",), ())


def test_a_page(ledger: Path, tmp_path: Path) -> None:
    """A page is written as its file is named; it has all pairs."""
    path = tmp_path / "report.html"
    _ = report_of(ledger, "--output", path)
    assert path.read_text("utf-8").startswith("<!doctype html>")
    done = run("report", ledger, "-o", path, "--only", "failed")
    assert "A page is of the whole job" in done.stderr
    assert done.exit_code == Exit.WRONG_USE


def test_a_plan(sandbox: Sandbox, tmp_path: Path) -> None:
    """A plan in a file is what would be shown, or a table of all its pairs, which is input again."""
    pairs, text, table = (tmp_path / name for name in ("pairs.csv", "plan.txt", "plan.csv"))
    _ = pairs.write_text("primary_id;duplicate_id;note\n1;2;x\n2;3;y\n1;9;z\n7;999;\n", "utf-8")
    never = tmp_path / "never.txt"
    _ = never.write_text("9\n")
    rules = (*KIND, "--protect", never)
    assert run("plan", pairs, *rules, "-o", text).stdout == ""
    assert "Fingerprint: " in text.read_text("utf-8")
    done = run("plan", pairs, *rules, "-o", table)
    assert "Merge it: aiotasks merge" in done.stderr
    rows = [*csv.DictReader(io.StringIO(table.read_text("utf-8-sig")), delimiter=";")]
    shown = ("primary_id", "duplicate_id", "asked_primary_id", "note", "state")
    assert [tuple(row[name] for name in shown) for row in rows] == [
        ("1", "2", "", "x", "planned"),
        ("1", "3", "2", "y", "planned"),
        ("7", "999", "", "", "refused"),
        ("1", "9", "", "z", "refused"),
    ]
    assert rows[0]["primary_name"]
    assert rows[3]["reason"] == "9 may not be merged (protect)"
    assert Plan.read(table, kind="company").columns == ("note",)


def test_suggestions(sandbox: Sandbox, tmp_path: Path) -> None:
    """Suggestions can be written in each format, and are pairs as they are."""
    for name in ("pairs.csv", "pairs.jsonl", "pairs.xlsx"):
        path = tmp_path / name
        done = run("suggestions", *KIND, "-o", path)
        assert "50 pairs. Read through them" in done.stderr
        assert Plan.read(path, kind="company", on_conflict="first").rows == 50


def test_tasks(ledger: Path, tmp_path: Path) -> None:
    """Tasks, their outcomes and limits can be written to files, and lists of them are input."""
    tasks, outcomes = tmp_path / "tasks.jsonl", tmp_path / "outcomes.jsonl"
    assert run("tasks", *KIND, "-o", tasks).exit_code == Exit.SUCCEEDED
    done = run("wait", "--file", tasks, "-o", outcomes)
    assert (done.stdout, done.exit_code) == ("", Exit.SUCCEEDED)
    assert [json.loads(line)["state"] for line in outcomes.read_text().splitlines()] == [
        "success"
    ] * 2
    url = json.loads(tasks.read_text().splitlines()[0])["url"]
    for command in (("get", url), ("quota",)):
        assert run(*command, "-o", outcomes).exit_code == Exit.SUCCEEDED
        assert json.loads(outcomes.read_text())


def test_a_file_is_whole_or_as_it_was(
    ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that cannot be completed stays what it was, and nothing is left beside it."""
    path = tmp_path / "report.csv"
    _ = path.write_text("older")
    before = sorted(tmp_path.iterdir())

    async def fail(self: LedgerReader, ids: object) -> None:
        raise LedgerError(str(self.path), "the disk is gone")

    monkeypatch.setattr(LedgerReader, "records", fail)
    done = run("report", ledger, "-o", path)
    assert "the disk is gone" in done.stderr
    assert path.read_text() == "older"
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_not_overwritten(ledger: Path, tmp_path: Path) -> None:
    """Neither a ledger nor the input of a plan is overwritten; a folder that is not there is named."""
    pairs, before = tmp_path / "pairs.csv", ledger.read_bytes()
    done = run("report", ledger, "-o", ledger)
    assert f"{ledger} is a ledger, and is not overwritten: give another --output." in done.stderr
    assert (done.exit_code, ledger.read_bytes()) == (Exit.WRONG_USE, before)
    done = run("plan", pairs, *KIND, "-o", pairs)
    assert f"{pairs} is the input, and is not overwritten" in done.stderr
    done = run("report", ledger, "-o", tmp_path / "report.xls")
    assert "Nothing is written as xls: give an --output that ends in .xlsx." in done.stderr
    done = run("report", ledger, "-o", tmp_path / "none" / "report.csv")
    assert f"Cannot write {tmp_path / 'none' / 'report.csv'}: No such file" in done.stderr
    assert done.exit_code == Exit.WRONG_USE


def test_special_files(ledger: Path) -> None:
    """A dash is standard output, and what is no plain file is written as it is."""
    assert report_of(ledger, "-o", "-") == report_of(ledger)
    assert report_of(ledger, "-o", "/dev/null") == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has such a file")
def test_a_full_disk(ledger: Path) -> None:
    """A file that does not fit on the disk is reported once."""
    done = run("report", ledger, "-o", "/dev/full")
    assert "The output cannot be written (No space left on device)" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.exit_code == Exit.RUNNING


def test_a_workbook_on_a_terminal(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workbook is not shown on a terminal, and CSV there has no mark."""
    terminal = type("Terminal", (io.StringIO,), {"isatty": lambda _: True})()
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(typer.Exit):
        _ = format_of("xlsx", None)

    async def rows() -> AsyncGenerator[dict[str, int]]:
        yield {"a": 1}

    assert asyncio.run(print_table(["a"], rows(), "csv")) == 1
    assert terminal.getvalue() == "a\n1\n"


def test_workbooks_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sheet cannot have is refused, or cut where only one cell is too long."""
    with WorkbookWriter("Report", ["a"]) as writer:
        writer.add({"a": "x" * 40_000})
        content = writer.content()
    sheet = CalamineWorkbook.from_filelike(io.BytesIO(content)).get_sheet_by_index(0)
    assert sheet.to_python()[1] == ["x" * 32_767]
    monkeypatch.setattr(_tables, "_MOST_ROWS", 0)
    message = "a sheet has at most 0 rows: write CSV instead"
    with (
        WorkbookWriter("Report", ["a"]) as writer,
        pytest.raises(ConfigurationError, match=message),
    ):
        writer.add({})
    monkeypatch.setitem(sys.modules, "xlsxwriter", None)
    with pytest.raises(ConfigurationError, match=r"install affinity-aiotasks\[excel\]"):
        _ = WorkbookWriter("Report", ["a"])


async def test_a_workbook_in_code(ledger: Path) -> None:
    """The library returns a report as a workbook, of all pairs or those in some states."""
    async with Ledger.reading(ledger) as reader:
        content = await report_workbook(reader, PairState.REFUSED)
    rows = CalamineWorkbook.from_filelike(io.BytesIO(content)).get_sheet_by_index(0).to_python()
    assert [row[0] for row in rows] == ["primary_id", 5]
