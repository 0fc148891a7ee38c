"""Who is told of the end of a job, and what happens if that fails."""

import json
import shlex
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner, Result
from yarl import URL

from aiotasks import ConfigurationError
from aiotasks.cli import end_hooks
from aiotasks.cli.app import app
from aiotasks.cli.end_hooks import EndHooks, _hooks
from aiotasks.cli.exit_codes import Exit
from aiotasks.sandbox import PLAIN, Sandbox
from tests.processes import in_thread


pytestmark = pytest.mark.real_time

END = {"text": "pairs.csv: 1 succeeded", "totals": {"succeeded": 1}}


def python(code: str, *arguments: str) -> str:
    return shlex.join([sys.executable, "-c", code, *arguments])


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with in_thread(**PLAIN) as sandbox:
        monkeypatch.setenv("AFFINITY_BASE_URL", sandbox.url)
        monkeypatch.setenv("AFFINITY_API_KEY", "sandbox-key")
        yield sandbox


def merge(folder: Path, *options: str) -> Result:
    pairs = folder / "pairs.csv"
    _ = pairs.write_text("primary_id,duplicate_id\n1,2\n", "utf-8")
    command = ["merge", str(pairs), "--kind", "company", "--yes", "--poll-interval", "0.05"]
    return CliRunner().invoke(app, [*command, *options])


def test_a_command(sandbox: Sandbox, tmp_path: Path) -> None:
    """A command gets the totals on standard input, and no key in its environment."""
    path = tmp_path / "end.txt"
    code = "import os, sys; open(sys.argv[1], 'w').write(sys.stdin.read() + str(dict(os.environ)))"
    done = merge(tmp_path, "--end-command", python(code, str(path)))
    assert done.exit_code == Exit.SUCCEEDED
    told, _, environment = path.read_text().partition("}{")
    end = json.loads(f"{told}}}")
    assert end["text"] == f"{tmp_path / 'pairs.csv'}: 1 succeeded"
    assert (end["totals"], end["exit_code"]) == ({"succeeded": 1}, 0)
    assert "AFFINITY_BASE_URL" in environment
    assert "sandbox-key" not in path.read_text()


def test_a_command_that_fails(sandbox: Sandbox, tmp_path: Path) -> None:
    """The exit code is that of the job, whatever that of the command is."""
    done = merge(tmp_path, "--end-command", python("import sys; sys.exit(5)"))
    assert "has ended with the exit code 5" in done.stderr
    assert done.exit_code == Exit.SUCCEEDED


async def test_commands_that_cannot_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A command that is gone by then, or does not end, is said to be."""
    monkeypatch.setattr(end_hooks, "_PATIENCE", 0.1)
    await EndHooks((str(tmp_path / "gone"),)).call(END)
    await EndHooks((sys.executable, "-c", "import time; time.sleep(10)")).call(END)
    shown = capsys.readouterr().err
    assert "gone: No such file or directory." in shown
    assert "had not ended after 0.1 s, and was stopped" in shown


@pytest.fixture
async def endpoint() -> AsyncIterator[tuple[URL, list[Any]]]:
    """A server of another team, which collects what it is told."""
    told: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        told.append((dict(request.headers), await request.json()))
        return web.Response(status=int(request.match_info["status"]))

    application = web.Application()
    _ = application.router.add_post("/{status}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield URL(f"http://127.0.0.1:{runner.addresses[0][1]}"), told
    await runner.cleanup()


async def test_a_url(
    endpoint: tuple[URL, list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A URL gets the totals as JSON, without the key; what it refuses is said without its path."""
    monkeypatch.setenv("AFFINITY_API_KEY", "sandbox-key")
    url, told = endpoint
    await EndHooks(url=url / "200").call(END)
    [(headers, body)] = told
    assert body == END
    assert "Authorization" not in headers
    assert capsys.readouterr().err == ""
    await EndHooks(url=url / "404").call(END)
    await EndHooks(url=URL("http://127.0.0.1:9/secret")).call(END)
    shown = capsys.readouterr().err.splitlines()
    assert shown == [
        "--end-url: 127.0.0.1 answers 404 to the end of the job.",
        "--end-url: 127.0.0.1 cannot be told that the job has ended (ClientConnectorError).",
    ]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_loopback_is_not_proxied(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """The proxy of the environment is asked for other hosts only."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert end_hooks._proxy_to(URL.build(scheme="https", host=host)) is None
    assert end_hooks._proxy_to(URL("https://hooks.example/1")) == "http://proxy:3128"


def test_what_can_be_told() -> None:
    """A command is split as a shell does, and both are optional."""
    assert _hooks(None, None) == EndHooks()
    told = _hooks(f"{sys.executable} -c 'a b'", "https://hooks.example/secret")
    assert told == EndHooks((sys.executable, "-c", "a b"), URL("https://hooks.example/secret"))


@pytest.mark.parametrize(
    "options",
    [
        {"end_command": "no-such-command --now"},
        {"end_command": ""},
        {"end_command": "'unclosed"},
        {"end_url": "hooks.example/secret"},
        {"end_url": "ftp://hooks.example/secret"},
        {"end_url": "https:///secret"},
        {"end_url": "https://[secret"},
    ],
)
def test_what_cannot_be_told(options: dict[str, str]) -> None:
    """A command that is not there, or what is no URL, is refused before anything is merged."""
    with pytest.raises(ConfigurationError, match=r"--end-(command|url)") as caught:
        _ = _hooks(**{"end_command": None, "end_url": None, **options})
    assert "secret" not in str(caught.value)
