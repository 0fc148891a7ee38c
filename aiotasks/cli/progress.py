"""Progress on standard error: a bar on a terminal, else a line every half minute."""

import asyncio
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from aiotasks._text import counted, duration
from aiotasks.client import Client
from aiotasks.dedupe import CanaryPassed, JobEvent, JobProgress, PairState, Stopping, StopReason

from .output import errors_console, is_quiet, note


_LINE_EVERY = 30.0
_CUT_OFF = (
    "No answer from the API. The job waits for up to ten minutes, and continues by itself; "
    "Ctrl-C stops it safely."
)


class JobProgressBar:
    """Shows the progress of a job, as its ``on_progress`` and ``on_event``.

    The event loop draws it: rich's own refreshing would use a thread.
    """

    def __init__(self) -> None:
        self.is_empty = True
        self._is_cut_off = False
        self._shown_at = -_LINE_EVERY
        self._bar = Progress(
            TextColumn("Merging"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=errors_console,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=None)
        self._note = Text(no_wrap=False, overflow="fold")
        self._live = Live(
            Group(self._bar, self._note),
            console=errors_console,
            auto_refresh=False,
            transient=True,
        )

    def __enter__(self) -> Self:
        if errors_console.is_terminal and not is_quiet():
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, progress: JobProgress) -> None:
        """Show a snapshot of the progress."""
        self.is_empty = False
        words = " · ".join(_notes(progress))
        if progress.is_cut_off is not self._is_cut_off:
            self._is_cut_off = progress.is_cut_off
            note(_CUT_OFF if progress.is_cut_off else "The API answers again.")
        if errors_console.is_terminal and not is_quiet():
            self._bar.update(self._task, total=progress.total, completed=progress.ended)
            self._note.plain = words
            self._live.refresh()
            return
        now = asyncio.get_running_loop().time()
        if now - self._shown_at >= _LINE_EVERY:
            self._shown_at = now
            note(f"{progress.ended:,} of {counted(progress.total, 'pair')} · {words}")

    def end(self, result: Mapping[str, Any]) -> None:
        """Show nothing more: what came of the job is said in words."""

    def report(self, event: JobEvent) -> None:
        """Show an event that happens rarely; transitions of pairs are not shown."""
        if isinstance(event, CanaryPassed):
            note(f"{event.ended} of the first merges have succeeded; the others start now.")
        elif isinstance(event, Stopping) and event.reason is not StopReason.INTERRUPTED:
            note(f"No more merges are started; the open ones have {event.grace:g} s to end.")


def _notes(progress: JobProgress) -> list[str]:
    totals = progress.totals
    notes = [f"{progress.open:,} open"]
    notes += [
        f"{totals[state]:,} {state}"
        for state in (PairState.FAILED, PairState.REFUSED, PairState.UNSETTLED)
        if totals[state]
    ]
    notes.append(f"{progress.per_minute:,.0f} a minute")
    if progress.seconds_left is not None and progress.ended < progress.total:
        notes.append(f"{duration(progress.seconds_left)} left")
    notes.append(f"{counted(progress.calls, 'call')}{_month(progress)}")
    if progress.waiting_for is not None:
        notes.append(f"waits for {progress.waiting_for}")
    return notes


def _month(progress: JobProgress) -> str:
    if progress.month_used is None or not progress.month_limit:
        return ""
    return f", {progress.month_used / progress.month_limit:.0%} of the month used"


_REFRESH = 0.25


class WaitProgressBar:
    """Shows the progress of a wait, if standard error is a terminal.

    The event loop draws it: rich's own refreshing would use a thread.
    """

    def __init__(self, title: str, total: int, client: Client) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        self._progress = Progress(
            *columns,
            console=errors_console,
            auto_refresh=False,
            transient=True,
            disable=is_quiet() or not errors_console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=total, note="")
        self._client = client
        self._counted = ""

    def __enter__(self) -> Self:
        self._progress.start()
        self._tick()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        # Some versions of rich end a progress that is not shown with an empty line.
        if not self._progress.disable:
            self._progress.stop()

    def advance(self, counted: str = "") -> None:
        """Advance the bar by one task."""
        self._counted = counted
        self._progress.advance(self._task)

    def _tick(self) -> None:
        quota = self._client.quota
        notes = [self._counted, counted(quota.sent, "call")]
        if quota.remaining == 0 and quota.reset is not None:
            notes.append(f"the minute's limit is used up, {quota.reset:.0f} s to go")
        self._progress.update(self._task, note=" · ".join(filter(None, notes)), refresh=True)
        self._timer = asyncio.get_running_loop().call_later(_REFRESH, self._tick)
