"""Bodies and parameters of requests: their size, and what they mean."""

import io
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from aiotasks.dedupe import InputOptions, JobSettings, Plan

from ._responses import Refusal


T = TypeVar("T")

_JSON: Final = "application/json"
_RULES = ("on_conflict", "max_cluster")
_OPTIONS = tuple(InputOptions.__annotations__)


class Start(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request to start a job; ``settings`` has those that differ from the defaults."""

    fingerprint: str
    retry_failed: bool = False
    settings: JobSettings = JobSettings()


class _Pairs(msgspec.Struct):
    pairs: list[Any]


async def body_of(request: web.Request, most: int) -> bytes:
    """Return the body of a request.

    Raises:
        HTTPRequestEntityTooLarge: as soon as more than ``most`` bytes are announced or read.
    """
    if (request.content_length or 0) > most:
        raise web.HTTPRequestEntityTooLarge(most, request.content_length or 0)
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > most:
            raise web.HTTPRequestEntityTooLarge(most, len(body))
    return bytes(body)


def plan_of(query: Mapping[str, str], content_type: str, body: bytes, name: str) -> Plan:
    """Return the plan for an upload: JSON by its content type, otherwise a file of pairs."""
    rules: dict[str, Any] = {rule: query[rule] for rule in _RULES if rule in query}
    if "max_cluster" in rules:
        rules["max_cluster"] = whole("max_cluster", rules["max_cluster"])
    if "no_new_company" in query:
        rules["no_new_company"] = truth("no_new_company", query["no_new_company"])
    rules["kind"] = query.get("kind", "")
    options: dict[str, Any] = {name: query[name] for name in _OPTIONS if query.get(name)}
    if content_type == _JSON:
        if options:
            message = f"{', '.join(options)} are for files: pairs in JSON have no columns"
            raise Refusal(HTTPStatus.BAD_REQUEST, message)
        plan = Plan.of(decoded(body, _Pairs).pairs, **rules)
        return msgspec.structs.replace(plan, source=name)
    return Plan.read(io.BytesIO(body), source=name, **rules, **options)


def decoded(body: bytes, kind: type[T]) -> T:
    """Decode JSON.

    Raises:
        Refusal: when it is not JSON of this type.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"This is not what is expected: {error}") from error


def whole(name: str, text: str) -> int:
    """Parse a whole number that JavaScript can represent.

    Raises:
        Refusal: when it is none.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(2**53))):
        message = f"{name} must be a whole number, not {text[:20]!r}"
        raise Refusal(HTTPStatus.BAD_REQUEST, message)
    return int(text)


def truth(name: str, text: str) -> bool:
    """Parse ``true`` or ``false``.

    Raises:
        Refusal: when it is neither.
    """
    if text not in {"true", "false"}:
        message = f"{name} must be true or false, not {text[:20]!r}"
        raise Refusal(HTTPStatus.BAD_REQUEST, message)
    return text == "true"
