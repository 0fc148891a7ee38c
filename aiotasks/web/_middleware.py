"""Access control and error responses, for every request."""

import math
import secrets
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from http import HTTPStatus

from aiohttp import hdrs, web

from aiotasks.errors import AffinityError

from . import _access, _responses
from ._responses import Refusal


NONCE: ContextVar[str] = ContextVar("nonce")
"""The nonce in the content security policy of the current response."""
EXPIRES_AT: ContextVar[float] = ContextVar("expires_at")
"""When the access of the current request ends, in seconds since the epoch."""
_NO_ACCESS = "Open the link that was given to you, or send the server's token as a bearer token"
_LINK_EXPIRED = (
    "This link has expired: get a new one where you got it. `aiotasks serve` prints a new one "
    "whenever the last has expired"
)
_SESSION_ENDED = (
    "You were let in for twelve hours, which are over: open the link that was given to you again"
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AccessMiddleware:
    """Enforces the access rules, and turns errors into responses.

    ``mount`` is the route of the application's root, which knows where that is mounted, and
    ``open_route`` the one that everyone may ask.
    """

    mount: web.AbstractRoute
    open_route: web.AbstractRoute | None = None

    def __init__(self, rules: _access.AccessRules) -> None:
        self._rules = rules

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Handle a request, or refuse it."""
        _ = NONCE.set(secrets.token_urlsafe(16))
        _ = EXPIRES_AT.set(math.inf)
        try:
            return self._check(request) or await handler(request)
        except web.HTTPException as failure:
            body = {"error": _responses.http_error_sentence(failure)}
            response = _responses.error(request, failure.status, body)
            if hdrs.ALLOW in failure.headers:
                response.headers[hdrs.ALLOW] = failure.headers[hdrs.ALLOW]
            return response
        except ConnectionError:
            # The client has gone: a response cannot reach it, and an error would only be logged.
            return web.Response(status=HTTPStatus.BAD_REQUEST)
        except AffinityError as failure:
            status, body = _responses.status_and_body(failure)
            return _responses.error(request, status, body)

    async def prepare(self, _: web.Request, response: web.StreamResponse) -> None:
        """Add the security headers to a response."""
        response.headers.update(_access.security_headers(NONCE.get()))

    def _check(self, request: web.Request) -> web.StreamResponse | None:
        if request.match_info.route is self.open_route:
            return None
        hosts = request.headers.getall(hdrs.HOST, [])
        # Newer versions of aiohttp answer this before.
        if len(hosts) > 1:
            raise Refusal(HTTPStatus.BAD_REQUEST, "A request must name one host")
        refusal = _access.refusal(request.method, hosts, request.headers, self._rules)
        if refusal:
            raise Refusal(HTTPStatus.FORBIDDEN, refusal)
        if self._rules.token is None:
            return None
        return self._check_token(request, self._rules.token)

    def _check_token(self, request: web.Request, token: str) -> web.StreamResponse | None:
        in_link = request.query.get("token", "") if request.method in _access.SAFE_METHODS else ""
        link_expires_at = _access.expiry_of(in_link, "link", token)
        if link_expires_at is not None and link_expires_at > time.time():
            return self._without_token(request, token)
        bearer = _access.bearer_of(request.headers.get(hdrs.AUTHORIZATION, ""))
        if _access.is_token(bearer, token):
            return None
        cookie = request.cookies.get(_cookie_name(request), "")
        expires_at = _access.expiry_of(cookie, "cookie", token)
        if expires_at is None or expires_at <= time.time():
            reason = _NO_ACCESS if expires_at is None else _SESSION_ENDED
            reason = reason if link_expires_at is None else _LINK_EXPIRED
            raise Refusal(HTTPStatus.UNAUTHORIZED, reason)
        _ = EXPIRES_AT.set(expires_at)
        return None

    def _without_token(self, request: web.Request, token: str) -> web.StreamResponse:
        """Give access by a cookie instead of the link, since links are kept and passed on."""
        url = request.rel_url.without_query_params("token")
        # Relative, so that it cannot lead to another host.
        last = url.raw_path.rpartition("/")[2]
        query = f"?{url.raw_query_string}" if url.raw_query_string else ""
        response = web.Response(
            status=HTTPStatus.SEE_OTHER, headers={hdrs.LOCATION: f"./{last}{query}"}
        )
        response.set_cookie(
            _cookie_name(request),
            _access.signed("cookie", time.time() + _access.SESSION_SECONDS, token),
            max_age=_access.SESSION_SECONDS,
            path=str(self.mount.url_for()),
            httponly=True,
            samesite="Strict",
            # Not by what a proxy says of a request: anyone can send such a header.
            secure=self._rules.https or request.secure,
        )
        return response


def _cookie_name(request: web.Request) -> str:
    transport = request.transport
    address = None if transport is None else transport.get_extra_info("sockname")
    # A Unix socket has a path instead.
    port = address[1] if isinstance(address, tuple) else "0"
    return _access.cookie_name(request.host, port)
