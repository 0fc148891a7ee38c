"""Which task is polled when, and what its answers mean for its waiters."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import tenacity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)
from msgspec.structs import replace

from aiotasks import (
    AffinityError,
    ConfigurationError,
    DecodeError,
    MergeTask,
    NotFoundError,
    Outcome,
    OutcomeState,
    ResultsSummary,
    TaskFailedError,
    TaskStatus,
    TaskTimeoutError,
    UnknownStatusError,
)
from aiotasks._http.urls import TaskRef
from aiotasks._http.wire import Page, Request, list_tasks
from aiotasks._polling.final_polls import GRACE
from aiotasks._polling.missing import PATIENCE
from aiotasks._polling.pending import ListPage, PendingTask, Phase, WaitOptions
from aiotasks._polling.schedule import PollTarget, Schedule
from aiotasks._polling.started import VISIBILITY
from aiotasks.backoff import Backoff, poll_backoff
from tests.profiles import examples, is_thorough


# How long Hypothesis takes to make examples depends on the machine.
SLOW = [HealthCheck.too_slow]


Listing = Request[Page[MergeTask]]
FIRST = list_tasks("company")


def ref(name: str = "a") -> TaskRef:
    return TaskRef("company", name)


def task(status: str, summary: ResultsSummary | None = None, *, name: str = "a") -> MergeTask:
    return MergeTask(id=name, status=TaskStatus(status), results_summary=summary)


RUNNING = task("in-progress")
SUCCESS = task("success")
FAILED = task("failed")
UNKNOWN = task("paused")
PARTIAL = task("success", ResultsSummary(total=2, success=1, failed=1))


class Waiters:
    """A schedule, and a list of the outcomes that it delivered."""

    def __init__(self, *, has_lists: bool = False) -> None:
        self.schedule = Schedule()
        if not has_lists:
            self.schedule.lists["company"]._suspended_until = math.inf
        self.outcomes: list[tuple[PendingTask, Outcome]] = []

    def add(
        self,
        name: str = "a",
        *,
        now: float = 0.0,
        timeout: float = 100.0,
        backoff: Backoff = lambda state: 10.0,
        is_urgent: bool = False,
    ) -> PendingTask:
        options = WaitOptions(
            timeout, backoff, lambda *delivered: self.outcomes.append(delivered), is_urgent
        )
        pending = PendingTask(ref(name), f"url of {name}", options, now=now, index=0)
        self.schedule.add(pending)
        return pending

    def due(self, now: float, *, lead: float = 0.0) -> list[str]:
        """Let time pass and return the tasks to poll, in order."""
        self.schedule.advance(now, lead=lead)
        taken = self.targets(now)
        assert not any(isinstance(target, ListPage) for target in taken)
        return [target.id for target in taken if not isinstance(target, ListPage)]

    def targets(self, now: float) -> list[PollTarget]:
        """Let time pass and return all targets to poll, in order."""
        self.schedule.advance(now)
        return list(iter(lambda: self.schedule.take(now), None))

    def apply_task(self, seen: MergeTask, *, now: float, lead: float = 0.0) -> list[TaskRef]:
        """Answer a poll of the task that most tests use."""
        failures = self.schedule.apply_task(ref(), seen, now=now, lead=lead)
        self.schedule.put_back(ref())
        return failures

    def apply_missing(self, error: AffinityError, *, now: float) -> None:
        """Answer a poll of that task as if it were not there."""
        self.schedule.apply_missing(ref(), error, now=now, lead=0.0)
        self.schedule.put_back(ref())

    def outcome(self) -> Outcome:
        ((_, outcome),) = self.outcomes
        return outcome


@pytest.fixture
def waiters() -> Waiters:
    """Return a schedule whose lists are suspended."""
    return Waiters()


class TestOutcomeState:
    @pytest.mark.parametrize(
        ("seen", "state"),
        [
            pytest.param(task("pending"), OutcomeState.RUNNING, id="pending"),
            pytest.param(task("in-progress"), OutcomeState.RUNNING, id="in progress"),
            pytest.param(
                task("in-progress", ResultsSummary(total=2, success=1, failed=1)),
                OutcomeState.RUNNING,
                id="in progress, nothing left to do",
            ),
            pytest.param(task("success"), OutcomeState.SUCCESS, id="success"),
            pytest.param(
                task("success", ResultsSummary(total=2, success=2)),
                OutcomeState.SUCCESS,
                id="success with counts",
            ),
            pytest.param(PARTIAL, OutcomeState.FAILED, id="success with a failure in it"),
            pytest.param(task("failed"), OutcomeState.FAILED, id="failed"),
            pytest.param(
                task("failed", ResultsSummary(total=2, in_progress=1)),
                OutcomeState.FAILED,
                id="failed before all were done",
            ),
            pytest.param(task("paused"), OutcomeState.UNKNOWN, id="unknown"),
            pytest.param(
                task("paused", ResultsSummary(total=2, success=2)),
                OutcomeState.UNKNOWN,
                id="unknown, nothing left to do",
            ),
            pytest.param(
                task("paused", ResultsSummary(total=2, in_progress=1)),
                OutcomeState.RUNNING,
                id="unknown, with something in progress",
            ),
            pytest.param(task("SUCCESS"), OutcomeState.UNKNOWN, id="other case"),
            pytest.param(task(""), OutcomeState.UNKNOWN, id="empty"),
        ],
    )
    def test_the_state_of_a_task(self, seen: MergeTask, state: OutcomeState) -> None:
        """Only a known end finishes a task, and a partial failure is no success."""
        assert OutcomeState.of(seen) is state


class TestPolls:
    def test_the_first_is_immediate(self, waiters: Waiters) -> None:
        """A new task is due when it is added."""
        waiters.add(now=5.0)
        assert waiters.schedule.timers.next == 5.0
        assert waiters.due(5.0) == ["a"]
        assert not waiters.schedule.has_due

    def test_the_next_follow_the_backoff(self, waiters: Waiters) -> None:
        """After each poll of a running task the strategy sets the next one."""
        waiters.add(backoff=poll_backoff(2.0, 5.0, uniform=lambda low, high: low))
        now, polls = 0.0, []
        for _ in range(5):
            assert waiters.due(now) == ["a"]
            polls.append(now)
            _ = waiters.apply_task(RUNNING, now=now)
            now = waiters.schedule.timers.next
            waiters.schedule.put_back(ref())
        assert polls == [0, 2, 5, 9.5, 14.5]

    def test_the_final_one_is_before_the_deadline(self, waiters: Waiters) -> None:
        """The final poll starts early enough for its answer, and the wait ends at its deadline."""
        waiters.add(timeout=15.0)
        assert waiters.due(0) == ["a"]
        _ = waiters.apply_task(RUNNING, now=0, lead=0.5)
        assert waiters.due(10) == ["a"]
        _ = waiters.apply_task(RUNNING, now=10, lead=0.5)
        assert waiters.schedule.timers.next == 14.5
        assert waiters.due(14.5, lead=0.5) == ["a"]
        _ = waiters.apply_task(RUNNING, now=14.9, lead=0.5)
        assert not waiters.outcomes
        waiters.schedule.advance(15.0, lead=0.5)
        assert waiters.outcome().state is OutcomeState.RUNNING

    def test_the_final_one_follows_the_latency(self, waiters: Waiters) -> None:
        """A final poll that is planned starts sooner when answers take longer, and later again."""
        waiters.add(timeout=15.0)
        assert waiters.due(0) == ["a"]
        _ = waiters.apply_task(RUNNING, now=0, lead=0.1)
        assert waiters.due(10, lead=0.1) == ["a"]
        _ = waiters.apply_task(RUNNING, now=10, lead=0.1)
        assert waiters.schedule.timers.next == 14.9
        assert waiters.due(11, lead=2.0) == []
        assert waiters.schedule.timers.next == 13.0
        assert waiters.due(13, lead=0.5) == []
        assert waiters.schedule.timers.next == 14.5
        assert waiters.due(14.5, lead=0.5) == ["a"]

    def test_a_final_one_that_is_answered_soon_is_not_the_last(self, waiters: Waiters) -> None:
        """Many that end together start early; those that are answered early are polled once more."""
        names = list("abcdefghij")
        for name in names:
            waiters.add(name, timeout=15.0, backoff=lambda state: 100.0)
        assert waiters.due(0) == names
        for name in names:
            _ = waiters.schedule.apply_task(ref(name), task("pending", name=name), now=0, lead=0.5)
            waiters.schedule.put_back(ref(name))
        (final,) = {pending.due_at for pending in waiters.schedule.waiters}
        assert final == pytest.approx(15.0 - 12.1 * 0.5 - 11.1 * GRACE / 2)
        assert waiters.due(final, lead=0.5) == names
        _ = waiters.apply_task(RUNNING, now=final + 1.0, lead=0.5)
        assert waiters.due(14.4, lead=0.5) == []
        assert waiters.due(14.5, lead=0.5) == ["a"]
        _ = waiters.apply_task(RUNNING, now=14.9, lead=0.5)
        assert not waiters.outcomes
        # An answer to another wait changes nothing for one that only waits for its deadline.
        _ = waiters.apply_task(RUNNING, now=14.95, lead=0.5)
        waiters.schedule.advance(15.0, lead=0.5)
        assert waiters.outcome().waited == 15.0

    def test_no_poll_is_final_without_a_deadline(self, waiters: Waiters) -> None:
        """Without a timeout a task is polled until it ends."""
        waiters.add(timeout=math.inf)
        for number in range(200):
            assert waiters.due(number * 10.0) == ["a"]
            _ = waiters.apply_task(RUNNING, now=number * 10.0)
        assert waiters.outcomes == []
        assert waiters.schedule.timers.next == 2000

    def test_a_timeout_of_zero_is_one_poll(self, waiters: Waiters) -> None:
        """With no time at all a task is polled once, and not again."""
        waiters.add(timeout=0)
        assert waiters.due(0) == ["a"]
        _ = waiters.apply_task(RUNNING, now=0)
        assert waiters.outcome().state is OutcomeState.RUNNING

    def test_a_blocked_loop_still_polls(self, waiters: Waiters) -> None:
        """A poll that could not be made before the deadline is made after it."""
        waiters.add(timeout=5.0)
        assert waiters.due(60.0) == ["a"]
        assert waiters.outcomes == []
        _ = waiters.apply_task(SUCCESS, now=60.03)
        assert waiters.outcome().state is OutcomeState.SUCCESS

    def test_a_missing_answer(self, waiters: Waiters) -> None:
        """A poll without an answer is given up shortly after the deadline."""
        waiters.add(timeout=5.0)
        assert waiters.due(0) == ["a"]
        assert waiters.schedule.timers.next == 5.0 + GRACE
        waiters.schedule.advance(5.0)
        assert waiters.outcomes == []
        waiters.schedule.advance(5.0 + GRACE)
        assert isinstance(waiters.outcome().error, TaskTimeoutError)

    def test_polls_without_a_deadline_wait_for_ever(self, waiters: Waiters) -> None:
        """Without a timeout only an answer ends a poll."""
        waiters.add(timeout=math.inf)
        assert waiters.due(0) == ["a"]
        assert waiters.schedule.timers.next == math.inf
        waiters.schedule.advance(1e9)
        assert waiters.outcomes == []

    def test_a_poll_without_an_answer_is_repeated(self, waiters: Waiters) -> None:
        """A task whose poll was not answered goes to the end of the queue."""
        waiters.add("a")
        waiters.add("b")
        waiters.schedule.advance(0)
        assert waiters.schedule.take(0) == ref("a")
        assert waiters.schedule.has_due
        waiters.schedule.put_back(ref("a"))
        assert waiters.due(0) == ["b", "a"]

    def test_an_answer_ends_the_poll(self, waiters: Waiters) -> None:
        """A task is not queued again once its poll was answered."""
        waiters.add("a")
        assert waiters.due(0) == ["a"]
        _ = waiters.apply_task(RUNNING, now=0)
        waiters.schedule.put_back(ref("a"))
        assert not waiters.schedule.has_due

    @given(st.lists(st.floats(0, 100), max_size=30))
    @settings(max_examples=examples(100), deadline=None, suppress_health_check=SLOW)
    def test_what_is_due_comes_in_order(self, times: list[float]) -> None:
        """Tasks are polled in the order of their due times, and of their adding if equal."""
        waiters = Waiters()
        for number, when in enumerate(times):
            waiters.add(str(number), now=when)
        expected = sorted(range(len(times)), key=times.__getitem__)
        assert waiters.due(100.0) == [str(number) for number in expected]

    @pytest.mark.parametrize("timeout", [100.0, math.inf])
    def test_a_broken_backoff_costs_its_own_tasks_only(
        self, waiters: Waiters, timeout: float
    ) -> None:
        """A strategy that raises ends the waits for its own tasks, with its error."""
        broken = waiters.add(timeout=timeout, backoff=lambda state: 1 / 0)
        waiters.add()
        assert waiters.due(0) == ["a"]
        _ = waiters.apply_task(RUNNING, now=0)
        ((pending, outcome),) = waiters.outcomes
        assert pending is broken
        assert (outcome.state, outcome.task) == (OutcomeState.UNKNOWN, RUNNING)
        assert isinstance(outcome.error, ConfigurationError)

    def test_a_backoff_sees_its_own_attempts(self, waiters: Waiters) -> None:
        """The attempt that a strategy gets is the number of polls so far, from 1."""
        attempts: list[int] = []

        def remember(state: tenacity.RetryCallState) -> float:
            attempts.append(state.attempt_number)
            return 1.0

        waiters.add(backoff=remember)
        for now in range(3):
            assert waiters.due(now) == ["a"]
            _ = waiters.apply_task(RUNNING, now=now)
        assert attempts == [1, 2, 3]


NOT_FOUND = NotFoundError(404, None, "x")
EMPTY = DecodeError(200, "it has no body", is_empty=True)
UNREADABLE = DecodeError(200, "x")


class TestOutcomes:
    def test_success(self, waiters: Waiters) -> None:
        """A success carries the task, the number of answered polls, and the time it took."""
        waiters.add(now=1.0)
        assert waiters.due(1.0) == ["a"]
        _ = waiters.apply_task(RUNNING, now=2.0)
        assert waiters.due(12.0) == ["a"]
        assert not waiters.apply_task(SUCCESS, now=13.0)
        assert waiters.outcome() == Outcome(
            url="url of a", state=OutcomeState.SUCCESS, task=SUCCESS, polls=2, waited=12.0
        )

    @pytest.mark.parametrize("seen", [FAILED, PARTIAL], ids=["failed", "partial"])
    @pytest.mark.parametrize("reason", ["Primary company not found", None])
    def test_failure(self, waiters: Waiters, seen: MergeTask, reason: str | None) -> None:
        """A failed task waits for its reason, and is delivered with it or without."""
        waiters.add()
        assert waiters.due(0) == ["a"]
        assert waiters.apply_task(seen, now=1.0)
        assert waiters.outcomes == []
        waiters.schedule.apply_reason(ref(), reason, 2.0)
        outcome = waiters.outcome()
        assert (outcome.state, outcome.reason) == (OutcomeState.FAILED, reason)
        assert (outcome.task, outcome.waited) == (seen, 2.0)
        assert isinstance(outcome.error, TaskFailedError)
        assert outcome.error.reason == reason

    def test_failure_without_time_for_the_reason(self, waiters: Waiters) -> None:
        """A failure whose reason does not arrive in time is still a failure."""
        waiters.add(timeout=5.0)
        assert waiters.due(0) == ["a"]
        assert waiters.apply_task(FAILED, now=1.0)
        waiters.schedule.advance(5.0)
        assert waiters.outcomes == []
        waiters.schedule.advance(5.0 + GRACE)
        assert waiters.outcome().state is OutcomeState.FAILED

    def test_failure_seen_after_the_deadline(self, waiters: Waiters) -> None:
        """A failure that is polled just before the deadline does not prolong the wait."""
        waiters.add(timeout=5.0)
        assert waiters.due(0) == ["a"]
        assert waiters.apply_task(FAILED, now=5.03)
        assert waiters.schedule.timers.next <= 5.0 + GRACE
        waiters.schedule.advance(5.0 + GRACE)
        assert waiters.outcome().state is OutcomeState.FAILED

    @pytest.mark.parametrize(
        "news",
        [
            pytest.param(
                lambda schedule: schedule.apply_missing(ref(), NOT_FOUND, now=2.0, lead=0.0),
                id="not found",
            ),
            pytest.param(
                lambda schedule: schedule.give_up(ref(), NOT_FOUND, 2.0),
                id="given up",
            ),
            pytest.param(
                lambda schedule: schedule.apply_task(ref(), RUNNING, now=2.0, lead=0.0),
                id="running",
            ),
        ],
    )
    def test_a_failure_is_final(self, waiters: Waiters, news: Callable[[Schedule], object]) -> None:
        """A task that was polled as failed stays failed, whatever later polls return."""
        failed = waiters.add()
        assert waiters.due(0) == ["a"]
        assert waiters.apply_task(FAILED, now=1.0)
        waiters.add(now=2.0)
        assert waiters.due(2.0) == ["a"]
        news(waiters.schedule)
        waiters.schedule.apply_reason(ref(), "Gone", 3.0)
        outcomes = dict(waiters.outcomes)
        assert (outcomes[failed].state, outcomes[failed].reason) == (OutcomeState.FAILED, "Gone")

    def test_an_unknown_status(self, waiters: Waiters) -> None:
        """An unknown status is an outcome of its own."""
        waiters.add()
        assert waiters.due(0) == ["a"]
        assert not waiters.apply_task(UNKNOWN, now=1.0)
        outcome = waiters.outcome()
        assert (outcome.state, outcome.task) == (OutcomeState.UNKNOWN, UNKNOWN)
        assert isinstance(outcome.error, UnknownStatusError)

    def test_a_timeout(self, waiters: Waiters) -> None:
        """A task that still runs at the deadline is reported as last polled, with the time waited."""
        waiters.add(now=100.0, timeout=15.0)
        assert waiters.due(100.0) == ["a"]
        _ = waiters.apply_task(RUNNING, now=100.0)
        assert waiters.due(110.0) == ["a"]
        waiters.schedule.advance(115.0 + GRACE)
        outcome = waiters.outcome()
        assert (outcome.state, outcome.task, outcome.polls) == (OutcomeState.RUNNING, RUNNING, 1)
        assert isinstance(outcome.error, TaskTimeoutError)
        assert outcome.waited == outcome.error.waited == pytest.approx(15.0 + GRACE)

    def test_not_visible_yet(self, waiters: Waiters) -> None:
        """A 404 for a task that this client just started is not an answer."""
        waiters.add(timeout=15.0)
        waiters.schedule.started.record(ref(), 0, 0.0)
        assert waiters.due(0) == ["a"]
        waiters.apply_missing(NOT_FOUND, now=0.0)
        assert waiters.due(10.0) == ["a"]
        waiters.apply_missing(NOT_FOUND, now=10.0)
        assert waiters.due(15.0) == ["a"]
        waiters.apply_missing(NOT_FOUND, now=15.0)
        outcome = waiters.outcome()
        assert (outcome.state, outcome.task, outcome.polls) == (OutcomeState.RUNNING, None, 0)

    def test_given_up(self, waiters: Waiters) -> None:
        """A task whose state cannot be read is delivered with the error."""
        waiters.add()
        assert waiters.due(0) == ["a"]
        error = NotFoundError(404, None, "x")
        waiters.schedule.give_up(ref(), error, 1.0)
        outcome = waiters.outcome()
        assert (outcome.state, outcome.error) == (OutcomeState.UNKNOWN, error)

    @pytest.mark.parametrize("state", [OutcomeState.UNKNOWN, OutcomeState.RUNNING])
    def test_all_given_up(self, waiters: Waiters, state: OutcomeState) -> None:
        """When no poll can succeed, all tasks are delivered, a failure as the failure it is."""
        waiters.add("a")
        waiters.add("b")
        waiters.add("c", timeout=math.inf)
        assert waiters.due(0) == ["a", "b", "c"]
        assert waiters.apply_task(FAILED, now=1.0)
        error = AffinityError("closed")
        waiters.schedule.give_up_all(state, 2.0, error)
        outcomes = {pending.ref.id: outcome for pending, outcome in waiters.outcomes}
        assert {name: outcome.state for name, outcome in outcomes.items()} == {
            "a": OutcomeState.FAILED,
            "b": state,
            "c": state,
        }
        assert outcomes["b"].error is error
        assert waiters.schedule.count == 0

    @pytest.mark.parametrize(
        ("seen", "state", "error"),
        [
            (None, OutcomeState.RUNNING, TaskTimeoutError),
            (RUNNING, OutcomeState.RUNNING, TaskTimeoutError),
            (FAILED, OutcomeState.FAILED, TaskFailedError),
        ],
        ids=["never seen", "running", "failed"],
    )
    def test_cut_short(
        self,
        waiters: Waiters,
        seen: MergeTask | None,
        state: OutcomeState,
        error: type[AffinityError],
    ) -> None:
        """The outcome of a wait as of now can be read without ending it."""
        pending = waiters.add()
        assert waiters.due(0) == ["a"]
        if seen is not None:
            _ = waiters.apply_task(seen, now=1.0)
        outcome = pending.timed_out(7.0)
        assert (outcome.state, outcome.task, outcome.waited) == (state, seen, 7.0)
        assert type(outcome.error) is error
        assert (waiters.outcomes, waiters.schedule.count) == ([], 1)


class TestSharing:
    def test_a_shared_task_is_polled_once(self, waiters: Waiters) -> None:
        """All waiters of a task share one poll and its answer."""
        for _ in range(3):
            waiters.add()
        assert (waiters.schedule.count, len(waiters.schedule.waiters)) == (3, 1)
        assert waiters.due(0) == ["a"]
        _ = waiters.apply_task(SUCCESS, now=1.0)
        assert [outcome.state for _, outcome in waiters.outcomes] == [OutcomeState.SUCCESS] * 3

    def test_a_late_waiter_shares_the_poll(self, waiters: Waiters) -> None:
        """A task whose poll is in flight is not queued again for a new waiter."""
        waiters.add()
        assert waiters.due(0) == ["a"]
        waiters.add(now=1.0)
        assert waiters.due(1.0) == []
        _ = waiters.apply_task(SUCCESS, now=2.0)
        assert sorted(outcome.waited for _, outcome in waiters.outcomes) == [1.0, 2.0]

    def test_an_answer_is_for_all_waiters(self, waiters: Waiters) -> None:
        """An answer also counts for waiters whose own poll is not due yet."""
        waiters.add()
        assert waiters.due(0) == ["a"]
        _ = waiters.apply_task(RUNNING, now=0)
        waiters.add(now=3.0)
        assert waiters.due(3.0) == ["a"]
        _ = waiters.apply_task(SUCCESS, now=3.0)
        assert len(waiters.outcomes) == 2

    def test_a_poll_for_others_is_not_the_final_one(self, waiters: Waiters) -> None:
        """A poll for another waiter does not end a wait before its own final poll."""
        first = waiters.add(timeout=15.0, backoff=lambda state: 60.0)
        assert waiters.due(0) == ["a"]
        _ = waiters.apply_task(RUNNING, now=0)
        waiters.add(now=1.0, timeout=100.0)
        assert waiters.due(1.0) == ["a"]
        _ = waiters.apply_task(RUNNING, now=1.0)
        assert waiters.outcomes == []
        assert waiters.due(15.0) == ["a"]
        _ = waiters.apply_task(SUCCESS, now=15.01)
        assert dict(waiters.outcomes)[first].state is OutcomeState.SUCCESS

    def test_reasons_are_shared(self, waiters: Waiters) -> None:
        """One reason ends all waits that have the failure, and no other."""
        for _ in range(2):
            waiters.add()
        assert waiters.due(0) == ["a"]
        assert waiters.apply_task(FAILED, now=1.0)
        waiters.add(now=1.5)
        waiters.schedule.apply_reason(ref(), "Gone", 2.0)
        assert [outcome.reason for _, outcome in waiters.outcomes] == ["Gone", "Gone"]
        assert waiters.schedule.count == 1

    def test_a_failure_is_reported_while_any_waiter_needs_its_reason(self) -> None:
        """A later waiter that sees the task run again does not hide the failure of an earlier."""
        waiters = Waiters(has_lists=True)
        first, _ = waiters.add("a"), waiters.add("b")
        (scan,) = waiters.targets(0.0)
        assert isinstance(scan, ListPage)
        shown = page(replace(FAILED, id="a"), replace(RUNNING, id="b"))
        assert waiters.schedule.apply_page(scan, shown, None, now=0.0, lead=0.0) == [ref("a")]
        later = waiters.add("a")
        shown = page(replace(RUNNING, id="a"), replace(RUNNING, id="b"))
        assert waiters.schedule.apply_page(scan, shown, None, now=0.0, lead=0.0) == [ref("a")]
        assert (first.phase, later.phase) == (Phase.FETCHING_REASON, Phase.WAITING)


class TestDiscarding:
    def test_a_discarded_task_is_not_delivered(self, waiters: Waiters) -> None:
        """A discarded task is never delivered, however often it is discarded."""
        pending = waiters.add()
        waiters.schedule.discard(pending)
        waiters.schedule.discard(pending)
        assert waiters.due(1e9) == []
        assert not waiters.apply_task(SUCCESS, now=1e9)
        assert (waiters.outcomes, waiters.schedule.count) == ([], 0)

    def test_others_are_not_touched(self, waiters: Waiters) -> None:
        """Discarding one waiter of a task does not affect the others."""
        leaving, staying = waiters.add(), waiters.add()
        assert waiters.due(0) == ["a"]
        waiters.schedule.discard(leaving)
        _ = waiters.apply_task(SUCCESS, now=1.0)
        assert [pending for pending, _ in waiters.outcomes] == [staying]

    def test_queued_tasks_without_waiters_are_skipped(self, waiters: Waiters) -> None:
        """A task without waiters is not polled, and can be added again."""
        gone = waiters.add("a")
        waiters.add("b")
        waiters.schedule.advance(0)
        waiters.schedule.discard(gone)
        assert waiters.due(0) == ["b"]
        waiters.add("a", now=1.0)
        assert waiters.due(1.0) == ["a"]

    def test_its_poll_is_not_repeated(self, waiters: Waiters) -> None:
        """A poll of a task without waiters is not queued again."""
        pending = waiters.add()
        assert waiters.due(0) == ["a"]
        waiters.schedule.discard(pending)
        waiters.schedule.put_back(ref())
        assert not waiters.schedule.has_due
        waiters.add(now=1.0)
        assert waiters.due(1.0) == ["a"]


class TestSize:
    def test_one_entry_for_each(self, waiters: Waiters) -> None:
        """However often tasks are polled, there are hardly more timers than tasks."""
        for number in range(200):
            waiters.add(str(number), timeout=1e6)
        for now in range(0, 500, 10):
            for name in waiters.due(now):
                _ = waiters.schedule.apply_task(ref(name), RUNNING, now=now, lead=0)
                waiters.schedule.put_back(ref(name))
            assert len(waiters.schedule.timers) <= 3 * 200 + 64

    def test_a_task_that_nobody_waits_for_is_not_missed(self, waiters: Waiters) -> None:
        """A 404 that comes after the last wait was cancelled leaves nothing behind."""
        waiters.schedule.apply_missing(ref("gone"), NOT_FOUND, now=0.0, lead=0.0)
        assert len(waiters.schedule.missing) == 0

    def test_shared_polls_leave_no_entries(self, waiters: Waiters) -> None:
        """A wait for a final poll gets no timer for each poll of the others."""
        for _ in range(50):
            waiters.add(timeout=5000.0, backoff=lambda state: 1e9)
        waiters.add(timeout=1e6)
        for now in range(0, 1000, 10):
            assert waiters.due(now) == ["a"]
            assert len(waiters.schedule.timers) <= 3 * 51 + 64
            _ = waiters.apply_task(RUNNING, now=now)


def listing(cursor: str) -> Listing:
    return Request("GET", f"/v2/tasks/company-merges?cursor={cursor}", FIRST.decoder)


def page(*tasks: MergeTask) -> Page[MergeTask]:
    return Page(list(tasks))


@pytest.fixture
def paged() -> Waiters:
    """Return a schedule whose lists may be read."""
    return Waiters(has_lists=True)


class Reader:
    """Reads a list of tasks by pages, as a schedule requests them."""

    def __init__(self, waiters: Waiters, names: list[str], *, size: int = 100) -> None:
        self.waiters = waiters
        self.names = names
        self.size = size
        self.calls: Counter[str] = Counter()
        self.ended: set[str] = set()

    def task(self, name: str) -> MergeTask:
        return task("success" if name in self.ended else "in-progress", name=name)

    def answer(self, target: PollTarget, now: float) -> None:
        schedule = self.waiters.schedule
        if isinstance(target, ListPage):
            self.calls["page"] += 1
            start = int(target.request.target.partition("cursor=")[2] or 0)
            end = start + self.size
            following = listing(str(end)) if end < len(self.names) else None
            shown = page(*map(self.task, self.names[start:end]))
            assert schedule.apply_page(target, shown, following, now=now, lead=0.0) == []
        else:
            self.calls["task"] += 1
            _ = schedule.apply_task(target, self.task(target.id), now=now, lead=0.0)
        schedule.put_back(target)

    def read(self, now: float) -> Counter[str]:
        """Poll and answer until nothing is due; return how many calls that took."""
        before = self.calls.copy()
        self.waiters.schedule.advance(now)
        while (target := self.waiters.schedule.take(now)) is not None:
            self.answer(target, now)
        return self.calls - before


NAMED = [f"task {number}" for number in range(1000)]


class TestPages:
    def test_a_hundred_per_call(self, paged: Waiters) -> None:
        """Tasks that are due together cost a call for each page that shows them."""
        for name in NAMED[:300]:
            paged.add(name)
        reader = Reader(paged, NAMED)
        assert reader.read(0.0) == {"page": 3}
        assert reader.read(9.9) == {}
        assert reader.read(10.0) == {"page": 3}
        reader.ended = set(NAMED)
        assert reader.read(20.0) == {"page": 3}
        assert [outcome.polls for _, outcome in paged.outcomes] == [3] * 300

    def test_one_task_is_polled_alone(self, paged: Waiters) -> None:
        """A page for one due task costs as much as a GET of that task."""
        paged.add("task 5")
        assert Reader(paged, NAMED).read(0.0) == {"task": 1}

    def test_a_page_counts_for_tasks_that_are_not_due(self, paged: Waiters) -> None:
        """A page counts for all its tasks, and restarts their intervals."""
        for name in NAMED[:2]:
            paged.add(name)
        reader = Reader(paged, NAMED)
        assert reader.read(0.0) == {"page": 1}
        for name in NAMED[2:4]:
            paged.add(name, now=5.0)
        assert reader.read(5.0) == {"page": 1}
        assert reader.read(10.0) == {}
        reader.ended = set(NAMED[:4])
        assert reader.read(15.0) == {"page": 1}
        assert len(paged.outcomes) == 4

    def test_a_page_is_polled_again_without_a_scan(self, paged: Waiters) -> None:
        """Tasks that were found far down cost one call the next time, wherever they are."""
        for name in NAMED[:300]:
            paged.add(name)
        reader = Reader(paged, NAMED)
        _ = reader.read(0.0)
        assert len(paged.schedule.lists["company"].pages) == 2
        reader.ended = set(NAMED[:200])
        assert reader.read(10.0) == {"page": 3}
        assert len(paged.schedule.lists["company"].pages) == 1
        assert reader.read(20.0) == {"page": 1}
        assert paged.schedule.count == 100

    def test_a_page_that_shows_none_of_them_ends_the_scan(self, paged: Waiters) -> None:
        """Tasks that no page shows are polled singly, and nothing is lost."""
        for name in ("lost", "also lost"):
            paged.add(name)
        reader = Reader(paged, NAMED)
        assert reader.read(0.0) == {"page": 1, "task": 2}
        assert paged.outcomes == []
        reader.ended = {"lost", "also lost"}
        _ = reader.read(10.0)
        assert {outcome.state for _, outcome in paged.outcomes} == {OutcomeState.SUCCESS}

    @pytest.mark.parametrize("start", [100, 300, 900])
    def test_a_scan_goes_on_to_tasks_below_those_of_others(
        self, paged: Waiters, start: int
    ) -> None:
        """Pages of other programs' tasks are passed by: together they cost less than a GET each."""
        for name in NAMED[start:][:80]:
            paged.add(name)
        reader = Reader(paged, NAMED)
        assert reader.read(0.0) == {"page": start / 100 + 1}
        assert reader.read(10.0) == {"page": 1}

    @pytest.mark.parametrize(("count", "pages"), [(2, 1), (3, 2), (5, 4), (9, 8)])
    def test_a_search_costs_less_than_a_get_of_each(
        self, paged: Waiters, count: int, pages: int
    ) -> None:
        """A scan that shows none of its tasks ends before it costs as much as their GETs."""
        for number in range(count):
            paged.add(f"lost {number}")
        assert Reader(paged, NAMED).read(0.0) == {"page": pages, "task": count}

    def test_a_search_in_vain_is_not_repeated_at_once(self, paged: Waiters) -> None:
        """After a search in vain comes none for a minute, and then it may cost half."""
        for number in range(8):
            paged.add(f"lost {number}", timeout=1e6)
        reader = Reader(paged, NAMED)
        pages = {now: reader.read(float(now))["page"] for now in range(0, 250, 10)}
        assert {now: count for now, count in pages.items() if count} == {
            0: 7,
            10: 1,
            20: 1,
            80: 1,
            200: 1,
        }

    def test_a_search_starts_anew_when_a_page_was_worth_it(self, paged: Waiters) -> None:
        """A list that shows other tasks is searched again for those of which GETs have been made."""
        for number in range(8):
            paged.add(f"lost {number}", timeout=1e6)
        for name in NAMED[:50]:
            paged.add(name, timeout=1e6)
        reader = Reader(paged, NAMED)
        assert reader.read(0.0) == {"page": 8, "task": 8}
        assert reader.read(10.0) == {"page": 2, "task": 8}
        assert reader.read(70.0) == {"page": 8, "task": 8}

    def test_pages_in_a_cycle_end_the_scan(self, paged: Waiters) -> None:
        """A page that leads to one that the scan has read ends it, whatever it shows."""
        for name in (*NAMED[:50], *(f"lost {number}" for number in range(50))):
            paged.add(name)
        (scan,) = paged.targets(0.0)
        assert isinstance(scan, ListPage)
        shown = page(*(task("in-progress", name=name) for name in NAMED[:50]))
        _ = paged.schedule.apply_page(scan, shown, scan.request, now=0.0, lead=0.0)
        assert len(paged.due(0.0)) == 50

    def test_new_tasks_are_not_searched_for_below(self, paged: Waiters) -> None:
        """A page without the tasks that this client started just now ends the scan: it lags."""
        for name in NAMED[100:150]:
            paged.schedule.started.record(ref(name), 0, 0.0)
            paged.add(name)
        assert Reader(paged, NAMED).read(10.0) == {"page": 1}

    def test_absence_from_a_page_is_no_outcome(self, paged: Waiters) -> None:
        """A task that its page no longer shows is polled singly, and not taken as finished."""
        for name in NAMED[:5]:
            paged.add(name)
        reader = Reader(paged, NAMED)
        _ = reader.read(0.0)
        reader.names = NAMED[900:]
        assert reader.read(10.0)["task"] == 5
        assert (paged.outcomes, paged.schedule.count) == ([], 5)

    def test_a_list_that_is_not_worth_it_is_suspended(self, paged: Waiters) -> None:
        """When the list never shows them, tasks are polled singly; pages are tried rarely."""
        for name in ("lost", "also lost", "lost too"):
            paged.add(name, timeout=1e6)
        reader = Reader(paged, NAMED)
        for now in range(0, 3600, 10):
            _ = reader.read(float(now))
        assert reader.calls["page"] <= 10
        assert reader.calls["task"] == 3 * 360

    def test_tasks_polled_together_wake_together(self, paged: Waiters) -> None:
        """Jitter does not tear apart the tasks of one wait that one page shows."""
        delays = iter(range(10, 1000))
        options = WaitOptions(1e6, lambda state: next(delays), lambda pending, outcome: None)
        for name in NAMED[:50]:
            paged.schedule.add(PendingTask(ref(name), name, options, now=0.0, index=0))
        reader = Reader(paged, NAMED)
        assert reader.read(0.0) == {"page": 1}
        assert paged.schedule.timers.next == 10.0
        assert reader.read(10.0) == {"page": 1}
        assert paged.schedule.timers.next == 21.0

    def test_a_refused_list(self, paged: Waiters) -> None:
        """When the list is refused, its tasks are polled singly."""
        for name in NAMED[:3]:
            paged.add(name)
        (scan,) = paged.targets(0.0)
        assert isinstance(scan, ListPage)
        paged.schedule.apply_refusal(scan, 0.0)
        paged.schedule.put_back(scan)
        assert paged.due(0.0) == NAMED[:3]

    def test_a_refused_page_below(self, paged: Waiters) -> None:
        """A link that has become invalid costs a new scan, not the use of the list."""
        for name in NAMED[:200]:
            paged.add(name)
        reader = Reader(paged, NAMED)
        _ = reader.read(0.0)
        known = paged.schedule.lists["company"]
        (below,) = known.pages
        paged.schedule.advance(10.0)
        while (target := paged.schedule.take(10.0)) is not below:
            assert target is not None
            reader.answer(target, 10.0)
        paged.schedule.apply_refusal(below, 10.0)
        paged.schedule.put_back(below)
        assert below not in known.pages
        assert not known.is_suspended(10.0)
        assert reader.read(10.0)["task"] == 0
        assert paged.schedule.timers.next == 20.0

    def test_failures_on_a_page(self, paged: Waiters) -> None:
        """A page reports each failure on it once; their reasons follow."""
        for name in (*NAMED[:3], NAMED[0]):
            paged.add(name)
        (scan,) = paged.targets(0.0)
        assert isinstance(scan, ListPage)
        shown = page(*(task("failed", name=name) for name in NAMED[:2]), task("success", name="x"))
        failures = paged.schedule.apply_page(scan, shown, None, now=0.0, lead=0.0)
        assert failures == [ref(name) for name in NAMED[:2]]
        assert paged.outcomes == []
        paged.schedule.apply_reason(ref(NAMED[0]), "Gone", 1.0)
        assert [outcome.reason for _, outcome in paged.outcomes] == ["Gone", "Gone"]

    def test_a_page_that_failed_is_polled_again(self, paged: Waiters) -> None:
        """The tasks of a page that was not answered are due again."""
        for name in NAMED[:3]:
            paged.add(name)
        (scan,) = paged.targets(0.0)
        assert paged.schedule.is_wanted(scan)
        paged.schedule.put_back(scan)
        assert paged.targets(0.0) == [scan]

    def test_an_urgent_task_goes_first_and_alone(self, paged: Waiters) -> None:
        """An urgent task does not wait for pages with other tasks."""
        for name in NAMED[:50]:
            paged.add(name)
        pending = paged.add("other", now=0.0, is_urgent=True)
        paged.schedule.lists["company"].scan.leave(pending)
        assert paged.schedule.waiters.is_urgent(ref("other"))
        assert not paged.schedule.waiters.is_urgent(ref(NAMED[0]))
        first, second = paged.targets(0.0)
        assert first == ref("other")
        assert isinstance(second, ListPage)

    @pytest.mark.parametrize("count", [30, 200, 300, 900] if is_thorough() else [30, 200, 300])
    def test_every_due_task_is_polled_within_its_bound(self, paged: Waiters, count: int) -> None:
        """With a slot a second, no poll is later than the time that polling all pages takes."""
        pendings = [
            paged.add(name, timeout=1e6, backoff=lambda state: 10.0)
            for name in NAMED[: count - 20] + [f"lost {number}" for number in range(20)]
        ]
        reader = Reader(paged, NAMED)
        listed, alone = pendings[:-20], pendings[-20:]
        worst = {"listed": 0.0, "alone": 0.0}
        for now in range(600):
            paged.schedule.advance(float(now))
            target = paged.schedule.take(float(now))
            if target is not None:
                reader.answer(target, float(now))
            worst["listed"] = max(worst["listed"], *(now - each.polled_at for each in listed))
            worst["alone"] = max(worst["alone"], *(now - each.polled_at for each in alone))
        assert worst["listed"] <= 12 + 2 * count / 100 + 20
        # A page with a hundred tasks goes first until one task has waited ten times as long.
        assert worst["alone"] <= 10 * (10 + count / 100)


