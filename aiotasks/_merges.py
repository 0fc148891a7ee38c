"""The verbs for merges: start one, and read the history, the suggestions and the records.

The API's rules for merges:
https://developer.affinity.co/api-reference/company-merges/initiate-company-merge
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from itertools import islice
from typing import Generic, cast

from ._http import urls, wire
from ._http.pacer import Lane
from ._open_client import OpenClient
from ._spans import span
from .errors import (
    AffinityError,
    ConfigurationError,
    ConnectError,
    DecodeError,
    IndeterminateMergeError,
    NetworkError,
    ResponseError,
    ServerError,
)
from .models import DuplicateSuggestion, Kind, ProfileT, Record, StateT


class MergeService(Generic[StateT, ProfileT]):
    """The verbs for merges of one kind; see ``Client.companies`` and ``Client.persons``."""

    def __init__(self, require_open: Callable[[], OpenClient], kind: Kind) -> None:
        self._require_open = require_open
        self._kind: Kind = kind

    async def merge(
        self,
        primary_id: int,
        duplicate_id: int,
        *,
        before_send: Callable[[], Awaitable[object]] | None = None,
    ) -> str:
        """Start merging a duplicate into a primary record, and return the URL of the task.

        A merge with a global company on either side can **never** be undone, and may replace both
        records by a new one; any other merge an admin can undo in Affinity's settings. The request
        is repeated only when it provably did not run: it was refused for a rate limit (429), or no
        byte of it was sent. When this call is cancelled, the merge may have been started.

        Args:
            primary_id: The primary record.
            duplicate_id: The duplicate, which is merged into it.
            before_send: Awaited once, when the request has its slot and just before it is sent:
                the moment to record the intent. What it raises is raised here, and nothing is sent
                then.

        Raises:
            ConfigurationError: when an id is not a positive whole number, or both are the same.
                Nothing was sent.
            IndeterminateMergeError: when no answer came, and the merge may have been started.
            ConnectError: when there was no connection, after retries. Nothing was started.
            ResponseError: when the API refuses it: ``AuthorizationError`` without the permission,
                ``ConflictError``, ``MergedEntityError`` or ``ValidationError`` for the records.
        """
        opened = self._require_open()
        request = wire.merge(self._kind, primary_id, duplicate_id)
        try:
            with span("merge", kind=self._kind):
                answer = await opened.transport.send(request, lane=Lane.MERGE, before=before_send)
            ref = wire.started_task(answer, self._kind)
        except (NetworkError, ResponseError, DecodeError) as error:
            if _did_not_run(error):
                raise
            raise IndeterminateMergeError(self._kind, primary_id, duplicate_id) from error
        opened.poller.note_started(ref, duplicate_id)
        return urls.task_url(opened.transport.origin, ref)

    async def merges(
        self,
        *,
        status: str | None = None,
        task_url: str | None = None,
        task_urls: Iterable[str] = (),
    ) -> AsyncGenerator[StateT]:
        """Iterate over the organization's merges, newest first, page by page.

        Args:
            status: Only merges with this status.
            task_url: Only merges of this task.
            task_urls: Only merges of these tasks. The API does not document how many it accepts.

        Raises:
            ConfigurationError: when the status or the URL cannot be used.
            AffinityError: when a page cannot be read, after retries.
        """
        transport = self._require_open().transport
        urls = [*task_urls] if task_url is None else [task_url, *task_urls]
        ids = [self._task_id(url) for url in urls]
        request = wire.list_merges(self._kind, status=status, task_ids=ids)
        async for state in transport.pages(request):
            yield cast(StateT, state)

    async def get_merge(self, merge_id: int) -> StateT:
        """Read one merge of the history.

        Raises:
            NotFoundError: when there is no such merge.
            AffinityError: when it cannot be read, after retries.
        """
        request = wire.get_merge(self._kind, merge_id)
        return cast(StateT, await self._require_open().transport.send(request))

    async def suggestions(self) -> AsyncGenerator[DuplicateSuggestion[ProfileT]]:
        """Iterate over the duplicates that Affinity suggests.

        A beta of the API: it needs the version 2026-07-15 or later (``api_version``).

        Raises:
            AffinityError: when a page cannot be read, after retries.
        """
        request = wire.list_suggestions(self._kind)
        async for suggestion in self._require_open().transport.pages(request):
            yield cast(DuplicateSuggestion[ProfileT], suggestion)

    async def records(self, ids: Iterable[int]) -> AsyncGenerator[Record[ProfileT]]:
        """Iterate over the records that exist, a hundred a call, in the API's order.

        Records that are gone are left out: ``get_record`` raises the reason.

        Raises:
            ConfigurationError: when an id is not a positive whole number.
            AffinityError: when a page cannot be read, after retries.
        """
        transport = self._require_open().transport
        for batch in batches(ids, wire.PAGE_LIMIT):
            async for raw in transport.pages(wire.list_records(self._kind, batch)):
                yield wire.read_record(self._kind, raw)

    async def get_record(self, record_id: int) -> Record[ProfileT]:
        """Read one record.

        Raises:
            MergedEntityError: when it was merged away; it survives as ``target_id``.
            NotFoundError: when there is no such record.
            AffinityError: when it cannot be read, after retries.
        """
        raw = await self._require_open().transport.send(wire.get_record(self._kind, record_id))
        return wire.read_record(self._kind, raw)

    def _task_id(self, task_url: str) -> str:
        ref = urls.parse_task_url(task_url, self._require_open().transport.origin)
        if ref.kind != self._kind:
            message = f"{task_url!r} is a task of {ref.kind} merges, not of {self._kind} merges"
            raise ConfigurationError(message)
        return ref.id


def batches(ids: Iterable[int], size: int) -> Iterator[list[int]]:
    """Cut ids into lists of ``size``, the last one shorter."""
    # itertools.batched came with Python 3.12.
    left = iter(ids)
    while batch := list(islice(left, size)):
        yield batch


def _did_not_run(error: AffinityError) -> bool:
    if isinstance(error, ResponseError):
        # A redirect does not prove a refusal: a proxy that redirects may have forwarded the merge.
        return error.status >= 400 and not isinstance(error, ServerError)  # noqa: PLR2004
    return isinstance(error, ConnectError)
