"""URLs: which base URLs and task URLs are accepted, and what a task URL names.

A task URL is only a name. The documented examples are on another host and without ``/v2``, so its
kind and id are extracted, and each request is built anew on the configured origin:
https://developer.affinity.co/api-reference/company-merges/initiate-company-merge
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple, cast

from aiotasks._checks import reject, shorten
from aiotasks.errors import DecodeError
from aiotasks.models import Kind


DEFAULT_BASE_URL: Final = "https://api.affinity.co"
# The second is the host of the example in Affinity's own documentation of the merge call.
_AFFINITY_ORIGINS = frozenset({DEFAULT_BASE_URL, "https://api.affinit.com"})

_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_BASE_URL = re.compile(
    rf"(https?)://({_LABEL}(?:\.{_LABEL})*\.?|\[[0-9a-f:.]+\])(?::([0-9]{{1,5}}))?/?", re.ASCII
)
_MAX_PORT = 65_535
_TASK_PATH = re.compile(
    r"(?:/v2)?/tasks/(company|person)-merges/([A-Za-z0-9][A-Za-z0-9_-]{0,63})/?", re.ASCII
)
_TASK_URL = re.compile(
    r"(?P<origin>[^/]+://[^/?#@\\]+)(?:/v2)?/tasks/"
    r"(?P<kind>company|person)-merges/(?P<id>[A-Za-z0-9][A-Za-z0-9_-]{0,63})/?",
    re.ASCII,
)


class TaskRef(NamedTuple):
    """What a task URL names."""

    kind: Kind
    id: str


def parse_base_url(base_url: object, *, allow_http: bool = False) -> str:
    """Return the origin to talk to, in its canonical form.

    Raises:
        ConfigurationError: when it is no origin, or plain http to another machine, unless allowed.
    """
    match = _BASE_URL.fullmatch(_lower(base_url)) if isinstance(base_url, str) else None
    if match is None or not _is_connectable(match[2], match[3]):
        reject(
            f"{shorten(base_url)} is not a base URL: give the scheme and the host alone, "
            f"as in {DEFAULT_BASE_URL} (no path, no /v2, no user)"
        )
    scheme, host, port = match.groups()
    if scheme == "http" and not (allow_http or _is_loopback(host)):
        reject(
            f"{shorten(base_url)} would send the API key in the clear: use https. For a sandbox in "
            "another container, allow_http=True (AFFINITY_ALLOW_HTTP=1) accepts that"
        )
    return _canonical(scheme, host, port)


def parse_task_url(task_url: object, origin: str) -> TaskRef:
    """Return what a task URL names.

    Accepted are URLs of the own ``origin`` and of Affinity's hosts, with or without ``/v2``: the
    API's document shows both, and one of them on another host.

    Raises:
        ConfigurationError: when it is not a task URL, or one of another host.
    """
    if isinstance(task_url, str) and task_url.startswith(origin):
        own = _TASK_PATH.fullmatch(task_url, len(origin))
        if own is not None:
            return TaskRef(cast(Kind, own[1]), own[2])
    match = _TASK_URL.fullmatch(task_url) if isinstance(task_url, str) else None
    if match is None:
        reject(
            f"{shorten(task_url)} is not a task URL: "
            f"it should look like {origin}/v2/tasks/company-merges/<task id>"
        )
    base = _BASE_URL.fullmatch(_lower(match["origin"]))
    given = _canonical(*base.groups()) if base else match["origin"]
    if given != origin and given not in _AFFINITY_ORIGINS:
        reject(
            f"{shorten(task_url)} is a task of {shorten(given)}, but this client talks to {origin}: "
            "give the client the base_url that the task came from"
        )
    return TaskRef(cast(Kind, match["kind"]), match["id"])


def named_task(task_url: str) -> TaskRef | None:
    """Return what a URL of any host names, if that is a task."""
    match = _TASK_URL.fullmatch(task_url)
    return None if match is None else TaskRef(cast(Kind, match["kind"]), match["id"])


def task_url(origin: str, ref: TaskRef) -> str:
    """Return the URL that names a task."""
    return f"{origin}/v2/tasks/{ref.kind}-merges/{ref.id}"


def next_target(next_url: str, origin: str) -> str:
    """Return the part below the origin of a link to the next page.

    It is followed as given, because its path may differ from the one asked for.

    Raises:
        DecodeError: when it leads away from the origin.
    """
    target = next_url.removeprefix(origin)
    if target == next_url or re.fullmatch(r"/[!-\[\]-~]*", target) is None:
        raise DecodeError(200, f"its nextUrl {shorten(next_url)} leads away from {origin}")
    return target


def _canonical(scheme: str, host: str, port: str | None) -> str:
    default = {"https": 443, "http": 80}[scheme]
    number = int(port or default)
    return f"{scheme}://{host}" + (f":{number}" if number != default else "")


def _lower(text: str) -> str:
    # There are letters beyond ASCII whose lower case is within it.
    return text.lower() if text.isascii() else text


def _is_connectable(host: str, port: str | None) -> bool:
    if port is not None and not 0 < int(port) <= _MAX_PORT:
        return False
    if host.startswith("["):
        return isinstance(_address(host), IPv6Address)
    # A name never ends with a number: that is an address, or a mistake for one.
    is_number = host.rsplit(".", 1)[-1].isdecimal()
    return not is_number or isinstance(_address(host), IPv4Address)


def is_loopback(origin: str) -> bool:
    """Return whether an origin, as ``parse_base_url`` returns it, is on this machine."""
    match = _BASE_URL.fullmatch(origin)
    return match is not None and _is_loopback(match[2])


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None
