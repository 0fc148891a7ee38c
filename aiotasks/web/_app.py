"""The application: its routes and their handlers."""

import asyncio
import os
import time
from collections.abc import Collection
from contextlib import AbstractContextManager, aclosing
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from aiohttp import hdrs, web

from aiotasks import dedupe
from aiotasks.client import Client
from aiotasks.dedupe import Ledger
from aiotasks.dedupe.job import begin
from aiotasks.errors import AffinityError

from . import _downloads, _html, _json, _metrics, _requests, _responses
from ._access import AccessRules
from ._background import BackgroundTasks, EndingError
from ._events import Followers, Subscriber
from ._folder import Folder, OneLedger, plain_name
from ._middleware import EXPIRES_AT, NONCE, AccessMiddleware, Handler
from ._observer import Observer
from ._queries import JobQueries
from ._responses import Refusal
from ._resumption import RunSettings
from ._runner import JobRunner, RunningJob


RESUMED: Final = web.AppKey("resumed", list[str])
"""The jobs with which an application went on when it started."""

_HEARTBEAT: Final = 15.0
_MOST_PLANS = 2
_BATCH = 64 * 1024
# Without the last header, nginx would buffer events instead of passing them on.
_EVENTS = {hdrs.CONTENT_TYPE: "text/event-stream", "X-Accel-Buffering": "no"}


def jobs_app(
    client: Client,
    folder: str | os.PathLike[str],
    *,
    token: str | None = None,
    hosts: Collection[str] = (),
    https: bool = False,
    user_header: str | None = None,
    resume: bool = False,
    max_upload: int = 16 * 2**20,
) -> web.Application:
    """Return an application that shows and runs the jobs in a folder, to mount or to run.

    Each job is a ledger ``<id>.job.db``, also if another program began it. Nothing runs before the
    application starts. Its jobs are cancelled when it shuts down; nothing is lost, and they can be
    resumed. Requests must name a loopback address, or one of ``hosts``, in their Host header.
    Without a token, anyone who can reach the application can start merges, of which some can
    **never** be undone.

    ``GET jobs/{id}/events`` streams server-sent events. ``pair`` is a transition of one pair; its
    ``id`` numbers the transitions of the job, and a stream continues after ``Last-Event-ID`` or
    ``?after=`` (default 0: from the beginning). ``progress`` has the state of the job (``phase``,
    ``sentence``, ``counts`` and so on, as in ``GET jobs/{id}``) after new transitions, and about
    once a second while this application runs it; ``done`` has that at the end of a run here. A run
    of another process ends without an event: ``GET jobs/{id}`` shows its end. The server keeps only
    the newest 2,000 to 4,000 transitions of a job. A stream that is further behind, because it starts late or is read slowly, gets one ``resync``
    event: its ``seq`` (and ``id``) is the transition after which the stream continues, and
    everything up to it must be read anew from ``GET jobs/{id}``. A program that needs the whole
    history reads ``report.jsonl``.

    ``POST jobs`` takes a file of pairs as its body, and as query ``kind``, ``name``,
    ``on_conflict``, ``max_cluster``, ``no_new_company`` and the options of ``dedupe.InputOptions``.
    ``GET jobs/{id}/report.csv`` and ``report.jsonl`` take ``?only=`` with a state, repeatedly.

    ``POST jobs/{id}/start`` takes ``{"fingerprint": ..., "retry_failed": ..., "settings": {...}}``:
    the fingerprint of the plan that was shown, and those ``JobSettings`` that are not the defaults.

    ``GET healthz`` is open to all, and says only that the application runs. ``GET metrics`` has
    what Prometheus reads: calls, refusals, what is in flight and pending, and the pairs of each job
    by their states (extra ``metrics``). Requests are logged by ``aiotasks.web.access``, without
    tokens, and who planned, started or stopped what by ``aiotasks.web.audit``.

    Args:
        client: A client that is open when the application starts, and until it has ended.
        folder: Where the ledgers are. It must exist.
        token: The token that every request must have, as ``Authorization: Bearer``. Browsers get
            access by a link of ``expiring_link``, and then have it for twelve hours by a cookie.
            Keep the link out of access logs.
        hosts: Further host names, with or without port, that requests may name. Set a token too.
        https: Whether browsers come by TLS, which a proxy ends: the cookie is then only sent so.
        user_header: The header in which a proxy in front of this names the user, for the logs. Set it
            only if the proxy removes what browsers send under that name.
        resume: Whether jobs go on, when the application starts, that it was running when it last
            ended, and that nothing had stopped. Other processes must not use the folder's jobs so.
        max_upload: The maximum size of an upload in bytes.

    Raises:
        ConfigurationError: when there is no such folder, or a setting cannot be used.
    """
    rules = AccessRules.of(hosts, token, https=https)
    jobs = _Jobs(
        client, Folder(folder), Observer(user_header), max_upload=max_upload, resume=resume
    )
    app = _application(jobs, rules, "jobs")
    app[RESUMED] = jobs.resumed
    _ = app.router.add_get("/metrics", jobs.metrics)
    _ = app.router.add_get("/jobs", jobs.list)
    _ = app.router.add_post("/jobs", jobs.create)
    _ = app.router.add_post("/jobs/{id}/start", jobs.start)
    return app


