"""Queries of the jobs in a folder, answered from their ledgers."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from aiotasks.client import Client
from aiotasks.dedupe import JobInfo, Ledger, LedgerReader, Pair
from aiotasks.dedupe._effects import Outlook
from aiotasks.dedupe._outlook import read_outlook
from aiotasks.dedupe._preview import label_of
from aiotasks.errors import AffinityError
from aiotasks.models import Quota

from . import _json
from ._folder import Folder
from ._runner import JobRunner, LocalState


_MOST_READS: Final = 8
# A choice: how many jobs are looked at at a time, more or less.
_MOST_OUTLOOKS: Final = 8


class JobQueries:
    """Reads the ledgers of a folder, a few at a time."""

    def __init__(self, client: Client, folder: Folder, runner: JobRunner) -> None:
        self._client = client
        self._folder = folder
        self._runner = runner
        self._outlooks: dict[tuple[Path, float], Outlook] = {}
        self._reads = asyncio.Semaphore(_MOST_READS)

    async def job(self, job_id: str, path: Path) -> dict[str, Any]:
        """Return the whole JSON of a job."""
        async with self._reads, Ledger.reading(path) as ledger:
            outlook = await self._outlook(ledger)
            details = await details_view(job_id, ledger, self._client.quota, outlook)
            return details | await self._state(job_id, ledger)

    async def fingerprint(self, path: Path) -> str:
        """Return the fingerprint of a job's plan."""
        async with self._reads, Ledger.reading(path) as ledger:
            return ledger.require_job().fingerprint

    async def jobs(self) -> list[dict[str, Any]]:
        """Return the summaries of all jobs, the newest first."""
        found: list[tuple[float, dict[str, Any]]] = []
        for job_id, path in self._folder:
            try:
                async with self._reads, Ledger.reading(path) as ledger:
                    if ledger.job is not None:
                        summary = _json.summary(job_id, ledger.job)
                        state = await self._state(job_id, ledger)
                        found.append((ledger.job.begun_at, summary | state))
            except AffinityError:
                # A file that is not a ledger must not hide the other jobs.
                continue
        return [summary for _, summary in sorted(found, key=lambda each: each[0], reverse=True)]

    async def merges(self, path: Path, *, after: int) -> dict[str, Any]:
        """Return a page of a job's plan, and the number after which the next page starts."""
        async with self._reads, Ledger.reading(path) as ledger:
            return await merges_view(ledger, await self._outlook(ledger), after=after)

    async def _outlook(self, ledger: LedgerReader) -> Outlook:
        # It never changes, and takes reading the snapshots of all records.
        key = (ledger.path, ledger.require_job().begun_at)
        if key not in self._outlooks:
            outlook = await read_outlook(ledger)
            if len(self._outlooks) >= _MOST_OUTLOOKS:
                del self._outlooks[next(iter(self._outlooks))]
            self._outlooks[key] = outlook
        return self._outlooks[key]

    async def _state(self, job_id: str, ledger: LedgerReader) -> dict[str, Any]:
        return await state_view(ledger, partial(self._runner.local_state, job_id))


async def details_view(
    job_id: str, ledger: LedgerReader, quota: Quota, outlook: Outlook
) -> dict[str, Any]:
    """Return the plan, the failures and the curve of a job, and the last transition in them."""
    job = ledger.require_job()
    # Read first: transitions that are recorded meanwhile are sent again, but none is missed.
    seq = await ledger.last_seq()
    pairs = await ledger.pairs()
    names = await names_of(ledger, job, _ids(_json.failures(pairs)))
    details = _json.details(job, pairs, names, await ledger.notes(), quota)
    effects = _json.effects(pairs, outlook)
    return {**_json.summary(job_id, job), **details, **effects, "seq": seq}


async def state_view(
    ledger: LedgerReader, local_state: Callable[[], LocalState] = LocalState
) -> dict[str, Any]:
    """Return how far a job is, by its ledger and what this process knows of it."""
    before = local_state()
    job, totals, notes = ledger.require_job(), await ledger.totals(), await ledger.notes()
    holder = await ledger.live_holder()
    # Asked again: the lock of a run that started meanwhile would look like that of another process.
    now = local_state()
    run = before.run or now.run
    return _json.state(
        job,
        totals,
        notes,
        holder=None if now.is_attached else holder,
        error=now.error or notes.get("error"),
        is_running=run is not None,
        progress=None if run is None else run.progress,
    )


async def merges_view(ledger: LedgerReader, outlook: Outlook, *, after: int) -> dict[str, Any]:
    """Return a page of a ledger's plan, and the number after which the next page starts."""
    job = ledger.require_job()
    end = min(after + _json.MOST, job.merges)
    pairs = await ledger.numbered(range(after + 1, end + 1))
    names = await names_of(ledger, job, _ids(pairs))
    merges = [_json.merge_view(pair, names, outlook) for pair in pairs]
    return {"merges": merges, "next": end if end < job.merges else None}


def _ids(pairs: list[Pair]) -> set[int]:
    return {each for pair in pairs for each in (pair.primary_id, pair.duplicate_id)}


async def names_of(ledger: LedgerReader, job: JobInfo, ids: Iterable[int]) -> Mapping[int, str]:
    """Return the names of the records of which the ledger has a snapshot, by their ids."""
    records = await ledger.records(ids)
    return {record_id: label_of(job.kind, json) for record_id, json in records.items()}
