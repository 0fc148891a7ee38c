"""Evidence for indeterminate merges: found in the merge list, or proved absent."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aiotasks import CompanyMergeState, MergeState, PersonMergeState, TaskStatus
from aiotasks.dedupe._preview import survivor
from aiotasks.dedupe._run.indeterminate import (
    LATER_MERGE_AFTER,
    IndeterminateMerge,
    MergeListScan,
    OwnMerges,
)
from aiotasks.dedupe.models import LoggedTransition, Pair, PairState, Transition
from tests.profiles import examples


SENDING, STARTED, PLANNED = PairState.SENDING, PairState.STARTED, PairState.PLANNED
SETTLE_AFTER = 60.0


def pair(number: int) -> Pair:
    """Return a pair with ids that no other pair has."""
    return Pair(
        number=number, line=number, primary_id=number, duplicate_id=100 + number, state=SENDING
    )


def listed(merge_id: int, number: int, *, task: int | None = None) -> CompanyMergeState:
    """Return a merge of the server's list, with the ids of a pair and a task that no other has."""
    return CompanyMergeState(
        id=merge_id,
        status=TaskStatus.IN_PROGRESS,
        task_id=f"task-{task or merge_id}",
        primary_id=number,
        duplicate_id=100 + number,
    )


def task_url(merge_id: int) -> str:
    return f"https://x.example/v2/tasks/company-merges/task-{merge_id}"


def log_of(*transitions: tuple[int, PairState, int | None]) -> list[LoggedTransition]:
    """Return a log of transitions, each given as pair, state and the merge whose task it has."""
    return [
        LoggedTransition(
            seq=seq,
            transition=Transition(
                number=number,
                state=state,
                at=0.0,
                task_url=None if merge_id is None else task_url(merge_id),
            ),
        )
        for seq, (number, state, merge_id) in enumerate(transitions, 1)
    ]


# All pairs of these tests.
PAIRS = [pair(number) for number in range(1, 100)]


def own_of(*transitions: tuple[int, PairState, int | None]) -> OwnMerges:
    own = OwnMerges(PAIRS)
    own.apply(log_of(*transitions))
    return own


def indeterminate(number: int, *, ended: int, age: float = 0.0) -> IndeterminateMerge:
    return IndeterminateMerge(pair=pair(number), ended=ended, since=0.0, age=age)


def read(scan: MergeListScan, merges: Iterable[CompanyMergeState]) -> list[int]:
    """Read a list as far as the scan needs it, and return the ids that were read."""
    seen = []
    for merge in merges:
        seen.append(merge.id)
        if not scan.read(merge):
            return seen
    scan.end()
    return seen


def is_absent(scan: MergeListScan, wanted: IndeterminateMerge, *, now: float = 0.0) -> bool:
    return scan.is_absent(wanted, now=now, settle_after=SETTLE_AFTER)


