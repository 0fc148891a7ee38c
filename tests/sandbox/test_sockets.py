"""The sandbox on real sockets."""

import asyncio

import pytest

from aiotasks.sandbox import Sandbox


pytestmark = pytest.mark.real_time


async def test_a_taken_port_can_be_entered_later() -> None:
    """A port in use raises ``OSError``; once it is free the same sandbox can be entered."""
    async with Sandbox() as first:
        second = Sandbox(port=int(first.url.rpartition(":")[2]))
        with pytest.raises(OSError, match="in use"):
            await second.__aenter__()
    async with second:
        assert second.url == first.url


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /v2/auth/whoami HTTP/1.1\r\nHost:",
        b"POST /v2/company-merges HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{",
    ],
    ids=["nothing", "half a head", "half a body"],
)
async def test_half_requests_do_not_hold_up_the_end(sent: bytes) -> None:
    """A client in the middle of a request is disconnected immediately when the scope ends."""
    loop = asyncio.get_running_loop()
    async with Sandbox() as sandbox:
        port = int(sandbox.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        await asyncio.sleep(0.05)
        ended = loop.time()
    assert loop.time() - ended < 1.0
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    assert asyncio.all_tasks() == {asyncio.current_task()}
