"""Checks of the list by GETs, and of the GETs by the list: neither may be right for ever."""

import logging
import math

from aiotasks.models import Kind, MergeTask
from aiotasks.outcomes import OutcomeState

from .pending import PendingTask


_log = logging.getLogger("aiotasks")

# Choices: a task that only pages show as in progress is polled by GET after so long, which is one of
# 5,000 merges; and one of all tasks is while the list has shown no end for so long.
CHECK_TASK = 300.0
CHECK_LIST = 180.0
# A choice: after an outage many tasks have not been polled for long.
_PAUSE = 10.0
# A choice: a list that shows a task in progress so long after its end does not lag, it is stale.
STALE = 30.0
# Choices: GETs pause when so many were refused in a row, at different times, as the limit may be one
# of GETs alone. They are tried again after ever longer times, and when the list is refused, too.
MAX_REFUSED = 5
_APART = 1.0
_FIRST_PAUSE = 60.0
_LONGEST_PAUSE = 900.0


class CrossChecks:
    """What is known of how far the list of one kind, and GETs of its tasks, can be relied on."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._end_listed_at = 0.0
        self._checked_at = 0.0
        # The task that a GET last showed as ended, and when.
        self._ended: tuple[str, float] | None = None
        self._refused = 0
        self._refused_at = -math.inf
        self._is_pause_told = False
        self._pause = _FIRST_PAUSE
        self._paused_until = 0.0

    def take_check(self, pending: PendingTask, now: float) -> bool:
        """Return True if a task is to be polled by GET, although a page would show it."""
        age = now - pending.asked_at
        if age <= CHECK_LIST or not pending.answers or now - self._checked_at < _PAUSE:
            return False
        if age <= CHECK_TASK and now - max(self._end_listed_at, self._checked_at) <= CHECK_LIST:
            return False
        self._checked_at = now
        return True

    def apply_get(self, task: MergeTask, now: float) -> None:
        """Note what a GET has shown."""
        self._refused, self._pause, self._is_pause_told = 0, _FIRST_PAUSE, False
        if OutcomeState.of(task) is not OutcomeState.RUNNING:
            self._ended = (task.id, now)

    def apply_list(self, tasks: list[MergeTask], now: float) -> bool:
        """Note what a page has shown. Returns False if it was stale."""
        if self.are_gets_paused(now) and not self._is_pause_told:
            self._is_pause_told = True
            _log.warning(
                "Polls of single %s merge tasks are refused: polling them by the list", self._kind
            )
        if self._ended is None or now - self._ended[1] <= STALE:
            return True
        shown = next((task for task in tasks if task.id == self._ended[0]), None)
        if shown is None:
            return True
        if OutcomeState.of(shown) is OutcomeState.RUNNING:
            _log.warning("The list of %s merge tasks is stale: polling each task", self._kind)
            return False
        self._ended = None
        return True

    def note_listed_end(self, now: float) -> None:
        """Note that a page has shown the end of a task."""
        self._end_listed_at = now

    def note_refusal(self, now: float, *, is_list: bool) -> None:
        """Note that a poll was refused for a rate limit, which the other way of polling may not be."""
        if is_list:
            self._refused, self._paused_until, self._pause = 0, 0.0, _FIRST_PAUSE
            return
        # What was refused at one time is one event.
        self._refused += now >= self._refused_at + _APART
        self._refused_at = now
        if self._refused >= MAX_REFUSED and not self.are_gets_paused(now):
            self._paused_until = now + self._pause
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def are_gets_paused(self, now: float) -> bool:
        """Return True while tasks are polled by the list alone."""
        return now < self._paused_until