class TestFound:
    def test_a_merge_without_an_answer_is_found(self) -> None:
        """The indeterminate merge has the ids of its pair and a task that this job never got."""
        wanted = indeterminate(1, ended=1)
        scan = MergeListScan(own_of((1, SENDING, None)), [wanted], anchor=None)
        assert read(scan, [listed(9, 2), listed(8, 1)]) == [9, 8]
        found = scan.found(wanted)
        assert found is not None
        assert found.id == 8

    def test_persons_too(self) -> None:
        """Merges of persons are identified like those of companies."""
        wanted = indeterminate(1, ended=1)
        scan = MergeListScan(own_of((1, SENDING, None)), [wanted], anchor=None)
        merge = PersonMergeState(
            id=8, status=TaskStatus.SUCCESS, task_id="8", primary_id=1, duplicate_id=101
        )
        assert scan.read(merge)
        assert scan.found(wanted) is merge

    def test_the_reverse_is_another_merge(self) -> None:
        """A merge of the same records the other way round is not the indeterminate one."""
        wanted = indeterminate(1, ended=1)
        scan = MergeListScan(own_of((1, SENDING, None)), [wanted], anchor=None)
        reverse = CompanyMergeState(
            id=8, status=TaskStatus.SUCCESS, task_id="8", primary_id=101, duplicate_id=1
        )
        assert read(scan, [reverse]) == [8]
        assert scan.found(wanted) is None

    def test_an_earlier_attempt_is_not_found(self) -> None:
        """An attempt that was answered is never taken for the indeterminate one."""
        own = own_of(
            (1, SENDING, None),
            (1, STARTED, 5),
            (1, PairState.FAILED, None),
            (1, PLANNED, None),
            (1, SENDING, None),
        )
        wanted = indeterminate(1, ended=5)
        scan = MergeListScan(own, [wanted], anchor=None)
        assert read(scan, [listed(5, 1), listed(4, 1)]) == [5]
        assert scan.found(wanted) is None

    def test_an_adopted_merge_is_not_found_again(self) -> None:
        """A merge that was found for an earlier attempt is not found again for a later one."""
        transitions = (
            (1, SENDING, None),
            (1, PairState.UNSETTLED, None),
            (1, STARTED, 5),
            (1, PairState.FAILED, None),
            (1, PLANNED, None),
            (1, SENDING, None),
        )
        wanted = indeterminate(1, ended=6)
        scan = MergeListScan(own_of(*transitions), [wanted], anchor=None)
        assert read(scan, [listed(7, 2), listed(5, 1)]) == [7, 5]
        assert scan.found(wanted) is None

    @pytest.mark.parametrize("others", [(), (2,)])
    def test_a_merge_older_than_the_request_is_not_found(self, others: tuple[int, ...]) -> None:
        """Another user's earlier merge is not found, however far back the list is read."""
        own = own_of((2, SENDING, None), (3, SENDING, None), (3, STARTED, 6))
        own.apply([LoggedTransition(seq=9, transition=Transition(number=1, state=SENDING, at=0.0))])
        wanted = indeterminate(1, ended=9)
        scan = MergeListScan(
            own, [wanted, *(indeterminate(each, ended=9) for each in others)], anchor=1
        )
        seen = read(scan, [listed(6, 3), listed(5, 1), listed(4, 2), listed(1, 8)])
        assert seen == ([6, 5, 4, 1] if others else [6])
        assert scan.found(wanted) is None
        assert is_absent(scan, wanted, now=SETTLE_AFTER)

    def test_the_newest_counts(self) -> None:
        """Of two merges with the same ids, the newest is the indeterminate one."""
        wanted = indeterminate(1, ended=1)
        scan = MergeListScan(own_of((1, SENDING, None)), [wanted], anchor=None)
        assert read(scan, [listed(9, 1), listed(8, 1)]) == [9, 8]
        found = scan.found(wanted)
        assert found is not None
        assert found.id == 9


class TestReading:
    def test_it_stops_at_a_merge_answered_before(self) -> None:
        """The scan ends at a merge answered before the first indeterminate one was sent."""
        own = own_of(
            (1, SENDING, None),
            (1, STARTED, 3),
            (2, SENDING, None),
            (3, SENDING, None),
            (3, STARTED, 5),
        )
        all_wanted = [indeterminate(2, ended=5)]
        scan = MergeListScan(own, all_wanted, anchor=None)
        assert read(scan, [listed(5, 3), listed(4, 9), listed(3, 1), listed(2, 8)]) == [5, 4, 3]

    def test_what_was_sent_before_may_be_newer(self) -> None:
        """A merge sent before the indeterminate one, but answered later, does not end the scan."""
        transitions = ((2, SENDING, None), (1, SENDING, None), (2, STARTED, 6))
        wanted = indeterminate(1, ended=3)
        scan = MergeListScan(own_of(*transitions), [wanted], anchor=None)
        assert read(scan, [listed(6, 2), listed(5, 1)]) == [6, 5]
        assert scan.found(wanted) is not None

    def test_a_merge_adopted_late_is_read_past(self) -> None:
        """How far the list has been read never decreases during a scan."""
        transitions = (
            (3, SENDING, None),
            (4, SENDING, None),
            (2, SENDING, None),
            (2, STARTED, 6),
            (1, SENDING, None),
            (4, STARTED, 5),
        )
        all_wanted = [indeterminate(1, ended=6), indeterminate(3, ended=6)]
        scan = MergeListScan(own_of(*transitions), all_wanted, anchor=None)
        assert scan.read(listed(6, 2))
        assert scan.read(listed(5, 4))
        assert is_absent(scan, all_wanted[0], now=SETTLE_AFTER)
        assert not is_absent(scan, all_wanted[1], now=SETTLE_AFTER)

    def test_it_stops_at_the_anchor(self) -> None:
        """The scan ends at the newest merge from before the job."""
        scan = MergeListScan(own_of((1, SENDING, None)), [indeterminate(1, ended=1)], anchor=7)
        assert read(scan, [listed(8, 2), listed(7, 3), listed(6, 1)]) == [8, 7]

    def test_without_indeterminate_merges_the_whole_list_is_read(self) -> None:
        """Without an indeterminate merge the whole list is read."""
        scan = MergeListScan(own_of(), [], anchor=None)
        assert read(scan, [listed(2, 1), listed(1, 1)]) == [2, 1]

    def test_a_log_can_be_applied_in_parts(self) -> None:
        """A log that is applied in parts has the same result as one applied as a whole."""
        log = log_of((1, SENDING, None), (1, STARTED, 5), (2, SENDING, None))
        own = OwnMerges(PAIRS)
        for logged in log:
            own.apply([logged])
            assert own.seq == logged.seq
        whole = own_of((1, SENDING, None), (1, STARTED, 5), (2, SENDING, None))
        assert own.sent == whole.sent == {1: 1, 2: 3}
        assert own.own(listed(5, 1)) == whole.own(listed(5, 1)) == (1, 2)
        assert own.own(listed(6, 1)) is None

    def test_findings_are_no_merges_of_this_job(self) -> None:
        """A pair that was merged before the job is no merge of this job."""
        own = own_of((1, PairState.SUCCEEDED, None), (2, STARTED, None))
        assert own.sent == {}
        assert own.own(listed(5, 1)) is None


