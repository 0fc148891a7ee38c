"""What ``client.diagnose`` found out about an account, as values and as a page to pass on."""

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Final

from .errors import AffinityError, AuthorizationError
from .models import Kind, Lateness, Value


# Choices: what an ordinary clock and an ordinary answer stay below.
_CLOCK_IS_WRONG: Final = 5.0
_SLOW: Final = 2.0
_PLURAL: Final = {"company": "companies", "person": "persons"}


class KindDiagnosis(Value, frozen=True, kw_only=True):
    """What the newest hundred tasks of a kind show; ``None`` for what is not known.

    ``can_list`` says whether the key may read both lists, which needs the same permission as
    merging. ``without_row`` of the ``tasks`` have no row in the merge list, so that neither their
    records nor the reason of a failure can be known. ``under_way`` tasks are in progress,
    ``foreign`` of them are none of the given ones. ``took`` has the median, the 95th percentile and
    the longest of the ``ended`` merges, in seconds. ``gone_status`` is what a record answers that
    was merged away: 404 or 422, or 200 if it was still shown.
    """

    kind: Kind
    can_list: bool | None = None
    tasks: int = 0
    without_row: int | None = None
    under_way: int | None = None
    foreign: int | None = None
    ended: int = 0
    took: tuple[float, float, float] | None = None
    gone_status: int | None = None


class Diagnosis(Value, frozen=True, kw_only=True):
    """What is known of the API, the key and the network; ``None`` for what is not.

    ``can_run`` is true if a job could run now, ``error`` what is in the way if not. ``is_key_known``
    says whether the API knows the key. ``clock_ahead`` is by how many seconds this machine's clock
    is ahead of the server's. ``latency`` has the shortest and the longest time of an answer, in
    seconds. ``issuer`` is who has signed the certificate, ``calls`` how many requests it took.
    ``headers_add_up`` is true if the calls left in the headers go down with each call.
    ``lateness`` is how late the tasks of this client, and of earlier jobs, became visible.
    """

    error: AffinityError | None = None
    calls: int = 0
    is_key_known: bool | None = None
    is_affinity: bool = True
    api_version: str | None = None
    headers: tuple[str, ...] = ()
    headers_add_up: bool | None = None
    has_rate_limit_call: bool | None = None
    minute_limit: int | None = None
    minute_remaining: int | None = None
    month_limit: int | None = None
    month_remaining: int | None = None
    reserve: int = 0
    clock_ahead: float | None = None
    latency: tuple[float, float] | None = None
    proxy: str | None = None
    issuer: str | None = None
    kinds: tuple[KindDiagnosis, ...] = ()
    lateness: Lateness = Lateness()

    @property
    def can_run(self) -> bool:
        """Whether a job could run now."""
        return self.error is None

    @property
    def text(self) -> str:
        """A page for people, without key, names and ids, so that it can be passed on."""
        parts = [
            ("This machine", _machine(self)),
            ("The API", _api(self)),
            ("The limits", _limits(self)),
            *((f"The newest merges of {_PLURAL[each.kind]}", _kind(each)) for each in self.kinds),
            ("What follows for a job", _advice(self)),
        ]
        lines = [line for title, found in parts for line in (title, *map("  {}".format, found))]
        return "\n".join(lines)


def _machine(found: Diagnosis) -> Iterator[str]:
    yield (
        f"aiotasks {version('affinity-aiotasks')}, Python {platform.python_version()}, "
        f"aiohttp {version('aiohttp')}, {sys.platform}"
    )
    yield f"proxy: {found.proxy or 'none'}"
    if found.clock_ahead is None:
        yield "clock against the server's: not known"
    else:
        side = "ahead of" if found.clock_ahead >= 0 else "behind"
        yield f"clock: {abs(found.clock_ahead):.0f} s {side} the server's"


