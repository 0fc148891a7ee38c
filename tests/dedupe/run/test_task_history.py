"""What the task list has shown: which tasks may be an unanswered merge, and how much lists lag."""

import math
from collections.abc import Iterable
from itertools import takewhile

import pytest

from aiotasks import CompanyMergeState, MergeTask, TaskStatus
from aiotasks.dedupe._run.task_history import Reading, TaskHistory


IN_PROGRESS, SUCCESS = TaskStatus.IN_PROGRESS, TaskStatus.SUCCESS
SETTLE_AFTER = 60.0


def history_of(*, own: Iterable[str] = (), anchors: Iterable[str] = ()) -> TaskHistory:
    return TaskHistory(own, anchors, settle_after=SETTLE_AFTER, now=0.0)


def read(
    history: TaskHistory, *tasks: str, at: float, back_to: float = -math.inf, ended: float = 0.0
) -> int:
    """Read a list, newest first, and return how many of its tasks were needed."""
    reading = Reading(history, asked_at=at, back_to=back_to)
    listed = (MergeTask(id=task, status=IN_PROGRESS) for task in tasks)
    needed = sum(1 for _ in takewhile(reading.read, listed))
    history.apply(reading, now=ended or at)
    return min(needed + 1, len(tasks))


def row(task_id: str, *, ids: tuple[int, int] = (1, 2)) -> CompanyMergeState:
    return CompanyMergeState(
        id=1, status=SUCCESS, task_id=task_id, primary_id=ids[0], duplicate_id=ids[1]
    )


def ids(tasks: Iterable[object]) -> list[str]:
    return [task.id for task in tasks]  # type: ignore[attr-defined]


class TestCandidates:
    def test_tasks_that_are_neither_own_nor_older_nor_named(self) -> None:
        """A task may be an unanswered merge unless it is known whose it is."""
        history = history_of(own=["own"], anchors=["old"])
        _ = read(history, "new", "named", "own", "old", at=5.0)
        history.name([row("named"), row("own")])
        assert ids(history.candidates(1.0)) == ["new"]
        assert history.foreign_merges() == [row("named")]

    def test_a_task_that_turns_out_to_be_own(self) -> None:
        """A task that is listed before its merge is answered is own from the answer on."""
        history = history_of()
        _ = read(history, "a", "b", at=5.0)
        history.add_own("a", 6.0)
        assert ids(history.unattributed()) == ["b"]
        assert not history.may_be_ours("a")

    def test_what_was_there_before_a_merge_is_not_it(self) -> None:
        """A task that a list had before a merge was sent cannot be that merge."""
        history = history_of()
        _ = read(history, "before", at=5.0)
        _ = read(history, "after", "before", at=20.0)
        assert ids(history.candidates(10.0)) == ["after"]

    def test_a_list_counts_until_its_end(self) -> None:
        """A merge that was sent while a list was read may be in it."""
        history = history_of()
        _ = read(history, "slow", at=5.0, ended=15.0)
        assert ids(history.candidates(10.0)) == ["slow"]

    def test_a_task_is_used_once(self) -> None:
        """A task that was taken for one merge is no candidate for another."""
        history = history_of()
        _ = read(history, "a", at=5.0)
        history.use("a")
        history.use(None)
        assert history.candidates(0.0) == []

    def test_the_status_is_that_of_the_last_list(self) -> None:
        """Each list updates the status of a task, and not when it was first seen."""
        history = history_of()
        _ = read(history, "a", at=5.0)
        history.add_foreign(MergeTask(id="a", status=SUCCESS), 9.0)
        (task,) = history.candidates(5.0)
        assert (task.status, task.seen_at) == (SUCCESS, 5.0)


