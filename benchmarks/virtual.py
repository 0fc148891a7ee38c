"""A clock that jumps, for programs that talk HTTP."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import patch

import affinity.clients.http
import affinity.services.rate_limits
import affinity.services.tasks
import aiohappyeyeballs
import async_solipsism
import httpcore._async.http11
import httpcore._backends.anyio


T = TypeVar("T")


def run(main: Callable[[], Coroutine[Any, Any, T]], *, seed: int) -> T:
    """Run a coroutine on virtual time, with in-memory sockets and all chance from the seed.

    Counts and times are exact: nothing takes time but sleeping, so they depend on no machine.
    """
    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner, ExitStack() as stack:
        loop = runner.get_loop()
        stack.enter_context(_chance_from(seed))
        stack.enter_context(patch.object(aiohappyeyeballs, "start_connection", _start_connection))
        stack.enter_context(_sdk_on(loop))
        return runner.run(main())


async def _start_connection(addr_infos: Any, *, loop: Any = None, **settings: Any) -> Any:
    running: Any = loop or asyncio.get_running_loop()
    return await running.aiohappyeyeballs_start_connection(addr_infos, **settings)


@contextmanager
def _chance_from(seed: int) -> Iterator[None]:
    # The jitter of every contender comes from the generator that all programs share.
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


@contextmanager
def _sdk_on(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let the published SDK read the loop's clock; retries, pool and timeouts stay its own.

    Its modules are given another clock, nothing else. Its backoff takes its jitter from the fraction
    of the current millisecond, which a clock that jumps would make the same for all.
    """
    clock = SimpleNamespace(
        monotonic=loop.time,
        time=loop.time,
        time_ns=lambda: random.randrange(10**6),  # noqa: S311 - jitter, not a secret
        perf_counter=time.perf_counter,
    )
    targets: list[tuple[Any, str, Any]] = [
        (affinity.clients.http, "time", clock),
        (affinity.services.rate_limits, "time", clock),
        (affinity.services.tasks, "time", clock),
        (httpcore._async.http11, "time", clock),  # noqa: SLF001
        # In-memory sockets cannot be polled. It asks whether the server has closed an idle
        # connection; this one keeps them longer than the pool does.
        (httpcore._backends.anyio, "is_socket_readable", lambda _: False),  # noqa: SLF001
    ]
    with ExitStack() as stack:
        for module, name, replacement in targets:
            stack.enter_context(patch.object(module, name, replacement))
        yield
