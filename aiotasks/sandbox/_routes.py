"""What a request asks for: its operation, its parameters and its body, checked."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from aiotasks.sandbox._filters import Filter
from aiotasks.sandbox._pages import Cursor
from aiotasks.sandbox._records import KINDS, Kind
from aiotasks.sandbox._reply import JSON, Problem


VERSION_HEADER = "X-Affinity-Api-Version"
VERSIONS = ("2024-01-01", "2026-07-15", "2026-09-17")
MAX_ID = 2**53 - 1
MAX_RECORD_ID = 2**63 - 1
MAX_LIMIT = 100
MIN_TERM = 2
_FIELD_TYPES = ("enriched", "global", "relationship-intelligence")
_KINDS = KINDS | {kind.plural: kind for kind in KINDS.values()}
_PATHS = tuple(
    (operation, method, re.compile(path))
    for operation, method, path in (
        ("merge", "POST", r"/v2/(company|person)-merges"),
        ("merges", "GET", r"/v2/(company|person)-merges"),
        ("get_merge", "GET", r"/v2/(company|person)-merges/([^/]+)"),
        ("task", "GET", r"/v2/tasks/(company|person)-merges/([^/]+)"),
        ("tasks", "GET", r"/v2/tasks/(company|person)-merges"),
        ("record", "GET", r"/v2/(companies|persons)/([^/]+)"),
        ("records", "GET", r"/v2/(companies|persons)"),
        ("suggestions", "GET", r"/v2/duplicates/(company|person)-suggestions"),
        ("rate_limit", "GET", r"/v2/rate-limit()"),
        ("whoami", "GET", r"/v2/auth/whoami()"),
    )
)


@dataclass(frozen=True, slots=True)
class Route:
    """The operation that a request asks for; ``other`` for unknown paths and methods."""

    operation: str
    kind: Kind = KINDS["company"]
    name: str = ""
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """The parts of a request that the API uses."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    origin: str

    def one(self, name: str) -> str | None:
        values = self.query.get(name)
        return values[0] if values else None


def find(method: str, path: str) -> Route:
    allowed = []
    for operation, accepted, pattern in _PATHS:
        if found := pattern.fullmatch(path):
            if accepted == method:
                kind = _KINDS.get(found[1], KINDS["company"])
                return Route(operation, kind, found[2] if pattern.groups > 1 else "")
            allowed.append(accepted)
    return Route("other", allowed=tuple(allowed))


def refuse(route: Route) -> Problem:
    """Return why a request has no operation: 404 or 405."""
    if not route.allowed:
        return Problem(404, "There is nothing at this path.")
    headers = {"Allow": ", ".join(sorted(route.allowed))}
    return Problem(405, "This path has no such method.", headers=headers)


def version(call: ApiRequest, default: str) -> str:
    """Resolve the API version that answers."""
    wanted = call.headers.get(VERSION_HEADER, default)
    if wanted == "current":
        return VERSIONS[-1]
    if wanted not in VERSIONS:
        raise Problem(400, f"There is no API version {wanted!r}.", param=VERSION_HEADER)
    return wanted


def number(text: str, name: str, *, maximum: int = MAX_ID) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text) or not 1 <= int(text) <= maximum:
        message = f"{name} is a whole number from 1 to {maximum}, not {text!r}."
        raise Problem(400, message, param=name)
    return int(text)


def task_id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        message = f"{text!r} is not the id of a task."
        raise Problem(400, message, param="taskId") from None


def limit(call: ApiRequest, default: int) -> int:
    text = call.one("limit")
    return default if text is None else number(text, "limit", maximum=MAX_LIMIT)


def cursor(call: ApiRequest) -> Cursor | None:
    text = call.one("cursor")
    return None if text is None else Cursor.parse(text)


def where(call: ApiRequest, properties: Mapping[str, Collection[str] | None]) -> Filter | None:
    text = call.one("filter")
    return None if text is None else Filter.parse(text, properties)


def flag(call: ApiRequest, name: str) -> bool:
    return choice(call, name, ("true", "false")) == "true"


def choice(call: ApiRequest, name: str, choices: Collection[str]) -> str | None:
    text = call.one(name)
    if text is not None and text not in choices:
        message = f"{name} is one of {', '.join(choices)}, not {text!r}."
        raise Problem(400, message, param=name)
    return text


def check_fields(call: ApiRequest) -> None:
    for name in call.query.get("fieldTypes", ()):
        if name not in _FIELD_TYPES:
            message = f"fieldTypes are {', '.join(_FIELD_TYPES)}, not {name!r}."
            raise Problem(400, message, param="fieldTypes")


def term(call: ApiRequest) -> str:
    text = call.one("term")
    if text is not None and len(text) < MIN_TERM:
        raise Problem(400, f"term has at least {MIN_TERM} characters.", param="term")
    return (text or "").lower()


def pair(call: ApiRequest, kind: Kind) -> tuple[int, int]:
    """Read the body of a merge."""
    content_type = call.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type != JSON:
        raise Problem(415, f"The body has to be {JSON}.")
    body = _decode(call.body)
    names = (kind.primary_field, kind.duplicate_field)
    for name in body.keys() - set(names):
        raise Problem(400, f"A merge has no {name}.", param=name)
    primary_id, duplicate_id = (_body_number(body, name) for name in names)
    return primary_id, duplicate_id


def _decode(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError:
        raise Problem(400, "The body has to be one JSON object.") from None


def _body_number(body: dict[str, Any], name: str) -> int:
    value = body.get(name)
    # A bool is an int to Python, but not to JSON.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_ID:
        message = f"{name} has to be a whole number from 1 to {MAX_ID}."
        raise Problem(400, message, param=name)
    return value
