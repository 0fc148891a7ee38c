"""The verbs for tasks: read one, wait for one or for many, list them."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from copy import copy

from ._checks import known_kind, reject
from ._http import urls, wire
from ._open_client import OpenClient
from ._polling.watch import Watch
from ._spans import span
from .backoff import Backoff, poll_backoff, retry_delay
from .errors import ConfigurationError, NotFoundError
from .models import Kind, MergeTask
from .outcomes import Outcome, Outcomes, Progress, TaskSnapshot


# A choice: five requests take up to 11 s, and replicas lag by two at most times.
_VISIBILITY_ATTEMPTS = 5


class TaskService:
    """The verbs for merge tasks; see ``Client.tasks``.

    The API's rules for tasks: https://developer.affinity.co/docs/v2
    """

    def __init__(self, require_open: Callable[[], OpenClient]) -> None:
        self._require_open = require_open

    async def get(self, task_url: str) -> MergeTask:
        """Read a task once.

        A task that this client started within the last half minute may not be visible yet: it is
        asked for again for up to eleven seconds.

        Args:
            task_url: What ``merge`` returned. Its kind and id count; the request goes to the
                client's own origin.

        Raises:
            ConfigurationError: when it is not a task URL, or one of another host.
            NotFoundError: when there is no such task, or no longer.
            AffinityError: when it cannot be read, after retries.
        """
        opened = self._require_open()
        ref = urls.parse_task_url(task_url, opened.transport.origin)
        attempt = 1
        while True:
            try:
                task = await opened.transport.send(wire.get_task(ref))
            except NotFoundError:
                if attempt == _VISIBILITY_ATTEMPTS or not opened.poller.has_just_started(ref):
                    raise
            else:
                wire.require_id(task, ref)
                return task
            await asyncio.sleep(retry_delay(attempt))
            attempt += 1

    async def peek(
        self,
        task_url: str,
        *,
        interval: float = 2.0,
        timeout: float = 10.0,  # noqa: ASYNC109 - it bounds a poll that callers share
    ) -> TaskSnapshot:
        """Return what is known of a task, and poll it only when that is older than ``interval``.

        Made for pages that are reloaded again and again: however many callers there are, a task is
        polled at most once per interval. News that a wait of this client gets counts too, and a
        task that has ended is not polled again. Callers keep nothing but the URL between their
        calls, so any process can ask. A task that is not found may not be visible yet: it is polled
        for three seconds.

        Args:
            task_url: What ``merge`` returned.
            interval: How old an answer may be, in seconds.
            timeout: Seconds until a poll is given up. An earlier answer is returned then, with its
                age.

        Raises:
            ConfigurationError: when it is not a task URL, or one of another host.
            TaskTimeoutError: when there is no earlier answer, and no poll succeeded in time.
            NotFoundError: when there is no such task, or no longer.
            AffinityError: when it cannot be read.
        """
        opened = self._require_open()
        ref = urls.parse_task_url(task_url, opened.transport.origin)
        found = await opened.peeks.peek(
            opened.poller, ref, task_url, interval=interval, patience=_seconds(timeout)
        )
        if isinstance(found, TaskSnapshot):
            return found
        raise _own_error(found)

    async def wait(
        self,
        task_url: str,
        *,
        timeout: float | None = 300.0,  # noqa: ASYNC109 - it bounds the server's work, not ours
        poll_interval: float = 2.0,
        max_poll_interval: float = 30.0,
        backoff: Backoff | None = None,
    ) -> MergeTask:
        """Wait until a task has succeeded, with exponential backoff between the polls.

        The first poll is immediate, or not needed if a list page has shown within the last minute
        that the task has ended; the next follows after ``poll_interval``, then 1.5 times as
        long each time up to ``max_poll_interval``, each with up to 10 % of jitter. The last one
        leaves so early that it is answered by the deadline if the API is as fast as it is then, and
        asks for the task itself, as lists may be stale. Tasks started by this client are first
        polled after ``poll_interval``; that poll is skipped while fewer than 10 % of tasks finish
        that early, and none is put off beyond half of the ``timeout``. A poll may run up to 20 % of
        its interval early to share a request. Outages and exhausted limits delay polls; they do not
        fail the wait. Cancelling the wait does not affect the merge.

        A task that is not found, or is answered without a body, may not be visible yet: it is
        polled for ten seconds more, and for half a minute after this client started it.

        Args:
            task_url: What ``merge`` returned.
            timeout: Seconds until the wait gives up, at most 0.05 s late; ``None`` for never.
            poll_interval: Seconds from the first poll to the second.
            max_poll_interval: The longest time between two polls, in seconds.
            backoff: Any tenacity wait strategy in place of the two intervals.

        Returns:
            The task as it ended.

        Raises:
            TaskFailedError: when a merge of it failed, with the server's reason.
            TaskTimeoutError: when the time was up; the task goes on at the server. If it was never
                seen, the error says why.
            NotFoundError: when there is no such task, or no longer.
            UnknownStatusError: when it ended with a status that this version does not know.
            AffinityError: when its end cannot be read.
        """
        options = (timeout, poll_interval, max_poll_interval, backoff)
        with span("wait", task_url=task_url):
            async with self._watch([task_url], *options, is_urgent=True) as watch:
                outcome = await anext(watch)
            if outcome.error is not None:
                raise _own_error(outcome)
        assert outcome.task is not None  # noqa: S101 - only a task that was read succeeds
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
        """Wait for many tasks and return one outcome per URL, in the order of the URLs.

        No task costs another its outcome, and no task raises: outcomes are values. A key that is
        refused (401, 403) ends all of them immediately. Tasks are polled by list pages, a hundred a
        call, where that is cheaper than one by one; a URL that is given twice is polled once. The
        reasons of failures are fetched together, so a failure may be reported up to ten seconds
        late.

        Args:
            task_urls: Any iterable; it is consumed immediately.
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
        with span("wait_many"):
            return await self._all_outcomes(watch, on_progress)

    @staticmethod
    async def _all_outcomes(
        watch: Watch, on_progress: Callable[[Progress], object] | None
    ) -> Outcomes:
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
        on_failure: Callable[[str], object] | None = None,
    ) -> Watch:
        """Return a watch: outcomes in the order in which tasks end, and more URLs at any time.

        The settings are those of ``wait``; each task's ``timeout`` counts from when it was added.
        ``on_failure`` is called with the URL of a task as soon as a poll shows that it failed: its
        outcome follows with the reason, up to ten seconds later. It must not raise.

        Raises:
            ConfigurationError: when a setting cannot be used, or ``task_urls`` is one string.
        """
        if isinstance(task_urls, str | bytes):
            reject("task_urls is a single string: give a list, or use wait() for one task")
        return self._watch(
            task_urls, timeout, poll_interval, max_poll_interval, backoff, on_failure=on_failure
        )

    async def list(
        self, kind: Kind, *, status: str | None = None, limit: int | None = None
    ) -> AsyncGenerator[MergeTask]:
        """Iterate over the organization's tasks of a kind, newest first, page by page.

        Args:
            kind: ``"company"`` or ``"person"``.
            status: Only tasks with this status.
            limit: At most so many, a hundred of them a call; ``None`` for all.

        Raises:
            ConfigurationError: when the kind or the status cannot be used.
            AffinityError: when a page cannot be read, after retries.
        """
        pages = self._require_open().transport.pages(wire.list_tasks(kind, status))
        left = math.inf if limit is None else limit
        async with aclosing(pages) as tasks:
            while left > 0 and (task := await anext(tasks, None)) is not None:
                yield task
                left -= 1

    def url_of(self, kind: Kind, task_id: str) -> str:
        """Return the URL of a task of which only the kind and the id are known.

        ``list`` and the merge history name tasks by their ids.

        Raises:
            ConfigurationError: when the kind cannot be used.
        """
        return urls.task_url(
            self._require_open().transport.origin, urls.TaskRef(known_kind(kind), task_id)
        )

    def _watch(
        self,
        task_urls: Iterable[str],
        timeout: float | None,
        poll_interval: float,
        max_poll_interval: float,
        backoff: Backoff | None,
        *,
        is_urgent: bool = False,
        on_failure: Callable[[str], object] | None = None,
    ) -> Watch:
        opened = self._require_open()
        schedule = poll_backoff(poll_interval, max_poll_interval) if backoff is None else backoff
        return Watch(
            opened.poller,
            task_urls,
            _seconds(timeout),
            schedule,
            origin=opened.transport.origin,
            is_urgent=is_urgent,
            on_failure=on_failure,
        )


def _own_error(outcome: Outcome) -> Exception:
    # One error may end many waits: each raises a copy, so that their tracebacks stay apart.
    assert outcome.error is not None  # noqa: S101 - only outcomes with an error get here
    error = copy(outcome.error)
    error.__cause__ = outcome.error.__cause__
    return error


def _seconds(timeout: float | None) -> float:
    if timeout is None:
        return math.inf
    if not 0 <= timeout < math.inf:
        message = f"timeout must be a number of seconds, 0 or more, or None, not {timeout!r}"
        raise ConfigurationError(message)
    return timeout
