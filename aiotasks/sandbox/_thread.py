"""A sandbox in a thread of its own, for tests that have no event loop, or one that does not run."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast

from aiotasks.sandbox._server import Sandbox


@contextmanager
def in_thread(**settings: Any) -> Iterator[Sandbox]:
    """Serve a sandbox in a thread while the scope is open.

    Made for tests of programs and services that run their own event loop, as FastAPI's test client
    does. Its methods can be called and its settings changed from this thread; its time is real.

    Args:
        settings: Those of ``Sandbox``.

    Raises:
        OSError: when it cannot listen at its host and port.
        ValueError: when a setting cannot be used.
    """
    sandbox = Sandbox(**settings)
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    with ThreadPoolExecutor(1, thread_name_prefix="sandbox") as threads:
        served = threads.submit(asyncio.run, _serve(sandbox, ready))
        loop, stop = ready.result()
        try:
            yield cast(Sandbox, _Remote(sandbox, loop))
        finally:
            _ = loop.call_soon_threadsafe(stop.set)
            served.result()


async def _serve(
    sandbox: Sandbox, ready: "Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]"
) -> None:
    stop = asyncio.Event()
    try:
        async with sandbox:
            ready.set_result((asyncio.get_running_loop(), stop))
            _ = await stop.wait()
    except OSError as error:
        ready.set_exception(error)


class _Remote:
    """A sandbox whose methods run in its own thread, so that no request sees them half done."""

    def __init__(self, sandbox: Sandbox, loop: asyncio.AbstractEventLoop) -> None:
        vars(self).update(_sandbox=sandbox, _loop=loop)

    def __repr__(self) -> str:
        return str(self._call(repr, self._sandbox))

    def __getattr__(self, name: str) -> Any:
        found = self._call(getattr, vars(self)["_sandbox"], name)
        if not hasattr(found, "__self__"):
            return found
        return lambda *args, **settings: self._call(found, *args, **settings)

    def __setattr__(self, name: str, value: Any) -> None:
        self._call(setattr, self._sandbox, name, value)

    def _call(self, function: Callable[..., Any], *args: Any, **settings: Any) -> Any:
        async def call() -> Any:
            return function(*args, **settings)

        return asyncio.run_coroutine_threadsafe(call(), vars(self)["_loop"]).result()
