"""Jobs as JSON: plain functions of what was read from a ledger."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from aiotasks._text import iso_time
from aiotasks.dedupe._durations import noted_durations
from aiotasks.dedupe._effects import Outlook, count_effects, effect_of_pair, undo_sentences
from aiotasks.dedupe._progress import JobProgress
from aiotasks.dedupe._progress_curve import Curve
from aiotasks.dedupe.models import JobInfo, Pair, PairState, PlannedMerge, Row, Transition
from aiotasks.dedupe.plan import Cost, Plan
from aiotasks.dedupe.status import JobPhase, JobStatus
from aiotasks.models import DEFAULT_LIMIT, Quota


Json: TypeAlias = dict[str, Any]

MOST: Final = 200
"""How many failures, left-out rows, rewrites or merges are listed at once."""

_MOST_POINTS = 300
_STALE = 60.0


def summary(job_id: str, job: JobInfo) -> Json:
    """Return what identifies a job, and never changes."""
    return {
        "id": job_id,
        "source": job.source,
        "kind": job.kind,
        "begun_at": iso_time(job.begun_at),
    }


def state(
    job: JobInfo,
    totals: Mapping[PairState, int],
    notes: Mapping[str, str],
    *,
    holder: str | None,
    error: str | None = None,
    is_running: bool = False,
    progress: JobProgress | None = None,
) -> Json:
    """Return how far a job is: the same for its page, the list of jobs, and the events."""
    status = JobStatus.of(job, totals, notes, holder=holder, is_running=is_running, error=error)
    return {
        **msgspec.structs.asdict(status),
        "counts": msgspec.structs.asdict(status.counts),
        "actions": actions(status),
        "totals": totals,
        "is_running": is_running,
        "holder": None if is_running else holder,
        "error": None if is_running else error,
        "progress": progress_view(progress),
    }


def actions(status: JobStatus) -> Json:
    """Return how many merges each button of the page would run; one without any is not shown."""
    counts = status.counts
    can_go_on = status.phase in {JobPhase.STOPPED, JobPhase.BROKEN_OFF}
    can_retry = counts.can_retry and (can_go_on or status.phase is JobPhase.FINISHED)
    return {
        "start": counts.planned if status.phase is JobPhase.NEW else 0,
        "go-on": counts.to_come if can_go_on else 0,
        # A run with `retry_failed` also runs what is to come.
        "retry": counts.can_retry + counts.to_come if can_retry else 0,
    }


def details(
    job: JobInfo,
    pairs: Sequence[Pair],
    names: Mapping[int, str],
    notes: Mapping[str, str],
    quota: Quota,
) -> Json:
    """Return the plan, the failures and the curve of a job."""
    return {
        "fingerprint": job.fingerprint,
        "origin": job.origin,
        "merges": job.merges,
        "cost": cost(job, pairs, notes, quota),
        "understood": notes.get("understood", "").splitlines(),
        "rewrites": _list(notes.get("rewrites")),
        "left_out": [_left_out(pair) for pair in pairs if not pair.is_planned][:MOST],
        "failures": [pair_view(pair, names) for pair in failures(pairs)],
        "curve": curve(job, pairs, notes),
    }


def effects(pairs: Iterable[Pair], outlook: Outlook) -> Json:
    """Return how many merges of a plan have which effect, and which can be undone."""
    counts = count_effects(pairs, outlook)
    return {"effects": counts, "undo": undo_sentences(counts, "the plan's merges")}


def failures(pairs: Iterable[Pair]) -> list[Pair]:
    """Return the merges that failed, the newest first."""
    found = [pair for pair in pairs if pair.is_planned and pair.state.is_failure]
    return sorted(found, key=lambda pair: pair.ended_at or 0.0, reverse=True)[:MOST]


def pair_view(pair: Pair, names: Mapping[int, str]) -> Json:
    """Return a pair with the names of its records."""
    return {
        "number": pair.number,
        "line": pair.line,
        "primary_id": pair.primary_id,
        "duplicate_id": pair.duplicate_id,
        "primary_name": names.get(pair.primary_id),
        "duplicate_name": names.get(pair.duplicate_id),
        "state": pair.state,
        "reason": pair.reason,
        "ended_at": iso_time(pair.ended_at),
    }


def merge_view(pair: Pair, names: Mapping[int, str], outlook: Outlook) -> Json:
    """Return a pair with what becomes of its records, and who can undo that."""
    effect = effect_of_pair(pair, outlook)
    undo = None if effect is None else effect.undo
    return {**pair_view(pair, names), "effect": effect, "undo": undo}


def transition_view(pair: Pair, transition: Transition, names: Mapping[int, str]) -> Json:
    """Return a pair as it was after a transition, which may not be its newest."""
    ended_at = transition.at if transition.state.is_ended else None
    return pair_view(pair, names) | {
        "state": transition.state,
        "is_failure": transition.state.is_failure,
        "reason": transition.reason,
        "ended_at": iso_time(ended_at),
    }


def progress_view(progress: JobProgress | None) -> Json | None:
    """Return the progress of a run, without the totals, which are read from the ledger."""
    if progress is None:
        return None
    names = set(JobProgress.__struct_fields__) - {"totals"}
    return {"open": progress.open, **{name: getattr(progress, name) for name in sorted(names)}}


def cost(job: JobInfo, pairs: Iterable[Pair], notes: Mapping[str, str], quota: Quota) -> Json:
    """Return the cost of the whole plan, under the limits that are known so far."""
    merges = tuple(_merge(pair) for pair in pairs if pair.is_planned)
    plan = Plan(
        kind=job.kind,
        source=job.source,
        digest=job.digest,
        columns=job.columns,
        merges=merges,
        left_out=(),
        rewrites=(),
        rows=len(merges),
    )
    found: Cost = plan.cost(
        limit=quota.limit or DEFAULT_LIMIT,
        month_limit=quota.org_limit,
        durations=noted_durations(notes),
    )
    return msgspec.structs.asdict(found) | {"time": found.time, "notes": found.notes}


def rewrites_text(plan: Plan) -> str:
    """Return the rewritten rows of a plan as the text of a note, which ``details`` reads."""
    rewrites = [{"line": each.row.line, "text": each.text} for each in plan.rewrites[:MOST]]
    return msgspec.json.encode(rewrites).decode()


def curve(job: JobInfo, pairs: Iterable[Pair], notes: Mapping[str, str]) -> list[list[Any]]:
    """Return points: seconds since the beginning, pairs that ended, calls left in the minute."""
    ends = sorted(pair.ended_at for pair in pairs if pair.ended_at is not None)
    samples = Curve.read(notes.get("curve")).points
    sampled_at = [sample.at for sample in samples]
    most = _MOST_POINTS // 2
    points: list[list[Any]] = []
    for at in sorted({*_thinned(ends, most), *_thinned(sampled_at, most)}):
        index = bisect_right(sampled_at, at) - 1
        is_known = index >= 0 and at - sampled_at[index] <= _STALE
        left = samples[index].minute_left if is_known else None
        points.append([round(at - job.begun_at, 3), bisect_right(ends, at), left])
    return points


def event(name: str, data: Any, seq: int | None = None) -> bytes:
    """Return a server-sent event; a stream can be resumed after one with a number."""
    number = b"" if seq is None else b"id: %d\n" % seq
    return b"%sevent: %s\ndata: %s\n\n" % (number, name.encode(), msgspec.json.encode(data))


def _thinned(times: Sequence[float], most: int) -> Iterable[float]:
    if len(times) <= most:
        return times
    step = (len(times) - 1) / (most - 1)
    return [times[round(index * step)] for index in range(most)]


def _merge(pair: Pair) -> PlannedMerge:
    primary_id, duplicate_id = pair.primary_id, pair.duplicate_id
    row = Row(line=pair.line, primary_id=primary_id, duplicate_id=duplicate_id)
    return PlannedMerge(primary_id=primary_id, duplicate_id=duplicate_id, row=row)


def _left_out(pair: Pair) -> Json:
    return {name: getattr(pair, name) for name in ("line", "primary_id", "duplicate_id", "reason")}


def _list(text: str | None) -> list[Any]:
    try:
        return msgspec.json.decode(text or "[]", type=list[Any])
    except msgspec.MsgspecError:
        return []
