"""The page is drawn twice, without its script and by it: both say the same."""

import json
from itertools import product
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Request, Route

from aiotasks.web import _html, _labels
from tests.browser.conftest import Witness


pytestmark = [
    pytest.mark.real_time,
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="session"),
]

TOTALS: tuple[dict[str, int], ...] = (
    {"planned": 2000},
    {"planned": 1, "refused": 3},
    {"planned": 1, "succeeded": 1},
    {"planned": 1, "failed": 1},
    {"planned": 1, "unsettled": 1},
    {"planned": 1, "sending": 1},
    {"started": 1, "succeeded": 1999},
    {"sending": 1},
    {"succeeded": 1},
    {"succeeded": 1, "failed": 1200, "refused": 3},
    {"failed": 1},
    {"refused": 3},
    {"unsettled": 1},
    {},
)
HOLDER = "process 7 on <host>"
RUNS: tuple[tuple[bool, str | None, str | None], ...] = (
    (False, None, None),
    (True, None, None),
    (False, HOLDER, None),
    (True, HOLDER, "month"),
    (False, HOLDER, "month"),
    *((False, None, reason) for reason in (*_labels.STOPPED, "a reason of tomorrow")),
)
MORE: tuple[dict[str, Any], ...] = (
    {"error": "The disk is full", "totals": {"failed": 1}},
    {"error": "The disk is full", "totals": {"planned": 1, "failed": 1}},
    {"is_started": True, "totals": {"planned": 1}},
    {"is_started": False, "totals": {"planned": 1, "failed": 1}},
)


def job(
    is_running: bool,
    holder: str | None,
    stopped: str | None,
    *,
    totals: dict[str, int],
    name: str = "Amber & Söhne <b>",
    **more: Any,
) -> dict[str, Any]:
    total = sum(totals.values())
    failures = [
        {
            "number": number,
            "line": number + 1,
            "primary_id": 1,
            "duplicate_id": number + 1,
            "primary_name": name,
            "duplicate_name": None,
            "state": state,
            "reason": "A lock was held" if number % 2 else None,
            "ended_at": None,
        }
        for number, state in enumerate(totals, 1)
        if state in {"failed", "refused", "unsettled"}
    ]
    return {
        "id": "pairs-1",
        "source": "pairs <1>.csv",
        "kind": "company",
        "origin": "https://api.affinity.co",
        "begun_at": "2026-01-02T03:04:05+00:00",
        "fingerprint": "0" * 64,
        "is_running": is_running,
        "holder": holder,
        "stopped": stopped,
        "total": total,
        # What a plan leaves out is refused.
        "merges": total - min(1, totals.get("refused", 0)),
        "cost": {"calls": 1, "minutes": 1, "month_share": None},
        "rewrites": [],
        "left_out": [],
        "failures": failures,
        "curve": [],
        "progress": None,
        "totals": totals,
        **more,
    }


JOBS = [
    *(job(*run, totals=totals) for run, totals in product(RUNS, TOTALS)),
    *(job(*run, **more) for run, more in product(RUNS, MORE)),
    # Downwards, so that no two halves of characters become one.
    job(*RUNS[0], totals={"failed": 1}, name="".join(map(chr, range(2**16 - 1, -1, -1)))),
]

SHOWN = ("#phase", "#sentence", ".tiles", "#failures-title", "#failures-note", "#failure-rows")
READ = """
const read = (root, parts) => parts.map((part) => {
  const node = root.querySelector(part);
  const hidden = [node, ...node.querySelectorAll("[hidden]")].filter((each) => each.hidden);
  const isShown = !node.closest("section[hidden]");
  const text = node.textContent.replace(/\\s+/g, " ").trim();
  return [part, isShown, isShown ? text : "", hidden.length, node.dataset.phase];
});
"""
COMPARE = f"""async ([pages, parts]) => {{
  {READ}
  const differ = [];
  await Promise.all(pages.map(async (html, place) => {{
    const parsed = new DOMParser().parseFromString(html, "text/html");
    const frame = document.createElement("iframe");
    const isDrawn = new Promise((resolve) => {{ frame.onload = resolve; }});
    frame.srcdoc = html;
    document.body.append(frame);
    await isDrawn;
    const drawn = frame.contentDocument;
    if (drawn.getElementById("bar").hidden) differ.push([place, "no script has run"]);
    const [before, after] = [parsed, drawn].map((root) => JSON.stringify(read(root, parts)));
    if (before !== after) differ.push([place, before, after]);
    frame.remove();
  }}));
  return differ;
}}"""


async def test_jobs(context: BrowserContext, witness: Witness) -> None:
    """In whatever state a job is, the script changes nothing of what the document says."""
    page = await context.new_page()
    pages = [_html.job_page(each, is_live=False, nonce="") for each in JOBS]
    differ = []
    for start in range(0, len(pages), 50):
        found = await page.evaluate(COMPARE, [pages[start : start + 50], SHOWN])
        differ += [(JOBS[start + place], *told) for place, *told in found]
    assert differ == []


async def test_lists(context: BrowserContext, witness: Witness) -> None:
    """The list of jobs reads the same when the script has drawn it anew."""
    origin = "http://127.0.0.1:1"
    witness.origins.add(origin)

    async def answer(route: Route, request: Request) -> None:
        if "text/html" in request.headers["accept"]:
            html = _html.list_page(JOBS, nonce="")
            await route.fulfill(body=html, content_type="text/html")
        else:
            await route.fulfill(body=json.dumps({"jobs": JOBS}), content_type="application/json")

    page = await context.new_page()
    await page.route("**/*", answer)
    await page.clock.install()
    _ = await page.goto(f"{origin}/jobs")
    rows = "[...document.querySelectorAll('#jobs li')]"
    read = f"{rows}.map(row => row.innerHTML.replace(/\\s+/g, ' ').replaceAll('> <', '><'))"
    before = await page.evaluate(read)
    await page.evaluate(f"{rows}.forEach(row => {{ row.isOld = true; }})")
    await page.clock.fast_forward(6000)
    await page.wait_for_function(f"!{rows}.some(row => row.isOld)")
    assert len(before) == len(JOBS)
    assert await page.evaluate(read) == before


async def test_phases() -> None:
    """The table of states has every phase and every state."""
    assert {_html._phase(each) for each in JOBS} == set(_labels.PHASES)
    states = {state for totals in TOTALS for state in totals}
    assert states | {"open", "left_out"} == set(_labels.STATES)
