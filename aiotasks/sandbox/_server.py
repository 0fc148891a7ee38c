"""The sandbox: a server on loopback, with methods to control and inspect it."""

import asyncio
import logging
import re
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from random import Random
from types import EllipsisType
from typing import Self
from urllib.parse import parse_qs

from aiohttp import web

from aiotasks.sandbox._app import App, Clock
from aiotasks.sandbox._faults import OPERATIONS, Fault, Faults, is_share
from aiotasks.sandbox._limits import MONTH, Limits, Window
from aiotasks.sandbox._log import LoggedRequest, SandboxMerge, repeated
from aiotasks.sandbox._records import KINDS, Directory, KindName
from aiotasks.sandbox._reply import Reply
from aiotasks.sandbox._routes import ApiRequest, Route, find
from aiotasks.sandbox._settings import ANY_HOST, Settings
from aiotasks.sandbox._state import (
    FAILED,
    IN_PROGRESS,
    SUCCESS,
    Draw,
    Merge,
    Pair,
    State,
    Task,
    draw,
)
from aiotasks.sandbox._store import Store


log = logging.getLogger("aiotasks.sandbox")

TOO_MANY = 429
# Bounded, so that a sandbox that serves for days does not grow.
_LOG_SIZE = 10_000
# Handlers are cancelled first, so only one that survives its cancellation takes this long.
_SHUTDOWN = 0.1
_TASK_URL = re.compile(r"/tasks/(company|person)-merges/([^/]+)$")


