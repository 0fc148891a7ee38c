"""What is known of the jobs in a folder, read out of their ledgers when it is asked for."""

import asyncio
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from aiotasks.client import Client
from aiotasks.dedupe import JobInfo, Ledger, LedgerReader, Pair
from aiotasks.dedupe._preview import label_of
from aiotasks.dedupe.ledger.holder import live_holder
from aiotasks.errors import AffinityError
from aiotasks.models import Quota

from . import _json
from ._folder import Folder
from ._runner import JobRunner


_MOST_READS: Final = 8
_HERE: Final[dict[str, Any]] = {"is_running": True, "holder": None, "stopped": None}


class JobQueries:
    """Reads ledgers, only a few at a time, however many ask."""

    def __init__(self, client: Client, folder: Folder, runner: JobRunner) -> None:
        self._client = client
        self._folder = folder
        self._runner = runner
        self._reads = asyncio.Semaphore(_MOST_READS)

    async def job(self, job_id: str, path: Path) -> dict[str, Any]:
        """Return all that is told of a job."""
        async with self._reads, Ledger.reading(path) as ledger:
            told = await job_told(job_id, ledger, self._client.quota)
        run = self._runner.run_of(job_id)
        if run is None:
            return told | {"error": self._runner.error_of(job_id) or told["error"]}
        return told | _HERE | {"error": None, "progress": _json.progress_view(run.progress)}

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
                        summary = await _summary(job_id, ledger)
                        is_here = self._runner.run_of(job_id) is not None
                        summary |= _HERE if is_here else {}
                        found.append((ledger.job.begun_at, summary))
            except AffinityError:
                # What is no ledger is no job, and no harm to the others.
                continue
        return [summary for _, summary in sorted(found, key=lambda each: each[0], reverse=True)]

    async def merges(self, path: Path, *, after: int) -> dict[str, Any]:
        """Return some merges of a job's plan, and after which number the next ones come."""
        async with self._reads, Ledger.reading(path) as ledger:
            return await merges_told(ledger, after=after)


async def job_told(job_id: str, ledger: LedgerReader, quota: Quota) -> dict[str, Any]:
    """Return all that a ledger tells of its job, where that is not run here."""
    job = ledger.require_job()
    # Before the pairs: what came in between is told again, and not lost.
    seq = await ledger.last_seq()
    pairs = await ledger.pairs()
    names = await names_of(ledger, job, _ids(_json.failures(pairs)))
    notes = await ledger.notes()
    return {
        **await _summary(job_id, ledger),
        **_json.details(job, pairs, names, notes, quota),
        "seq": seq,
        "progress": None,
        "error": notes.get("error"),
    }


async def merges_told(ledger: LedgerReader, *, after: int) -> dict[str, Any]:
    """Return some merges of a ledger's plan, and after which number the next ones come."""
    job = ledger.require_job()
    end = min(after + _json.MOST, job.merges)
    pairs = await ledger.numbered(range(after + 1, end + 1))
    names = await names_of(ledger, job, _ids(pairs))
    merges = [_json.pair_view(pair, names) for pair in pairs]
    return {"merges": merges, "next": end if end < job.merges else None}


async def _summary(job_id: str, ledger: LedgerReader) -> dict[str, Any]:
    return _json.summary(
        job_id,
        ledger.require_job(),
        await ledger.totals(),
        await ledger.notes(),
        is_running=False,
        holder=live_holder(ledger.holder, host=socket.gethostname()),
    )


def _ids(pairs: list[Pair]) -> set[int]:
    return {each for pair in pairs for each in (pair.primary_id, pair.duplicate_id)}


async def names_of(ledger: LedgerReader, job: JobInfo, ids: Iterable[int]) -> Mapping[int, str]:
    """Return the names of records, as far as there are snapshots of them."""
    records = await ledger.records(ids)
    return {record_id: label_of(job.kind, json) for record_id, json in records.items()}
