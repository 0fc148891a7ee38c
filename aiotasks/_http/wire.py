"""The wire format: plain functions that build requests, and turn answers into models or errors.

Nothing here does I/O or reads a clock. The API's rules: https://developer.affinity.co/docs/v2
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from aiotasks._checks import known_kind, reject, shorten
from aiotasks.errors import (
    AuthenticationError,
    AuthorizationError,
    ConflictError,
    DecodeError,
    MergedEntityError,
    NotFoundError,
    RateLimitError,
    ResponseError,
    ServerError,
    ValidationError,
)
from aiotasks.models import (
    CompanyMergeState,
    CompanyProfile,
    DuplicateSuggestion,
    Kind,
    MergeTask,
    PersonMergeState,
    PersonProfile,
    Record,
)

from .urls import TaskRef, named_task, next_target


T = TypeVar("T")

PAGE_LIMIT = 100
"""How many items a page has at most, and so how many records a call can ask for."""
# The largest ids that the API's document allows: of merges and what they name, and of records that are read.
_MAX_ID = 2**53 - 1
_MAX_RECORD_ID = 2**63 - 1


_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_STATUS = re.compile(r"[A-Za-z][A-Za-z_-]{0,63}", re.ASCII)
_MERGED = re.compile(
    r"\b(\d{1,16})\W+no longer exists as it has been merged into\W+(\d{1,16})\b", re.ASCII
)


class Pagination(msgspec.Struct, frozen=True, rename="camel"):
    """Where the next page of a list is."""

    next_url: str | None = None


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page of a list, newest first."""

    data: list[T]
    pagination: Pagination = Pagination()


class Started(msgspec.Struct, frozen=True, rename="camel"):
    """The answer to a merge request."""

    task_url: str


class User(msgspec.Struct, frozen=True):
    """The user whose key it is."""

    id: int


class Identity(msgspec.Struct, frozen=True):
    """The answer to ``GET /v2/auth/whoami``."""

    user: User


class RateLimitWindow(msgspec.Struct, frozen=True):
    """One of the limits in the answer to ``GET /v2/rate-limit``."""

    limit: int
    remaining: int
    reset: int


class RateLimitAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """The limits of the key's user and of its organization."""

    caller_per_minute: RateLimitWindow
    org_per_month: RateLimitWindow | None = None


class _Problem(msgspec.Struct, frozen=True):
    code: str | None = None
    message: str | None = None
    param: str | None = None


class _Problems(msgspec.Struct, frozen=True):
    errors: list[_Problem] = []


Decoder = msgspec.json.Decoder


class Request(NamedTuple, Generic[T]):
    """What to send, below the origin, and how to read the answer."""

    method: str
    target: str
    decoder: "Decoder[T]"
    body: bytes | None = None


# The last is what deep nesting comes to.
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_TASK: Decoder[MergeTask] = Decoder(MergeTask)
_TASKS: Decoder[Page[MergeTask]] = Decoder(Page[MergeTask])
_STARTED: Decoder[Started] = Decoder(Started)
_RATE_LIMITS: Decoder[RateLimitAnswer] = Decoder(RateLimitAnswer)
_IDENTITY: Decoder[Identity] = Decoder(Identity)
_PROBLEMS: Decoder[_Problems] = Decoder(_Problems)
_STATE: Mapping[Kind, Decoder[Any]] = {
    "company": Decoder(CompanyMergeState),
    "person": Decoder(PersonMergeState),
}
_STATES: Mapping[Kind, Decoder[Any]] = {
    "company": Decoder(Page[CompanyMergeState]),
    "person": Decoder(Page[PersonMergeState]),
}
_PLURAL: Mapping[Kind, str] = {"company": "companies", "person": "persons"}
# Without naming types, records come without the data of their fields.
_FIELDS = "&".join(
    f"fieldTypes={name}" for name in ("enriched", "global", "relationship-intelligence")
)
_RAW: Decoder[msgspec.Raw] = Decoder(msgspec.Raw)
_RAW_PAGE: Decoder[Page[msgspec.Raw]] = Decoder(Page[msgspec.Raw])
_PROFILE: Mapping[Kind, Decoder[Any]] = {
    "company": Decoder(CompanyProfile),
    "person": Decoder(PersonProfile),
}
_SUGGESTIONS: Mapping[Kind, Decoder[Any]] = {
    "company": Decoder(Page[DuplicateSuggestion[CompanyProfile]]),
    "person": Decoder(Page[DuplicateSuggestion[PersonProfile]]),
}


