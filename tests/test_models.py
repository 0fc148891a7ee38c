"""The values that users get: statuses, outcomes and the sequence of them."""

import copy
import json
import pickle
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from aiotasks import (
    AffinityError,
    CompanyMergeState,
    CompanyProfile,
    DuplicateSuggestion,
    MergeState,
    MergeTask,
    Outcome,
    Outcomes,
    OutcomeState,
    PersonMergeState,
    PersonProfile,
    Progress,
    Quota,
    Record,
    ResultsSummary,
    TaskFailedError,
    TaskStatus,
    TaskTimeoutError,
    Value,
    json_default,
)
from tests.profiles import examples


# How long Hypothesis takes to make examples depends on the machine.
SLOW = [HealthCheck.too_slow]

TASK = MergeTask(id="a", status=TaskStatus.SUCCESS)
MERGE: dict[str, Any] = {
    "id": 1,
    "status": TaskStatus.FAILED,
    "task_id": "a",
    "started_at": datetime(2026, 3, 1, tzinfo=UTC),
    "primary_id": 2,
    "duplicate_id": 3,
}
VALUES: list[Value] = [
    ResultsSummary(total=1),
    TASK,
    CompanyMergeState(**MERGE),
    PersonMergeState(**MERGE),
    CompanyProfile(id=1),
    PersonProfile(id=1),
    DuplicateSuggestion(id="s", match_criteria="name", primary_profile=CompanyProfile(id=1)),
    Quota(),
    Outcome(url="u", state=OutcomeState.SUCCESS, task=TASK),
    Progress(total=1, done=1, outcome=Outcome(url="u", state=OutcomeState.SUCCESS)),
]


class TestQuota:
    @pytest.mark.parametrize(
        ("quota", "line"),
        [
            (
                Quota(),
                "<Quota: minute unknown; month unknown; 0 sent, 0 in flight, 0 refused>",
            ),
            (
                Quota(
                    limit=900,
                    remaining=797,
                    reset=39.6,
                    org_limit=100_000,
                    org_remaining=5000,
                    org_reset=980.0,
                    in_flight=3,
                    sent=14,
                    refused=2,
                    waiting=7,
                    waiting_for="the first answer of the minute",
                ),
                (
                    "<Quota: 797 of 900 left in the minute, 40 s to go; "
                    "5000 of 100000 left in the month, 980 s to go; "
                    "14 sent, 3 in flight, 2 refused; "
                    "7 waiting for the first answer of the minute>"
                ),
            ),
            (
                Quota(remaining=0, org_remaining=9),
                (
                    "<Quota: 0 left in the minute; 9 left in the month; "
                    "0 sent, 0 in flight, 0 refused>"
                ),
            ),
        ],
        ids=["nothing", "all", "no limits and no resets"],
    )
    def test_it_is_one_readable_line(self, quota: Quota, line: str) -> None:
        """Known values are shown; unknown ones are shown as unknown or omitted."""
        assert repr(quota) == line


