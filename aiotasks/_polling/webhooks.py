"""Webhook hints. A hint is unverified, so it only triggers an earlier poll.

Affinity sends a webhook when a record was merged away: https://api-docs.affinity.co/#webhooks
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from aiotasks.models import Kind


# A choice: Affinity's bodies have a few kilobytes, and anyone can send more.
_LARGEST = 1024 * 1024
_KIND_OF: Mapping[str, Kind] = {"organization.merged": "company", "person.merged": "person"}


class WebhookHint(NamedTuple):
    """Which record was merged away, as the sender claims."""

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


def read_hint(payload: object) -> WebhookHint | None:
    """Read a webhook's body, as received or parsed already; return None for anything else."""
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
        return WebhookHint(kind, body.removed_person.id)
    return WebhookHint(kind, body.removed_company.id or body.removed_organization.id)
