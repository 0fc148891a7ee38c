"""A job's page as one file, out of its ledger alone."""

from aiotasks.dedupe import LedgerReader
from aiotasks.models import Quota

from ._folder import ENDING
from ._html import job_page
from ._queries import job_told, merges_told


async def report_page(ledger: LedgerReader) -> str:
    """Return the page of a job as it is now: one HTML document that needs no other file, or server.

    Args:
        ledger: An open ledger, as ``Ledger.reading`` opens it.

    Raises:
        LedgerError: when no job has begun in it, or the file cannot be read.
    """
    job = await job_told(ledger.path.name.removesuffix(ENDING), ledger, Quota())
    merges = (await merges_told(ledger, after=0))["merges"]
    return job_page(job, is_live=False, nonce="", merges=merges)
