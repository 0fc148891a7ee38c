"""Ctrl-C, also on loops that have no signal handlers, as those of Windows."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from aiotasks.cli.exit_codes import Exit
from aiotasks.cli.interrupts import on_interrupt
from tests.processes import in_thread


pytestmark = pytest.mark.real_time

Command = Callable[..., AbstractContextManager["subprocess.Popen[str]"]]

_NO_HANDLERS = """
import asyncio.unix_events

def refuse(self, *_):
    raise NotImplementedError

asyncio.unix_events._UnixSelectorEventLoop.add_signal_handler = refuse
"""


@pytest.mark.parametrize("has_handlers", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_each_interrupt_is_handled(
    monkeypatch: pytest.MonkeyPatch, has_handlers: bool, number: signal.Signals
) -> None:
    """Each signal calls the function in the loop, and afterwards they are what they were before."""
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

    def refuse(*_: Any) -> NoReturn:
        raise NotImplementedError

    if not has_handlers:
        monkeypatch.setattr(loop, "add_signal_handler", refuse)
    interrupted: asyncio.Queue[None] = asyncio.Queue()
    with on_interrupt(lambda: interrupted.put_nowait(None)):
        for _ in range(2):
            os.kill(os.getpid(), number)
            await asyncio.wait_for(interrupted.get(), 5)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def without_handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loops of processes refuse signal handlers."""
    _ = (tmp_path / "sitecustomize.py").write_text(_NO_HANDLERS, "utf-8")
    paths = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


@pytest.mark.process
@pytest.mark.usefixtures("without_handlers")
def test_commands_without_signal_handlers(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands that run until Ctrl-C end by it where loops have no signal handlers."""
    pairs = tmp_path / "pairs.csv"
    _ = pairs.write_text("primary_id,duplicate_id\n1,2\n3,4\n", "utf-8")
    monkeypatch.setenv("AFFINITY_API_KEY", "sandbox-key")
    with in_thread(duration=100.0) as sandbox:
        monkeypatch.setenv("AFFINITY_BASE_URL", sandbox.url)
        for arguments, first, code in (
            (["sandbox"], "127.0.0.1", Exit.SUCCEEDED),
            (["serve", str(tmp_path)], "127.0.0.1", Exit.SUCCEEDED),
            (["merge", str(pairs), "--kind", "company", "--yes", "--grace", "0"], "", Exit.RUNNING),
        ):
            with command(*arguments) as process:
                if first:
                    assert process.stdout is not None
                    assert first in process.stdout.readline()
                else:
                    _wait_until_merging(sandbox)
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=20)
            assert "Traceback" not in errors
            assert process.returncode == code, errors


def _wait_until_merging(sandbox: Any) -> None:
    while not sandbox.posted("company"):
        time.sleep(0.01)
