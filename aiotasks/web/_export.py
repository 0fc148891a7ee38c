"""A job's page as one file, made from its ledger alone."""

from aiotasks.dedupe import LedgerReader
from aiotasks.dedupe._outlook import read_outlook
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
    job_id, outlook = ledger.path.name.removesuffix(ENDING), await read_outlook(ledger)
    details = await details_view(job_id, ledger, Quota(), outlook)
    merges = (await merges_view(ledger, outlook, after=0))["merges"]
    return job_page(details | await state_view(ledger), is_live=False, nonce="", merges=merges)
