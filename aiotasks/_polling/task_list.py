"""Where pending tasks stand in the lists, and which page is worth a call.

A page answers a hundred tasks for the price of one. New tasks are found by walking down a list
from its newest page. Links to further pages are anchored at a task, so a page that was found once
can be asked for again without the walk: such a page is a ``ListPage``. Only what a page shows counts,
so a wrong guess costs a call and nothing else.
"""

import logging
from itertools import islice

from aiotasks._http.wire import Page, Request, list_tasks
from aiotasks.models import Kind, MergeTask

from .pending import MIN_DUE, ListPage, PendingTask


_log = logging.getLogger("aiotasks")


_MAX_WASTED = 3
_FIRST_SUSPENSION = 60.0
_LONGEST_SUSPENSION = 900.0


class TaskList:
    """What is known of one kind's list: the walk from its newest page, and the leaves below.

    The walk holds the tasks that were not seen on a page yet, and those on the newest page, which
    shifts. When the list does not pay it rests, and is tried again rarely.
    """

    def __init__(self, kind: Kind) -> None:
        self.scan = ListPage(kind, list_tasks(kind), 0.0)
        self.pages: list[ListPage] = []
        self._first = self.scan.request
        self.scan_began = 0.0
        self._wasted = 0
        self._suspension = _FIRST_SUSPENSION
        self._suspended_until = 0.0

    def is_suspended(self, now: float) -> bool:
        """Say whether the list is left alone for a while."""
        return now < self._suspended_until

    def best_page(self, now: float) -> ListPage | None:
        """Return the page that is most worth a look, if any pays."""
        if self.is_suspended(now):
            return None
        paying = [
            page
            for page in (self.scan, *self.pages)
            if page.due >= MIN_DUE and not page.is_in_flight
        ]
        return max(paying, key=lambda page: page.priority(now), default=None)

    def page_for(self, page: ListPage, now: float) -> ListPage:
        """Return where the tasks are to be put that a look at ``page`` shows."""
        if page is not self.scan:
            return page
        if page.request == self._first:
            self.scan_began = now
            return page
        found = ListPage(page.kind, page.request, now)
        # Those that emptied without a look at them go here.
        self.pages = [other for other in self.pages if other.size or other.is_in_flight]
        self.pages.append(found)
        return found

    def not_yet_scanned(self, most: int | None = None) -> list[PendingTask]:
        """Return the due tasks that the walk has yet to find.

        What was looked at since the walk began, or added since then, stands above.
        """
        scan, scan_began = self.scan, (self.scan_began, 1)
        # What was added in the moment in which the walk began was not looked at by it yet.
        due = (p for p in scan.members if p.page is scan and p.is_due)
        found = (p for p in due if (p.polled_at, p.answers) < scan_began)
        return list(islice(found, most))

    def close(self, page: ListPage) -> None:
        """Forget a page on which nothing is pending."""
        if page is not self.scan and page in self.pages:
            self.pages.remove(page)

    def advance_scan(
        self, following: Request[Page[MergeTask]] | None, *, was_worth_it: bool
    ) -> bool:
        """Go down to the next page if that promises to pay; say whether the walk goes on."""
        goes_on = was_worth_it and following is not None
        self.scan.request = following if goes_on and following is not None else self._first
        return goes_on

    def note(self, now: float, *, was_worth_it: bool) -> None:
        """Keep the books of a look at the list."""
        if not was_worth_it:
            self._wasted += 1
            if self._wasted >= _MAX_WASTED:
                self.suspend(now)
            return
        if self._suspension > _FIRST_SUSPENSION:
            _log.info("The list of %s merge tasks pays again and is used", self.scan.kind)
        self._wasted, self._suspension = 0, _FIRST_SUSPENSION

    def suspend(self, now: float) -> None:
        """Leave the list alone for a while, each time for longer."""
        if self._suspension == _FIRST_SUSPENSION:
            _log.info("The list of %s merge tasks does not pay: asking for each", self.scan.kind)
        self._suspended_until = now + self._suspension
        self._suspension = min(self._suspension * 2, _LONGEST_SUSPENSION)
        # One page tells whether it pays again.
        self._wasted = _MAX_WASTED - 1
        self.scan.request = self._first
