"""Downloads: their names, their rows, and their pieces."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from aiohttp import hdrs, web

from aiotasks.dedupe import LedgerReader, PairState, report_lines, snapshot_lines
from aiotasks.dedupe._tables import BOM

from ._folder import plain_name
from ._responses import Refusal


SNAPSHOTS: Final = "snapshots.jsonl"
_BATCH: Final = 64 * 1024


def attachment(source: str, ending: str) -> dict[str, str]:
    """Return the header with a name that tells what the file is, of which input."""
    name = plain_name(source)
    stem = name.rpartition(".")[0] or name
    full = f"{stem}.{ending}"
    # Browsers take the second, which has all characters; see RFC 6266.
    plain = full.encode("ascii", "replace").decode().translate(str.maketrans('"\\', "__"))
    names = f"filename=\"{plain}\"; filename*=UTF-8''{quote(full, safe='')}"
    return {hdrs.CONTENT_DISPOSITION: f"attachment; {names}"}


def states_of(request: web.BaseRequest) -> Sequence[PairState]:
    """Return the states to which ``?only=`` limits a report; it may be repeated.

    Raises:
        Refusal: when one of them is no state.
    """
    given = request.query.getall("only", [])
    try:
        return [PairState(each) for each in given]
    except ValueError:
        known = ", ".join(PairState)
        message = f"only must be one of {known}, not {', '.join(given)[:100]!r}"
        raise Refusal(HTTPStatus.BAD_REQUEST, message) from None


def refuse_states(request: web.BaseRequest) -> None:
    """Refuse to limit what is always whole.

    Raises:
        Refusal: when the request has ``?only=``.
    """
    if "only" in request.query:
        message = "Only report.csv and report.jsonl take ?only=: this is of all pairs"
        raise Refusal(HTTPStatus.BAD_REQUEST, message)


async def batches(
    ledger: LedgerReader, ending: str, states: Sequence[PairState]
) -> AsyncGenerator[bytes]:
    """Yield a download piece by piece."""
    batch = bytearray(BOM.encode() if ending.endswith(".csv") else b"")
    async for line in _lines(ledger, ending, states):
        batch += line.encode()
        if len(batch) >= _BATCH:
            yield bytes(batch)
            batch.clear()
    yield bytes(batch)


def _lines(ledger: LedgerReader, ending: str, states: Sequence[PairState]) -> AsyncIterator[str]:
    if ending == SNAPSHOTS:
        return snapshot_lines(ledger)
    return report_lines(ledger, *states, format="csv" if ending.endswith(".csv") else "jsonl")
