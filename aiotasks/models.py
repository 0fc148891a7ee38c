"""What the API answers, as immutable values."""

import re
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Generic, Literal, Self, TypeAlias, TypeVar

import msgspec
from msgspec import Struct, field


Kind: TypeAlias = Literal["company", "person"]
"""What is merged: companies or persons."""


class TaskStatus(StrEnum):
    """How far a task or a merge is.

    A status that this version does not know is kept as the server sent it: it compares equal to
    its string, and ``status in list(TaskStatus)`` is false for it.
    """

    PENDING = "pending"
    IN_PROGRESS = "in-progress"
    SUCCESS = "success"
    FAILED = "failed"

    @property
    def is_ended(self) -> bool:
        """Whether it is known as the end of a task: a success or a failure."""
        return self in {TaskStatus.SUCCESS, TaskStatus.FAILED}

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        unknown = str.__new__(cls, value)
        unknown._name_ = value
        unknown._value_ = value
        return unknown


def json_default(value: object) -> Any:
    """Return what JSON has in place of a value that it does not know: its ``to_dict()``.

    Made for ``json.dumps(…, default=json_default)`` and
    ``msgspec.json.encode(…, enc_hook=json_default)``.

    Raises:
        TypeError: when the value has none.
    """
    to_dict = getattr(value, "to_dict", None)
    if to_dict is None:
        message = f"{type(value).__name__} cannot be shown as JSON"
        raise TypeError(message)
    return to_dict()


class Value(Struct, frozen=True):
    """The base of all values: immutable, compared by what they contain, and shown as JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it: for handlers, logs and pydantic.

        Names are those that the API uses where a value is the API's.
        """
        built = msgspec.to_builtins(self, enc_hook=json_default)
        return dict(built)


class ResultsSummary(Value, frozen=True, kw_only=True, rename="camel", gc=False):
    """How many merges of a task are in which state."""

    total: int = 0
    in_progress: int = 0
    success: int = 0
    failed: int = 0


class MergeTask(Value, frozen=True, kw_only=True, rename="camel", gc=False):
    """A server-side task: a batch of merges, of one merge where this library started it.

    ``results_summary`` can be missing. ``status`` alone does not prove a success: see
    ``OutcomeState.FAILED``.
    """

    id: str
    status: TaskStatus
    results_summary: ResultsSummary | None = None


class MergeState(Value, frozen=True, kw_only=True, rename="camel", gc=False):
    """One merge as the merge history shows it; only here stands why it failed."""

    id: int
    status: TaskStatus
    task_id: str
    started_at: datetime | None = None
    completed_at: datetime | None = None
    error_message: str | None = None


class CompanyMergeState(MergeState, frozen=True, kw_only=True, rename="camel", gc=False):
    """The merge of a duplicate company into a primary one."""

    primary_id: int = field(name="primaryCompanyId")
    duplicate_id: int = field(name="duplicateCompanyId")


class PersonMergeState(MergeState, frozen=True, kw_only=True, rename="camel", gc=False):
    """The merge of a duplicate person into a primary one."""

    primary_id: int = field(name="primaryPersonId")
    duplicate_id: int = field(name="duplicatePersonId")


class CompanyProfile(Value, frozen=True, kw_only=True, rename="camel"):
    """A company as suggestions and records name it."""

    id: int
    name: str | None = None
    domain: str | None = None
    domains: tuple[str, ...] = ()
    is_global: bool | None = None
    is_enriched: bool | None = None

    @property
    def label(self) -> str:
        """The name, and the domain that distinguishes it from others of that name."""
        return _label(self.name, self.domain)


class PersonProfile(Value, frozen=True, kw_only=True, rename="camel"):
    """A person as suggestions and records name them."""

    id: int
    first_name: str | None = None
    last_name: str | None = None
    primary_email_address: str | None = None
    email_addresses: tuple[str, ...] = ()
    type: str | None = None

    @property
    def label(self) -> str:
        """The name, and the email address that distinguishes them from others of that name."""
        name = " ".join(filter(None, (self.first_name, self.last_name)))
        return _label(name, self.primary_email_address)


