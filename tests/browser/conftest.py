"""Chromium, a server with jobs for it to visit, and a monitor for what no page may do."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from msgspec.structs import replace
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
from aiotasks.dedupe import JobResult, JobSettings, resume
from aiotasks.sandbox import Sandbox
from aiotasks.web import _events, _runner, serve


FOREIGN_HOST = "foreign.example"
"""A host name that resolves to this machine, as any foreign one may; others do not resolve."""

_TIMEOUT = 8000
_RULES = f"MAP {FOREIGN_HOST} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
_REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", ({ effectiveDirective, blockedURI }) =>
  console.error(`policy violated: ${effectiveDirective} ${blockedURI}`));
"""

expect.set_options(timeout=_TIMEOUT)
on_one_loop = partial(pytest_asyncio.fixture, loop_scope="session")


class PageMonitor:
    """Records what no page may do: errors, warnings, violations, dialogs, foreign requests."""

    def __init__(self, context: BrowserContext) -> None:
        self.origins: set[str] = set()
        self._problems: list[str] = []
        self._expected: list[str] = []
        context.on("console", self._on_console)
        context.on("weberror", self._on_error)
        context.on("dialog", self._on_dialog)
        context.on("request", self._on_request)

    def expect_problems(self, *parts: str) -> None:
        """Allow problems that contain these texts, and require each of them to occur."""
        self._expected += parts

    def check(self) -> None:
        """Fail for problems that were not expected, and for expected ones that did not occur."""
        problems = self._problems
        assert [each for each in problems if not self._is_expected(each)] == []
        assert [
            each for each in self._expected if not any(each in problem for problem in problems)
        ] == []

    def _is_expected(self, problem: str) -> bool:
        return any(part in problem for part in self._expected)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self._problems.append(f"{message.type}: {message.text}")

    def _on_error(self, error: WebError) -> None:
        self._problems.append(f"uncaught: {error.error}")

    async def _on_dialog(self, dialog: Dialog) -> None:
        self._problems.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    def _on_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.netloc and f"{parts.scheme}://{parts.netloc}" not in self.origins:
            self._problems.append(f"request: {request.url}")


class Site:
    """A server with jobs, which can be closed and opened again at the same port."""

    def __init__(self, client: Client, folder: Path, **settings: Any) -> None:
        self.link = ""
        self._port = 0
        self._serve = partial(serve, client, folder, **settings)
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Serve at a free port, or at the port of the last time."""
        self.link = await self._stack.enter_async_context(self._serve(port=self._port))
        self._port = urlsplit(self.link).port or 0

    async def close(self) -> None:
        """Close the server with all jobs that it runs."""
        await self._stack.aclose()

    @property
    def origin(self) -> str:
        """The origin of the server."""
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
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll often, however long a merge has been running."""
    monkeypatch.setattr(backoff, "GROWTH", 1.0)
    monkeypatch.setattr(failure_reasons, "REASON_LINGER", 0.05)

    async def poll_often(*opened: Any, settings: JobSettings, **more: Any) -> JobResult:
        terms = replace(settings, poll_interval=0.05, canary=0, max_open=10)
        return await resume(*opened, settings=terms, **more)

    monkeypatch.setattr(_runner, "resume", poll_often)
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
            stack.push_async_callback(site.close)
            await site.open()
            return site

        yield open_site


@on_one_loop()
async def site(request: pytest.FixtureRequest, open_site: OpenSite) -> Site:
    return await open_site(**getattr(request, "param", {}))


@on_one_loop()
async def context(browser: Browser, open_site: OpenSite) -> AsyncIterator[BrowserContext]:
    # Pages close before their servers: those that a test leaves open see no lost connection.
    context = await browser.new_context(locale="en-GB", timezone_id="Europe/Berlin")
    context.set_default_timeout(_TIMEOUT)
    await context.add_init_script(_REPORT_VIOLATIONS)
    yield context
    await context.close()


@on_one_loop()
async def monitor(context: BrowserContext) -> AsyncIterator[PageMonitor]:
    """Check, after the test, what its pages have done."""
    monitor = PageMonitor(context)
    yield monitor
    await context.close()
    monitor.check()


@on_one_loop()
async def page(context: BrowserContext, monitor: PageMonitor, site: Site) -> Page:
    """The list of jobs, opened by the link."""
    monitor.origins.add(site.origin)
    page = await context.new_page()
    _ = await page.goto(site.link)
    return page
