"""What the command line prints for people about tasks and limits, line by line."""

from collections.abc import Iterator

from aiotasks._text import counted, duration
from aiotasks.models import MergeTask, Quota


HEADING = f"{'STATUS':<12} {'MERGED':>9}  URL"
"""The line above those of tasks."""


def task_line(url: str, task: MergeTask) -> str:
    """Return a line of a list of tasks."""
    summary = task.results_summary
    merged = "" if summary is None else f"{summary.success:,} of {summary.total:,}"
    return f"{task.status:<12} {merged:>9}  {url}"


def limits(quota: Quota) -> Iterator[str]:
    """Yield what is left of the minute and of the month."""
    yield f"This minute: {_left(quota.remaining, quota.limit, quota.reset)}"
    yield f"This month:  {_left(quota.org_remaining, quota.org_limit, quota.org_reset)}"


def _left(remaining: int | None, limit: int | None, reset: float | None) -> str:
    if remaining is None:
        return "the API does not say"
    left = f"{counted(remaining, 'call')} left"
    if limit is not None:
        left = f"{remaining:,} of {counted(limit, 'call')} left"
    return left if reset is None else f"{left}, until they are reset in {duration(reset)}"
