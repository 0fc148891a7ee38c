"""A proxy that opens tunnels, and a TLS server at their end that speaks for a sandbox."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import trustme

from aiotasks.sandbox import Sandbox


ORIGIN = "https://api.affinity.test"


@dataclass
class TlsProxy:
    """Where the proxy is, whom its end of the tunnel is certified by, and what it was asked."""

    url: str
    ca_file: Path
    heads: list[str] = field(default_factory=list)

    @property
    def asked(self) -> list[str]:
        """Return the first line of each request for a tunnel."""
        return [head.split("\r\n")[0] for head in self.heads]


@asynccontextmanager
async def tls_proxy(
    sandbox: Sandbox, folder: Path, *, refuses_with: str | None = None
) -> AsyncIterator[TlsProxy]:
    """Serve a proxy whose every tunnel leads to a sandbox, by TLS for the host of ``ORIGIN``."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("api.affinity.test").configure_cert(context)
    ca_file = folder / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)

    async def speak_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _join(reader, writer, urlsplit(sandbox.url).port)

    async def open_tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        if refuses_with is not None:
            writer.write(f"HTTP/1.1 {refuses_with}\r\nContent-Length: 0\r\n\r\n".encode())
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await _join(reader, writer, _port(end))

    end = await asyncio.start_server(speak_tls, "127.0.0.1", 0, ssl=context)
    server = await asyncio.start_server(open_tunnel, "127.0.0.1", 0)
    proxy = TlsProxy(f"http://127.0.0.1:{_port(server)}", ca_file)
    try:
        yield proxy
    finally:
        server.close()
        end.close()


def _port(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


async def _join(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int | None
) -> None:
    inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.TaskGroup() as group:
        _ = group.create_task(_copy(reader, inner_writer))
        _ = group.create_task(_copy(inner_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()
