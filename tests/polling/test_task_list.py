"""Which page is worth polling, and where the scan continues."""

import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiotasks._http.urls import TaskRef
from aiotasks._http.wire import Page, Request, list_tasks
from aiotasks._polling.missing import MissingTasks
from aiotasks._polling.pending import MIN_DUE, ListPage, PendingTask, Phase, WaitOptions
from aiotasks._polling.started import StartedTasks
from aiotasks._polling.task_list import TaskList
from aiotasks.models import Kind, MergeTask
from tests.profiles import examples


# How long Hypothesis takes to make examples depends on the machine.
SLOW = [HealthCheck.too_slow]

OPTIONS = WaitOptions(1000.0, lambda state: 1.0, lambda pending, outcome: None)
Listing = Request[Page[MergeTask]]
FIRST = list_tasks("company")


def listing(name: str) -> Listing:
    return Request("GET", f"/v2/tasks/company-merges?cursor={name}", FIRST.decoder)


def pending(
    name: str = "a",
    *,
    polled_at: float = 0.0,
    phase: Phase = Phase.DUE,
    due_at: float | None = None,
) -> PendingTask:
    made = PendingTask(TaskRef("company", name), name, OPTIONS, now=polled_at, index=0)
    made.phase = phase
    if due_at is not None:
        made.due_at = due_at
    return made


def list_page(*pendings: PendingTask, created_at: float = 0.0) -> ListPage:
    made = ListPage("company", listing("x"), created_at)
    for each in pendings:
        made.join(each)
    return made


class TestMembers:
    def test_joining_and_leaving(self) -> None:
        """A page counts its tasks, and those that are due."""
        due, in_flight = pending("a"), pending("b", phase=Phase.IN_FLIGHT)
        later, failed = pending("c", phase=Phase.WAITING), pending("d", phase=Phase.FETCHING_REASON)
        page = list_page(due, in_flight, later, failed)
        assert (page.size, page.due) == (4, 2)
        assert page.tasks() == [due, in_flight, later, failed]
        page.leave(due)
        page.leave(later)
        assert (page.size, page.due) == (2, 1)
        assert page.tasks() == [in_flight, failed]
        assert (due.page, in_flight.page) == (None, page)

    def test_a_task_is_on_one_page(self) -> None:
        """A task that joins a page leaves the one it was on."""
        moved = pending()
        before, after = list_page(moved), list_page()
        after.join(moved)
        assert (before.size, before.due, before.tasks()) == (0, 0, [])
        assert (after.size, after.due, after.tasks()) == (1, 1, [moved])

    def test_entries_of_former_tasks_are_not_kept(self) -> None:
        """However many join and leave, a page keeps hardly more entries than it has tasks."""
        page, stays = list_page(), pending("stays")
        page.join(stays)
        for number in range(2000):
            leaving = pending(str(number))
            page.join(leaving)
            page.leave(leaving)
            assert len(page.members) <= 2 * page.size + 256 + 1
        assert page.tasks() == [stays]


class TestPriority:
    def test_one_task(self) -> None:
        """The priority of a task is the square of the time since its last poll."""
        assert pending(polled_at=3.0).priority(10.0) == 49
        assert list_page(pending(polled_at=3.0)).priority(10.0) == 49

    def test_nothing_due_is_worth_nothing(self) -> None:
        """A page without a due task has no priority, however many tasks are on it."""
        assert list_page().priority(100.0) == 0
        assert (
            list_page(*(pending(str(n), phase=Phase.WAITING) for n in range(9))).priority(100.0)
            == 0
        )

    @given(
        created_at=st.floats(0, 1e5),
        polled_at=st.lists(st.floats(0, 1e5), min_size=1, max_size=100),
        left=st.integers(0, 99),
    )
    @settings(max_examples=examples(100), deadline=None, suppress_health_check=SLOW)
    def test_it_is_the_sum_of_its_tasks(
        self, created_at: float, polled_at: list[float], left: int
    ) -> None:
        """The priority of a page is the sum of its due tasks, whichever joined and left before."""
        page = list_page(
            *(pending(str(n), polled_at=when) for n, when in enumerate(polled_at)),
            created_at=created_at,
        )
        for each in page.tasks()[:left]:
            page.leave(each)
        expected = sum(each.priority(2e5) for each in page.tasks())
        assert page.priority(2e5) == pytest.approx(expected, rel=1e-6, abs=1)

    def test_a_page_shows_a_hundred(self) -> None:
        """Of the tasks that a page might show, no more than a hundred count."""
        page = list_page(*(pending(str(number)) for number in range(400)))
        assert page.priority(10.0) == pytest.approx(100 * 100)


