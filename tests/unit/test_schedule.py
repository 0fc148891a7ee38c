"""Which task is to be looked at when, and what becomes of those who wait for it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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

from aiotasks import (
    AffinityError,
    ConfigurationError,
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
from aiotasks._schedule import GRACE, Pending, Phase, Schedule, Terms, cut_short, verdict
from aiotasks._wire import TaskRef
from aiotasks.policy import Backoff, poll_backoff


# How fast examples are made is the machine's affair.
SLOW = [HealthCheck.too_slow]


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
    """A schedule, and a list of what it delivered."""

    def __init__(self) -> None:
        self.schedule = Schedule()
        self.outcomes: list[tuple[Pending, Outcome]] = []

    def add(
        self,
        name: str = "a",
        *,
        now: float = 0.0,
        timeout: float = 100.0,
        backoff: Backoff = lambda state: 10.0,
    ) -> Pending:
        terms = Terms(timeout, backoff, lambda *settled: self.outcomes.append(settled))
        pending = Pending(ref(name), f"url of {name}", terms, now=now, index=0)
        self.schedule.add(pending)
        return pending

    def due(self, now: float) -> list[str]:
        """Let time pass and return what is to be asked for, in order."""
        self.schedule.advance(now)
        return [taken.id for taken in iter(self.schedule.take, None)]

    def see(self, seen: MergeTask, *, now: float, lead: float = 0.0) -> bool:
        return self.schedule.see(ref(), seen, now=now, lead=lead)

    def outcome(self) -> Outcome:
        ((_, outcome),) = self.outcomes
        return outcome


@pytest.fixture
def waiters() -> Waiters:
    return Waiters()


class TestVerdict:
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
    def test_what_a_task_has_come_to(self, seen: MergeTask, state: OutcomeState) -> None:
        """A task is finished on positive proof only, and a partial failure is no success."""
        assert verdict(seen) is state


class TestLooks:
    def test_the_first_is_at_once(self, waiters: Waiters) -> None:
        """A new task is due when it is added."""
        waiters.add(now=5.0)
        assert waiters.schedule.next_wake() == 5.0
        assert waiters.due(5.0) == ["a"]
        assert not waiters.schedule.has_due

    def test_the_next_follow_the_backoff(self, waiters: Waiters) -> None:
        """Each look that tells of no end sets the next one, as the strategy says."""
        waiters.add(backoff=poll_backoff(2.0, 5.0, uniform=lambda low, high: low))
        now, looks = 0.0, []
        for _ in range(5):
            assert waiters.due(now) == ["a"]
            looks.append(now)
            _ = waiters.see(RUNNING, now=now)
            now = waiters.schedule.next_wake()
            waiters.schedule.put_back(ref())
        assert looks == [0, 2, 5, 9.5, 14.5]

    def test_the_last_is_before_the_deadline(self, waiters: Waiters) -> None:
        """A last look starts so early that its answer comes in time, and ends the wait."""
        waiters.add(timeout=15.0)
        assert waiters.due(0) == ["a"]
        _ = waiters.see(RUNNING, now=0, lead=0.5)
        assert waiters.due(10) == ["a"]
        _ = waiters.see(RUNNING, now=10, lead=0.5)
        assert waiters.schedule.next_wake() == 14.5
        assert waiters.due(14.5) == ["a"]
        _ = waiters.see(RUNNING, now=14.9, lead=0.5)
        assert waiters.outcome().state is OutcomeState.RUNNING

    def test_no_look_is_the_last_without_a_deadline(self, waiters: Waiters) -> None:
        """Without a timeout a task is looked at for as long as it takes."""
        waiters.add(timeout=math.inf)
        for number in range(200):
            assert waiters.due(number * 10.0) == ["a"]
            _ = waiters.see(RUNNING, now=number * 10.0)
        assert waiters.outcomes == []
        assert waiters.schedule.next_wake() == 2000

    def test_a_timeout_of_nothing_is_one_look(self, waiters: Waiters) -> None:
        """Even with no time at all a task is looked at once, and not again."""
        waiters.add(timeout=0)
        assert waiters.due(0) == ["a"]
        _ = waiters.see(RUNNING, now=0)
        assert waiters.outcome().state is OutcomeState.RUNNING

    def test_a_loop_that_was_held_up_still_looks(self, waiters: Waiters) -> None:
        """A look that could not be made before the deadline is made after it."""
        waiters.add(timeout=5.0)
        assert waiters.due(60.0) == ["a"]
        assert waiters.outcomes == []
        _ = waiters.see(SUCCESS, now=60.03)
        assert waiters.outcome().state is OutcomeState.SUCCESS

    def test_an_answer_that_does_not_come(self, waiters: Waiters) -> None:
        """A look without an answer is waited for until a moment after the deadline."""
        waiters.add(timeout=5.0)
        assert waiters.due(0) == ["a"]
        assert waiters.schedule.next_wake() == 5.0 + GRACE
        waiters.schedule.advance(5.0)
        assert waiters.outcomes == []
        waiters.schedule.advance(5.0 + GRACE)
        assert isinstance(waiters.outcome().error, TaskTimeoutError)

    def test_looks_without_a_deadline_wait_for_ever(self, waiters: Waiters) -> None:
        """Without a timeout nothing but an answer ends a look."""
        waiters.add(timeout=math.inf)
        assert waiters.due(0) == ["a"]
        assert waiters.schedule.next_wake() == math.inf
        waiters.schedule.advance(1e9)
        assert waiters.outcomes == []

    def test_a_look_that_told_nothing_is_repeated(self, waiters: Waiters) -> None:
        """A task of which the look told nothing goes to the end of the queue."""
        waiters.add("a")
        waiters.add("b")
        waiters.schedule.advance(0)
        assert waiters.schedule.take() == ref("a")
        waiters.schedule.put_back(ref("a"))
        assert waiters.due(0) == ["b", "a"]

    def test_an_answer_ends_the_look(self, waiters: Waiters) -> None:
        """Nothing is queued again once its look told something."""
        waiters.add("a")
        assert waiters.due(0) == ["a"]
        _ = waiters.see(RUNNING, now=0)
        waiters.schedule.put_back(ref("a"))
        assert not waiters.schedule.has_due

    @given(st.lists(st.floats(0, 100), max_size=30))
    @settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
    def test_what_is_due_comes_in_order(self, times: list[float]) -> None:
        """Tasks are asked for in the order of their due times, and of their adding if equal."""
        waiters = Waiters()
        for number, when in enumerate(times):
            waiters.add(str(number), now=when)
        expected = sorted(range(len(times)), key=times.__getitem__)
        assert waiters.due(100.0) == [str(number) for number in expected]

    @pytest.mark.parametrize("timeout", [100.0, math.inf])
    def test_a_broken_backoff_costs_its_own_tasks_only(
        self, waiters: Waiters, timeout: float
    ) -> None:
        """A strategy that fails settles the tasks it was given for, with what it raised."""
        broken = waiters.add(timeout=timeout, backoff=lambda state: 1 / 0)
        waiters.add()
        assert waiters.due(0) == ["a"]
        _ = waiters.see(RUNNING, now=0)
        ((pending, outcome),) = waiters.outcomes
        assert pending is broken
        assert (outcome.state, outcome.task) == (OutcomeState.UNKNOWN, RUNNING)
        assert isinstance(outcome.error, ConfigurationError)

    def test_a_backoff_sees_its_own_attempts(self, waiters: Waiters) -> None:
        """The attempt that a strategy is told is the number of the looks so far, from 1."""
        attempts: list[int] = []

        def remember(state: tenacity.RetryCallState) -> float:
            attempts.append(state.attempt_number)
            return 1.0

        waiters.add(backoff=remember)
        for now in range(3):
            assert waiters.due(now) == ["a"]
            _ = waiters.see(RUNNING, now=now)
        assert attempts == [1, 2, 3]


class TestOutcomes:
    def test_success(self, waiters: Waiters) -> None:
        """A success carries the task, the looks that told something, and the time it took."""
        waiters.add(now=1.0)
        assert waiters.due(1.0) == ["a"]
        _ = waiters.see(RUNNING, now=2.0)
        assert waiters.due(12.0) == ["a"]
        assert not waiters.see(SUCCESS, now=13.0)
        assert waiters.outcome() == Outcome(
            url="url of a", state=OutcomeState.SUCCESS, task=SUCCESS, polls=2, waited=12.0
        )

    @pytest.mark.parametrize("seen", [FAILED, PARTIAL], ids=["failed", "partial"])
    @pytest.mark.parametrize("reason", ["Primary company not found", None])
    def test_failure(self, waiters: Waiters, seen: MergeTask, reason: str | None) -> None:
        """A failed task waits for its reason, and settles with it or without."""
        waiters.add()
        assert waiters.due(0) == ["a"]
        assert waiters.see(seen, now=1.0)
        assert waiters.outcomes == []
        waiters.schedule.explain(ref(), reason, 2.0)
        outcome = waiters.outcome()
        assert (outcome.state, outcome.reason) == (OutcomeState.FAILED, reason)
        assert (outcome.task, outcome.waited) == (seen, 2.0)
        assert isinstance(outcome.error, TaskFailedError)
        assert outcome.error.reason == reason

    def test_failure_without_time_for_the_reason(self, waiters: Waiters) -> None:
        """A failure whose reason does not come in time is a failure all the same."""
        waiters.add(timeout=5.0)
        assert waiters.due(0) == ["a"]
        assert waiters.see(FAILED, now=1.0)
        waiters.schedule.advance(5.0)
        assert waiters.outcomes == []
        waiters.schedule.advance(5.0 + GRACE)
        assert waiters.outcome().state is OutcomeState.FAILED

    def test_failure_seen_after_the_deadline(self, waiters: Waiters) -> None:
        """A failure that is seen in the last moment does not prolong the wait."""
        waiters.add(timeout=5.0)
        assert waiters.due(0) == ["a"]
        assert waiters.see(FAILED, now=5.03)
        assert waiters.schedule.next_wake() <= 5.0 + GRACE
        waiters.schedule.advance(5.0 + GRACE)
        assert waiters.outcome().state is OutcomeState.FAILED

    @pytest.mark.parametrize(
        "news",
        [
            pytest.param(lambda schedule: schedule.miss(ref(), now=2.0, lead=0.0), id="not found"),
            pytest.param(
                lambda schedule: schedule.give_up(ref(), NotFoundError(404, None, "x"), 2.0),
                id="given up",
            ),
            pytest.param(
                lambda schedule: schedule.see(ref(), RUNNING, now=2.0, lead=0.0), id="running"
            ),
        ],
    )
    def test_a_failure_is_not_taken_back(
        self, waiters: Waiters, news: Callable[[Schedule], object]
    ) -> None:
        """Whatever a later look tells, what was seen as failed waits for its reason."""
        failed = waiters.add()
        assert waiters.due(0) == ["a"]
        assert waiters.see(FAILED, now=1.0)
        waiters.add(now=2.0)
        assert waiters.due(2.0) == ["a"]
        news(waiters.schedule)
        waiters.schedule.explain(ref(), "Gone", 3.0)
        outcomes = dict(waiters.outcomes)
        assert (outcomes[failed].state, outcomes[failed].reason) == (OutcomeState.FAILED, "Gone")

    def test_an_unknown_status(self, waiters: Waiters) -> None:
        """A status that this version does not know is an outcome of its own."""
        waiters.add()
        assert waiters.due(0) == ["a"]
        assert not waiters.see(UNKNOWN, now=1.0)
        outcome = waiters.outcome()
        assert (outcome.state, outcome.task) == (OutcomeState.UNKNOWN, UNKNOWN)
        assert isinstance(outcome.error, UnknownStatusError)

    def test_time_is_up(self, waiters: Waiters) -> None:
        """A task that still runs at the deadline is told as last seen, with the time waited."""
        waiters.add(now=100.0, timeout=15.0)
        assert waiters.due(100.0) == ["a"]
        _ = waiters.see(RUNNING, now=100.0)
        assert waiters.due(110.0) == ["a"]
        waiters.schedule.advance(115.0 + GRACE)
        outcome = waiters.outcome()
        assert (outcome.state, outcome.task, outcome.polls) == (OutcomeState.RUNNING, RUNNING, 1)
        assert isinstance(outcome.error, TaskTimeoutError)
        assert outcome.waited == outcome.error.waited == pytest.approx(15.0 + GRACE)

    def test_not_visible_yet(self, waiters: Waiters) -> None:
        """A look that cannot see the task counts for the backoff, and tells nothing."""
        waiters.add(timeout=15.0)
        assert waiters.due(0) == ["a"]
        waiters.schedule.miss(ref(), now=0.0, lead=0.0)
        assert waiters.due(10.0) == ["a"]
        waiters.schedule.miss(ref(), now=10.0, lead=0.0)
        assert waiters.due(15.0) == ["a"]
        waiters.schedule.miss(ref(), now=15.0, lead=0.0)
        outcome = waiters.outcome()
        assert (outcome.state, outcome.task, outcome.polls) == (OutcomeState.RUNNING, None, 0)

    def test_given_up(self, waiters: Waiters) -> None:
        """A task of which nothing can be learned settles with the error that says why."""
        waiters.add()
        assert waiters.due(0) == ["a"]
        error = NotFoundError(404, None, "x")
        waiters.schedule.give_up(ref(), error, 1.0)
        outcome = waiters.outcome()
        assert (outcome.state, outcome.error) == (OutcomeState.UNKNOWN, error)

    @pytest.mark.parametrize("state", [OutcomeState.UNKNOWN, OutcomeState.RUNNING])
    def test_all_given_up(self, waiters: Waiters, state: OutcomeState) -> None:
        """When nothing more can be learned, everything settles, a failure as the failure it is."""
        waiters.add("a")
        waiters.add("b")
        waiters.add("c", timeout=math.inf)
        assert waiters.due(0) == ["a", "b", "c"]
        assert waiters.see(FAILED, now=1.0)
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
        """What a wait would come to can be told without ending it."""
        pending = waiters.add()
        assert waiters.due(0) == ["a"]
        if seen is not None:
            _ = waiters.see(seen, now=1.0)
        outcome = cut_short(pending, 7.0)
        assert (outcome.state, outcome.task, outcome.waited) == (state, seen, 7.0)
        assert type(outcome.error) is error
        assert (waiters.outcomes, waiters.schedule.count) == ([], 1)


class TestSharing:
    def test_a_shared_task_is_asked_for_once(self, waiters: Waiters) -> None:
        """All who wait for a task share one look and what it tells."""
        for _ in range(3):
            waiters.add()
        assert (waiters.schedule.count, waiters.schedule.tasks) == (3, 1)
        assert waiters.due(0) == ["a"]
        _ = waiters.see(SUCCESS, now=1.0)
        assert [outcome.state for _, outcome in waiters.outcomes] == [OutcomeState.SUCCESS] * 3

    def test_who_comes_late_shares_the_look(self, waiters: Waiters) -> None:
        """A task that is being asked for is not queued again for somebody new."""
        waiters.add()
        assert waiters.due(0) == ["a"]
        waiters.add(now=1.0)
        assert waiters.due(1.0) == []
        _ = waiters.see(SUCCESS, now=2.0)
        assert [outcome.waited for _, outcome in waiters.outcomes] == [2.0, 1.0]

    def test_news_are_for_everybody(self, waiters: Waiters) -> None:
        """What a look tells counts for those too whose own look is not due yet."""
        waiters.add()
        assert waiters.due(0) == ["a"]
        _ = waiters.see(RUNNING, now=0)
        waiters.add(now=3.0)
        assert waiters.due(3.0) == ["a"]
        _ = waiters.see(SUCCESS, now=3.0)
        assert len(waiters.outcomes) == 2

    def test_anothers_look_is_not_the_last_one(self, waiters: Waiters) -> None:
        """A look that somebody else needed does not end a wait before its own last look."""
        first = waiters.add(timeout=15.0, backoff=lambda state: 60.0)
        assert waiters.due(0) == ["a"]
        _ = waiters.see(RUNNING, now=0)
        waiters.add(now=1.0, timeout=100.0)
        assert waiters.due(1.0) == ["a"]
        _ = waiters.see(RUNNING, now=1.0)
        assert waiters.outcomes == []
        assert waiters.due(15.0) == ["a"]
        _ = waiters.see(SUCCESS, now=15.01)
        assert dict(waiters.outcomes)[first].state is OutcomeState.SUCCESS

    def test_reasons_are_shared(self, waiters: Waiters) -> None:
        """One reason settles all who saw the failure, and nobody who did not."""
        for _ in range(2):
            waiters.add()
        assert waiters.due(0) == ["a"]
        assert waiters.see(FAILED, now=1.0)
        waiters.add(now=1.5)
        waiters.schedule.explain(ref(), "Gone", 2.0)
        assert [outcome.reason for _, outcome in waiters.outcomes] == ["Gone", "Gone"]
        assert waiters.schedule.count == 1


class TestDiscarding:
    def test_nobody_is_told(self, waiters: Waiters) -> None:
        """What is discarded is never delivered, however often it is discarded."""
        pending = waiters.add()
        waiters.schedule.discard(pending)
        waiters.schedule.discard(pending)
        assert waiters.due(1e9) == []
        assert not waiters.see(SUCCESS, now=1e9)
        assert (waiters.outcomes, waiters.schedule.count) == ([], 0)

    def test_others_are_not_touched(self, waiters: Waiters) -> None:
        """Discarding one of those who wait for a task leaves it to the others."""
        leaving, staying = waiters.add(), waiters.add()
        assert waiters.due(0) == ["a"]
        waiters.schedule.discard(leaving)
        _ = waiters.see(SUCCESS, now=1.0)
        assert [pending for pending, _ in waiters.outcomes] == [staying]

    def test_what_is_queued_is_passed_over(self, waiters: Waiters) -> None:
        """A task that nobody waits for any more is not asked for, and can be added again."""
        gone = waiters.add("a")
        waiters.add("b")
        waiters.schedule.advance(0)
        waiters.schedule.discard(gone)
        assert waiters.due(0) == ["b"]
        waiters.add("a", now=1.0)
        assert waiters.due(1.0) == ["a"]

    def test_its_look_is_not_repeated(self, waiters: Waiters) -> None:
        """A look at a task that nobody waits for any more is not queued again."""
        pending = waiters.add()
        assert waiters.due(0) == ["a"]
        waiters.schedule.discard(pending)
        waiters.schedule.put_back(ref())
        assert not waiters.schedule.has_due
        waiters.add(now=1.0)
        assert waiters.due(1.0) == ["a"]


class TestSize:
    def test_one_entry_for_each(self, waiters: Waiters) -> None:
        """However often tasks are looked at, the heap has hardly more entries than tasks."""
        for number in range(200):
            waiters.add(str(number), timeout=1e6)
        for now in range(0, 1000, 10):
            for name in waiters.due(now):
                _ = waiters.schedule.see(ref(name), RUNNING, now=now, lead=0)
                waiters.schedule.put_back(ref(name))
            assert len(waiters.schedule._heap) <= 2 * 200 + 64

    def test_shared_looks_leave_no_entries(self, waiters: Waiters) -> None:
        """One who waits for a last look gets no entry for each look of the others."""
        for _ in range(50):
            waiters.add(timeout=5000.0, backoff=lambda state: 1e9)
        waiters.add(timeout=1e6)
        for now in range(0, 1000, 10):
            assert waiters.due(now) == ["a"]
            _ = waiters.see(RUNNING, now=now)
            assert len(waiters.schedule._heap) <= 2 * 51 + 64


@dataclass
class Wait:
    """What the model knows of one wait."""

    pending: Pending
    deadline: float
    lead: float = 0.0
    outcome: Outcome | None = None
    is_discarded: bool = False
    has_failed: bool = False

    @property
    def is_over(self) -> bool:
        return self.outcome is not None or self.is_discarded


NAMES = st.sampled_from(["a", "b"])
LEADS = st.sampled_from([0.0, 0.3, 1.0])


class ScheduleMachine(RuleBasedStateMachine):
    """A schedule as the poller drives it: on time, and with one answer for each look."""

    pendings = Bundle("pendings")

    @initialize()
    def start(self) -> None:
        self.schedule = Schedule()
        self.now = 1000.0
        self.waits: dict[Pending, Wait] = {}
        self.looking: list[TaskRef] = []

    def live(self, name: str | None = None) -> Iterator[Wait]:
        waits = list(self.waits.values())
        return (w for w in waits if not w.is_over and name in {None, w.pending.ref.id})

    def deliver(self, pending: Pending, outcome: Outcome) -> None:
        wait = self.waits[pending]
        assert not wait.is_over, "settled twice, or after it was discarded"
        assert self.now <= wait.deadline + GRACE + 1e-6, "settled too late"
        assert outcome.waited == self.now - pending.since
        wait.outcome = outcome
        if outcome.state is OutcomeState.RUNNING and isinstance(outcome.error, TaskTimeoutError):
            assert self.now >= wait.deadline - wait.lead - 1e-6, "timed out too early"
            assert not wait.has_failed, "forgot a failure"

    @rule(
        target=pendings,
        name=NAMES,
        timeout=st.sampled_from([0.0, 0.02, 1.0, 10.0, 100.0, math.inf]),
        delay=st.sampled_from([0.0, 0.5, 3.0, 50.0, math.inf, math.nan]),
    )
    def add(self, name: str, timeout: float, delay: float) -> Pending:
        terms = Terms(timeout, lambda state: delay, self.deliver)
        pending = Pending(ref(name), name, terms, now=self.now, index=len(self.waits))
        self.waits[pending] = Wait(pending, self.now + timeout)
        self.schedule.add(pending)
        return pending

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.04, 0.7, 5.0, 200.0]), takes=st.booleans())
    def pass_time(self, seconds: float, *, takes: bool) -> None:
        end = self.now + seconds
        while (wake := self.schedule.next_wake()) <= end:
            self.now = max(self.now, wake)
            self.schedule.advance(self.now)
            assert self.schedule.next_wake() > self.now
            if takes:
                self.take_all()
        self.now = end

    def take_all(self) -> None:
        while (taken := self.schedule.take()) is not None:
            assert taken not in self.looking, "asked for twice at once"
            assert any(self.live(taken.id)), "asked for though nobody waits"
            self.looking.append(taken)
        assert not self.schedule.has_due

    @precondition(lambda self: self.looking)
    @rule(
        number=st.integers(0, 1),
        status=st.sampled_from(["in-progress", "pending", "success", "failed", "paused"]),
        failed=st.sampled_from([0, 1]),
        lead=LEADS,
    )
    def see(self, number: int, status: str, failed: int, lead: float) -> None:
        seen_ref = self.looking[number % len(self.looking)]
        seen = task(status, ResultsSummary(total=1, failed=failed), name=seen_ref.id)
        state = verdict(seen)
        waits = [wait for wait in self.live(seen_ref.id) if not wait.has_failed]
        for wait in waits:
            wait.lead = max(wait.lead, lead)
            wait.has_failed = state is OutcomeState.FAILED
        wants_reason = self.schedule.see(seen_ref, seen, now=self.now, lead=lead)
        assert wants_reason == (state is OutcomeState.FAILED and any(self.live(seen_ref.id)))
        for wait in waits:
            assert wait.pending.task is seen
            if state in {OutcomeState.SUCCESS, OutcomeState.UNKNOWN}:
                assert wait.outcome is not None
                assert wait.outcome.state is state
        self.end_look(seen_ref)

    @precondition(lambda self: self.looking)
    @rule(number=st.integers(0, 1), lead=LEADS)
    def miss(self, number: int, lead: float) -> None:
        missed = self.looking[number % len(self.looking)]
        for wait in self.live(missed.id):
            wait.lead = max(wait.lead, lead)
        self.schedule.miss(missed, now=self.now, lead=lead)
        self.end_look(missed)

    @precondition(lambda self: self.looking)
    @rule(number=st.integers(0, 1))
    def give_up(self, number: int) -> None:
        given_up = self.looking[number % len(self.looking)]
        waits = [wait for wait in self.live(given_up.id) if not wait.has_failed]
        error = AffinityError("x")
        self.schedule.give_up(given_up, error, self.now)
        assert all(wait.outcome and wait.outcome.error is error for wait in waits)
        self.end_look(given_up)

    @precondition(lambda self: self.looking)
    @rule(number=st.integers(0, 1))
    def learn_nothing(self, number: int) -> None:
        self.end_look(self.looking[number % len(self.looking)])

    def end_look(self, looked_at: TaskRef) -> None:
        self.looking.remove(looked_at)
        self.schedule.put_back(looked_at)

    @rule(name=NAMES, reason=st.sampled_from(["Gone", None]))
    def explain(self, name: str, reason: str | None) -> None:
        waits = [wait for wait in self.live(name) if wait.has_failed]
        self.schedule.explain(ref(name), reason, self.now)
        for wait in waits:
            assert wait.outcome is not None
            assert (wait.outcome.state, wait.outcome.reason) == (OutcomeState.FAILED, reason)

    @rule(pending=consumes(pendings))
    def discard(self, pending: Pending) -> None:
        wait = self.waits[pending]
        wait.is_discarded = wait.outcome is None
        self.schedule.discard(pending)

    @invariant()
    def everything_is_counted(self) -> None:
        if not hasattr(self, "schedule"):
            return
        live = list(self.live())
        assert self.schedule.count == len(live)
        assert self.schedule.tasks == len({wait.pending.ref for wait in live})
        for wait in self.waits.values():
            assert wait.is_over == (wait.pending.phase is Phase.SETTLED)
        # Nobody is forgotten: a look is on its way or queued, or a time is set.
        on_their_way = {*self.looking, *self.schedule._due}
        for wait in live:
            if wait.pending.phase is Phase.LOOK:
                assert wait.pending.ref in on_their_way
        assert len(self.schedule._due) == len(set(self.schedule._due))
        assert len(self.schedule._heap) <= 2 * len(live) + 64

    def teardown(self) -> None:
        """Whatever happened, in the end everything settles and nothing is left behind."""
        if not hasattr(self, "schedule"):
            return
        for looked_at in list(self.looking):
            self.end_look(looked_at)
        self.pass_time(1000.0, takes=False)
        assert all(math.isinf(wait.deadline) for wait in self.live())
        self.schedule.give_up_all(OutcomeState.UNKNOWN, self.now, AffinityError("closed"))
        assert not any(self.live())
        assert self.schedule.take() is None
        left = (self.schedule._heap, self.schedule._by_ref, self.schedule._asked)
        assert [len(part) for part in left] == [0, 0, 0]
        assert (self.schedule.count, self.schedule.next_wake()) == (0, math.inf)


TestScheduleMachine = ScheduleMachine.TestCase
TestScheduleMachine.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=SLOW
)
