"""A local server that speaks Affinity's merge API, to test against."""

from aiotasks.sandbox._faults import OPERATIONS, Fault
from aiotasks.sandbox._log import LoggedRequest
from aiotasks.sandbox._server import Sandbox


__all__ = ["OPERATIONS", "Fault", "LoggedRequest", "Sandbox"]