class TestReading:
    def test_it_ends_at_tasks_that_are_older_than_the_merges_in_question(self) -> None:
        """It ends at an own task answered so long before that their order is certain."""
        history = history_of()
        for task, answered in (("o1", 10.0), ("o2", 45.0), ("o3", 100.0)):
            history.add_own(task, answered)
        assert read(history, "x", "o3", "o2", "y", "o1", "z", at=120.0, back_to=100.0) == 5
        assert ids(history.unattributed()) == ["x", "y"]

    def test_tasks_of_earlier_runs_are_as_old_as_this_run(self) -> None:
        """Own tasks of earlier runs may be newer than what such a run left behind."""
        history = history_of(own=["earlier"])
        assert read(history, "earlier", "x", at=200.0) == 2
        assert read(history, "earlier", "x", at=200.0, back_to=100.0) == 1

    def test_it_passes_all_anchors(self) -> None:
        """Lists of the last minute may be out of order, so the first anchor does not end it."""
        history = history_of(anchors=["a1", "a2"])
        assert read(history, "x", "a1", "y", "a2", "z", at=5.0) == 4
        assert ids(history.unattributed()) == ["x", "y"]

    def test_without_anchors_it_is_read_to_its_end(self) -> None:
        """Where no task had ended before the job, everything in the list is newer."""
        assert read(history_of(), "x", "y", at=5.0) == 2


class TestLag:
    def test_half_of_settle_after_while_nothing_shows_it(self) -> None:
        """Without an own task that was listed, lists may lag by a while."""
        history = history_of()
        assert history.lag(10.0) == history.lag(-math.inf) == SETTLE_AFTER / 2

    def test_none_if_own_tasks_are_listed_at_once(self) -> None:
        """Own tasks that the first list has show that it does not lag."""
        history = history_of()
        history.add_own("a", 12.0)
        _ = read(history, "a", at=13.0)
        assert history.lag(10.0) == history.lag(-math.inf) == 0.0

    def test_the_longest_time_that_an_own_task_was_missing(self) -> None:
        """It is counted from the answer to the first list that has the task."""
        history = history_of()
        history.add_own("a", 10.0)
        history.add_own("b", 12.0)
        _ = read(history, "b", at=20.0)
        assert history.lag(10.0) == 10.0
        _ = read(history, "a", "b", at=45.0)
        assert history.lag(10.0) == 35.0
        _ = read(history, "a", "b", at=55.0)
        assert history.lag(10.0) == 35.0

    def test_a_task_that_stays_missing(self) -> None:
        """A task that no list ever has costs a while, but not for ever."""
        history = history_of()
        history.add_own("a", 10.0)
        _ = read(history, at=1000.0)
        assert history.lag(10.0) == 2 * SETTLE_AFTER

    def test_only_own_tasks_of_about_that_time(self) -> None:
        """How long tasks were missing much earlier says nothing."""
        history = history_of()
        history.add_own("early", 0.0)
        _ = read(history, at=50.0)
        history.add_own("late", 200.0)
        _ = read(history, "late", "early", at=210.0)
        assert history.lag(200.0) == 0.0
        assert history.lag(20.0) == 2 * SETTLE_AFTER

    def test_tasks_that_were_answered_after_the_request_are_not_missing(self) -> None:
        """A list cannot have a merge that was answered after its request."""
        history = history_of()
        history.add_own("a", 20.0)
        _ = read(history, at=15.0)
        assert history.lag(10.0) == SETTLE_AFTER / 2

    def test_what_was_found_in_a_list_is_not_missing(self) -> None:
        """A merge that was found in a list is no measure for its lag."""
        history = history_of()
        _ = read(history, "a", at=50.0)
        history.add_own("a", 51.0)
        _ = read(history, at=60.0)
        assert history.lag(50.0) == SETTLE_AFTER / 2


def test_when_an_own_task_was_answered() -> None:
    """For tasks of earlier runs it is when this run began."""
    history = history_of(own=["earlier"])
    history.add_own("a", 7.0)
    assert (history.answered_at("earlier"), history.answered_at("a")) == (0.0, 7.0)
    with pytest.raises(KeyError):
        _ = history.answered_at("unknown")


def test_rows_are_kept_as_they_were_last() -> None:
    """A task may have several rows, and later ones replace them."""
    history = history_of()
    _ = read(history, "t", at=1.0)
    history.name([row("t", ids=(1, 2)), row("t", ids=(3, 4))])
    history.name([row("t", ids=(1, 2))])
    assert history.merges_of("t") == [row("t", ids=(1, 2))]
    assert history.merges_of("u") == ()