class TestFreshTasks:
    def test_the_first_poll_is_after_an_interval(self, paged: Waiters) -> None:
        """A task that this client just started is not polled before it can have ended."""
        paged.schedule.started.record(ref(), 0, 0.0)
        paged.add()
        assert paged.targets(0.0) == []
        assert paged.schedule.timers.next == 10.0
        assert paged.targets(10.0) == [ref()]

    def test_without_time_a_task_is_polled_immediately(self, waiters: Waiters) -> None:
        """A wait without time still gets one poll."""
        waiters.schedule.started.record(ref(), 0, 0.0)
        waiters.add(timeout=0)
        assert waiters.due(0.0) == ["a"]

    def test_tasks_of_others_are_polled_immediately(self, waiters: Waiters) -> None:
        """A task that was started long ago may have ended."""
        waiters.schedule.started.record(ref(), 0, 0.0)
        waiters.add(now=VISIBILITY + 1)
        assert waiters.due(VISIBILITY + 1) == ["a"]

    def test_a_useless_first_poll_is_skipped(self, waiters: Waiters) -> None:
        """While hardly a task ends before its second poll, the first is skipped."""
        waiters.add()
        assert waiters.due(0.0) == ["a"]
        _ = waiters.apply_task(RUNNING, now=0.0)
        assert waiters.due(10.0) == ["a"]
        _ = waiters.apply_task(SUCCESS, now=10.0)
        waiters.schedule.started.record(ref("b"), 0, 20.0)
        waiters.add("b", now=20.0)
        assert waiters.due(39.9) == []
        assert waiters.due(40.0) == ["b"]

    def test_a_useful_first_poll_is_made(self, waiters: Waiters) -> None:
        """While tasks end before their second poll, the first is made after one interval."""
        waiters.add()
        assert waiters.due(0.0) == ["a"]
        _ = waiters.apply_task(SUCCESS, now=0.0)
        waiters.schedule.started.record(ref("b"), 0, 20.0)
        waiters.add("b", now=20.0)
        assert waiters.schedule.timers.next == 30.0

    def test_a_broken_backoff(self, waiters: Waiters) -> None:
        """A strategy that fails for the very first poll ends the wait immediately."""
        waiters.schedule.started.record(ref(), 0, 0.0)
        waiters.add(backoff=lambda state: 1 / 0)
        assert isinstance(waiters.outcome().error, ConfigurationError)
        assert waiters.schedule.count == 0

    def test_a_list_that_lags(self, paged: Waiters) -> None:
        """A fresh task that the list does not show yet gets time; an older one is polled singly."""
        for name in ("new", "newer"):
            paged.schedule.started.record(ref(name), 0, 0.0)
            paged.add(name, now=0.0)
        reader = Reader(paged, NAMED)
        assert reader.read(10.0) == {"page": 1}
        assert reader.read(20.0)["task"] == 0
        later = reader.read(VISIBILITY + 10.0)
        assert later["task"] == 2

    def test_not_found_yet(self, waiters: Waiters) -> None:
        """A task that was started seconds ago may be missing for longer than those of others."""
        waiters.schedule.started.record(ref(), 0, 0.0)
        waiters.add(timeout=1000.0)
        assert waiters.due(10.0) == ["a"]
        waiters.apply_missing(NOT_FOUND, now=10.0)
        assert waiters.due(10.0 + PATIENCE) == ["a"]
        waiters.apply_missing(NOT_FOUND, now=10.0 + PATIENCE)
        assert waiters.due(VISIBILITY) == ["a"]
        waiters.apply_missing(NOT_FOUND, now=VISIBILITY)
        assert waiters.outcome().error is NOT_FOUND

    def test_started_tasks_are_forgotten(self, waiters: Waiters) -> None:
        """Only tasks that may not be visible yet are remembered."""
        for number in range(1000):
            waiters.schedule.started.record(ref(str(number)), 0, float(number))
        assert len(waiters.schedule.started) <= VISIBILITY + 1


