"""The options that say which API is used and how it is reached, for all commands that call it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer

from aiotasks.client import DEFAULT_BASE_URL, ClientSettings

from .option_groups import with_group
from .proxies import proxy_to


_OPTIONS: Final[Mapping[str, Any]] = {
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
    "calls_per_minute": Annotated[
        int | None,
        typer.Option("--rate", min=1, help="Calls a minute that this run may use at most."),
    ],
    "ca_file": Annotated[
        Path | None,
        typer.Option(help="A PEM file of certificates to trust besides the system's."),
    ],
}


def _settings(**given: Any) -> ClientSettings:
    """Return the settings of a client that were given as options; the environment has the rest."""
    settings = {name: value for name, value in given.items() if value is not None}
    base_url = settings.get("base_url") or os.environ.get("AFFINITY_BASE_URL") or DEFAULT_BASE_URL
    return cast(ClientSettings, {**settings, "proxy": proxy_to(base_url)})


with_client_settings = with_group("client", _OPTIONS, None, _settings)
"""Replace the parameter ``client`` of a command, which gets the settings of its client."""
