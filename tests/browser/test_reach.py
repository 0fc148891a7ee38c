"""The pages can be used with the keyboard only, and on a phone."""

import pytest
from playwright.async_api import Locator, Page, expect

from aiotasks.sandbox import Sandbox, _records
from tests.browser.conftest import PageMonitor
from tests.browser.steps import button, file_of, give, let_run, plan, rows, sees, sees_phase


pytestmark = [
    pytest.mark.real_time,
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="session"),
]


async def tab_to(page: Page, target: Locator) -> None:
    """Press Tab until an element has the focus, and check that the focus is visible."""
    for _ in range(20):
        await page.keyboard.press("Tab")
        if await target.evaluate("target => target === document.activeElement"):
            style = "target => getComputedStyle(target).outlineStyle"
            assert await target.evaluate(style) != "none"
            return
    pytest.fail(f"Tab does not lead to {target}")


async def test_by_keyboard(page: Page, sandbox: Sandbox) -> None:
    """Tab reaches every control; Enter starts only what is confirmed, and Escape cancels."""
    # Started before the key is pressed, as the file chooser of the browser takes a while.
    async with page.expect_file_chooser() as chooser:
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        await tab_to(page, page.locator("#file"))
        await page.keyboard.press("Space")
    await (await chooser.value).set_files(file_of(rows()))
    await tab_to(page, page.get_by_label("Companies"))
    await page.keyboard.press("Space")
    await tab_to(page, button(page, "Make a plan"))
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/jobs/*-*")
    await tab_to(page, button(page, "Start…"))
    await page.keyboard.press("Enter")
    await expect(button(page, "Cancel")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await expect(button(page, "Start…")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(button(page, "Cancel")).to_be_focused()
    # Pressing Enter twice confirms nothing.
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await sees_phase(page, "Not started")
    assert sandbox.calls["merge"] == 0
    await page.keyboard.press("Enter")
    await expect(button(page, "Cancel")).to_be_focused()
    await tab_to(page, page.locator("#confirmation-yes"))
    await page.keyboard.press("Enter")
    await sees_phase(page, "Running")
    await expect(page.locator("#phase")).to_be_focused()
    await sees(page, open=10)
    await tab_to(page, button(page, "Stop"))
    await page.keyboard.press("Enter")
    let_run(sandbox)
    await sees_phase(page, "Stopped")
    await expect(page.locator("#phase")).to_be_focused()
    await tab_to(page, button(page, "Go on…"))


async def test_in_haste(page: Page, sandbox: Sandbox) -> None:
    """A confirmed start counts, however soon after a cancelled one."""
    await plan(page, rows())
    press = "(ids) => ids.forEach((id) => document.querySelector(id).click())"
    await page.evaluate(press, ["#start", "#confirmation button:not(#confirmation-yes)", "#start"])
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.locator("#confirmation-yes").click()
    await sees_phase(page, "Running")
    await sees(page, open=10)
    assert sandbox.calls["merge"] == 10


async def fits(page: Page) -> None:
    width = "[document.documentElement, ...document.querySelectorAll('.scroll, dialog')]"
    spare = f"{width}.map(each => each.scrollWidth - each.clientWidth)"
    assert max(await page.evaluate(spare)) == 0
    beyond = """[...document.querySelectorAll("main *")]
      .filter(each => each.checkVisibility() && !each.closest("svg, .unseen, thead"))
      .filter(each => each.getBoundingClientRect().right > innerWidth)
      .map(each => each.outerHTML.slice(0, 100))"""
    assert await page.evaluate(beyond) == []


async def test_on_a_phone(
    page: Page, sandbox: Sandbox, monitor: PageMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a width of 360 pixels nothing overflows, however long names and reasons are."""
    word = "Donaudampfschifffahrtsgesellschaft" * 3

    def company(_: int) -> _records.Record:
        return {"name": word, "domain": f"{word}.example", "domains": [], "isGlobal": False}

    monkeypatch.setattr(_records, "_company", company)
    monitor.expect_problems("status of 422")
    await page.set_viewport_size({"width": 360, "height": 740})
    await fits(page)
    await give(page, f"primary_id,duplicate_id\n{word},2\n", f"{word}.csv")
    await expect(page.locator("#problems")).to_be_visible()
    await fits(page)
    await plan(page, rows(12, "1,9001"), f"{word}.csv")
    await fits(page)
    await button(page, "Start…").click()
    await fits(page)
    await page.locator("#confirmation-yes").click()
    await sees(page, open=10)
    sandbox.finish(sandbox.task_urls("company")[0], outcome="failed", reason=word)
    await sees(page, failed=1)
    await fits(page)
    await button(page, "Stop").click()
    await fits(page)
    let_run(sandbox)
    await sees_phase(page, "Stopped")
    await fits(page)
    await page.get_by_role("link", name="All jobs").click()
    await expect(page.locator("#jobs a")).to_have_count(1)
    await fits(page)
