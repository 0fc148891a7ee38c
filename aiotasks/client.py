"""The client: the scope in which all requests are sent and all waiting happens."""

import asyncio
import math
import os
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Final, Literal, Self, Unpack, overload

import aiohttp

from ._background import running
from ._checks import callback, known_kind, positive, reject, switch, whole
from ._diagnose import Diagnostician
from ._http import urls, wire
from ._http.pacer import Pacer
from ._http.rate_limit_headers import limits_of
from ._http.redaction import without_arguments
from ._http.route import Route, route_to
from ._http.transport import OnRequest, Transport
from ._merges import MergeService
from ._open_client import OpenClient
from ._polling.peek_cache import PeekCache
from ._polling.poller import Poller
from ._polling.webhooks import read_hint
from ._settings import ClientSettings, request_headers, settings_from_env
from ._tasks import TaskService
from .diagnosis import Diagnosis
from .errors import ClosedError, ConfigurationError, NotFoundError
from .models import (
    CompanyMergeState,
    CompanyProfile,
    Kind,
    Lateness,
    PersonMergeState,
    PersonProfile,
    Quota,
)


__all__ = ["DEFAULT_BASE_URL", "Client", "ClientSettings"]

DEFAULT_BASE_URL: Final = urls.DEFAULT_BASE_URL


