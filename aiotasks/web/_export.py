"""A job's page as one file, made from its ledger alone."""

from aiotasks.dedupe import LedgerReader
from aiotasks.models import Quota

from ._folder import ENDING
from ._html import job_page
from ._queries import details_view, merges_view, state_view


async def report_page(ledger: LedgerReader) -> str:
    """Return the current page of a job: one HTML document that needs no other file and no server.

    Args:
        ledger: An open ledger, as ``Ledger.reading`` opens it.

    Raises:
        LedgerError: when no job has begun in it, or the file cannot be read.
    """
    details = await details_view(ledger.path.name.removesuffix(ENDING), ledger, Quota())
    merges = (await merges_view(ledger, after=0))["merges"]
    return job_page(details | await state_view(ledger), is_live=False, nonce="", merges=merges)