class TestAbsent:
    def test_absent_after_settle_after(self) -> None:
        """A merge that the list does not have after ``settle_after`` is absent."""
        wanted = indeterminate(1, ended=1)
        scan = MergeListScan(own_of((1, SENDING, None)), [wanted], anchor=None)
        assert read(scan, [listed(9, 2)]) == [9]
        assert not is_absent(scan, wanted, now=SETTLE_AFTER - 1)
        assert is_absent(scan, wanted, now=SETTLE_AFTER)

    def test_the_time_of_an_earlier_process_counts(self) -> None:
        """The age of an indeterminate merge includes the time before this run."""
        wanted = indeterminate(1, ended=1, age=50.0)
        scan = MergeListScan(own_of((1, SENDING, None)), [wanted], anchor=None)
        scan.end()
        assert wanted.age_at(8.0) == 58.0
        assert not is_absent(scan, wanted, now=8.0)
        assert is_absent(scan, wanted, now=10.0)

    def test_absent_if_a_later_merge_is_listed(self) -> None:
        """If a merge is listed that was sent after the request ended, an unlisted one is absent."""
        transitions = ((1, SENDING, None), (2, SENDING, None), (2, STARTED, 9))
        wanted = indeterminate(1, ended=1)
        scan = MergeListScan(own_of(*transitions), [wanted], anchor=None)
        assert read(scan, [listed(9, 2)]) == [9]
        assert is_absent(scan, wanted, now=LATER_MERGE_AFTER)

    def test_a_later_merge_counts_only_after_a_delay(self) -> None:
        """A later merge counts only after a delay: a proxy may still forward a failed request."""
        transitions = ((1, SENDING, None), (2, SENDING, None), (2, STARTED, 9))
        wanted = indeterminate(1, ended=1)
        scan = MergeListScan(own_of(*transitions), [wanted], anchor=None)
        assert read(scan, [listed(9, 2)]) == [9]
        assert not is_absent(scan, wanted, now=LATER_MERGE_AFTER - 0.1)
        assert scan.is_absent(wanted, now=1.0, settle_after=1.0)

    def test_a_task_may_have_merges_of_others(self) -> None:
        """Other merges in a task of this job are not this job's, and are no evidence."""
        transitions = ((1, SENDING, None), (1, STARTED, 9), (2, SENDING, None))
        wanted = indeterminate(2, ended=3)
        scan = MergeListScan(own_of(*transitions), [wanted], anchor=None)
        batch = listed(10, 2, task=9)
        assert scan.read(listed(11, 50, task=9))
        assert scan.read(batch)
        assert not scan.read(listed(9, 1))
        assert scan.found(wanted) == batch

    def test_a_merge_sent_meanwhile_proves_nothing(self) -> None:
        """A merge that was sent before the request ended is no evidence."""
        transitions = ((1, SENDING, None), (2, SENDING, None), (2, STARTED, 9))
        wanted = indeterminate(1, ended=2)
        scan = MergeListScan(own_of(*transitions), [wanted], anchor=None)
        assert read(scan, [listed(9, 2)]) == [9]
        assert not is_absent(scan, wanted)

    def test_half_a_list_proves_nothing(self) -> None:
        """Before the list is read back far enough, nothing is absent."""
        transitions = ((1, SENDING, None), (2, SENDING, None), (2, STARTED, 9))
        wanted = indeterminate(1, ended=1)
        scan = MergeListScan(own_of(*transitions), [wanted], anchor=None)
        assert not is_absent(scan, wanted, now=SETTLE_AFTER)
        assert scan.read(listed(9, 2))
        assert not is_absent(scan, wanted, now=SETTLE_AFTER)
        scan.end()
        assert is_absent(scan, wanted, now=LATER_MERGE_AFTER)

    def test_a_listed_merge_is_not_absent(self) -> None:
        """A merge in the list is not absent, however old it is."""
        wanted = indeterminate(1, ended=1)
        scan = MergeListScan(own_of((1, SENDING, None)), [wanted], anchor=None)
        assert read(scan, [listed(9, 1)]) == [9]
        assert not is_absent(scan, wanted, now=1000.0)

    def test_a_merge_not_in_the_log_is_never_absent(self) -> None:
        """A merge without SENDING in the log is never absent, as it can be anywhere in the list."""
        wanted = indeterminate(1, ended=1)
        scan = MergeListScan(own_of(), [wanted], anchor=None)
        assert read(scan, []) == []
        assert not is_absent(scan, wanted, now=1000.0)


