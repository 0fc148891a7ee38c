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
        self.catalogues = {kind: TaskList(kind) for kind in get_args(Kind)}
        self._waiters = Waiters()
        self._timetable = WakeQueue()
        self._due: deque[PendingTask] = deque()
        self._asked: set[TaskRef] = set()
        self._fresh = Fresh()
        self._summaries = Summaries()
        self._wakes = SharedDelays()

    @property
    def tasks(self) -> int:
        """How many different tasks are waited for."""
        return len(self._waiters)

    def wanted(self, ref: TaskRef) -> list[PendingTask]:
        """Return those who wait for a task."""
        return self._waiters.of(ref.kind, ref.id)

    def seen(self, ref: TaskRef) -> PendingTask | None:
        """Return somebody who waits for a task and has been told of it, if there is one."""
        return self._waiters.told(ref.kind, ref.id)

    def next_of(self, kind: Kind, ref: TaskRef | None) -> PendingTask | None:
        """Return what waits for its next look: a task, or one of a kind."""
        waiting = self.wanted(ref) if ref else (each for each in self._waiters if each.kind == kind)
        later = (each for each in waiting if each.phase is Phase.WAITING)
        return min(later, key=attrgetter("looked"), default=None)

    def hasten(self, pending: PendingTask, now: float) -> None:
        """Let what waits for its next look be due at once."""
        self._wake_at(pending, now)

    def is_wanted(self, question: PollTarget) -> bool:
        """Say whether anybody still waits for what a question will tell."""
        if isinstance(question, ListPage):
            return question.size > 0
        return question in self._waiters

    def is_urgent(self, ref: TaskRef) -> bool:
        """Say whether somebody waits for just this task."""
        return any(pending.terms.is_urgent for pending in self.wanted(ref))

    def note_started(self, ref: TaskRef, now: float) -> None:
        """Take in that this client has started a task just now."""
        self._fresh.note(ref, now)

    def add(self, pending: PendingTask) -> None:
        """Take in a task. It is due at once, unless it was started by this client just now."""
        self._waiters.add(pending)
        self.count += 1
        self.catalogues[pending.kind].walk.join(pending)
        self._timetable.put(pending.deadline + GRACE, pending)
        may_wait = pending.terms.timeout > 0 and not pending.terms.is_once
        if may_wait and self._fresh.has(pending.ref, pending.since):
            self._look_later(pending, pending.since, 0.0)
            self._skip_first_look(pending)
        else:
            self._wake_at(pending, pending.since)

    def next_wake(self) -> float:
        """Return when ``advance`` has to be called next."""
        return self._timetable.next

    def advance(self, now: float) -> None:
        """Let time pass: what is due is queued to be asked for, what is out of time settles."""
        late = set()
        for when, row in self._timetable.pop(now):
            for pending in row:
                if pending in late:
                    # A loop that was held up must not cost the look that is due.
                    self._timetable.put(now + GRACE, pending)
                elif when > pending.deadline:
                    self._run_out(pending, now)
                elif self._holds(when, pending):
                    self._enter(pending, Phase.DUE)
                    (self._due.appendleft if pending.terms.is_urgent else self._due.append)(pending)
                    if now > when + GRACE:
                        late.add(pending)
        self._sweep()

    def _run_out(self, pending: PendingTask, now: float) -> None:
        if pending.phase is not Phase.DONE:
            self._deliver(pending, cut_short(pending, now))

    @property
    def has_due(self) -> bool:
        """Whether something is to be asked."""
        self._skip_asked()
        if not self._due:
            self._resume_walks()
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
        pages += filter(None, (catalogue.best(now) for catalogue in self.catalogues.values()))
        best = max(pages, key=lambda page: page.value(now), default=None)
        is_worth_less = not head.terms.is_urgent and best and best.value(now) >= head.value(now)
        if best and (own or is_worth_less):
            best.is_asked = True
            return best
        self._asked.add(head.ref)
        return head.ref

    def put_back(self, question: PollTarget) -> None:
        """Queue again what a question was to tell and did not."""
        if isinstance(question, ListPage):
            if question.is_asked:
                question.is_asked = False
                self._requeue(question.present())
        else:
            self._asked.discard(question)
            self._requeue(self.wanted(question))

    def see(self, ref: TaskRef, task: MergeTask, *, now: float, lead: float) -> bool:
        """Take in what a task looks like; say whether a reason of its failure is to be asked for.

        ``lead`` is how long before a deadline a look must start for its answer to be in time.
        """
        self._wakes.forget()
        waiting = self.wanted(ref)
        for pending in waiting:
            self._take_in(pending, task, now, lead)
            if pending.leaf is None and pending.phase is not Phase.DONE:
                self.catalogues[ref.kind].walk.join(pending)
        return any(pending.phase is Phase.FETCHING_REASON for pending in waiting)

    def see_page(
        self,
        leaf: ListPage,
        page: Page[MergeTask],
        following: Listing | None,
        *,
        now: float,
        lead: float,
    ) -> list[TaskRef]:
        """Take in a page; return the tasks for which the reason of a failure is to be asked for."""
        self._wakes.forget()
        leaf.is_asked = False
        target = self.catalogues[leaf.kind].opened(leaf, now)
        answered = 0
        failures = []
        for task in page.data:
            waiting = self._waiters.of(leaf.kind, task.id)
            for pending in waiting:
                answered += pending.phase is not Phase.FETCHING_REASON
                self._take_in(pending, task, now, lead)
                if pending.leaf is not target and pending.phase is not Phase.DONE:
                    target.join(pending)
            if waiting and waiting[0].phase is Phase.FETCHING_REASON:
                failures.append(waiting[0].ref)
        self._after_page(leaf, following, now, lead, has_paid=answered >= MIN_DUE)
        return failures

    def refuse(self, leaf: ListPage, now: float) -> None:
        """Take in that a page was refused: its tasks are asked for by themselves."""
        leaf.is_asked = False
        catalogue = self.catalogues[leaf.kind]
        if leaf is catalogue.walk:
            catalogue.rest(now)
            self._requeue(leaf.present())
        else:
            self._to_walk(leaf, leaf.present())

    def miss(self, ref: TaskRef, *, now: float, lead: float) -> bool:
        """Take in a 404; say whether it only means that the task, started just now, is to come."""
        if not self._fresh.has(ref, now):
            return False
        self._wakes.forget()
        for pending in self._undecided(ref):
            self._look_later(pending, now, lead)
        return True

    def explain(self, ref: TaskRef, reason: str | None, now: float) -> None:
        """Settle a failed task, with the server's reason if it gave one."""
        for pending in self.wanted(ref):
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
        if pending.leaf is not None:
            pending.leaf.leave(pending)
        pending.phase = Phase.DONE
        self.count -= 1
        self._waiters.remove(pending)
        self._sweep()

    def _undecided(self, ref: TaskRef) -> list[PendingTask]:
        return [
            pending for pending in self.wanted(ref) if pending.phase is not Phase.FETCHING_REASON
        ]

    def _page_of(self, pending: PendingTask, now: float) -> ListPage | None:
        leaf = pending.leaf
        if leaf is None or self.catalogues[pending.kind].is_resting(now):
            return None
        return leaf if leaf.pays(now) else None

    def _skip_asked(self) -> None:
        # Whoever is passed over here is queued again when the answer that is under way fails.
        while self._due:
            head = self._due[0]
            if head.phase is Phase.DUE:
                if not (head.leaf and head.leaf.is_asked) and head.ref not in self._asked:
                    return
                head.phase = Phase.IN_FLIGHT
            self._due.popleft()

    def _resume_walks(self) -> None:
        # Only one task is queued to keep a walk going. If that settles or is seen elsewhere, the
        # others must not wait for it.
        for catalogue in self.catalogues.values():
            if not catalogue.walk.is_asked and catalogue.walk.due > len(self._asked):
                self._requeue(catalogue.walk.present())
        self._skip_asked()

    def _requeue(self, waiting: Iterable[PendingTask]) -> None:
        for pending in waiting:
            if pending.phase is Phase.IN_FLIGHT:
                pending.phase = Phase.DUE
                self._due.append(pending)

    def _after_page(
        self, leaf: ListPage, following: Listing | None, now: float, lead: float, *, has_paid: bool
    ) -> None:
        catalogue = self.catalogues[leaf.kind]
        if leaf is not catalogue.walk:
            unseen = [pending for pending in leaf.present() if pending.is_due]
            self._to_walk(leaf, unseen)
        else:
            below = catalogue.below(MIN_DUE)
            if catalogue.step(following, has_paid=has_paid and len(below) >= MIN_DUE):
                # One of them is enough to keep the walk going.
                self._requeue(below[:1])
                return
            unseen = self._end_walk(catalogue, now, lead)
        if has_paid or unseen:
            catalogue.note(now, has_paid=has_paid)

    def _to_walk(self, leaf: ListPage, unseen: list[PendingTask]) -> None:
        catalogue = self.catalogues[leaf.kind]
        for pending in unseen:
            catalogue.walk.join(pending)
        self._requeue(unseen)
        if not leaf.size:
            catalogue.close(leaf)

    def _end_walk(self, catalogue: TaskList, now: float, lead: float) -> list[PendingTask]:
        # The list may lag: a task that was started just now is given time to appear in it, unless
        # somebody waits for just this one.
        catalogue.walk.members = catalogue.walk.present()
        unseen = catalogue.below()
        late = [pending for pending in unseen if not self._may_wait(pending, now)]
        for pending in late:
            catalogue.walk.leave(pending)
        self._requeue(late)
        # Whoever is due soon would only read the same page again.
        soon = [p for p in catalogue.walk.present() if p.is_due_soon(now)]
        for pending in (*catalogue.below(), *soon):
            if self._may_wait(pending, now):
                self._look_later(pending, now, lead)
        self._requeue(catalogue.walk.present())
        return late

    def _may_wait(self, pending: PendingTask, now: float) -> bool:
        return self._fresh.has(pending.ref, now) and not pending.terms.is_urgent

    def _skip_first_look(self, pending: PendingTask) -> None:
        # Tasks that end before the second look are rare, or were so far; if that changes, such a
        # task is noticed one interval late.
        if pending.phase is Phase.WAITING and self._early < _EARLY_SHARE * self._ended:
            self._look_later(pending, pending.wake, 0.0)

    def _take_in(self, pending: PendingTask, task: MergeTask, now: float, lead: float) -> None:
        if pending.phase is Phase.FETCHING_REASON:
            return
        pending.status = task.status
        pending.summary = self._summaries.shared(task.results_summary)
        pending.polls += 1
        if pending.terms.is_once:
            self._deliver(pending, outcome(pending, OutcomeState.of(task), now, None))
            return
        match OutcomeState.of(task):
            case OutcomeState.RUNNING:
                self._look_later(pending, now, lead)
            case OutcomeState.SUCCESS:
                self._ended += 1
                self._early += pending.polls <= 1
                self._deliver(pending, outcome(pending, OutcomeState.SUCCESS, now, None))
            case OutcomeState.FAILED:
                self._enter(pending, Phase.FETCHING_REASON)
            case OutcomeState.UNKNOWN:  # pragma: no branch - there is no other
                error = UnknownStatusError(pending.url, task)
                self._deliver(pending, outcome(pending, OutcomeState.UNKNOWN, now, error))

    def _look_later(self, pending: PendingTask, now: float, lead: float) -> None:
        # The look that others needed is not the last one of a task that waits for its own.
        if (pending.is_last_look and pending.is_due) or now >= pending.deadline:
            self._deliver(pending, cut_short(pending, now))
            return
        # The looks of others bring news, but must not make this wait any slower.
        if pending.phase is not Phase.WAITING or not pending.polls:
            pending.looks += 1
        try:
            wake = self._wakes.of(pending, now)
        except AffinityError as error:
            self._deliver(pending, outcome(pending, OutcomeState.UNKNOWN, now, error))
            return
        last_look = max(pending.deadline - lead, now)
        pending.is_last_look = wake >= last_look
        when = min(wake, last_look)
        is_set = pending.phase is Phase.WAITING and pending.wake == when
        self._enter(pending, Phase.WAITING)
        pending.looked = now
        # The looks of others leave a last look where it is: it needs no second entry.
        if not is_set:
            self._wake_at(pending, when)

    def _enter(self, pending: PendingTask, phase: Phase) -> None:
        was_due, pending.phase = pending.is_due, phase
        change = pending.is_due - was_due
        if change and pending.leaf is not None:
            pending.leaf.weigh(pending, change)

    def _deliver(self, pending: PendingTask, end: Outcome) -> None:
        self.discard(pending)
        pending.terms.deliver(pending, end)

    def _wake_at(self, pending: PendingTask, when: float) -> None:
        pending.wake = when
        self._timetable.put(when, pending)

    def _holds(self, when: float, pending: PendingTask) -> bool:
        if when > pending.deadline:
            return pending.phase is not Phase.DONE
        return pending.phase is Phase.WAITING and pending.wake == when

    def _sweep(self) -> None:
        # Entries are left behind where they lie; now and then they are swept out together.
        if len(self._timetable) > (3 * self.count + _LEFT_BEHIND if self.count else 0):
            self._timetable.sweep(self._holds)
            self._due = deque(pending for pending in self._due if pending.is_due)
