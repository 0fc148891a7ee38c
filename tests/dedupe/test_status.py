"""The status of a job: decided in one place, from its ledger and this process."""

from itertools import product
from typing import Any

import pytest

from aiotasks.dedupe import JobInfo, JobPhase, JobStatus, PairState, StopReason
from aiotasks.dedupe.status import SENTENCES, STOP_SENTENCES, UNSETTLED_SENTENCE


ANCHOR = {"anchors": ""}
HOLDER = "process 7 on here"
PLANNED, SENDING, STARTED, SUCCEEDED, FAILED, REFUSED, UNSETTLED = PairState


def status_of(
    totals: dict[PairState, int],
    notes: dict[str, str] | None = None,
    *,
    left_out: int = 0,
    **known: Any,
) -> JobStatus:
    job = JobInfo(
        kind="company",
        origin="https://api.affinity.co",
        fingerprint="f",
        source="pairs.csv",
        digest="d",
        columns=(),
        merges=sum(totals.values()) - left_out,
        begun_at=0.0,
    )
    return JobStatus.of(job, dict.fromkeys(PairState, 0) | totals, notes or {}, **known)


class TestPhase:
    @pytest.mark.parametrize(
        ("totals", "notes", "phase"),
        [
            ({PLANNED: 2}, {}, "new"),
            ({PLANNED: 1, REFUSED: 2}, {}, "new"),
            ({PLANNED: 1, SUCCEEDED: 1}, {}, "new"),
            ({PLANNED: 2}, ANCHOR, "broken-off"),
            ({PLANNED: 1, SUCCEEDED: 1}, {"anchors": "7"}, "broken-off"),
            ({SENDING: 1}, ANCHOR, "broken-off"),
            ({STARTED: 1, SUCCEEDED: 9}, ANCHOR, "broken-off"),
            ({PLANNED: 1}, {**ANCHOR, "stopped": "month"}, "stopped"),
            ({PLANNED: 1}, {**ANCHOR, "stopped": "a later version's"}, "stopped"),
            ({SUCCEEDED: 2}, ANCHOR, "finished"),
            ({REFUSED: 2}, {}, "finished"),
            ({FAILED: 1}, {**ANCHOR, "stopped": "month"}, "finished"),
            ({UNSETTLED: 1}, {**ANCHOR, "stopped": "month"}, "finished"),
            ({}, {}, "finished"),
        ],
    )
    def test_without_a_run(
        self, totals: dict[PairState, int], notes: dict[str, str], phase: str
    ) -> None:
        """The phase of a job that does not run follows from its totals and notes."""
        assert status_of(totals, notes).phase == phase
        # A process that holds the ledger runs the job; this process knows its own runs.
        assert status_of(totals, notes, holder=HOLDER).phase is JobPhase.ELSEWHERE
        for holder in (None, HOLDER):
            assert status_of(totals, notes, holder=holder, is_running=True).phase == "running"

    @pytest.mark.parametrize(
        ("totals", "is_running", "stopped"),
        [
            ({PLANNED: 1}, False, "month"),
            ({UNSETTLED: 1}, False, "month"),
            ({PLANNED: 1}, True, None),
            ({SUCCEEDED: 1, FAILED: 1, REFUSED: 1}, False, None),
        ],
    )
    def test_why_it_stopped(
        self, totals: dict[PairState, int], is_running: bool, stopped: str | None
    ) -> None:
        """The reason to stop is reported while pairs are left, until the job runs again."""
        status = status_of(totals, {**ANCHOR, "stopped": "month"}, is_running=is_running)
        assert status.stopped == stopped


