"""Where keys are kept: each kind of reference leads to a key, or to an error without one."""

import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from aiotasks import Client, ConfigurationError
from aiotasks._key_refs import read_key


KEY = "key-of-the-organization"


def command(code: str) -> str:
    return f'command:"{sys.executable}" -c "{code}"'


def test_each_kind_leads_to_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable, a file and what a command prints are keys, without the ends of their lines."""
    monkeypatch.setenv("OTHER_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path))
    _ = (tmp_path / "key").write_text(f"{KEY}\n", "utf-8")
    for ref in ("env:OTHER_KEY", f"file:{tmp_path / 'key'}", "file:~/key"):
        assert read_key(ref) == KEY
    key = read_key(command(f"print('{KEY}')"))
    assert key == KEY
    assert KEY not in repr(key)
    assert Client(key)._headers["Authorization"] == f"Bearer {KEY}"


def test_commands_are_not_given_to_a_shell() -> None:
    """What a shell would expand is an argument like any other."""
    assert read_key(f"{command('import sys; print(sys.argv[1])')} '$HOME;id'") == "$HOME;id"


@pytest.mark.parametrize(
    "ref", [KEY, "", "env:", "file: ", "https://keys.example", "vault:key", ":"]
)
def test_what_is_no_reference_is_not_shown(ref: str) -> None:
    """What is no reference may be the key itself, and is in no part of the error."""
    with pytest.raises(ConfigurationError, match="begins with env:, file: or command:") as caught:
        _ = read_key(ref)
    shown = "".join(
        traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
    )
    assert KEY not in shown.replace(f"ref = '{KEY}'", "")


def test_references_that_lead_to_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each failure is named by its reason, and shows nothing that a command was told or says."""
    monkeypatch.setenv("EMPTY", " ")
    monkeypatch.delenv("MISSING", raising=False)
    binary = tmp_path / "binary"
    _ = binary.write_bytes(b"\xff\xfe\xff")
    for ref, message in {
        "env:MISSING": "the environment has no MISSING",
        "env:EMPTY": "'env:EMPTY' is empty",
        f"file:{tmp_path / 'none'}": "No such file",
        f"file:{binary}": "it is no text",
        f"command:{tmp_path / 'none'} {KEY}": "cannot run .*none: No such file",
        f"{command('import sys; sys.exit(3)')} {KEY}": "has ended with the exit code 3",
        command("import sys; sys.stdout.buffer.write(bytes([255]))"): "prints is no text",
        "command:'unclosed": "No closing quotation",
    }.items():
        with pytest.raises(ConfigurationError, match=message) as caught:
            _ = read_key(ref)
        assert KEY not in str(caught.value)


def test_a_command_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command is given up after two minutes."""

    def hang(words: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(words, 120.0)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(ConfigurationError, match="pass has not ended after 120 s"):
        _ = read_key("command:pass show affinity")