class TestSummaries:
    def test_equal_summaries_are_shared(self, waiters: Waiters) -> None:
        """A hundred thousand tasks with the same counts share them; rare ones are not kept."""
        seen = []
        for number in range(600):
            pending = waiters.add(str(number))
            summary = ResultsSummary(total=9 + number // 2, in_progress=9)
            shown = task("in-progress", summary, name=str(number))
            _ = waiters.schedule.apply_task(ref(str(number)), shown, now=0.0, lead=0.0)
            seen.append(pending.summary)
        assert seen[0] is seen[1]
        assert len(waiters.schedule._summaries) <= 257

    def test_answers_for_tasks_that_are_not_due_leave_no_entries(self, paged: Waiters) -> None:
        """Tasks that share a page with frequently polled ones do not accumulate timers."""
        for name in NAMED[:2]:
            paged.add(name, timeout=1e6, backoff=lambda state: 1.0)
        for name in NAMED[2:100]:
            paged.add(name, timeout=1e6, backoff=lambda state: 300.0 + state.attempt_number)
        reader = Reader(paged, NAMED)
        for now in range(180):
            assert reader.read(float(now)) == {"page": 1}
            assert len(paged.schedule.timers) <= 3 * 100 + 64 + 100


@dataclass
class Wait:
    """What the model records of one wait."""

    pending: PendingTask
    deadline: float
    outcome: Outcome | None = None
    is_discarded: bool = False
    has_failed: bool = False

    @property
    def is_over(self) -> bool:
        return self.outcome is not None or self.is_discarded


NAMES = st.sampled_from(["a", "b", "c", "d"])
LEADS = st.sampled_from([0.0, 0.3, 1.0])
STATUSES = st.sampled_from(["in-progress", "in-progress", "pending", "success", "failed", "paused"])


@dataclass
class Model:
    """The expected state of a schedule."""

    now: float = 1000.0
    waits: dict[PendingTask, Wait] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)
    missing: dict[str, float] = field(default_factory=dict)
    polling: list[PollTarget] = field(default_factory=list)

    def live(self, name: str | None = None) -> Iterator[Wait]:
        waits = list(self.waits.values())
        return (w for w in waits if not w.is_over and name in {None, w.pending.ref.id})

    def undecided(self, *names: str) -> list[Wait]:
        return [w for name in names for w in self.live(name) if not w.has_failed]

    def is_fresh(self, name: str) -> bool:
        return self.now - self.started.get(name, -math.inf) < VISIBILITY


