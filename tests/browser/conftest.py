"""Chromium, a server with jobs for it to visit, and a witness of all that no page may do."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Page,
    Request,
    WebError,
    async_playwright,
    expect,
)

from aiotasks import Client, backoff
from aiotasks._polling import failure_reasons
from aiotasks.dedupe import JobSettings, resume
from aiotasks.sandbox import Sandbox
from aiotasks.web import _events, _runner, serve


STRANGER = "stranger.example"
"""A name that leads to this machine, as any page's own name may; no other name leads anywhere."""

_TIMEOUT = 8000
_RULES = f"MAP {STRANGER} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
_TELL_VIOLATIONS = """
addEventListener("securitypolicyviolation", ({ effectiveDirective, blockedURI }) =>
  console.error(`policy violated: ${effectiveDirective} ${blockedURI}`));
"""

expect.set_options(timeout=_TIMEOUT)
on_one_loop = partial(pytest_asyncio.fixture, loop_scope="session")


class Witness:
    """Keeps what no page may do: errors, warnings, violations, dialogs, requests to others."""

    def __init__(self, context: BrowserContext) -> None:
        self.origins: set[str] = set()
        self._troubles: list[str] = []
        self._foreseen: list[str] = []
        context.on("console", self._on_console)
        context.on("weberror", self._notice)
        context.on("dialog", self._dismiss)
        context.on("request", self._see)

    def foresee(self, *parts: str) -> None:
        """Let such troubles happen, and demand that they do."""
        self._foreseen += parts

    def check(self) -> None:
        """Fail for what was not foreseen, and for what was and did not happen."""
        troubles = self._troubles
        assert [each for each in troubles if not self._is_foreseen(each)] == []
        assert [
            each for each in self._foreseen if not any(each in trouble for trouble in troubles)
        ] == []

    def _is_foreseen(self, trouble: str) -> bool:
        return any(part in trouble for part in self._foreseen)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self._troubles.append(f"{message.type}: {message.text}")

    def _notice(self, error: WebError) -> None:
        self._troubles.append(f"uncaught: {error.error}")

    async def _dismiss(self, dialog: Dialog) -> None:
        self._troubles.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    def _see(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.netloc and f"{parts.scheme}://{parts.netloc}" not in self.origins:
            self._troubles.append(f"request: {request.url}")


class Site:
    """A server with jobs, which can be shut and opened again at the same place."""

    def __init__(self, client: Client, folder: Path, **settings: Any) -> None:
        self.link = ""
        self._port = 0
        self._serve = partial(serve, client, folder, **settings)
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Serve at a free port, or at the one from before."""
        self.link = await self._stack.enter_async_context(self._serve(port=self._port))
        self._port = urlsplit(self.link).port or 0

    async def shut(self) -> None:
        """End the server with all that it runs."""
        await self._stack.aclose()

    @property
    def origin(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._port}"


Visit = Callable[..., Awaitable[Page]]
OpenSite = Callable[..., Awaitable[Site]]


@pytest.fixture(scope="session")
def chromium() -> str:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("There is no chromium here to show the page to: install Debian's `chromium`.")
    return path


@on_one_loop(scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=[f"--host-resolver-rules={_RULES}"]
        )
        yield browser
        await browser.close()


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens in a test is seen soon, however long a merge has been running."""
    monkeypatch.setattr(backoff, "GROWTH", 1.0)
    monkeypatch.setattr(failure_reasons, "REASON_LINGER", 0.05)
    monkeypatch.setattr(
        _runner, "resume", partial(resume, settings=JobSettings(poll_interval=0.05))
    )
    monkeypatch.setattr(_events, "_TICK", 0.05)


@on_one_loop()
async def sandbox() -> AsyncIterator[Sandbox]:
    """A sandbox whose merges run until a test ends them."""
    async with Sandbox(quota=0, month_quota=0, duration=float("inf")) as sandbox:
        yield sandbox


@on_one_loop()
async def open_site(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[OpenSite]:
    folder = tmp_path / "jobs"
    folder.mkdir()
    async with (
        Client(sandbox.api_key, base_url=sandbox.url) as client,
        AsyncExitStack() as stack,
    ):

        async def open_site(**settings: Any) -> Site:
            site = Site(client, folder, **settings)
            stack.push_async_callback(site.shut)
            await site.open()
            return site

        yield open_site


@on_one_loop()
async def site(request: pytest.FixtureRequest, open_site: OpenSite) -> Site:
    return await open_site(**getattr(request, "param", {}))


@on_one_loop()
async def context(browser: Browser, open_site: OpenSite) -> AsyncIterator[BrowserContext]:
    # Pages are gone before their servers are: those that a test leaves open miss nothing.
    context = await browser.new_context(locale="en-GB", timezone_id="Europe/Berlin")
    context.set_default_timeout(_TIMEOUT)
    await context.add_init_script(_TELL_VIOLATIONS)
    yield context
    await context.close()


@on_one_loop()
async def witness(context: BrowserContext) -> AsyncIterator[Witness]:
    """Judge, once the visit is over, what the pages of a test did."""
    witness = Witness(context)
    yield witness
    await context.close()
    witness.check()


@on_one_loop()
async def page(context: BrowserContext, witness: Witness, site: Site) -> Page:
    """The list of jobs, opened by the link."""
    witness.origins.add(site.origin)
    page = await context.new_page()
    _ = await page.goto(site.link)
    return page
