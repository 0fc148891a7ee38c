"""The options that say which API is used and how it is reached, for all commands that call it.

One rule holds for each setting, the key included: what an option says counts first, then the
environment, then the file that the environment names, then the profile. A profile that is named by
``--profile`` is what an option says.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer

from aiotasks._key_refs import read_key
from aiotasks.client import DEFAULT_BASE_URL, ClientSettings

from .option_groups import with_group
from .profiles import read_profile
from .proxies import proxy_to


_OPTIONS: Final[Mapping[str, Any]] = {
    "key_ref": Annotated[
        str | None,
        typer.Option(
            help="Where the API key is: env:NAME, file:PATH, or command:… that prints it.",
            metavar="REF",
            show_default="AFFINITY_API_KEY, then AFFINITY_API_KEY_FILE, then the profile",
        ),
    ],
    "profile": Annotated[
        str | None,
        typer.Option(
            help="The profile to use, from profiles.toml.  [env: AFFINITY_PROFILE]",
            metavar="NAME",
        ),
    ],
    "base_url": Annotated[
        str | None,
        typer.Option(
            help="Where the API is.  [env: AFFINITY_BASE_URL]", show_default=DEFAULT_BASE_URL
        ),
    ],
    "api_version": Annotated[
        str | None,
        typer.Option(
            help="The API version to pin.  [env: AFFINITY_API_VERSION]",
            show_default="the key's own",
        ),
    ],
    "reserve": Annotated[
        int | None,
        typer.Option(min=0, help="Calls of the organization's month to leave to others."),
    ],
    "rate": Annotated[
        int | None,
        typer.Option(min=1, help="Calls a minute that this run may use at most."),
    ],
    "ca_file": Annotated[
        Path | None,
        typer.Option(help="A PEM file of certificates to trust besides the system's."),
    ],
}


def _settings(profile: str | None, **options: Any) -> ClientSettings:
    given = {name: value for name, value in options.items() if value is not None}
    named = read_profile(profile or os.environ.get("AFFINITY_PROFILE") or None).settings()
    sources = [named, _environment()] if profile is None else [_environment(), named]
    found = {**sources[0], **sources[1], **given}
    settings: dict[str, Any] = {"proxy": proxy_to(found.get("base_url") or DEFAULT_BASE_URL)}
    if "key_ref" in found:
        settings["api_key"] = read_key(found.pop("key_ref"))
    if "rate" in found:
        settings["calls_per_minute"] = found.pop("rate")
    return cast(ClientSettings, {**settings, **found})


def _environment() -> dict[str, str]:
    names = {"base_url": "AFFINITY_BASE_URL", "api_version": "AFFINITY_API_VERSION"}
    found = {name: os.environ[each] for name, each in names.items() if os.environ.get(each)}
    if os.environ.get("AFFINITY_API_KEY"):
        return {**found, "key_ref": "env:AFFINITY_API_KEY"}
    if path := os.environ.get("AFFINITY_API_KEY_FILE"):
        return {**found, "key_ref": f"file:{path}"}
    return found


with_client_settings = with_group("client", _OPTIONS, None, _settings)
"""Replace the parameter ``client`` of a command, which gets the settings of its client."""