class ScheduleMachine(RuleBasedStateMachine):
    """A schedule as the poller drives it: on time, and with one answer for each poll."""

    pendings = Bundle("pendings")

    @initialize()
    def start(self) -> None:
        self.schedule = Schedule()
        self.model = Model()

    def deliver(self, pending: PendingTask, outcome: Outcome) -> None:
        wait, now = self.model.waits[pending], self.model.now
        assert not wait.is_over, "delivered twice, or after it was discarded"
        assert now <= wait.deadline + GRACE + 1e-6, "delivered too late"
        assert outcome.waited == now - pending.added_at
        wait.outcome = outcome
        if outcome.state is OutcomeState.RUNNING and isinstance(outcome.error, TaskTimeoutError):
            assert now >= wait.deadline - 1e-6, "timed out too early"
            assert not wait.has_failed, "forgot a failure"

    @rule(
        target=pendings,
        name=NAMES,
        timeout=st.sampled_from([0.0, 0.02, 1.0, 10.0, 100.0, 100.0, math.inf]),
        delay=st.sampled_from([0.0, 0.5, 3.0, 3.0, 50.0, math.inf, math.nan]),
        is_urgent=st.sampled_from([False, False, True]),
        is_own=st.booleans(),
    )
    def add(
        self, name: str, timeout: float, delay: float, *, is_urgent: bool, is_own: bool
    ) -> PendingTask:
        options = WaitOptions(timeout, lambda state: delay, self.deliver, is_urgent)
        model = self.model
        if is_own:
            self.schedule.started.record(ref(name), 0, model.now)
            model.started[name] = model.now
        pending = PendingTask(ref(name), name, options, now=model.now, index=len(model.waits))
        model.waits[pending] = Wait(pending, model.now + timeout)
        self.schedule.add(pending)
        return pending

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.04, 0.7, 5.0, 200.0]), takes=st.booleans())
    def pass_time(self, seconds: float, *, takes: bool) -> None:
        end = self.model.now + seconds
        while (wake := self.schedule.timers.next) <= end:
            self.model.now = max(self.model.now, wake)
            self.schedule.advance(self.model.now)
            assert self.schedule.timers.next > self.model.now
            if takes:
                self.take_all()
        self.model.now = end

    @rule()
    def take_all(self) -> None:
        while (target := self.schedule.take(self.model.now)) is not None:
            assert target not in self.model.polling, "polled twice at the same time"
            assert self.schedule.is_wanted(target)
            if isinstance(target, ListPage):
                assert target.is_in_flight
                assert not self.schedule.lists[target.kind].is_suspended(self.model.now)
            else:
                assert any(self.model.live(target.id)), "polled without a waiter"
            self.model.polling.append(target)
        assert not self.schedule.has_due

    def polled(self, number: int) -> PollTarget:
        return self.model.polling[number % len(self.model.polling)]

    @precondition(lambda self: self.model.polling)
    @rule(
        number=st.integers(0, 3),
        statuses=st.dictionaries(NAMES, STATUSES, max_size=4),
        status=STATUSES,
        failed=st.sampled_from([0, 0, 1]),
        lead=LEADS,
        following=st.sampled_from([None, "1", "2", "3"]),
    )
    def apply_task(
        self,
        *,
        number: int,
        statuses: dict[str, str],
        status: str,
        failed: int,
        lead: float,
        following: str | None,
    ) -> None:
        target, now = self.polled(number), self.model.now
        summary = ResultsSummary(total=1, failed=failed)
        if not isinstance(target, ListPage):
            statuses = {target.id: status}
        seen = {name: task(each, summary, name=name) for name, each in statuses.items()}
        waits = self.model.undecided(*seen)
        for name in seen:
            self.model.missing.pop(name, None)
        for wait in waits:
            wait.has_failed = OutcomeState.of(seen[wait.pending.id]) is OutcomeState.FAILED
        if isinstance(target, ListPage):
            link = None if following is None else listing(following)
            failures = self.schedule.apply_page(
                target, page(*seen.values()), link, now=now, lead=lead
            )
            wanted = {wait.pending.ref for wait in self.model.live() if wait.has_failed}
            assert len(failures) == len(set(failures))
            assert set(failures) == {each for each in wanted if each.id in seen}
        else:
            failures = self.schedule.apply_task(target, seen[target.id], now=now, lead=lead)
            has_failed = any(w.has_failed for w in self.model.live(target.id))
            assert failures == ([target] if has_failed else [])
        for wait in waits:
            shown = seen[wait.pending.id]
            assert wait.pending.task == shown
            if OutcomeState.of(shown) in {OutcomeState.SUCCESS, OutcomeState.UNKNOWN}:
                assert wait.outcome is not None
                assert wait.outcome.state is OutcomeState.of(shown)
        self.end_poll(target)

    @precondition(lambda self: self.model.polling)
    @rule(number=st.integers(0, 3), lead=LEADS)
    def fail(self, number: int, lead: float) -> None:
        target, now = self.polled(number), self.model.now
        if isinstance(target, ListPage):
            self.schedule.apply_refusal(target, now)
        else:
            waits = self.model.undecided(target.id)
            since = self.model.missing.setdefault(target.id, now)
            self.schedule.apply_missing(target, NOT_FOUND, now=now, lead=lead)
            is_lost = now - since >= PATIENCE and not self.model.is_fresh(target.id)
            for wait in waits:
                is_over = wait.outcome is not None and wait.outcome.error is NOT_FOUND
                assert is_over == is_lost or now >= wait.deadline
        self.end_poll(target)

    @precondition(lambda self: self.model.polling)
    @rule(number=st.integers(0, 3))
    def end_without_an_answer(self, number: int) -> None:
        self.end_poll(self.polled(number))

    def end_poll(self, target: PollTarget) -> None:
        self.model.polling.remove(target)
        self.schedule.put_back(target)

    @rule(name=NAMES, reason=st.sampled_from(["Gone", None]))
    def apply_reason(self, name: str, reason: str | None) -> None:
        waits = [wait for wait in self.model.live(name) if wait.has_failed]
        self.schedule.apply_reason(ref(name), reason, self.model.now)
        for wait in waits:
            assert wait.outcome is not None
            assert (wait.outcome.state, wait.outcome.reason) == (OutcomeState.FAILED, reason)

    @rule(pending=consumes(pendings))
    def discard(self, pending: PendingTask) -> None:
        wait = self.model.waits[pending]
        wait.is_discarded = wait.outcome is None
        self.schedule.discard(pending)

    @invariant()
    def everything_is_counted(self) -> None:
        if not hasattr(self, "schedule"):
            return
        waited_for = {wait.pending.id for wait in self.model.live()}
        self.model.missing = {
            name: since for name, since in self.model.missing.items() if name in waited_for
        }
        assert {each.id for each in self.schedule.missing._absences} <= waited_for
        live = list(self.model.live())
        assert self.schedule.count == len(live)
        assert len(self.schedule.waiters) == len({wait.pending.ref for wait in live})
        for wait in self.model.waits.values():
            assert wait.is_over == (wait.pending.phase is Phase.DONE)
        assert len(self.schedule.timers) <= 3 * len(live) + 64

    @invariant()
    def no_task_is_forgotten(self) -> None:
        if not hasattr(self, "schedule"):
            return
        for wait in self.model.live():
            pending = wait.pending
            is_in_flight = pending.ref in self.model.polling or pending.page in self.model.polling
            assert pending.phase is not Phase.DUE or pending in self.schedule.queue
            if pending.phase is Phase.IN_FLIGHT and not is_in_flight:
                # A scan that goes on has one task in the queue, and resumes the others after it.
                assert pending.page is self.schedule.lists["company"].scan
                assert self.schedule.has_due or self.schedule.queue.in_flight
            if pending.phase is Phase.WAITING:
                assert self.schedule.timers.next <= pending.due_at

    @invariant()
    def pages_know_their_tasks(self) -> None:
        if not hasattr(self, "schedule"):
            return
        known = self.schedule.lists["company"]
        now, live = self.model.now + 1.0, [wait.pending for wait in self.model.live()]
        pages = [known.scan, *known.pages]
        assert {pending.page for pending in live} <= {*pages, None}
        for each in pages:
            members = [pending for pending in live if pending.page is each]
            due = [pending for pending in members if pending.is_due]
            assert (each.size, each.due) == (len(members), len(due))
            assert Counter(each.tasks()) == Counter(members)
            priority = sum(pending.priority(now) for pending in due)
            assert each.priority(now) == pytest.approx(priority, rel=1e-6, abs=1e-3)
            assert each.is_in_flight == (each in self.model.polling)

    def teardown(self) -> None:
        """In the end everything is delivered, and nothing is left behind."""
        if not hasattr(self, "schedule"):
            return
        for target in list(self.model.polling):
            self.end_poll(target)
        self.pass_time(1000.0, takes=False)
        assert all(math.isinf(wait.deadline) for wait in self.model.live())
        error = AffinityError("closed")
        self.schedule.give_up_all(OutcomeState.UNKNOWN, self.model.now, error)
        assert not any(self.model.live())
        assert self.schedule.take(self.model.now) is None
        left = (self.schedule.timers, self.schedule.waiters, self.schedule.queue.in_flight)
        assert [len(part) for part in left] == [0, 0, 0]
        assert (self.schedule.count, self.schedule.timers.next) == (0, math.inf)


