"""How requests reach the API: directly or through a proxy, and whose certificates are trusted.

aiohttp's own ``trust_env`` is not used: it would send the key in the clear to an ``http_proxy``,
also for loopback, and fail on entries of ``~/.netrc``.
"""

import os
import re
import ssl
from typing import Any, Final, NamedTuple

import aiohttp
from yarl import URL

from aiotasks._checks import reject

from .urls import is_loopback


_PROXY: Final = re.compile(
    r"(?:https?://)?(?:[^\s/@]+@)?(?:[\w.-]+|\[[0-9a-fA-F:.]+\])(?::\d{1,5})?/?"
)


class Route(NamedTuple):
    """The way to the API; ``words`` say it where the API cannot be reached."""

    proxy: URL | None = None
    tls: ssl.SSLContext | None = None
    words: str = ""

    def open_session(self) -> aiohttp.ClientSession:
        """Return a session whose requests go this way."""
        settings: dict[str, Any] = {} if self.proxy is None else {"proxy": self.proxy}
        if self.tls is not None:
            settings["connector"] = aiohttp.TCPConnector(ssl=self.tls)
        return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), **settings)


def route_to(origin: str, *, proxy: object = None, ca_file: Any = None) -> Route:
    """Return the way to an origin; loopback is never reached through a proxy.

    Raises:
        ConfigurationError: when the proxy or the certificates cannot be used.
    """
    tls = None if ca_file is None else _trusting(ca_file)
    if proxy is None or is_loopback(origin):
        return Route(None, tls, ", without a proxy")
    if not origin.startswith("https:"):
        reject(f"A proxy would see the API key on its way to {origin}: give no proxy, or use https")
    url = _parse_proxy(proxy)
    return Route(url, tls, f" through the proxy {url.origin()}")


def _parse_proxy(proxy: object) -> URL:
    # The message never shows what was given: it may contain a password.
    text = proxy if isinstance(proxy, str) else ""
    if _PROXY.fullmatch(text) is None:
        reject(
            "The proxy (HTTPS_PROXY) must look like http://proxy.example.com:3128, "
            "or http://user:password@…"
        )
    try:
        return URL(text if "://" in text else f"http://{text}")
    except ValueError:
        reject("The proxy (HTTPS_PROXY) has a port that is none")


def _trusting(ca_file: str | os.PathLike[str]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except ssl.SSLError:
        reject(f"{os.fspath(ca_file)} has no certificates: give a file in PEM format as ca_file")
    except OSError as error:
        reject(f"Cannot read the certificates of {os.fspath(ca_file)}: {error.strerror}")
    return context
