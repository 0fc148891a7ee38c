"""What becomes of the merges of a job, from the snapshots in its ledger."""

from typing import Final

from ._effects import Merge, Outlook, Traits, foresee, traits_of
from .ledger import LedgerReader


# A choice: as many snapshots as are worth holding in memory at a time.
_BATCH: Final = 500


async def read_outlook(ledger: LedgerReader) -> Outlook:
    """Return what becomes of the merges of a ledger's plan: the same whenever it is read.

    Raises:
        NoJobError: when the ledger has no job.
        LedgerError: when the file cannot be read.
    """
    kind = ledger.require_job().kind
    pairs = [pair for pair in await ledger.pairs() if pair.is_planned]
    merges = [Merge(pair.number, pair.primary_id, pair.duplicate_id) for pair in pairs]
    ids = [*{each: None for merge in merges for each in merge[1:]}]
    traits = dict[int, Traits]()
    for start in range(0, len(ids), _BATCH):
        records = await ledger.records(ids[start : start + _BATCH])
        traits.update((each, traits_of(kind, json)) for each, json in records.items())
    no_new_company = "no_new_company" in await ledger.notes()
    return foresee(merges, traits, no_new_company=no_new_company)