class TestTaskStatus:
    @pytest.mark.parametrize("status", list(TaskStatus))
    def test_a_known_status_is_its_text(self, status: TaskStatus) -> None:
        """A status compares equal to the text that the API sends."""
        assert TaskStatus(str(status)) is status
        assert msgspec.json.encode(status) == f'"{status}"'.encode()

    @given(st.text())
    @settings(max_examples=examples(100), deadline=None, suppress_health_check=SLOW)
    def test_an_unknown_status_is_kept(self, text: str) -> None:
        """An unknown status is kept unchanged, and is recognizable as unknown."""
        assume(text not in {"pending", "in-progress", "success", "failed"})
        status = TaskStatus(text)
        assert isinstance(status, TaskStatus)
        assert status == text
        assert f"{status}" == status.value == text
        assert hash(status) == hash(text)
        assert status not in list(TaskStatus)

    def test_an_unknown_status_is_not_cached(self) -> None:
        """Unknown statuses do not make the enum grow."""
        _ = TaskStatus("paused")
        assert [*TaskStatus] == ["pending", "in-progress", "success", "failed"]
        assert "paused" not in TaskStatus.__members__

    def test_an_unknown_status_goes_through_json(self) -> None:
        """A task with an unknown status is decoded and encoded unchanged."""
        body = b'{"id":"a","status":"paused"}'
        task = msgspec.json.decode(body, type=MergeTask)
        assert msgspec.json.decode(msgspec.json.encode(task), type=MergeTask) == task

    @pytest.mark.parametrize("status", ["success", "paused"])
    def test_it_survives_copies(self, status: str) -> None:
        """A task can be copied and pickled, whatever its status."""
        task = MergeTask(id="a", status=TaskStatus(status))
        for copied in (copy.copy(task), copy.deepcopy(task), pickle.loads(pickle.dumps(task))):
            assert copied == task
            assert type(copied.status) is TaskStatus

    @pytest.mark.parametrize("value", [1, None, b"success"], ids=["number", "none", "bytes"])
    def test_a_status_is_text(self, value: Any) -> None:
        """A value that is not text is no status."""
        with pytest.raises(ValueError, match="is not a valid TaskStatus"):
            _ = TaskStatus(value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_are_shown_as_json(value: Value) -> None:
    """Each value becomes the JSON that msgspec makes of it, by any encoder."""
    shown = json.loads(json.dumps(value.to_dict()))
    assert shown == json.loads(msgspec.json.encode(value))
    assert shown == json.loads(json.dumps(value, default=json_default))


def test_a_record_is_shown_as_json() -> None:
    """A record is shown with what the API sent of it, and not with its text."""
    record = Record(profile=CompanyProfile(id=1, name="A"), json=b'{"id": 1, "x": [2]}')
    assert record.to_dict()["json"] == {"id": 1, "x": [2]}
    assert record.to_dict()["profile"]["name"] == "A"


def test_outcomes_are_shown_as_json() -> None:
    """Outcomes are shown with their counts, and each error with its type and its words."""
    error = TaskFailedError("u", TASK, "Locked")
    failed = Outcome(url="u", state=OutcomeState.FAILED, task=TASK, error=error, reason="Locked")
    outcomes = Outcomes([failed, Outcome(url="v", state=OutcomeState.SUCCESS, task=TASK)])
    shown = json.loads(json.dumps(outcomes.to_dict()))
    assert (shown["success"], shown["failed"], shown["running"], shown["unknown"]) == (1, 1, 0, 0)
    assert [each["url"] for each in shown["outcomes"]] == ["u", "v"]
    assert shown["outcomes"][0]["error"]["type"] == "TaskFailedError"
    assert json.loads(msgspec.json.encode(outcomes, enc_hook=json_default)) == shown


def test_what_has_no_json() -> None:
    """A value of something else raises what encoders expect."""
    with pytest.raises(TypeError, match="complex cannot be shown as JSON"):
        json.dumps(1j, default=json_default)


class TestStructs:
    @pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
    def test_they_do_not_change(self, value: msgspec.Struct) -> None:
        """Public values are immutable, hashable and equal to their copies."""
        name = value.__struct_fields__[0]
        with pytest.raises(AttributeError, match="immutable"):
            setattr(value, name, None)
        copies = [copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))]
        assert copies == [value] * 3
        assert {hash(copied) for copied in copies} == {hash(value)}

    @pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
    def test_they_are_made_by_name(self, value: msgspec.Struct) -> None:
        """Fields are given by name, so that new ones break no caller."""
        with pytest.raises(TypeError, match="positional"):
            type(value)("x")

    def test_merges_of_both_kinds_are_merge_states(self) -> None:
        """The common attributes of both kinds can be read from either."""
        assert issubclass(CompanyMergeState, MergeState)
        assert issubclass(PersonMergeState, MergeState)

    def test_outcome_states(self) -> None:
        """The state of an outcome compares equal to its text."""
        assert [*OutcomeState] == ["success", "failed", "running", "unknown"]


