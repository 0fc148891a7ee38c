"""Which poll comes next, and what its answer means for the pending tasks.

Time is an argument and nothing here waits. The poller takes a target, polls it, and applies the
answer.
"""

from typing import TypeAlias, get_args

from aiotasks._http.urls import TaskRef
from aiotasks._http.wire import Page, Request
from aiotasks.backoff import MIN_DELAY
from aiotasks.errors import AffinityError, UnknownStatusError
from aiotasks.models import Kind, MergeTask, ResultsSummary
from aiotasks.outcomes import Outcome, OutcomeState

from .due_queue import DueQueue
from .ended_tasks import EndedTasks
from .final_polls import GRACE, MIN_GAP, FinalPolls
from .missing import MissingTasks
from .pending import ListPage, PendingTask, Phase, intern_summary
from .started import StartedTasks
from .task_list import TaskList
from .timers import SharedDelays, WakeQueue
from .waiters import Waiters


# A choice: so many outdated entries are always tolerated, so that a few tasks need no sweeps.
_LEFT_BEHIND = 64
PollTarget: TypeAlias = ListPage | TaskRef


class Schedule:
    """All pending tasks of a client, and which of them are due."""

    def __init__(self) -> None:
        self.count = 0
        self.waiters = Waiters()
        self.started = StartedTasks()
        self.ended = EndedTasks()
        self.missing = MissingTasks(self.started)
        self.finals = FinalPolls(self.waiters)
        self.timers = WakeQueue()
        self.lists = {kind: TaskList(kind, self.started, self.missing) for kind in get_args(Kind)}
        # Why there are no answers, while there are none.
        self.outage: AffinityError | None = None
        self.queue = DueQueue()
        self._delays = SharedDelays()
        self._summaries: dict[ResultsSummary, ResultsSummary] = {}

    def add(self, pending: PendingTask, *, lead: float = 0.0) -> None:
        """Add a task. It is due immediately, unless this client started it just now.

        If a page has shown its end within the last minute, that is its answer.
        """
        self.waiters.add(pending)
        self.count += 1
        self.lists[pending.kind].scan.join(pending)
        self.timers.put(pending.deadline + GRACE, pending)
        options, now = pending.options, pending.added_at
        may_wait = options.timeout > 0 and not options.is_once
        shown = self.ended.find(pending.ref, now)
        if shown is not None:
            self._apply(pending, shown, now, lead)
        elif may_wait and self.started.is_recent(pending.ref, now):
            self._delay_first_poll(pending, lead)
        else:
            self.make_due(pending, now)

    def _delay_first_poll(self, pending: PendingTask, lead: float) -> None:
        # An answer may take half of the time: a poll that is due later is made now instead.
        now = pending.added_at
        latest = min(now + pending.options.timeout / 2, self.finals.starts_at(pending, lead))
        due_at = polled_at = now
        for _ in range(1 + self.started.are_first_polls_wasted()):
            pending.attempt += 1
            following = self._due_after(pending, due_at)
            if following is None:
                return
            if following > latest:
                pending.attempt -= 1
                break
            polled_at, due_at = due_at, following
        pending.polled_at = polled_at
        self.make_due(pending, due_at)

    def hasten(self, pending: PendingTask, now: float) -> None:
        """Let a task that is waiting for its next poll be due now, and have another one later."""
        pending.is_final_poll = False
        self.make_due(pending, now)

    def make_due(self, pending: PendingTask, when: float) -> None:
        """Let a task that is waiting for its next poll be due at a time."""
        pending.due_at = when
        self.timers.put(when, pending)

    def discard(self, pending: PendingTask) -> None:
        """Remove a task; its outcome is not delivered."""
        if pending.phase is Phase.DONE:
            return
        pending.enter(Phase.DONE)
        self.finals.discard(pending)
        if pending.page is not None:
            pending.page.leave(pending)
        self.count -= 1
        self.waiters.remove(pending)
        if pending.ref not in self.waiters:
            self.missing.forget(pending.ref)
        self._sweep()

    def advance(self, now: float, *, lead: float = 0.0) -> None:
        """Queue the tasks that are due by now, and time out those past their deadline.

        ``lead`` is how many seconds before a deadline a poll must start now.
        """
        for pending, starts_at in self.finals.follow(lead, now):
            self.make_due(pending, starts_at)
        late = set()
        for when, row in self.timers.pop(now):
            for pending in row:
                if pending in late:
                    # A loop that was blocked past the deadline must not cost the poll that is due.
                    self.timers.put(now + GRACE, pending)
                elif not self._is_current(when, pending):
                    continue
                elif when > pending.deadline or pending.phase is Phase.TIMING_OUT:
                    self._time_out(pending, now)
                elif pending.is_final_poll and now < self.finals.starts_at(pending, lead):
                    self.make_due(pending, self.finals.starts_at(pending, lead))
                else:
                    pending.needs_get |= pending.is_final_poll and self.finals.are_few
                    self.queue.add(pending)
                    if now > when + GRACE:
                        late.add(pending)
        self._sweep()

    def _is_current(self, when: float, pending: PendingTask) -> bool:
        if when > pending.deadline:
            return pending.phase is not Phase.DONE
        if pending.phase is Phase.TIMING_OUT:
            return when >= pending.deadline
        return pending.phase is Phase.WAITING and pending.due_at == when

    def _time_out(self, pending: PendingTask, now: float) -> None:
        # What was in the way: an answer, a failure of the server, or that no request could go.
        cause = self.missing.error(pending.ref) or self.outage
        obstacle = "no request could be sent" if pending.phase is Phase.DUE else "no answer came"
        self._deliver(pending, pending.timed_out(now, cause=cause, obstacle=obstacle))

    def _sweep(self) -> None:
        # Outdated entries are removed many at a time: to find one in a heap or a queue is O(n).
        if len(self.timers) > (3 * self.count + _LEFT_BEHIND if self.count else 0):
            self.timers.sweep(self._is_current)
            self.queue.sweep()

    @property
    def has_due(self) -> bool:
        """Whether there is something to poll now."""
        return self._head() is not None

    def take(self, now: float) -> PollTarget | None:
        """Return what to poll now, a page or a task, and count it as in flight."""
        head = self._head()
        if head is None:
            return None
        needs_get = self.lists[head.kind].needs_get(head, now)
        page = None if needs_get else self._page_before(head, now)
        if page is not None:
            page.is_in_flight = True
            return page
        self.queue.in_flight.add(head.ref)
        return head.ref

    def _page_before(self, head: PendingTask, now: float) -> ListPage | None:
        # The page with the highest priority goes first, unless the task at the head of the queue is
        # on no page that is worth polling and has waited so long that it outweighs all pages.
        own = self.lists[head.kind].page_of(head, now)
        if own is None and self.lists[head.kind].are_gets_paused(now):
            own = head.page or self.lists[head.kind].scan
            return None if own.is_in_flight else own
        pages = [own] if own else []
        pages += filter(None, (each.best_page(now) for each in self.lists.values()))
        best = max(pages, key=lambda page: page.priority(now), default=None)
        if best is None or own:
            return best
        outweighs = not head.options.is_urgent and best.priority(now) >= head.priority(now)
        return best if outweighs else None

    def _head(self) -> PendingTask | None:
        head = self.queue.head
        if head is not None:
            return head
        # A scan that goes on has only one task in the queue. If that one is discarded or answered
        # by another poll, the others must not wait for it.
        for each in self.lists.values():
            if not each.scan.is_in_flight and each.scan.due > len(self.queue.in_flight):
                self.queue.requeue(each.scan.tasks())
        return self.queue.head

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
                self.queue.requeue(target.tasks())
        else:
            self.queue.in_flight.discard(target)
            self.queue.requeue(self.waiters.of(*target))

    def apply_task(
        self, ref: TaskRef, task: MergeTask, *, now: float, lead: float
    ) -> list[TaskRef]:
        """Apply a polled task. Returns it if its failure reason must be fetched.

        ``lead`` is how many seconds before a deadline a poll must start to be answered in time.
        """
        self._delays.forget()
        self.missing.note_seen(ref, now)
        self.outage = None
        self.lists[ref.kind].checks.apply_get(task, now)
        waits = self.waiters.of(*ref)
        for pending in waits:
            pending.asked_at = now
            pending.needs_get = False
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
        self.outage = None
        page.is_in_flight = False
        found_on = self.lists[page.kind].page_for(page, now)
        answered = 0
        failures = []
        for task in shown.data:
            has_failed = False
            waits = self.waiters.of(page.kind, task.id)
            if not waits:
                self.ended.note(page.kind, task, now)
            for pending in waits:
                answered += pending.phase is not Phase.FETCHING_REASON
                self.missing.note_seen(pending.ref, now)
                self._apply(pending, task, now, lead, is_list=True)
                has_failed |= pending.phase is Phase.FETCHING_REASON
                if pending.page is not found_on and pending.phase is not Phase.DONE:
                    found_on.join(pending)
            if has_failed:
                failures.append(TaskRef(page.kind, task.id))
        tasks_list = self.lists[page.kind]
        result = tasks_list.apply_page(page, following, now, answered=answered)
        if not tasks_list.checks.apply_list(shown.data, now):
            tasks_list.suspend(now)
        for pending in result.lost:
            self._give_up(pending, self.missing.error(pending.ref), now)
        for pending in result.later:
            self._schedule_next(pending, now, lead, is_list=True)
        self.queue.requeue(result.requeue)
        return failures

    def apply_refusal(self, page: ListPage, now: float, *, is_unreadable: bool = False) -> None:
        """Apply an error of a page: its tasks are due again, and polled in another way.

        A page that is unreadable is read once more.
        """
        page.is_in_flight = False
        if is_unreadable and not page.is_unreadable:
            page.is_unreadable = True
            self.queue.requeue(page.tasks())
        else:
            self.queue.requeue(self.lists[page.kind].apply_refusal(page, now))

    def apply_missing(self, ref: TaskRef, error: AffinityError, *, now: float, lead: float) -> None:
        """Apply a 404, or an answer that contains no task: it may not be visible yet.

        It is polled for a while. That is done by the list where it can be, so that many tasks that
        are lost cost a few pages.
        """
        self._delays.forget()
        if ref not in self.waiters:
            # It was discarded while it was polled.
            return
        is_final = not self.missing.add(ref, error, now)
        for pending in self._undecided(ref):
            if is_final or self.missing.is_over(pending, now):
                self._give_up(pending, error, now)
                continue
            pending.asked_at = now
            pending.needs_get = False
            self.lists[ref.kind].search(pending)
            self._schedule_next(pending, now, lead)

    def apply_reason(self, ref: TaskRef, reason: str | None, now: float) -> None:
        """Deliver a failed task, with the server's reason if there is one."""
        for pending in self.waiters.of(*ref):
            if pending.phase is Phase.FETCHING_REASON:
                self._deliver(pending, pending.failed(reason, now))

    def give_up(self, ref: TaskRef, error: AffinityError, now: float) -> None:
        """Deliver a task whose state cannot be found out."""
        for pending in self._undecided(ref):
            self._give_up(pending, error, now)

    def _give_up(self, pending: PendingTask, error: AffinityError | None, now: float) -> None:
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

    def _apply(
        self,
        pending: PendingTask,
        task: MergeTask,
        now: float,
        lead: float,
        *,
        is_list: bool = False,
    ) -> None:
        if pending.phase is Phase.FETCHING_REASON:
            return
        summary = intern_summary(self._summaries, task.results_summary)
        pending.record(task.status, summary, now)
        state = OutcomeState.of(task)
        if is_list and state is not OutcomeState.RUNNING:
            self.lists[pending.kind].checks.note_listed_end(now)
        if pending.options.is_once:
            self._deliver(pending, pending.outcome(state, now))
            return
        match state:
            case OutcomeState.RUNNING:
                self._schedule_next(pending, now, lead, is_list=is_list)
            case OutcomeState.SUCCESS:
                self.started.note_end(is_early=pending.answers <= 1)
                self._deliver(pending, pending.outcome(state, now))
            case OutcomeState.FAILED:
                pending.enter(Phase.FETCHING_REASON)
                _ = pending.options.note_failure(pending.url)
            case OutcomeState.UNKNOWN:  # pragma: no branch - there is no other
                error = UnknownStatusError(pending.url, task)
                self._deliver(pending, pending.outcome(state, now, error))

    def _schedule_next(
        self, pending: PendingTask, now: float, lead: float, *, is_list: bool = False
    ) -> None:
        can_get = is_list and not self.lists[pending.kind].are_gets_paused(now)
        if now >= pending.deadline + can_get * MIN_GAP:
            self._time_out(pending, now)
            return
        if pending.phase is Phase.TIMING_OUT or (can_get and pending.needs_get):
            return
        # A poll that other waits caused does not lengthen the interval of this one: only its own
        # polls count as attempts.
        if pending.phase is not Phase.WAITING or not pending.answers:
            pending.attempt += 1
        due_at = self._due_after(pending, now)
        if due_at is None:
            return
        if now < self.finals.starts_at(pending, lead) - MIN_GAP:
            self._wait(pending, due_at, now, lead)
        elif can_get and self.finals.take_get(pending):
            pending.is_final_poll = pending.needs_get = True
            self.queue.add(pending)
        elif not is_list and now < pending.deadline - lead - MIN_GAP:
            # It was answered sooner than expected: there is time for one more.
            pending.needs_get = True
            self._wait(pending, due_at, now, lead)
        else:
            pending.enter(Phase.TIMING_OUT)
            self.timers.put(max(pending.deadline, now), pending)

    def _wait(self, pending: PendingTask, due_at: float, now: float, lead: float) -> None:
        if pending.wait(due_at, now=now, lead=self.finals.lead_of(pending, lead)):
            self.timers.put(pending.due_at, pending)
        if pending.is_final_poll:
            self.finals.add(pending)

    def _due_after(self, pending: PendingTask, now: float) -> float | None:
        # When a task that was polled now is due again; None if its strategy fails.
        try:
            due_at = self._delays.due_at(pending, now)
        except AffinityError as error:
            self._give_up(pending, error, now)
            return None
        ends_at = self.missing.ends_at(pending)
        # A poll just before the end would be repeated in the same moment.
        return due_at if ends_at is None else min(due_at, max(ends_at, now + MIN_DELAY))

    def _deliver(self, pending: PendingTask, outcome: Outcome) -> None:
        # First out of the schedule: the receiver may add or discard others.
        self.discard(pending)
        pending.options.deliver(pending, outcome)
