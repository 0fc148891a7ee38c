"""Entries of the log of requests."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request that has arrived, whatever was answered to it.

    Attributes:
        at: when it arrived, on the loop's clock.
        method: its HTTP method.
        path: its path with the query, as it was sent.
        operation: what it asks for, such as ``merge`` or ``tasks``; ``other`` for unknown paths.
        body: its body, empty for most requests.
        is_authorized: whether it came with the right key. The key itself is not kept.
    """

    at: float
    method: str
    path: str
    operation: str
    body: bytes
    is_authorized: bool