class TestIsWorthPolling:
    @pytest.mark.parametrize(
        ("due", "soon", "others", "is_worth_polling"),
        [(0, 0, 9, False), (1, 0, 9, False), (2, 0, 0, True), (1, 1, 0, True), (0, 2, 1, True)],
    )
    def test_two_that_are_due_or_nearly(
        self, due: int, soon: int, others: int, is_worth_polling: bool
    ) -> None:
        """A page is worth polling when two of its tasks are due, or due soon."""
        assert MIN_DUE == 2
        page = list_page(
            *(pending(f"due {n}") for n in range(due)),
            *(pending(f"soon {n}", phase=Phase.WAITING, due_at=10.0) for n in range(soon)),
            *(pending(f"late {n}", phase=Phase.WAITING, due_at=11.0) for n in range(others)),
        )
        assert page.is_worth_polling(8.0) is is_worth_polling

    @pytest.mark.parametrize(
        ("now", "is_soon"), [(15.9, False), (16.0, True), (19.0, True), (20.0, True)]
    )
    def test_when_a_task_is_due_soon(self, now: float, is_soon: bool) -> None:
        """A task may be polled when a fifth of its interval is left."""
        assert pending(polled_at=0.0, phase=Phase.WAITING, due_at=20.0).is_due_soon(now) is is_soon

    @pytest.mark.parametrize("phase", [each for each in Phase if each is not Phase.WAITING])
    def test_only_a_waiting_task_is_due_soon(self, phase: Phase) -> None:
        """A task that is due, in flight, failed or done is not due soon."""
        assert not pending(phase=phase, due_at=20.0).is_due_soon(20.0)

    def test_a_task_that_left_is_not_counted(self) -> None:
        """A task that is on another page now does not count."""
        moved = pending("moved", phase=Phase.WAITING, due_at=0.0)
        page = list_page(pending("due"), moved)
        list_page().join(moved)
        assert not page.is_worth_polling(100.0)


def task_list(kind: Kind = "company") -> TaskList:
    started = StartedTasks()
    return TaskList(kind, started, MissingTasks(started))


def add_page(known: TaskList, name: str, *pendings: PendingTask, now: float = 0.0) -> ListPage:
    known.scan.request = listing(name)
    opened = known.page_for(known.scan, now)
    for each in pendings:
        opened.join(each)
    _ = known.advance_scan(None, is_worth_it=True)
    return opened


class TestBest:
    def test_nothing_is_worth_it(self) -> None:
        """One due task alone makes no page worth a call."""
        known = task_list()
        assert known.best_page(0.0) is None
        known.scan.join(pending())
        assert known.best_page(0.0) is None

    def test_the_highest_priority(self) -> None:
        """The page with the highest priority is polled, the scan among them."""
        known = task_list()
        old = add_page(known, "old", pending("a"), pending("b"))
        assert known.best_page(10.0) is old
        new = add_page(known, "new", *(pending(str(n), polled_at=5.0) for n in range(9)))
        assert known.best_page(10.0) is new
        assert known.best_page(100.0) is new
        for number in range(50):
            known.scan.join(pending(f"scan {number}"))
        assert known.best_page(100.0) is known.scan

    def test_a_page_in_flight_is_skipped(self) -> None:
        """A page in flight is not polled again."""
        known = task_list()
        old = add_page(known, "old", pending("a"), pending("b"))
        old.is_in_flight = True
        assert known.best_page(10.0) is None


