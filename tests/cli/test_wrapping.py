"""Lines on terminals of any width: words stay whole, and nothing is lost."""

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

from aiotasks._text import counted
from aiotasks.cli import output
from aiotasks.cli.app import app
from aiotasks.cli.exit_codes import MEANINGS
from aiotasks.cli.wrapping import on_terminal, wrapped


WORDS = st.text(st.sampled_from("ab漢é-/."), min_size=1, max_size=12)


@given(st.lists(WORDS, min_size=1), st.integers(0, 8), st.integers(1, 100))
def test_words_stay_whole(words: list[str], indent: int, width: int) -> None:
    """All words come in their order, and no line is too wide unless a word alone is."""
    lines = wrapped(" " * indent + " ".join(words), width)
    assert " ".join(line.strip() for line in lines).split() == words
    for line in lines:
        assert cell_len(line) <= max(width, 20 + indent + 2) or len(line.split()) == 1


def test_what_continues_a_line_is_indented() -> None:
    """A line that is continued can be told from the next one; a short one is left as it is."""
    assert wrapped("  refused  because of this and that and more", 26) == [
        "  refused  because of",
        "    this and that and more",
    ]
    assert wrapped("  a  b  ", 26) == ["  a  b  "]
    assert wrapped("", 26) == [""]


def test_pipes_have_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only on a terminal lines are wrapped, whatever COLUMNS says."""
    text = "one two three four five six seven\n  eight"
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert on_terminal(text) == text.split("\n")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert on_terminal(text) == ["one two three four", "  five six seven", "  eight"]


def test_messages_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are wrapped at word ends on a terminal, and are one line elsewhere."""
    for is_terminal in (True, False):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=is_terminal, width=40, soft_wrap=True)
        monkeypatch.setattr(output, "errors_console", console)
        output.say("There is no terminal to ask on, so give --yes to confirm.")
        assert screen.getvalue().splitlines() == (
            ["There is no terminal to ask on, so", "  give --yes to confirm."]
            if is_terminal
            else ["There is no terminal to ask on, so give --yes to confirm."]
        )


def test_numbers_of_things() -> None:
    """One of a thing is in the singular, and thousands are separated."""
    assert [counted(count, "pair") for count in (0, 1, 2, 1234)] == [
        "0 pairs",
        "1 pair",
        "2 pairs",
        "1,234 pairs",
    ]


def test_the_help_has_each_meaning() -> None:
    """The table of exit codes has all its words, however wide the terminal is."""
    shown = " ".join(CliRunner().invoke(app, ["quota", "-h"]).stdout.split())
    for code, meaning in MEANINGS.items():
        assert f"{code.value} {meaning}" in shown


def test_brackets_are_text() -> None:
    """What looks like markup is text like any other."""
    assert wrapped("[bold]one[/bold] two three four", 22) == [
        "[bold]one[/bold] two",
        "  three four",
    ]