class Client:
    """A client of Affinity's merge API, open in an ``async with``, or from ``open`` to ``aclose``.

    ``tasks``, ``companies`` and ``persons`` have the verbs. All requests of a client share what it
    knows of the rate limits, and all its waits share their polls: open one for a whole program.
    Closing it ends everything that the client started on this side; waits that other tasks still
    have raise ``ClosedError``. What the server was asked to merge goes on there. A closed client
    can be opened again, on another event loop too; it knows nothing of the limits then.

    Args:
        api_key: A key of the v2 API. It is sent to ``base_url`` and nowhere else.
        base_url: The API's origin. Plain http is accepted for loopback addresses only, unless
            ``allow_http``.
        session: An aiohttp session to use. It is never closed here, and its traces, proxies and
            connector work as usual. Without one the client opens and closes its own.
        api_version: The version of the API to pin, such as ``"2026-09-17"`` or ``"current"``;
            without it the default of the key applies.
        request_timeout: Seconds until a request without an answer is given up.
        max_in_flight: The most requests in flight at once. The client starts with fewer, and
            goes back to fewer when the API refuses some.
        reserve: Calls of the organization's monthly quota to leave to others: with no more than
            these remaining, requests raise ``MonthlyQuotaError``.
        allow_http: Whether plain http may be used for any host. The key can then be read by
            everybody who can see the traffic: it is meant for a sandbox in another container.
        calls_per_minute: The most calls that this client sends in any minute, also where the API
            would take more; what is left is for others with the key.
        proxy: The URL of a proxy to go through, such as ``"http://proxy.example.com:3128"``. It
            is asked for a tunnel, and never for loopback. The environment's proxies are not used.
        ca_file: A file of certificates in PEM format to trust besides the system's.
        on_request: Called with a ``RequestInfo`` after each request, for metrics. What it raises is
            logged, and has no other effect.

    Raises:
        ConfigurationError: when a setting cannot be used.
    """

    @without_arguments
    def __init__(
        self,
        api_key: str,
        *,
        base_url: str = DEFAULT_BASE_URL,
        session: aiohttp.ClientSession | None = None,
        api_version: str | None = None,
        request_timeout: float = 30.0,
        max_in_flight: int = 16,
        reserve: int = 0,
        allow_http: bool = False,
        calls_per_minute: int | None = None,
        proxy: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        on_request: OnRequest | None = None,
    ) -> None:
        self.base_url = urls.parse_base_url(base_url, allow_http=switch("allow_http", allow_http))
        self._headers = request_headers(api_key, api_version)
        self._borrowed = session
        self._route = route_to(self.base_url, proxy=proxy, ca_file=ca_file)
        if session is not None:
            if proxy is not None or ca_file is not None:
                reject("A given session has its own way: give proxy and ca_file to that instead")
            self._route = Route()
        self._request_timeout = positive("request_timeout", request_timeout)
        self._on_request = callback("on_request", on_request)
        self._max_in_flight = whole("max_in_flight", max_in_flight, at_least=1)
        self._reserve = whole("reserve", reserve, at_least=0)
        self._calls_per_minute = calls_per_minute
        if calls_per_minute is not None:
            _ = whole("calls_per_minute", calls_per_minute, at_least=1)
        self._pacer = self._new_pacer()
        self._opened: OpenClient | None = None
        self._exit = AsyncExitStack()
        self._was_used = False
        self._tasks = TaskService(self._require_open)
        self._companies: MergeService[CompanyMergeState, CompanyProfile] = MergeService(
            self._require_open, "company"
        )
        self._persons: MergeService[PersonMergeState, PersonProfile] = MergeService(
            self._require_open, "person"
        )

    @classmethod
    @without_arguments
    def from_env(cls, **settings: Unpack[ClientSettings]) -> Self:
        """Return a client with the settings of the environment.

        ``AFFINITY_API_KEY`` is needed; ``AFFINITY_BASE_URL``, ``AFFINITY_API_VERSION`` and
        ``AFFINITY_ALLOW_HTTP`` (1, or 0) are used where they are set. Settings given here win.

        Raises:
            ConfigurationError: when there is no key, or a setting cannot be used.
        """
        return cls(**settings_from_env(settings))

    def __repr__(self) -> str:
        state = "closed" if self._was_used else "not entered"
        if self._opened is not None:
            state = f"{self._opened.poller!r} {self._opened.transport.slots!r}"
        return f"<Client {self.base_url}: {state}>"

    @property
    def tasks(self) -> TaskService:
        """The verbs for tasks: ``get``, ``peek``, ``wait``, ``wait_many``, ``watch``, ``list``."""
        return self._tasks

    @property
    def companies(self) -> MergeService[CompanyMergeState, CompanyProfile]:
        """The verbs for companies: ``merge``, the history, the suggestions and the records."""
        return self._companies

    @property
    def persons(self) -> MergeService[PersonMergeState, PersonProfile]:
        """The verbs for persons, the same as for companies."""
        return self._persons

    @overload
    def merges_of(
        self, kind: Literal["company"]
    ) -> MergeService[CompanyMergeState, CompanyProfile]: ...
    @overload
    def merges_of(
        self, kind: Literal["person"]
    ) -> MergeService[PersonMergeState, PersonProfile]: ...
    def merges_of(
        self, kind: Kind
    ) -> (
        MergeService[CompanyMergeState, CompanyProfile]
        | MergeService[PersonMergeState, PersonProfile]
    ):
        """Return ``companies`` or ``persons``, for code that takes the kind as an argument.

        Raises:
            ConfigurationError: when the kind is neither ``"company"`` nor ``"person"``.
        """
        return self.companies if known_kind(kind) == "company" else self.persons

    @property
    def quota(self) -> Quota:
        """What is known of the rate limits. Reading it sends nothing."""
        if self._opened is None:
            return self._pacer.quota(-math.inf)
        slots = self._opened.transport.slots
        return self._pacer.quota(self._opened.loop.time(), waiting=slots.waiting)

    @property
    def pending(self) -> int:
        """How many tasks are waited for now; a task with several waits counts for each."""
        return 0 if self._opened is None else self._opened.poller.pending

    @property
    def lateness(self) -> Lateness:
        """How late the tasks became visible that this client has started and polled."""
        return Lateness() if self._opened is None else self._opened.poller.lateness

    @property
    def silent_for(self) -> float:
        """Seconds for which no request was answered, from when the first of these was sent.

        It is 0 while requests are answered, even by errors, and when none was sent.
        """
        if self._opened is None or self._opened.transport.silent_since is None:
            return 0.0
        return self._opened.loop.time() - self._opened.transport.silent_since

    async def user_id(self) -> int:
        """Ask the API for the id of the user whose key it is, by one call.

        Two keys of a user share the limit of requests a minute, and see the same merges.

        Raises:
            AffinityError: when it cannot be learned, after retries.
        """
        identity = await self._require_open().transport.send(wire.get_identity())
        return identity.user.id

    async def refresh_quota(self) -> Quota:
        """Ask the API for what is left of the limits, by one call, and return what is known then.

        Versions of the API before 2026-07-15 have no such call. They refuse it, and the headers
        of that refusal carry the same numbers.

        Raises:
            AffinityError: when it cannot be learned, after retries.
        """
        opened = self._require_open()
        with suppress(NotFoundError):
            answer = await opened.transport.send(wire.get_rate_limit())
            self._pacer.learn(opened.loop.time(), limits_of(answer))
        return self.quota

    async def diagnose(
        self, *, task_urls: Iterable[str] | None = None, lateness: Lateness | None = None
    ) -> Diagnosis:
        """Find out whether a job could run now, and what cannot be known from the documents.

        It only reads, by at most 20 calls, and raises none of the API's errors:
        what is in the way is the ``error`` of the result. Its ``text`` is a page for people,
        without key, names and ids.

        Args:
            task_urls: The tasks that are your own, to tell how many others are under way.
            lateness: What is known from before of how late tasks become visible.

        Raises:
            ClosedError: when the client is not open.
            ConfigurationError: when one is not a task URL.
        """
        opened = self._require_open()
        own = None
        if task_urls is not None:
            own = {urls.parse_task_url(url, self.base_url) for url in task_urls}
        lateness = self.lateness + (lateness or Lateness())
        asking = Diagnostician(opened, own=own, lateness=lateness)
        return await asking.diagnose(reserve=self._reserve)

    def hint(self, payload: object) -> bool:
        """Use a webhook's body to poll a task early, and return whether a poll was brought forward.

        Affinity's webhooks (``organization.merged``, ``person.merged``) are unsigned, so a hint
        proves nothing: it makes the client poll the task that merges that record away, or the one
        that was polled the longest ago. At most one hint a second has an effect, whatever their
        source. Without a wait nothing is sent, and any other payload is ignored.

        Args:
            payload: The body as received, or its JSON decoded.

        Raises:
            ClosedError: when the client is not open.
        """
        hint = read_hint(payload)
        return hint is not None and self._require_open().poller.follow(hint)

    async def open(self) -> Self:
        """Open the client outside an ``async with``, and return it; ``aclose`` closes it.

        Made for dependency injection and notebooks: both may be called in different tasks.

        Raises:
            ClosedError: when it is open already, or was given a session that is closed.
            ConfigurationError: when the session has an ``auth`` of its own.
        """
        await self._forget_closed_loop()
        self._pacer = self._new_pacer()
        async with AsyncExitStack() as stack:
            session = self._borrowed_session()
            if session is None:
                session = await stack.enter_async_context(self._route.open_session())
            transport = Transport(
                session,
                origin=self.base_url,
                headers=self._headers,
                pacer=self._pacer,
                request_timeout=self._request_timeout,
                route=self._route.words,
                on_request=self._on_request,
            )
            poller = Poller(transport)
            polls = running(
                poller.run(),
                name="aiotasks: poller",
                end=asyncio.Task.cancel,
                on_crash=poller.close,
            )
            await stack.enter_async_context(polls)
            # Callbacks run last in, first out: waits end, slots close, then the poller is cancelled.
            _ = stack.callback(transport.slots.close)
            _ = stack.callback(poller.close)
            self._opened = OpenClient(
                asyncio.get_running_loop(), session, transport, poller, PeekCache()
            )
            self._exit = stack.pop_all()
            self._was_used = True
        return self

    async def aclose(self) -> None:
        """Close the client. Closing one that is not open does nothing.

        Raises:
            ClosedError: when it was opened on another event loop, which still exists.
        """
        if self._opened is None:
            return
        _ = self._require_open()
        self._opened = None
        await self._exit.aclose()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _forget_closed_loop(self) -> None:
        """Let go of a loop that was closed while the client was open on it."""
        if self._opened is None:
            return
        if not self._opened.loop.is_closed():
            message = "The client is open already: close it first, or make another one"
            raise ClosedError(message)
        opened, self._opened = self._opened, None
        # Closing the loop ended the tasks; nothing but the sockets is left.
        if opened.session is not self._borrowed:
            await opened.session.close()

    def _new_pacer(self) -> Pacer:
        # Its times are those of one event loop.
        return Pacer(
            max_in_flight=self._max_in_flight,
            reserve=self._reserve,
            calls_per_minute=self._calls_per_minute,
        )

    def _borrowed_session(self) -> aiohttp.ClientSession | None:
        if self._borrowed is None:
            return None
        if self._borrowed.closed:
            message = "The given session is closed: give one that is open"
            raise ClosedError(message)
        if self._borrowed.auth is not None:
            message = "The given session has an `auth` of its own: give one without"
            raise ConfigurationError(message)
        return self._borrowed

    def _require_open(self) -> OpenClient:
        if self._opened is None:
            raise ClosedError
        if self._opened.loop is not asyncio.get_running_loop():
            message = "The client belongs to another event loop: use one client for each loop"
            raise ClosedError(message)
        return self._opened