class TestSurvivor:
    @pytest.mark.parametrize(
        ("record_id", "merged_into", "expected"),
        [
            (1, {}, 1),
            (1, {1: 2}, 2),
            (1, {1: 2, 2: 3}, 3),
            (1, {1: None}, None),
            (1, {1: 2, 2: None}, None),
        ],
    )
    def test_chains_are_followed(
        self, record_id: int, merged_into: dict[int, int | None], expected: int | None
    ) -> None:
        """A record survives as the last record of its chain, or is gone."""
        assert survivor(record_id, merged_into) == expected

    def test_a_cycle_ends(self) -> None:
        """Contradictory answers of the server cause no endless loop."""
        assert survivor(1, {1: 2, 2: 3, 3: 2}) in {2, 3}


@dataclass
class Listed:
    """A merge at the server, and when it was started there."""

    state: CompanyMergeState
    started: float


@dataclass
class Attempt:
    """A request of this job, with its merge at the server if it arrived."""

    pair: Pair
    merge: CompanyMergeState | None = None
    is_over: bool = False
    has_answer: bool = False
    wanted: IndeterminateMerge | None = None


def some_of(data: st.DataObject, numbers: list[int]) -> list[int]:
    """Draw a few of the numbers, in any order."""
    return data.draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=3, unique=True))


