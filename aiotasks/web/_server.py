"""A server of its own for the jobs of a folder, without an application to mount it in."""

import ipaddress
import logging
import math
import os
import secrets
import socket
import time
from collections.abc import Collection
from types import TracebackType

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from aiotasks._checks import reject
from aiotasks.client import Client
from aiotasks.errors import ConfigurationError

from ._access import signed
from ._app import RESUMED, jobs_app


# Short: BackgroundTasks has ended all handlers before aiohttp starts to wait for them.
_SHUTDOWN = 0.5

log = logging.getLogger("aiotasks.web.server")


def _is_ours(record: logging.LogRecord) -> bool:
    # A request that is no HTTP is answered with 400, which is no error of the server.
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


log.addFilter(_is_ours)


def serve(
    client: Client,
    folder: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    hosts: Collection[str] = (),
    link_hours: float = 24.0,
    https: bool = False,
    user_header: str | None = None,
    resume: bool = True,
    max_upload: int = 16 * 2**20,
) -> "Serving":
    """Serve the jobs of a folder for the length of an ``async with``; it yields the link to open.

    A server that other machines can reach always has a token, a random one by default, and the
    link gives access by it, until the link expires. The link alone is enough to start merges: give
    it only to people who may. It is sent unencrypted: put a proxy with TLS in front of a server in
    a shared network, and say so by ``https``.

    Args:
        client: A client that is open until the server has ended.
        folder: Where the ledgers are.
        host: The address to listen at. With ``0.0.0.0`` (all addresses) requests must name this
            machine's host name, or one of ``hosts``, in their Host header.
        port: The port to listen at; 0 takes a free one.
        token: The token that every request must have.
        hosts: Further host names that requests may name.
        link_hours: The hours after which a link expires. A browser that has opened it has access
            for twelve hours.
        https: Whether browsers come by TLS, which a proxy ends: the link then begins with
            ``https`` and the first of ``hosts``, and the cookie is only sent encrypted.
        user_header: The header in which a proxy names the user, for the logs; see ``jobs_app``.
        resume: Whether jobs go on that such a server was running when it ended, and that nothing
            had stopped; ``Serving.resumed`` names them.
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
    app = jobs_app(
        client,
        folder,
        token=token,
        hosts=(name, *hosts),
        https=https,
        user_header=user_header,
        resume=resume,
        max_upload=max_upload,
    )
    origin = f"https://{next(iter(hosts), name)}" if https else None
    _ = _seconds_of("link_hours", link_hours)
    return Serving(
        app,
        "jobs",
        host=host,
        port=port,
        name=name,
        origin=origin,
        token=token,
        link_hours=link_hours,
    )


def expiring_link(url: str, token: str, *, hours: float = 24.0) -> str:
    """Return a link that gives access to an application with this token, until it expires.

    Args:
        url: The URL of a page of the application.
        token: The token that the application was made with; the link does not contain it.
        hours: The hours after which the link expires.

    Raises:
        ConfigurationError: when ``hours`` is not a positive number.
    """
    expires_at = time.time() + _seconds_of("hours", hours)
    return str(URL(url).update_query(token=signed("link", expires_at, token)))


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
        origin: str | None = None,
        token: str | None = None,
        link_hours: float = 24.0,
    ) -> None:
        # The application has an access log of its own, without the tokens of links.
        self._app = app
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=log,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN,
        )
        self._path = path
        self._host = host
        self._port = port
        self._name = name
        self._origin = origin
        self._token = token
        self._link_hours = link_hours

    @property
    def resumed(self) -> list[str]:
        """The ids of the jobs with which the server went on when it started."""
        return self._app.get(RESUMED, [])

    def link(self) -> str:
        """Return a new link to the page, once the server listens."""
        url = f"{self._origin}/{self._path}"
        return (
            url if self._token is None else expiring_link(url, self._token, hours=self._link_hours)
        )

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
        self._origin = self._origin or f"http://{name}:{port}"
        return self.link()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._runner.cleanup()


def _seconds_of(name: str, hours: float) -> float:
    seconds = 3600.0 * hours
    if not 0 < seconds < math.inf:
        reject(f"{name} must be a positive number of hours, not {hours!r}")
    return seconds


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
