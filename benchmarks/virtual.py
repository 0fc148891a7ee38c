"""A clock that jumps, for programs that use HTTP."""

import asyncio
import os
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from unittest.mock import patch

import aiohappyeyeballs
import async_solipsism


T = TypeVar("T")


def run(main: Callable[[], Coroutine[Any, Any, T]], *, seed: int) -> T:
    """Run a coroutine on virtual time, with in-memory sockets and seeded random numbers.

    Counts and times are exact: nothing takes time but sleeping, so they depend on no machine.
    """
    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner, ExitStack() as stack:
        stack.enter_context(_seed_random(seed))
        stack.enter_context(patch.object(aiohappyeyeballs, "start_connection", _start_connection))
        # A job waits for what other ledgers of the machine have just sent: not for those of other runs.
        state = stack.enter_context(TemporaryDirectory())
        stack.enter_context(patch.dict(os.environ, {"XDG_STATE_HOME": state}))
        return runner.run(main())


async def _start_connection(addr_infos: Any, *, loop: Any = None, **settings: Any) -> Any:
    running: Any = loop or asyncio.get_running_loop()
    return await running.aiohappyeyeballs_start_connection(addr_infos, **settings)


@contextmanager
def _seed_random(seed: int) -> Iterator[None]:
    # The jitter of every contender comes from the generator that all programs share.
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
