"""What becomes of the records of merges, from their JSON: decisions without I/O."""

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from aiotasks.models import CompanyProfile, Kind, PersonProfile

from .models import Pair


_PROFILES: Final[Mapping[Kind, msgspec.json.Decoder[Any]]] = {
    "company": msgspec.json.Decoder(CompanyProfile),
    "person": msgspec.json.Decoder(PersonProfile),
}


UNDO_PLACE: Final = "Settings > Duplicate Management > Merged"
"""Where an admin of the organization can undo what can be undone."""

_UNDO: Final[Mapping[bool | None, str]] = {
    True: f"by an admin in {UNDO_PLACE}",
    False: "never",
    None: "unknown",
}


class Effect(StrEnum):
    """What a merge makes of its two records.

    Global companies are shared with other organizations, local ones and persons are not. A primary
    that is not global is ``KEPT``; it is ``HIDDEN`` if the duplicate is global, as that is hidden
    from the organization instead of deleted. A global primary becomes a ``LOCAL_COPY`` with its id,
    unless the duplicate is global too or has a domain that the primary has not: then both are
    ``REPLACED`` by a new company with an id of its own. ``UNKNOWN`` is the effect on records of
    which this is not known.
    """

    KEPT = "kept"
    HIDDEN = "hidden"
    LOCAL_COPY = "local-copy"
    REPLACED = "replaced"
    UNKNOWN = "unknown"

    @property
    def can_undo(self) -> bool | None:
        """Whether an admin can undo it in Affinity's settings, or ``None`` if not known.

        That is so for persons and for two local companies, and never with a global company.
        """
        return None if self is Effect.UNKNOWN else self is Effect.KEPT

    @property
    def undo(self) -> str:
        """Who can undo it and where, in words: ``never`` and ``unknown`` are two of them."""
        return _UNDO[self.can_undo]


EFFECT_SENTENCES: Final[Mapping[Effect, str]] = {
    Effect.KEPT: "the duplicate is merged into its primary",
    Effect.HIDDEN: "a global duplicate is merged, and only hidden from your organization",
    Effect.LOCAL_COPY: "a global primary becomes your organization's own copy, with the same id",
    Effect.REPLACED: "both companies are replaced by a new one, with an id of its own",
    Effect.UNKNOWN: "the records do not say what becomes of them",
}
"""What becomes of two records, for a list of how many merges have which effect."""


class Traits(NamedTuple):
    """What the effect of a merge depends on in a record; ``is_global`` is ``None`` if not known."""

    is_global: bool | None
    domains: frozenset[str] = frozenset()
    is_internal: bool = False


class Merge(NamedTuple):
    """A merge of a job, by the number of its pair."""

    number: int
    primary_id: int
    duplicate_id: int


class Outlook(Struct, frozen=True, kw_only=True):
    """What becomes of the merges of a job, if each of them succeeds.

    ``effects`` has the effect of each merge by its number, in the order in which they have to run
    within their clusters, and ``left_out`` the reason why a merge must not run. A merge in
    ``relies_on`` has its effect only after another one, of that number, has succeeded.
    """

    effects: Mapping[int, Effect]
    left_out: Mapping[int, str]
    relies_on: Mapping[int, int]


def undo_sentences(counts: Mapping[Effect, int], merges: str = "them") -> str:
    """Return how many merges can be undone, and where; ``merges`` says of which."""
    number = Counter[bool | None]()
    for effect, count in counts.items():
        number[effect.can_undo] += count
    sentences = {
        True: f"An admin can undo {number[True]:,} of {merges}, in {UNDO_PLACE}.",
        False: f"{number[False]:,} of {merges} can never be undone.",
        None: f"Whether {number[None]:,} of {merges} can be undone is not known.",
    }
    return " ".join(text for can_undo, text in sentences.items() if number[can_undo])


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
    return traits_of(kind, json or b"").is_global


def traits_of(kind: Kind, json: bytes) -> Traits:
    """Return the traits of a record; of a damaged one, nothing is known."""
    profile = profile_of(kind, json)
    if isinstance(profile, CompanyProfile):
        names = filter(None, (*profile.domains, profile.domain))
        return Traits(profile.is_global, frozenset(map(str.lower, names)))
    is_internal = profile is not None and profile.type == "internal"
    return Traits(False if kind == "person" else None, is_internal=is_internal)


def effect_of(primary: Traits | None, duplicate: Traits | None) -> Effect:
    """Return the effect of a merge of two records as they are now."""
    if primary is None or duplicate is None:
        return Effect.UNKNOWN
    if primary.is_global is None or duplicate.is_global is None:
        return Effect.UNKNOWN
    if not primary.is_global:
        return Effect.HIDDEN if duplicate.is_global else Effect.KEPT
    if duplicate.is_global or duplicate.domains - primary.domains:
        return Effect.REPLACED
    return Effect.LOCAL_COPY


