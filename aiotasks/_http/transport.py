"""The only path a request takes: slot, send, decode, retry.

Reads are retried; a merge is sent again only if it provably did not run, as the API has no
idempotency keys: https://developer.affinity.co/docs/v2
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeVar

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from aiotasks._checks import shorten
from aiotasks.backoff import is_worth_a_retry, retry_delay
from aiotasks.errors import (
    AffinityError,
    ClosedError,
    ConnectError,
    DecodeError,
    NetworkError,
    RateLimitError,
    RequestTimeoutError,
)
from aiotasks.models import RequestInfo

from . import wire
from .pacer import Lane, Pacer
from .rate_limit_headers import RateLimits, parse_rate_limit_headers
from .redaction import Redactor
from .slots import Slots
from .wire import Page, Request


T = TypeVar("T")

OnRequest = Callable[[RequestInfo], object]

log = logging.getLogger("aiotasks.http")

MAX_BODY: Final = 16 * 1024 * 1024
"""The largest body that is read, in bytes; a page of a hundred tasks has about 15,000."""

MAX_EMPTY_PAGES: Final = 20
"""How many empty pages of a list in a row are followed; filters may leave some empty."""

# The deadline is ours, since aiohttp's own timeouts cannot be distinguished from it. Only connecting
# is timed by aiohttp: that timeout proves that nothing was sent.
_CONNECT_TIMEOUT = 10.0
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT)
_CONNECT_ERRORS = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
# Choices: latency follows the answers by a quarter each, and the margin covers nearly all of their
# jitter. Too high a value only means that last polls start a little earlier.
_LATENCY_GAIN = 0.25
_JITTER_MARGIN = 6.0


class _Answer(NamedTuple):
    """An answer as it came; the body is None if it is too large to be read."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None


