"""Jobs on their pages: from the upload of a file to the last merge."""

import pytest
from playwright.async_api import BrowserContext, Page, expect

from aiotasks.sandbox import Sandbox
from aiotasks.web import _events
from tests.browser.conftest import PageMonitor, Site
from tests.browser.steps import (
    COUNT,
    button,
    end,
    give,
    let_run,
    plan,
    rows,
    sees,
    sees_phase,
    start,
)


pytestmark = [
    pytest.mark.real_time,
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="session"),
]


async def test_mistakes(page: Page, monitor: PageMonitor, sandbox: Sandbox) -> None:
    """All mistakes of a file are listed by line, and the same form takes the corrected file."""
    monitor.expect_problems("status of 422")
    await give(page, "primary_id,duplicate_id\n1,2\n3,x\n5,5\n", "list.csv")
    problems = page.locator("#problems")
    await expect(problems).to_be_focused()
    await expect(problems.get_by_role("heading")).to_contain_text("2 problems")
    lines = problems.get_by_role("listitem")
    await expect(lines.nth(0)).to_contain_text("list.csv:3, column 2")
    await expect(lines.nth(1)).to_contain_text("list.csv:4")
    assert sandbox.calls["merge"] == 0
    await plan(page, rows())


async def test_from_plan_to_end(page: Page, sandbox: Sandbox) -> None:
    """Nothing runs before it is confirmed; then the page shows each merge without a reload."""
    await plan(page, rows())
    await page.evaluate("window.isSame = true")
    await sees(page, planned=COUNT, open=0, succeeded=0)
    await expect(page.locator("#clusters > li")).to_have_count(COUNT)
    await expect(page.locator("#clusters")).to_contain_text(
        "Amber Analytics Inc. (amber-analytics.example) 2"
    )
    await button(page, "Start…").click()
    await expect(page.get_by_role("dialog")).to_contain_text("of the plan's merges")
    assert sandbox.calls["merge"] == 0
    await button(page, f"Start {COUNT} merges").click()
    await sees_phase(page, "Running")
    await sees(page, planned=2, open=10, succeeded=0)
    end(sandbox, last=3)
    await sees(page, planned=0, open=9, succeeded=3)
    await expect(page.locator("#merge-1 .state")).to_have_text("Merged")
    bar = page.get_by_role("progressbar")
    await expect(bar).to_have_attribute("aria-valuetext", f"3 of {COUNT} merges have ended")
    await expect(page).to_have_title("25% · pairs.csv")
    let_run(sandbox)
    await sees_phase(page, "Finished")
    await sees(page, planned=0, open=0, succeeded=COUNT)
    await expect(page).to_have_title("pairs.csv")
    assert await page.evaluate("window.isSame") is True
    assert len(sandbox.merged("company")) == COUNT


async def test_failures(page: Page, sandbox: Sandbox) -> None:
    """Refused and failed merges are shown with their reasons immediately, and can be retried."""
    await plan(page, rows(COUNT, "1,9001"))
    failures = page.get_by_role("table")
    await expect(failures.get_by_role("row")).to_have_count(2)
    await expect(page.locator("#failures-title")).to_have_text("Will not run (1)")
    await start(page)
    await sees(page, open=10)
    sandbox.finish(sandbox.task_urls("company")[3], outcome="failed", reason="A lock was held")
    await expect(failures).to_contain_text("Failed A lock was held")
    await expect(page.locator("#failures-title")).to_have_text("Not merged (2)")
    let_run(sandbox)
    await sees_phase(page, "Finished")
    await sees(page, succeeded=COUNT - 1, failed=1, refused=1)
    await start(page, "Try failed again…")
    await sees(page, succeeded=COUNT, failed=1, refused=0)
    await sees_phase(page, "Finished")
    await expect(failures).to_contain_text("Failed Duplicate company not found")
    await expect(failures).not_to_contain_text("A lock was held")


async def test_stop_and_resume(page: Page, sandbox: Sandbox) -> None:
    """A job that is stopped starts no more merges, can be resumed, and merges each pair once."""
    await plan(page, rows())
    await start(page)
    await sees(page, open=10)
    await button(page, "Stop").click()
    await expect(page.locator("#stopping")).to_contain_text("Nothing more is started")
    await button(page, "Stop at once").click()
    await sees_phase(page, "Stopped")
    await expect(page.locator("#phase")).to_be_focused()
    await sees(page, planned=2, open=10)
    let_run(sandbox)
    await button(page, "Go on…").click()
    await expect(page.get_by_role("dialog")).to_contain_text(f"Go on with {COUNT} merges?")
    await button(page, f"Go on with {COUNT} merges").click()
    await sees_phase(page, "Finished")
    assert set(sandbox.posted("company").values()) == {1}
    assert len(sandbox.merged("company")) == COUNT


async def test_two_tabs(page: Page, context: BrowserContext, sandbox: Sandbox) -> None:
    """All pages of a job show the same, and each can stop it, even if another started it."""
    await plan(page, rows(22, "1,9001"))
    other = await context.new_page()
    _ = await other.goto(page.url)
    await start(page)
    await sees(other, open=10)
    sandbox.finish(sandbox.task_urls("company")[0], outcome="failed", reason="A lock was held")
    end(sandbox, last=4)
    for each in (page, other):
        await sees(each, planned=8, open=10, succeeded=3, failed=1, refused=1)
        await expect(each.get_by_role("table")).to_contain_text("A lock was held")
    await button(other, "Stop").click()
    let_run(sandbox)
    for each in (page, other):
        await sees_phase(each, "Stopped")
        await sees(each, planned=8, open=0, succeeded=13, failed=1, refused=1)
    for part in ("[aria-labelledby=phase]", "#failures", "[aria-labelledby=plan-title]"):
        shown = await page.locator(part).inner_text()
        assert await other.locator(part).inner_text() == shown


async def test_far_behind(page: Page, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is too far behind the events loads the whole job again, and continues."""
    monkeypatch.setattr(_events, "_RING", 2)
    await plan(page, rows())
    await page.evaluate("window.isSame = true")
    await start(page)
    await sees(page, planned=2, open=10)
    sandbox.finish(sandbox.task_urls("company")[0], outcome="failed", reason="A lock was held")
    await expect(page.get_by_role("table")).to_contain_text("A lock was held")
    let_run(sandbox)
    await sees_phase(page, "Finished")
    await sees(page, succeeded=COUNT - 1, failed=1)
    await expect(page.locator("#merge-2 .state")).to_have_text("Merged")
    assert await page.evaluate("window.isSame") is True


async def test_restart(page: Page, site: Site, monitor: PageMonitor, sandbox: Sandbox) -> None:
    """A page shows that its server ended, and reconnects to the next one, where the job goes on."""
    monitor.expect_problems("net::ERR_")
    await plan(page, rows())
    await page.evaluate("window.isSame = true")
    await start(page)
    await sees(page, open=10)
    await site.close()
    connection = page.locator("#connection")
    await expect(connection).to_contain_text("This page tries again by itself.")
    end(sandbox, last=3)
    await site.open()
    await expect(connection).to_be_hidden()
    await sees_phase(page, "Running")
    let_run(sandbox)
    await sees_phase(page, "Finished")
    await sees(page, succeeded=COUNT)
    assert await page.evaluate("window.isSame") is True
    assert set(sandbox.posted("company").values()) == {1}
