"""What becomes of the two records of a merge, from their JSON."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from aiotasks.models import CompanyProfile, Kind, PersonProfile


_PROFILES: Final[Mapping[Kind, msgspec.json.Decoder[Any]]] = {
    "company": msgspec.json.Decoder(CompanyProfile),
    "person": msgspec.json.Decoder(PersonProfile),
}


class Effect(StrEnum):
    """What a merge makes of its two records.

    Global companies are shared with other organizations. A local primary, or a person, is ``KEPT``
    and the duplicate deleted; a global duplicate is ``HIDDEN`` from the organization instead. A
    global primary becomes a ``LOCAL_COPY`` with its id, unless the duplicate is global too or has a
    domain that the primary has not: then both are ``REPLACED`` by a new company with an id of its
    own, and the primary's id is gone. ``UNKNOWN`` is the effect on records that cannot be read.
    """

    KEPT = "kept"
    HIDDEN = "duplicate-hidden"
    LOCAL_COPY = "local-copy"
    REPLACED = "replaced"
    UNKNOWN = "unknown"


def profile_of(kind: Kind, json: bytes) -> CompanyProfile | PersonProfile | None:
    """Return the profile in the JSON of a record, or ``None`` if it is damaged."""
    try:
        profile: CompanyProfile | PersonProfile = _PROFILES[kind].decode(json)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return profile


def is_global(kind: Kind, json: bytes | None) -> bool | None:
    """Return whether a record is shared with other organizations, or ``None`` if not known.

    Persons never are.
    """
    if kind == "person":
        return False
    profile = None if json is None else profile_of(kind, json)
    return profile.is_global if isinstance(profile, CompanyProfile) else None


def effect_of(kind: Kind, primary: bytes | None, duplicate: bytes | None) -> Effect:
    """Return the effect of a merge of two records, as their JSON says they are now."""
    of_primary, of_duplicate = is_global(kind, primary), is_global(kind, duplicate)
    if of_primary is None or of_duplicate is None:
        return Effect.UNKNOWN
    if not of_primary:
        return Effect.HIDDEN if of_duplicate else Effect.KEPT
    if of_duplicate or domains_of(duplicate) - domains_of(primary):
        return Effect.REPLACED
    return Effect.LOCAL_COPY


def domains_of(company: bytes | None) -> frozenset[str]:
    """Return the domains of a company, in lower case."""
    profile = None if company is None else profile_of("company", company)
    if not isinstance(profile, CompanyProfile):
        return frozenset()
    return frozenset(
        each.lower() for each in (*profile.domains, profile.domain) if each is not None
    )
