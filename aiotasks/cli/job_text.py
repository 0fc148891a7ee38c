"""What the command line prints about a job, line by line."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aiotasks import _text
from aiotasks._text import PLURAL, iso_time
from aiotasks.dedupe import JobInfo, JobPhase, JobResult, JobStatus, PairState, StopReason
from aiotasks.dedupe.status import stop_sentence

from .exit_codes import Exit


FAILURES_ADVICE = "To go on in spite of the failures, give a higher --max-failure-rate."

_EXIT_OF_STOP: Mapping[str, Exit] = {
    StopReason.INTERRUPTED: Exit.RUNNING,
    StopReason.FAILURES: Exit.STOPPED,
    StopReason.MONTH: Exit.STOPPED,
    StopReason.NOT_AUTHORISED: Exit.NOT_AUTHORISED,
    StopReason.UNREACHABLE: Exit.UNREACHABLE,
}


def status(job: JobInfo, status: JobStatus) -> Iterator[str]:
    """Yield what a job is, and how far."""
    yield f"Job of {job.source}: {_text.counted(status.counts.total, 'pair')} of {PLURAL[job.kind]}"
    yield f"Begun {iso_time(job.begun_at)} at {job.origin}"
    yield status.sentence
    is_over = status.phase in {JobPhase.STOPPED, JobPhase.FINISHED}
    if is_over and status.stopped == StopReason.FAILURES:
        yield FAILURES_ADVICE


def in_list(name: str, job: Mapping[str, Any]) -> str:
    """Return the line of a job in a list of jobs, or why its ledger cannot be read."""
    if "error" in job:
        return f"{name}: {job['error']}"
    counts = job["counts"]
    failed = f", {counts['not_merged']:,} not merged" if counts["not_merged"] else ""
    return (
        f"{job['begun_at']}  {job['phase']:<10} "
        f"{counts['succeeded']:,} of {counts['merges']:,} merged{failed}  {name}"
    )


def why_stopped(reason: StopReason, failures: str | None) -> str:
    """Return why a run stopped, and what to do about it."""
    sentence = stop_sentence(reason, failures)
    return f"{sentence} {FAILURES_ADVICE}" if reason is StopReason.FAILURES else sentence


def counted(totals: Mapping[PairState, int]) -> str:
    """Return how many pairs are in each state."""
    return ", ".join(f"{totals[state]:,} {state}" for state in PairState if totals[state]) or "none"


def ended(path: Path, source: str, result: JobResult) -> dict[str, Any]:
    """Return what programs get when a job has ended."""
    return {
        "text": f"{source}: {counted(result.totals)}",
        "ledger": str(path),
        "source": source,
        "totals": {state: result.totals[state] for state in PairState if result.totals[state]},
        "stopped": result.stopped,
        "error": None if result.error is None else str(result.error),
        "calls": result.calls,
        "seconds": round(result.seconds, 3),
        "exit_code": exit_of(result.totals, result.stopped),
    }


def exit_of(totals: Mapping[PairState, int], stopped: str | None) -> Exit:
    """Return the exit code for a job whose pairs are in these states."""
    codes = [_exit_of_state(state) for state in PairState if totals[state]]
    if stopped is not None:
        # A later version may have noted a reason that is unknown here.
        codes.append(_EXIT_OF_STOP.get(stopped, Exit.STOPPED))
    return max(codes, default=Exit.SUCCEEDED)


def _exit_of_state(state: PairState) -> Exit:
    # An unsettled pair has ended: going on may not settle it, so no script should wait for that.
    if not state.is_ended:
        return Exit.RUNNING
    return Exit.FAILED if state.is_failure else Exit.SUCCEEDED
