"""The companies that took the place of others in a job's merges."""

from collections.abc import Mapping
from contextlib import suppress

import msgspec

from aiotasks.client import Client
from aiotasks.errors import AffinityError, MergedEntityError

from ._effects import Effect, Outlook
from .ledger import Ledger
from .models import PairState


async def record_new_ids(client: Client, ledger: Ledger, outlook: Outlook) -> None:
    """Record the ids of new companies, by the numbers of their pairs, where the API names them.

    No list can be searched for them. But some versions of the API answer a primary that was
    replaced with the company that it survives as; those that do not are asked only once.
    """
    found = read_new_ids(await ledger.notes())
    wanted = {
        pair.primary_id: pair.number
        for pair in await ledger.pairs(PairState.SUCCEEDED)
        if outlook.effects.get(pair.number) is Effect.REPLACED and pair.number not in found
    }
    # Best effort: a failure here is ignored, and the report leaves the missing ids blank.
    with suppress(AffinityError):
        # One that is still there was not replaced after all.
        async for record in client.companies.records([*wanted]):
            del wanted[record.profile.id]
        for primary_id, number in wanted.items():
            try:
                _ = await client.companies.get_record(primary_id)
            except MergedEntityError as error:
                found[number] = error.target_id
    await ledger.note(new_ids=msgspec.json.encode(found).decode() if found else None)


def read_new_ids(notes: Mapping[str, str]) -> dict[int, int | None]:
    """Return the ids in the notes of a ledger; none, if they are damaged."""
    with suppress(msgspec.MsgspecError):
        return msgspec.json.decode(notes.get("new_ids", "{}"), type=dict[int, int | None])
    return {}
