"""Asks the API what cannot be known from here, by at most 20 calls that only read."""

import statistics
from collections.abc import Collection, Mapping, Sequence
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import Any, Final, NamedTuple

from yarl import URL

from ._http import urls, wire
from ._http.transport import Probe
from ._http.urls import TaskRef
from ._http.wire import Page, Request
from ._open_client import OpenClient
from .diagnosis import Diagnosis, KindDiagnosis
from .errors import (
    AffinityError,
    AuthenticationError,
    DecodeError,
    MonthlyQuotaError,
    NetworkError,
    ServerError,
)
from .models import Kind, Lateness, MergeState, MergeTask, Quota, TaskStatus


# With these, at most 18 calls: whoami three times, the limits once; for each kind the tasks, two
# pages of merges, and one record.
_RETRIES: Final = 6
_SAMPLES: Final = 3
_KINDS: Final[tuple[Kind, ...]] = ("company", "person")
_OK: Final = 200
_PREFIX: Final = "x-ratelimit-"
_REMAINING: Final = "X-Ratelimit-Limit-User-Remaining"


class _Asked(NamedTuple):
    """What came of a call: an answer, its value, or the error that it is."""

    probe: Probe | None
    value: Any
    error: AffinityError | None


class Diagnostician:
    """Asks the API of an open client, each request once and one after the other.

    ``own`` are the tasks that are known to be the caller's, if any are.
    """

    def __init__(
        self, opened: OpenClient, *, own: Collection[TaskRef] | None, lateness: Lateness
    ) -> None:
        self._lateness = lateness
        self._retries = _RETRIES
        self._opened = opened
        self._transport = opened.transport
        self._own = own
        self._asked: list[_Asked] = []

    async def diagnose(self, *, reserve: int) -> Diagnosis:
        """Ask, and return what was found."""
        identities = [await self._ask(wire.get_identity())]
        kinds, limits = [], None
        # Without the key, or an answer, everything else would come to the same.
        if identities[0].error is None:
            identities += [await self._ask(wire.get_identity()) for _ in range(_SAMPLES - 1)]
            limits = await self._ask(wire.get_rate_limit())
            kinds = [await self._kind(kind) for kind in _KINDS]
        probes = [each.probe for each in self._asked if each.probe is not None]
        headers = probes[-1].headers if probes else {}
        quota = self._quota()
        return Diagnosis(
            error=identities[0].error or _obstacle(self._asked, quota, reserve),
            calls=sum(not isinstance(each.error, MonthlyQuotaError) for each in self._asked),
            is_key_known=_is_key_known(identities[0]),
            is_affinity=self._transport.origin == urls.DEFAULT_BASE_URL,
            api_version=headers.get("X-Affinity-Api-Version"),
            headers=tuple(
                sorted(str(each) for each in headers if each.lower().startswith(_PREFIX))
            ),
            headers_add_up=_add_up([each.probe for each in identities]),
            has_rate_limit_call=None if limits is None else limits.error is None,
            minute_limit=quota.limit,
            minute_remaining=quota.remaining,
            month_limit=quota.org_limit,
            month_remaining=quota.org_remaining,
            reserve=reserve,
            clock_ahead=_clock_ahead(probes),
            latency=_latency(probes),
            proxy=_shown_proxy(getattr(self._opened.session, "_default_proxy", None)),
            issuer=_issuer(probes),
            kinds=tuple(kinds),
            lateness=self._lateness,
        )

    async def _kind(self, kind: Kind) -> KindDiagnosis:
        # The tasks first: a merge that starts meanwhile is then missing among them, and not its row.
        tasks = await self._ask(wire.list_tasks(kind))
        rows = await self._rows(kind)
        refused = next((each for each in (tasks, *rows) if each.error is not None), None)
        if refused is not None:
            # What came in the place of a page says nothing about the right to read it.
            was_answered = refused.probe is not None and refused.probe.status in {401, 403}
            return KindDiagnosis(kind=kind, can_list=False if was_answered else None)
        merges = [row for page in rows for row in page.value.data]
        found = newest(kind, tasks.value.data, merges, self._own)
        return KindDiagnosis(**found, gone_status=await self._gone_status(kind, merges))

    async def _rows(self, kind: Kind) -> list[_Asked]:
        request: Request[Page[Any]] | None = wire.list_merges(kind)
        pages: list[_Asked] = []
        # Merges that were started since the tasks were read push the others back.
        while request is not None and len(pages) < 2:  # noqa: PLR2004 - see above
            page = await self._ask(request)
            pages.append(page)
            request = None
            if page.error is None:
                request = self._following(wire.list_merges(kind), page.value)
        return pages

    def _following(self, request: Request[Page[Any]], page: Page[Any]) -> Request[Page[Any]] | None:
        try:
            return wire.follow(request, page, self._transport.origin)
        except DecodeError:
            return None

    async def _gone_status(self, kind: Kind, merges: Sequence[MergeState]) -> int | None:
        done = (each for each in merges if each.status == TaskStatus.SUCCESS)
        merged: Any = next(done, None)
        if merged is None:
            return None
        asked = await self._ask(wire.get_record(kind, merged.duplicate_id))
        return None if asked.probe is None else asked.probe.status

    async def _ask(self, request: Request[Any]) -> _Asked:
        """Ask once, and once more if the answer says nothing."""
        asked = await self._ask_once(request)
        is_empty = isinstance(asked.error, DecodeError) and asked.error.is_empty
        if self._retries and (is_empty or isinstance(asked.error, ServerError)):
            self._retries -= 1
            asked = await self._ask_once(request)
        return asked

    async def _ask_once(self, request: Request[Any]) -> _Asked:
        try:
            probe = await self._transport.probe(request)
        except (MonthlyQuotaError, NetworkError) as error:
            asked = _Asked(None, None, error)
        else:
            asked = _read(request, probe)
        self._asked.append(asked)
        return asked

    def _quota(self) -> Quota:
        slots = self._transport.slots
        return slots.pacer.quota(slots.now())


