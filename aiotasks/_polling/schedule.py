"""Which poll comes next, and what its answer means for the pending tasks.

Time is an argument and nothing here waits. The poller takes a target, polls it, and applies the
answer.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final, TypeAlias, get_args

from aiotasks._http.urls import TaskRef
from aiotasks._http.wire import Page, Request
from aiotasks.errors import AffinityError, UnknownStatusError
from aiotasks.models import Kind, MergeTask, ResultsSummary
from aiotasks.outcomes import Outcome, OutcomeState

from .pending import ListPage, PendingTask, Phase, intern_summary
from .started import StartedTasks
from .task_list import TaskList
from .timers import SharedDelays, WakeQueue
from .waiters import Waiters


# Derived: a wait may overshoot its deadline by 50 ms, of which 10 ms are left for the loop.
GRACE: Final = 0.04
"""How many seconds after a deadline an answer that is in flight is still accepted."""

# A choice: so many outdated entries are always tolerated, so that a few tasks need no sweeps.
_LEFT_BEHIND = 64
# Fitted roughly: values from 0.05 to 0.5 make no difference, and 0 (no poll is skipped) means a delay
# of 22 s at p95 instead of 19 s with 5,000 merges (benchmarks/results/ablation.json).
_EARLY_SHARE = 0.1

PollTarget: TypeAlias = ListPage | TaskRef


class Schedule:
    """All pending tasks of a client, and which of them are due."""

    def __init__(self) -> None:
        self.count = 0
        self.waiters = Waiters()
        self.started = StartedTasks()
        self.timers = WakeQueue()
        self.lists = {kind: TaskList(kind, self.started) for kind in get_args(Kind)}
        self._due: deque[PendingTask] = deque()
        # Tasks that are polled by GET now. Pages know it themselves.
        self._in_flight: set[TaskRef] = set()
        self._delays = SharedDelays()
        self._summaries: dict[ResultsSummary, ResultsSummary] = {}
        self._ended = 0
        self._ended_early = 0

    def add(self, pending: PendingTask) -> None:
        """Add a task. It is due immediately, unless this client started it just now."""
        self.waiters.add(pending)
        self.count += 1
        self.lists[pending.kind].scan.join(pending)
        self.timers.put(pending.deadline + GRACE, pending)
        options, now = pending.options, pending.added_at
        may_wait = options.timeout > 0 and not options.is_once
        if may_wait and self.started.is_recent(pending.ref, now):
            self._schedule_next(pending, now, 0.0)
            self._skip_first_poll(pending)
        else:
            self.make_due(pending, now)

    def _skip_first_poll(self, pending: PendingTask) -> None:
        # While hardly a task ends before its second poll, the first is a wasted call. If that
        # changes, the task's end is noticed one interval late.
        if pending.phase is Phase.WAITING and self._ended_early < _EARLY_SHARE * self._ended:
            self._schedule_next(pending, pending.due_at, 0.0)

    def make_due(self, pending: PendingTask, when: float) -> None:
        """Let a task that is waiting for its next poll be due at a time."""
        pending.due_at = when
        self.timers.put(when, pending)

    def discard(self, pending: PendingTask) -> None:
        """Remove a task; its outcome is not delivered."""
        if pending.phase is Phase.DONE:
            return
        pending.enter(Phase.DONE)
        if pending.page is not None:
            pending.page.leave(pending)
        self.count -= 1
        self.waiters.remove(pending)
        self._sweep()

    def advance(self, now: float) -> None:
        """Queue the tasks that are due by now, and time out those past their deadline."""
        late = set()
        for when, row in self.timers.pop(now):
            for pending in row:
                if pending in late:
                    # A loop that was blocked past the deadline must not cost the poll that is due.
                    self.timers.put(now + GRACE, pending)
                elif not self._is_current(when, pending):
                    continue
                elif when > pending.deadline:
                    self._deliver(pending, pending.timed_out(now))
                else:
                    pending.enter(Phase.DUE)
                    (self._due.appendleft if pending.options.is_urgent else self._due.append)(
                        pending
                    )
                    if now > when + GRACE:
                        late.add(pending)
        self._sweep()

    def _is_current(self, when: float, pending: PendingTask) -> bool:
        if when > pending.deadline:
            return pending.phase is not Phase.DONE
        return pending.phase is Phase.WAITING and pending.due_at == when

    def _sweep(self) -> None:
        # Outdated entries are removed many at a time: to find one in a heap or a queue is O(n).
        if len(self.timers) > (3 * self.count + _LEFT_BEHIND if self.count else 0):
            self.timers.sweep(self._is_current)
            self._due = deque(pending for pending in self._due if pending.is_due)

    @property
    def has_due(self) -> bool:
        """Whether there is something to poll now."""
        self._skip_in_flight()
        if not self._due:
            self._resume_scans()
        return bool(self._due)

    def take(self, now: float) -> PollTarget | None:
        """Return what to poll now, a page or a task, and count it as in flight."""
        if not self.has_due:
            return None
        head = self._due[0]
        page = self._page_before(head, now)
        if page is not None:
            page.is_in_flight = True
            return page
        self._in_flight.add(head.ref)
        return head.ref

    def _page_before(self, head: PendingTask, now: float) -> ListPage | None:
        # The page with the highest priority goes first, unless the task at the head of the queue is
        # on no page that is worth polling and has waited so long that it outweighs all pages.
        own = self.lists[head.kind].page_of(head, now)
        pages = [own] if own else []
        pages += filter(None, (each.best_page(now) for each in self.lists.values()))
        best = max(pages, key=lambda page: page.priority(now), default=None)
        if best is None or own:
            return best
        outweighs = not head.options.is_urgent and best.priority(now) >= head.priority(now)
        return best if outweighs else None

    def _skip_in_flight(self) -> None:
        # A task that is skipped here is requeued if the poll that is in flight has no answer for it.
        while self._due:
            head = self._due[0]
            if head.phase is Phase.DUE:
                if not (head.page and head.page.is_in_flight) and head.ref not in self._in_flight:
                    return
                head.enter(Phase.IN_FLIGHT)
            self._due.popleft()

    def _resume_scans(self) -> None:
        # A scan that goes on has only one task in the queue. If that one is discarded or answered
        # by another poll, the others must not wait for it.
        for each in self.lists.values():
            if not each.scan.is_in_flight and each.scan.due > len(self._in_flight):
                self._requeue(each.scan.tasks())
        self._skip_in_flight()

    def is_wanted(self, target: PollTarget) -> bool:
        """Return True if there is still a wait that a poll of a target may answer."""
        if isinstance(target, ListPage):
            return target.size > 0
        return target in self.waiters

    def put_back(self, target: PollTarget) -> None:
        """End a poll: what it has not answered is due again."""
        if isinstance(target, ListPage):
            if target.is_in_flight:
                target.is_in_flight = False
                self._requeue(target.tasks())
        else:
            self._in_flight.discard(target)
            self._requeue(self.waiters.of(*target))

    def _requeue(self, tasks: Iterable[PendingTask]) -> None:
        for pending in tasks:
            if pending.phase is Phase.IN_FLIGHT:
                pending.enter(Phase.DUE)
                self._due.append(pending)

    def apply_task(
        self, ref: TaskRef, task: MergeTask, *, now: float, lead: float
    ) -> list[TaskRef]:
        """Apply a polled task. Returns it if its failure reason must be fetched.

        ``lead`` is how many seconds before a deadline a poll must start to be answered in time.
        """
        self._delays.forget()
        waits = self.waiters.of(*ref)
        for pending in waits:
            self._apply(pending, task, now, lead)
            if pending.page is None and pending.phase is not Phase.DONE:
                self.lists[ref.kind].scan.join(pending)
        return [ref] if any(each.phase is Phase.FETCHING_REASON for each in waits) else []

    def apply_page(
        self,
        page: ListPage,
        shown: Page[MergeTask],
        following: Request[Page[MergeTask]] | None,
        *,
        now: float,
        lead: float,
    ) -> list[TaskRef]:
        """Apply a polled page. Returns the tasks whose failure reason must be fetched."""
        self._delays.forget()
        page.is_in_flight = False
        found_on = self.lists[page.kind].page_for(page, now)
        answered = 0
        failures = []
        for task in shown.data:
            has_failed = False
            for pending in self.waiters.of(page.kind, task.id):
                answered += pending.phase is not Phase.FETCHING_REASON
                self._apply(pending, task, now, lead)
                has_failed |= pending.phase is Phase.FETCHING_REASON
                if pending.page is not found_on and pending.phase is not Phase.DONE:
                    found_on.join(pending)
            if has_failed:
                failures.append(TaskRef(page.kind, task.id))
        result = self.lists[page.kind].apply_page(page, following, now, answered=answered)
        for pending in result.later:
            self._schedule_next(pending, now, lead)
        self._requeue(result.requeue)
        return failures

    def apply_refusal(self, page: ListPage, now: float) -> None:
        """Apply an error of a page: its tasks are due again, and polled in another way."""
        page.is_in_flight = False
        self._requeue(self.lists[page.kind].apply_refusal(page, now))

    def apply_not_found(self, ref: TaskRef, *, now: float, lead: float) -> bool:
        """Apply a 404. Returns False if it is final.

        A task that this client started just now may not be visible yet; it is polled later.
        """
        if not self.started.is_recent(ref, now):
            return False
        self._delays.forget()
        for pending in self._undecided(ref):
            self._schedule_next(pending, now, lead)
        return True

    def apply_reason(self, ref: TaskRef, reason: str | None, now: float) -> None:
        """Deliver a failed task, with the server's reason if there is one."""
        for pending in self.waiters.of(*ref):
            if pending.phase is Phase.FETCHING_REASON:
                self._deliver(pending, pending.failed(reason, now))

    def give_up(self, ref: TaskRef, error: AffinityError, now: float) -> None:
        """Deliver a task whose state cannot be found out."""
        for pending in self._undecided(ref):
            self._deliver(pending, pending.outcome(OutcomeState.UNKNOWN, now, error))

    def give_up_all(self, state: OutcomeState, now: float, error: AffinityError) -> None:
        """Deliver everything, because no further poll can succeed."""
        for pending in list(self.waiters):
            has_failed = pending.phase is Phase.FETCHING_REASON
            end = pending.timed_out(now) if has_failed else pending.outcome(state, now, error)
            self._deliver(pending, end)

    def _undecided(self, ref: TaskRef) -> list[PendingTask]:
        waits = self.waiters.of(*ref)
        return [pending for pending in waits if pending.phase is not Phase.FETCHING_REASON]

    def _apply(self, pending: PendingTask, task: MergeTask, now: float, lead: float) -> None:
        if pending.phase is Phase.FETCHING_REASON:
            return
        pending.record(task.status, intern_summary(self._summaries, task.results_summary))
        state = OutcomeState.of(task)
        if pending.options.is_once:
            self._deliver(pending, pending.outcome(state, now))
            return
        match state:
            case OutcomeState.RUNNING:
                self._schedule_next(pending, now, lead)
            case OutcomeState.SUCCESS:
                self._ended += 1
                self._ended_early += pending.answers <= 1
                self._deliver(pending, pending.outcome(state, now))
            case OutcomeState.FAILED:
                pending.enter(Phase.FETCHING_REASON)
                _ = pending.options.note_failure(pending.url)
            case OutcomeState.UNKNOWN:  # pragma: no branch - there is no other
                error = UnknownStatusError(pending.url, task)
                self._deliver(pending, pending.outcome(state, now, error))

    def _schedule_next(self, pending: PendingTask, now: float, lead: float) -> None:
        # A poll that other waits caused is not the final one of a task that waits for its own.
        if (pending.is_final_poll and pending.is_due) or now >= pending.deadline:
            self._deliver(pending, pending.timed_out(now))
            return
        # Nor does it lengthen the interval of this one: only its own polls count as attempts.
        if pending.phase is not Phase.WAITING or not pending.answers:
            pending.attempt += 1
        try:
            due_at = self._delays.due_at(pending, now)
        except AffinityError as error:
            self._deliver(pending, pending.outcome(OutcomeState.UNKNOWN, now, error))
            return
        if pending.wait(due_at, now=now, lead=lead):
            self.timers.put(pending.due_at, pending)

    def _deliver(self, pending: PendingTask, outcome: Outcome) -> None:
        # First out of the schedule: the receiver may add or discard others.
        self.discard(pending)
        pending.options.deliver(pending, outcome)
