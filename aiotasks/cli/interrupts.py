"""Ctrl-C and the signals like it, on every system."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final


# The last is Ctrl-Break, which only Windows has.
_SIGNALS: Final = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
]


@contextmanager
def on_interrupt(handle: Callable[[], object]) -> Iterator[None]:
    """Call a function at each Ctrl-C or SIGTERM, in the running loop, instead of ending."""
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        for number in _SIGNALS:
            _ = stack.callback(_listen(loop, number, handle))
        yield


def _listen(
    loop: asyncio.AbstractEventLoop, number: int, handle: Callable[[], object]
) -> Callable[[], object]:
    try:
        loop.add_signal_handler(number, handle)
    except NotImplementedError:
        # The loops of Windows have no signal handlers. Elsewhere theirs come first: a handler of
        # Python alone may wait for the next event of the loop.
        before = signal.signal(number, lambda *_: loop.call_soon_threadsafe(handle))
        return partial(signal.signal, number, before)
    return partial(loop.remove_signal_handler, number)
