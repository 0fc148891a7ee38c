"""Access control and error responses, for every request."""

import secrets
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web

from aiotasks.errors import AffinityError

from . import _access, _responses
from ._responses import Refusal


COOKIE: Final = "aiotasks-token"
NONCE: ContextVar[str] = ContextVar("nonce")
"""The nonce in the content security policy of the current response."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AccessMiddleware:
    """Enforces the access rules, and turns errors into responses.

    ``mount`` is the route of the application's root, which knows where that is mounted.
    """

    mount: web.AbstractRoute

    def __init__(self, rules: _access.AccessRules) -> None:
        self._rules = rules

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Handle a request, or refuse it."""
        _ = NONCE.set(secrets.token_urlsafe(16))
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
        hosts = request.headers.getall(hdrs.HOST, [])
        refusal = _access.refusal(request.method, hosts, request.headers, self._rules)
        if refusal:
            raise Refusal(HTTPStatus.FORBIDDEN, refusal)
        if self._rules.token is None:
            return None
        return self._check_token(request, self._rules.token)

    def _check_token(self, request: web.Request, token: str) -> web.StreamResponse | None:
        in_link = request.query.get("token") if request.method in _access.SAFE_METHODS else None
        if in_link is not None and _access.is_token(in_link, token):
            return self._without_token(request, token)
        given = (
            _access.bearer_of(request.headers.get(hdrs.AUTHORIZATION, "")),
            request.cookies.get(COOKIE, ""),
        )
        if not any(_access.is_token(each, token) for each in given):
            message = "Open the link that was given to you, or send its token as a bearer token"
            raise Refusal(HTTPStatus.UNAUTHORIZED, message)
        return None

    def _without_token(self, request: web.Request, token: str) -> web.StreamResponse:
        """Move the token from the link into a cookie, since links are kept and passed on."""
        url = request.rel_url.without_query_params("token")
        # Relative, so that it cannot lead to another host.
        last = url.raw_path.rpartition("/")[2]
        query = f"?{url.raw_query_string}" if url.raw_query_string else ""
        response = web.Response(
            status=HTTPStatus.SEE_OTHER, headers={hdrs.LOCATION: f"./{last}{query}"}
        )
        response.set_cookie(
            COOKIE,
            token,
            path=str(self.mount.url_for()),
            httponly=True,
            samesite="Strict",
            secure=request.secure,
        )
        return response
