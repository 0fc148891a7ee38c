"""Jobs as HTML pages: complete, escaped, and in one file."""

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from aiotasks.dedupe import JobInfo, JobPhase, PairState
from aiotasks.web import _json, _labels
from aiotasks.web._html import job_page, list_page


pytestmark = pytest.mark.real_time

NONCE = "c2FmZQ"
FINGERPRINT = "0123456789abcdef" * 4
BEGUN_AT = 1_767_323_045.0
EVIL = "<script>alert(1)</script>"
STEERING = "a\x00b\x1bc\x85d\u202ee\ufefff\ud800g\uffffh"


def pair(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "number": number,
        "line": number + 1,
        "primary_id": 10,
        "duplicate_id": 100 + number,
        "primary_name": "Acme",
        "duplicate_name": "Acme Inc.",
        "state": "planned",
        "reason": None,
        "ended_at": None,
        "effect": None,
        "undo": None,
        **changes,
    }


def job(
    totals: Mapping[str, int] | None = None,
    *,
    merges: int | None = None,
    notes: Mapping[str, str] | None = None,
    holder: str | None = None,
    is_running: bool = False,
    error: str | None = None,
    **changes: Any,
) -> dict[str, Any]:
    counted = {PairState(state): number for state, number in (totals or {"planned": 3}).items()}
    info = JobInfo(
        kind="company",
        origin="https://api.affinity.co",
        fingerprint=FINGERPRINT,
        source="pairs.csv",
        digest="",
        columns=(),
        merges=sum(counted.values()) if merges is None else merges,
        begun_at=BEGUN_AT,
    )
    return {
        **_json.summary("pairs-1", info),
        **_json.state(
            info,
            dict.fromkeys(PairState, 0) | counted,
            notes or {},
            holder=holder,
            is_running=is_running,
            error=error,
        ),
        "fingerprint": FINGERPRINT,
        "origin": info.origin,
        "merges": info.merges,
        "cost": {"calls": 1234, "time": "6.2 min", "notes": ["So it is."], "month_share": 0.056},
        "effects": {},
        "undo": "",
        "seq": 0,
        "understood": [],
        "rewrites": [],
        "left_out": [],
        "failures": [],
        "curve": [],
        **changes,
    }