class Probe(NamedTuple):
    """An answer as it came, and how it came, for a diagnosis.

    ``received_at`` is in seconds since the epoch, by this machine's clock. ``certificate`` is as
    Python's ``ssl`` has it, if the answer came by TLS. The body is None if it is too large.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes | None
    seconds: float
    received_at: float
    certificate: Mapping[str, Any] | None


class Transport:
    """Sends requests to one origin, through one pacer."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        origin: str,
        headers: Mapping[str, str],
        pacer: Pacer,
        request_timeout: float,
        route: str,
        on_request: OnRequest | None = None,
    ) -> None:
        self.origin = origin
        self.slots = Slots(pacer)
        self.was_answered = False
        self.silent_since: float | None = None
        self._mean_latency: float | None = None
        self._jitter = 0.0
        self._session = session
        # aiohttp would make them anew from a dict for each request.
        self._headers = CIMultiDict(headers)
        self._redactor = Redactor(headers["Authorization"].removeprefix("Bearer "))
        self._body_headers = CIMultiDict({**headers, "Content-Type": "application/json"})
        self._request_timeout = request_timeout
        self._server = f"{origin}{route}"
        self._on_request = on_request
        self._loop = asyncio.get_running_loop()

    async def send(
        self,
        request: Request[T],
        *,
        lane: Lane = Lane.INTERACTIVE,
        before: Callable[[], Awaitable[object]] | None = None,
    ) -> T:
        """Send a request, retry it where that is safe and may help, and return the decoded answer.

        ``before`` is awaited once, when the request has its slot. If it raises, nothing is sent.

        Raises:
            AffinityError: the last of the failures.
        """
        attempt = 0
        while True:
            await self.slots.acquire(lane)
            if before is not None and not attempt:
                await self._in_slot(before)
            try:
                return await self.exchange(request)
            except AffinityError as error:
                attempt += 1
                if not is_worth_a_retry(error, attempt, is_read=request.method == "GET"):
                    raise
                is_paced = isinstance(error, RateLimitError)
                # After a 429 the pacer decides when to go on.
                delay = 0.0 if is_paced else retry_delay(attempt)
                _log_retry(request, error, attempt, delay)
            if not is_paced:
                await asyncio.sleep(delay)

    async def _in_slot(self, before: Callable[[], Awaitable[object]]) -> None:
        try:
            _ = await before()
        except BaseException:
            self.slots.give_back()
            raise

    async def pages(self, request: Request[Page[T]]) -> AsyncGenerator[T]:
        """Iterate over all items of a list, newest first.

        Raises:
            DecodeError: when the pages form a cycle, or are empty and do not end.
            AffinityError: when a page cannot be read.
        """
        seen = set()
        empty = 0
        following: Request[Page[T]] | None = request
        while following is not None:
            if following.target in seen:
                raise DecodeError(200, "its nextUrl leads back to an earlier page")
            seen.add(following.target)
            page = await self.send(following)
            empty = 0 if page.data else empty + 1
            if empty > MAX_EMPTY_PAGES:
                raise DecodeError(200, f"its list has {empty} empty pages in a row, and goes on")
            for item in page.data:
                yield item
            following = wire.follow(following, page, self.origin)

    async def exchange(self, request: Request[T]) -> T:
        """Send once, in a slot that the caller acquired, and give that back whatever happens.

        Raises:
            NetworkError: when no answer came.
            ResponseError: when the answer is an error.
            DecodeError: when the answer cannot be read.
        """
        try:
            status, headers, body = await self._receive(request)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # Outside of this block, nothing leads from the error that is raised to aiohttp's: that
            # one and its frames contain the request's headers.
            failure = self._network_error(error)
        else:
            if body is None:
                raise DecodeError(status, f"it is larger than {MAX_BODY} bytes")
            return wire.decode(request, status, headers, body)
        raise failure

    async def probe(self, request: Request[Any]) -> Probe:
        """Send a read once, and return its answer whatever it is.

        Raises:
            NetworkError: when no answer came.
            MonthlyQuotaError: when the month is used up.
        """
        await self.slots.acquire(Lane.INTERACTIVE)
        certificate: Mapping[str, Any] | None = None
        started = self._loop.time()

        def look(response: aiohttp.ClientResponse) -> None:
            nonlocal certificate
            # The public way to it, `connection`, is closed as soon as a short body is there.
            transport = getattr(getattr(response, "_protocol", None), "transport", None)
            certificate = transport and transport.get_extra_info("peercert")

        try:
            answer = await self._receive(request, look)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failure = self._network_error(error)
        else:
            now = datetime.now(UTC).timestamp()
            return Probe(*answer, self._loop.time() - started, now, certificate)
        raise failure

    async def _receive(
        self,
        request: Request[Any],
        look: Callable[[aiohttp.ClientResponse], object] | None = None,
    ) -> _Answer:
        pacer = self.slots.pacer
        started = self._loop.time()
        was_answered = False
        status, limits = None, None
        try:
            async with asyncio.timeout(self._request_timeout), self._send(request) as response:
                was_answered = self.was_answered = True
                limits = parse_rate_limit_headers(response.headers, datetime.now(UTC))
                status = response.status
                pacer.answer(self.slots.now(), status, limits)
                if look is not None:
                    _ = look(response)
                body = await _read_body(response)
        finally:
            if was_answered:
                self.silent_since = None
                self._learn_latency(self._loop.time() - started)
            elif self.silent_since is None:
                self.silent_since = started
            pacer.end(was_answered=was_answered)
            self.slots.pump()
            if self._on_request is not None or log.isEnabledFor(logging.DEBUG):
                self._report(request, started, status, limits)
        redactor = self._redactor
        return _Answer(
            response.status,
            redactor.headers(response.headers),
            None if body is None else redactor.body(body),
        )

    @property
    def latency(self) -> float:
        """Seconds in which nearly each request is answered now."""
        return (self._mean_latency or 0.0) + _JITTER_MARGIN * self._jitter

    def _learn_latency(self, seconds: float) -> None:
        if self._mean_latency is None:
            self._mean_latency = seconds
        # Only slower answers count as jitter, or an API that becomes faster would seem slower.
        above = max(0.0, seconds - self._mean_latency)
        self._jitter += (above - self._jitter) * _LATENCY_GAIN
        self._mean_latency += (seconds - self._mean_latency) * _LATENCY_GAIN

    def _report(
        self, request: Request[Any], started: float, status: int | None, limits: RateLimits | None
    ) -> None:
        info = RequestInfo(
            method=request.method,
            path=request.target.partition("?")[0],
            status=status,
            seconds=self._loop.time() - started,
            remaining=limits and limits.user_remaining,
            org_remaining=limits and limits.org_remaining,
        )
        if log.isEnabledFor(logging.DEBUG):
            words = "%(method)s %(path)s: %(status)s after %(seconds).3f s"
            log.debug(words, fields := info.to_dict(), extra=fields)
        if self._on_request is not None:
            try:
                _ = self._on_request(info)
            except Exception:
                # What counts requests must not decide what becomes of them.
                log.exception("on_request raised an error")

    def _send(self, request: Request[Any]) -> Any:
        if self._session.closed:
            raise ClosedError
        return self._session.request(
            request.method,
            URL(self.origin + request.target, encoded=True),
            data=request.body,
            headers=self._headers if request.body is None else self._body_headers,
            allow_redirects=False,
            raise_for_status=False,
            timeout=_TIMEOUT,
        )

    def _network_error(self, error: Exception) -> NetworkError:
        if isinstance(error, _CONNECT_ERRORS):
            reason = str(getattr(error, "os_error", error)) or type(error).__name__
            return ConnectError(f"No connection to {self._server} ({reason}). {_advice(error)}")
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return ConnectError(
                f"No connection to {self._server}: the proxy answers {error.status} "
                f"({shorten(self._redactor.text(error.message))}). Check its address, user and password."
            )
        if isinstance(error, TimeoutError):
            return RequestTimeoutError(
                f"No answer from {self._server} within {self._request_timeout:g} s. "
                "Try again later, or give the client a longer request_timeout."
            )
        # Its repr would contain the request.
        words = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
        what = f"{type(error).__name__}: {shorten(self._redactor.text(words))}"
        return NetworkError(f"The connection to {self._server} broke ({what}). Try again.")


def _advice(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "If your network replaces certificates, give its own as ca_file (--ca-file)."
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return "Check the proxy (HTTPS_PROXY) and the network."
    return "Check base_url (AFFINITY_BASE_URL) and the network."


def _log_retry(request: Request[Any], error: AffinityError, attempt: int, delay: float) -> None:
    if not log.isEnabledFor(logging.INFO):
        return
    fields = {
        "method": request.method,
        "path": request.target.partition("?")[0],
        "attempt": attempt,
        "seconds": delay,
        "error": type(error).__name__,
    }
    log.info(
        "%(method)s %(path)s: sent again, after attempt %(attempt)d (%(error)s)",
        fields,
        extra=fields,
    )


async def _read_body(response: aiohttp.ClientResponse) -> bytes | None:
    chunks = []
    size = 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_BODY:
            response.close()
            return None
    return b"".join(chunks)
