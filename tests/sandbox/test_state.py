"""The life cycle of merges, without a server."""

import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotasks.sandbox._records import COMPANY, PERSON, Directory, Kind
from aiotasks.sandbox._reply import Problem
from aiotasks.sandbox._settings import PLAIN
from aiotasks.sandbox._state import REASONS, MergeSettings, State
from aiotasks.sandbox._store import Store


FIELDS = {field.name for field in fields(MergeSettings)}


def make(kind: Kind = COMPANY, *, ids: Any = 100, seed: int = 0, **settings: Any) -> State:
    """Return what checks merges at once, and shows all of them, but for the settings."""
    store = Store(Directory(kind, ids))
    settings = {name: PLAIN[name] for name in FIELDS & {*PLAIN}} | settings
    return State(kind, store, settings=MergeSettings(**settings), seed=str(seed))


def merged(state: State, now: float) -> dict[int, int]:
    state.decide(now)
    return state.store.heirs()


def refusal(state: State, primary_id: int, duplicate_id: int, now: float = 0.0) -> Problem:
    with pytest.raises(Problem) as caught:
        state.post(primary_id, duplicate_id, now)
    return caught.value


def test_a_merge_ends_after_its_duration() -> None:
    """A task is in progress until its duration is over, and a success from then on."""
    state = make(duration=3.0)
    task_id = state.post(1, 2, 10.0).id
    assert [state.task(task_id, now).status(now) for now in (10.0, 12.9, 13.0, 99.0)] == [
        "in-progress",
        "in-progress",
        "success",
        "success",
    ]


@given(st.lists(st.tuples(st.floats(0, 50), st.booleans()), min_size=1, max_size=8), st.data())
def test_summaries_add_up(merges: list[tuple[float, bool]], data: st.DataObject) -> None:
    """At any time the counts of a batch add up to its size, and determine its status."""
    state = make()
    task = None
    for number, (duration, is_failed) in enumerate(merges):
        task = state.start(
            1,
            number + 2,
            0.0,
            duration=duration,
            outcome="failed" if is_failed else "success",
            task=task,
        )
    assert task is not None
    now = data.draw(st.floats(0, 60))
    view = task.view(now)
    summary = view["resultsSummary"]
    assert summary["total"] == len(merges)
    assert summary["inProgress"] + summary["success"] + summary["failed"] == len(merges)
    assert summary["inProgress"] == sum(now < duration for duration, _ in merges)
    assert view["status"] == (
        "in-progress" if summary["inProgress"] else "success" if summary["success"] else "failed"
    )


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_the_same_seed_gives_the_same_results(seed: int, failure_rate: float) -> None:
    """Ids, durations, outcomes and reasons depend on nothing but the seed."""
    results = []
    for _ in range(2):
        state = make(seed=seed, failure_rate=failure_rate, duration=(1.0, 9.0))
        for number in range(1, 20, 2):
            state.post(number, number + 1, 0.0)
        results.append([(m.task.id, m.ends, m.outcome, m.reason) for m in state.merges])
    assert results[0] == results[1]


def test_durations_may_be_drawn() -> None:
    """The duration can be given by bounds, or by a function of the seeded generator."""
    drawn = make(duration=(2.0, 4.0))
    assert 2.0 <= drawn.start(1, 2, 0.0).merges[0].ends <= 4.0
    made = make(duration=lambda random: 7.0 + 0 * random.random())
    assert made.start(1, 2, 0.0).merges[0].ends == 7.0


def test_a_success_removes_the_duplicate() -> None:
    """A merged record has the documented message, and cannot be merged again."""
    state = make(duration=1.0)
    state.post(1, 2, 0.0)
    assert state.record(2, 0.5)["id"] == 2
    message = "2 no longer exists as it has been merged into 1"
    with pytest.raises(Problem, match=message) as caught:
        state.record(2, 1.0)
    assert caught.value.status == 422
    for pair in ((3, 2), (2, 3)):
        problem = refusal(state, *pair, now=1.0)
        assert (problem.status, problem.code, str(problem)) == (
            422,
            "unprocessable-entity",
            message,
        )
    assert merged(state, 1.0) == {2: 1}


