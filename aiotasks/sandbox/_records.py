"""Companies and persons: made up from their place in the directory, so they cost no memory."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, Literal


KindName = Literal["company", "person"]
Record = dict[str, Any]

_ADJECTIVES = (
    "Amber Bright Cedar Delta Early Fern Golden Harbor Indigo Juniper Kestrel Lunar "
    "Maple North Opal Prairie Quartz River Silver Tidal Umber Velvet Willow Zephyr"
)
_TRADES = (
    "Analytics Bakery Capital Dynamics Energy Foods Games Health Insurance Jewelry Kitchens "
    "Labs Media Networks Optics Partners Query Robotics Software Travel Utilities Ventures "
    "Works Yachts"
)
_FIRST_NAMES = (
    "Ada Ben Chloe Dmitri Elena Farid Grace Hiro Ines Jonas Kofi Lucia Marek Nadia Omar Priya "
    "Quentin Rosa Samir Tessa Ulrich Vera Wen Yara"
)
_LAST_NAMES = (
    "Abbott Becker Castillo Dubois Eriksen Fischer Garcia Hansen Ivanov Jensen Kimura Lopez "
    "Moreau Novak Okafor Petrov Quinn Rossi Santos Tanaka Usman Vogel Weber Zhang"
)


@dataclass(frozen=True, slots=True)
class Kind:
    """The names under which one kind of record appears in paths and bodies."""

    name: KindName
    plural: str
    list_limit: int
    match_criteria: tuple[str, ...]
    several: str

    @property
    def title(self) -> str:
        return self.name.title()

    @property
    def primary_field(self) -> str:
        return f"primary{self.title}Id"

    @property
    def duplicate_field(self) -> str:
        return f"duplicate{self.title}Id"


COMPANY = Kind("company", "companies", 100, ("domain-match", "domain-redirect", "name"), "domains")
PERSON = Kind("person", "persons", 25, ("intelligent", "name"), "emailAddresses")
KINDS = {kind.name: kind for kind in (COMPANY, PERSON)}


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Two similar records, and by what criterion."""

    id: str
    criterion: str
    primary_id: int
    duplicate_id: int
    name: str


class Directory:
    """All records of one kind; every second one is a duplicate of the one before it.

    Special ones, by their share or their ids, are global companies and internal persons.
    """

    def __init__(
        self,
        kind: Kind,
        ids: int | Collection[int],
        *,
        special: float | Collection[int] = (),
        seed: str = "",
    ) -> None:
        self.kind = kind
        self._special = special
        self._seed = seed
        self.ids = range(1, ids + 1) if isinstance(ids, int) else sorted(set(ids))
        self._positions = {record_id: position for position, record_id in enumerate(self.ids)}

    @cached_property
    def suggestions(self) -> list[Suggestion]:
        return [self._suggest(position) for position in range(1, len(self.ids), 2)]

    @cached_property
    def special_ids(self) -> Collection[int]:
        if not isinstance(self._special, float | int):
            return frozenset(self._special)
        random, share = Random(self._seed), self._special  # noqa: S311 - the same for the same seed
        return frozenset(record_id for record_id in self.ids if random.random() < share)

    def __contains__(self, record_id: int) -> bool:
        return record_id in self._positions

    def record(self, record_id: int) -> Record:
        position = self._positions[record_id]
        record = _company(position) if self.kind is COMPANY else _person(position)
        is_special = record_id in self.special_ids
        if self.kind is COMPANY:
            return {"id": record_id, **record, "isGlobal": is_special}
        return {"id": record_id, **record, "type": "internal" if is_special else "external"}

    def _suggest(self, position: int) -> Suggestion:
        shown = position - 1
        record = _company(shown) if self.kind is COMPANY else _person(shown)
        return Suggestion(
            id=f"{self.kind.name}-suggestion-{position // 2 + 1}",
            criterion=_criterion(self.kind, position),
            primary_id=self.ids[position - 1],
            duplicate_id=self.ids[position],
            name=record.get("name") or f"{record['firstName']} {record['lastName']}",
        )


def _criterion(kind: Kind, position: int) -> str:
    return kind.match_criteria[position // 2 % len(kind.match_criteria)]


def _words(first: str, second: str, number: int) -> tuple[str, str, str]:
    """Combine two words, and a numeral where all combinations are used up."""
    left, right = first.split(), second.split()
    rounds, place = divmod(number, len(left) * len(right))
    row, column = divmod(place, len(right))
    # The shift makes neighbours differ in both words.
    return left[(row + column) % len(left)], right[column], str(rounds + 1) if rounds else ""


def _company(position: int) -> Record:
    name = " ".join(filter(None, _words(_ADJECTIVES, _TRADES, position // 2)))
    domain: str | None = f"{name.lower().replace(' ', '-')}.example"
    if position % 2:
        criterion = _criterion(COMPANY, position)
        name = name if criterion == "name" else f"{name} Inc."
        domain = {
            "domain-match": domain,
            "domain-redirect": f"get-{domain}",
            "name": None,
        }[criterion]
    domains = [domain] if domain else []
    return {"name": name, "domain": domain, "domains": domains}


def _person(position: int) -> Record:
    first, last, number = _words(_FIRST_NAMES, _LAST_NAMES, position // 2)
    company = _company(position // 2 * 2)["domain"]
    email = f"{first}.{last}{number}@{company}".lower()
    if position % 2:
        email = f"{first}{last}{number}@mail.example".lower()
        first = first if _criterion(PERSON, position) == "name" else f"{first[0]}."
    return {
        "firstName": first,
        "lastName": last,
        "primaryEmailAddress": email,
        "emailAddresses": [email],
    }
