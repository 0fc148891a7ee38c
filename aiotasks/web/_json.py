"""What is told of jobs, as JSON: plain functions of what a ledger has."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from aiotasks._text import iso_time
from aiotasks.dedupe._curve import Curve
from aiotasks.dedupe._progress import JobProgress
from aiotasks.dedupe.models import JobInfo, Pair, PairState, PlannedMerge, Row, Transition
from aiotasks.dedupe.plan import Cost, Plan
from aiotasks.models import Quota


Json: TypeAlias = dict[str, Any]

MOST: Final = 200
"""How many of a kind are listed at most."""

_MOST_POINTS = 300
_DEFAULT_LIMIT = 900
_STALE = 60.0


def summary(
    job_id: str,
    job: JobInfo,
    totals: Mapping[PairState, int],
    notes: Mapping[str, str],
    *,
    is_running: bool,
    holder: str | None,
) -> Json:
    """Return what a list tells of a job."""
    return {
        "id": job_id,
        "source": job.source,
        "kind": job.kind,
        "begun_at": iso_time(job.begun_at),
        "totals": totals,
        "total": sum(totals.values()),
        "is_running": is_running,
        # The first thing that a run does is to note where the server's list began.
        "is_started": "anchor" in notes,
        "holder": holder,
        "stopped": None if is_running else notes.get("stopped"),
    }


def details(
    job: JobInfo,
    pairs: Sequence[Pair],
    names: Mapping[int, str],
    notes: Mapping[str, str],
    quota: Quota,
) -> Json:
    """Return what is told of a job beside its summary, as far as it is in the ledger."""
    return {
        "fingerprint": job.fingerprint,
        "origin": job.origin,
        "merges": job.merges,
        "cost": cost(job, pairs, quota),
        "rewrites": _list(notes.get("rewrites")),
        "left_out": [_left_out(pair) for pair in pairs if not pair.is_planned][:MOST],
        "failures": [pair_view(pair, names) for pair in failures(pairs)],
        "curve": curve(job, pairs, notes),
    }


def failures(pairs: Iterable[Pair]) -> list[Pair]:
    """Return the pairs that came to no good end, the newest first."""
    found = [pair for pair in pairs if pair.is_planned and pair.state.is_failure]
    return sorted(found, key=lambda pair: pair.ended_at or 0.0, reverse=True)[:MOST]


def pair_view(pair: Pair, names: Mapping[int, str]) -> Json:
    """Return what is told of a pair."""
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


def transition_view(pair: Pair, transition: Transition, names: Mapping[int, str]) -> Json:
    """Return what is told of a pair when it took a step, wherever it is by now."""
    ended_at = transition.at if transition.state.is_ended else None
    told = {"state": transition.state, "reason": transition.reason, "ended_at": iso_time(ended_at)}
    return pair_view(pair, names) | told


def progress_view(progress: JobProgress | None) -> Json | None:
    """Return what a run tells of itself."""
    if progress is None:
        return None
    names = set(JobProgress.__struct_fields__) - {"totals"}
    return {"open": progress.open, **{name: getattr(progress, name) for name in sorted(names)}}


def cost(job: JobInfo, pairs: Iterable[Pair], quota: Quota) -> Json:
    """Return what the whole job costs, with what is known of the limits."""
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
    found: Cost = plan.cost(limit=quota.limit or _DEFAULT_LIMIT, month_limit=quota.org_limit)
    return msgspec.structs.asdict(found)


def rewrites_text(plan: Plan) -> str:
    """Return what a plan understands otherwise than written, as it is noted."""
    told = [{"line": each.row.line, "text": each.text} for each in plan.rewrites[:MOST]]
    return msgspec.json.encode(told).decode()


def curve(job: JobInfo, pairs: Iterable[Pair], notes: Mapping[str, str]) -> list[list[Any]]:
    """Return points of time since the beginning, pairs ended, and calls left in the minute."""
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
    """Return a server-sent event; only those with a number can be resumed after."""
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
