"""Progress of a job as JSON lines on standard output, for programs that run the command."""

from collections.abc import Mapping
from typing import Any, Self

from aiotasks.dedupe import CanaryPassed, JobEvent, JobProgress, Stopping

from .output import emit_line


class JsonProgress:
    """Prints the progress of a job, as its ``on_progress`` and ``on_event``."""

    def __init__(self) -> None:
        self.is_empty = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, progress: JobProgress) -> None:
        """Print a snapshot of the progress."""
        self.is_empty = False
        counts = {"total": progress.total, "ended": progress.ended, "open": progress.open}
        emit_line({"type": "progress", **counts, **progress.to_dict()})

    def report(self, event: JobEvent) -> None:
        """Print an event that happens rarely; transitions of pairs are in the ledger."""
        if isinstance(event, CanaryPassed):
            emit_line({"type": "canary-passed", "ended": event.ended})
        elif isinstance(event, Stopping):
            emit_line({"type": "stopping", "reason": event.reason, "grace": event.grace})

    def end(self, result: Mapping[str, Any]) -> None:
        """Print what came of the job."""
        emit_line({"type": "result", **result})
