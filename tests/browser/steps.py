"""Steps of the tests: what a user does on the page, and what the CRM does meanwhile."""

from playwright.async_api import FilePayload, Locator, Page, expect

from aiotasks.sandbox import Sandbox


COUNT = 12
"""Merges of most jobs: ten are open at a time."""


def rows(count: int = COUNT, *more: str) -> str:
    """Return a list of pairs as CSV."""
    pairs = [f"{2 * n - 1},{2 * n}" for n in range(1, count + 1)]
    return "\n".join(["primary_id,duplicate_id", *pairs, *more, ""])


def file_of(text: str, name: str = "pairs.csv") -> FilePayload:
    """Return a file in the form that Playwright uploads."""
    return {"name": name, "mimeType": "text/csv", "buffer": text.encode()}


async def give(page: Page, text: str, name: str = "pairs.csv") -> None:
    """Upload a file of pairs of companies on the page of all jobs."""
    await page.locator("#file").set_input_files(file_of(text, name))
    await page.get_by_label("Companies").check()
    await button(page, "Make a plan").click()


async def plan(page: Page, text: str, name: str = "pairs.csv") -> None:
    """Upload a file, and wait for its plan."""
    await give(page, text, name)
    await page.wait_for_url("**/jobs/*-*")
    await sees_phase(page, "Not started")


async def start(page: Page, name: str = "Start…") -> None:
    """Press a button that starts merges, and confirm it."""
    await button(page, name).click()
    await page.get_by_role("dialog").locator("#confirmation-yes").click()


async def sees_phase(page: Page, phase: str) -> None:
    """Wait until the page shows the phase of the job."""
    await expect(page.locator("#phase")).to_have_text(phase)


async def sees(page: Page, **tiles: int) -> None:
    """Wait until the page shows these counts of pairs by state."""
    for state, number in tiles.items():
        await expect(page.locator(f"[data-tile={state}] dd")).to_have_text(str(number))


def button(page: Page, name: str) -> Locator:
    """Return the button with a name."""
    return page.get_by_role("button", name=name, exact=True)


def end(sandbox: Sandbox, *, first: int = 0, last: int | None = None) -> None:
    """Let running merges succeed, numbered in the order in which they began."""
    for task_url in sandbox.task_urls("company")[first:last]:
        sandbox.finish(task_url)


def let_run(sandbox: Sandbox) -> None:
    """Let all running merges succeed, and those that begin from now on."""
    sandbox.duration = 0.0
    end(sandbox)
