"""The error tree: what each error is, says and carries."""

import copy
import json
import pickle
from typing import Any

import msgspec
import pytest

import aiotasks
from aiotasks import (
    AffinityError,
    AuthenticationError,
    AuthorizationError,
    ClosedError,
    ConfigurationError,
    ConflictError,
    ConnectError,
    DecodeError,
    IndeterminateMergeError,
    LedgerError,
    LedgerInUseError,
    MergedEntityError,
    MergeTask,
    MonthlyQuotaError,
    NetworkError,
    NoJobError,
    NotFoundError,
    PlanError,
    RateLimitError,
    RequestTimeoutError,
    ResponseError,
    ResultsSummary,
    ServerError,
    TaskFailedError,
    TaskStatus,
    TaskTimeoutError,
    UnknownStatusError,
    ValidationError,
    errors,
    http_status_of,
    json_default,
)


URL = "https://api.affinity.co/v2/tasks/company-merges/a"
TASK = MergeTask(id="a", status=TaskStatus("paused"))
BATCH = MergeTask(
    id="a", status=TaskStatus.SUCCESS, results_summary=ResultsSummary(total=3, success=2, failed=1)
)

BASES: dict[type[AffinityError], tuple[type[BaseException], ...]] = {
    AffinityError: (Exception,),
    ConfigurationError: (AffinityError, ValueError),
    ClosedError: (AffinityError,),
    NetworkError: (AffinityError,),
    ConnectError: (NetworkError,),
    RequestTimeoutError: (NetworkError, TimeoutError),
    DecodeError: (AffinityError,),
    ResponseError: (AffinityError,),
    AuthenticationError: (ResponseError,),
    AuthorizationError: (ResponseError,),
    NotFoundError: (ResponseError,),
    ConflictError: (ResponseError,),
    ValidationError: (ResponseError,),
    MergedEntityError: (ValidationError,),
    RateLimitError: (ResponseError,),
    MonthlyQuotaError: (RateLimitError,),
    ServerError: (ResponseError,),
    TaskFailedError: (AffinityError,),
    TaskTimeoutError: (AffinityError, TimeoutError),
    UnknownStatusError: (AffinityError,),
    IndeterminateMergeError: (AffinityError,),
    PlanError: (AffinityError,),
    LedgerError: (AffinityError,),
    LedgerInUseError: (LedgerError,),
    NoJobError: (LedgerError,),
}

# Each error as it is raised, and the advice in its message.
DETAILS = (400, "validation", "Bad id.", "primaryCompanyId", "r-1")
SAMPLES: list[tuple[AffinityError, str]] = [
    (ResponseError(*DETAILS), "See the API's message"),
    (AuthenticationError(*DETAILS), "Check the API key"),
    (AuthorizationError(*DETAILS), "'Manage duplicates' permission"),
    (NotFoundError(*DETAILS), "Check the id"),
    (ConflictError(*DETAILS), "wait for it"),
    (ValidationError(*DETAILS), "Check the ids"),
    (MergedEntityError(*DETAILS, source_id=7, target_id=8), "Use the record"),
    (RateLimitError(*DETAILS), "try again later"),
    (MonthlyQuotaError(*DETAILS), "go on when the month's limit resets"),
    (ServerError(*DETAILS), "Try again later"),
    (DecodeError(200, "it is empty"), "Check that base_url"),
    (ClosedError(), "use it inside `async with Client"),
    (TaskFailedError(URL, BATCH, "Primary company not found."), "before you merge"),
    (TaskFailedError(URL, TASK, None), "see the merge history"),
    (TaskTimeoutError(URL, TASK, 61.5), "wait again"),
    (TaskTimeoutError(URL, None, 61.5), "It goes on at the server: wait again"),
    (UnknownStatusError(URL, TASK), "Check its merges"),
    (IndeterminateMergeError("company", 1, 2), "search the merge history"),
    (PlanError("pairs.csv", ("pairs.csv:2: 'a' is not a whole number",)), "fix pairs.csv"),
    (LedgerError("job.db", "it is damaged: put back a copy"), "put back a copy"),
    (LedgerInUseError("job.db", "it is in use: wait"), "wait"),
    (NoJobError("job.db", "it has no job: begin one"), "begin one"),
]


def name_of(value: object) -> str | None:
    return type(value).__name__ if isinstance(value, AffinityError) else None


def test_the_tree() -> None:
    """Every error has the one base class, and those that say so are built-in errors too."""
    found = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert found == set(BASES)
    assert {each: each.__bases__ for each in BASES} == BASES