class Sandbox(Settings):
    """Serve the merge API on loopback while the scope is open.

    All its time is the running loop's, so tests on a virtual clock need no real seconds. The same
    ``seed`` and the same requests give the same ids, durations and failures. Leaving the scope
    closes the server at once, whatever requests are still open. A sandbox is entered only once.

    Durations and latencies are seconds: a number for always the same, a pair for anything between,
    or a function that draws one from the ``random.Random`` it is given. Companies and persons have
    the ids from 1 to the number given, or exactly the ids given; every second one is a duplicate
    of the one before it.

    Settings of merges and answers (``duration``, ``failure_rate``, ``latency``, ``list_lag``,
    ``permissions``, ...) may be changed while it serves, for what starts from then on; the quota by
    ``set_quota``.

    By default it has the habits of the real server that its document does not tell. Each has a
    switch, and ``Sandbox(**PLAIN)`` has none of them, for tests that count calls:

    ===================== ============================================== ==============
    setting               the real server                                ``PLAIN``
    ===================== ============================================== ==============
    ``checks_posts``      accepts each merge, and lets what cannot be    refuses at once
                          fail when it ends
    ``global_companies``  a tenth are shared with other organizations,   none
                          which decides what becomes of a merge
    ``internal_persons``  one in fifty is of the organization itself,    none
                          and cannot be merged into another
    ``rows_for_global``   lists no merge while its primary is global or  all merges
                          gone
    ``task_lag``,         three in ten of the new tasks answer 404 for   0
    ``task_lag_share``    up to 2 seconds
    ``empty_share``       one in a hundred answers about a task has no   0
                          body
    ``gone_status``       a record that was merged away answers 404      422, naming
                                                                         what it became
    ===================== ============================================== ==============

    A global primary turns into a local copy with the same id. If the duplicate is global too, or
    has a domain that the primary has not, both are replaced by a new company instead. Further
    habits have to be asked for: ``list_lag``, ``unlisted_share``, ``list_shuffle``, ``record_lag``,
    and a ``duration`` of minutes.

    Args:
        host: where to listen; ``0.0.0.0`` for other machines and containers too. Task URLs then
            begin with the address by which each client has reached it.
        port: where to listen; 0 takes a free one.
        api_key: the only key that is accepted.
        api_version: the version that answers requests which name none.
        permissions: whether the key may manage duplicates.
        quota: requests in each ``window``; 0 for no limit and no headers about it.
        window: seconds after which the quota is fresh.
        window_offset: seconds from the start to the first fresh quota; 0 for a whole window.
        month_quota: requests in 30 days; 0 for no limit and no headers about it.
        max_concurrent: requests that may be open at once; None for any number.
        retry_after: whether a refusal says when to come back.
        duration: how long a merge takes.
        failure_rate: share of the merges that fail, from 0 to 1.
        checks_posts: whether a merge that cannot be is refused at once: of a record with itself
            or that is gone with 422, of one that takes part in another merge with 409. Otherwise
            each is accepted and fails when it ends, but with itself it succeeds.
        exclusive_primary: whether a record can receive only one merge at a time, where that is
            checked.
        latency: how long an answer takes; its work is done when the request arrives.
        rows_for_global: whether merges are listed whose primary is global or gone.
        list_lag: seconds until a new task or merge appears in the lists.
        unlisted_share: share of the new tasks which never appear there.
        list_shuffle: by how many places a task or merge may stand above where it belongs.
        task_lag: seconds until a new task can be read by its id.
        task_lag_share: share of the new tasks for which that is so.
        empty_share: share of the answers about a task that have no body.
        record_lag: how many seconds old the records are that are read.
        gone_status: what a record answers that is gone: 404, or 422 with what it became.
        public_url: what task URLs begin with; None for the URL of the sandbox.
        companies: how many companies there are, or their ids.
        persons: how many persons there are, or their ids.
        global_companies: which share of the companies is global, or the ids of these.
        internal_persons: which share of the persons is internal, or the ids of these.
        faults: faults to inject at the start, or texts for ``Fault.parse``.
        seed: the seed of all random numbers.
        on_request: called with each request before it is answered, so that a test can change
            something at that moment. It may be changed while the sandbox serves.

    Attributes:
        requests: how many requests have arrived.
        refused: how many of them were answered with 429.
        calls: how many of them asked for each operation, such as ``merge`` or ``tasks``.
        in_flight: how many are open now.
        max_in_flight: how many were open at once at most.

    Raises:
        ValueError: a setting makes no sense; the message names it.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.requests = 0
        self.refused = 0
        self.calls: Counter[str] = Counter()
        self.in_flight = 0
        self.max_in_flight = 0
        self._log: deque[LoggedRequest] = deque(maxlen=_LOG_SIZE)
        self._url = ""
        self._handlers: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.TimerHandle] = set()
        self._answers = count(1)
        self._latencies = Random(self.seed)  # noqa: S311 - the same seed has to give the same numbers
        self._faults = Faults(Random(f"{self.seed} faults"))  # noqa: S311 - as above
        for fault in self.faults:
            self.inject(fault)

    def __repr__(self) -> str:
        if not self._url:
            return "<Sandbox: not entered>"
        now = self._now()
        running = sum(
            task.status(now) == IN_PROGRESS for kind in KINDS for task in self._decided(kind).tasks
        )
        return f"<Sandbox {self._url}: {self.requests} requests, {running} tasks in progress>"

    async def __aenter__(self) -> Self:
        if self._url:
            message = "A Sandbox serves only once: make a new one for each scope."
            raise RuntimeError(message)
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.host, self.port).start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        for handler in self._handlers:
            handler.cancel()
        for timer in self._late:
            timer.cancel()
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        """The base URL, without a slash at the end."""
        self._now()
        return self._url

    @property
    def log(self) -> list[LoggedRequest]:
        """The newest 10,000 requests in the order of their arrival, refused ones too.

        A request is in it as soon as it has arrived with its whole body.
        """
        return [*self._log]

    def inject(
        self,
        fault: Fault | str,
        *,
        on: str | EllipsisType | None = ...,
        times: int | EllipsisType | None = ...,
        share: float | EllipsisType = ...,
    ) -> None:
        """Make the next requests fail, after the faults that were injected before.

        Only admitted requests are affected: those with the right key and within the limits.

        Args:
            fault: the fault, or a text for ``Fault.parse``.
            on: the operation that it hits; None for any. By default what the fault says.
            times: how many requests it hits; None for all. By default what the fault says.
            share: which part of the requests it may hit, by chance from the seed; a request that
                it spares is left to the next fault. By default what the fault says.

        Raises:
            ValueError: the text names no fault, ``on`` no operation, ``times`` no number of
                requests, or ``share`` no part of them.
        """
        if isinstance(fault, str):
            fault = Fault.parse(fault)
        if on not in {..., None, *OPERATIONS}:
            message = f"on has to be None or one of {', '.join(OPERATIONS)}, not {on!r}"
            raise ValueError(message)
        if isinstance(times, int) and times < 1:
            message = f"times has to be None or 1 and more, not {times!r}"
            raise ValueError(message)
        if not isinstance(share, EllipsisType):
            fault = replace(fault, share=share)
        if not is_share(fault.share):
            message = f"share has to be more than 0 and at most 1, not {fault.share!r}"
            raise ValueError(message)
        if not isinstance(on, EllipsisType):
            fault = replace(fault, on=() if on is None else (on,))
        if not isinstance(times, EllipsisType):
            fault = replace(fault, times=times)
        self._faults.add(fault)

    def clear_faults(self) -> None:
        """Remove all faults that have not happened yet."""
        self._faults.clear()

    def start_merge(
        self,
        kind: KindName,
        primary_id: int,
        duplicate_id: int,
        *,
        duration: Draw | None = None,
        outcome: str | None = None,
        reason: str | None = None,
        task_url: str | None = None,
    ) -> str:
        """Start a merge without a request, as another user would, and return its task URL.

        Nothing is refused, and it does not count as posted.

        Args:
            kind: what the records are.
            primary_id: the record that the other is merged into.
            duplicate_id: the record that is merged away.
            duration: how long it takes; ``math.inf`` until ``finish``. By default as for all.
            outcome: ``success``, ``failed`` or any other status. By default as for all.
            reason: why it fails; implies the outcome ``failed``.
            task_url: the task that it joins, so that the task becomes a batch.
        """
        now = self._now()
        task = self._task(task_url)[1] if task_url is not None else None
        task = self._app.states[kind].start(
            primary_id,
            duplicate_id,
            now,
            duration=duration,
            outcome=outcome,
            reason=reason,
            task=task,
        )
        return self._app.task_url(kind, task)

    def finish(
        self, task_url: str, *, outcome: str | None = None, reason: str | None = None
    ) -> None:
        """End the merges of a task that are in progress, now.

        Made for tests that decide when a merge ends and how: with a ``duration`` of ``math.inf``
        no merge ends before.

        Args:
            task_url: The task, as ``merge`` or ``start_merge`` returned it.
            outcome: ``success``, ``failed``, or any other status. By default a success, and a
                failure with a ``reason``.
            reason: Why it fails.

        Raises:
            ValueError: when the sandbox has no such task.
        """
        state, task = self._task(task_url)
        outcome = outcome or (FAILED if reason else SUCCESS)
        state.finish(task, self._now(), outcome=outcome, reason=reason)

    def set_status(self, task_url: str, status: str | None) -> None:
        """Make a task report a status, whatever its merges do; None restores its own."""
        self._task(task_url)[1].shown = status

    def status(self, task_url: str) -> str:
        """Return the status that a task reports now."""
        state, task = self._task(task_url)
        state.decide(self._now())
        return task.status(self._now())

    def task_urls(self, kind: KindName) -> list[str]:
        """List the tasks of all merges, oldest first."""
        self._now()
        return [self._app.task_url(kind, task) for task in self._app.states[kind].tasks]

    def merged(self, kind: KindName) -> dict[int, int]:
        """Map each record that is gone to the one that has taken its place."""
        return self._decided(kind).store.heirs()

    def history(self, kind: KindName) -> list[SandboxMerge]:
        """List all merges in the order in which they were started, with what became of them.

        This is the server's memory: it has what no answer, list or row shows, and is what a test
        can hold the words of a client against.
        """
        return [self._remembered(kind, merge) for merge in self._decided(kind).merges]

    def repeated(self, kind: KindName) -> set[Pair]:
        """Return the pairs that a client merged twice.

        These were asked for again, and accepted, while their first merge was in progress or after
        it had succeeded. Trying again after a failure is no repetition.
        """
        return repeated(self.history(kind))

    def posted(self, kind: KindName) -> Counter[Pair]:
        """Count the accepted merge requests for each pair of primary and duplicate."""
        self._now()
        return self._app.states[kind].posted.copy()

    def use_quota(self, count: int) -> None:
        """Spend requests of this minute and month, as another program with the same key would."""
        now = self._now()
        self._app.limits.use(count, now)

    def set_quota(self, quota: int) -> None:
        """Change the requests in each window, this one included; 0 for no limit."""
        self._now()
        self._app.limits.minute.limit = quota

    def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        host = ANY_HOST.get(self.host, self.host)
        host = f"[{host}]" if ":" in host else host
        self._url = f"http://{host}:{self._runner.addresses[0][1]}"
        origin = now + self.window_offset
        self._app = App(
            {kind: self._state(kind) for kind in KINDS},
            limits=Limits(
                minute=Window(self.quota, self.window, origin=origin),
                month=Window(self.month_quota, MONTH, origin=now),
                max_concurrent=self.max_concurrent,
            ),
            settings=self,
            clock=Clock(started=now, epoch=time.time()),
            task_origin=(self.public_url or self._url).rstrip("/"),
            has_any_name=self.host in ANY_HOST and self.public_url is None,
        )

    def _state(self, kind: KindName) -> State:
        ids, special = (
            (self.companies, self.global_companies)
            if kind == "company"
            else (self.persons, self.internal_persons)
        )
        seed = f"{self.seed} {kind}"
        directory = Directory(KINDS[kind], ids, special=special, seed=f"{seed} special")
        return State(KINDS[kind], Store(directory), settings=self, seed=seed)

    def _decided(self, kind: KindName) -> State:
        state = self._app.states[kind]
        state.decide(self._now())
        return state

    def _remembered(self, kind: KindName, merge: Merge) -> SandboxMerge:
        fate = merge.fate
        return SandboxMerge(
            primary_id=merge.primary_id,
            duplicate_id=merge.duplicate_id,
            task_url=self._app.task_url(kind, merge.task),
            is_foreign=merge.is_foreign,
            started=merge.started,
            ended=merge.ends if fate else None,
            outcome=merge.outcome if fate else None,
            reason=merge.reason if fate else None,
            effect=fate.effect if fate else None,
            can_undo=fate.can_undo if fate else None,
            new_id=fate.new_id if fate else None,
        )

    def _now(self) -> float:
        if not self._url:
            message = "Enter the Sandbox first: async with Sandbox() as sandbox."
            raise RuntimeError(message)
        return self._loop.time()

    def _task(self, task_url: str) -> tuple[State, Task]:
        self._now()
        found = _TASK_URL.search(task_url)
        state = self._app.states["person" if found and found[1] == "person" else "company"]
        task = state.task_by_id.get(found[2]) if found else None
        if task is None:
            message = f"task_url {task_url!r} names no task of this sandbox"
            raise ValueError(message)
        return state, task

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        route = find(request.method, request.path)
        with self._counted(route.operation, request.task):
            call = ApiRequest(
                method=request.method,
                path=request.path,
                query=parse_qs(request.rel_url.raw_query_string, keep_blank_values=True),
                headers=request.headers,
                body=await request.read(),
                origin=f"http://{request.host}",
            )
            self._record(call, route, request.path_qs)
            reply = self._reply(call, route)
            log.info("%s %s: %d", call.method, request.path_qs, reply.status)
            if reply.delay:
                await asyncio.sleep(reply.delay)
            return await _send(request, reply)

    @contextmanager
    def _counted(self, operation: str, handler: asyncio.Task[None]) -> Iterator[None]:
        self._handlers.add(handler)
        self.requests += 1
        self.calls[operation] += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1
            self._handlers.discard(handler)

    def _record(self, call: ApiRequest, route: Route, path: str) -> None:
        logged = LoggedRequest(
            at=self._now(),
            method=call.method,
            path=path,
            operation=route.operation,
            body=call.body,
            is_authorized=self._app.is_authorized(call),
        )
        self._log.append(logged)
        if self.on_request is not None:
            _ = self.on_request(logged)

    def _reply(self, call: ApiRequest, route: Route) -> Reply:
        now = self._now()
        refusal = self._app.admit(call, now, in_flight=self.in_flight)
        fault = None if refusal else self._faults.take(route.operation)
        headers = self._app.headers(now)
        if refusal:
            reply = refusal.reply()
        elif fault and not fault.after_work:
            reply = Reply(500, b"")
            if fault.late is not None:
                self._answer_later(call, route, fault.late)
        else:
            reply = self._app.answer(call, route, now)
        headers["X-Request-Id"] = f"sandbox-{next(self._answers)}"
        delay = 0.0 if refusal else draw(self.latency, self._latencies)
        reply = replace(reply, headers=headers | reply.headers, delay=delay)
        if fault:
            reply = fault.effect(reply)
        self.refused += reply.status == TOO_MANY
        return reply

    def _answer_later(self, call: ApiRequest, route: Route, seconds: float) -> None:
        def answer() -> None:
            self._late.discard(timer)
            _ = self._app.answer(call, route, self._now())

        timer = self._loop.call_later(seconds, answer)
        self._late.add(timer)


async def _send(request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
    if reply.ending == "hang":
        await asyncio.get_running_loop().create_future()
    if reply.ending == "raw" and request.transport:
        request.transport.write(reply.body)
    if reply.ending in {"disconnect", "raw"}:
        request.protocol.force_close()
    if reply.ending == "truncate":
        return await _send_half(request, reply)
    return web.Response(status=reply.status, body=reply.body, headers=reply.headers)


async def _send_half(request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    response.content_length = len(reply.body)
    await response.prepare(request)
    await response.write(reply.body[: len(reply.body) // 2])
    request.protocol.force_close()
    return response
