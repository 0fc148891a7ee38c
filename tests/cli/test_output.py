"""What reaches files, pipes and terminals, whatever their encoding is and whoever reads them."""

import codecs
import csv
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aiotasks._text import json_text, printable
from aiotasks.cli import output
from aiotasks.cli.app import app
from aiotasks.cli.exit_codes import Exit
from aiotasks.dedupe import Ledger, Plan, Preview
from aiotasks.dedupe._tables import csv_line
from aiotasks.dedupe.job import begin
from aiotasks.sandbox import Sandbox
from aiotasks.web._folder import Folder
from tests.processes import in_thread


pytestmark = pytest.mark.real_time

COMMAND = [sys.executable, "-m", "aiotasks"]
# A joiner, an unusual space, a soft hyphen, a mark, and what no code page of Windows has.
OWN = "Zoë\u200d\u00a0\u3000\u00ad\u200e Ω"
# A turn of direction, a control character of C1 and one of C0.
FOOLING = "\u202eevil\u202c \x9b31m \x1b[31m"


def run(*arguments: str | Path) -> Result:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.fixture
async def ledger(tmp_path: Path) -> Path:
    """A job that was begun, with the owner of a pair in a further column of its input."""
    text = f'primary_id,duplicate_id,owner\n1,2,{OWN}\n3,4,"{FOOLING}"\n'
    plan = Plan.read(io.BytesIO(text.encode()), kind="company", source="pairs.csv")
    records = {
        each: json.dumps({"id": each, "name": f"{OWN} {each}", "domains": []}).encode()
        for each in range(1, 5)
    }
    path = tmp_path / "pairs.job.db"
    async with Ledger(path) as opened:
        preview = Preview(plan=plan, records=records, gone={})
        await begin(opened, preview, origin="https://api.affinity.co", at=0.0)
    return path


def process(
    *arguments: str | Path, stdout: int, stderr: int = subprocess.PIPE, **environment: str
) -> "subprocess.Popen[bytes]":
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=stdout, stderr=stderr, env={**os.environ, **environment}
    )


@pytest.mark.process
@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-16"])
def test_files_are_utf_8(ledger: Path, tmp_path: Path, encoding: str) -> None:
    """A report in a file is UTF-8, whatever the terminal is, with all rows and all of each name."""
    path = tmp_path / "report.csv"
    with path.open("wb") as file:
        report = process("report", ledger, stdout=file.fileno(), PYTHONIOENCODING=encoding)
        _, shown = report.communicate(timeout=20)
    assert path.read_bytes().startswith(codecs.BOM_UTF8)
    rows = [*csv.DictReader(path.read_text("utf-8-sig").splitlines())]
    assert [row["owner"] for row in rows] == [OWN, "\u202eevil\u202c \ufffd31m \ufffd[31m"]
    assert rows[0]["primary_name"].startswith(f"{OWN} 1")
    assert (shown, report.returncode) == (b"", Exit.SUCCEEDED)


def on_a_terminal(*arguments: str | Path, encoding: str) -> str:
    ours, theirs = pty.openpty()
    drawn = b""
    with process(*arguments, stdout=theirs, stderr=theirs, PYTHONIOENCODING=encoding) as running:
        os.close(theirs)
        # Linux reports by an error that the other end is closed.
        with suppress(OSError):
            while more := os.read(ours, 65536):
                drawn += more
    os.close(ours)
    assert running.returncode == Exit.SUCCEEDED
    return drawn.decode(encoding)


@pytest.mark.process
def test_terminals_are_not_fooled(ledger: Path) -> None:
    """On a terminal what could steer or fool it is replaced, and nothing else."""
    for options in ([], ["--format", "jsonl"]):
        shown = on_a_terminal("report", ledger, *options, encoding="utf-8")
        assert OWN in shown
        assert not {"\u202e", "\u202c", "\x9b", "\x1b"} & {*shown}


@pytest.mark.process
def test_terminals_that_cannot_print(ledger: Path) -> None:
    """On a terminal that cannot print a name, its characters are escaped."""
    assert "Zo\\xeb" in on_a_terminal("report", ledger, encoding="ascii")


def test_json_lines(ledger: Path) -> None:
    """In JSON lines what could steer or fool a terminal is escaped, so that nothing is lost."""
    shown = run("report", ledger, "--format", "jsonl").stdout
    assert [json.loads(line)["owner"] for line in shown.splitlines()] == [OWN, FOOLING]
    assert "\\u202e" in shown
    assert printable(shown.replace("\n", "")) == shown.replace("\n", "")
    assert len(run("report", ledger, "--snapshots").stdout.splitlines()) == 4


