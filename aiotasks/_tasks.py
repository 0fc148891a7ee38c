"""The verbs for tasks: look at one, wait for one or for many, list them."""

import math
from collections.abc import AsyncGenerator, Callable, Iterable
from copy import copy

from ._http import urls, wire
from ._polling.peeks import PeekCache
from ._polling.poller import Poller
from ._polling.watch import Watch
from .backoff import Backoff, poll_backoff
from .errors import ConfigurationError
from .models import Kind, MergeTask
from .outcomes import Outcome, Outcomes, Progress, TaskSnapshot


class TaskService:
    """The verbs for merge tasks; see ``Client.tasks``."""

    def __init__(self, poller: Callable[[], Poller]) -> None:
        self._poller = poller
        self._peeks = PeekCache()

    async def get(self, task_url: str) -> MergeTask:
        """Look at a task once.

        Args:
            task_url: What ``merge`` returned. Its kind and id count; the request goes to the
                client's own origin.

        Raises:
            ConfigurationError: when the URL is none of a task, or one of another host.
            NotFoundError: when there is no such task, or no more.
            AffinityError: when it cannot be learned, after retries.
        """
        transport = self._poller().transport
        ref = urls.parse_task_url(task_url, transport.origin)
        return await transport.send(wire.get_task(ref))

    async def peek(
        self,
        task_url: str,
        *,
        interval: float = 2.0,
        timeout: float = 10.0,  # noqa: ASYNC109 - it bounds the look, which others share
    ) -> TaskSnapshot:
        """Return what is known of a task, and look at it only when that is older than ``interval``.

        Made for people who look again and again: however many ask at once, and however often, a
        task is looked at once an interval. What others of this client wait for is known without
        any call of its own, and a task that has ended is not looked at again. Nothing is kept
        between the calls but the URL: any process can ask.

        Args:
            task_url: What ``merge`` returned.
            interval: How old an answer may be, in seconds.
            timeout: Seconds until a look is given up. What was seen before is answered then,
                with its age.

        Raises:
            ConfigurationError: when the URL is none of a task, or one of another host.
            TaskTimeoutError: when it was never seen, and no look came about in time.
            NotFoundError: when there is no such task, or no more.
            AffinityError: when it cannot be learned.
        """
        poller = self._poller()
        ref = urls.parse_task_url(task_url, poller.transport.origin)
        found = await self._peeks.peek(
            poller, ref, task_url, interval=interval, patience=_seconds(timeout)
        )
        if isinstance(found, TaskSnapshot):
            return found
        assert found.error is not None  # noqa: S101 - it has shown no task
        raise copy(found.error) from found.error.__cause__

    async def wait(
        self,
        task_url: str,
        *,
        timeout: float | None = 300.0,  # noqa: ASYNC109 - it bounds the server's work, not ours
        poll_interval: float = 2.0,
        max_poll_interval: float = 30.0,
        backoff: Backoff | None = None,
    ) -> MergeTask:
        """Wait until a task has succeeded, looking at it ever less often.

        The first look is at once, the next after ``poll_interval``, then 1.5 times as long each
        time up to ``max_poll_interval``, each with up to 10 % of jitter, and a last one at the
        deadline. A task that this client has started itself just now is first looked at after
        ``poll_interval``, or at its second look if hardly a task ended before that so far. A look
        that others need is shared, up to a fifth of its interval early. Outages and exhausted
        limits delay looks; they do not fail the wait. Cancelling it leaves the merge alone.

        Args:
            task_url: What ``merge`` returned.
            timeout: Seconds until the wait gives up, by at most 0.05 s late; ``None`` for never.
            poll_interval: Seconds from the first look to the second.
            max_poll_interval: The longest time between two looks, in seconds.
            backoff: Any tenacity wait strategy in place of the two intervals.

        Returns:
            The task as it ended.

        Raises:
            TaskFailedError: when a merge of it failed, with the server's reason.
            TaskTimeoutError: when the time was up; the task goes on at the server.
            UnknownStatusError: when it ended with a status that this version does not know.
            AffinityError: when it cannot be learned what became of it.
        """
        terms = (timeout, poll_interval, max_poll_interval, backoff)
        async with self._watch([task_url], *terms, is_urgent=True) as watch:
            outcome = await anext(watch)
        if outcome.error is not None:
            # An error that ends many waits is raised by each of them: each raises its own.
            raise copy(outcome.error) from outcome.error.__cause__
        assert outcome.task is not None  # noqa: S101 - a success was seen
        return outcome.task

    async def wait_many(
        self,
        task_urls: Iterable[str],
        *,
        timeout: float | None = 300.0,  # noqa: ASYNC109 - it bounds the server's work, not ours
        poll_interval: float = 2.0,
        max_poll_interval: float = 30.0,
        backoff: Backoff | None = None,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> Outcomes:
        """Wait for many tasks and return what became of each, in the order of the URLs.

        Nothing that happens to one task costs another its outcome, and nothing is raised for a
        task: outcomes are values. A key that is refused (401, 403) settles all of them at once.
        Tasks are looked at by the page, a hundred a call, where that is cheaper than one by one;
        a URL that is given twice is asked for once. The reasons of failures are asked for
        together, so that a failure may be told up to ten seconds late.

        Args:
            task_urls: Any iterable; it is read at once.
            timeout: Seconds for all of them together; ``None`` for no limit.
            poll_interval: As for ``wait``, for each task by itself.
            max_poll_interval: As for ``wait``.
            backoff: As for ``wait``.
            on_progress: Called with a ``Progress`` after each outcome, in this task. What it
                raises ends the wait.

        Raises:
            ConfigurationError: when a setting cannot be used, or ``task_urls`` is one string.
        """
        watch = self.watch(
            task_urls,
            timeout=timeout,
            poll_interval=poll_interval,
            max_poll_interval=max_poll_interval,
            backoff=backoff,
        )
        async with watch:
            outcomes: list[Outcome | None] = [None] * watch.count
            for done in range(1, watch.count + 1):
                index, outcome = await watch.next_settled()
                outcomes[index] = outcome
                if on_progress is not None:
                    on_progress(Progress(total=watch.count, done=done, outcome=outcome))
        return Outcomes([outcome for outcome in outcomes if outcome is not None])

    def watch(
        self,
        task_urls: Iterable[str] = (),
        *,
        timeout: float | None = 300.0,
        poll_interval: float = 2.0,
        max_poll_interval: float = 30.0,
        backoff: Backoff | None = None,
    ) -> Watch:
        """Return a watch: outcomes as they settle, and more URLs at any time.

        The settings are those of ``wait``; each task's ``timeout`` counts from when it was added.

        Raises:
            ConfigurationError: when a setting cannot be used, or ``task_urls`` is one string.
        """
        if isinstance(task_urls, str | bytes):
            message = "task_urls is a single string: give a list, or use wait() for one task"
            raise ConfigurationError(message)
        return self._watch(task_urls, timeout, poll_interval, max_poll_interval, backoff)

    async def list(self, kind: Kind, *, status: str | None = None) -> AsyncGenerator[MergeTask]:
        """Iterate over the organization's tasks of a kind, newest first, page by page.

        Args:
            kind: ``"company"`` or ``"person"``.
            status: Only tasks with this status.

        Raises:
            ConfigurationError: when the kind or the status cannot be used.
            AffinityError: when a page cannot be read, after retries.
        """
        async for task in self._poller().transport.pages(wire.list_tasks(kind, status)):
            yield task

    def _watch(
        self,
        task_urls: Iterable[str],
        timeout: float | None,
        poll_interval: float,
        max_poll_interval: float,
        backoff: Backoff | None,
        *,
        is_urgent: bool = False,
    ) -> Watch:
        poller = self._poller()
        schedule = poll_backoff(poll_interval, max_poll_interval) if backoff is None else backoff
        return Watch(poller, task_urls, _seconds(timeout), schedule, is_urgent=is_urgent)


def _seconds(timeout: float | None) -> float:
    if timeout is None:
        return math.inf
    if not 0 <= timeout < math.inf:
        message = f"timeout must be a number of seconds, 0 or more, or None, not {timeout!r}"
        raise ConfigurationError(message)
    return timeout
