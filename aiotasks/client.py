"""The client: the scope in which all requests are sent and all waiting happens."""

import asyncio
import math
import os
import re
from contextlib import suppress
from importlib.metadata import version
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, overload

import aiohttp

from ._checks import known_kind, positive, whole
from ._http import urls, wire
from ._http.limits import limits_of
from ._http.pacer import Pacer
from ._http.transport import Transport
from ._merges import MergeService
from ._polling.poller import Poller
from ._polling.webhooks import read_hint
from ._tasks import TaskService
from .errors import ClosedError, ConfigurationError, NotFoundError
from .models import (
    CompanyMergeState,
    CompanyProfile,
    Kind,
    PersonMergeState,
    PersonProfile,
    Quota,
)


_KEY = re.compile(r"[!-~]+", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9.-]{1,32}", re.ASCII)


class Client:
    """A client of Affinity's merge API, for the length of an ``async with``.

    ``tasks``, ``companies`` and ``persons`` have the verbs. All requests of a client share its
    knowledge of the limits, and all its waits share their looks at the tasks: open one for a whole
    program. Leaving the scope ends everything that it started on this side; waits that still go on
    in other tasks get a ``ClosedError``. What the server was asked to merge goes on there.

    Args:
        api_key: A key of the v2 API. It is sent to ``base_url`` and nowhere else.
        base_url: The API's origin. Plain http is accepted for loopback addresses only.
        session: An aiohttp session to use. It is never closed here, and its traces, proxies and
            connector work as usual. Without one the client opens and closes its own.
        api_version: The version of the API to pin, such as ``"2026-09-17"`` or ``"current"``;
            without it the default of the key applies.
        request_timeout: Seconds until an unanswered request is given up.
        max_in_flight: The most requests that are sent at once; fewer at first, and fewer after
            the API refused some.
        reserve: Calls of the organization's month that are left to others: with no more than
            these remaining, requests raise ``MonthlyQuotaError``.

    Raises:
        ConfigurationError: when a setting cannot be used.
    """

    def __init__(
        self,
        api_key: str,
        *,
        base_url: str = urls.DEFAULT_BASE_URL,
        session: aiohttp.ClientSession | None = None,
        api_version: str | None = None,
        request_timeout: float = 30.0,
        max_in_flight: int = 16,
        reserve: int = 0,
    ) -> None:
        self.base_url = urls.parse_base_url(base_url)
        self._headers = _headers(api_key, api_version)
        self._borrowed = session
        self._request_timeout = positive("request_timeout", request_timeout)
        self._pacer = Pacer(
            max_in_flight=whole("max_in_flight", max_in_flight, at_least=1),
            reserve=whole("reserve", reserve, at_least=0),
        )
        self._scope: _Scope | None = None
        self._was_used = False
        self.tasks = TaskService(self._poller)
        self.companies: MergeService[CompanyMergeState, CompanyProfile] = MergeService(
            self._poller, "company"
        )
        self.persons: MergeService[PersonMergeState, PersonProfile] = MergeService(
            self._poller, "person"
        )

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

    @classmethod
    def from_env(cls, **settings: Any) -> Self:
        """Return a client as the environment says.

        ``AFFINITY_API_KEY`` is needed; ``AFFINITY_BASE_URL`` and ``AFFINITY_API_VERSION`` are
        used where they are set. Settings given here win.

        Raises:
            ConfigurationError: when there is no key, or a setting cannot be used.
        """
        names = {
            "api_key": "AFFINITY_API_KEY",
            "base_url": "AFFINITY_BASE_URL",
            "api_version": "AFFINITY_API_VERSION",
        }
        found = {key: os.environ[name] for key, name in names.items() if os.environ.get(name)}
        if "api_key" not in found | settings:
            message = "There is no API key: set AFFINITY_API_KEY, or give api_key to Client"
            raise ConfigurationError(message)
        return cls(**{**found, **settings})

    def __repr__(self) -> str:
        state = "closed" if self._was_used else "not entered"
        if self._scope is not None:
            state = f"{self._scope.poller!r} {self._scope.poller.transport.slots!r}"
        return f"<Client {self.base_url}: {state}>"

    @property
    def quota(self) -> Quota:
        """What is known of the limits. Reading it sends nothing."""
        if self._scope is None:
            return self._pacer.quota(-math.inf)
        slots = self._scope.poller.transport.slots
        return self._pacer.quota(self._scope.loop.time(), waiting=slots.waiting)

    @property
    def silent_for(self) -> float:
        """Seconds for which no request was answered, from when the first of these was sent.

        It is 0 as long as requests are answered, be it by errors, and when none was sent.
        """
        if self._scope is None or self._scope.poller.transport.silent_since is None:
            return 0.0
        return self._scope.loop.time() - self._scope.poller.transport.silent_since

    async def refresh_quota(self) -> Quota:
        """Ask the API what is left, by one call, and return what is known then.

        A version of the API that has no such call (before 2026-07-15) tells it all the same, with
        the headers of its refusal.

        Raises:
            AffinityError: when it cannot be learned, after retries.
        """
        poller = self._poller()
        with suppress(NotFoundError):
            told = await poller.transport.send(wire.get_rate_limit())
            self._pacer.learn(self._open_scope().loop.time(), limits_of(told))
        return self.quota

    def hint(self, payload: object) -> bool:
        """Let a webhook's body bring a look forward, and return whether it did.

        Affinity's webhooks (``organization.merged``, ``person.merged``) are unsigned, so a hint
        proves nothing: it makes the client look at once at the task that merges that record away,
        or at one that was not looked at for long. At most one a second is followed, whoever sends
        them. Nothing is sent where nobody waits, and what is no such body is ignored.

        Args:
            payload: The body as it came, or what its JSON says.

        Raises:
            ClosedError: when the client is not open.
        """
        hint = read_hint(payload)
        return hint is not None and self._poller().follow(hint)

    async def __aenter__(self) -> Self:
        if self._was_used:
            message = "A client can be entered once: make a new Client for each `async with`"
            raise ClosedError(message)
        self._was_used = True
        session = self._session()
        transport = Transport(
            session,
            origin=self.base_url,
            headers=self._headers,
            pacer=self._pacer,
            request_timeout=self._request_timeout,
        )
        poller = Poller(transport)
        group = await asyncio.TaskGroup().__aenter__()
        runner = group.create_task(poller.run(), name="aiotasks: poller")
        loop = asyncio.get_running_loop()
        self._scope = _Scope(loop, session, poller, group, runner)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        scope, self._scope = self._open_scope(), None
        scope.poller.close()
        scope.poller.transport.slots.close()
        _ = scope.runner.cancel()
        try:
            # Told of no error, the group leaves that of the body as it is, in no ExceptionGroup.
            await scope.group.__aexit__(None, None, None)
        finally:
            if self._borrowed is None:
                await scope.session.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._borrowed is None:
            return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        if self._borrowed.closed:
            message = "The given session is closed: give one that is open"
            raise ClosedError(message)
        if self._borrowed.auth is not None:
            message = "The given session has an `auth` of its own: give one without"
            raise ConfigurationError(message)
        return self._borrowed

    def _open_scope(self) -> "_Scope":
        if self._scope is None:
            raise ClosedError
        if self._scope.loop is not asyncio.get_running_loop():
            message = "The client belongs to another event loop: use one client for each loop"
            raise ClosedError(message)
        return self._scope

    def _poller(self) -> Poller:
        return self._open_scope().poller


class _Scope(NamedTuple):
    loop: asyncio.AbstractEventLoop
    session: aiohttp.ClientSession
    poller: Poller
    group: asyncio.TaskGroup
    runner: asyncio.Task[None]


def _headers(api_key: object, api_version: object) -> dict[str, str]:
    # The key is not shown, however wrong it is.
    if not isinstance(api_key, str) or _KEY.fullmatch(api_key) is None:
        message = "The API key must be a text without spaces or line ends: check AFFINITY_API_KEY"
        raise ConfigurationError(message)
    headers = {
        "Authorization": f"Bearer {api_key}",
        "Accept": "application/json",
        "User-Agent": f"aiotasks/{version('affinity-aiotasks')}",
    }
    if api_version is None:
        return headers
    if not isinstance(api_version, str) or _VERSION.fullmatch(api_version) is None:
        message = f"api_version must look like '2026-09-17' or 'current', not {api_version!r}"
        raise ConfigurationError(message)
    return {**headers, "X-Affinity-Api-Version": api_version}