def test_json_of_several_lines() -> None:
    """JSON that the server has broken into lines is one line, with the same meaning."""
    data = {"a": ["\x9b\n\t", "\u2028\U0001f600"]}
    for separators in (json.dumps(data, indent="\t"), json.dumps(data, ensure_ascii=False)):
        text = json_text(separators.encode())
        assert json.loads(text) == data
        assert printable(text) == text
    assert json_text(b'"\xff"') == '"\ufffd"'


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        *((f"{sign}1+1", f"'{sign}1+1") for sign in "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"),
        *((number, number) for number in ("-5", "+1,5", "-1.000,5", "+3%")),
        (f"{OWN}\u202e", f"{OWN}\u202e"),
        ("a\x00b\x7f\x85", "a\ufffdb\ufffd\ufffd"),
        ("a\tb\nc", "a\tb\nc"),
        (None, ""),
    ],
)
def test_cells(cell: object, written: str) -> None:
    """A cell that a spreadsheet would run is defused, and control characters are replaced."""
    assert next(csv.reader(io.StringIO(csv_line([1, cell]), newline=""))) == ["1", written]


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.process
@pytest.mark.parametrize("command", ["report", "status"])
def test_a_reader_that_has_gone(ledger: Path, closed_pipe: int, command: str) -> None:
    """A command whose reader has seen enough, as `head` has, ends in silence and success."""
    reading = process(command, ledger, stdout=closed_pipe)
    _, shown = reading.communicate(timeout=20)
    assert shown == b""
    assert reading.returncode == Exit.SUCCEEDED


@pytest.mark.process
def test_a_job_nobody_watches(
    tmp_path: Path, closed_pipe: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job goes on if nobody reads its messages, and ends with the code of the job."""
    pairs = tmp_path / "pairs.csv"
    _ = pairs.write_text("primary_id,duplicate_id\n1,2\n3,4\n")
    with in_thread() as sandbox:
        point_to(sandbox, monkeypatch)
        options = ("--kind", "company", "--yes", "--poll-interval", "0.05")
        job = process("merge", pairs, *options, stdout=closed_pipe, stderr=closed_pipe)
        assert job.wait(20) == Exit.SUCCEEDED
        assert sandbox.merged("company") == {2: 1, 4: 3}


def point_to(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFFINITY_BASE_URL", sandbox.url)
    monkeypatch.setenv("AFFINITY_API_KEY", "sandbox-key")


@pytest.mark.process
@pytest.mark.parametrize("closed", ["<&- >&-", "2>&-", "<&- >&- 2>&-"])
def test_no_output_at_all(ledger: Path, closed: str) -> None:
    """A command that was given no streams ends as it would otherwise."""
    before = ledger.read_bytes()
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, "report", str(ledger)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=20)
    assert (done.stderr, done.returncode) == (b"", Exit.SUCCEEDED)
    assert ledger.read_bytes() == before


def test_messages_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages to a full disk, or a stream that is closed, do not end what runs."""

    def fail(_: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output.errors_console, "print", fail)
    output.say("Hello")
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stderr", None)
    output.prepare_output()
    output.say("Hello")
    output.errors_console.on_broken_pipe()
    assert sys.stdin.read() == ""
    for stream in (sys.stdin, sys.stderr):
        stream.close()


LONG = "x" * 300


@pytest.mark.parametrize(
    "command",
    [
        ("report", LONG),
        ("status", LONG),
        ("resume", LONG),
        ("serve", LONG),
        ("serve", "pairs.csv/folder"),
        ("plan", LONG, "--kind", "company"),
        ("plan", ".", "--kind", "company"),
        ("merge", "pairs.csv", "--kind", "company", "--yes", "--ledger", LONG),
        ("merge", "pairs.csv", "--kind", "company", "--yes", "--protect", "."),
        ("wait", "--file", "."),
        ("wait", "--file", LONG),
    ],
)
def test_what_cannot_be_read(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that the system refuses is named in one line, and nothing is begun."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AFFINITY_API_KEY", "key")
    _ = Path("pairs.csv").write_text("primary_id,duplicate_id\n1,2\n")
    done = run(*command)
    assert done.exit_code == Exit.WRONG_USE
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.csv"]


def test_a_folder_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without the right to enter it is refused, and later its jobs are not there."""
    folder = Folder(tmp_path)
    (tmp_path / "a.job.db").touch()
    assert folder.find("a") is not None

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)
    assert folder.find("a") is None
    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setenv("AFFINITY_API_KEY", "key")
    done = run("serve", tmp_path)
    assert f"The folder {tmp_path} cannot be read: Permission denied" in done.stderr
    assert done.exit_code == Exit.WRONG_USE
    done = run("report", tmp_path / "a.job.db")
    assert f"Cannot read {tmp_path / 'a.job.db'}: Permission denied." in done.stderr
    assert done.exit_code == Exit.WRONG_USE


def test_urls_that_are_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes on standard input that are no UTF-8 are one problem with its place, and no traceback."""
    monkeypatch.setenv("AFFINITY_API_KEY", "key")
    done = CliRunner().invoke(app, ["wait"], input=b"\xef\xbb\xbfnonsense\n\xff\n")
    assert "standard input:2, character 1: the byte 0xff is not valid UTF-8" in done.stderr
    assert done.stdout == ""
    assert done.exit_code == Exit.WRONG_USE
