"""The settings of a sandbox, checked before it opens."""

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiotasks.sandbox._app import ApiSettings
from aiotasks.sandbox._faults import Fault
from aiotasks.sandbox._log import LoggedRequest
from aiotasks.sandbox._routes import VERSIONS
from aiotasks.sandbox._state import Draw, MergeSettings


_DRAW = "0 seconds or more, a pair of such numbers, or a function"


@dataclass(kw_only=True, eq=False)
class Settings(MergeSettings, ApiSettings):
    """The settings of a sandbox, checked."""

    host: str = "127.0.0.1"
    port: int = 0
    quota: int = 900
    window: float = 60.0
    window_offset: float = 0.0
    month_quota: int = 100_000
    max_concurrent: int | None = None
    latency: Draw = 0.0
    public_url: str | None = None
    companies: int | Collection[int] = 2000
    persons: int | Collection[int] = 2000
    faults: Iterable[Fault | str] = ()
    seed: int = 0
    on_request: Callable[[LoggedRequest], object] | None = None

    def __post_init__(self) -> None:
        rules = {
            "api_key": (bool(self.api_key), "a text"),
            "api_version": (self.api_version in VERSIONS, f"one of {', '.join(VERSIONS)}"),
            "port": (0 <= self.port <= 2**16 - 1, "from 0 (a free one) to 65535"),
            "quota": (self.quota >= 0, "0 (no limit) or more"),
            "window": (0 < self.window < math.inf, "more than 0 seconds"),
            "window_offset": (0 <= self.window_offset < self.window, "less than the window"),
            "month_quota": (self.month_quota >= 0, "0 (no limit) or more"),
            "max_concurrent": (
                self.max_concurrent is None or self.max_concurrent > 0,
                "1 or more, or None for no limit",
            ),
            "duration": (_is_draw(self.duration), _DRAW),
            "latency": (_is_draw(self.latency), _DRAW),
            "failure_rate": (0 <= self.failure_rate <= 1, "from 0 to 1"),
            "list_lag": (self.list_lag >= 0, "0 seconds or more"),
            "task_lag": (self.task_lag >= 0, "0 seconds or more"),
            "public_url": (_is_url(self.public_url), "an http or https URL without a query"),
            "companies": (_is_count(self.companies), "0 or more, or ids from 1 on"),
            "persons": (_is_count(self.persons), "0 or more, or ids from 1 on"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                message = f"{name} has to be {rule}, not {getattr(self, name)!r}"
                raise ValueError(message)


def _is_draw(value: Draw) -> bool:
    if callable(value):
        return True
    low, high = value if isinstance(value, tuple) else (value, value)
    return 0 <= low <= high


def _is_url(url: str | None) -> bool:
    if url is None:
        return True
    parts = urlsplit(url)
    return parts.scheme in {"http", "https"} and bool(parts.netloc) and not parts.query


def _is_count(ids: int | Collection[int]) -> bool:
    return ids >= 0 if isinstance(ids, int) else min(ids, default=1) >= 1
