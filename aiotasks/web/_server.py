"""A server of its own for the jobs of a folder, without an application to mount it in."""

import ipaddress
import os
import secrets
import socket
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from aiohttp import web
from yarl import URL

from aiotasks.client import Client
from aiotasks.errors import ConfigurationError

from ._app import jobs_app


# Short: BackgroundTasks has ended all handlers before aiohttp starts to wait for them.
_SHUTDOWN = 0.5


def serve(
    client: Client,
    folder: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    hosts: Collection[str] = (),
    max_upload: int = 16 * 2**20,
) -> AbstractAsyncContextManager[str]:
    """Serve the jobs of a folder for the length of an ``async with``; it yields the link to open.

    A server that other machines can reach always has a token, a random one by default, and the
    link contains it. The link alone is enough to start merges: give it only to people who may. It
    is sent unencrypted: put a proxy with TLS in front of a server in a shared network.

    Args:
        client: A client that is open until the server has ended.
        folder: Where the ledgers are.
        host: The address to listen at. With ``0.0.0.0`` (all addresses) requests must name this
            machine's host name, or one of ``hosts``, in their Host header.
        port: The port to listen at; 0 takes a free one.
        token: The token that every request must have.
        hosts: Further host names that requests may name.
        max_upload: The maximum size of an upload in bytes.

    Raises:
        ConfigurationError: when there is no such folder, or a setting cannot be used; on entering,
            when the server cannot listen at the address.
    """
    if not host:
        message = "host must be an address or a name: 0.0.0.0 for all addresses"
        raise ConfigurationError(message)
    name = _name_of(host)
    if token is None and not _is_loopback(host):
        token = secrets.token_urlsafe(32)
    app = jobs_app(client, folder, token=token, hosts=(name, *hosts), max_upload=max_upload)
    return Serving(app, "jobs", host=host, port=port, name=name, token=token)


class Serving:
    """A server for the length of an ``async with``, which yields the link to a page of it."""

    def __init__(
        self,
        app: web.Application,
        path: str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        name: str = "127.0.0.1",
        token: str | None = None,
    ) -> None:
        # No access log: it would contain the token.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN
        )
        self._path = path
        self._host = host
        self._port = port
        self._name = name
        self._query = {} if token is None else {"token": token}

    async def __aenter__(self) -> str:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            message = f"Cannot listen at {self._host}, port {self._port}: {error.strerror}"
            raise ConfigurationError(message) from error
        except BaseException:
            await self._runner.cleanup()
            raise
        address, port = self._runner.addresses[0][:2]
        # "localhost" has two addresses, and the port may be another program's at the other one.
        name = _name_of(address) if self._name == "localhost" else self._name
        return str(URL(f"http://{name}:{port}/{self._path}").with_query(self._query))

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._runner.cleanup()


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _name_of(host: str) -> str:
    """Return the host name in the link to a server that listens at an address."""
    address = _address(host)
    if address is None:
        return host.lower()
    if address.is_unspecified:
        return socket.gethostname().lower()
    return f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004 - of IP


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
