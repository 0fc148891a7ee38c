"""Who may ask for what: decisions on the headers of a request, and the headers of all answers."""

import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs
from msgspec import Struct

from aiotasks.errors import ConfigurationError


SAFE_METHODS: Final = frozenset({"GET", "HEAD"})

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_PORT = re.compile(r":\d{1,5}\Z", re.ASCII)
_TOKEN = re.compile(r"[!-~]+", re.ASCII)
_BEARER = "bearer "


class AccessRules(Struct, frozen=True):
    """To which hosts an application answers, and to whom."""

    hosts: frozenset[str]
    token: str | None

    @classmethod
    def of(cls, hosts: Iterable[str], token: str | None) -> "AccessRules":
        """Return the rules for settings as users give them."""
        if isinstance(hosts, str):
            message = f"hosts must be names, such as ({hosts!r},), not one text"
            raise ConfigurationError(message)
        if token is not None and _TOKEN.fullmatch(token) is None:
            message = "token must be a text of ASCII without spaces, or None for no token"
            raise ConfigurationError(message)
        return cls(frozenset(map(str.lower, hosts)), token)


def is_our_host(host: str, hosts: frozenset[str]) -> bool:
    """Tell whether a Host is that of this machine alone, or one that was named."""
    host = host.lower()
    name = _PORT.sub("", host)
    return name in _LOOPBACK or name in hosts or host in hosts


def refusal(
    method: str, hosts: Iterable[str], headers: Mapping[str, str], rules: AccessRules
) -> str:
    """Say why a request is refused because of where it comes from, or nothing.

    A page of another site can make a browser send requests here, under its own name (which the
    Host shows, even when that name leads to this machine) or across sites.
    """
    named = list(hosts)
    if len(named) != 1 or not is_our_host(named[0], rules.hosts):
        return "This host is not known here: name it in `hosts`, or ask by a loopback address"
    site = headers.get("Sec-Fetch-Site", "none").lower()
    if method in SAFE_METHODS:
        is_led_here = headers.get("Sec-Fetch-Mode", "").lower() == "navigate"
        is_foreign = site == "cross-site" and not is_led_here
    else:
        is_foreign = site not in {"same-origin", "none"}
        origin = headers.get(hdrs.ORIGIN)
        if origin is not None:
            is_foreign |= _netloc(origin) != named[0].lower()
    return "Pages of other sites may not do this" if is_foreign else ""


def is_token(given: str, token: str) -> bool:
    """Tell whether a token is the right one, without telling how much of it is."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode())


def bearer_of(authorization: str) -> str:
    """Return the token of an ``Authorization`` header, or nothing."""
    is_bearer = authorization[: len(_BEARER)].lower() == _BEARER
    return authorization[len(_BEARER) :].strip() if is_bearer else ""


def security_headers(nonce: str) -> dict[str, str]:
    """Return the headers that each answer has."""
    policy = (
        "default-src 'none'",
        f"style-src 'nonce-{nonce}'",
        f"script-src 'nonce-{nonce}'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
    return {
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        hdrs.CACHE_CONTROL: "no-store",
        hdrs.VARY: "Accept, Cookie",
    }


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