def _label(name: str | None, more: str | None) -> str:
    return f"{name or 'without a name'} ({more})" if more else name or "without a name"


StateT = TypeVar("StateT", bound=MergeState)
ProfileT = TypeVar("ProfileT", CompanyProfile, PersonProfile)


class Record(Value, Generic[ProfileT], frozen=True, kw_only=True):
    """A record as it is now: its ``profile``, and ``json``, all of it as the API sent it."""

    profile: ProfileT
    json: bytes

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it, with the record itself in place of its text."""
        return {"profile": self.profile.to_dict(), "json": msgspec.json.decode(self.json)}


class DuplicateSuggestion(Value, Generic[ProfileT], frozen=True, kw_only=True, rename="camel"):
    """Records that Affinity takes for duplicates of one another, and by which criterion.

    ``match_criteria`` is ``domain-match``, ``domain-redirect`` or ``name`` for companies,
    ``intelligent`` or ``name`` for persons, or whatever the server adds to these.
    """

    id: str
    match_criteria: str
    primary_profile: ProfileT
    duplicate_profiles: tuple[ProfileT, ...] = ()


_ID = re.compile(r"(?<=-merges/)[^/]+$|(?<=/)[0-9]+$", re.ASCII)


class RequestInfo(Value, frozen=True, kw_only=True):
    """A request that was sent, and how it ended: what ``on_request`` is called with.

    ``status`` is ``None`` if no answer came, or the call was cancelled first. ``seconds`` count from
    when it was sent to the end of the answer's body, without the time that it waited for a slot.
    ``remaining`` and ``org_remaining`` are the calls left in the minute and in the month, as this
    answer has them. Each attempt of a request counts for itself.
    """

    method: str
    path: str
    status: int | None
    seconds: float
    remaining: int | None = None
    org_remaining: int | None = None

    @property
    def route(self) -> str:
        """The path with ``{id}`` in place of ids, so that metrics have few labels."""
        return _ID.sub("{id}", self.path)


class Lateness(Value, frozen=True, kw_only=True):
    """How late new tasks became visible.

    Of ``tasks`` that were started, ``late`` were not found when they were first asked for by their
    ids; the last of these was seen ``longest`` seconds after its start. What a page of the list did
    not show counts for nothing.
    """

    tasks: int = 0
    late: int = 0
    longest: float = 0.0

    def __add__(self, other: "Lateness") -> "Lateness":
        return Lateness(
            tasks=self.tasks + other.tasks,
            late=self.late + other.late,
            longest=max(self.longest, other.longest),
        )


DEFAULT_LIMIT: Final = 900
"""Calls a minute that the API grants a user; assumed until an answer has a limit of its own."""


class Quota(Value, frozen=True, kw_only=True):
    """What is known of the rate limits; ``None`` for what no answer had yet.

    ``limit``, ``remaining`` and ``reset`` (seconds) are those of the user's minute, the ``org_``
    ones those of the organization's month. ``remaining`` counts all use of the key, that of other
    programs included, and takes off what is on its way. ``waiting`` requests wait for a slot, and
    ``waiting_for`` says what keeps them.
    """

    limit: int | None = None
    remaining: int | None = None
    reset: float | None = None
    org_limit: int | None = None
    org_remaining: int | None = None
    org_reset: float | None = None
    in_flight: int = 0
    sent: int = 0
    refused: int = 0
    waiting: int = 0
    waiting_for: str | None = None

    def __repr__(self) -> str:
        parts = [
            _left(self.remaining, self.limit, self.reset, "minute"),
            _left(self.org_remaining, self.org_limit, self.org_reset, "month"),
            f"{self.sent} sent, {self.in_flight} in flight, {self.refused} refused",
        ]
        if self.waiting:
            parts.append(f"{self.waiting} waiting for {self.waiting_for}")
        return f"<Quota: {'; '.join(parts)}>"


def _left(remaining: int | None, limit: int | None, reset: float | None, window: str) -> str:
    if remaining is None:
        return f"{window} unknown"
    of = "" if limit is None else f" of {limit}"
    until = "" if reset is None else f", {reset:.0f} s to go"
    return f"{remaining}{of} left in the {window}{until}"