def test_every_error_is_sampled() -> None:
    """Every error with data of its own is among the samples of this module."""
    with_data = {each for each in BASES if each.__init__ is not AffinityError.__init__}
    assert with_data <= {type(error) for error, _ in SAMPLES} | {ConfigurationError} | {
        RequestTimeoutError
    }


@pytest.mark.parametrize("error_class", BASES, ids=lambda each: each.__name__)
def test_each_says_when_it_is_raised(error_class: type[AffinityError]) -> None:
    """Every error has a docstring of its own that says when it is raised."""
    assert error_class.__doc__
    assert error_class is AffinityError or error_class.__doc__.startswith("Raised ")


@pytest.mark.parametrize(("error", "advice"), SAMPLES, ids=name_of)
def test_advice(error: AffinityError, advice: str) -> None:
    """The message of an error is one sentence or more, and says what to do."""
    assert advice in str(error)
    assert ".." not in str(error)
    assert "None" not in str(error)


@pytest.mark.parametrize(
    "error",
    [
        *(pytest.param(error, id=f"{name_of(error)}: {advice}") for error, advice in SAMPLES),
        *(
            each("It is closed")
            for each in (
                AffinityError,
                ConfigurationError,
                ClosedError,
                NetworkError,
                ConnectError,
                RequestTimeoutError,
            )
        ),
    ],
    ids=name_of,
)
def test_they_survive_copies(error: AffinityError) -> None:
    """An error keeps all its data through ``copy`` and ``pickle``."""
    for copied in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(copied) is type(error)
        assert (str(copied), repr(copied)) == (str(error), repr(error))
        assert (copied.args, vars(copied)) == (error.args, vars(error))


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (DecodeError(200, "x"), {"status": 200, "problem": "x"}),
        (
            NotFoundError(*DETAILS),
            {
                "status": 400,
                "code": "validation",
                "message": "Bad id.",
                "param": "primaryCompanyId",
                "request_id": "r-1",
            },
        ),
        (ServerError(503, None, "x"), {"code": None, "param": None, "request_id": None}),
        (
            MergedEntityError(*DETAILS, source_id=7, target_id=8),
            {"source_id": 7, "target_id": 8, "status": 400},
        ),
        (TaskFailedError(URL, TASK, "x"), {"task_url": URL, "task": TASK, "reason": "x"}),
        (TaskTimeoutError(URL, None, 1.5), {"task_url": URL, "task": None, "waited": 1.5}),
        (UnknownStatusError(URL, TASK), {"task_url": URL, "task": TASK}),
        (
            IndeterminateMergeError("person", 1, 2),
            {"kind": "person", "primary_id": 1, "duplicate_id": 2},
        ),
        (NetworkError("x"), {"was_sent": True}),
        (ConnectError("x"), {"was_sent": False}),
        (RequestTimeoutError("x"), {"was_sent": True}),
    ],
    ids=name_of,
)
def test_attributes(error: AffinityError, attributes: dict[str, Any]) -> None:
    """Each error carries its data as attributes, so that its message need not be parsed."""
    assert {name: getattr(error, name) for name in attributes} == attributes


@pytest.mark.parametrize(
    ("error", "text"),
    [
        pytest.param(
            ValidationError(*DETAILS),
            "Bad id (parameter primaryCompanyId) (validation, HTTP 400). "
            "Check the ids that were sent. [request r-1]",
            id="all details",
        ),
        pytest.param(ServerError(503, None, "x"), "x (HTTP 503). Try again later.", id="none"),
        pytest.param(
            TaskFailedError(URL, BATCH, "Primary company not found."),
            "The task failed in 1 of its 3 merges: Primary company not found. "
            f"Settle that before you merge the records again ({URL})",
            id="part of a batch",
        ),
        pytest.param(
            TaskFailedError(URL, TASK, None),
            f"The task failed: the server gave no reason; see the merge history ({URL})",
            id="no reason",
        ),
        pytest.param(
            TaskTimeoutError(URL, TASK, 61.5),
            "The task had not ended after 61.5 s (last seen as paused). "
            f"It goes on at the server: wait again for {URL}",
            id="seen",
        ),
        pytest.param(
            TaskTimeoutError(URL, None, 61.5),
            "The task had not ended after 61.5 s (never seen). "
            f"It goes on at the server: wait again for {URL}",
            id="never seen",
        ),
        pytest.param(
            UnknownStatusError(URL, TASK),
            "The task has the status 'paused', which this version does not know, "
            f"and none of its merges is in progress. Check its merges ({URL})",
            id="unknown status",
        ),
        pytest.param(
            PlanError("pairs.csv", ("pairs.csv:2: this", "pairs.csv:7: that")),
            "pairs.csv:2: this\npairs.csv:7: that\n"
            "Nothing was merged: fix pairs.csv and try again.",
            id="plan",
        ),
        pytest.param(LedgerError("job.db", "it is damaged"), "job.db: it is damaged", id="ledger"),
    ],
)
def test_text(error: AffinityError, text: str) -> None:
    """The message of an error omits what is unknown and repeats no punctuation."""
    assert str(error) == text


