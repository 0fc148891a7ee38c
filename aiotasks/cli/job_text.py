"""What the command line shows of a job, line by line."""

from collections.abc import Iterator, Mapping

from aiotasks._text import PLURAL, iso_time
from aiotasks.dedupe import JobInfo, PairState, StopReason

from .exit_codes import Exit


WHY_STOPPED: Mapping[StopReason, str] = {
    StopReason.INTERRUPTED: "It was interrupted.",
    StopReason.FAILURES: (
        "It stopped by itself: too many merges failed. Look at their reasons before you go on "
        "(--max-failure-rate sets how many are too many)."
    ),
    StopReason.MONTH: "It stopped by itself: the organization's calls of this month are used up.",
    StopReason.NOT_AUTHORISED: "It stopped: the key may not go on.",
    StopReason.UNREACHABLE: "It stopped: the API could not be reached for a long time.",
}


_EXIT_OF_STATE = {
    PairState.FAILED: Exit.FAILED,
    PairState.REFUSED: Exit.FAILED,
    PairState.PLANNED: Exit.RUNNING,
    PairState.SENDING: Exit.RUNNING,
    PairState.STARTED: Exit.RUNNING,
    PairState.UNSETTLED: Exit.RUNNING,
}


_EXIT_OF_STOP = {
    StopReason.INTERRUPTED: Exit.RUNNING,
    StopReason.FAILURES: Exit.STOPPED,
    StopReason.MONTH: Exit.STOPPED,
    StopReason.NOT_AUTHORISED: Exit.NOT_AUTHORISED,
    StopReason.UNREACHABLE: Exit.UNREACHABLE,
}


def status(
    job: JobInfo, totals: Mapping[PairState, int], notes: Mapping[str, str], holder: str | None
) -> Iterator[str]:
    """Yield what a job is, and how far."""
    begun = iso_time(job.begun_at)
    yield f"Job of {job.source}: {sum(totals.values()):,} pairs of {PLURAL[job.kind]}"
    yield f"Begun {begun} at {job.origin}"
    if holder:
        yield f"Run by {holder}"
    elif is_left(totals):
        stopped = stopped_by(totals, notes)
        yield WHY_STOPPED[stopped] if stopped else "Nothing runs it: it was not begun, or cut off."


def counted(totals: Mapping[PairState, int]) -> str:
    """Return how many pairs are in each state."""
    return ", ".join(f"{totals[state]:,} {state}" for state in PairState if totals[state]) or "none"


def is_left(totals: Mapping[PairState, int]) -> bool:
    """Say whether going on with a job may do more."""
    return any(totals[state] for state, code in _EXIT_OF_STATE.items() if code is Exit.RUNNING)


def stopped_by(totals: Mapping[PairState, int], notes: Mapping[str, str]) -> StopReason | None:
    """Return why a job was stopped, if it was before all of its pairs had ended."""
    stopped = notes.get("stopped")
    return StopReason(stopped) if stopped and is_left(totals) else None


def exit_of(totals: Mapping[PairState, int], stopped: StopReason | None) -> Exit:
    """Return what a job with such pairs has come to."""
    codes = [code for state, code in _EXIT_OF_STATE.items() if totals[state]]
    if stopped is not None:
        codes.append(_EXIT_OF_STOP[stopped])
    return max(codes, default=Exit.SUCCEEDED)
