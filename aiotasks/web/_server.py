"""A server for the jobs of one folder, for those who have no application to mount it in."""

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


# Handlers of clients that are gone end at once, and so do all others.
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

    A server that others can reach has a token, a random one if none is given, and the link has it.
    That link is all that is needed to start merges: give it only to those who may. It is sent
    unencrypted: put a proxy with TLS before a server in a network that is not yours alone.

    Args:
        client: A client that is open until the server has ended.
        folder: Where the ledgers are.
        host: The address to listen at. All addresses (``0.0.0.0``) are asked by this machine's
            name, or by those in ``hosts``.
        port: The port to listen at; 0 takes a free one.
        token: What everybody has to show.
        hosts: Further names by which the server may be asked.
        max_upload: The most bytes of a list of pairs.

    Raises:
        ConfigurationError: when there is no such folder, or a setting cannot be used; on entering,
            when the address cannot be listened at.
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
        # The log of requests would have the token.
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
        # This name has two addresses, and a free port of one may be another's of the other.
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
    """Return by which name a server is asked that listens at an address."""
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
