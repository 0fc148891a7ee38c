"""Everything that ``aiotasks`` raises, under one base.

Each error has its data as attributes and the next step in its message, survives ``copy`` and
``pickle``, and never shows the key.
"""

from http import HTTPStatus
from typing import Any, Final

import msgspec

from .models import MergeTask, json_default


class AffinityError(Exception):
    """The base of all errors of this library."""

    def to_dict(self) -> dict[str, Any]:
        """Return the error as JSON has it: its ``type``, the ``error`` in words, and its data."""
        data = msgspec.to_builtins(vars(self), enc_hook=json_default)
        return {"type": type(self).__name__, "error": str(self), **data}


class ConfigurationError(AffinityError, ValueError):
    """Raised before anything is sent: an argument, a setting or a task URL cannot be used."""


class ClosedError(AffinityError):
    """Raised when a client or a watch is used outside its scope, or on another event loop."""

    def __init__(
        self,
        message: str = (
            "The client is closed: use it inside `async with Client(api_key) as client:` or after "
            "`await client.open()`, and with a session that is open"
        ),
    ) -> None:
        super().__init__(message)


class NetworkError(AffinityError):
    """Raised when no answer came: no connection, or one that broke.

    ``was_sent`` is false when it is certain that no byte of the request left.
    """

    was_sent = True


class ConnectError(NetworkError):
    """Raised when there was no connection to send the request on."""

    was_sent = False


class RequestTimeoutError(NetworkError, TimeoutError):
    """Raised when no answer came within ``request_timeout``."""


class DecodeError(AffinityError):
    """Raised when an answer is not what the API documents; ``status`` is its HTTP status.

    ``is_empty`` is true for an answer without a body, which says nothing: a read is retried then.
    """

    def __init__(self, status: int, problem: str, *, is_empty: bool = False) -> None:
        super().__init__(status, problem)
        self.status = status
        self.problem = problem
        self.is_empty = is_empty

    def __str__(self) -> str:
        return (
            f"The answer (HTTP {self.status}) cannot be read: {self.problem}. "
            "Check that base_url is that of the Affinity API and that no proxy answers for it."
        )


class ResponseError(AffinityError):
    """Raised when the API answers with an error; its subclasses name the frequent ones.

    ``code``, ``message`` and ``param`` are the API's own words. ``request_id`` helps Affinity's
    support to find the request, where the answer names one.
    """

    advice = "See the API's message."

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        param: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(status, code, message, param, request_id)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.request_id = request_id

    def __str__(self) -> str:
        where = f"{self.code}, HTTP {self.status}" if self.code else f"HTTP {self.status}"
        place = f" (parameter {self.param})" if self.param else ""
        request = f" [request {self.request_id}]" if self.request_id else ""
        return f"{self.message.rstrip('.')}{place} ({where}). {self.advice}{request}"


class AuthenticationError(ResponseError):
    """Raised when the API does not know the key (401)."""

    advice = "Check the API key: AFFINITY_API_KEY, or the api_key given to Client."


class AuthorizationError(ResponseError):
    """Raised when the key's user may not do this (403)."""

    advice = (
        "Merging and its lists need the 'Manage duplicates' permission and the organization "
        "admin role."
    )


class NotFoundError(ResponseError):
    """Raised when there is no such task, merge or record (404)."""

    advice = "Check the id; tasks may stop being readable some time after they ended."


class ConflictError(ResponseError):
    """Raised when the request contradicts the present state (409)."""

    advice = "Another merge of this record may be running: wait for it, then try again."


class ValidationError(ResponseError):
    """Raised when the API refuses a request as invalid (400 or 422)."""

    advice = "Check the ids that were sent."


class MergedEntityError(ValidationError):
    """Raised when a record is gone because it was merged into another (422).

    This is exact proof of a merge: ``source_id`` survives as ``target_id``.
    """

    advice = "Use the record that it was merged into."

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        param: str | None = None,
        request_id: str | None = None,
        *,
        source_id: int | None = None,
        target_id: int | None = None,
    ) -> None:
        super().__init__(status, code, message, param, request_id)
        self.source_id = source_id
        self.target_id = target_id


class RateLimitError(ResponseError):
    """Raised when requests are still refused (429) after the library has slowed down."""

    advice = "Another program may be using up the key's limit: try again later."


class MonthlyQuotaError(RateLimitError):
    """Raised when the organization's calls of the month are used up, or down to ``reserve``."""

    advice = "Nothing is lost: go on when the month's limit resets, or lower reserve."


class ServerError(ResponseError):
    """Raised when the API failed on its side (5xx) and kept failing."""

    advice = "Try again later."


class TaskFailedError(AffinityError):
    """Raised when a task ended with a failed merge; ``reason`` is the server's, if it gave one."""

    def __init__(self, task_url: str, task: MergeTask, reason: str | None) -> None:
        super().__init__(task_url, task, reason)
        self.task_url = task_url
        self.task = task
        self.reason = reason

    def __str__(self) -> str:
        summary = self.task.results_summary
        part = (
            f" in {summary.failed} of its {summary.total} merges"
            if summary and summary.total > 1
            else ""
        )
        advice = (
            f"{self.reason.rstrip('.')}. Settle that before you merge the records again"
            if self.reason
            else "the server gave no reason; see the merge history"
        )
        return f"The task failed{part}: {advice} ({self.task_url})"