class Reading(HTMLParser):
    """A document as a browser parses it: its elements, its text and its scripts."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in {"dt", "dd", "th", "td", "li", "summary"}:
            self.words.append(" ")
        while self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in {"script", "style"}:
            self.inside.append((self._open[-1], data))
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    @property
    def state(self) -> dict[str, Any]:
        return next(json.loads(data) for _, data in self.inside if data.startswith("{"))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(*, is_live: bool = True, merges: Any = (), **changes: Any) -> Reading:
    nonce = NONCE if is_live else ""
    return Reading(job_page(job(**changes), is_live=is_live, nonce=nonce, merges=merges))


def everything(**changes: Any) -> dict[str, Any]:
    """Return a job with a value in each place for text."""
    return job(
        {"failed": 1, "planned": 1, "refused": 1},
        merges=2,
        source=changes.get("source", "x"),
        origin=changes.get("origin", "x"),
        holder=changes.get("holder", "x"),
        error=changes.get("error", "x"),
        rewrites=[{"line": 7, "text": changes.get("text", "x")}],
        left_out=[
            {
                "line": 8,
                "primary_id": 1,
                "duplicate_id": 2,
                "reason": changes.get("reason", "x"),
            }
        ],
        failures=[failure(**changes)],
    )


def failure(**changes: Any) -> dict[str, Any]:
    names = {name: changes.get(name, "x") for name in ("primary_name", "duplicate_name", "reason")}
    return pair(state="failed", ended_at="2026-01-02T03:05:06+00:00", **names)


PLACES = (
    *("source", "holder", "error", "origin", "text", "reason"),
    *("primary_name", "duplicate_name"),
)


class TestText:
    @pytest.mark.parametrize("is_live", [True, False])
    @pytest.mark.parametrize("place", PLACES)
    def test_foreign_text_is_escaped(self, place: str, is_live: bool) -> None:
        """Text of a record, a file or a reason is shown, and never becomes an element."""
        evil = everything(**{place: f"{EVIL}\"'&amp;"})
        plain = everything()
        merges, usual = [failure(**{place: EVIL})], [failure()]
        page = Reading(job_page(evil, is_live=is_live, nonce="", merges=merges))
        expected = Reading(job_page(plain, is_live=is_live, nonce="", merges=usual))
        assert [tag for tag, _ in page.elements] == [tag for tag, _ in expected.elements]
        assert f"{EVIL}\"'&amp;" in page.text

    @pytest.mark.parametrize("place", PLACES)
    def test_control_characters_are_shown_as_such(self, place: str) -> None:
        """Control characters and those that change the direction of text are replaced."""
        page = Reading(job_page(everything(**{place: STEERING}), is_live=True, nonce=NONCE))
        assert "a\ufffdb\ufffdc\ufffdd\ufffde\ufefff\ufffdg\ufffdh" in page.text

    def test_lines_become_one(self) -> None:
        """A reason with several lines is shown in one."""
        page = read(failures=[pair(state="failed", reason="one\r\n\ttwo")])
        assert "one two" in "".join(page.words)

    def test_lists_are_escaped_too(self) -> None:
        """The name of a file is escaped in the list of jobs, too."""
        page = Reading(list_page([job(source=EVIL)], nonce=NONCE))
        assert EVIL in page.text
        assert len(page.of("script")) == 2

    def test_a_state_that_is_not_known_is_shown(self) -> None:
        """A state of a later version is shown by its name."""
        assert "postponed" in read(merges=[pair(state="postponed")]).text

    def test_a_name_may_be_unknown(self) -> None:
        """A record without a snapshot is shown by its id."""
        assert "unknown 101" in read(merges=[pair(duplicate_name=None)]).text

    def test_a_nonce_cannot_leave_its_attribute(self) -> None:
        """The nonce is escaped like all other values."""
        assert list_page([], nonce='">').count(' nonce="&quot;&gt;"') == 3


class TestState:
    def test_no_data_can_end_its_script(self) -> None:
        """JSON in a script has no characters that could end it in HTML or JavaScript."""
        names: dict[str, Any] = {"source": f"</script>{EVIL}<!--", "error": "\u2028\u2029\ud800"}
        document = job_page(job(**names), is_live=True, nonce=NONCE, merges=[pair()])
        page = Reading(document)
        assert page.state["job"]["source"] == names["source"]
        assert page.state["job"]["error"] == names["error"]
        state = next(data for _, data in page.inside if data.startswith("{"))
        assert not set(state) & set("<>&\u2028\u2029")
        assert document.encode()

    def test_it_has_the_data_of_the_script(self) -> None:
        """The script gets the job, the first merges, and the labels."""
        state = read(merges=[pair()]).state
        assert state["job"] == job()
        assert state["merges"] == [pair()]
        assert state["words"] == _labels.FOR_SCRIPT

    def test_each_state_and_phase_has_a_label(self) -> None:
        """Each state of a pair and each phase of a job has a label."""
        assert set(PairState) <= set(_labels.STATES)
        assert set(_labels.PHASES) == set(JobPhase)


class TestPolicy:
    @pytest.mark.parametrize(
        "document",
        [
            job_page(job(), is_live=True, nonce=NONCE, merges=[pair()]),
            list_page([job()], nonce=NONCE),
        ],
    )
    def test_everything_has_the_nonce(self, document: str) -> None:
        """Every script and style of a page has the nonce, and no element has inline ones."""
        page = Reading(document)
        assert {each["nonce"] for each in page.of("script") + page.of("style")} == {NONCE}
        attributes = {name for _, attributes in page.elements for name in attributes}
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]

    @pytest.mark.parametrize(
        "document",
        [
            job_page(job(), is_live=True, nonce=NONCE, merges=[pair()]),
            job_page(job(), is_live=False, nonce="", merges=[pair()]),
            list_page([job()], nonce=NONCE),
        ],
    )
    def test_there_is_no_other_host(self, document: str) -> None:
        """No page loads anything from another host, or any other file."""
        page = Reading(document)
        addresses = [
            value or ""
            for _, attributes in page.elements
            for name, value in attributes.items()
            if name in {"src", "href", "action", "data", "poster", "srcset"}
        ]
        assert not [each for each in addresses if re.match(r"[a-z]+://|//|/", each)]
        assert not [each for each in page.elements if "src" in each[1]]
        assert [each["href"] for each in page.of("link")] == ["data:,"]
        for tag, data in page.inside:
            assert tag != "style" or not re.search(r"@import|url\(", data)

    def test_files_cannot_end_their_element(self) -> None:
        """No text in a style or a script ends its element."""
        files = sorted(Path(_labels.__file__).with_name("static").iterdir())
        assert files
        for path in files:
            assert "</" not in path.read_text(encoding="utf-8")

    def test_a_saved_page_brings_its_own_policy(self) -> None:
        """The policy of a saved page allows only its own style and scripts, by their hashes."""
        page = read(is_live=False)
        policy = next(each["content"] for each in page.of("meta") if "http-equiv" in each)
        assert policy is not None
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        for tag, data in page.inside:
            digest = b64encode(sha256(data.encode()).digest()).decode()
            assert data.startswith("{") or f"{tag}-src 'sha256-{digest}'" in policy
        assert not [each for each in page.of("script") + page.of("style") if "nonce" in each]

    def test_a_live_page_has_the_policy_of_its_server(self) -> None:
        """A live page contains no policy, as its server sends one."""
        assert not [each for each in read().of("meta") if "http-equiv" in each]


class TestSavedPage:
    def test_nothing_is_left_of_the_server(self) -> None:
        """A saved page has nothing that needs a server: no button, no link, no event."""
        page = read(is_live=False, merges=[pair()])
        for tag in ("button", "form", "dialog", "input", "noscript"):
            assert not page.of(tag)
        assert [each["href"] for each in page.of("a")] == ["#main"]
        script = "".join(data for tag, data in page.inside if tag == "script")
        assert "EventSource" not in script
        assert "addEventListener" not in script

    def test_it_shows_the_same(self) -> None:
        """Without a script, the saved page shows the same as the live one."""
        saved, live = (
            Reading(job_page(everything(), is_live=each, nonce="", merges=[pair()]))
            for each in (False, True)
        )
        for words in ("x", "Failed 1", "Not merged (1)", "Acme Inc. 101", "Left out (1)"):
            assert words in saved.text
            assert words in live.text


class TestJob:
    @pytest.mark.parametrize(
        ("changes", "title", "sentence"),
        [
            ({}, "Not started", "Nothing has been merged"),
            ({"is_running": True, "error": "before"}, "Running", "goes on without it. To come"),
            ({"holder": "process 1"}, "Running elsewhere", "It is run by process 1, and only"),
            (
                {"notes": {"stopped": "unreachable"}, "error": "No route"},
                "Stopped",
                "a long time. (No route)",
            ),
            ({"notes": {"anchors": "7"}}, "Broken off", "What ran it has ended"),
            ({"totals": {"succeeded": 2}}, "Finished", "Every merge has come to an end. To come"),
        ],
    )
    def test_it_shows_how_far_it_is(
        self, changes: dict[str, Any], title: str, sentence: str
    ) -> None:
        """The page shows the phase of a job and the sentence that explains it."""
        page = Reading(job_page(job(**changes), is_live=False, nonce=""))
        assert f"{title} " in page.text
        assert sentence in page.text

    @pytest.mark.parametrize(
        ("changes", "buttons"),
        [
            ({"totals": {"planned": 3, "failed": 1}}, (3, 0, 0)),
            ({"totals": {"planned": 3, "failed": 1}, "is_running": True}, (0, 0, 0)),
            ({"totals": {"planned": 3, "failed": 1}, "holder": "process 1"}, (0, 0, 0)),
            ({"totals": {"planned": 3}, "notes": {"stopped": "month"}}, (0, 3, 0)),
            (
                {"totals": {"planned": 3, "started": 2}, "notes": {"anchors": ""}},
                (0, 5, 0),
            ),
            (
                {"totals": {"planned": 3, "sending": 1, "failed": 4}, "notes": {"anchors": ""}},
                (0, 4, 8),
            ),
            ({"totals": {"succeeded": 3, "failed": 1, "refused": 2}}, (0, 0, 3)),
            ({"totals": {"succeeded": 3, "refused": 2}, "merges": 3}, (0, 0, 0)),
        ],
    )
    def test_what_can_be_done(self, changes: dict[str, Any], buttons: tuple[int, int, int]) -> None:
        """Each button shows how many merges it starts, and is hidden if there are none."""
        assert tuple(job(**changes)["actions"].values()) == buttons

    def test_totals_are_shown_without_a_script(self) -> None:
        """The totals are readable without a script, and rows left out are counted separately."""
        totals = {"planned": 1000, "sending": 1, "started": 2, "succeeded": 4, "refused": 8}
        page = read(totals=totals)
        assert "To come 1,000 Open 3 Merged 4 Failed 0 Refused 8" in page.text
        apart = Reading(job_page(job(totals, merges=1010), is_live=True, nonce=NONCE))
        assert "Refused 3 Unsettled 0 Left out 5" in apart.text

    def test_failures_are_shown_without_a_script(self) -> None:
        """Each failure is a row with its line, both records, the state and the reason."""
        failed = pair(4, state="failed", reason="locked", ended_at="2026-01-02T03:05:06+00:00")
        page = read(totals={"failed": 1}, failures=[failed])
        assert "Not merged (1) Newest first." in page.text
        expected = "5 Acme Inc. 104 into Acme 10 Failed locked · 2026-01-02 03:05 UTC"
        assert expected in page.text
        assert {"scope": "col", "role": "columnheader"} in page.of("th")

    def test_only_the_newest_failures_are_shown(self) -> None:
        """If there are more failures than rows, the page counts them."""
        totals = {"failed": 300, "planned": 1}
        page = read(totals=totals, notes={"stopped": "failures"}, failures=[pair()])
        assert "Not merged (300) The newest 1 are shown; the report has all." in page.text

    def test_what_will_not_run_is_shown_before(self) -> None:
        """Before the start, the merges that cannot run have a heading of their own."""
        page = read(totals={"planned": 1, "refused": 1}, failures=[pair(state="refused")])
        assert f"Will not run (1) {_labels.WILL_NOT_RUN}" in page.text

    def test_the_plan_is_shown_without_a_script(self) -> None:
        """Each primary is followed by the duplicates that are merged into it."""
        merges = [pair(1), pair(2, primary_id=11, primary_name="Best"), pair(3)]
        page = read(merges=merges)
        assert "Acme 10 Acme Inc. 101 · line 2 To come Acme Inc. 103 · line 4" in page.text
        assert "Best 11 Acme Inc. 102" in page.text

    def test_the_rest_of_the_plan_can_be_loaded(self) -> None:
        """Merges that are not shown are counted, and a live page can load them."""
        for is_live, buttons in ((True, 1), (False, 0)):
            big = job({"planned": 1234})
            page = Reading(job_page(big, is_live=is_live, nonce="", merges=[pair()]))
            assert "And 1,233 more; the report has all." in page.text
            assert len([each for each in page.of("button") if each.get("id") == "more"]) == buttons

    def test_the_cost_is_shown(self) -> None:
        """The cost is shown in calls, time, and the share of the monthly quota if that is known."""
        assert (
            "Calls about 1,234 Time 6.2 min. So it is. Share of the month's calls 5.6% "
            "Fingerprint 0123456789ab"
        ) in read().text
        cost = {"calls": 1, "time": "10 to 30 s", "notes": [], "month_share": None}
        text = read(cost=cost).text
        assert "Time 10 to 30 s. Fingerprint" in text

    def test_what_differs_from_the_file_is_shown(self) -> None:
        """Rows that are rewritten or left out are named by line."""
        page = Reading(job_page(everything(text="t", reason="r"), is_live=True, nonce=NONCE))
        assert "Understood otherwise than written (1) Line 7: t" in page.text
        assert "Left out (1) Line 8: 2 into 1: r" in page.text

    def test_a_start_is_confirmed(self) -> None:
        """The dialog says what can be undone, and shows the whole fingerprint."""
        undo = "2 of the plan's merges can never be undone."
        page = read(undo=undo)
        assert len(page.of("dialog")) == 1
        assert f"{undo} Fingerprint of the plan: {FINGERPRINT}" in page.text

    def test_what_becomes_of_the_records(self) -> None:
        """The plan counts the effects of its merges, and says which can be undone."""
        page = read(effects={"kept": 1200, "replaced": 2}, undo="An admin can.")
        assert (
            "What becomes of the records 1,200 kept: the duplicate is merged into its primary 2 "
            "replaced: both companies are replaced by a new one, with an id of its own An admin can."
        ) in page.text
        assert "What becomes of the records" not in read().text

    def test_each_merge_says_what_becomes_of_it(self) -> None:
        """A merge has its effect and who can undo it, unless it did not run."""
        merges = [pair(1, effect="hidden", undo="never"), pair(2)]
        text = read(merges=merges).text
        assert "101 · line 2 · hidden · undo: never To come" in text
        assert "102 · line 3 To come" in text

    def test_downloads_are_beside_the_page(self) -> None:
        """Links are relative, so that the application can be mounted anywhere."""
        links = [each["href"] for each in read().of("a")]
        assert links == [
            "#main",
            "../jobs",
            "#downloads",
            "pairs-1/report.csv",
            "pairs-1/report.jsonl",
            "pairs-1/snapshots.jsonl",
            "pairs-1/page.html",
        ]


class TestList:
    def test_jobs_are_shown_without_a_script(self) -> None:
        """Each job is a link, with how far it is and its totals."""
        totals = {"planned": 1, "started": 2, "succeeded": 3000, "failed": 4}
        summary = job(totals, is_running=True)
        page = Reading(list_page([summary], nonce=NONCE))
        assert (
            "pairs.csv Running Companies, planned 2026-01-02 03:04 UTC "
            "3,000 merged, 4 not merged, 3 to come"
        ) in page.text
        assert "jobs/pairs-1" in [each["href"] for each in page.of("a")]

    def test_there_may_be_none(self) -> None:
        """The page of an empty folder is not empty."""
        assert "There are none yet." in Reading(list_page([], nonce=NONCE)).text


def test_every_control_has_an_accessible_name() -> None:
    """Fields have labels, sections have names, and there is one live region."""
    for document in (job_page(job(), is_live=True, nonce=NONCE), list_page([], nonce=NONCE)):
        page = Reading(document)
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        named = page.of("section") + page.of("dialog")
        assert all(each["aria-labelledby"] in ids for each in named)
        labels = {each.get("for") for each in page.of("label")}
        fields = [*page.of("select"), *page.of("input")]
        assert all(each.get("id") in labels for each in fields if each.get("type") != "radio")
        assert len([each for _, each in page.elements if "aria-live" in each]) == 1
        assert page.of("html") == [{"lang": "en"}]
        assert [tag for tag, _ in page.elements if tag in {"main", "h1"}] == ["main", "h1"]