class Server(RuleBasedStateMachine):
    """Requests of a job, answered or not, at a server with a lagging list and merges of others.

    Several requests are in flight at a time, and end in any order. The process may
    crash and resume with the log that it has written.
    """

    @initialize(
        lag=st.integers(min_value=0, max_value=40),
        before=st.lists(st.integers(min_value=1, max_value=6), max_size=4),
        wait=st.booleans(),
    )
    def begin(self, lag: int, before: list[int], wait: bool) -> None:
        self.lag = float(lag)
        self.now = 0.0
        self.merges: list[Listed] = []
        self.log: list[LoggedTransition] = []
        self.own = OwnMerges(PAIRS)
        self.states = dict.fromkeys(range(1, 11), PLANNED)
        self.attempts: dict[int, Attempt] = {}
        for number in before:
            # Some may be merges of the same records. The anchor distinguishes them from the job's.
            _ = self.start(number if wait else 50)
        self.now += self.lag if wait else 0.0
        self.anchor = next((merge.id for merge in self.visible(self.now)), None)

    def start(self, number: int) -> CompanyMergeState:
        merge = listed(len(self.merges) + 1, number)
        self.merges.append(Listed(merge, self.now))
        return merge

    def visible(self, at: float) -> list[CompanyMergeState]:
        """Return the list as it is at a time if nothing happens until then, newest first."""
        return [each.state for each in reversed(self.merges) if each.started + self.lag <= at]

    def write(self, number: int, state: PairState, merge: MergeState | None = None) -> None:
        url = None if merge is None else task_url(merge.id)
        transition = Transition(number=number, state=state, at=self.now, task_url=url)
        self.log.append(LoggedTransition(seq=len(self.log) + 1, transition=transition))
        self.states[number] = state

    def attempts_that(self, **what: Any) -> list[int]:
        return sorted(
            number
            for number, attempt in self.attempts.items()
            if all(getattr(attempt, name) == value for name, value in what.items())
        )

    def pairs_in(self, *states: PairState) -> list[int]:
        return [number for number, state in self.states.items() if state in states]

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 30.0]), others=st.booleans())
    def pass_time(self, seconds: float, others: bool) -> None:
        self.now += seconds
        if others:
            _ = self.start(50)

    @precondition(lambda self: self.pairs_in(PLANNED))
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        for number in some_of(data, self.pairs_in(PLANNED)):
            self.write(number, SENDING)
            self.attempts[number] = Attempt(pair(number))

    @precondition(lambda self: self.attempts_that(is_over=False, merge=None))
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        for number in some_of(data, self.attempts_that(is_over=False, merge=None)):
            self.attempts[number].merge = self.start(number)

    @precondition(lambda self: self.attempts_that(is_over=False))
    @rule(data=st.data(), is_lost=st.booleans())
    def answer(self, data: st.DataObject, is_lost: bool) -> None:
        for number in some_of(data, self.attempts_that(is_over=False)):
            attempt = self.attempts[number]
            attempt.is_over = True
            if attempt.merge is None or is_lost:
                attempt.wanted = IndeterminateMerge(
                    pair=attempt.pair, ended=len(self.log), since=self.now
                )
            else:
                attempt.has_answer = True
                self.write(number, STARTED, attempt.merge)

    @precondition(lambda self: self.pairs_in(STARTED))
    @rule(data=st.data())
    def fail_and_plan_again(self, data: st.DataObject) -> None:
        for number in some_of(data, self.pairs_in(STARTED)):
            self.write(number, PairState.FAILED)
            self.write(number, PLANNED)

    @precondition(lambda self: len(self.attempts_that(is_over=False)) > 1)
    @rule()
    def crash(self) -> None:
        """End the process: unanswered merges become indeterminate, the others are in the log."""
        self.own = OwnMerges(PAIRS)
        for attempt in self.attempts.values():
            if not attempt.has_answer:
                attempt.is_over = True
                attempt.wanted = IndeterminateMerge(
                    pair=attempt.pair, ended=len(self.log), since=self.now
                )

    def all_wanted(self) -> dict[int, IndeterminateMerge]:
        return {
            number: attempt.wanted
            for number, attempt in self.attempts.items()
            if attempt.wanted is not None and not attempt.has_answer
        }

    def scan_at(self, at: float) -> tuple[MergeListScan, list[CompanyMergeState]]:
        self.own.apply(self.log[self.own.seq :])
        scan = MergeListScan(self.own, self.all_wanted().values(), anchor=self.anchor)
        visible = self.visible(at)
        _ = read(scan, visible)
        return scan, visible

    @precondition(lambda self: self.all_wanted())
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """Record what the list proves about some of the indeterminate merges."""
        all_wanted = self.all_wanted()
        scan, _ = self.scan_at(self.now)
        for number in some_of(data, sorted(all_wanted)):
            if merge := scan.found(all_wanted[number]):
                self.write(number, STARTED, merge)
                self.attempts[number].has_answer = True
            elif scan.is_absent(all_wanted[number], now=self.now, settle_after=self.lag + 1):
                self.write(number, PLANNED)
                del self.attempts[number]

    @invariant()
    def the_evidence_is_correct(self) -> None:
        """Exactly the listed merges are found, and only merges that never started are absent.

        After ``settle_after``, a merge that never started is absent.
        """
        after = self.lag + 1
        for at in (self.now, self.now + after):
            scan, visible = self.scan_at(at)
            for number, wanted in self.all_wanted().items():
                merge = self.attempts[number].merge
                assert scan.found(wanted) is (merge if merge in visible else None)
                is_absent = scan.is_absent(wanted, now=at, settle_after=after)
                assert not (is_absent and merge is not None)
                assert is_absent or merge is not None or wanted.age_at(at) < after


TestServer = Server.TestCase
TestServer.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)