def outcome(url: str, state: OutcomeState) -> Outcome:
    errors: dict[OutcomeState, AffinityError] = {
        OutcomeState.FAILED: TaskFailedError(url, TASK, "Gone"),
        OutcomeState.RUNNING: TaskTimeoutError(url, TASK, 1.0),
        OutcomeState.UNKNOWN: AffinityError(url),
    }
    return Outcome(url=url, state=state, task=TASK, error=errors.get(state))


SUCCESS, FAILED, RUNNING, UNKNOWN = (outcome(state.value, state) for state in OutcomeState)
ALL = [UNKNOWN, SUCCESS, FAILED, SUCCESS, RUNNING]


class TestOutcomes:
    def test_a_sequence(self) -> None:
        """Outcomes are a sequence in the order that they were given."""
        outcomes = Outcomes(ALL)
        assert isinstance(outcomes, Sequence)
        assert list(outcomes) == ALL
        assert len(outcomes) == 5
        assert outcomes[0] is UNKNOWN
        assert outcomes[-1] is RUNNING
        assert FAILED in outcomes
        assert outcomes.index(FAILED) == 2

    def test_a_slice(self) -> None:
        """A slice of the outcomes has all attributes of the whole."""
        part = Outcomes(ALL)[1:4]
        assert part == Outcomes([SUCCESS, FAILED, SUCCESS])
        assert part.failed == Outcomes([FAILED])

    def test_an_index_beyond_the_end(self) -> None:
        """An index beyond the end raises an IndexError."""
        with pytest.raises(IndexError):
            _ = Outcomes(ALL)[5]

    def test_by_state(self) -> None:
        """Each state has its own attribute, in the same order."""
        outcomes = Outcomes(ALL)
        assert list(outcomes.succeeded) == [SUCCESS, SUCCESS]
        assert list(outcomes.failed) == [FAILED]
        assert list(outcomes.running) == [RUNNING]
        assert list(outcomes.unknown) == [UNKNOWN]

    def test_they_do_not_change(self) -> None:
        """Changes to the list that outcomes were made of do not affect them."""
        items = [SUCCESS]
        outcomes = Outcomes(items)
        items.append(FAILED)
        assert list(outcomes) == [SUCCESS]
        assert not hasattr(outcomes, "__dict__")

    def test_equality(self) -> None:
        """Outcomes equal those with the same items, and no plain list."""
        assert Outcomes(ALL) == Outcomes(tuple(ALL))
        assert hash(Outcomes(ALL)) == hash(Outcomes(tuple(ALL)))
        assert Outcomes(ALL) != Outcomes(ALL[1:])
        assert Outcomes(ALL) != ALL

    def test_they_survive_copies(self) -> None:
        """Outcomes can be copied and pickled with their errors."""
        outcomes = Outcomes(ALL)
        assert copy.copy(outcomes) == outcomes
        copied = pickle.loads(pickle.dumps(outcomes))
        assert [str(one.error) for one in copied] == [str(one.error) for one in outcomes]

    @pytest.mark.parametrize(
        ("items", "shown"),
        [
            ([], "<Outcomes: none>"),
            ([SUCCESS, SUCCESS], "<Outcomes: 2 success>"),
            (ALL, "<Outcomes: 2 success, 1 failed, 1 running, 1 unknown>"),
        ],
        ids=["none", "one state", "all states"],
    )
    def test_repr(self, items: list[Outcome], shown: str) -> None:
        """The repr of outcomes shows their counts."""
        assert repr(Outcomes(items)) == shown

    @pytest.mark.parametrize("items", [[], [SUCCESS]], ids=["none", "success"])
    def test_nothing_to_raise(self, items: list[Outcome]) -> None:
        """Where all succeeded, nothing is raised."""
        Outcomes(items).raise_for_failures()

    def test_raise_for_failures(self) -> None:
        """Every outcome that is not a success is raised in one group, in order."""
        with pytest.RaisesGroup(
            AffinityError,
            TaskFailedError,
            TaskTimeoutError,
            match=r"^3 of 5 tasks did not succeed",
            check=lambda group: (
                list(group.exceptions)
                == [
                    UNKNOWN.error,
                    FAILED.error,
                    RUNNING.error,
                ]
            ),
        ):
            Outcomes(ALL).raise_for_failures()