TestScheduleMachine = ScheduleMachine.TestCase
TestScheduleMachine.settings = settings(
    max_examples=examples(150), stateful_step_count=30, deadline=None, suppress_health_check=SLOW
)


def test_a_scan_goes_on_without_the_task_that_kept_it_going() -> None:
    """Tasks skipped while a page was in flight are polled, whatever becomes of the others."""
    schedule = Schedule()
    outcomes: list[Outcome] = []
    options = WaitOptions(1000.0, tenacity.wait_fixed(5), lambda _, end: outcomes.append(end))
    waiting = [
        PendingTask(TaskRef("company", f"t{number}"), "", options, now=0.0, index=number)
        for number in range(6)
    ]
    for pending in waiting:
        schedule.add(pending)
    schedule.advance(0.0)
    scan = schedule.take(0.0)
    assert isinstance(scan, ListPage)
    assert not schedule.has_due  # all are passed over
    running = ResultsSummary(total=1, in_progress=1)
    page = Page(
        [
            MergeTask(id=name, status=TaskStatus.IN_PROGRESS, results_summary=running)
            for name in ("t4", "t5")
        ]
    )
    following = Request("GET", "/v2/next", scan.request.decoder)
    schedule.apply_page(scan, page, following, now=0.1, lead=0.0)
    schedule.put_back(scan)
    queued = [pending for pending in waiting if pending.phase is Phase.DUE]
    assert len(queued) == 1
    schedule.discard(queued[0])
    assert schedule.take(0.2) is scan
