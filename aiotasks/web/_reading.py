"""What is read of ledgers in more than one place."""

from collections.abc import Iterable, Mapping

from aiotasks.dedupe import JobInfo, LedgerReader
from aiotasks.dedupe._preview import label_of
from aiotasks.errors import LedgerError


def job_of(ledger: LedgerReader) -> JobInfo:
    """Return the job of a ledger that was begun."""
    if ledger.job is None:
        raise LedgerError(str(ledger.path), "there is no job in it yet")
    return ledger.job


async def names_of(ledger: LedgerReader, job: JobInfo, ids: Iterable[int]) -> Mapping[int, str]:
    """Return the names of records, as far as there are snapshots of them."""
    records = await ledger.records(ids)
    return {record_id: label_of(job.kind, json) for record_id, json in records.items()}
