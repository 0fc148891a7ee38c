"""Who asked for what: the access log, and the audit log of what was done to jobs."""

import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Final

from aiohttp import web

from aiotasks._text import printable


access_log = logging.getLogger("aiotasks.web.access")
audit_log = logging.getLogger("aiotasks.web.audit")

_MOST: Final = 100
# What nginx logs for a client that has left before the answer.
_GONE: Final = 499

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def audit(action: str, job_id: str, *, by: str, user: str | None = None) -> None:
    """Log what was done to a job, and by whom."""
    fields = {"action": action, "job": job_id, "peer": by}
    words = "Job %(job)s: %(action)s by %(peer)s"
    if user is not None:
        fields["user"] = user
        words = "Job %(job)s: %(action)s by %(user)s at %(peer)s"
    audit_log.info(words, fields, extra=fields)


class Observer:
    """Logs requests, and what they did; ``user_header`` is where a proxy names the user."""

    def __init__(self, user_header: str | None) -> None:
        self._user_header = user_header

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Log a request when its response has been sent, or its client has left."""
        started = perf_counter()
        status = _GONE
        try:
            response = await handler(request)
            status = response.status
        finally:
            if access_log.isEnabledFor(logging.INFO):
                self._log(request, status, perf_counter() - started)
        return response

    def _log(self, request: web.Request, status: int, seconds: float) -> None:
        fields = {
            "peer": request.remote or "-",
            "user": self._user(request),
            "method": request.method,
            "path": shown_path(request),
            "status": status,
            "seconds": round(seconds, 3),
        }
        words = "%(peer)s %(user)s %(method)s %(path)s: %(status)d after %(seconds).3f s"
        access_log.info(words, {**fields, "user": fields["user"] or "-"}, extra=fields)

    def audit(self, request: web.Request, action: str, job_id: str) -> None:
        """Log what a request did to a job."""
        audit(action, job_id, by=request.remote or "-", user=self._user(request))

    def _user(self, request: web.Request) -> str | None:
        if self._user_header is None:
            return None
        return printable(request.headers.get(self._user_header, ""))[:_MOST] or None


def shown_path(request: web.BaseRequest) -> str:
    """Return the path and the query of a request, without the token of a link."""
    url = request.rel_url
    if "token" in url.query:
        url = url.update_query({"token": "removed"})
    return printable(url.raw_path_qs)
