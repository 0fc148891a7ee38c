"""A local server that speaks Affinity's merge API, to test against."""

from aiotasks.sandbox._faults import NOT_HTTP, OPERATIONS, Fault
from aiotasks.sandbox._log import LoggedRequest, SandboxMerge
from aiotasks.sandbox._server import Sandbox
from aiotasks.sandbox._settings import PLAIN
from aiotasks.sandbox._thread import in_thread


__all__ = [
    "NOT_HTTP",
    "OPERATIONS",
    "PLAIN",
    "Fault",
    "LoggedRequest",
    "Sandbox",
    "SandboxMerge",
    "in_thread",
]
