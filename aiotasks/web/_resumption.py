"""Jobs that a server was running when it ended, and that its next start goes on with."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from aiotasks.backoff import poll_backoff, poll_delay
from aiotasks.dedupe import JobSettings, Ledger, PairState
from aiotasks.errors import AffinityError, NetworkError, RateLimitError, ServerError

from ._folder import Folder


RUN_BY: Final = "serve"
"""What the ledger's note ``run_by`` is from the start of a job here until it ends or is stopped."""

# A choice, the same as for an outage of a job: it waits ten minutes for the API. A stop is noticed
# after such a pause.
_BACKOFF = poll_backoff(1.0, 5.0)
_ATTEMPTS: Final = 120
_PASSING = (NetworkError, RateLimitError, ServerError)

log = logging.getLogger("aiotasks.web")


class RunSettings(msgspec.Struct, frozen=True):
    """How a job was started: what its ledger notes, so that it can go on in the same way.

    With ``retry_failed``, a pair that has failed again is tried once more after each restart.
    """

    settings: JobSettings = JobSettings()
    retry_failed: bool = False

    def noted(self) -> str:
        """Return the text of the note."""
        return msgspec.json.encode(self).decode()


class InterruptedJob(NamedTuple):
    """A job that was running when the server ended."""

    job_id: str
    path: Path
    settings: RunSettings


async def interrupted_jobs(folder: Folder) -> list[InterruptedJob]:
    """Return the jobs of a folder that the last server was running, and no one has stopped."""
    found = []
    for job_id, path in folder:
        try:
            async with Ledger.reading(path) as ledger:
                settings = settings_to_go_on(await ledger.notes(), await ledger.totals())
        except AffinityError as error:
            log.warning("%s is left as it is: %s", path.name, error)
            continue
        if settings is not None:
            found.append(InterruptedJob(job_id, path, settings))
    return found


def settings_to_go_on(
    notes: Mapping[str, str], totals: Mapping[PairState, int]
) -> RunSettings | None:
    """Return how a job goes on, or ``None`` if it has ended, was stopped, or is not a server's."""
    has_ended = all(state.is_ended for state, count in totals.items() if count)
    if notes.get("run_by") != RUN_BY or has_ended:
        return None
    try:
        return msgspec.json.decode(notes.get("run_settings", ""), type=RunSettings)
    except msgspec.MsgspecError:
        # The note of a later version: the defaults are the careful choice.
        return RunSettings()


async def pause_before_retry(error: AffinityError, attempt: int, stop: asyncio.Event) -> bool:
    """Wait until a job may be tried again that could not go on; return False if it cannot."""
    if not isinstance(error, _PASSING) or attempt >= _ATTEMPTS:
        return False
    await asyncio.sleep(poll_delay(_BACKOFF, attempt))
    return not stop.is_set()