def started_task(answer: Started, kind: Kind) -> TaskRef:
    """Return the task that the answer to a merge names.

    The server may name it by whatever host it knows itself; only its kind and id count.

    Raises:
        DecodeError: when the answer names no task of this kind.
    """
    ref = named_task(answer.task_url)
    if ref is None or ref.kind != kind:
        raise DecodeError(202, f"its taskUrl {shorten(answer.task_url)} names no {kind} merge task")
    return ref


def get_task(ref: TaskRef) -> Request[MergeTask]:
    """Ask for one task."""
    return Request("GET", f"/v2/tasks/{ref.kind}-merges/{ref.id}", _TASK)


def require_id(task: MergeTask, ref: TaskRef) -> None:
    """Check that an answer is about the task that was asked for.

    Raises:
        DecodeError: when it is about another one.
    """
    if task.id.lower() != ref.id.lower():
        raise DecodeError(200, f"it is the task {shorten(task.id)}, not {ref.id}")


def list_tasks(kind: Kind, status: str | None = None) -> Request[Page[MergeTask]]:
    """Ask for the newest tasks; the filter of this list knows ``status`` only."""
    return Request(
        "GET", _listing(f"tasks/{known_kind(kind)}-merges", _status_term(status)), _TASKS
    )


def list_merges(
    kind: Kind, *, status: str | None = None, task_ids: list[str] | None = None
) -> Request[Page[Any]]:
    """Ask for the newest merges, or only for those of some tasks."""
    term = _status_term(status)
    if task_ids:
        # `&` binds more tightly than `|`, so the status stands in each of the alternatives.
        prefix = f"{term} & " if term else ""
        term = " | ".join(f"{prefix}taskId={_checked_id(task)}" for task in task_ids)
    return Request("GET", _listing(f"{known_kind(kind)}-merges", term), _STATES[kind])


def get_merge(kind: Kind, merge_id: int) -> Request[Any]:
    """Ask for one merge."""
    number = _checked_number("merge_id", merge_id)
    return Request("GET", f"/v2/{kind}-merges/{number}", _STATE[kind])


def list_suggestions(kind: Kind) -> Request[Page[Any]]:
    """Ask for the duplicates that Affinity suggests (beta, API version 2026-07-15 and later)."""
    return Request(
        "GET", f"/v2/duplicates/{kind}-suggestions?limit={PAGE_LIMIT}", _SUGGESTIONS[kind]
    )


def list_records(kind: Kind, ids: Sequence[int]) -> Request[Page[msgspec.Raw]]:
    """Ask for up to a hundred records, with the data of their fields."""
    numbers = "".join(
        f"&ids={_checked_number('id', number, maximum=_MAX_RECORD_ID)}" for number in ids
    )
    return Request("GET", f"/v2/{_PLURAL[kind]}?limit={PAGE_LIMIT}{numbers}&{_FIELDS}", _RAW_PAGE)


def get_record(kind: Kind, record_id: int) -> Request[msgspec.Raw]:
    """Ask for one record; one that was merged away is answered with an error that names the survivor."""
    number = _checked_number("record_id", record_id, maximum=_MAX_RECORD_ID)
    return Request("GET", f"/v2/{_PLURAL[kind]}/{number}?{_FIELDS}", _RAW)


def read_record(kind: Kind, raw: msgspec.Raw) -> Record[Any]:
    """Return a record out of what the API sent for it.

    Raises:
        DecodeError: when that is none.
    """
    try:
        return Record(profile=_PROFILE[kind].decode(raw), json=bytes(raw))
    except _UNREADABLE as error:
        raise DecodeError(200, f"a {kind} in it is none: {error}") from error


def get_identity() -> Request[Identity]:
    """Ask whose key it is."""
    return Request("GET", "/v2/auth/whoami", _IDENTITY)


