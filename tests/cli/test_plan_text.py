"""What the command line says about a plan before it runs."""

import json
from collections.abc import Iterable
from itertools import pairwise

import pytest

from aiotasks import Quota
from aiotasks.cli import plan_text
from aiotasks.dedupe import Plan, Preview


COMPANIES = {
    1: ("Amber", "amber.com", False),
    2: ("Amber Inc.", "amber.com", False),
    3: ("Amber", None, True),
    4: ("Bright", "bright.com", True),
    5: ("Bright Ltd.", "get-bright.com", False),
    6: ("Bright", "bright.com", False),
    7: ("Cedar", "cedar.com", True),
    8: ("Cedar", "cedar.org", False),
    9: ("Cedar", "cedar.net", False),
    11: ("Delta", None, None),
    12: ("Delta", None, None),
}
PAIRS = [(1, 2), (1, 3), (4, 5), (4, 6), (7, 8), (7, 9), (7, 10)]


def preview_of(pairs: Iterable[tuple[int, int]], *, no_new_company: bool = False) -> Preview:
    """Return a preview of companies, some of which are gone."""
    plan = Plan.of(pairs, kind="company", no_new_company=no_new_company)
    records = {
        each: json.dumps(
            {"id": each, "name": name, "domain": domain, "isGlobal": is_global}
        ).encode()
        for each, (name, domain, is_global) in COMPANIES.items()
    }
    gone = {each: None for each in plan.record_ids if each not in records}
    return Preview(plan=plan, records=records, gone=gone)


def test_the_whole_plan() -> None:
    """A plan shows each merge in its order, with its effect and whether it can be undone."""
    (title, *lines) = plan_text.whole(preview_of([*PAIRS, (11, 12)]), Quota())
    assert title == "the pairs: 6 companies would be merged into 4"
    assert lines[:22] == [
        "",
        "  7  Cedar (cedar.com)",
        "    <- 8  Cedar (cedar.org)  [pair 5, replaced, can never be undone]",
        "    <- 9  Cedar (cedar.net)  [pair 6]",
        "    <- 10  does not exist (any more)  [pair 7]",
        "  1  Amber (amber.com)",
        "    <- 2  Amber Inc. (amber.com)  [pair 1, kept, can be undone]",
        "    <- 3  Amber  [pair 2, hidden, can never be undone]",
        "  4  Bright (bright.com)",
        "    <- 6  Bright (bright.com)  [pair 4, local-copy, can never be undone]",
        "    <- 5  Bright Ltd. (get-bright.com)  [pair 3, kept, can be undone]",
        "  11  Delta",
        "    <- 12  Delta  [pair 8, unknown]",
        "",
        "What becomes of them:",
        "  2  kept: the duplicate is merged into its primary",
        "  1  hidden: a global duplicate is merged, and only hidden from your organization",
        "  1  local-copy: a global primary becomes your organization's own copy, with the same id",
        "  1  replaced: both companies are replaced by a new one, with an id of its own",
        "  1  unknown: the records do not say what becomes of them",
        (
            "An admin can undo 2 of them, in Settings > Duplicate Management > Merged. 3 of them "
            "can never be undone. Whether 1 of them can be undone is not known."
        ),
        "",
    ]
    assert "Need not run, or cannot (2):" in lines
    (left_out,) = [line for line in lines if "pair 6: 7 <- 9:" in line]
    assert left_out.endswith("with the id of the new company as primary")


def test_a_summary() -> None:
    """A summary counts what becomes of all merges, whether it shows them or not."""
    many = [(1, 2), (1, 3), *((each, 2000 + each) for each in range(100, 1100))]
    preview = preview_of(many)
    shown = [*plan_text.short(preview, Quota(), whole_by=None)]
    assert shown[shown.index("What becomes of them:") :][1:3] == [
        "  1  kept: the duplicate is merged into its primary",
        "  1  hidden: a global duplicate is merged, and only hidden from your organization",
    ]
    assert "Need not run, or cannot: 1,000" in shown


def test_nothing_to_run() -> None:
    """A plan without a merge that can run says nothing of effects."""
    lines = [*plan_text.whole(preview_of([(7, 10)]), Quota())]
    assert "What becomes of them:" not in lines
    assert ("", "") not in pairwise(lines)


@pytest.mark.parametrize(
    ("pairs", "question"),
    [
        ([(1, 2)], "Merge them?"),
        ([(1, 2), (1, 3)], "1 of them can never be undone. Merge them?"),
        ([(11, 12)], "Whether 1 of them can be undone is not known. Merge them?"),
    ],
)
def test_the_question(pairs: list[tuple[int, int]], question: str) -> None:
    """The question names what cannot be undone."""
    assert plan_text.question(preview_of(pairs)) == question


def test_without_new_companies() -> None:
    """A plan without new companies names each merge that would make one."""
    lines = [*plan_text.whole(preview_of(PAIRS, no_new_company=True), Quota())]
    reason = "would be replaced by a new company (no new company)"
    assert [line.strip() for line in lines if reason in line] == [
        f"pair 5: 7 <- 8: 7 and 8 {reason}",
        f"pair 6: 7 <- 9: 7 and 9 {reason}",
    ]
