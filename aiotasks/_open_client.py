"""What an open client consists of; its services reach the server and the poller through it."""

import asyncio
from typing import NamedTuple

import aiohttp

from ._http.transport import Transport
from ._polling.peek_cache import PeekCache
from ._polling.poller import Poller


class OpenClient(NamedTuple):
    """What exists from the ``open`` of a client to its ``aclose``."""

    loop: asyncio.AbstractEventLoop
    session: aiohttp.ClientSession
    transport: Transport
    poller: Poller
    peeks: PeekCache