def test_a_failure_keeps_the_duplicate() -> None:
    """A failed merge has a reason, the duplicate still exists, and it can be merged again."""
    state = make(failure_rate=1.0, duration=1.0)
    state.post(1, 2, 0.0)
    assert state.merges[0].reason in REASONS
    assert state.record(2, 1.0)["id"] == 2
    state.post(1, 2, 1.0)
    assert state.posted == {(1, 2): 2}
    assert merged(state, 9.0) == {}


@pytest.mark.parametrize(("primary_id", "duplicate_id"), [(1, 2), (3, 2), (2, 3), (3, 1)], ids=str)
def test_one_merge_at_a_time(primary_id: int, duplicate_id: int) -> None:
    """While 2 is merged into 1, neither may be a duplicate elsewhere, and 2 no primary."""
    state = make()
    state.post(1, 2, 0.0)
    problem = refusal(state, primary_id, duplicate_id)
    assert (problem.status, problem.code) == (409, "conflict")


def test_a_primary_may_receive_several_at_once() -> None:
    """Two merges into the same record run together unless primaries are exclusive."""
    shared, exclusive = make(), make(exclusive_primary=True)
    for state in (shared, exclusive):
        state.post(1, 2, 0.0)
    shared.post(1, 3, 0.0)
    assert refusal(exclusive, 1, 3).status == 409
    exclusive.post(1, 3, 2.0)


def test_nothing_merges_with_itself() -> None:
    """A record cannot be its own duplicate."""
    assert refusal(make(), 1, 1).status == 422


@pytest.mark.parametrize(
    ("pair", "reason"),
    [((101, 1), "Primary person not found"), ((1, 101), "Duplicate person not found")],
)
def test_unknown_records_fail_later(pair: tuple[int, int], reason: str) -> None:
    """A merge of a record that does not exist is accepted and then fails with its reason."""
    state = make(PERSON)
    task = state.post(*pair, 0.0)
    assert state.task(task.id, 2.0).status(2.0) == "failed"
    assert state.merges[0].reason == reason


def test_merges_can_be_finished_by_a_test() -> None:
    """``finish`` ends what is in progress; what has ended does not change."""
    state = make()
    task = state.start(1, 2, 0.0, duration=math.inf)
    state.start(1, 3, 0.0, duration=1.0, task=task)
    state.start(1, 4, 0.0, duration=math.inf, outcome="cancelled", task=task)
    state.finish(task, 5.0, outcome="failed", reason=None)
    assert [(m.status(5.0), m.ends, m.reason) for m in task.merges] == [
        ("failed", 5.0, REASONS[0]),
        ("success", 1.0, None),
        ("failed", 5.0, REASONS[0]),
    ]
    other = state.start(1, 5, 5.0, duration=math.inf, reason="Because")
    state.finish(other, 6.0, outcome="failed", reason="Because not")
    assert other.merges[0].reason == "Because not"


def test_reasons_imply_failures_and_failures_have_reasons() -> None:
    """A reason alone makes a failure, and a failure without one gets one."""
    state = make()
    assert state.start(1, 2, 0.0, reason="Because").merges[0].outcome == "failed"
    assert state.start(1, 3, 0.0, outcome="failed").merges[0].reason in REASONS


def test_other_outcomes_are_shown_as_they_are() -> None:
    """An outcome that the API does not know becomes the status, and counts as neither."""
    task = make().start(1, 2, 0.0, outcome="cancelled")
    view = task.view(2.0)
    assert view["status"] == "cancelled"
    assert view["resultsSummary"] == {"total": 1, "inProgress": 0, "success": 0, "failed": 0}
    task.shown = "pending"
    assert task.status(0.0) == task.view(0.0)["status"] == "pending"


