"""Jobs as JSON, and the folder of jobs."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiotasks import ConfigurationError
from aiotasks.dedupe import JobInfo, JobProgress, Ledger, Pair, PairState, Plan, Transition
from aiotasks.dedupe.ledger import lock_holder
from aiotasks.dedupe.ledger.lock_holder import live_holder
from aiotasks.models import Quota
from aiotasks.web import _json
from aiotasks.web._folder import Folder, plain_name


pytestmark = pytest.mark.real_time

JOB = JobInfo(
    kind="company",
    origin="https://api.affinity.co",
    fingerprint="f" * 64,
    source="pairs.csv",
    digest="",
    columns=(),
    merges=2,
    begun_at=1000.0,
)
PLANNED, SENDING, STARTED, SUCCEEDED, FAILED, REFUSED, UNSETTLED = PairState


def pair(number: int, state: PairState = PLANNED, **more: Any) -> Pair:
    ids = {"primary_id": 2 * number - 1, "duplicate_id": 2 * number}
    return Pair(number=number, line=number + 1, state=state, **{**ids, **more})


def points(pairs: list[Pair], **notes: str) -> list[list[Any]]:
    return _json.curve(JOB, pairs, notes)


class TestPairs:
    def test_a_pair(self) -> None:
        """A pair has the known names of its records, and its end in UTC."""
        found = _json.pair_view(pair(3, FAILED, reason="No", ended_at=0.5), {5: "Acme"})
        assert found == {
            "number": 3,
            "line": 4,
            "primary_id": 5,
            "duplicate_id": 6,
            "primary_name": "Acme",
            "duplicate_name": None,
            "state": FAILED,
            "reason": "No",
            "ended_at": "1970-01-01T00:00:00+00:00",
        }

    @pytest.mark.parametrize("state", PairState)
    def test_a_transition(self, state: PairState) -> None:
        """A transition is shown as it was recorded, not as the pair is now."""
        now = pair(1, REFUSED, reason="later", ended_at=5000.0)
        found = _json.transition_view(now, Transition(number=1, state=state, at=60.0), {})
        is_end = state in {SUCCEEDED, FAILED, REFUSED, UNSETTLED}
        assert found["state"] == state
        assert found["is_failure"] == (state in {FAILED, REFUSED, UNSETTLED})
        assert found["reason"] is None
        assert found["ended_at"] == ("1970-01-01T00:01:00+00:00" if is_end else None)

    def test_failures(self) -> None:
        """The newest 200 failures are listed, without rows that the plan left out."""
        pairs = [
            pair(n, (FAILED, REFUSED, UNSETTLED)[n % 3], ended_at=float(n)) for n in range(300)
        ]
        pairs += [pair(500, REFUSED, is_planned=False, ended_at=1e9), pair(501, SUCCEEDED)]
        assert [each.number for each in _json.failures(pairs)] == [*range(299, 99, -1)]

    def test_what_was_left_out(self) -> None:
        """Rows that the plan left out are listed separately, and cost no calls."""
        pairs = [pair(1), pair(2, REFUSED, is_planned=False, reason="contradicts", ended_at=1000.0)]
        found = _json.details(JOB, pairs, {}, {}, Quota(limit=60, org_limit=1000))
        assert found["left_out"] == [
            {"line": 3, "primary_id": 3, "duplicate_id": 4, "reason": "contradicts"}
        ]
        assert found["failures"] == []
        alone = _json.details(JOB, pairs[:1], {}, {}, Quota(limit=60, org_limit=1000))
        assert found["cost"] == alone["cost"]
        assert found["cost"]["month_share"] == found["cost"]["calls"] / 1000

    def test_rewrites(self) -> None:
        """The first 200 rewritten rows are kept with the job."""
        plan = Plan.of([(1, 2), (2, 3)] + [(1, 2)] * 500, kind="company")
        text = _json.rewrites_text(plan)
        found = _json.details(JOB, [], {}, {"rewrites": text}, Quota())["rewrites"]
        assert len(found) == 200
        assert found[0] == {
            "line": 2,
            "text": "is merged into 1, since 2 is a duplicate itself (pair 1)",
        }
        assert _json.details(JOB, [], {}, {"rewrites": "{"}, Quota())["rewrites"] == []


class TestCurve:
    def test_before_the_beginning(self) -> None:
        """A job that has not run has no curve."""
        assert points([pair(1)]) == []

    def test_ends(self) -> None:
        """A point has the time since the beginning, and how many pairs had ended by then."""
        pairs = [pair(1, SUCCEEDED, ended_at=1004.0), pair(2, FAILED, ended_at=1001.5), pair(3)]
        assert points(pairs) == [[1.5, 1, None], [4.0, 2, None]]

    def test_calls_left(self) -> None:
        """The remaining calls are shown only near a sample, and a damaged note is ignored."""
        pairs = [pair(1, SUCCEEDED, ended_at=1030.0), pair(2, SUCCEEDED, ended_at=1200.0)]
        noted = json.dumps([[1000.0, 0, 900], [1020.0, 0, 850]])
        expected = [[0.0, 0, 900], [20.0, 0, 850], [30.0, 1, 850], [200.0, 2, None]]
        assert points(pairs, curve=noted) == expected
        assert points(pairs, curve="garbage") == [[30.0, 1, None], [200.0, 2, None]]

    def test_it_has_few_points(self) -> None:
        """However many pairs there are, the curve has 300 points with the first and the last."""
        pairs = [pair(n, SUCCEEDED, ended_at=1000.0 + n) for n in range(1, 10_001)]
        noted = json.dumps([[1000.5 + n, n, 1] for n in range(300)])
        found = points(pairs, curve=noted)
        assert len(found) == 300
        assert found[0] == [0.5, 0, 1]
        assert found[-1] == [10_000.0, 10_000, None]


@pytest.mark.parametrize("is_running", [True, False])
def test_a_state(is_running: bool) -> None:
    """Holder, reason and error of a job are reported only while it does not run here."""
    totals = dict.fromkeys(PairState, 1)
    notes = {"anchors": "", "stopped": "month"}
    found = _json.state(
        JOB,
        totals,
        notes,
        holder="process 1",
        error="No",
        is_running=is_running,
        progress=JobProgress(totals=totals, calls=3) if is_running else None,
    )
    assert found["phase"] == ("running" if is_running else "elsewhere")
    assert found["stopped"] == (None if is_running else "month")
    assert found["holder"] == (None if is_running else "process 1")
    assert found["error"] == (None if is_running else "No")
    assert (found["progress"] or {}).get("calls") == (3 if is_running else None)
    assert found["totals"] == totals
    assert found["counts"]["total"] == len(PairState)


def test_progress() -> None:
    """Progress has all fields except the totals, which come from the ledger."""
    progress = JobProgress(totals=dict.fromkeys(PairState, 2), minute_left=7, calls=3)
    assert _json.progress_view(None) is None
    assert _json.progress_view(progress) == {
        "open": 4,
        "calls": 3,
        "is_cut_off": False,
        "minute_left": 7,
        "minute_limit": None,
        "month_limit": None,
        "month_used": None,
        "per_minute": 0.0,
        "seconds_left": None,
        "waiting_for": None,
    }


def test_an_event() -> None:
    """An event is one line of JSON, whatever text it contains."""
    assert _json.event("pair", {"a": "x\n\ny"}, 7) == (
        b'id: 7\nevent: pair\ndata: {"a":"x\\n\\ny"}\n\n'
    )
    assert _json.event("done", {}) == b"event: done\ndata: {}\n\n"


class TestFolder:
    def test_ids(self, tmp_path: Path) -> None:
        """Only a regular file with a plain name is a job: no id or link leads out of the folder."""
        names = ["a", "a-1", "0", "x" * 64]
        others = ["A", "-a", "a_b", "a.b", "ä", "x" * 65, " a", "a\n", "..", ".", ""]
        for name in names + others[:-3]:
            _ = (tmp_path / f"{name}.job.db").write_text("")
        (tmp_path / "folder.job.db").mkdir()
        outside = tmp_path.with_suffix(".job.db")
        _ = outside.write_text("")
        (tmp_path / "link.job.db").symlink_to(outside)
        (tmp_path / "inside.job.db").symlink_to(tmp_path / "a.job.db")
        folder = Folder(tmp_path)
        assert dict(folder) == {name: tmp_path / f"{name}.job.db" for name in names}
        for name in [*others, f"../{tmp_path.name}", "link", "inside", "folder", "missing"]:
            assert folder.find(name) is None

    @pytest.mark.parametrize(
        ("name", "stem"),
        [
            ("Pairs 2026.csv", "pairs-2026"),
            ("../../etc/passwd", "job"),
            ("Ünicode", "nicode"),
            ("---", "job"),
            ("", "job"),
            ("x" * 200, "x" * 40),
            ("a.job.db", "a"),
        ],
    )
    def test_new_ids(self, tmp_path: Path, name: str, stem: str) -> None:
        """A new job has an id that is readable, allowed and unique."""
        folder = Folder(tmp_path)
        job_id, path = folder.new(name)
        assert job_id.rpartition("-")[0] == stem
        assert path.parent == tmp_path
        assert folder.new(name)[0] != job_id
        _ = path.write_text("")
        assert folder.find(job_id) == path

    def test_no_folder(self, tmp_path: Path) -> None:
        """A missing folder is an error, and is not created."""
        with pytest.raises(ConfigurationError, match="There is no folder"):
            _ = Folder(tmp_path / "missing")

    @pytest.mark.parametrize(
        ("name", "plain"),
        [
            ("pairs.csv", "pairs.csv"),
            ("C:\\Users\\me\\pairs.csv", "pairs.csv"),
            ("/home/me/pairs.csv", "pairs.csv"),
            ("a\x1b[31m\nb", "a\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}b"),
            ("", "pairs"),
            ("x" * 300, "x" * 100),
        ],
    )
    def test_names(self, name: str, plain: str) -> None:
        """Of the file name in an upload only the last part is used, and only if printable."""
        assert plain_name(name) == plain


NEVER = "process 7 on box since 2026-99-99 99:99:99 UTC"


class TestHolder:
    @pytest.fixture
    def lock_holder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[str], str | None]:
        """A machine that was booted at 1000 s, on which process 7 started at 3000 s."""
        monkeypatch.setattr(lock_holder, "_PROCESSES", tmp_path)
        (tmp_path / "7").mkdir()
        ticks = 2000 * os.sysconf("SC_CLK_TCK")
        fields = " ".join(["0"] * 18)
        _ = (tmp_path / "7" / "stat").write_text(f"7 (a) b (c) S {fields} {ticks} 0 0\n")
        _ = (tmp_path / "stat").write_text("cpu 1 2\nintr 1 2\nbtime 1000\nprocesses 9\n")
        return lambda text: live_holder(text, host="box")

    def test_a_holder_of_this_machine(self, lock_holder: Callable[[str], str | None]) -> None:
        """A holder on this machine counts if its process exists since then."""
        then, before = "1970-01-01 00:50:00 UTC", "1970-01-01 00:49:00 UTC"
        assert lock_holder(f"process 7 on box since {then}") == f"process 7 on box since {then}"
        assert lock_holder(f"process 7 on box since {before}") is None
        assert lock_holder(f"process 8 on box since {then}") is None
        assert lock_holder("") is None

    def test_a_holder_of_another_machine(self, lock_holder: Callable[[str], str | None]) -> None:
        """A holder on another machine or of another version is returned unchanged."""
        for text in ("process 8 on other since 1970-01-01 00:50:00 UTC", "something else", NEVER):
            assert lock_holder(text) == text

    def test_without_a_list_of_processes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a system without /proc, the last holder is returned."""
        monkeypatch.setattr(lock_holder, "_PROCESSES", tmp_path / "missing")
        text = "process 8 on box since 1970-01-01 00:50:00 UTC"
        assert live_holder(text, host="box") == text

    async def test_it_is_read_each_time(self, tmp_path: Path) -> None:
        """An open reader sees when another process begins and ends to hold the ledger."""
        path = tmp_path / "job.db"
        async with Ledger(path) as ledger:
            plan = Plan.of([(1, 2)], kind="company")
            await ledger.begin(plan, origin="https://x.example", records={}, findings=[], at=1.0)
        async with Ledger.reading(path) as reader:
            assert await reader.live_holder() is None
            async with Ledger(path) as ledger:
                assert await reader.live_holder() == ledger.holder
            assert await reader.live_holder() is None
