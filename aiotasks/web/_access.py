"""Access rules, decided on the headers of a request, and the headers of all responses."""

import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal
from urllib.parse import urlsplit

from aiohttp import hdrs
from msgspec import Struct

from aiotasks.errors import ConfigurationError


SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
SESSION_SECONDS: Final = 12 * 3600
"""How long a browser has access after it has opened a link."""

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_PORT = re.compile(r":\d{1,5}\Z", re.ASCII)
_TOKEN = re.compile(r"[!-~]+", re.ASCII)
_BEARER = "bearer "


class AccessRules(Struct, frozen=True):
    """The host names that requests may use, and the token that they must have.

    ``https`` says that browsers come by TLS, also if a proxy ends that.
    """

    hosts: frozenset[str]
    token: str | None
    https: bool = False

    @classmethod
    def of(cls, hosts: Iterable[str], token: str | None, *, https: bool = False) -> "AccessRules":
        """Check the settings of a user.

        Raises:
            ConfigurationError: when one cannot be used.
        """
        if isinstance(hosts, str):
            message = f"hosts must be names, such as ({hosts!r},), not one text"
            raise ConfigurationError(message)
        if token is not None and _TOKEN.fullmatch(token) is None:
            message = "token must be a text of ASCII without spaces, or None for no token"
            raise ConfigurationError(message)
        return cls(frozenset(map(str.lower, hosts)), token, https)


def is_our_host(host: str, hosts: frozenset[str]) -> bool:
    """Return whether a Host header is a loopback name, or one of the configured names."""
    host = host.lower()
    name = _PORT.sub("", host)
    return name in _LOOPBACK or name in hosts or host in hosts


def refusal(
    method: str, hosts: Iterable[str], headers: Mapping[str, str], rules: AccessRules
) -> str:
    """Return why a request is refused because of its origin, or an empty string.

    A page of another site can make a browser send requests here: across sites, or under its own
    host name after it has pointed that name to this machine (DNS rebinding).
    """
    named = list(hosts)
    if len(named) != 1 or not is_our_host(named[0], rules.hosts):
        return "This host is not known here: name it in `hosts`, or use a loopback address"
    site = headers.get("Sec-Fetch-Site", "none").lower()
    if method in SAFE_METHODS:
        # A link from another site may be followed; what it loads cannot be read there.
        is_navigation = headers.get("Sec-Fetch-Mode", "").lower() == "navigate"
        is_foreign = site == "cross-site" and not is_navigation
    else:
        is_foreign = site not in {"same-origin", "none"}
        origin = headers.get(hdrs.ORIGIN)
        if origin is not None:
            is_foreign |= _netloc(origin) != named[0].lower()
    return "Pages of other sites may not do this" if is_foreign else ""


def is_token(given: str, token: str) -> bool:
    """Return whether a token is the right one, in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode())


def signed(purpose: Literal["link", "cookie"], expires_at: float, token: str) -> str:
    """Return what gives access until a time, to whoever has it, without the token itself."""
    whole = f"{expires_at // 1:.0f}"
    return f"{whole}.{hmac.digest(token.encode(), f'{purpose} {whole}'.encode(), 'sha256').hex()}"


def expiry_of(given: str, purpose: Literal["link", "cookie"], token: str) -> float | None:
    """Return the time in what ``signed`` returned for this token, otherwise ``None``."""
    whole = given.partition(".")[0]
    if not (whole.isascii() and whole.isdigit()):
        return None
    return float(whole) if is_token(given, signed(purpose, float(whole), token)) else None


def cookie_name(host: str, local_port: object) -> str:
    """Return the name of the cookie for a Host header, by the port in it or else our own.

    Cookies are shared by all ports of a host, so two servers would take each other's.
    """
    port = _PORT.search(host)
    return f"aiotasks-{port.group()[1:] if port else local_port}"


def bearer_of(authorization: str) -> str:
    """Return the token of an ``Authorization`` header, or an empty string."""
    is_bearer = authorization[: len(_BEARER)].lower() == _BEARER
    return authorization[len(_BEARER) :].strip() if is_bearer else ""


def security_headers(nonce: str) -> dict[str, str]:
    """Return the security headers of every response."""
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
