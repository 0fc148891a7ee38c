"""Hints from outside that something has ended: they prove nothing, and bring a look forward."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from ._http.urls import TaskRef
from .models import Kind


PAUSE: Final = 1.0
"""Seconds between two hints that are followed: webhooks are unsigned, so anybody may send them."""

KEPT: Final = 10_000
"""How many merges are remembered by their records, the newest."""

_LARGEST = 1024 * 1024
_KIND_OF: Mapping[str, Kind] = {"organization.merged": "company", "person.merged": "person"}


class Hint(NamedTuple):
    """What was merged away, as somebody says."""

    kind: Kind
    duplicate_id: int | None


class _Removed(msgspec.Struct, frozen=True):
    id: int | None = None


class _Body(msgspec.Struct, frozen=True):
    removed_company: _Removed = _Removed()
    removed_organization: _Removed = _Removed()
    removed_person: _Removed = _Removed()


class _Event(msgspec.Struct):
    type: str
    body: _Body = _Body()


_EVENT = msgspec.json.Decoder(_Event)


def read_hint(payload: object) -> Hint | None:
    """Read a webhook's body: as it came, or parsed already. Whatever else it is counts for nothing."""
    try:
        if isinstance(payload, bytes | bytearray | str):
            event = _EVENT.decode(payload) if len(payload) <= _LARGEST else None
        else:
            event = msgspec.convert(payload, _Event)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if event is None or event.type not in _KIND_OF:
        return None
    kind, body = _KIND_OF[event.type], event.body
    if kind == "person":
        return Hint(kind, body.removed_person.id)
    return Hint(kind, body.removed_company.id or body.removed_organization.id)


class Hints:
    """Which task a hint is about, and whether it may be followed now."""

    def __init__(self) -> None:
        self._tasks: dict[Hint, TaskRef] = {}
        self._followed_at = float("-inf")

    def note(self, ref: TaskRef, duplicate_id: int) -> None:
        """Remember what a task merges away."""
        self._tasks[Hint(ref.kind, duplicate_id)] = ref
        if len(self._tasks) > KEPT:
            del self._tasks[next(iter(self._tasks))]

    def task_of(self, hint: Hint) -> TaskRef | None:
        """Return the task that a hint is about, if this client has started it."""
        return self._tasks.get(hint)

    def may_follow(self, now: float) -> bool:
        """Say whether a hint may be followed now, and count it if so."""
        if now - self._followed_at < PAUSE:
            return False
        self._followed_at = now
        return True
