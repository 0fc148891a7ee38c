"""Which task is to be looked at when, by which question, and what the answers mean.

Time is an argument and nothing here waits: the poller asks what is due, does the asking, and
tells what it saw.
"""

from collections import deque
from collections.abc import Iterable
from operator import attrgetter
from typing import Final, TypeAlias, get_args

from aiotasks._http.urls import TaskRef
from aiotasks._http.wire import Page, Request
from aiotasks.errors import AffinityError, UnknownStatusError
from aiotasks.models import Kind, MergeTask
from aiotasks.outcomes import Outcome, OutcomeState

from .pending import MIN_DUE, ListPage, PendingTask, Phase, Summaries, cut_short, failed, outcome
from .started import Fresh
from .task_list import TaskList
from .timers import SharedDelays, WakeQueue
from .waiters import Waiters


GRACE: Final = 0.04
"""How long after a deadline, in seconds, an answer that is on its way is still waited for."""

_LEFT_BEHIND = 64
_EARLY_SHARE = 0.1

Listing: TypeAlias = Request[Page[MergeTask]]
PollTarget: TypeAlias = ListPage | TaskRef


class Schedule:
    """All pending tasks of a client: one record for each waiter's task."""

    def __init__(self) -> None:
        self.count = 0
        self._ended = 0
        self._early = 0
        self.lists = {kind: TaskList(kind) for kind in get_args(Kind)}
        self._waiters = Waiters()
        self._timers = WakeQueue()
        self._due: deque[PendingTask] = deque()
        self._in_flight: set[TaskRef] = set()
        self._started = Fresh()
        self._summaries = Summaries()
        self._delays = SharedDelays()

    @property
    def tasks(self) -> int:
        """How many different tasks are waited for."""
        return len(self._waiters)

    def waiters_of(self, ref: TaskRef) -> list[PendingTask]:
        """Return those who wait for a task."""
        return self._waiters.of(ref.kind, ref.id)

    def last_polled(self, ref: TaskRef) -> PendingTask | None:
        """Return somebody who waits for a task and has been told of it, if there is one."""
        return self._waiters.polled(ref.kind, ref.id)

    def next_to_poll(self, kind: Kind, ref: TaskRef | None) -> PendingTask | None:
        """Return what waits for its next look: a task, or one of a kind."""
        waiting = (
            self.waiters_of(ref) if ref else (each for each in self._waiters if each.kind == kind)
        )
        later = (each for each in waiting if each.phase is Phase.WAITING)
        return min(later, key=attrgetter("polled_at"), default=None)

    def make_due(self, pending: PendingTask, now: float) -> None:
        """Let what waits for its next look be due at once."""
        self._wake_at(pending, now)

    def is_wanted(self, target: PollTarget) -> bool:
        """Say whether anybody still waits for what a question will tell."""
        if isinstance(target, ListPage):
            return target.size > 0
        return target in self._waiters

    def is_urgent(self, ref: TaskRef) -> bool:
        """Say whether somebody waits for just this task."""
        return any(pending.options.is_urgent for pending in self.waiters_of(ref))

    def note_started(self, ref: TaskRef, now: float) -> None:
        """Take in that this client has started a task just now."""
        self._started.note(ref, now)

    def add(self, pending: PendingTask) -> None:
        """Take in a task. It is due at once, unless it was started by this client just now."""
        self._waiters.add(pending)
        self.count += 1
        self.lists[pending.kind].scan.join(pending)
        self._timers.put(pending.deadline + GRACE, pending)
        may_wait = pending.options.timeout > 0 and not pending.options.is_once
        if may_wait and self._started.has(pending.ref, pending.added_at):
            self._schedule_next(pending, pending.added_at, 0.0)
            self._skip_first_poll(pending)
        else:
            self._wake_at(pending, pending.added_at)

    def next_wake(self) -> float:
        """Return when ``advance`` has to be called next."""
        return self._timers.next

    def advance(self, now: float) -> None:
        """Let time pass: what is due is queued to be asked for, what is out of time settles."""
        late = set()
        for when, row in self._timers.pop(now):
            for pending in row:
                if pending in late:
                    # A loop that was held up must not cost the look that is due.
                    self._timers.put(now + GRACE, pending)
                elif when > pending.deadline:
                    self._time_out(pending, now)
                elif self._is_current(when, pending):
                    self._enter(pending, Phase.DUE)
                    (self._due.appendleft if pending.options.is_urgent else self._due.append)(
                        pending
                    )
                    if now > when + GRACE:
                        late.add(pending)
        self._sweep()

    def _time_out(self, pending: PendingTask, now: float) -> None:
        if pending.phase is not Phase.DONE:
            self._deliver(pending, cut_short(pending, now))

    @property
    def has_due(self) -> bool:
        """Whether something is to be asked."""
        self._skip_in_flight()
        if not self._due:
            self._resume_scans()
        return bool(self._due)

    def take(self, now: float) -> PollTarget | None:
        """Return what to ask now, a page or a task; it counts as asked from here.

        Of the pages that pay, the one that is worth most; or the task that has been due for
        longest, if no page pays for it and it has waited for longer than the page is worth.
        """
        if not self.has_due:
            return None
        head = self._due[0]
        own = self._page_of(head, now)
        pages = [own] if own else []
        pages += filter(None, (listed.best_page(now) for listed in self.lists.values()))
        best_page = max(pages, key=lambda shown: shown.priority(now), default=None)
        is_worth_less = (
            not head.options.is_urgent
            and best_page
            and best_page.priority(now) >= head.priority(now)
        )
        if best_page and (own or is_worth_less):
            best_page.is_in_flight = True
            return best_page
        self._in_flight.add(head.ref)
        return head.ref

    def put_back(self, target: PollTarget) -> None:
        """Queue again what a question was to tell and did not."""
        if isinstance(target, ListPage):
            if target.is_in_flight:
                target.is_in_flight = False
                self._requeue(target.present())
        else:
            self._in_flight.discard(target)
            self._requeue(self.waiters_of(target))

    def apply_task(self, ref: TaskRef, task: MergeTask, *, now: float, lead: float) -> bool:
        """Take in what a task looks like; say whether a reason of its failure is to be asked for.

        ``lead`` is how long before a deadline a look must start for its answer to be in time.
        """
        self._delays.forget()
        waiting = self.waiters_of(ref)
        for pending in waiting:
            self._apply(pending, task, now, lead)
            if pending.page is None and pending.phase is not Phase.DONE:
                self.lists[ref.kind].scan.join(pending)
        return any(pending.phase is Phase.FETCHING_REASON for pending in waiting)

    def apply_page(
        self,
        page: ListPage,
        shown: Page[MergeTask],
        following: Listing | None,
        *,
        now: float,
        lead: float,
    ) -> list[TaskRef]:
        """Take in a page; return the tasks for which the reason of a failure is to be asked for."""
        self._delays.forget()
        page.is_in_flight = False
        target = self.lists[page.kind].page_for(page, now)
        answered = 0
        failures = []
        for task in shown.data:
            waiting = self._waiters.of(page.kind, task.id)
            for pending in waiting:
                answered += pending.phase is not Phase.FETCHING_REASON
                self._apply(pending, task, now, lead)
                if pending.page is not target and pending.phase is not Phase.DONE:
                    target.join(pending)
            if waiting and waiting[0].phase is Phase.FETCHING_REASON:
                failures.append(waiting[0].ref)
        self._after_page(page, following, now, lead, was_worth_it=answered >= MIN_DUE)
        return failures

    def apply_refusal(self, page: ListPage, now: float) -> None:
        """Take in that a page was refused: its tasks are asked for by themselves."""
        page.is_in_flight = False
        listed = self.lists[page.kind]
        if page is listed.scan:
            listed.suspend(now)
            self._requeue(page.present())
        else:
            self._to_scan(page, page.present())

    def apply_not_found(self, ref: TaskRef, *, now: float, lead: float) -> bool:
        """Take in a 404; say whether it only means that the task, started just now, is to come."""
        if not self._started.has(ref, now):
            return False
        self._delays.forget()
        for pending in self._undecided(ref):
            self._schedule_next(pending, now, lead)
        return True

    def apply_reason(self, ref: TaskRef, reason: str | None, now: float) -> None:
        """Settle a failed task, with the server's reason if it gave one."""
        for pending in self.waiters_of(ref):
            if pending.phase is Phase.FETCHING_REASON:
                self._deliver(pending, failed(pending, reason, now))

    def give_up(self, ref: TaskRef, error: AffinityError, now: float) -> None:
        """Settle a task of which nothing can be learned."""
        for pending in self._undecided(ref):
            self._deliver(pending, outcome(pending, OutcomeState.UNKNOWN, now, error))

    def give_up_all(self, state: OutcomeState, now: float, error: AffinityError) -> None:
        """Settle everything, because nothing more can be learned of anything."""
        for pending in list(self._waiters):
            is_known = pending.phase is Phase.FETCHING_REASON
            end = cut_short(pending, now) if is_known else outcome(pending, state, now, error)
            self._deliver(pending, end)

    def discard(self, pending: PendingTask) -> None:
        """Forget a task that nobody waits for any more."""
        if pending.phase is Phase.DONE:
            return
        if pending.page is not None:
            pending.page.leave(pending)
        pending.phase = Phase.DONE
        self.count -= 1
        self._waiters.remove(pending)
        self._sweep()

    def _undecided(self, ref: TaskRef) -> list[PendingTask]:
        return [
            pending
            for pending in self.waiters_of(ref)
            if pending.phase is not Phase.FETCHING_REASON
        ]

    def _page_of(self, pending: PendingTask, now: float) -> ListPage | None:
        page = pending.page
        if page is None or self.lists[pending.kind].is_suspended(now):
            return None
        return page if page.is_worth_polling(now) else None

    def _skip_in_flight(self) -> None:
        # Whoever is passed over here is queued again when the answer that is under way fails.
        while self._due:
            head = self._due[0]
            if head.phase is Phase.DUE:
                if not (head.page and head.page.is_in_flight) and head.ref not in self._in_flight:
                    return
                head.phase = Phase.IN_FLIGHT
            self._due.popleft()

    def _resume_scans(self) -> None:
        # Only one task is queued to keep a walk going. If that settles or is seen elsewhere, the
        # others must not wait for it.
        for listed in self.lists.values():
            if not listed.scan.is_in_flight and listed.scan.due > len(self._in_flight):
                self._requeue(listed.scan.present())
        self._skip_in_flight()

    def _requeue(self, waiting: Iterable[PendingTask]) -> None:
        for pending in waiting:
            if pending.phase is Phase.IN_FLIGHT:
                pending.phase = Phase.DUE
                self._due.append(pending)

    def _after_page(
        self,
        page: ListPage,
        following: Listing | None,
        now: float,
        lead: float,
        *,
        was_worth_it: bool,
    ) -> None:
        listed = self.lists[page.kind]
        if page is not listed.scan:
            unseen = [pending for pending in page.present() if pending.is_due]
            self._to_scan(page, unseen)
        else:
            not_yet_scanned = listed.not_yet_scanned(MIN_DUE)
            if listed.advance_scan(
                following, was_worth_it=was_worth_it and len(not_yet_scanned) >= MIN_DUE
            ):
                # One of them is enough to keep the walk going.
                self._requeue(not_yet_scanned[:1])
                return
            unseen = self._end_scan(listed, now, lead)
        if was_worth_it or unseen:
            listed.note(now, was_worth_it=was_worth_it)

    def _to_scan(self, page: ListPage, unseen: list[PendingTask]) -> None:
        listed = self.lists[page.kind]
        for pending in unseen:
            listed.scan.join(pending)
        self._requeue(unseen)
        if not page.size:
            listed.close(page)

    def _end_scan(self, listed: TaskList, now: float, lead: float) -> list[PendingTask]:
        # The list may lag: a task that was started just now is given time to appear in it, unless
        # somebody waits for just this one.
        listed.scan.members = listed.scan.present()
        unseen = listed.not_yet_scanned()
        late = [pending for pending in unseen if not self._may_wait(pending, now)]
        for pending in late:
            listed.scan.leave(pending)
        self._requeue(late)
        # Whoever is due soon would only read the same page again.
        soon = [p for p in listed.scan.present() if p.is_due_soon(now)]
        for pending in (*listed.not_yet_scanned(), *soon):
            if self._may_wait(pending, now):
                self._schedule_next(pending, now, lead)
        self._requeue(listed.scan.present())
        return late

    def _may_wait(self, pending: PendingTask, now: float) -> bool:
        return self._started.has(pending.ref, now) and not pending.options.is_urgent

    def _skip_first_poll(self, pending: PendingTask) -> None:
        # Tasks that end before the second look are rare, or were so far; if that changes, such a
        # task is noticed one interval late.
        if pending.phase is Phase.WAITING and self._early < _EARLY_SHARE * self._ended:
            self._schedule_next(pending, pending.due_at, 0.0)

    def _apply(self, pending: PendingTask, task: MergeTask, now: float, lead: float) -> None:
        if pending.phase is Phase.FETCHING_REASON:
            return
        pending.status = task.status
        pending.summary = self._summaries.shared(task.results_summary)
        pending.answers += 1
        if pending.options.is_once:
            self._deliver(pending, outcome(pending, OutcomeState.of(task), now, None))
            return
        match OutcomeState.of(task):
            case OutcomeState.RUNNING:
                self._schedule_next(pending, now, lead)
            case OutcomeState.SUCCESS:
                self._ended += 1
                self._early += pending.answers <= 1
                self._deliver(pending, outcome(pending, OutcomeState.SUCCESS, now, None))
            case OutcomeState.FAILED:
                self._enter(pending, Phase.FETCHING_REASON)
            case OutcomeState.UNKNOWN:  # pragma: no branch - there is no other
                error = UnknownStatusError(pending.url, task)
                self._deliver(pending, outcome(pending, OutcomeState.UNKNOWN, now, error))

    def _schedule_next(self, pending: PendingTask, now: float, lead: float) -> None:
        # The look that others needed is not the last one of a task that waits for its own.
        if (pending.is_final_poll and pending.is_due) or now >= pending.deadline:
            self._deliver(pending, cut_short(pending, now))
            return
        # The looks of others bring news, but must not make this wait any slower.
        if pending.phase is not Phase.WAITING or not pending.answers:
            pending.attempt += 1
        try:
            due_at = self._delays.of(pending, now)
        except AffinityError as error:
            self._deliver(pending, outcome(pending, OutcomeState.UNKNOWN, now, error))
            return
        last_look = max(pending.deadline - lead, now)
        pending.is_final_poll = due_at >= last_look
        when = min(due_at, last_look)
        is_set = pending.phase is Phase.WAITING and pending.due_at == when
        self._enter(pending, Phase.WAITING)
        pending.polled_at = now
        # The looks of others leave a last look where it is: it needs no second entry.
        if not is_set:
            self._wake_at(pending, when)

    def _enter(self, pending: PendingTask, phase: Phase) -> None:
        was_due, pending.phase = pending.is_due, phase
        change = pending.is_due - was_due
        if change and pending.page is not None:
            pending.page.count_due(pending, change)

    def _deliver(self, pending: PendingTask, end: Outcome) -> None:
        self.discard(pending)
        pending.options.deliver(pending, end)

    def _wake_at(self, pending: PendingTask, when: float) -> None:
        pending.due_at = when
        self._timers.put(when, pending)

    def _is_current(self, when: float, pending: PendingTask) -> bool:
        if when > pending.deadline:
            return pending.phase is not Phase.DONE
        return pending.phase is Phase.WAITING and pending.due_at == when

    def _sweep(self) -> None:
        # Entries are left behind where they lie; now and then they are swept out together.
        if len(self._timers) > (3 * self.count + _LEFT_BEHIND if self.count else 0):
            self._timers.sweep(self._is_current)
            self._due = deque(pending for pending in self._due if pending.is_due)
