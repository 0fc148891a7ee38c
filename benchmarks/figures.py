"""Results: how they are summarised, saved and loaded."""

import math
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from msgspec import json


RESULTS = Path(__file__).parent / "results"
PACKAGES = ("aiohttp", "msgspec", "tenacity", "affinity-sdk", "httpx", "pydantic")


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest of sorted numbers that at least this share of them do not exceed."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(numbers: Sequence[float]) -> float:
    """Return the lower median: always a number that was measured."""
    return quantile(sorted(numbers), 0.5)


def save(folder: Path, name: str, results: Any) -> None:
    """Write results with the versions that they were measured with."""
    folder.mkdir(parents=True, exist_ok=True)
    setting = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "packages": dict(_versions()),
    }
    content = json.format(json.encode({"setting": setting, "results": results}), indent=1)
    _ = (folder / f"{name}.json").write_bytes(content + b"\n")


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            yield package, version(package)


def load(folder: Path, name: str) -> Any:
    """Read results."""
    return json.decode((folder / f"{name}.json").read_bytes())["results"]
