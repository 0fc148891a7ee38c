"""The ledger: the state of each pair of a job, durable at every transition."""

from .reader import LedgerReader
from .writer import Ledger


__all__ = ["Ledger", "LedgerReader"]
