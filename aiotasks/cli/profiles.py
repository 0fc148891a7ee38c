"""Named profiles: settings of clients in one file that nobody else may read."""

import os
import stat
import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec
from platformdirs import user_config_path

from aiotasks._checks import reject, shorten


DEFAULT: Final = "default"
"""The profile that is used without being named, if there is one."""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of a client, where neither an option nor the environment has them."""

    key_ref: str | None = None
    base_url: str | None = None
    api_version: str | None = None
    ca_file: str | None = None
    reserve: int | None = None
    rate: int | None = None

    def settings(self) -> dict[str, Any]:
        """Return what is set, by the names of the options."""
        found = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in found.items() if value is not None}


def profiles_path() -> Path:
    """Return where the file of profiles is."""
    return user_config_path("aiotasks", appauthor=False) / "profiles.toml"


def read_profile(name: str | None) -> Profile:
    """Return a profile; without a name the default one, which may be missing.

    Raises:
        ConfigurationError: when there is no such profile, or the file cannot be used.
    """
    path = profiles_path()
    try:
        profiles = _read(path)
    except FileNotFoundError:
        profiles = {}
    except OSError as error:
        reject(f"Cannot read {path}: {error.strerror}")
    if name is None:
        return profiles.get(DEFAULT, Profile())
    if name not in profiles:
        known = ", ".join(sorted(profiles)) or "none"
        reject(f"There is no profile {shorten(name)} in {path}: it has {known}")
    return profiles[name]


def _read(path: Path) -> dict[str, Profile]:
    with path.open("rb") as file:
        _require_private(path, os.fstat(file.fileno()))
        try:
            return msgspec.convert(tomllib.load(file), dict[str, Profile])
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            reject(f"{path} is no TOML: {error}")
        except msgspec.ValidationError as error:
            reject(f"{path}: {error}. A profile has {', '.join(Profile.__struct_fields__)}")


def _require_private(path: Path, status: os.stat_result) -> None:
    # Windows keeps the folder of a user from others by itself.
    if os.name != "nt" and stat.S_IMODE(status.st_mode) & 0o077:
        reject(f"Others may read {path} or change it, and with it your key: chmod 600 {path}")
