"""How faults change an answer: pure functions from one reply to another."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any

import msgspec

from aiotasks.sandbox._limits import ORG, USER, Cause
from aiotasks.sandbox._reply import Ending, Problem, Reply


Effect = Callable[[Reply], Reply]
LIMIT_HEADERS = tuple(
    f"{name}{part}" for name in (USER, ORG) for part in ("", "-Remaining", "-Reset")
)


def then(*effects: Effect) -> Effect:
    def effect(reply: Reply) -> Reply:
        for each in effects:
            reply = each(reply)
        return reply

    return effect


def end(ending: Ending) -> Effect:
    return lambda reply: replace(reply, ending=ending)


def delay(seconds: float) -> Effect:
    return lambda reply: replace(reply, delay=reply.delay + seconds)


def say(data: bytes) -> Effect:
    """Send exactly these bytes in place of an answer."""
    return lambda reply: replace(reply, ending="raw", body=data)


def encode(encoding: str) -> Effect:
    """Claim an encoding which the body does not have."""
    return set_headers({"Content-Encoding": encoding})


def halve() -> Effect:
    return lambda reply: replace(reply, body=reply.body[: len(reply.body) // 2])


def pad(size: int) -> Effect:
    return lambda reply: replace(reply, body=reply.body.ljust(size))


def answer(status: int, body: bytes, content_type: str) -> Effect:
    def effect(reply: Reply) -> Reply:
        headers = reply.headers | {"Content-Type": content_type}
        return replace(reply, status=status, body=body, headers=headers)

    return effect


def error(status: int) -> Effect:
    reply = Problem(status, "This fault was asked for.").reply()
    return answer(status, reply.body, "application/json")


def page(status: int) -> Effect:
    body = f"<html><body><h1>{status}</h1>A proxy says no.</body></html>"
    return answer(status, body.encode(), "text/html")


def set_headers(headers: Mapping[str, str | None]) -> Effect:
    def effect(reply: Reply) -> Reply:
        merged = reply.headers | dict(headers)
        kept = {name: value for name, value in merged.items() if value is not None}
        return replace(reply, headers=kept)

    return effect


def retry_after(value: float | str | None, *, as_date: bool = False) -> Effect:
    def effect(reply: Reply) -> Reply:
        text = str(value)
        if as_date:
            date = parsedate_to_datetime(reply.headers["Date"]) + timedelta(seconds=float(text))
            text = format_datetime(date, usegmt=True)
        return replace(reply, headers=reply.headers | {"Retry-After": text})

    return effect if value is not None else then()


def blame(cause: Cause) -> Effect:
    """Let the headers say which limit refused the request."""
    exhausted = {"minute": USER, "month": ORG}.get(cause)

    def effect(reply: Reply) -> Reply:
        headers = dict(reply.headers)
        for name, limit, reset in ((USER, "900", "60"), (ORG, "100000", "86400")):
            if name == exhausted:
                headers = {name: limit, f"{name}-Reset": reset} | headers
                headers[f"{name}-Remaining"] = "0"
            elif headers.get(f"{name}-Remaining") == "0":
                headers[f"{name}-Remaining"] = "1"
        return replace(reply, headers=headers)

    return effect


def edit(change: Callable[[Any], Any]) -> Effect:
    def effect(reply: Reply) -> Reply:
        changed = change(msgspec.json.decode(reply.body))
        return replace(reply, body=msgspec.json.encode(changed))

    return effect


def swap_types(value: Any) -> Any:
    match value:
        case dict():
            return {name: swap_types(item) for name, item in value.items()}
        case list():
            return [swap_types(item) for item in value]
        case str():
            return 0
        case _:
            return "text"


def relabel(status: str) -> Callable[[Any], Any]:
    """Replace the status of a task or merge, or of each on a page."""

    def change(value: dict[str, Any]) -> dict[str, Any]:
        if "data" in value:
            return value | {"data": [change(item) for item in value["data"]]}
        return value | {"status": status} if "status" in value else value

    return change
