"""Output: results as JSON lines on standard output, everything else on standard error."""

import errno
import io
import os
import pydoc
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.console import Console

from aiotasks._text import json_text, printable
from aiotasks.models import MergeTask
from aiotasks.outcomes import Outcome, OutcomeState

from .exit_codes import EXIT_OF_STATE, Exit, exit_of
from .wrapping import on_terminal, wrapped


_MOST_PROBLEMS = 10
_SQLITE = b"SQLite format 3\0"

OutputFile = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write to this file instead of standard output."),
]


class _ErrorsConsole(Console):
    def on_broken_pipe(self) -> None:
        """Go on in silence: what a job does must not depend on who reads its messages."""
        give_up("stderr")


errors_console = _ErrorsConsole(stderr=True, highlight=False, markup=False, soft_wrap=True)
_settings = {"is_quiet": False}


def prepare_output() -> None:
    """Make files and pipes UTF-8, and let terminals show what they can."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _nothing())
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
            encoding = None if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


def _nothing() -> io.TextIOWrapper:
    # Open for good: a file that is opened later must not take the place of what is closed.
    return io.TextIOWrapper(Path(os.devnull).open("r+b", buffering=0), encoding="utf-8")


def give_up(name: Literal["stdout", "stderr"]) -> None:
    """Let nothing that is still written to a stream be an error, also when Python ends."""
    stream, original = getattr(sys, name), getattr(sys, f"__{name}__")
    if stream is original:
        with Path(os.devnull).open("wb") as nothing:
            _ = os.dup2(nothing.fileno(), original.fileno())


class OutcomeSummary:
    """Counts outcomes, and collects the problems that are printed at the end."""

    def __init__(self, places: Mapping[str, str] | None = None) -> None:
        self.exit = Exit.SUCCEEDED
        self.reasons: Counter[str] = Counter()
        self._states: Counter[OutcomeState] = Counter()
        self._places = places or {}
        self._problems: dict[str, None] = {}

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self._states[outcome.state] += 1
        if outcome.state is OutcomeState.FAILED:
            self.reasons[outcome.reason or "the server gave no reason"] += 1
        self.exit = max(self.exit, EXIT_OF_STATE[outcome.state])
        if outcome.state is OutcomeState.UNKNOWN and outcome.error is not None:
            self.exit = max(self.exit, exit_of(outcome.error))
            self._problems[f"{self._places.get(outcome.url, '')}{outcome.error}"] = None

    def counted(self) -> str:
        """Return how many tasks ended in each state."""
        words = {OutcomeState.SUCCESS: "succeeded", OutcomeState.RUNNING: "still running"}
        states = [state for state in OutcomeState if self._states[state]]
        return ", ".join(f"{self._states[state]} {words.get(state, state)}" for state in states)

    def print(self) -> None:
        """Print the problems and the counts to standard error."""
        for problem in islice(self._problems, _MOST_PROBLEMS):
            say(problem)
        if len(self._problems) > _MOST_PROBLEMS:
            say(f"… and {len(self._problems) - _MOST_PROBLEMS} more such problems")
        note(self.counted())


def print_task(url: str, task: MergeTask) -> None:
    """Print a task as a JSON line."""
    print_line({"url": url, "task": task})


def print_outcome(outcome: Outcome) -> None:
    """Print an outcome as a JSON line."""
    error = None if outcome.error is None else str(outcome.error)
    line = {name: getattr(outcome, name) for name in Outcome.__struct_fields__}
    print_line({**line, "error": error, "waited": round(outcome.waited, 3)})


@contextmanager
def open_output(path: Path | None, *, is_whole: bool = True) -> Iterator[None]:
    """Write to a file what would go to standard output, as UTF-8; ``-`` is standard output.

    A file that is whole takes the place of an older one only when the command has succeeded; one
    that is not is written line by line.
    """
    if path is None or str(path) == "-":
        yield
        return
    target = path.resolve()
    ended: typer.Exit | None = None
    try:
        _refuse_ledger(target)
        is_plain = target.is_file() or not target.exists()
        with _whole(target) if is_whole and is_plain else _opened(target, "w"):
            try:
                yield
            except typer.Exit as end:
                ended = end
                raise
    except OSError as error:
        # What could not be written was reported, and is tried again when the file is closed.
        if ended is not None:
            raise ended from None
        say(f"Cannot write {path}: {error.strerror}.")
        raise typer.Exit(Exit.WRONG_USE) from error


@contextmanager
def _opened(path: Path, mode: Literal["w", "x"]) -> Iterator[None]:
    with path.open(mode, encoding="utf-8", newline="") as file, redirect_stdout(file):
        yield


@contextmanager
def _whole(target: Path) -> Iterator[None]:
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    is_complete = False
    try:
        with _opened(part, "x"):
            yield
    except typer.Exit as end:
        is_complete = end.exit_code == Exit.SUCCEEDED
        raise
    else:
        is_complete = True
    finally:
        if is_complete:
            _ = part.replace(target)
        else:
            part.unlink(missing_ok=True)


def _refuse_ledger(target: Path) -> None:
    # A slip of the keyboard must not cost a job its memory.
    if target.is_file():
        with target.open("rb") as file:
            if file.read(len(_SQLITE)) == _SQLITE:
                say(f"{target} is a ledger, and is not overwritten: give another --output.")
                raise typer.Exit(Exit.WRONG_USE)


def print_line(line: dict[str, Any]) -> None:
    """Print a JSON line to standard output."""
    typer.echo(json_text(msgspec.json.encode(line)))


def emit_line(line: dict[str, Any]) -> None:
    """Print a JSON line of a job that goes on, whoever reads it and whatever the disk takes."""
    try:
        print_line(line)
        sys.stdout.flush()
    except OSError as error:
        if error.errno != errno.EPIPE:
            say(f"The output cannot be written ({error.strerror}): the job goes on without it.")
        give_up("stdout")


def print_text(line: str) -> None:
    """Print a line for people to standard output."""
    for each in on_terminal(printable(line)):
        typer.echo(each)


def show_lines(lines: list[str]) -> None:
    """Print lines for people, by a pager on a terminal that is too low for them."""
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    shown = [part for line in lines for part in on_terminal(printable(line))]
    if is_terminal and len(shown) >= shutil.get_terminal_size().lines:
        pydoc.pager("\n".join(shown))
        return
    for line in shown:
        typer.echo(line)


def print_data(text: str) -> None:
    """Write lines of data to standard output, as they are unless it is a terminal."""
    if sys.stdout.isatty():
        text = "\n".join(map(printable, text.split("\n")))
    _ = sys.stdout.write(text)


def print_bytes(content: bytes) -> None:
    """Write a file of another kind than text to standard output."""
    typer.echo(content, nl=False)


def be_quiet(wanted: bool) -> None:
    """Let ``note`` print nothing from now on, or print again."""
    _settings["is_quiet"] = wanted


def is_quiet() -> bool:
    """Return whether progress is not to be shown."""
    return _settings["is_quiet"]


def note(text: str) -> None:
    """Print text that is neither a result nor an error to standard error, unless it is to be quiet."""
    if not is_quiet():
        say(text)


def say(text: str) -> None:
    """Print text to standard error, if that can be written."""
    is_terminal = errors_console.is_terminal
    # Names and error messages are the server's, and may contain control characters.
    try:
        for line in map(printable, text.split("\n")):
            for part in wrapped(line, errors_console.width) if is_terminal else [line]:
                errors_console.print(part)
    except OSError:
        give_up("stderr")
