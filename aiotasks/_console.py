"""What the command line shows, and what its exit codes mean."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from enum import IntEnum
from itertools import islice
from typing import Any, Self

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ._text import printable
from .client import Client
from .errors import (
    AffinityError,
    AuthenticationError,
    AuthorizationError,
    ClosedError,
    ConfigurationError,
    LedgerError,
    MonthlyQuotaError,
    NetworkError,
    PlanError,
    ServerError,
)
from .models import MergeTask
from .outcomes import Outcome, OutcomeState


class Exit(IntEnum):
    """What the command came to; of several, the highest counts."""

    SUCCEEDED = 0
    FAILED = 1
    WRONG_USE = 2
    RUNNING = 3
    NOT_AUTHORISED = 4
    UNREACHABLE = 5
    STOPPED = 6


_EXIT_OF_ERROR: tuple[tuple[tuple[type[AffinityError], ...], Exit], ...] = (
    ((ConfigurationError, ClosedError, PlanError, LedgerError), Exit.WRONG_USE),
    ((AuthenticationError, AuthorizationError), Exit.NOT_AUTHORISED),
    ((NetworkError, ServerError), Exit.UNREACHABLE),
    ((MonthlyQuotaError,), Exit.RUNNING),
)
EXIT_OF_STATE = {
    OutcomeState.SUCCESS: Exit.SUCCEEDED,
    OutcomeState.FAILED: Exit.FAILED,
    OutcomeState.RUNNING: Exit.RUNNING,
    OutcomeState.UNKNOWN: Exit.FAILED,
}

_REFRESH = 0.25
_MOST_PROBLEMS = 10

errors_console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


class Tally:
    """Counts outcomes, and keeps what is to be said of them at the end."""

    def __init__(self, places: Mapping[str, str] | None = None) -> None:
        self.exit = Exit.SUCCEEDED
        self.reasons: Counter[str] = Counter()
        self._states: Counter[OutcomeState] = Counter()
        self._places = places or {}
        self._problems: dict[str, None] = {}

    def add(self, outcome: Outcome) -> None:
        self._states[outcome.state] += 1
        if outcome.state is OutcomeState.FAILED:
            self.reasons[outcome.reason or "the server gave no reason"] += 1
        self.exit = max(self.exit, EXIT_OF_STATE[outcome.state])
        if outcome.state is OutcomeState.UNKNOWN and outcome.error is not None:
            self.exit = max(self.exit, exit_of(outcome.error))
            self._problems[f"{self._places.get(outcome.url, '')}{outcome.error}"] = None

    def counted(self) -> str:
        words = {OutcomeState.SUCCESS: "succeeded", OutcomeState.RUNNING: "still running"}
        states = [state for state in OutcomeState if self._states[state]]
        return ", ".join(f"{self._states[state]} {words.get(state, state)}" for state in states)

    def say(self) -> None:
        for problem in islice(self._problems, _MOST_PROBLEMS):
            say(problem)
        if len(self._problems) > _MOST_PROBLEMS:
            say(f"… and {len(self._problems) - _MOST_PROBLEMS} more such problems")
        say(self.counted())


class Screen:
    """A line of progress on standard error, if that is a terminal.

    It is drawn by the event loop: rich's own refreshing would leave a thread behind.
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
            disable=not errors_console.is_terminal,
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
        self._progress.stop()

    def advance(self, counted: str = "") -> None:
        self._counted = counted
        self._progress.advance(self._task)

    def _tick(self) -> None:
        quota = self._client.quota
        notes = [self._counted, f"{quota.sent} calls"]
        if quota.remaining == 0 and quota.reset is not None:
            notes.append(f"the minute's limit is used up, {quota.reset:.0f} s to go")
        self._progress.update(self._task, note=" · ".join(filter(None, notes)), refresh=True)
        self._timer = asyncio.get_running_loop().call_later(_REFRESH, self._tick)


def print_task(url: str, task: MergeTask) -> None:
    print_line({"url": url, "task": task})


def print_outcome(outcome: Outcome) -> None:
    error = None if outcome.error is None else str(outcome.error)
    line = {name: getattr(outcome, name) for name in Outcome.__struct_fields__}
    print_line({**line, "error": error, "waited": round(outcome.waited, 3)})


def print_line(line: dict[str, Any]) -> None:
    typer.echo(msgspec.json.encode(line))


def say(text: str) -> None:
    # Much of what is said is the server's.
    errors_console.print("\n".join(map(printable, text.split("\n"))))


def exit_of(error: AffinityError) -> Exit:
    for classes, code in _EXIT_OF_ERROR:
        if isinstance(error, classes):
            return code
    return Exit.FAILED
