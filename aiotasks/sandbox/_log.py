"""What a sandbox remembers: the requests that arrived, and the merges that it ran."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request that has arrived, whatever was answered to it.

    Attributes:
        at: when it arrived, on the loop's clock.
        method: its HTTP method.
        path: its path with the query, as it was sent.
        operation: what it asks for, such as ``merge`` or ``tasks``; ``other`` for unknown paths.
        body: its body, empty for most requests.
        is_authorized: whether it came with the right key. The key itself is not kept.
    """

    at: float
    method: str
    path: str
    operation: str
    body: bytes
    is_authorized: bool


@dataclass(frozen=True, slots=True)
class SandboxMerge:
    """A merge as the server knows it, whatever was answered about it.

    Attributes:
        primary_id: the record that the other was to be merged into.
        duplicate_id: the record that was to be merged away.
        task_url: its task.
        is_foreign: whether ``start_merge`` started it, and not a request.
        started: when the server accepted it, on the loop's clock.
        ended: when it ended; None while it is in progress.
        outcome: ``success``, ``failed``, or what a test asked for; None while in progress.
        reason: why it failed.
        effect: what became of the records of a success: ``kept`` (the primary, with the data of
            both), ``hidden`` (a global duplicate), ``local-copy`` (of a global primary) or
            ``replaced`` (both, by a new company); None if nothing changed.
        can_undo: whether an admin could undo it; None if nothing changed.
        new_id: the company that has replaced both.
    """

    primary_id: int
    duplicate_id: int
    task_url: str
    is_foreign: bool
    started: float
    ended: float | None
    outcome: str | None
    reason: str | None
    effect: str | None
    can_undo: bool | None
    new_id: int | None


def repeated(merges: Iterable[SandboxMerge]) -> set[tuple[int, int]]:
    """Return the pairs that were asked for again while a merge ran, or after it had succeeded."""
    found = set()
    earlier: dict[tuple[int, int], list[SandboxMerge]] = {}
    for merge in merges:
        if merge.is_foreign:
            continue
        pair = (merge.primary_id, merge.duplicate_id)
        others = earlier.setdefault(pair, [])
        if any(_is_open_or_done(other, merge.started) for other in others):
            found.add(pair)
        others.append(merge)
    return found


def _is_open_or_done(merge: SandboxMerge, at: float) -> bool:
    return merge.ended is None or merge.ended > at or merge.outcome == "success"