def get_rate_limit() -> Request[RateLimitAnswer]:
    """Ask for the limits (beta, API version 2026-07-15 and later)."""
    return Request("GET", "/v2/rate-limit", _RATE_LIMITS)


def merge(kind: Kind, primary_id: int, duplicate_id: int) -> Request[Started]:
    """Ask for a merge.

    Raises:
        ConfigurationError: when an id is none, or both are the same.
    """
    primary = _checked_number("primary_id", primary_id)
    duplicate = _checked_number("duplicate_id", duplicate_id)
    if primary == duplicate:
        reject(f"A {kind} cannot be merged into itself: both ids are {primary}")
    name = kind.capitalize()
    body = {f"primary{name}Id": primary, f"duplicate{name}Id": duplicate}
    return Request("POST", f"/v2/{kind}-merges", _STARTED, msgspec.json.encode(body))


def follow(request: Request[Page[T]], page: Page[T], origin: str) -> Request[Page[T]] | None:
    """Return the request for the page after ``page``, if there is one."""
    if page.pagination.next_url is None:
        return None
    return Request("GET", next_target(page.pagination.next_url, origin), request.decoder)


def decode(request: Request[T], status: int, headers: Mapping[str, str], body: bytes) -> T:
    """Decode an answer, or raise the error that it is.

    Raises:
        ResponseError: of the class that the status stands for.
        DecodeError: when the answer is a success that cannot be read.
    """
    if not 200 <= status < 300:  # noqa: PLR2004 - HTTP's own numbers
        raise _response_error(status, headers, body)
    if not body:
        raise DecodeError(status, "it has no body", is_empty=True)
    try:
        return request.decoder.decode(body)
    except _UNREADABLE as error:
        kind = headers.get("Content-Type", "no content type")
        raise DecodeError(status, f"{error} ({len(body)} bytes of {shorten(kind)})") from error


def _response_error(status: int, headers: Mapping[str, str], body: bytes) -> ResponseError:
    problem = _first_problem(body)
    message = problem.message or _unexplained(status, headers)
    details = (status, problem.code, message, problem.param, headers.get("X-Request-Id"))
    merged = _MERGED.search(message)
    if status == 422 and merged:  # noqa: PLR2004
        source, target = map(int, merged.groups())
        return MergedEntityError(*details, source_id=source, target_id=target)
    return _error_class(status, problem.code)(*details)


def _error_class(status: int, code: str | None) -> type[ResponseError]:
    if status >= 500 or status == 408 or code == "timeout":  # noqa: PLR2004
        return ServerError
    return _ERRORS.get(status, ResponseError)


_ERRORS: Mapping[int, type[ResponseError]] = {
    400: ValidationError,
    401: AuthenticationError,
    403: AuthorizationError,
    404: NotFoundError,
    409: ConflictError,
    422: ValidationError,
    429: RateLimitError,
}


def _first_problem(body: bytes) -> _Problem:
    # Proxies answer with HTML, which explains nothing to the user.
    try:
        problems = _PROBLEMS.decode(body).errors
    except _UNREADABLE:
        problems = []
    return problems[0] if problems else _Problem()


def _unexplained(status: int, headers: Mapping[str, str]) -> str:
    if 300 <= status < 400:  # noqa: PLR2004
        return f"It redirects to {shorten(headers.get('Location', ''))}, which is not followed"
    return "The server gave no reason that can be read"


def _listing(path: str, expression: str) -> str:
    query = f"limit={PAGE_LIMIT}" + (f"&filter={quote(expression, safe='')}" if expression else "")
    return f"/v2/{path}?{query}"


def _status_term(status: str | None) -> str:
    if status is None:
        return ""
    if _STATUS.fullmatch(status) is None:
        reject(f"{shorten(status)} is not a status: try in-progress, success or failed")
    return f"status={status}"


def _checked_id(task_id: str) -> str:
    if _ID.fullmatch(task_id) is None:
        reject(f"{shorten(task_id)} is not a task id")
    return task_id


def _checked_number(name: str, value: int, *, maximum: int = _MAX_ID) -> int:
    if type(value) is not int or not 0 < value <= maximum:
        reject(f"{name} must be a positive whole number, not {shorten(value)}")
    return value