def _api(found: Diagnosis) -> Iterator[str]:
    yield f"server: {'Affinity' if found.is_affinity else 'another base URL'}"
    yield f"certificate: {found.issuer or 'not known, or none'}"
    yield f"version: {found.api_version or 'not known'}"
    yield f"the key is known: {_yes(found.is_key_known)}"
    if found.latency is None:
        yield "answers: none"
    else:
        yield f"answers: after {found.latency[0]:.2f} to {found.latency[1]:.2f} s"


def _limits(found: Diagnosis) -> Iterator[str]:
    yield f"headers: {', '.join(found.headers) or 'none'}"
    yield f"they count down with each call: {_yes(found.headers_add_up)}"
    yield f"a call that reads them: {_yes(found.has_rate_limit_call)}"
    yield f"calls left in the minute: {_of(found.minute_remaining, found.minute_limit)}"
    yield f"calls left in the month: {_of(found.month_remaining, found.month_limit)}"
    yield f"this took {found.calls} calls, all of which only read"


def _kind(found: KindDiagnosis) -> Iterator[str]:
    yield f"the key may list them, and so may merge: {_yes(found.can_list)}"
    if not found.can_list:
        return
    yield f"tasks without a row in the merge list: {_of(found.without_row, found.tasks)}"
    foreign = "" if found.foreign is None else f", {found.foreign} of them none of the given jobs"
    yield f"under way: {_count(found.under_way)}{foreign}"
    if found.took is None:
        yield "how long a merge takes: not known"
    else:
        median, most, longest = found.took
        yield (
            f"how long a merge took: {median:.0f} s in the median, {most:.0f} s at 95 %, "
            f"{longest:.0f} s at most ({found.ended} merges)"
        )
    yield f"what a merged record answers: {_count(found.gone_status)}"


def _advice(found: Diagnosis) -> Iterator[str]:
    if found.error is None:
        yield "A job could run now."
    elif isinstance(found.error, AuthorizationError):
        yield f"No job can run now: {AuthorizationError.advice}"
    else:
        yield f"No job can run now: {type(found.error).__name__}. {_next_step(found.error)}"
    late = found.lateness
    if not late.tasks:
        yield "How late new tasks become visible is not known: no job has run here that says so."
    else:
        longest = f", the last for {late.longest:.1f} s" if late.late else ""
        yield f"Of {late.tasks} new tasks {late.late} answered 404 at first{longest}."
    for each in found.kinds:
        yield from _advice_of(each)
    if found.month_remaining is not None:
        merges = max(0, found.month_remaining - found.reserve)
        yield f"The month has calls for about {merges * 10 // 11} merges more."
    if found.clock_ahead is not None and abs(found.clock_ahead) > _CLOCK_IS_WRONG:
        yield "Set the clock of this machine: the times in ledgers and reports are wrong."
    if found.latency is not None and found.latency[1] > _SLOW:
        yield "Answers are slow, so jobs take longer; nothing else depends on it."
    is_counted = found.headers and found.headers_add_up is not False
    if found.is_key_known and not is_counted:
        yield "The limits are not to be relied on, so a job may be refused (429) and slow down."


def _advice_of(found: KindDiagnosis) -> Iterator[str]:
    if found.without_row:
        yield (
            f"Of merges of {_PLURAL[found.kind]} like those without a row, a report will have "
            "neither the id nor the reason of a failure."
        )
    if found.foreign:
        yield f"Others merge {_PLURAL[found.kind]} at the same time: do not run the same pairs twice."
    if found.gone_status == 200:  # noqa: PLR2004 - HTTP's own number
        yield "A merged record was still shown: what is read may be old, or the merge was undone."


def _next_step(error: AffinityError) -> str:
    advice = getattr(error, "advice", None)
    return advice if isinstance(advice, str) else "Check the network, the proxy and the base URL."


def _yes(value: bool | None) -> str:  # noqa: FBT001 - it is the value that is shown
    return "not known" if value is None else "yes" if value else "no"


def _count(value: int | None) -> str:
    return "not known" if value is None else str(value)


def _of(value: int | None, whole: int | None) -> str:
    return _count(value) + (f" of {whole}" if value is not None and whole is not None else "")
