"""A sandbox in a process or a thread of its own, for tests on the real clock."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from aiotasks.sandbox import Sandbox
from aiotasks.sandbox import in_thread as sandbox_in_thread


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command in the background, and end it with SIGINT, as Ctrl-C does."""
    command = [sys.executable, "-m", "aiotasks", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                # A failing test must not wait for a process that does not end.
                with suppress(subprocess.TimeoutExpired):
                    _ = process.wait(10)
                process.kill()


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """Serve a sandbox and yield its URL: the first line that it prints."""
    with running("sandbox", "--quota", "0", *arguments) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


@contextmanager
def in_thread(**settings: Any) -> Iterator[Sandbox]:
    """Serve a sandbox in a thread, as commands that run in this process have their own loops."""
    settings = {"month_quota": 0, "duration": 0.02, "companies": 100, **settings}
    with sandbox_in_thread(**settings) as sandbox:
        yield sandbox


ASYNCIO = ("-oasyncio_mode=auto", "-oasyncio_default_fixture_loop_scope=function")


def run_tests(folder: Path, tests: str, *options: str) -> str:
    """Run tests as another project would, and return what pytest printed."""
    _ = (folder / "test_program.py").write_text(tests, "utf-8")
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "aiotasks_pytest", *options]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-c", "/dev/null", f"--rootdir={folder}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout + done.stderr


@pytest.fixture
def command() -> Callable[..., AbstractContextManager[subprocess.Popen[str]]]:
    """Run the command in the background for a while."""
    return running


@pytest.fixture
def serve() -> Callable[..., AbstractContextManager[str]]:
    """Serve a sandbox with settings of its own for a while."""
    return serving


@pytest.fixture(scope="module")
def sandbox_url() -> Iterator[str]:
    """The URL of a sandbox whose merges take a second, and whose tasks can be read at once."""
    with in_thread(quota=0, duration=1.0, task_lag=0.0, companies=2000, seed=1) as sandbox:
        yield sandbox.url


@pytest.fixture
def environment(sandbox_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Point the environment to the sandbox, as a user would."""
    for name in [name for name in os.environ if name.startswith("AFFINITY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AFFINITY_BASE_URL", sandbox_url)
    monkeypatch.setenv("AFFINITY_API_KEY", "sandbox-key")
    return sandbox_url
