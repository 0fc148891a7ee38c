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


_UNPAID = 3
_FIRST_REST = 60.0
_LONGEST_REST = 900.0


class TaskList:
    """What is known of one kind's list: the walk from its newest page, and the leaves below.

    The walk holds the tasks that were not seen on a page yet, and those on the newest page, which
    shifts. When the list does not pay it rests, and is tried again rarely.
    """

    def __init__(self, kind: Kind) -> None:
        self.walk = ListPage(kind, list_tasks(kind), 0.0)
        self.leaves: list[ListPage] = []
        self._first = self.walk.request
        self.began = 0.0
        self._unpaid = 0
        self._rest = _FIRST_REST
        self._rests_until = 0.0

    def is_resting(self, now: float) -> bool:
        """Say whether the list is left alone for a while."""
        return now < self._rests_until

    def best(self, now: float) -> ListPage | None:
        """Return the page that is most worth a look, if any pays."""
        if self.is_resting(now):
            return None
        paying = [
            leaf for leaf in (self.walk, *self.leaves) if leaf.due >= MIN_DUE and not leaf.is_asked
        ]
        return max(paying, key=lambda leaf: leaf.value(now), default=None)

    def opened(self, leaf: ListPage, now: float) -> ListPage:
        """Return where the tasks are to be put that a look at ``leaf`` shows."""
        if leaf is not self.walk:
            return leaf
        if leaf.request == self._first:
            self.began = now
            return leaf
        found = ListPage(leaf.kind, leaf.request, now)
        # Those that emptied without a look at them go here.
        self.leaves = [other for other in self.leaves if other.size or other.is_asked]
        self.leaves.append(found)
        return found

    def below(self, most: int | None = None) -> list[PendingTask]:
        """Return the due tasks that the walk has yet to find.

        What was looked at since the walk began, or added since then, stands above.
        """
        walk, began = self.walk, (self.began, 1)
        # What was added in the moment in which the walk began was not looked at by it yet.
        due = (p for p in walk.members if p.leaf is walk and p.is_due)
        found = (p for p in due if (p.looked, p.polls) < began)
        return list(islice(found, most))

    def close(self, leaf: ListPage) -> None:
        """Forget a page on which nothing is pending."""
        if leaf is not self.walk and leaf in self.leaves:
            self.leaves.remove(leaf)

    def step(self, following: Request[Page[MergeTask]] | None, *, has_paid: bool) -> bool:
        """Go down to the next page if that promises to pay; say whether the walk goes on."""
        goes_on = has_paid and following is not None
        self.walk.request = following if goes_on and following is not None else self._first
        return goes_on

    def note(self, now: float, *, has_paid: bool) -> None:
        """Keep the books of a look at the list."""
        if not has_paid:
            self._unpaid += 1
            if self._unpaid >= _UNPAID:
                self.rest(now)
            return
        if self._rest > _FIRST_REST:
            _log.info("The list of %s merge tasks pays again and is used", self.walk.kind)
        self._unpaid, self._rest = 0, _FIRST_REST

    def rest(self, now: float) -> None:
        """Leave the list alone for a while, each time for longer."""
        if self._rest == _FIRST_REST:
            _log.info("The list of %s merge tasks does not pay: asking for each", self.walk.kind)
        self._rests_until = now + self._rest
        self._rest = min(self._rest * 2, _LONGEST_REST)
        # One page tells whether it pays again.
        self._unpaid = _UNPAID - 1
        self.walk.request = self._first
