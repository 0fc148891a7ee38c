"""Which pair may start next, and when a job has to stop."""

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aiotasks.dedupe import JobSettings
from aiotasks.dedupe._run.failure_stop import FailureStop
from aiotasks.dedupe._run.outages import Outage
from aiotasks.dedupe._run.queue import MergeQueue
from aiotasks.dedupe.models import Pair, PairState, StopReason
from tests.profiles import examples


ENDS = (PairState.SUCCEEDED, PairState.FAILED, PairState.REFUSED, PairState.UNSETTLED)


def pair(number: int, *, of: int, state: PairState = PairState.PLANNED) -> Pair:
    """Return a pair of the cluster of a primary record."""
    return Pair(number=number, line=number, primary_id=of, duplicate_id=1000 + number, state=state)


def pairs(*clusters: int) -> list[Pair]:
    """Return pairs of these clusters, numbered from 1."""
    return [pair(number, of=cluster) for number, cluster in enumerate(clusters, 1)]


def queue_of(
    *clusters: int,
    opened: tuple[Pair, ...] = (),
    max_open: int | None = None,
    canary: int = 0,
    max_failure_rate: float = 1.0,
    succeeded: int = 0,
) -> MergeQueue:
    return MergeQueue(
        pairs(*clusters),
        opened,
        JobSettings(max_open=max_open, canary=canary, max_failure_rate=max_failure_rate),
        succeeded=succeeded,
    )


def taken(queue: MergeQueue) -> list[int]:
    """Take all pairs that may start now, and return their numbers."""
    return [each.number for each in iter(queue.take, None)]


def end_next(queue: MergeQueue, state: PairState = PairState.SUCCEEDED) -> None:
    """Start a pair and let it end."""
    started = queue.take()
    assert started is not None
    queue.end(started, state)


class TestTurns:
    def test_a_cluster_has_one_merge_open(self) -> None:
        """Merges into one record run one after the other, in the order of the plan."""
        queue = queue_of(1, 1, 2)
        assert taken(queue) == [1, 3]
        assert queue.obstacle == "the open merges of their clusters to end"
        queue.end(pair(3, of=2), PairState.SUCCEEDED)
        assert taken(queue) == []
        queue.end(pair(1, of=1), PairState.FAILED)
        assert taken(queue) == [2]

    def test_the_longest_cluster_starts_first(self) -> None:
        """The longest cluster starts first; among equals, the one that is first in the plan."""
        assert taken(queue_of(1, 2, 3, 3, 2, 3)) == [3, 2, 1]

    def test_no_more_are_open_than_allowed(self) -> None:
        """At most ``max_open`` merges are open at a time, and a new one starts as one ends."""
        queue = queue_of(1, 2, 3, max_open=2)
        assert taken(queue) == [1, 2]
        assert queue.obstacle == "open merges to end (at most 2 at once)"
        queue.end(pair(2, of=2), PairState.SUCCEEDED)
        assert taken(queue) == [3]

    def test_a_pair_that_is_put_back_starts_again(self) -> None:
        """A pair that is put back is the next of its cluster, and may start immediately."""
        queue = queue_of(1, 1)
        first = queue.take()
        assert first is not None
        queue.put_back(first)
        assert (queue.left, queue.open) == (2, 0)
        assert taken(queue) == [1]

    def test_what_an_earlier_run_left_open_counts(self) -> None:
        """Open pairs of an earlier run count as open, and keep their clusters busy."""
        opened = (pair(8, of=1, state=PairState.STARTED), pair(9, of=9, state=PairState.SENDING))
        queue = queue_of(1, 2, 3, opened=opened, max_open=3)
        assert queue.open == 2
        assert taken(queue) == [2]
        queue.end(opened[0], PairState.SUCCEEDED)
        assert taken(queue) == [1]
        queue.put_back(opened[1])
        assert taken(queue) == [3]
        queue.end(pair(3, of=3), PairState.SUCCEEDED)
        assert taken(queue) == [9]

    def test_a_cluster_is_busy_until_all_of_it_has_ended(self) -> None:
        """If an earlier run left two merges of a cluster open, both have to end."""
        opened = (pair(8, of=1, state=PairState.STARTED), pair(9, of=1, state=PairState.STARTED))
        queue = queue_of(1, opened=opened)
        queue.end(opened[0], PairState.SUCCEEDED)
        assert taken(queue) == []
        queue.end(opened[1], PairState.SUCCEEDED)
        assert taken(queue) == [1]

    def test_an_unsettled_merge_closes_its_cluster(self) -> None:
        """No pair of a cluster starts while one of its merges is unsettled."""
        queue = queue_of(1, 1, 2)
        end_next(queue, PairState.UNSETTLED)
        assert taken(queue) == [3]
        queue.end(pair(3, of=2), PairState.SUCCEEDED)
        assert queue.is_over
        assert queue.left == 1