def foresee(
    merges: Iterable[Merge], traits: Mapping[int, Traits], *, no_new_company: bool
) -> Outlook:
    """Return what becomes of the merges of a job, from the traits of its records by their ids.

    Within a cluster, merges that make a global primary local run first: all others then find a
    local one. Where none does that, one merge replaces the primary, and the rest is left out. With
    ``no_new_company`` all merges are left out that would make a new company, or might.
    """
    clusters: dict[int, list[Merge]] = {}
    outlook = _Foreseen(traits, no_new_company=no_new_company)
    for merge in merges:
        clusters.setdefault(merge.primary_id, []).append(merge)
    for primary_id, cluster in clusters.items():
        outlook.add_cluster(traits.get(primary_id), cluster)
    return Outlook(effects=outlook.effects, left_out=outlook.left_out, relies_on=outlook.relies_on)


def effect_of_pair(pair: Pair, outlook: Outlook) -> Effect | None:
    """Return what became of the records of a pair, or is to; nothing does if it is not merged."""
    return None if pair.state.can_retry else outlook.effects.get(pair.number)


def count_effects(pairs: Iterable[Pair], outlook: Outlook) -> dict[Effect, int]:
    """Count the effects of a plan's merges, also of those that failed, as they may be tried again.

    A record that was gone before the job has no known effect, and its merge does not run.
    """
    effects = [
        outlook.effects[pair.number]
        for pair in pairs
        if pair.number in outlook.effects and not _is_idle(pair, outlook)
    ]
    return {effect: effects.count(effect) for effect in Effect if effect in effects}


def _is_idle(pair: Pair, outlook: Outlook) -> bool:
    is_known = outlook.effects[pair.number] is not Effect.UNKNOWN
    return not is_known and pair.state.is_ended and pair.task_url is None


class _Foreseen:
    def __init__(self, traits: Mapping[int, Traits], *, no_new_company: bool) -> None:
        self.effects: dict[int, Effect] = {}
        self.left_out: dict[int, str] = {}
        self.relies_on: dict[int, int] = {}
        self._traits = traits
        self._no_new_company = no_new_company

    def add_cluster(self, primary: Traits | None, cluster: Iterable[Merge]) -> None:
        copied_by: Merge | None = None
        replaced_by: Merge | None = None
        for merge in self._in_order(primary, cluster):
            duplicate = self._traits.get(merge.duplicate_id)
            effect = effect_of(primary, duplicate)
            if reason := self._obstacle(merge, primary, effect, replaced_by):
                self.left_out[merge.number] = reason
                continue
            self.effects[merge.number] = effect
            if copied_by is not None:
                self.relies_on[merge.number] = copied_by.number
            # Without a snapshot the duplicate is gone, so that its merge changes nothing.
            if primary is None or not primary.is_global or duplicate is None:
                continue
            if effect is Effect.LOCAL_COPY:
                # It gains no domain, and domains matter only while it is global.
                primary, copied_by = primary._replace(is_global=False), merge
            else:
                replaced_by = merge

    def _in_order(self, primary: Traits | None, cluster: Iterable[Merge]) -> list[Merge]:
        def is_late(merge: Merge) -> bool:
            duplicate = self._traits.get(merge.duplicate_id)
            return effect_of(primary, duplicate) is not Effect.LOCAL_COPY

        # Sorting is stable, so the others stay in the order of the plan.
        return sorted(cluster, key=is_late)

    def _obstacle(
        self, merge: Merge, primary: Traits | None, effect: Effect, replaced_by: Merge | None
    ) -> str | None:
        duplicate = self._traits.get(merge.duplicate_id)
        if duplicate is not None and duplicate.is_internal:
            return f"{merge.duplicate_id} is an internal person, who cannot be merged away"
        if self._no_new_company and _may_replace(primary, effect):
            verb = "would" if effect is Effect.REPLACED else "might"
            both = f"{merge.primary_id} and {merge.duplicate_id}"
            return f"{both} {verb} be replaced by a new company (no new company)"
        if replaced_by is None:
            return None
        verb = "is" if self.effects[replaced_by.number] is Effect.REPLACED else "may be"
        return (
            f"{merge.primary_id} {verb} replaced by a new company when {replaced_by.duplicate_id} "
            f"is merged into it: merge {merge.duplicate_id} in another run, with the id of the new "
            "company as primary"
        )


def _may_replace(primary: Traits | None, effect: Effect) -> bool:
    if effect is Effect.UNKNOWN:
        return primary is None or primary.is_global is not False
    return effect is Effect.REPLACED
