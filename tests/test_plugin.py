"""The plugin for pytest, as the tests of other programs use it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ASYNCIO, run_tests


pytestmark = [pytest.mark.real_time, pytest.mark.process]

# Tests of a program, as they would be written for it.
TESTS = """
import os

import pytest
from aiotasks import Client, ServerError, TaskFailedError


async def test_a_merge(affinity_client, affinity_sandbox):
    url = await affinity_client.companies.merge(1, 2)
    task = await affinity_client.tasks.wait(url, poll_interval=0.05)
    assert task.status == "success"
    assert affinity_sandbox.merged("company") == {2: 1}


@pytest.mark.affinity_sandbox(duration=float("inf"))
async def test_how_it_ends(affinity_client, affinity_sandbox):
    url = await affinity_client.companies.merge(1, 2)
    affinity_sandbox.finish(url, reason="Locked")
    with pytest.raises(TaskFailedError, match="Locked"):
        await affinity_client.tasks.wait(url, poll_interval=0.05)


@pytest.mark.affinity_sandbox(quota=7, companies=10)
class TestSettings:
    def test_of_the_class(self, affinity_sandbox):
        assert (affinity_sandbox.quota, affinity_sandbox.checks_posts) == (7, True)
        affinity_sandbox.latency = 0.01
        assert affinity_sandbox.latency == 0.01
        assert repr(affinity_sandbox).startswith("<Sandbox http://127.0.0.1:")

    @pytest.mark.affinity_sandbox(quota=8, plain=False)
    def test_of_the_test(self, affinity_sandbox):
        assert (affinity_sandbox.quota, affinity_sandbox.checks_posts) == (8, False)
        assert affinity_sandbox.companies == 10


def test_the_environment(affinity_sandbox):
    assert Client.from_env().base_url == affinity_sandbox.url == os.environ["AFFINITY_BASE_URL"]


def test_nothing_is_left():
    assert "AFFINITY_BASE_URL" not in os.environ
"""
ANYIO = """
import pytest

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def test_a_merge(affinity_client):
    assert await affinity_client.companies.merge(1, 2)
"""


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of another project know nothing of these."""
    for name in ("AFFINITY_BASE_URL", "AFFINITY_API_KEY", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)


def test_with_pytest_asyncio(tmp_path: Path) -> None:
    """With pytest-asyncio, tests get an open client, a sandbox, and settings by a mark."""
    printed = run_tests(tmp_path, TESTS, *ASYNCIO, "--strict-markers")
    assert "6 passed" in printed


def test_with_anyio(tmp_path: Path) -> None:
    """Without pytest-asyncio, the plugin of AnyIO runs the client."""
    absent = tmp_path / "pytest_asyncio.py"
    _ = absent.write_text("raise ModuleNotFoundError\n", "utf-8")
    printed = run_tests(tmp_path, ANYIO, "-p", "no:asyncio")
    assert "1 passed" in printed


def test_a_start_of_pytest_imports_nothing() -> None:
    """The plugin alone imports neither the library nor what that needs."""
    code = (
        "import sys, aiotasks_pytest\n"
        "print([name for name in ('aiotasks', 'aiohttp', 'msgspec') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