class TestOpening:
    def test_half_of_the_first_have_to_succeed(self) -> None:
        """The others start when half as many merges as the first batch has have succeeded."""
        queue = queue_of(*range(1, 20), canary=3)
        assert taken(queue) == [1, 2, 3]
        assert queue.obstacle == "2 of the first 3 merges to succeed (0 have)"
        queue.end(pair(2, of=2), PairState.SUCCEEDED)
        assert taken(queue) == [4]
        assert queue.obstacle == "2 of the first 3 merges to succeed (1 have)"
        queue.end(pair(3, of=3), PairState.SUCCEEDED)
        assert not queue.is_opening
        assert taken(queue) == [*range(5, 20)]

    def test_successes_let_more_start(self) -> None:
        """From the fourth success on, each lets three more start in advance, if nothing has failed."""
        queue = queue_of(*range(1, 60), canary=20)
        opened = [len(taken(queue))]
        for number in range(1, 6):
            queue.end(pair(number, of=number), PairState.SUCCEEDED)
            opened.append(len(taken(queue)))
        assert opened == [20, 1, 1, 1, 4, 4]

    def test_a_failure_lets_none_start_in_advance(self) -> None:
        """While a failure weighs, no more than the first batch are open."""
        queue = queue_of(*range(1, 60), canary=20, max_failure_rate=0.2)
        _ = taken(queue)
        queue.end(pair(1, of=1), PairState.FAILED)
        for number in range(2, 5):
            queue.end(pair(number, of=number), PairState.SUCCEEDED)
        _ = taken(queue)
        assert queue.open <= 20

    def test_what_has_not_succeeded_does_not_count(self) -> None:
        """A merge that has no success starts another one, and is none of the half."""
        queue = queue_of(*range(1, 9), canary=2)
        for state in (PairState.REFUSED, PairState.UNSETTLED):
            end_next(queue, state)
        assert queue.is_opening
        assert taken(queue) == [3, 4]

    def test_a_failure_makes_it_smaller(self) -> None:
        """The nearer a stop is, the fewer merges may be open, but always one."""
        queue = queue_of(*range(1, 40), canary=10, max_failure_rate=0.2)
        for bound in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1):
            before, started = queue.open, taken(queue)
            assert before + len(started) == bound
            queue.end(pair(started[0], of=started[0]), PairState.FAILED)
            for number in started[1:]:
                queue.put_back(pair(number, of=number))
        assert queue.stopped is StopReason.FAILURES

    def test_it_closes_again_after_failures(self) -> None:
        """After failures the bound of the first batch holds again, until others succeed."""
        queue = queue_of(*range(1, 60), canary=10, max_failure_rate=0.2, succeeded=5)
        started = taken(queue)
        assert len(started) == 59
        queue = queue_of(*range(1, 60), canary=10, max_failure_rate=0.2, succeeded=5)
        end_next(queue, PairState.FAILED)
        assert len(taken(queue)) == 9
        assert queue.obstacle == (
            "open merges to end (at most 9 at once, as others have failed just now)"
        )
        queue.end(pair(2, of=2), PairState.SUCCEEDED)
        assert len(taken(queue)) == 49

    def test_without_a_first_batch_nothing_closes(self) -> None:
        """Without a first batch all start immediately, also after failures."""
        queue = queue_of(*range(1, 60), max_failure_rate=0.2)
        end_next(queue, PairState.FAILED)
        assert len(taken(queue)) == 58

    def test_open_pairs_of_an_earlier_run_belong_to_it(self) -> None:
        """Open pairs of an earlier run are in the first batch, and free their place if put back."""
        opened = tuple(pair(number, of=number, state=PairState.SENDING) for number in (7, 8, 9))
        queue = queue_of(1, 2, 3, 4, opened=opened, canary=3)
        assert taken(queue) == []
        for each in opened[:2]:
            queue.put_back(each)
        assert len(taken(queue)) == 2