class JobApp:
    """An application with the page of one job, which the caller runs in this process.

    It has no list and starts nothing: the job can only be watched and stopped.
    """

    def __init__(self, client: Client, path: str | os.PathLike[str]) -> None:
        ledger = OneLedger(path)
        self._job_id = ledger.job_id
        self._jobs = _Jobs(client, ledger, Observer(None), max_upload=0, is_single_job=True)
        self.path = f"jobs/{ledger.job_id}"
        self.app = _application(self._jobs, AccessRules.of((), None), self.path)
        _ = self.app.router.add_get("/jobs", _redirect(self.path))

    def attached(self, run: RunningJob) -> AbstractContextManager[None]:
        """Show the job as running, and let the page stop it."""
        return self._jobs.runner.attached(self._job_id, run)

    async def unwatched(self) -> None:
        """Wait until all event streams have ended; pages close theirs after the ``done`` event."""
        await self._jobs.followers.unwatched()


def _application(jobs: "_Jobs", rules: AccessRules, start: str) -> web.Application:
    access = AccessMiddleware(rules)
    app = web.Application(middlewares=[jobs.observer.middleware, access.middleware])
    access.mount = app.router.add_get("/", _redirect(start))
    access.open_route = app.router.add_get("/healthz", _metrics.health)
    _ = app.router.add_get("/jobs/{id}", jobs.show)
    _ = app.router.add_get("/jobs/{id}/plan", jobs.plan)
    _ = app.router.add_post("/jobs/{id}/stop", jobs.stop)
    _ = app.router.add_get("/jobs/{id}/page.html", jobs.saved_page)
    for path, stream in (
        ("events", jobs.events),
        ("report.csv", jobs.report_csv),
        ("report.jsonl", jobs.report_jsonl),
        ("snapshots.jsonl", jobs.snapshots),
    ):
        _ = app.router.add_get(f"/jobs/{{id}}/{path}", stream, allow_head=False)
    app.on_response_prepare.append(access.prepare)
    app.on_startup.append(jobs.open)
    app.on_shutdown.append(jobs.end)
    app.on_cleanup.append(jobs.close)
    return app


