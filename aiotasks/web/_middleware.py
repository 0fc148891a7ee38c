"""The gate that every request passes, and every answer."""

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
"""What the content security policy of the present answer lets run."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gate:
    """Lets in whom the rules allow, and makes answers of errors.

    ``mount`` is the route of the application's root: it knows where that is mounted.
    """

    mount: web.AbstractRoute

    def __init__(self, rules: _access.AccessRules) -> None:
        self._rules = rules

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request, or refuse it."""
        _ = NONCE.set(secrets.token_urlsafe(16))
        try:
            return self._check(request) or await handler(request)
        except web.HTTPException as failure:
            told = {"error": _responses.told_of_http(failure)}
            answer = _responses.error(request, failure.status, told)
            if hdrs.ALLOW in failure.headers:
                answer.headers[hdrs.ALLOW] = failure.headers[hdrs.ALLOW]
            return answer
        except ConnectionError:
            # Whoever sent it is gone: there is nobody to be told, and nothing to be logged.
            return web.Response(status=HTTPStatus.BAD_REQUEST)
        except AffinityError as failure:
            status, told = _responses.told_of(failure)
            return _responses.error(request, status, told)

    async def prepare(self, _: web.Request, answer: web.StreamResponse) -> None:
        """Give an answer the headers that all have."""
        answer.headers.update(_access.security_headers(NONCE.get()))

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
        shown = (
            _access.bearer_of(request.headers.get(hdrs.AUTHORIZATION, "")),
            request.cookies.get(COOKIE, ""),
        )
        if not any(_access.is_token(each, token) for each in shown):
            message = "Open the link that was given to you, or send its token as a bearer token"
            raise Refusal(HTTPStatus.UNAUTHORIZED, message)
        return None

    def _without_token(self, request: web.Request, token: str) -> web.StreamResponse:
        """Put the token into a cookie: links are shown, kept and passed on."""
        url = request.rel_url.without_query_params("token")
        # Relative, so that it leads to nowhere else.
        last = url.raw_path.rpartition("/")[2]
        query = f"?{url.raw_query_string}" if url.raw_query_string else ""
        answer = web.Response(
            status=HTTPStatus.SEE_OTHER, headers={hdrs.LOCATION: f"./{last}{query}"}
        )
        answer.set_cookie(
            COOKIE,
            token,
            path=str(self.mount.url_for()),
            httponly=True,
            samesite="Strict",
            secure=request.secure,
        )
        return answer