class TestScan:
    def test_from_the_newest_page_down(self) -> None:
        """The scan starts at the newest page, follows the links while it is worth it, and restarts."""
        known = task_list()
        assert known.scan.request == FIRST
        assert known.advance_scan(listing("2"), is_worth_it=True)
        assert known.scan.request == listing("2")
        assert known.advance_scan(listing("3"), is_worth_it=True)
        assert known.scan.request == listing("3")
        assert not known.advance_scan(listing("4"), is_worth_it=False)
        assert known.scan.request == FIRST

    def test_the_end_of_the_list(self) -> None:
        """At the end of the list the scan ends, however much it found."""
        known = task_list()
        assert known.advance_scan(listing("2"), is_worth_it=True)
        assert not known.advance_scan(None, is_worth_it=True)
        assert known.scan.request == FIRST

    def test_the_newest_page_stays_with_the_scan(self) -> None:
        """The newest page shifts, so it is not kept; a poll of it begins a scan."""
        known = task_list()
        assert known.page_for(known.scan, 7.0) is known.scan
        assert (known.scan_began, known.pages) == (7.0, [])

    def test_a_page_below_is_kept(self) -> None:
        """A page further down is anchored at a task: it is kept, and polled again as it is."""
        known = task_list("person")
        _ = known.page_for(known.scan, 1.0)
        assert known.advance_scan(listing("2"), is_worth_it=True)
        found = known.page_for(known.scan, 2.0)
        assert found is not known.scan
        assert known.pages == [found]
        assert (found.kind, found.request, found.created_at) == ("person", listing("2"), 2.0)
        assert known.scan_began == 1.0
        assert known.page_for(found, 3.0) is found
        assert known.pages == [found]

    def test_a_page_that_is_forgotten(self) -> None:
        """A page on which nothing is pending after its poll is forgotten; the others are kept."""
        known = task_list()
        kept = add_page(known, "2", pending())
        empty = add_page(known, "3")
        result = known.apply_page(empty, None, 0.0, answered=2)
        assert known.pages == [kept]
        assert result == ([], [], set())

    def test_tasks_not_yet_scanned(self) -> None:
        """Due tasks that were not polled since the scan began are not yet scanned."""
        known = task_list()
        old, in_flight = (
            pending("a", polled_at=1.0),
            pending("b", polled_at=1.0, phase=Phase.IN_FLIGHT),
        )
        new = pending("new", polled_at=5.0)
        above, seen = pending("above", polled_at=6.0), pending("seen", polled_at=5.0)
        seen.answers = 1
        later = pending("later", polled_at=1.0, phase=Phase.WAITING)
        left = pending("left", polled_at=1.0)
        for each in (left, old, seen, in_flight, above, later, new):
            known.scan.join(each)
        list_page().join(left)
        _ = known.page_for(known.scan, 5.0)
        assert known.not_yet_scanned() == [old, in_flight, new]
        assert known.not_yet_scanned(1) == [old]

    def test_what_is_not_shown_waits_while_gets_are_refused(self) -> None:
        """While GETs are refused, tasks that the list does not show wait for their next poll."""
        known = task_list()
        unseen = pending("a", phase=Phase.DUE)
        known.scan.join(unseen)
        for now in range(5):
            known.checks.note_refusal(now * 2.0, is_list=False)
        assert known.page_for(known.scan, 10.0) is known.scan
        result = known.apply_page(known.scan, None, 10.0, answered=0)
        assert result == ([unseen], [unseen], set())
        known.checks.note_refusal(11.0, is_list=True)
        assert not known.are_gets_paused(11.0)


