"""How far a job is, decided once for the web page, its events and the command line."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final, Self

from aiotasks.models import Value

from .models import JobInfo, PairState, StopReason, has_pairs_left


class JobPhase(StrEnum):
    """What a job is doing.

    ``ELSEWHERE`` is run by another process. ``STOPPED`` ended with a reason, ``BROKEN_OFF`` without
    one, for example because its process was killed; both can be resumed.
    """

    NEW = "new"
    RUNNING = "running"
    ELSEWHERE = "elsewhere"
    STOPPED = "stopped"
    BROKEN_OFF = "broken-off"
    FINISHED = "finished"


SENTENCES: Final[Mapping[JobPhase, str]] = {
    JobPhase.NEW: "Nothing has been merged. Read the plan, then start it.",
    JobPhase.RUNNING: "You may close this page; the job goes on without it.",
    JobPhase.ELSEWHERE: "It is run by {holder}, and only there can it be stopped.",
    JobPhase.STOPPED: "Nothing is lost: it goes on where it is.",
    JobPhase.BROKEN_OFF: (
        "What ran it has ended. Nothing is lost: when it goes on, it first finds out what became "
        "of the open merges."
    ),
    JobPhase.FINISHED: "Every merge has come to an end.",
}

STOP_SENTENCES: Final[Mapping[str, str]] = {
    StopReason.INTERRUPTED: "It was stopped. Nothing is lost: it goes on where it is.",
    StopReason.FAILURES: (
        "It stopped by itself, as too many merges failed. Read their reasons before it goes on."
    ),
    StopReason.MONTH: "It stopped by itself: the organization's calls of this month are used up.",
    StopReason.NOT_AUTHORISED: "It stopped: the key may not go on. Check its rights first.",
    StopReason.UNREACHABLE: "It stopped: the API could not be reached for a long time.",
}
"""Why a job stopped, with what to do next."""

UNSETTLED_SENTENCE = (
    "Some are unsettled: they may have been merged, and going on asks for them again."
)
_TRY_AGAIN = (
    "Those that failed or were refused can be tried again once their reasons are gone; the report "
    "has all of them."
)


class JobCounts(Value, frozen=True, kw_only=True):
    """The pairs of a job, counted as they are shown.

    ``total`` counts all pairs of the ledger, and ``merges`` those of the plan. The other fields
    count merges of the plan only, except ``left_out``: the rows that the plan left out, which the
    ledger keeps as refused. ``to_come`` is ``planned`` and ``open``; ``ended`` is ``succeeded`` and
    ``not_merged``, the sum of ``failed``, ``refused`` and ``unsettled``. ``can_retry`` counts what
    ``retry_failed`` would plan again.
    """

    total: int
    merges: int
    planned: int
    open: int
    succeeded: int
    failed: int
    refused: int
    unsettled: int
    left_out: int
    to_come: int
    ended: int
    not_merged: int
    can_retry: int

    @classmethod
    def of(cls, job: JobInfo, totals: Mapping[PairState, int]) -> Self:
        """Count the pairs of a job, given how many the ledger has in each state."""
        total = sum(totals.values())
        left_out = total - job.merges
        merges = {**totals, PairState.REFUSED: totals[PairState.REFUSED] - left_out}

        def count(belongs: Callable[[PairState], bool]) -> int:
            return sum(number for state, number in merges.items() if belongs(state))

        return cls(
            total=total,
            merges=job.merges,
            planned=merges[PairState.PLANNED],
            open=count(lambda state: state.is_open),
            succeeded=merges[PairState.SUCCEEDED],
            failed=merges[PairState.FAILED],
            refused=merges[PairState.REFUSED],
            unsettled=merges[PairState.UNSETTLED],
            left_out=left_out,
            to_come=count(lambda state: not state.is_ended),
            ended=count(lambda state: state.is_ended),
            not_merged=count(lambda state: state.is_failure),
            can_retry=count(lambda state: state.can_retry),
        )


class JobStatus(Value, frozen=True, kw_only=True):
    """How far a job is, and the sentence that explains it.

    ``stopped`` is why the last run stopped while pairs were left: a ``StopReason``, or the word of
    a later version of this library.
    """

    phase: JobPhase
    sentence: str
    stopped: str | None
    counts: JobCounts

    @classmethod
    def of(
        cls,
        job: JobInfo,
        totals: Mapping[PairState, int],
        notes: Mapping[str, str],
        *,
        holder: str | None = None,
        is_running: bool = False,
        error: str | None = None,
    ) -> Self:
        """Decide how far a job is.

        Args:
            job: What the ledger was begun with.
            totals: How many pairs are in each state, as ``LedgerReader.totals`` returns them.
            notes: What ``LedgerReader.notes`` returns.
            holder: The other process that holds the ledger, if one does.
            is_running: Whether this process runs the job; ``holder`` is ignored then.
            error: The error that ended the last run.
        """
        counts = JobCounts.of(job, totals)
        is_left = has_pairs_left(totals)
        stopped = notes.get("stopped") if is_left and not is_running else None
        failures = notes.get("failures")
        phase = _phase(counts, notes, stopped, is_held=bool(holder), is_running=is_running)
        sentence = _sentence(phase, counts, stop_sentence(stopped, failures))
        sentence = sentence.format(holder=holder)
        if error and phase is not JobPhase.RUNNING:
            sentence = f"{sentence} ({error})"
        return cls(phase=phase, sentence=sentence, stopped=stopped, counts=counts)


def stop_sentence(stopped: str | None, failures: str | None) -> str:
    """Return why a job stopped, empty if that is not known; ``failures`` is as in ``JobResult``."""
    sentence = STOP_SENTENCES.get(stopped or "", "")
    if stopped != StopReason.FAILURES or failures is None:
        return sentence
    return sentence.replace(" failed.", f" failed: {failures}.")


def _sentence(phase: JobPhase, counts: JobCounts, why_stopped: str) -> str:
    if phase is JobPhase.STOPPED:
        return why_stopped or SENTENCES[phase]
    if phase is not JobPhase.FINISHED:
        return SENTENCES[phase]
    # Why it stopped still matters for unsettled pairs: only they are left.
    parts = [why_stopped, SENTENCES[phase]]
    parts += [UNSETTLED_SENTENCE] * (counts.unsettled > 0) + [_TRY_AGAIN] * (counts.can_retry > 0)
    return " ".join(filter(None, parts))


def _phase(
    counts: JobCounts,
    notes: Mapping[str, str],
    stopped: str | None,
    *,
    is_held: bool,
    is_running: bool,
) -> JobPhase:
    if is_running:
        return JobPhase.RUNNING
    if is_held:
        return JobPhase.ELSEWHERE
    if not counts.to_come:
        return JobPhase.FINISHED
    if stopped:
        return JobPhase.STOPPED
    # Every run first notes which tasks the server had. The totals prove nothing: merges
    # that had happened before the job are recorded when it is planned.
    return JobPhase.BROKEN_OFF if "anchors" in notes else JobPhase.NEW
