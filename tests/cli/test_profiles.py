"""Which settings a client gets: from options, the environment, the files it names, or a profile."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from aiotasks.cli import profiles
from aiotasks.cli.app import app
from aiotasks.cli.client_options import _settings
from aiotasks.cli.exit_codes import Exit
from tests.processes import in_thread


PROFILES = """
[default]
key_ref = "env:DEFAULT_KEY"
base_url = "https://default.example"

[work]
key_ref = "env:WORK_KEY"
base_url = "https://work.example"
api_version = "current"
reserve = 100
rate = 300
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AFFINITY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DEFAULT_KEY", "key-of-default")
    monkeypatch.setenv("WORK_KEY", "key-of-work")


@pytest.fixture
def path() -> Path:
    """A file of profiles that nobody else may read."""
    path = profiles.profiles_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)
    _ = path.write_text(PROFILES, "utf-8")
    return path


def settings(profile: str | None = None, **options: Any) -> dict[str, Any]:
    return dict(_settings(profile=profile, **options))


def test_nothing_is_set() -> None:
    """Without a file of profiles, and with nothing in the environment, there are no settings."""
    assert settings() == {"proxy": None}


@pytest.mark.usefixtures("path")
class TestRule:
    """Options come before the environment, that before the file it names, and profiles last."""

    def test_profiles_come_last(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each further place that has the key comes before those that had it so far."""
        assert settings()["api_key"] == "key-of-default"
        key_file = tmp_path / "key"
        _ = key_file.write_text("key-of-file\n")
        monkeypatch.setenv("AFFINITY_API_KEY_FILE", str(key_file))
        assert settings()["api_key"] == "key-of-file"
        monkeypatch.setenv("AFFINITY_API_KEY", "key-of-environment")
        assert settings()["api_key"] == "key-of-environment"
        assert settings(key_ref="env:WORK_KEY")["api_key"] == "key-of-work"

    def test_other_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The rule holds for each setting by itself."""
        monkeypatch.setenv("AFFINITY_BASE_URL", "https://environment.example")
        assert settings()["base_url"] == "https://environment.example"
        assert settings()["api_key"] == "key-of-default"
        assert settings(base_url="https://option.example")["base_url"] == "https://option.example"

    def test_a_profile_that_an_option_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """``--profile`` is an option: what it names comes before the environment."""
        monkeypatch.setenv("AFFINITY_API_KEY", "key-of-environment")
        monkeypatch.setenv("AFFINITY_API_VERSION", "2026-01-01")
        assert settings("work", rate=None, reserve=5) == {
            "api_key": "key-of-work",
            "base_url": "https://work.example",
            "api_version": "current",
            "reserve": 5,
            "calls_per_minute": 300,
            "proxy": None,
        }
        assert settings("work", key_ref="env:DEFAULT_KEY")["api_key"] == "key-of-default"

    def test_a_profile_that_the_environment_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """``AFFINITY_PROFILE`` names another profile than the default one."""
        monkeypatch.setenv("AFFINITY_PROFILE", "work")
        assert settings()["api_key"] == "key-of-work"


def refused(*options: str) -> str:
    done: Result = CliRunner().invoke(app, ["quota", *options])
    assert done.exit_code == Exit.WRONG_USE
    return " ".join(done.stderr.split())


def test_profiles_that_are_missing(path: Path) -> None:
    """A profile that is not there is an error that names the others."""
    assert f"There is no profile 'none' in {path}: it has default, work" in refused(
        "--profile", "none"
    )
    path.unlink()
    assert "it has none" in refused("--profile", "work")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_profiles_that_others_may_read(path: Path, mode: int) -> None:
    """A file that others may read or change is refused, and the message says how to close it."""
    path.chmod(mode)
    assert f"chmod 600 {path}" in refused()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[work", "is no TOML"),
        ('[work]\napi_key = "secret"', "unknown field `api_key`"),
        ('[work]\nrate = "fast"', "Expected `int | null`, got `str` - at `$[...].rate`"),
        ('key_ref = "env:KEY"', "Expected `object`, got `str`"),
    ],
)
def test_profiles_that_cannot_be_read(path: Path, text: str, message: str) -> None:
    """A mistake in the file is named, without what stands there."""
    _ = path.write_text(text, "utf-8")
    shown = refused()
    assert message in shown
    assert "secret" not in shown


def test_a_file_that_cannot_be_opened(path: Path) -> None:
    """A file of profiles that cannot be opened is an error, and not taken for a missing one."""
    path.unlink()
    path.mkdir()
    assert f"Cannot read {path}" in refused()


@pytest.fixture
def base_url() -> Iterator[str]:
    with in_thread(api_key="key-of-work") as sandbox:
        yield sandbox.url


@pytest.mark.real_time
def test_a_command_with_a_profile(path: Path, base_url: str) -> None:
    """A command needs nothing in the environment when a profile has its key."""
    _ = path.write_text(PROFILES.replace("https://work.example", base_url), "utf-8")
    done = CliRunner().invoke(app, ["quota", "--profile", "work", "--api-version", "2026-09-17"])
    assert done.exit_code == Exit.SUCCEEDED
    assert "key-of-work" not in done.output
