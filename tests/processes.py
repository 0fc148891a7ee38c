"""A sandbox in a process of its own, for what runs on the real clock."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import pytest


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command in the background, and end it with what Ctrl-C sends."""
    command = [sys.executable, "-m", "aiotasks", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                # A test that fails is not to wait for ever for what does not end.
                with suppress(subprocess.TimeoutExpired):
                    _ = process.wait(10)
                process.kill()


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """Serve a sandbox and yield its URL: the first line that it prints."""
    with running("sandbox", "--quota", "0", *arguments) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


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
    """The URL of a sandbox whose merges take half a second."""
    with serving("--duration", "0.5", "--seed", "1") as url:
        yield url


@pytest.fixture
def environment(sandbox_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Point the environment to the sandbox, as a user would."""
    for name in [name for name in os.environ if name.startswith("AFFINITY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AFFINITY_BASE_URL", sandbox_url)
    monkeypatch.setenv("AFFINITY_API_KEY", "sandbox-key")
    return sandbox_url
