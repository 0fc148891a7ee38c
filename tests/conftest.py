"""The clock of each test: virtual, or real where it is marked."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import count
from pathlib import Path
from typing import Any

import aiohappyeyeballs
import async_solipsism
import pytest


def _load_benchmarks() -> None:
    """Make the benchmarks a package, without adding their folder's parent to the path.

    With it there, the tests would run against the source and not against what was installed.
    """
    folder = Path(__file__).parents[1] / "benchmarks"
    spec = spec_from_file_location(
        "benchmarks", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["benchmarks"] = module
    spec.loader.exec_module(module)


_load_benchmarks()

# A shell starts what it does not wait for with Ctrl-C ignored, and commands under test inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    _ = signal.signal(signal.SIGINT, signal.default_int_handler)
_TESTS = count(1)
pytest_plugins = ["tests.profiles", "tests.servers", "tests.processes"]
# Where Playwright is not installed, the other tests can still run.
collect_ignore = [] if find_spec("playwright") else ["browser"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Use two workers a processor: tests on the real clock mostly wait."""
    return 2 * (os.cpu_count() or 1)


def is_on_real_time(node: pytest.Item) -> bool:
    """Return whether a test runs on the real clock."""
    return node.get_closest_marker("real_time") is not None


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests on a virtual clock, except those that need signals, threads or processes."""
    if is_on_real_time(item):
        return {"real": asyncio.new_event_loop}
    return {"virtual": async_solipsism.EventLoop}


async def _start_connection(addr_infos: Any, *, loop: Any = None, **settings: Any) -> Any:
    running = asyncio.get_running_loop()
    assert isinstance(running, async_solipsism.EventLoop)
    return await running.aiohappyeyeballs_start_connection(addr_infos, **settings)


@pytest.fixture(autouse=True)
def connections_on_virtual_time(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let aiohttp connect to the in-memory sockets of the virtual loop."""
    if not is_on_real_time(request.node):
        monkeypatch.setattr(aiohappyeyeballs, "start_connection", _start_connection)


@pytest.fixture(autouse=True)
def state_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keep what programs note for the next ones in a folder of each test, also of subprocesses."""
    folder = tmp_path_factory.getbasetemp() / "state" / str(next(_TESTS))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))


@pytest.fixture(autouse=True)
def same_jitter_in_each_run(request: pytest.FixtureRequest) -> Iterator[None]:
    """Draw the jitter of a test from its name, so that a test that fails fails again."""
    state = random.getstate()
    random.seed(request.node.nodeid)
    yield
    random.setstate(state)