class TestFailures:
    def test_too_many_stop_the_job(self) -> None:
        """The job stops when too many merges failed, and says how many of which."""
        queue = queue_of(*range(1, 30), max_failure_rate=0.2)
        for _ in range(9):
            end_next(queue, PairState.FAILED)
        assert (queue.stopped, queue.failures) == (None, None)
        end_next(queue, PairState.FAILED)
        assert queue.stopped is StopReason.FAILURES
        assert queue.failures == "10 of the 10 started since pair 1"

    def test_the_server_may_refuse_them_too(self) -> None:
        """What the server refuses when it is sent is a failure."""
        queue = queue_of(1, max_failure_rate=0.0)
        started = queue.take()
        assert started is not None
        queue.end(started, PairState.REFUSED, is_refusal=True)
        assert queue.stopped is StopReason.FAILURES

    def test_nothing_else_is_a_failure(self) -> None:
        """Unsettled pairs, and those that turn out to be gone or not to be sent, are none."""
        queue = queue_of(*range(1, 9), max_failure_rate=0.0)
        end_next(queue, PairState.UNSETTLED)
        end_next(queue, PairState.REFUSED)
        skipped = queue.take()
        assert skipped is not None
        queue.skip(skipped)
        assert queue.stopped is None

    def test_another_reason_names_no_failures(self) -> None:
        """A job that stopped for another reason does not say that merges failed."""
        queue = queue_of(1, 2, max_failure_rate=0.0)
        queue.stop(StopReason.MONTH)
        queue.end(pair(1, of=1), PairState.FAILED)
        assert queue.failures is None


class TestEnd:
    def test_it_is_over_when_all_have_ended(self) -> None:
        """A job is over with its last pair; a job without pairs is over immediately."""
        queue = queue_of(1)
        assert taken(queue) == [1]
        assert not queue.is_over
        queue.end(pair(1, of=1), PairState.SUCCEEDED)
        assert queue.obstacle == "nothing to start"
        assert queue.is_over is queue_of().is_over is True

    def test_a_stop_waits_for_what_is_open(self) -> None:
        """After a stop nothing starts; the job is over when no open pairs remain."""
        queue = queue_of(1, 2, 3)
        started = queue.take(), queue.take()
        queue.stop(StopReason.INTERRUPTED)
        assert taken(queue) == []
        assert not queue.is_over
        assert started[0] is not None
        queue.end(started[0], PairState.SUCCEEDED)
        assert not queue.is_over
        queue.leave()
        assert queue.is_over

    def test_the_first_reason_is_reported(self) -> None:
        """Of several reasons to stop, the first is reported."""
        queue = queue_of(1)
        queue.stop(StopReason.MONTH)
        queue.stop(StopReason.FAILURES)
        assert queue.stopped is StopReason.MONTH

    def test_its_repr(self) -> None:
        """The repr shows what is planned, what is open, and why the next pair may not start."""
        queue = queue_of(1, 1, 2)
        assert repr(queue) == "<MergeQueue: 3 left, 0 open, ready>"
        assert taken(queue) == [1, 3]
        assert repr(queue) == (
            "<MergeQueue: 1 left, 2 open, the open merges of their clusters to end>"
        )
        queue.stop(StopReason.FAILURES)
        assert repr(queue) == "<MergeQueue: 1 left, 2 open, failures>"


class TestOutage:
    def test_ten_minutes_are_too_long(self) -> None:
        """An outage is too long ten minutes after its first failure."""
        outage = Outage()
        assert [outage.add_failure(now) for now in (100.0, 400.0, 699.0, 700.0)] == [
            *[False] * 3,
            True,
        ]
        assert outage.failures == 4

    def test_an_answer_ends_it(self) -> None:
        """After an answer the next failure begins another outage."""
        outage = Outage()
        assert not outage.add_failure(0.0)
        outage.end()
        assert outage.failures == 0
        assert not outage.add_failure(1000.0)
        assert outage.failures == 1


CLUSTERS = st.integers(min_value=1, max_value=5)