def test_a_plan_error_has_more_problems_than_it_shows() -> None:
    """The message shows the first problems only; the attribute has them all."""
    error = PlanError("pairs.csv", tuple(f"pairs.csv:{line}: no" for line in range(2, 500)))
    assert str(error).count("\n") == PlanError.shown + 1
    assert "… and 398 more such problems" in str(error)
    assert len(error.problems) == 498


@pytest.mark.parametrize(
    "error_class", [RequestTimeoutError, TaskTimeoutError], ids=lambda each: each.__name__
)
def test_timeouts_are_caught_as_such(error_class: type[AffinityError]) -> None:
    """``except TimeoutError`` catches the errors of timeouts, and no other."""
    assert issubclass(error_class, TimeoutError)
    others = set(BASES) - {RequestTimeoutError, TaskTimeoutError}
    assert not any(issubclass(other, TimeoutError) for other in others)


@pytest.mark.parametrize("key", ["s3cr3t key", "s3cr3t\n", "s3cr3t-ключ"], ids=ascii)
def test_a_wrong_key_is_not_shown(key: str) -> None:
    """A key that cannot be used is refused without repeating it."""
    with pytest.raises(ConfigurationError, match="AFFINITY_API_KEY") as caught:
        _ = aiotasks.Client(key)
    assert "s3cr3t" not in f"{caught.value!s}{caught.value!r}"


def test_a_client_does_not_show_its_key() -> None:
    """No text of a client contains its key."""
    assert "s3cr3t" not in repr(aiotasks.Client("s3cr3t"))


STATUSES: dict[type[AffinityError], int] = {
    AffinityError: 500,
    ConfigurationError: 400,
    ClosedError: 503,
    NetworkError: 503,
    ConnectError: 503,
    RequestTimeoutError: 504,
    DecodeError: 502,
    ResponseError: 502,
    AuthenticationError: 502,
    AuthorizationError: 502,
    NotFoundError: 404,
    ConflictError: 409,
    MergedEntityError: 422,
    RateLimitError: 503,
    MonthlyQuotaError: 503,
    ServerError: 503,
    TaskFailedError: 422,
    TaskTimeoutError: 504,
    UnknownStatusError: 502,
    IndeterminateMergeError: 409,
    PlanError: 422,
    LedgerError: 500,
    LedgerInUseError: 409,
    NoJobError: 404,
}


@pytest.mark.parametrize("error_class", BASES, ids=lambda each: each.__name__)
def test_each_has_an_http_status(error_class: type[AffinityError]) -> None:
    """A service answers each error of the tree with the status that the public table has."""
    error = error_class.__new__(error_class)
    if error_class is ValidationError:
        for status in (400, 422):
            assert http_status_of(ValidationError(status, "validation", "No.")) == status
    else:
        assert http_status_of(error) == STATUSES[error_class]


def test_the_worst_of_a_group_counts() -> None:
    """Of many errors the one with the highest status decides, as something is left to do for it."""
    failed, running = TaskFailedError(URL, BATCH, None), TaskTimeoutError(URL, None, 1.0)
    assert http_status_of(ExceptionGroup("two", [failed, running])) == 504
    assert http_status_of(ExceptionGroup("one", [ExceptionGroup("in one", [failed])])) == 422


def test_other_errors_are_500() -> None:
    """An error of something else is none of the caller's business."""
    assert http_status_of(KeyError("x")) == 500
    assert http_status_of(TimeoutError()) == 500


@pytest.mark.parametrize(("error", "_"), SAMPLES, ids=name_of)
def test_json(error: AffinityError, _: str) -> None:
    """Each error becomes JSON with its type, its words and its data."""
    shown = json.loads(json.dumps(error.to_dict()))
    assert (shown.pop("type"), shown.pop("error")) == (type(error).__name__, str(error))
    assert shown.keys() == vars(error).keys()
    assert json.loads(json.dumps([error], default=json_default))[0]["error"] == str(error)
    assert msgspec.json.decode(msgspec.json.encode(error, enc_hook=json_default))["error"]


def test_json_of_the_task() -> None:
    """The task of an error is shown as the API shows it."""
    shown = TaskFailedError(URL, BATCH, "Locked").to_dict()
    summary = {"total": 3, "inProgress": 0, "success": 2, "failed": 1}
    assert shown["task"] == {"id": "a", "status": "success", "resultsSummary": summary}
    assert shown["reason"] == "Locked"
