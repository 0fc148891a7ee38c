"""The page is safe from hostile names in the CRM, and from pages of other origins."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from playwright.async_api import BrowserContext, Page, expect

from aiotasks.sandbox import Sandbox, _records
from tests.browser.conftest import FOREIGN_HOST, OpenSite, PageMonitor, Site, on_one_loop
from tests.browser.steps import let_run, plan, rows, sees, sees_phase, start


pytestmark = [
    pytest.mark.real_time,
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="session"),
]

SCRIPT = "<script>alert(1)</script>"
CLOSING = "</script><img src=x onerror=alert(2)>"
REASON = "\"'><svg onload=alert(3)> ${alert(4)} &lt;b&gt; <!--<script>"


@pytest.fixture
def hostile_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every company a name that is a script."""

    def company(position: int) -> _records.Record:
        name = CLOSING if position % 2 else SCRIPT
        return {"name": name, "domain": None, "domains": [], "isGlobal": False}

    monkeypatch.setattr(_records, "_company", company)


@pytest.mark.usefixtures("hostile_names")
async def test_names_that_are_scripts(
    page: Page, context: BrowserContext, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Text of the CRM, of a file name or of the API is escaped, live and in the saved page."""
    await plan(page, rows(3), f"{REASON}.csv".replace("/", ""))
    await start(page)
    await sees(page, open=3)
    sandbox.finish(sandbox.task_urls("company")[0], outcome="failed", reason=REASON)
    await expect(page.get_by_role("table")).to_contain_text(f"{REASON} ·")
    let_run(sandbox)
    await sees_phase(page, "Finished")
    await shows_names(page)
    _ = await page.reload()
    await shows_names(page)
    async with page.expect_download() as download:
        await page.get_by_role("link", name="page.html").click()
    path = tmp_path / "saved.html"
    await (await download.value).save_as(path)
    saved = await context.new_page()
    _ = await saved.goto(path.as_uri())
    # Only its own script runs.
    await expect(saved.get_by_role("progressbar")).to_be_visible()
    await sees(saved, succeeded=2, failed=1)
    await shows_names(saved)
    await expect(saved.get_by_role("button")).to_have_count(0)
    await page.get_by_role("link", name="All jobs").click()
    await expect(page.locator("#jobs a")).to_have_text(f"{REASON}.csv")


async def shows_names(page: Page) -> None:
    await expect(page.locator("h1")).to_have_text(f"{REASON}.csv")
    plan = page.locator("#clusters")
    await page.locator("#plan-summary").evaluate("summary => summary.parentElement.open = true")
    await expect(plan.locator("bdi").nth(0)).to_have_text(f"{SCRIPT}")
    await expect(plan.locator("bdi").nth(1)).to_have_text(f"{CLOSING}")
    failure = page.get_by_role("table").get_by_role("row").nth(1)
    for text in (SCRIPT, CLOSING, REASON):
        await expect(failure).to_contain_text(text)
    assert await page.locator("script").count() == 2
    assert await page.locator("img, [onload], [onerror], main script").count() == 0


async def test_token(
    context: BrowserContext, open_site: OpenSite, monitor: PageMonitor, sandbox: Sandbox
) -> None:
    """The link gives access, its token disappears from the URL, and scripts never see it."""
    site = await open_site(token="let-me-in")
    monitor.origins.add(site.origin)
    monitor.expect_problems("status of 401")
    page = await context.new_page()
    answer = await page.goto(f"{site.origin}/jobs")
    assert answer is not None
    assert answer.status == 401
    await expect(page.locator("body")).to_contain_text("Open the link that was given to you")
    _ = await page.goto(site.link)
    assert page.url == f"{site.origin}/jobs"
    assert await page.evaluate("document.cookie") == ""
    await plan(page, rows())
    await start(page)
    let_run(sandbox)
    await sees_phase(page, "Finished")
    assert "let-me-in" not in await page.content()
    await context.clear_cookies()
    answer = await page.reload()
    assert answer is not None
    assert answer.status == 401


@on_one_loop(params=["127.0.0.1", FOREIGN_HOST])
async def foreign(request: pytest.FixtureRequest, context: BrowserContext) -> AsyncIterator[str]:
    """The origin of a foreign page: another port of this host, or another host name."""

    async def page(_: web.Request) -> web.Response:
        html = '<!doctype html><link rel="icon" href="data:,"><title>Win a prize</title>'
        return web.Response(text=html, content_type="text/html")

    app = web.Application()
    _ = app.router.add_get("/", page)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://{request.param}:{runner.addresses[0][1]}"
    await context.close()
    await runner.cleanup()


FETCH = """async ([address, body]) => {
  const results = [];
  for (const mode of ["cors", "no-cors"]) {
    for (const type of ["text/plain", "application/json"]) {
      const headers = { "Content-Type": type };
      const options = { method: "POST", mode, body, headers, credentials: "include" };
      await fetch(`${address}/start`, options).then(
        (answer) => results.push(`${answer.type} ${answer.status}`), () => results.push("refused"));
    }
    await fetch(address, { mode, credentials: "include" }).then(
      (answer) => results.push(`${answer.type} ${answer.status}`), () => results.push("refused"));
  }
  return results;
}"""
FORM = """([address, body]) => {
  const form = document.createElement("form");
  Object.assign(form, { method: "POST", action: `${address}/start`, enctype: "text/plain" });
  const field = document.createElement("input");
  // Sent as `name=value`, which a bit of JSON around the sign makes whole.
  Object.assign(field, { name: `${body.slice(0, -1)},"more":"`, value: '"}' });
  form.append(field);
  document.body.append(form);
  form.submit();
}"""
EMBED = """(address) => new Promise((resolve) => {
  const frame = document.createElement("iframe");
  frame.src = address;
  frame.onload = () => resolve();
  document.body.append(frame);
})"""


@pytest.mark.parametrize("site", [{}, {"token": "let-me-in"}], indirect=True)
async def test_foreign_pages(
    page: Page, context: BrowserContext, monitor: PageMonitor, sandbox: Sandbox, foreign: str
) -> None:
    """A page of another origin can neither start, read nor embed a job, even with a cookie."""
    monitor.origins.add(foreign)
    monitor.expect_problems("status of 40", "net::ERR_", "by CORS policy", "frame-ancestors")
    await plan(page, rows())
    job = json.loads(await page.locator("#state").text_content() or "")["job"]
    target = [page.url, json.dumps({"fingerprint": job["fingerprint"]})]
    other = await context.new_page()
    _ = await other.goto(foreign)
    assert await other.evaluate(FETCH, target) == ["refused"] * 6
    await other.evaluate(EMBED, page.url)
    frame = other.frames[1]
    assert "Not started" not in await frame.content()
    async with other.expect_navigation() as sent:
        await other.evaluate(FORM, target)
    answer = await sent.value
    assert (answer.url, answer.status) == (f"{page.url}/start", 403)
    _ = await page.reload()
    await sees_phase(page, "Not started")
    assert sandbox.calls["merge"] == 0


async def test_a_foreign_name_of_this_machine(
    context: BrowserContext, site: Site, monitor: PageMonitor
) -> None:
    """A foreign host name that resolves to this machine is refused (DNS rebinding)."""
    address = f"http://{FOREIGN_HOST}:{site.origin.rpartition(':')[2]}"
    monitor.origins.add(address)
    monitor.expect_problems("status of 403")
    page = await context.new_page()
    answer = await page.goto(f"{address}/jobs")
    assert answer is not None
    assert answer.status == 403
    await expect(page.locator("body")).to_contain_text("This host is not known here")
    sending = "fetch('jobs?kind=company', { method: 'POST' }).then(({ status }) => status)"
    assert await page.evaluate(sending) == 403