def test_survivors_absorb_what_they_receive() -> None:
    """A survivor has the domains of all records merged into it, directly or not."""
    state = make(duration=1.0)
    state.post(3, 4, 0.0)
    state.post(1, 3, 1.0)
    state.start(1, 999, 1.0, outcome="success")
    domains = state.record(1, 2.0)["domains"]
    assert domains == [
        "amber-analytics.example",
        "bright-bakery.example",
        "get-bright-bakery.example",
    ]


def test_survivors_absorb_through_cycles() -> None:
    """Reading a record ends even with a cycle of merges, which no request can cause."""
    state = make(PERSON, duration=0.0)
    for pair in ((1, 2), (2, 1), (3, 1)):
        state.start(*pair, 0.0)
    assert len(state.record(3, 1.0)["emailAddresses"]) == 3


@given(st.integers(1, 30), st.floats(0, 5), st.floats(0, 40))
def test_lists_lag_behind(count: int, lag: float, now: float) -> None:
    """The lists have the merges that are at least as old as the lag, newest first."""
    state = make(list_lag=lag)
    for number in range(count):
        state.start(1, number + 2, float(number))
    now = max(now, float(count))
    expected = [number for number in range(count, 0, -1) if number - 1 <= now - lag]
    for page in (state.task_page, state.merge_page):
        assert page(now, limit=100, cursor=None, where=None).numbers == expected


def test_tasks_may_be_invisible_at_first() -> None:
    """A new task is unknown until its lag is over."""
    state = make(task_lag=2.0, task_lag_share=1.0)
    task = state.post(1, 2, 0.0)
    with pytest.raises(Problem) as caught:
        state.task(task.id, 1.9)
    assert caught.value.status == 404
    assert state.task(task.id, 2.0) is task


@pytest.mark.parametrize("kind", [COMPANY, PERSON], ids=lambda kind: kind.name)
def test_names_are_plausible_pairs(kind: Kind) -> None:
    """Each suggestion pairs two neighbours, and all criteria of the kind appear."""
    directory = Directory(kind, 2000)
    assert len(directory.suggestions) == 1000
    assert {s.criterion for s in directory.suggestions} == set(kind.match_criteria)
    assert len({s.name for s in directory.suggestions}) > 500
    assert all(s.duplicate_id == s.primary_id + 1 for s in directory.suggestions)


def test_ids_may_be_given() -> None:
    """Records can have exactly the ids given."""
    directory = Directory(COMPANY, [292479388, 7])
    assert 7 in directory
    assert 1 not in directory
    assert directory.record(7)["name"] == "Amber Analytics"
    assert directory.record(292479388)["name"] == "Amber Analytics Inc."


STEPS = st.lists(
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.floats(0, 3), st.booleans()), max_size=40
)


@given(STEPS, st.booleans())
def test_no_record_is_ever_merged_away_twice(
    steps: list[tuple[int, int, float, bool]], is_exclusive: bool
) -> None:
    """Whatever the requests, each record is merged at most once, and into one that exists."""
    state = make(ids=6, duration=2.0, exclusive_primary=is_exclusive)
    now = 0.0
    accepted = 0
    for primary_id, duplicate_id, pause, is_failed in steps:
        now += pause
        gone = merged(state, now)
        try:
            task = state.post(primary_id, duplicate_id, now)
        except Problem as problem:
            assert problem.status in {409, 422}  # noqa: PT017 - either way is right
        else:
            accepted += 1
            assert not {primary_id, duplicate_id} & gone.keys()
            if is_failed:
                state.finish(task, now, outcome="failed", reason=None)
    state.decide(now + 2.0)
    done = [merge.duplicate_id for merge in state.merges if merge.outcome == "success"]
    assert len(done) == len(set(done))
    assert state.posted.total() == accepted == len(state.tasks)
