"""The task list of one kind: the scan from its newest page, and the pages that are worth a call.

A page answers up to a hundred tasks for the price of one GET. New tasks are found by a scan from
the newest page down. The API's links to further pages are anchored at a task (see Pagination in
https://developer.affinity.co/docs/v2), so a page that was found once can be polled again without
a scan. Only what a page shows counts: a guess that is wrong costs a call, never a result.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from aiotasks._http.wire import Page, Request, list_tasks
from aiotasks.models import Kind, MergeTask

from .cross_checks import CrossChecks
from .missing import PATIENCE, MissingTasks
from .pending import MIN_DUE, ListPage, PendingTask
from .started import StartedTasks


_log = logging.getLogger("aiotasks")


# Choices, not measured: a list that never shows our tasks costs 3 calls at first, and later one
# each 15 minutes.
_MAX_WASTED = 3
_FIRST_SUSPENSION = 60.0
_LONGEST_SUSPENSION = 900.0
# A choice: when a search of the list left tasks to GETs, it is not searched again for so long.
_SEARCH_PAUSE = 60.0
# A choice: so many GETs are worth the certainty that a list is not wrong.
_FEW_LOST = 5
# A choice: half of the time for which a task may be missing.
_LOST_SOON = PATIENCE / 2


class ScanResult(NamedTuple):
    """What a poll of a page leaves to do.

    ``later`` are tasks that the list may not show yet: they wait for their next poll. ``requeue``
    are tasks of which some still wait for an answer: these are due again. ``lost`` are tasks that a
    GET did not find before, and the complete list does not show.
    """

    later: list[PendingTask]
    requeue: list[PendingTask]
    lost: set[PendingTask]


class TaskList:
    """What is known of one kind's list.

    ``scan`` is a page whose request moves down the list. It has the tasks that no page has shown
    yet, and those on the newest page, whose contents shift. ``pages`` are the anchored ones.
    A list that is not worth its calls is suspended, and tried again after ever longer times.
    """

    def __init__(self, kind: Kind, started: StartedTasks, missing: MissingTasks) -> None:
        self.scan = ListPage(kind, list_tasks(kind), 0.0)
        self.scan_began = 0.0
        self.pages: list[ListPage] = []
        self._started = started
        self._missing = missing
        self.checks = CrossChecks(kind)
        # What the current scan has read, how many pages of it in vain, and the tasks it answered.
        self._read: set[Request[Page[MergeTask]]] = set()
        self._in_vain = 0
        self._answered = 0
        self._no_search_until = 0.0
        self._first = self.scan.request
        self._wasted = 0
        self._suspension = _FIRST_SUSPENSION
        self._suspended_until = 0.0
        self._is_suspended_as_wasted = False

    def is_suspended(self, now: float) -> bool:
        """Return True while no page of the list is to be polled."""
        return now < self._suspended_until

    def are_gets_paused(self, now: float) -> bool:
        """Return True while tasks are polled by the list alone, as GETs are refused."""
        return self.checks.are_gets_paused(now) and not self.is_suspended(now)

    def page_of(self, pending: PendingTask, now: float) -> ListPage | None:
        """Return the page that a task is on, if that is worth polling now."""
        page = pending.page
        if page is None or self.is_suspended(now):
            return None
        return page if page.is_worth_polling(now) else None

    def needs_get(self, pending: PendingTask, now: float) -> bool:
        """Return True if a task is to be polled by GET now, although a page would show it."""
        if self.are_gets_paused(now):
            return False
        return pending.needs_get or self.checks.take_check(pending, now)

    def best_page(self, now: float) -> ListPage | None:
        """Return the page with the highest priority of those that are worth polling."""
        if self.is_suspended(now):
            return None
        candidates = [
            page
            for page in (self.scan, *self.pages)
            if page.due >= MIN_DUE and not page.is_in_flight
        ]
        return max(candidates, key=lambda page: page.priority(now), default=None)

    def page_for(self, page: ListPage, now: float) -> ListPage:
        """Return the page that the tasks shown by a poll of ``page`` belong to."""
        if page is not self.scan:
            return page
        if page.request == self._first:
            self.scan_began = now
            self._read.clear()
            self._in_vain = self._answered = 0
            return page
        found = ListPage(page.kind, page.request, now)
        # Pages become empty without a poll, too, when their tasks are discarded.
        self.pages = [other for other in self.pages if other.size or other.is_in_flight]
        self.pages.append(found)
        return found

    def apply_page(
        self,
        page: ListPage,
        following: Request[Page[MergeTask]] | None,
        now: float,
        *,
        answered: int,
    ) -> ScanResult:
        """Decide what becomes of the tasks that a poll of ``page`` has not shown.

        ``answered`` is how many tasks the poll has answered, ``following`` the next page.
        """
        page.is_unreadable = False
        if page is not self.scan:
            was_worth_it = answered >= MIN_DUE
            missing = [pending for pending in page.tasks() if pending.is_due]
            self._move_to_scan(page, missing)
            result = ScanResult([], missing, set())
        else:
            self._read.add(page.request)
            self._in_vain += not answered
            self._answered += answered
            below = self._worth_a_page(now)
            if self.advance_scan(following, is_worth_it=bool(below)):
                # One queued task keeps the scan going. To queue them all gives the same polls, but
                # costs O(n) for each page.
                return ScanResult([], below[:1], set())
            missing, result = self._end_scan(now, is_complete=following is None)
            if missing and self._in_vain > 1:
                self._no_search_until = now + _SEARCH_PAUSE
            was_worth_it = self._answered > len(self._read) or len(result.lost) >= MIN_DUE
        if was_worth_it or missing:
            self.record_poll(now, was_worth_it=was_worth_it)
        return result

    def apply_refusal(self, page: ListPage, now: float) -> list[PendingTask]:
        """Suspend a list that was refused, or drop a page below; return the tasks to requeue."""
        tasks = page.tasks()
        if page is self.scan:
            self.suspend(now)
        else:
            # Only this link has become invalid: a new scan finds its tasks.
            self._move_to_scan(page, tasks)
        return tasks

    def _move_to_scan(self, page: ListPage, tasks: list[PendingTask]) -> None:
        for pending in tasks:
            self.scan.join(pending)
        if not page.size:
            self.pages = [other for other in self.pages if other is not page]

    def not_yet_scanned(self, most: int | None = None) -> list[PendingTask]:
        """Return the due tasks that the current scan has not found yet.

        A task that was polled or added since the scan began is above the pages to come.
        """
        # A task added in the very moment in which the scan began has no answer: it is still below.
        began = (self.scan_began, 1)
        due = (p for p in self.scan.members if p.page is self.scan and p.is_due)
        found = (p for p in due if (p.polled_at, p.answers) < began)
        return list(islice(_unique(found), most))

    def advance_scan(
        self, following: Request[Page[MergeTask]] | None, *, is_worth_it: bool
    ) -> bool:
        """Move the scan to the next page, or back to the newest; return True if it goes on."""
        # A page that was read before would lead round in circles.
        if not is_worth_it or following is None or following in self._read:
            self.scan.request = self._first
            return False
        self.scan.request = following
        return True

    def _worth_a_page(self, now: float) -> list[PendingTask]:
        # The due tasks that are worth the next page, if there are enough. Tasks that the list does
        # not show yet are not below.
        if not self._in_vain:
            due = self.not_yet_scanned(MIN_DUE)
            return due if len(due) >= MIN_DUE else []
        due = [each for each in self.not_yet_scanned() if not self._is_to_come(each, now)]
        return due if self._is_search_worth_it(due, now) else []

    def _is_search_worth_it(self, due: Sequence[PendingTask], now: float) -> bool:
        # Tasks that may be lost would each cost a GET if the list were not read to its end.
        lost = sum(self._missing.is_over(pending, now) for pending in due)
        if lost >= MIN_DUE * len(self._read):
            return True
        # A search costs less than a GET of each, the next page included. Each one in vain halves
        # what the next may cost.
        return now >= self._no_search_until and len(due) >> self._wasted > self._in_vain + 1

    def _end_scan(self, now: float, *, is_complete: bool) -> tuple[list[PendingTask], ScanResult]:
        self.scan.members = self.scan.tasks()
        unseen = self.not_yet_scanned()
        missing = [pending for pending in unseen if not self._may_wait(pending, now)]
        lost = self._lost(now) if is_complete else set()
        for pending in missing:
            self.scan.leave(pending)
        later = [*unseen, *self._due_soon(now)]
        later = [each for each in later if self._may_wait(each, now) and each not in lost]
        return missing, ScanResult(later, [*missing, *self.scan.tasks()], lost)

    def _lost(self, now: float) -> set[PendingTask]:
        # What a complete list does not show need not be looked for again. A few tasks are asked for
        # once more, as a list may be empty by mistake.
        soon = now + _LOST_SOON
        lost = {each for each in self.scan.members if self._missing.is_over(each, soon)}
        return lost if len(lost) > _FEW_LOST else set()

    def _due_soon(self, now: float) -> list[PendingTask]:
        # New tasks that were started one after the other would each poll the same page, which lags
        # for all of them. Measured: benchmarks/ablation.py, "no sharing of a lagging list".
        return [p for p in self.scan.members if p.page is self.scan and p.is_due_soon(now)]

    def _may_wait(self, pending: PendingTask, now: float) -> bool:
        # The list lags: a task that was started just now gets time to appear in it, and so does one
        # that a GET did not find, unless a caller waits for this one alone.
        if self.are_gets_paused(now):
            return True
        return self._is_to_come(pending, now) and not pending.options.is_urgent

    def _is_to_come(self, pending: PendingTask, now: float) -> bool:
        return self._started.is_recent(pending.ref, now) or (
            pending.ref in self._missing and not self._missing.is_over(pending, now)
        )

    def record_poll(self, now: float, *, was_worth_it: bool) -> None:
        """Suspend the list after several polls in a row that were not worth their call."""
        if not was_worth_it:
            self._wasted += 1
            if self._wasted >= _MAX_WASTED:
                self.suspend(now)
                self._is_suspended_as_wasted = True
            return
        if self._suspension > _FIRST_SUSPENSION:
            _log.info("The list of %s merge tasks is worth its calls again", self.scan.kind)
        self._wasted, self._suspension = 0, _FIRST_SUSPENSION

    def search(self, pending: PendingTask) -> None:
        """Look for a task in the list that a GET did not find, and so do not blame the list for it."""
        self._wasted = 0
        if self._is_suspended_as_wasted:
            self._suspended_until = 0.0
        if pending.page is None:
            self.scan.join(pending)

    def suspend(self, now: float) -> None:
        """Poll no page of the list for a while, which doubles each time."""
        if self._suspension == _FIRST_SUSPENSION:
            _log.info(
                "The list of %s merge tasks is not worth its calls: polling each task",
                self.scan.kind,
            )
        self._is_suspended_as_wasted = False
        self._suspended_until = now + self._suspension
        self._suspension = min(self._suspension * 2, _LONGEST_SUSPENSION)
        # Afterwards, one page is enough to find out whether that has changed.
        self._wasted = _MAX_WASTED - 1
        self.scan.request = self._first


def _unique(members: Iterable[PendingTask]) -> Iterator[PendingTask]:
    # A task that left a page and came back has two entries.
    seen = set[PendingTask]()
    for pending in members:
        if pending not in seen:
            seen.add(pending)
            yield pending