class TestSuspension:
    def test_three_that_are_not_worth_it(self) -> None:
        """After three polls in a row that were not worth it, the list is suspended for a minute."""
        known = task_list()
        for _ in range(2):
            known.record_poll(0.0, was_worth_it=False)
        known.record_poll(0.0, was_worth_it=True)
        for _ in range(2):
            known.record_poll(0.0, was_worth_it=False)
        assert not known.is_suspended(0.0)
        known.record_poll(10.0, was_worth_it=False)
        assert known.is_suspended(10.0)
        assert known.is_suspended(69.9)
        assert not known.is_suspended(70.0)

    def test_a_suspended_list_is_not_read(self) -> None:
        """However many are due, no page of a suspended list is polled."""
        known = task_list()
        for name in "abc":
            known.scan.join(pending(name))
        add_page(known, "2", pending("x"), pending("y"))
        known.suspend(0.0)
        assert known.best_page(59.0) is None
        assert known.best_page(60.0) is not None

    def test_each_suspension_is_longer(self) -> None:
        """A list that is still not worth it is tried by one page, and ever more rarely."""
        known, now, suspensions = task_list(), 0.0, []
        known.suspend(now)
        for _ in range(6):
            start = now
            while known.is_suspended(now):
                now += 1
            suspensions.append(now - start)
            known.record_poll(now, was_worth_it=False)
        assert suspensions == [60, 120, 240, 480, 900, 900]

    def test_a_list_that_is_worth_it_again(self) -> None:
        """One page that is worth it resets the suspensions."""
        known = task_list()
        known.suspend(0.0)
        known.suspend(100.0)
        known.record_poll(500.0, was_worth_it=True)
        for _ in range(2):
            known.record_poll(500.0, was_worth_it=False)
        assert not known.is_suspended(500.0)
        known.record_poll(500.0, was_worth_it=False)
        assert known.is_suspended(559.0)
        assert not known.is_suspended(560.0)

    def test_a_search_ends_a_suspension_for_waste(self) -> None:
        """A list that showed too few tasks is read again for one that a GET did not find."""
        known, lost = task_list(), pending("a")
        for _ in range(3):
            known.record_poll(0.0, was_worth_it=False)
        assert known.is_suspended(0.0)
        known.search(lost)
        assert not known.is_suspended(0.0)
        assert known.scan.tasks() == [lost]

    def test_no_search_ends_a_suspension_for_a_refusal(self) -> None:
        """A list that was refused stays suspended, whatever is looked for."""
        known = task_list()
        _ = known.apply_refusal(known.scan, 0.0)
        known.search(pending("a"))
        assert known.is_suspended(59.0)

    def test_a_suspension_ends_the_scan(self) -> None:
        """After a suspension the scan starts at the newest page."""
        known = task_list()
        _ = known.advance_scan(listing("2"), is_worth_it=True)
        known.suspend(0.0)
        assert known.scan.request == FIRST

    def test_one_line_each_way(self, caplog: pytest.LogCaptureFixture) -> None:
        """A suspension is logged once, and its end once."""
        caplog.set_level(logging.INFO, logger="aiotasks")
        known = task_list("person")
        known.record_poll(0.0, was_worth_it=True)
        for _ in range(9):
            known.record_poll(0.0, was_worth_it=False)
        assert caplog.messages == [
            "The list of person merge tasks is not worth its calls: polling each task"
        ]
        caplog.clear()
        for _ in range(3):
            known.record_poll(0.0, was_worth_it=True)
        assert caplog.messages == ["The list of person merge tasks is worth its calls again"]


@pytest.mark.parametrize("kind", ["company", "person"])
def test_each_kind_has_a_list(kind: Kind) -> None:
    """The scan starts at the newest page of its own kind."""
    assert task_list(kind).scan.request == list_tasks(kind)