class _Jobs:
    """The handlers, and what they share."""

    def __init__(
        self,
        client: Client,
        folder: Folder,
        observer: Observer,
        *,
        max_upload: int,
        is_single_job: bool = False,
        resume: bool = False,
    ) -> None:
        self.observer = observer
        self.resumed: list[str] = []
        self._resume = resume
        self._client = client
        self._folder = folder
        self._max_upload = max_upload
        self._is_single_job = is_single_job
        self._tasks = BackgroundTasks()
        self.runner = JobRunner(client, self._tasks)
        self.followers = Followers(self._tasks, self.runner)
        self._queries = JobQueries(client, folder, self.runner)
        self._plans = asyncio.Semaphore(_MOST_PLANS)

    async def open(self, _: web.Application) -> None:
        await self._tasks.open()
        if self._resume:
            self.resumed += await self.runner.go_on(self._folder)

    async def end(self, _: web.Application) -> None:
        await self._tasks.end()

    async def close(self, _: web.Application) -> None:
        await self._tasks.close()

    # Pages and data

    async def list(self, request: web.Request) -> web.StreamResponse:
        jobs = await self._tasks.complete(self._queries.jobs())
        if _responses.wants_page(request):
            return _responses.page(_html.list_page(jobs, nonce=NONCE.get()))
        return _responses.json({"jobs": jobs})

    async def show(self, request: web.Request) -> web.StreamResponse:
        job = await self._job(_id(request))
        if not _responses.wants_page(request):
            return _responses.json(job)
        html = _html.job_page(
            job,
            is_live=True,
            nonce=NONCE.get(),
            merges=await self._first_merges(request),
            is_single_job=self._is_single_job,
        )
        return _responses.page(html)

    async def saved_page(self, request: web.Request) -> web.StreamResponse:
        _downloads.refuse_states(request)
        job = await self._job(_id(request))
        merges = await self._first_merges(request)
        response = _responses.page(_html.job_page(job, is_live=False, nonce="", merges=merges))
        response.headers.update(_downloads.attachment(job["source"], "report.html"))
        return response

    async def _first_merges(self, request: web.Request) -> Any:
        return (await self._merges(request, after=0))["merges"]

    async def plan(self, request: web.Request) -> web.StreamResponse:
        after = _requests.whole("after", request.query.get("after", "0"))
        return _responses.json(await self._merges(request, after=after))

    async def metrics(self, _: web.Request) -> web.StreamResponse:
        jobs = await self._tasks.complete(self._queries.jobs())
        body, content_type = _metrics.exposition(self._client, jobs)
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})

    # Actions

    async def create(self, request: web.Request) -> web.StreamResponse:
        job_id = await self._tasks.complete(self._begin(request))
        job = await self._job(job_id)
        self.observer.audit(request, "planned", job_id)
        location = f"jobs/{job_id}"
        return _responses.json(job, HTTPStatus.CREATED, Location=location)

    async def start(self, request: web.Request) -> web.StreamResponse:
        path = self._path(request)
        body = await self._tasks.complete(_requests.body_of(request, _BATCH))
        wanted = _requests.decoded(body, _requests.Start)
        fingerprint = await self._tasks.complete(self._queries.fingerprint(path))
        if wanted.fingerprint != fingerprint:
            message = (
                f"The job's plan is {fingerprint[:12]}, not {wanted.fingerprint[:12]}: read it "
                "again before you start it"
            )
            raise Refusal(HTTPStatus.CONFLICT, message)
        settings = RunSettings(wanted.settings, wanted.retry_failed)
        await self._tasks.complete(self.runner.start(_id(request), path, settings))
        self.observer.audit(request, "started", _id(request))
        return _responses.json(await self._job(_id(request)), HTTPStatus.ACCEPTED)

    async def stop(self, request: web.Request) -> web.StreamResponse:
        _ = self._path(request)
        self.runner.stop(_id(request))
        self.observer.audit(request, "stopped", _id(request))
        return _responses.json(await self._job(_id(request)), HTTPStatus.ACCEPTED)

    # Streams and downloads

    async def events(self, request: web.Request) -> web.StreamResponse:
        last = request.headers.get("Last-Event-ID") or request.query.get("after", "0")
        seq = _requests.whole("after", last)
        expires_at = EXPIRES_AT.get()

        def is_gone() -> bool:
            # Who has lost access is not served on, and is told so when it connects again.
            return request.transport is None or expires_at <= time.time()

        subscriber = Subscriber(seq, is_gone=is_gone)
        response = web.StreamResponse(headers=_EVENTS)
        with self.followers.subscribed(_id(request), self._path(request), subscriber) as follower:
            _ = await self._tasks.complete(follower.opened.wait())
            if follower.failure is not None:
                raise follower.failure
            _ = await response.prepare(request)

            async def send() -> None:
                while not (subscriber.is_gone() or follower.is_over):
                    # Cleared first: what is published while a chunk is sent wakes it again.
                    subscriber.wake.clear()
                    while data := follower.next_chunk(subscriber):
                        await response.write(data)
                    await _wait_for_events(subscriber, response)

            await self._send(request, send(), may_end_early=True)
        return response

    async def report_csv(self, request: web.Request) -> web.StreamResponse:
        return await self._download(request, "report.csv", "text/csv")

    async def report_jsonl(self, request: web.Request) -> web.StreamResponse:
        return await self._download(request, "report.jsonl", "application/jsonl")

    async def snapshots(self, request: web.Request) -> web.StreamResponse:
        _downloads.refuse_states(request)
        return await self._download(request, _downloads.SNAPSHOTS, "application/jsonl")

    async def _download(
        self, request: web.Request, ending: str, content_type: str
    ) -> web.StreamResponse:
        path, states = self._path(request), _downloads.states_of(request)
        async with Ledger.reading(path) as ledger:
            source = ledger.require_job().source
            response = web.StreamResponse(headers=_downloads.attachment(source, ending))
            response.content_type = content_type
            response.charset = "utf-8"
            _ = await response.prepare(request)

            async def send() -> None:
                async with aclosing(_downloads.batches(ledger, ending, states)) as batches:
                    async for batch in batches:
                        await response.write(batch)

            await self._send(request, send())
        return response

    async def _send(
        self, request: web.Request, sending: Any, *, may_end_early: bool = False
    ) -> None:
        """Send a body; if it cannot be completed, break the connection off.

        Otherwise a client would take a part of a download for the whole. A stream of events may end
        early, when the application does.
        """
        try:
            await self._tasks.complete(sending)
        except ConnectionError:
            return
        except AffinityError as error:
            is_complete = may_end_early and isinstance(error, EndingError)
            transport = request.transport
            # The shutdown must not wait for a client that does not read.
            if transport is not None and not (is_complete and _is_flushed(transport)):
                transport.abort()

    # Uploads

    async def _begin(self, request: web.Request) -> str:
        body = await _requests.body_of(request, self._max_upload)
        name = plain_name(request.query.get("name", ""))
        async with self._plans:
            # In a thread: a long list takes seconds, in which other requests must be handled.
            plan = await asyncio.to_thread(
                _requests.plan_of, request.query, request.content_type, body, name
            )
            preview = await dedupe.preview(self._client, plan)
        job_id, path = self._folder.new(name)
        async with Ledger(path) as ledger:
            await begin(ledger, preview, origin=self._client.base_url, at=time.time())
            await ledger.note(rewrites=_json.rewrites_text(plan))
        return job_id

    async def _job(self, job_id: str) -> dict[str, Any]:
        return await self._tasks.complete(self._queries.job(job_id, self._path_of(job_id)))

    async def _merges(self, request: web.Request, *, after: int) -> dict[str, Any]:
        return await self._tasks.complete(self._queries.merges(self._path(request), after=after))

    def _path(self, request: web.Request) -> Path:
        return self._path_of(_id(request))

    def _path_of(self, job_id: str) -> Path:
        path = self._folder.find(job_id)
        if path is None:
            raise web.HTTPNotFound
        return path


def _redirect(location: str) -> Handler:
    async def redirect(_: web.Request) -> web.StreamResponse:
        return web.Response(status=HTTPStatus.SEE_OTHER, headers={hdrs.LOCATION: location})

    return redirect


def _is_flushed(transport: asyncio.Transport) -> bool:
    return transport.get_write_buffer_size() == 0


def _id(request: web.Request) -> str:
    return request.match_info["id"]


async def _wait_for_events(subscriber: Subscriber, response: web.StreamResponse) -> None:
    try:
        async with asyncio.timeout(_HEARTBEAT):
            _ = await subscriber.wake.wait()
    except TimeoutError:
        # A comment, so that proxies do not close an idle connection.
        await response.write(b": still here\n\n")