class TestSentence:
    def test_each_phase_and_reason_has_one(self) -> None:
        """Each phase and each reason to stop has a sentence."""
        assert set(SENTENCES) == set(JobPhase)
        assert set(STOP_SENTENCES) == set(StopReason)

    @pytest.mark.parametrize("reason", StopReason)
    def test_a_job_that_stopped(self, reason: StopReason) -> None:
        """The sentence of a stopped job is that of the reason."""
        status = status_of({PLANNED: 1}, {**ANCHOR, "stopped": reason})
        assert status.sentence == STOP_SENTENCES[reason]

    def test_which_merges_failed(self) -> None:
        """A job that stopped because of failures says how many of which merges failed."""
        noted = {**ANCHOR, "stopped": "failures", "failures": "13 of the 31 started since pair 412"}
        assert status_of({PLANNED: 1}, noted).sentence.startswith(
            "It stopped by itself, as too many merges failed: 13 of the 31 started since pair 412."
        )

    def test_a_reason_of_a_later_version(self) -> None:
        """An unknown reason has the sentence of the phase."""
        status = status_of({PLANNED: 1}, {**ANCHOR, "stopped": "eclipse"})
        assert (status.stopped, status.sentence) == ("eclipse", SENTENCES[JobPhase.STOPPED])

    def test_the_holder_is_named(self) -> None:
        """The sentence of a job that another process runs names that process."""
        assert status_of({PLANNED: 1}, holder=HOLDER).sentence.startswith(f"It is run by {HOLDER},")

    def test_only_unsettled_pairs_are_left(self) -> None:
        """A job whose unsettled pairs are left says so, and why it stopped if it did."""
        sentence = status_of({SUCCEEDED: 2, UNSETTLED: 1}, ANCHOR).sentence
        assert sentence == f"{SENTENCES[JobPhase.FINISHED]} {UNSETTLED_SENTENCE}"
        stopped = status_of({UNSETTLED: 1}, {**ANCHOR, "stopped": "month"}).sentence
        assert stopped.startswith(STOP_SENTENCES[StopReason.MONTH])
        assert stopped.endswith(UNSETTLED_SENTENCE)

    @pytest.mark.parametrize(
        ("totals", "left_out", "can_retry"),
        [
            ({SUCCEEDED: 2}, 0, False),
            ({SUCCEEDED: 1, FAILED: 1}, 0, True),
            ({SUCCEEDED: 1, REFUSED: 1}, 0, True),
            ({SUCCEEDED: 1, REFUSED: 1}, 1, False),
            ({UNSETTLED: 1}, 0, False),
        ],
    )
    def test_what_can_be_tried_again(
        self, totals: dict[PairState, int], left_out: int, can_retry: bool
    ) -> None:
        """A finished job can be retried only if that would change something."""
        sentence = status_of(totals, ANCHOR, left_out=left_out).sentence
        assert sentence.startswith(SENTENCES[JobPhase.FINISHED])
        assert ("can be tried again" in sentence) == can_retry

    @pytest.mark.parametrize(
        ("totals", "notes"),
        [
            ({PLANNED: 1}, {}),
            ({PLANNED: 1}, ANCHOR),
            ({PLANNED: 1}, {**ANCHOR, "stopped": "unreachable"}),
            ({FAILED: 1}, ANCHOR),
        ],
    )
    def test_an_error(self, totals: dict[PairState, int], notes: dict[str, str]) -> None:
        """The error that ended the last run follows the sentence, unless the job runs again."""
        plain = status_of(totals, notes).sentence
        assert status_of(totals, notes, error="No route").sentence == f"{plain} (No route)"
        running = status_of(totals, notes, error="No route", is_running=True)
        assert running.sentence == SENTENCES[JobPhase.RUNNING]


class TestCounts:
    def test_each_pair_once(self) -> None:
        """Each pair counts once, in its group of states or as left out by the plan."""
        totals = {state: 10**place for place, state in enumerate(PairState)}
        counts = status_of(totals, left_out=30_000).counts
        assert counts.total == 1_111_111
        assert counts.merges == 1_081_111
        assert (counts.planned, counts.open, counts.succeeded) == (1, 110, 1000)
        assert (counts.failed, counts.refused, counts.unsettled) == (10_000, 70_000, 1_000_000)
        assert counts.left_out == 30_000
        assert counts.to_come == 111
        assert counts.not_merged == 1_080_000
        assert counts.can_retry == 80_000
        assert counts.to_come + counts.ended == counts.merges

    @pytest.mark.parametrize(("state", "left_out"), [*product(PairState, (0, 2))])
    def test_every_state_is_counted(self, state: PairState, left_out: int) -> None:
        """Every state counts either as ended or as to come."""
        totals = {PairState.REFUSED: left_out}
        totals[state] = totals.get(state, 0) + 3
        counts = status_of(totals, left_out=left_out).counts
        assert (counts.to_come, counts.ended) == ((0, 3) if state.is_ended else (3, 0))
        assert counts.left_out == left_out
