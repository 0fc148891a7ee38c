"""Fixtures for tests of programs that use ``aiotasks``: a sandbox of the API, and a client of it.

pytest imports this at each of its starts, so nothing of ``aiotasks`` is imported before a fixture
is used. For that, this module is installed beside the package and not in it (``pyproject.toml``).
"""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import pytest


if TYPE_CHECKING:
    from aiotasks import Client
    from aiotasks.sandbox import Sandbox

async_fixture: Any
try:
    # Where it is installed, pytest has imported it already.
    from pytest_asyncio import fixture as async_fixture
except ModuleNotFoundError:
    async_fixture = pytest.fixture

_MARKER = (
    "affinity_sandbox(**settings): settings of the affinity_sandbox that the test uses, as those of "
    "aiotasks.sandbox.Sandbox, and plain=False for the habits of the real server"
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def affinity_sandbox(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> "Iterator[Sandbox]":
    """A sandbox of Affinity's merge API that serves for the length of the test.

    ``AFFINITY_BASE_URL`` and ``AFFINITY_API_KEY`` lead to it, so that ``Client.from_env`` does. It
    runs in a thread, so that tests with and without an event loop can use it. Merges take 0.05 s,
    there are no limits, and every request is answered as documented; the mark
    ``affinity_sandbox(duration=…, quota=…, plain=False)`` changes that for a test.
    """
    from aiotasks.sandbox import PLAIN, in_thread  # noqa: PLC0415 - see above

    settings: dict[str, Any] = {"duration": 0.05, "quota": 0, "month_quota": 0}
    for mark in reversed([*request.node.iter_markers("affinity_sandbox")]):
        settings.update(mark.kwargs)
    plain = PLAIN if settings.pop("plain", True) else {}
    with in_thread(**{**plain, **settings}) as sandbox:
        monkeypatch.setenv("AFFINITY_BASE_URL", sandbox.url)
        monkeypatch.setenv("AFFINITY_API_KEY", sandbox.api_key)
        yield sandbox


# Of pytest-asyncio or of pytest, whichever is there, so that it has no one type.
@async_fixture  # type: ignore[untyped-decorator]
async def affinity_client(affinity_sandbox: "Sandbox") -> "AsyncIterator[Client]":
    """An open client of the test's sandbox, for tests by pytest-asyncio or AnyIO."""
    from aiotasks import Client  # noqa: PLC0415 - see above

    async with Client(affinity_sandbox.api_key, base_url=affinity_sandbox.url) as client:
        yield client
