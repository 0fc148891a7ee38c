"""The application: what is asked for, and by which handler it is answered."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import AbstractContextManager, aclosing
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from aiohttp import hdrs, web

from aiotasks import dedupe
from aiotasks.client import Client
from aiotasks.dedupe import Ledger, LedgerReader, report_lines, snapshot_lines
from aiotasks.errors import AffinityError

from . import _html, _json, _requests, _responses
from ._access import AccessRules
from ._background import BackgroundTasks, EndingError
from ._events import Followers, Subscriber
from ._folder import Folder, OneLedger, plain_name
from ._middleware import NONCE, Gate, Handler
from ._queries import JobQueries
from ._responses import Refusal
from ._runner import JobRunner, RunningJob


_HEARTBEAT: Final = 15.0
_MOST_PLANS = 2
_BATCH = 64 * 1024
# Proxies that collect what they pass on would hold events back.
_EVENTS = {hdrs.CONTENT_TYPE: "text/event-stream", "X-Accel-Buffering": "no"}


def jobs_app(
    client: Client,
    folder: str | os.PathLike[str],
    *,
    token: str | None = None,
    hosts: Collection[str] = (),
    max_upload: int = 16 * 2**20,
) -> web.Application:
    """Return an application that shows and runs the jobs in a folder, to mount or to run.

    Each job is a ledger ``<id>.job.db``, whoever began it. Nothing runs before the application
    starts, and what it runs ends with it, at once, and loses nothing. It answers requests to
    loopback addresses only, unless other names are given; without a token, whoever can reach it
    may start merges, which are **permanent** for companies.

    Args:
        client: A client that is open when the application starts, and until it has ended.
        folder: Where the ledgers are. It is made by nobody here.
        token: What everybody has to show, in a link (``?token=``), which a cookie replaces, or as
            ``Authorization: Bearer``. Let no access log keep the link.
        hosts: Further names, with or without port, by which the application may be asked. They
            should have a token.
        max_upload: The most bytes of a list of pairs.

    Raises:
        ConfigurationError: when there is no such folder, or a setting cannot be used.
    """
    rules = AccessRules.of(hosts, token)
    jobs = _Jobs(client, Folder(folder), max_upload=max_upload)
    app = _application(jobs, rules, "jobs")
    _ = app.router.add_get("/jobs", jobs.list)
    _ = app.router.add_post("/jobs", jobs.create)
    _ = app.router.add_post("/jobs/{id}/start", jobs.start)
    return app


class JobApp:
    """An application with the page of one job, which something else in this process runs.

    There is no list, and nothing can be started: only what runs can be watched and stopped.
    """

    def __init__(self, client: Client, path: str | os.PathLike[str]) -> None:
        ledger = OneLedger(path)
        self._job_id = ledger.job_id
        self._jobs = _Jobs(client, ledger, max_upload=0, is_alone=True)
        self.path = f"jobs/{ledger.job_id}"
        self.app = _application(self._jobs, AccessRules.of((), None), self.path)
        _ = self.app.router.add_get("/jobs", _redirect(self.path))

    def showing(self, run: RunningJob) -> AbstractContextManager[None]:
        """Show a run, and let people stop it, until it is over."""
        return self._jobs.runner.showing(self._job_id, run)

    async def deserted(self) -> None:
        """Wait until nobody watches any more: whoever was told the end leaves."""
        await self._jobs.tails.deserted()


def _application(jobs: "_Jobs", rules: AccessRules, start: str) -> web.Application:
    gate = Gate(rules)
    app = web.Application(middlewares=[gate.middleware])
    gate.mount = app.router.add_get("/", _redirect(start))
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
    app.on_response_prepare.append(gate.prepare)
    app.on_startup.append(jobs.open)
    app.on_shutdown.append(jobs.end)
    app.on_cleanup.append(jobs.leave)
    return app


class _Jobs:
    """The handlers, and what they share."""

    def __init__(
        self, client: Client, folder: Folder, *, max_upload: int, is_alone: bool = False
    ) -> None:
        self._client = client
        self._folder = folder
        self._max_upload = max_upload
        self._is_alone = is_alone
        self._scope = BackgroundTasks()
        self.runner = JobRunner(client, self._scope)
        self.tails = Followers(self._scope, self.runner)
        self._facts = JobQueries(client, folder, self.runner)
        self._plans = asyncio.Semaphore(_MOST_PLANS)

    async def open(self, _: web.Application) -> None:
        await self._scope.open()

    async def end(self, _: web.Application) -> None:
        await self._scope.end()

    async def leave(self, _: web.Application) -> None:
        await self._scope.leave()

    # What is shown

    async def list(self, request: web.Request) -> web.StreamResponse:
        jobs = await self._scope.complete(self._facts.jobs())
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
            merges=await self._first(request),
            is_alone=self._is_alone,
        )
        return _responses.page(html)

    async def saved_page(self, request: web.Request) -> web.StreamResponse:
        job = await self._job(_id(request))
        merges = await self._first(request)
        answer = _responses.page(_html.job_page(job, is_live=False, nonce="", merges=merges))
        answer.headers.update(_attachment(f"{job['id']}.html"))
        return answer

    async def _first(self, request: web.Request) -> Any:
        return (await self._merges(request, after=0))["merges"]

    async def plan(self, request: web.Request) -> web.StreamResponse:
        after = _requests.whole("after", request.query.get("after", "0"))
        return _responses.json(await self._merges(request, after=after))

    # What is done

    async def create(self, request: web.Request) -> web.StreamResponse:
        job_id = await self._scope.complete(self._begin(request))
        job = await self._job(job_id)
        location = f"jobs/{job_id}"
        return _responses.json(job, HTTPStatus.CREATED, Location=location)

    async def start(self, request: web.Request) -> web.StreamResponse:
        path = self._path(request)
        body = await self._scope.complete(_requests.body_of(request, _BATCH))
        wanted = _requests.decoded(body, _requests.Start)
        fingerprint = await self._scope.complete(self._facts.fingerprint(path))
        if wanted.fingerprint != fingerprint:
            message = (
                f"The job's plan is {fingerprint[:12]}, not {wanted.fingerprint[:12]}: look at it "
                "again before you start it"
            )
            raise Refusal(HTTPStatus.CONFLICT, message)
        starting = self.runner.start(_id(request), path, retry_failed=wanted.retry_failed)
        await self._scope.complete(starting)
        return _responses.json(await self._job(_id(request)), HTTPStatus.ACCEPTED)

    async def stop(self, request: web.Request) -> web.StreamResponse:
        _ = self._path(request)
        self.runner.stop(_id(request))
        return _responses.json(await self._job(_id(request)), HTTPStatus.ACCEPTED)

    # What is streamed

    async def events(self, request: web.Request) -> web.StreamResponse:
        last = request.headers.get("Last-Event-ID") or request.query.get("after", "0")
        reader = Subscriber(_requests.whole("after", last), lambda: request.transport is None)
        answer = web.StreamResponse(headers=_EVENTS)
        with self.tails.watching(_id(request), self._path(request), reader) as tail:
            _ = await self._scope.complete(tail.opened.wait())
            if tail.failure is not None:
                raise tail.failure
            _ = await answer.prepare(request)

            async def send() -> None:
                while not (reader.is_gone() or tail.is_over):
                    reader.wake.clear()
                    while data := await tail.news(reader):
                        await answer.write(data)
                    await _rest(reader, answer)

            await self._send(request, send(), is_whole=True)
        return answer

    async def report_csv(self, request: web.Request) -> web.StreamResponse:
        return await self._download(request, "csv", "text/csv")

    async def report_jsonl(self, request: web.Request) -> web.StreamResponse:
        return await self._download(request, "jsonl", "application/jsonl")

    async def snapshots(self, request: web.Request) -> web.StreamResponse:
        return await self._download(request, "snapshots.jsonl", "application/jsonl")

    async def _download(
        self, request: web.Request, ending: str, content_type: str
    ) -> web.StreamResponse:
        job_id, path = _id(request), self._path(request)
        answer = web.StreamResponse(headers=_attachment(f"{job_id}.{ending}"))
        answer.content_type = content_type
        answer.charset = "utf-8"
        async with Ledger.reading(path) as ledger:
            _ = ledger.require_job()
            _ = await answer.prepare(request)

            async def send() -> None:
                async with aclosing(_batches(_lines(ledger, ending))) as batches:
                    async for batch in batches:
                        await answer.write(batch)

            await self._send(request, send())
        return answer

    async def _send(self, request: web.Request, sending: Any, *, is_whole: bool = False) -> None:
        """Send what an answer has begun with; a part of it never looks like the whole."""
        try:
            await self._scope.complete(sending)
        except ConnectionError:
            return
        except AffinityError as error:
            may_end = is_whole and isinstance(error, EndingError)
            transport = request.transport
            # Whoever does not read is not waited for.
            if transport is not None and not (may_end and _is_read(transport)):
                transport.abort()

    # What is sent here

    async def _begin(self, request: web.Request) -> str:
        body = await _requests.body_of(request, self._max_upload)
        name = plain_name(request.query.get("name", ""))
        async with self._plans:
            # A long list takes seconds, in which others want to be answered.
            plan = await asyncio.to_thread(
                _requests.plan_of, request.query, request.content_type, body, name
            )
            preview = await dedupe.preview(self._client, plan)
        job_id, path = self._folder.new(name)
        at = time.time()
        async with Ledger(path) as ledger:
            await ledger.begin(
                plan,
                origin=self._client.base_url,
                records=preview.records,
                findings=preview.findings(at),
                at=at,
            )
            await ledger.note(rewrites=_json.rewrites_text(plan))
        return job_id

    async def _job(self, job_id: str) -> dict[str, Any]:
        return await self._scope.complete(self._facts.job(job_id, self._path_of(job_id)))

    async def _merges(self, request: web.Request, *, after: int) -> dict[str, Any]:
        return await self._scope.complete(self._facts.merges(self._path(request), after=after))

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


def _is_read(transport: asyncio.Transport) -> bool:
    return transport.get_write_buffer_size() == 0


def _id(request: web.Request) -> str:
    return request.match_info["id"]


def _attachment(name: str) -> dict[str, str]:
    return {hdrs.CONTENT_DISPOSITION: f'attachment; filename="{name}"'}


def _lines(ledger: LedgerReader, ending: str) -> AsyncIterator[str]:
    if ending == "snapshots.jsonl":
        return snapshot_lines(ledger)
    return report_lines(ledger, format="csv" if ending == "csv" else "jsonl")


async def _batches(lines: AsyncIterator[str]) -> AsyncGenerator[bytes]:
    batch = bytearray()
    async for line in lines:
        batch += line.encode()
        if len(batch) >= _BATCH:
            yield bytes(batch)
            batch.clear()
    yield bytes(batch)


async def _rest(reader: Subscriber, answer: web.StreamResponse) -> None:
    try:
        async with asyncio.timeout(_HEARTBEAT):
            _ = await reader.wake.wait()
    except TimeoutError:
        await answer.write(b": still here\n\n")
