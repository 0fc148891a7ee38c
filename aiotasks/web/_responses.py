"""Responses: JSON or a page, and errors with the HTTP status of their type."""

from collections.abc import Mapping
from html import escape
from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

from aiotasks.errors import (
    AffinityError,
    LedgerError,
    PlanError,
    RateLimitError,
    ResponseError,
    http_status_of,
)

from ._background import EndingError
from ._runner import BusyError


_MOST_PROBLEMS: Final = 1000
# What the API refuses is not at fault in the browser's request, so it is no 400, 404 or 409 here.
_STATUS_OF: tuple[tuple[tuple[type[AffinityError], ...], HTTPStatus], ...] = (
    ((BusyError,), HTTPStatus.CONFLICT),
    ((EndingError, RateLimitError), HTTPStatus.SERVICE_UNAVAILABLE),
    ((ResponseError,), HTTPStatus.BAD_GATEWAY),
)
_SENTENCES: Mapping[int, str] = {
    HTTPStatus.NOT_FOUND: "There is no such page or job",
    HTTPStatus.METHOD_NOT_ALLOWED: "This cannot be done here",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The upload is too large: split it into several jobs",
}


class Refusal(AffinityError):  # noqa: N818 - it is a response more than an error
    """Raised in a handler for a request that is itself at fault."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(status, sentence)
        self.status = status
        self.sentence = sentence


def wants_page(request: web.BaseRequest) -> bool:
    """Return whether the client wants HTML, as browsers do, rather than JSON."""
    accept = ",".join(request.headers.getall(hdrs.ACCEPT, [])).lower()
    return "text/html" in accept and "application/json" not in accept


def json(data: Any, status: int = HTTPStatus.OK, **headers: str) -> web.Response:
    """Return a JSON response."""
    return web.Response(
        body=msgspec.json.encode(data),
        status=status,
        content_type="application/json",
        headers=headers,
    )


def page(html: str) -> web.Response:
    """Return an HTML response."""
    return web.Response(text=html, content_type="text/html")


def error(request: web.BaseRequest, status: int, body: dict[str, Any]) -> web.Response:
    """Return a response with an error, as JSON or as a page."""
    if not wants_page(request):
        return json(body, status)
    sentence = escape(str(body["error"]))
    html = (
        "<!DOCTYPE html>"
        '<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{status}</title><h1>{status}</h1><p>{sentence}</p></html>"
    )
    return web.Response(text=html, status=status, content_type="text/html")


def status_and_body(failure: AffinityError) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the JSON body for an error, by its type."""
    if isinstance(failure, Refusal):
        return failure.status, {"error": failure.sentence}
    found = (code for classes, code in _STATUS_OF if isinstance(failure, classes))
    status = next(found, http_status_of(failure))
    if isinstance(failure, PlanError):
        count = len(failure.problems)
        sentence = f"Nothing was merged: fix {failure.source} and send it again"
        problems = failure.problems[:_MOST_PROBLEMS]
        return status, {"error": sentence, "problems": problems, "problem_count": count}
    if isinstance(failure, LedgerError):
        # Without its path: the layout of this machine is no business of the client.
        return status, {"error": f"The job's ledger: {failure.problem}"}
    return status, {"error": str(failure)}


def http_error_sentence(failure: web.HTTPException) -> str:
    """Return the sentence for an error of aiohttp itself, such as 404 or 405."""
    return _SENTENCES.get(failure.status, failure.reason)
