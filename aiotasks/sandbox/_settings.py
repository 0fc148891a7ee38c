"""The settings of a sandbox, checked before it opens."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from aiotasks.sandbox._app import ApiSettings
from aiotasks.sandbox._faults import Fault
from aiotasks.sandbox._log import LoggedRequest
from aiotasks.sandbox._routes import VERSIONS
from aiotasks.sandbox._state import Draw, MergeSettings


# Addresses that stand for all of a machine's, and the one of them by which it reaches itself.
ANY_HOST: Mapping[str, str] = MappingProxyType({"0.0.0.0": "127.0.0.1", "::": "::1"})  # noqa: S104

_PART = "a share from 0 to 1, or ids from 1 on"
_DRAW = "0 seconds or more, a pair of such numbers, or a function"


# A server that checks merges when they are asked for, and shows all of them at once.
PLAIN: Mapping[str, Any] = MappingProxyType(
    {
        "checks_posts": True,
        "rows_for_global": True,
        "global_companies": 0,
        "internal_persons": 0,
        "task_lag": 0,
        "empty_share": 0,
        "gone_status": 422,
    }
)


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
    global_companies: float | Collection[int] = 0.1
    internal_persons: float | Collection[int] = 0.02
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
            "list_lag": (_is_draw(self.list_lag), _DRAW),
            "task_lag": (_is_draw(self.task_lag), _DRAW),
            "record_lag": (self.record_lag >= 0, "0 seconds or more"),
            "list_shuffle": (0 <= self.list_shuffle < math.inf, "0 places or more"),
            "gone_status": (self.gone_status in {404, 422}, "404 or 422"),
            "public_url": (_is_url(self.public_url), "an http or https URL without a query"),
            "companies": (_is_count(self.companies), "0 or more, or ids from 1 on"),
            "persons": (_is_count(self.persons), "0 or more, or ids from 1 on"),
            "global_companies": (_is_part(self.global_companies), _PART),
            "internal_persons": (_is_part(self.internal_persons), _PART),
        }
        for name in ("failure_rate", "task_lag_share", "empty_share", "unlisted_share"):
            rules[name] = 0 <= getattr(self, name) <= 1, "from 0 to 1"
        for name, (holds, rule) in rules.items():
            if not holds:
                message = f"{name} has to be {rule}, not {getattr(self, name)!r}"
                raise ValueError(message)


def _is_draw(value: Draw) -> bool:
    if callable(value):
        return True
    low, high = value if isinstance(value, tuple) else (value, value)
    return 0 <= low <= high


def _is_part(records: float | Collection[int]) -> bool:
    return 0 <= records <= 1 if isinstance(records, int | float) else _is_count(records)


def _is_url(url: str | None) -> bool:
    if url is None:
        return True
    parts = urlsplit(url)
    return parts.scheme in {"http", "https"} and bool(parts.netloc) and not parts.query


def _is_count(ids: int | Collection[int]) -> bool:
    return ids >= 0 if isinstance(ids, int) else min(ids, default=1) >= 1