def _read(request: Request[Any], probe: Probe) -> _Asked:
    if probe.body is None:
        return _Asked(probe, None, DecodeError(probe.status, "it is too large"))
    try:
        value = wire.decode(request, probe.status, probe.headers, probe.body)
    except AffinityError as error:
        return _Asked(probe, None, error)
    return _Asked(probe, value, None)


def newest(
    kind: Kind,
    tasks: Sequence[MergeTask],
    merges: Sequence[MergeState],
    own: Collection[TaskRef] | None,
) -> dict[str, Any]:
    """Return what the newest tasks of a kind, and at least as many merges, show."""
    running = {each.id for each in tasks if not each.status.is_ended}
    foreign = None if own is None else running - {ref.id for ref in own if ref.kind == kind}
    took = sorted(
        (each.completed_at - each.started_at).total_seconds()
        for each in merges
        if each.started_at is not None and each.completed_at is not None
    )
    return {
        "kind": kind,
        "can_list": True,
        "tasks": len(tasks),
        "without_row": len({each.id for each in tasks} - {each.task_id for each in merges}),
        "under_way": len(running),
        "foreign": None if foreign is None else len(foreign),
        "ended": len(took),
        "took": (statistics.median(took), took[int(0.95 * (len(took) - 1))], took[-1])
        if took
        else None,
    }


def _obstacle(asked: Sequence[_Asked], quota: Quota, reserve: int) -> AffinityError | None:
    """Return what keeps a job from running, of what may be wrong although the key is known."""
    for each in asked:
        is_refused = each.probe is not None and each.probe.status == 403  # noqa: PLR2004
        if each.error is not None and (is_refused or each.probe is None):
            return each.error
    if quota.org_remaining is not None and quota.org_remaining <= reserve:
        return MonthlyQuotaError(429, "rate-limit", "The month is used up, or down to the reserve")
    return None


def _is_key_known(asked: _Asked) -> bool | None:
    if asked.probe is None:
        return None
    if isinstance(asked.error, AuthenticationError):
        return False
    return True if asked.probe.status == _OK else None


def _add_up(probes: Sequence[Probe | None]) -> bool | None:
    """Return whether the calls left go down from call to call, or begin anew."""
    counts = [_number(each.headers, _REMAINING) for each in probes if each is not None]
    known = [each for each in counts if each is not None]
    steps = [later < earlier for earlier, later in pairwise(known)]
    # Once, the minute may have ended between two calls.
    return steps.count(False) <= 1 and any(steps) if len(steps) > 1 else None


def _number(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None


def _clock_ahead(probes: Sequence[Probe]) -> float | None:
    """Return by how much this machine's clock is ahead, as the quickest answer shows it."""
    for probe in sorted(probes, key=lambda each: each.seconds):
        try:
            date = parsedate_to_datetime(probe.headers.get("Date", "")).timestamp()
        except (TypeError, ValueError, OverflowError):
            continue
        # The header has whole seconds, cut off.
        ahead = probe.received_at - date
        return 0.0 if 0 <= ahead <= 1 + probe.seconds else ahead
    return None


def _latency(probes: Sequence[Probe]) -> tuple[float, float] | None:
    seconds = [each.seconds for each in probes]
    return (min(seconds), max(seconds)) if seconds else None


def _shown_proxy(proxy: object) -> str | None:
    """Return what kind of proxy is used, without its name and its password."""
    if proxy is None:
        return None
    url = URL(str(proxy))
    return f"one that speaks {url.scheme}, at port {url.port}"


def _issuer(probes: Sequence[Probe]) -> str | None:
    for probe in probes:
        parts = (probe.certificate or {}).get("issuer", ())
        names = {name: value for part in parts for name, value in part}
        if names:
            expiry = (probe.certificate or {}).get("notAfter", "an unknown time")
            issuer = names.get("organizationName") or names.get("commonName") or "an unknown name"
            return f"signed by {issuer}, until {expiry}"
    return None