class Job(RuleBasedStateMachine):
    """Random operations on a queue, beside a plain model of it."""

    @initialize(
        planned=st.lists(CLUSTERS, max_size=30),
        opened=st.sets(CLUSTERS, max_size=4),
        max_open=st.none() | st.integers(min_value=1, max_value=4),
        canary=st.integers(min_value=0, max_value=12),
        rate=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    )
    def begin(
        self, planned: list[int], opened: set[int], max_open: int | None, canary: int, rate: float
    ) -> None:
        self.max_open, self.canary, self.rate = max_open, canary, rate
        self.waiting: dict[int, list[Pair]] = {}
        for each in pairs(*planned):
            self.waiting.setdefault(each.primary_id, []).append(each)
        self.open = {100 + of: pair(100 + of, of=of, state=PairState.STARTED) for of in opened}
        self.closed: set[int] = set()
        self.begun: set[int] = set()
        self.has_ended = False
        self.succeeded = 0
        self.failures = FailureStop(rate)
        for number in self.open:
            self.failures.start(number)
        self.stopped: StopReason | None = None
        self.queue = MergeQueue(
            pairs(*planned),
            self.open.values(),
            JobSettings(max_open=max_open, canary=canary, max_failure_rate=rate),
        )

    def may_start(self) -> set[int]:
        """Return the clusters of which a pair may start, by the model."""
        is_careful = self.canary and (
            2 * self.succeeded < self.canary or self.failures.nearness >= 0.1
        )
        bounds = [self.max_open] if self.max_open else []
        if is_careful:
            bounds.append(max(1, math.ceil(self.canary * (1 - self.failures.nearness))))
        if self.stopped or any(len(self.open) >= bound for bound in bounds):
            return set()
        busy = {each.primary_id for each in self.open.values()} | self.closed
        return {cluster for cluster, queue in self.waiting.items() if queue} - busy

    @rule()
    def take(self) -> None:
        queues = [self.waiting[cluster] for cluster in self.may_start()]
        started = self.queue.take()
        if not queues:
            assert started is None
            return
        next_queue = min(queues, key=lambda queue: (-len(queue), queue[0].number))
        assert started == next_queue.pop(0)
        assert started.number not in self.begun
        self.begun.add(started.number)
        self.failures.start(started.number)
        self.open[started.number] = started

    @precondition(lambda self: self.open)
    @rule(data=st.data(), state=st.sampled_from(ENDS), is_refusal=st.booleans())
    def end(self, data: st.DataObject, state: PairState, is_refusal: bool) -> None:
        ended = self.open.pop(data.draw(st.sampled_from(sorted(self.open))))
        self.has_ended = True
        if state is PairState.UNSETTLED:
            self.closed.add(ended.primary_id)
        if state is PairState.SUCCEEDED:
            self.succeeded += 1
            self.failures.succeed()
        elif state is PairState.FAILED or (state is PairState.REFUSED and is_refusal):
            self.failures.fail(ended.number)
        elif state is PairState.REFUSED:
            self.failures.take_back(ended.number)
        if self.failures.is_reached:
            self.stopped = self.stopped or StopReason.FAILURES
        self.queue.end(ended, state, is_refusal=is_refusal and state is PairState.REFUSED)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        back = self.open.pop(data.draw(st.sampled_from(sorted(self.open))))
        self.begun.discard(back.number)
        self.failures.take_back(back.number)
        self.waiting.setdefault(back.primary_id, []).insert(0, back)
        self.queue.put_back(back)

    @precondition(lambda self: self.open and self.stopped)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        left = self.open.pop(data.draw(st.sampled_from(sorted(self.open))))
        self.closed.add(left.primary_id)
        self.queue.leave()

    @precondition(lambda self: self.has_ended)
    @rule(reason=st.sampled_from(StopReason))
    def stop(self, reason: StopReason) -> None:
        self.stopped = self.stopped or reason
        self.queue.stop(reason)

    @invariant()
    def clusters_are_never_shared(self) -> None:
        """Two merges of one cluster are never open at the same time."""
        assert len({each.primary_id for each in self.open.values()}) == len(self.open)

    @invariant()
    def it_agrees_with_the_model(self) -> None:
        """Its counts are those of the model, and it reports an obstacle when no pair may start."""
        assert (self.queue.left, self.queue.open) == (
            sum(map(len, self.waiting.values())),
            len(self.open),
        )
        assert self.queue.stopped is self.stopped
        if not self.stopped:
            assert (self.queue.obstacle is None) is bool(self.may_start())

    @invariant()
    def it_is_over_when_nothing_can_happen(self) -> None:
        """It is over exactly when no pair is open and none may start."""
        assert self.queue.is_over is (not self.open and not self.may_start())


TestJob = Job.TestCase
TestJob.settings = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)


class TestWithdraw:
    def test_it_counts_as_open_and_holds_its_cluster(self) -> None:
        """A pair that is not to be started now keeps its cluster closed until it is put back."""
        queue = queue_of(1, 1, 2)
        first, second, third = queue.planned()
        assert queue.withdraw(second)
        assert (queue.left, queue.open) == (2, 1)
        assert queue.take() == third
        assert queue.take() is None
        queue.put_back(second)
        assert queue.take() == second
        assert first in queue.planned()

    def test_a_pair_that_was_taken(self) -> None:
        """A pair that was started meanwhile cannot be withdrawn."""
        queue = queue_of(1, 2)
        taken_pair = queue.take()
        assert taken_pair is not None
        assert not queue.withdraw(taken_pair)
        assert (queue.left, queue.open) == (1, 1)