class TaskTimeoutError(AffinityError, TimeoutError):
    """Raised when the time was up before the task ended. It goes on at the server.

    ``task`` is the last that was seen of it, or ``None`` if it never was; ``obstacle`` says why
    then, and ``__cause__`` is the error that was in the way, if it was one.
    """

    def __init__(
        self, task_url: str, task: MergeTask | None, waited: float, obstacle: str | None = None
    ) -> None:
        super().__init__(task_url, task, waited, obstacle)
        self.task_url = task_url
        self.task = task
        self.waited = waited
        self.obstacle = obstacle

    def __str__(self) -> str:
        unseen = f"never seen: {self.obstacle}" if self.obstacle else "never seen"
        seen = f"last seen as {self.task.status}" if self.task else unseen
        return (
            f"The task had not ended after {self.waited:.1f} s ({seen}). "
            f"It goes on at the server: wait again for {self.task_url}"
        )


class UnknownStatusError(AffinityError):
    """Raised when a task ended with a status that this version does not know."""

    def __init__(self, task_url: str, task: MergeTask) -> None:
        super().__init__(task_url, task)
        self.task_url = task_url
        self.task = task

    def __str__(self) -> str:
        return (
            f"The task has the status {str(self.task.status)!r}, which this version does not know, "
            f"and none of its merges is in progress. Check its merges ({self.task_url})"
        )


class IndeterminateMergeError(AffinityError):
    """Raised when a merge was sent and got no answer: it may have been started, or not.

    It is never repeated automatically. ``__cause__`` is what went wrong.
    """

    def __init__(self, kind: str, primary_id: int, duplicate_id: int) -> None:
        super().__init__(kind, primary_id, duplicate_id)
        self.kind = kind
        self.primary_id = primary_id
        self.duplicate_id = duplicate_id

    def __str__(self) -> str:
        return (
            f"The merge of {self.kind} {self.duplicate_id} into {self.primary_id} may have been "
            "started: search the merge history before you send it again."
        )


class PlanError(AffinityError):
    """Raised when a list of pairs cannot be made into a plan; ``problems`` names all places."""

    shown = 100

    def __init__(self, source: str, problems: tuple[str, ...]) -> None:
        super().__init__(source, problems)
        self.source = source
        self.problems = problems

    def __str__(self) -> str:
        lines = [*self.problems[: self.shown]]
        if len(self.problems) > self.shown:
            lines.append(f"… and {len(self.problems) - self.shown} more such problems")
        return "\n".join([*lines, f"Nothing was merged: fix {self.source} and try again."])


class LedgerError(AffinityError):
    """Raised when the record of a job cannot be read or written, or is that of another job."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class LedgerInUseError(LedgerError):
    """Raised when another process holds the ledger: only one may write to it at a time."""


class NoJobError(LedgerError):
    """Raised when a ledger holds no job yet, so that there is nothing to go on with or to report."""


# The first that fits counts. A refused key is the service's own, and not that of its caller.
_HTTP_STATUS: Final[tuple[tuple[tuple[type[AffinityError], ...], HTTPStatus], ...]] = (
    ((ConfigurationError,), HTTPStatus.BAD_REQUEST),
    ((NotFoundError, NoJobError), HTTPStatus.NOT_FOUND),
    ((ConflictError, IndeterminateMergeError, LedgerInUseError), HTTPStatus.CONFLICT),
    ((MergedEntityError, PlanError, TaskFailedError), HTTPStatus.UNPROCESSABLE_ENTITY),
    ((RequestTimeoutError, TaskTimeoutError), HTTPStatus.GATEWAY_TIMEOUT),
    ((RateLimitError, ServerError, NetworkError, ClosedError), HTTPStatus.SERVICE_UNAVAILABLE),
    ((ResponseError, DecodeError, UnknownStatusError), HTTPStatus.BAD_GATEWAY),
)


def http_status_of(error: BaseException) -> int:
    """Return the HTTP status with which a service answers when an error ends its handler.

    ===== ==========================================================================
    400   the argument or the ids cannot be used
    404   there is no such task, merge, record or job
    409   a conflict; also a merge that may have been started, and must not be sent again blindly
    422   the request is understood, and cannot be carried out: a record that is gone, a merge
          that failed, a list of pairs with mistakes
    502   the API refuses the service itself (its key), or answers what cannot be read
    503   the API or this client is not available: try again later
    504   the time was up; the task goes on
    500   everything else, also errors of other libraries
    ===== ==========================================================================

    Of a group, such as that of ``raise_for_failures``, it is the highest of its errors.
    """
    if isinstance(error, BaseExceptionGroup):
        return max(map(http_status_of, error.exceptions))
    if type(error) is ValidationError:
        # The API's own 400 or 422.
        return error.status
    for classes, status in _HTTP_STATUS:
        if isinstance(error, classes):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR
