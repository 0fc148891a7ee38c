"""The settings of a client: their names, those of the environment, and the headers made of them."""

import os
import re
from importlib.metadata import version
from typing import Any, TypedDict

import aiohttp

from ._checks import reject, shorten
from ._http.redaction import Hidden
from ._http.transport import OnRequest
from .errors import ConfigurationError


_KEY = re.compile(r"[!-~]+", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9.-]{1,32}", re.ASCII)
_OF_ENVIRONMENT = {
    "api_key": "AFFINITY_API_KEY",
    "base_url": "AFFINITY_BASE_URL",
    "api_version": "AFFINITY_API_VERSION",
}


class ClientSettings(TypedDict, total=False):
    """The settings of ``Client`` by name, for ``Client.from_env`` and for code that passes them on."""

    api_key: str
    base_url: str
    session: aiohttp.ClientSession | None
    api_version: str | None
    request_timeout: float
    max_in_flight: int
    reserve: int
    allow_http: bool
    calls_per_minute: int | None
    proxy: str | None
    ca_file: str | os.PathLike[str] | None
    on_request: OnRequest | None


def settings_from_env(given: ClientSettings) -> dict[str, Any]:
    """Return the settings of the environment, and those that are given, which win.

    Raises:
        ConfigurationError: when there is no key, or a switch is neither 1 nor 0.
    """
    found: dict[str, Any] = {
        key: os.environ[name] for key, name in _OF_ENVIRONMENT.items() if os.environ.get(name)
    }
    found["allow_http"] = _is_on("AFFINITY_ALLOW_HTTP")
    found.update(given)
    if "api_key" not in found:
        message = "There is no API key: set AFFINITY_API_KEY, or give api_key to Client"
        raise ConfigurationError(message)
    return found


def _is_on(name: str) -> bool:
    value = os.environ.get(name) or "0"
    if value not in {"0", "1"}:
        reject(f"{name} must be 1 or 0, not {shorten(value)}")
    return value == "1"


def request_headers(api_key: object, api_version: object) -> dict[str, str]:
    """Return the headers of all requests.

    Raises:
        ConfigurationError: when the key or the version cannot be used.
    """
    # The message never shows the key, not even an invalid one.
    if not isinstance(api_key, str) or _KEY.fullmatch(api_key) is None:
        message = "The API key must be a text without spaces or line ends: check AFFINITY_API_KEY"
        raise ConfigurationError(message)
    headers = {
        "Authorization": Hidden(f"Bearer {api_key}"),
        "Accept": "application/json",
        "User-Agent": f"aiotasks/{version('affinity-aiotasks')}",
    }
    if api_version is None:
        return headers
    if not isinstance(api_version, str) or _VERSION.fullmatch(api_version) is None:
        message = f"api_version must look like '2026-09-17' or 'current', not {api_version!r}"
        raise ConfigurationError(message)
    return {**headers, "X-Affinity-Api-Version": api_version}
