"""What the command line says of a plan and of a job, line by line."""

from collections.abc import Iterator, Mapping, Sequence

from ._console import Exit
from ._text import PLURAL, duration, iso_time, printable
from .dedupe import (
    Change,
    Cost,
    JobInfo,
    PairState,
    Plan,
    PlannedMerge,
    Preview,
    StopReason,
)
from .models import Kind, Quota


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

SHOWN = 12
"""How much of a fingerprint is shown."""

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
_DEFAULT_LIMIT = 900
_FEW = 5
_TOLD_SHARE = 0.001


def whole(preview: Preview, quota: Quota) -> Iterator[str]:
    """Yield all that a plan would do."""
    plan = preview.plan
    yield _title(preview)
    yield ""
    yield from _clusters(preview, plan.merges, len(plan.merges))
    yield from _paragraph(
        "Understood otherwise than written",
        [f"line {each.row.line}: {each.text}" for each in plan.rewrites],
    )
    yield from _paragraph(
        "Left out", [f"line {each.row.line}: {each.reason}" for each in plan.left_out]
    )
    yield from _paragraph(
        "Need not run, or cannot", [_finding(plan, change) for change in preview.findings(0.0)]
    )
    yield ""
    yield _cost(plan, quota)
    yield f"Fingerprint: {plan.fingerprint[:SHOWN]}"


def short(preview: Preview, quota: Quota, *, whole_by: str | None) -> Iterator[str]:
    """Yield what has to be known before a plan is agreed to; a command shows the whole of it."""
    plan = preview.plan
    yield _title(preview)
    yield from _clusters(preview, _to_run(preview), _FEW)
    counts = {
        "Understood otherwise than written": len(plan.rewrites),
        "Left out": len(plan.left_out),
        "Need not run, or cannot (merged already, or gone)": len(preview.findings(0.0)),
    }
    yield from (f"{what}: {count:,}" for what, count in counts.items() if count)
    if whole_by is not None and (len(plan.merges) > _FEW or any(counts.values())):
        yield f"All of it: {whole_by}"
    yield _cost(plan, quota)
    yield f"Fingerprint: {plan.fingerprint[:SHOWN]}"


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


def _title(preview: Preview) -> str:
    plan, merges = preview.plan, _to_run(preview)
    survivors = len({merge.primary_id for merge in merges})
    return f"{plan.source}: {_of(len(merges), plan.kind)} would be merged into {survivors:,}"


def _of(count: int, kind: Kind) -> str:
    return f"{count:,} {kind if count == 1 else PLURAL[kind]}"


def _to_run(preview: Preview) -> Sequence[PlannedMerge]:
    idle = {change.number for change in preview.findings(0.0)}
    merges = enumerate(preview.plan.merges, 1)
    return [merge for number, merge in merges if number not in idle]


def _clusters(preview: Preview, merges: Sequence[PlannedMerge], most: int) -> Iterator[str]:
    clusters: dict[int, list[str]] = {}
    for merge in merges[:most]:
        label = printable(preview.label(merge.duplicate_id))
        line = f"    <- {merge.duplicate_id}  {label}  [line {merge.row.line}]"
        clusters.setdefault(merge.primary_id, []).append(line)
    for primary_id, lines in clusters.items():
        yield f"  {primary_id}  {printable(preview.label(primary_id))}"
        yield from lines
    if len(merges) > most:
        yield f"  … and {len(merges) - most:,} more"


def _paragraph(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield f"{title} ({len(lines):,}):"
        yield from (f"  {line}" for line in lines)


def _finding(plan: Plan, change: Change) -> str:
    merge = plan.merges[change.number - 1]
    return f"line {merge.row.line}: {merge.primary_id} <- {merge.duplicate_id}: {change.reason}"


def _cost(plan: Plan, quota: Quota) -> str:
    limit = quota.limit or _DEFAULT_LIMIT
    cost = plan.cost(limit=limit, month_limit=quota.org_limit)
    told = f"It takes about {cost.calls:,} calls{_share(cost)}, and {duration(cost.minutes * 60)}"
    if cost.minutes > cost.calls / limit:
        return f"{told}, as merges into one record run one after the other."
    return f"{told} at {limit:,} calls a minute."


def _share(cost: Cost) -> str:
    if cost.month_share is None:
        return ""
    if cost.month_share > 1:
        return ", MORE than the organization has in a month"
    share = f"{cost.month_share:.1%}" if cost.month_share >= _TOLD_SHARE else "less than 0.1%"
    return f" ({share} of the month)"
