"""Which columns of a table have the ids: by options, by our names, or by those of other tools."""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import chain
from typing import Final, NamedTuple, TypedDict, cast, get_args

from aiotasks._checks import reject, shorten
from aiotasks._text import PLURAL
from aiotasks.dedupe.models import REPORT_COLUMNS
from aiotasks.models import Kind

from .ids import Form


class InputOptions(TypedDict, total=False):
    """How a file is read if its columns do not say it by their names; see ``Plan.read``."""

    sheet: str | None
    primary_column: str | None
    duplicate_column: str | None
    cluster_column: str | None
    id_column: str | None
    keep: str | None


class Layout(StrEnum):
    """What a row is: a pair with a direction, one without, or a record of a cluster."""

    PAIRS = "pairs"
    EDGES = "pairs without a direction"
    CLUSTERS = "clusters"


ROLES: Final[Mapping[Layout, tuple[str, str]]] = {
    Layout.PAIRS: ("primary", "duplicate"),
    Layout.EDGES: ("left", "right"),
    Layout.CLUSTERS: ("cluster", "record"),
}
_OPTION_OF: Mapping[str, str] = {
    "primary": "primary_column",
    "duplicate": "duplicate_column",
    "cluster": "cluster_column",
    "record": "id_column",
}
_LAYOUT_OF: Mapping[str, Layout] = {
    "primary_column": Layout.PAIRS,
    "duplicate_column": Layout.PAIRS,
    "cluster_column": Layout.CLUSTERS,
    "id_column": Layout.CLUSTERS,
}
# An input may have a column of its own called "state"; only a report has all three of these.
_REPORT_MARKS = frozenset({"state", "line", "planned_at"})

_OWN = re.compile(r"(primary|duplicate)(?:(?P<company>company)|(?P<person>person))?id", re.ASCII)
_RECORD = r"(?:record|unique|(?P<company>company|organi[sz]ation)|(?P<person>person))?"
# What exports of HubSpot, Salesforce and Affinity's older interfaces, splink and Zingg call them.
_ALIASES: Mapping[str, re.Pattern[str]] = {
    "primary": re.compile(
        rf"(?:primary|master|survivor|surviving|winner|winning|merged?into){_RECORD}id"
    ),
    "duplicate": re.compile(rf"(?:duplicate|loser|losing){_RECORD}id"),
    "cluster": re.compile(r"z?cluster(?:id)?|duplicaterecordset(?:id)?"),
    "record": re.compile(rf"{_RECORD}id"),
}
# A table with one of these has in each row a duplicate, by its own id, and what it is merged into.
_OF_ROW = re.compile(rf"merged?into{_RECORD}id|masterrecordid")
_EDGE = re.compile(rf"(?P<before>left)?{_RECORD}id(?P<after>l|left|1|a)?")
_ALPHABET = 26
_RIGHT = {"left": "right", "l": "r", "1": "2", "a": "b"}


class Columns(NamedTuple):
    """The columns of a table: those of the ids by their roles, and the others by their names.

    ``understood`` has those roles that neither an option nor a name of our own gave to a column,
    and ``named`` those for which there is an option.
    """

    names: Sequence[str]
    layout: Layout
    roles: Mapping[str, int]
    further: Sequence[tuple[int, str]]
    flaws: Sequence[str]
    understood: Mapping[str, str]
    named: frozenset[str]

    @property
    def missing(self) -> list[str]:
        return [role for role in ROLES[self.layout] if role not in self.roles]


def check_options(options: InputOptions) -> None:
    """Check that options can be used together.

    Raises:
        ConfigurationError: when they cannot.
    """
    for name, value in options.items():
        if name not in InputOptions.__annotations__:
            known = ", ".join(InputOptions.__annotations__)
            reject(f"{shorten(name)} is no option of an input: there are {known}")
        if value is not None and not (isinstance(value, str) and value.strip()):
            reject(f"{name} must be a name, not {shorten(value)}")
    given = {name: layout for name, layout in _LAYOUT_OF.items() if options.get(name)}
    if len(set(given.values())) > 1:
        reject(f"{' and '.join(given)} do not go together: rows are pairs, or records of clusters")
    if options.get("keep") and Layout.PAIRS in given.values():
        reject("keep is for clusters: of a pair, the primary survives")


def understand(
    names: Sequence[str], kind: Kind, options: InputOptions, layout: Layout | None = None
) -> Columns:
    """Find the columns of the ids; ``layout`` is that of earlier rows, if there are some."""
    header = Header(names, kind)
    layout = layout or _layout_of(header, options)
    choice = _Choice(header)
    named = {role: name for role, option in _OPTION_OF.items() if (name := options.get(option))}
    for role in ROLES[layout]:
        if role in named:
            choice.take_named(role, str(named[role]))
        elif own := header.own.get(role):
            choice.take(role, own)
        else:
            choice.take(role, header.like(role), is_understood=True)
    # What a row is part of is worth knowing later, and no id of the pair.
    ids = [index for role, index in choice.roles.items() if role != "cluster"]
    used = {*ids, *chain.from_iterable(header.own.values())}
    further = list(_further(names, used))
    return Columns(
        names, layout, choice.roles, further, choice.flaws, choice.understood, frozenset(named)
    )


def column_named(names: Sequence[str], name: str) -> list[int]:
    """Return the columns of a name: those that have it exactly, or in another letter case."""
    wanted = name.strip()
    exact = [index for index, each in enumerate(names) if each == wanted]
    folded = wanted.casefold()
    return exact or [index for index, each in enumerate(names) if each.casefold() == folded]


def _layout_of(header: "Header", options: InputOptions) -> Layout:
    for name, layout in _LAYOUT_OF.items():
        if options.get(name):
            return layout
    if header.own:
        return Layout.PAIRS
    for layout, roles in ROLES.items():
        if all(map(header.like, roles)):
            return layout
    return Layout.PAIRS


class Header:
    """Names of columns, and what they may be."""

    def __init__(self, names: Sequence[str], kind: Kind) -> None:
        self.names = names
        self.kind = kind
        self.own: dict[str, list[int]] = {}
        self._keys = ["".join(filter(str.isalnum, name.lower())) for name in names]
        for index, key in enumerate(self._keys):
            # Our names may have a number behind.
            if match := _OWN.fullmatch("".join(filter(str.isalpha, key))):
                self.own.setdefault(match[1], []).append(index)

    def like(self, role: str) -> list[int]:
        """Return the columns that may have a role, those of the other kind if there are no others."""
        if role in ROLES[Layout.EDGES]:
            return [edge[role == "right"] for edge in self._edges()]
        found = self._matching(_ALIASES[role])
        if role == "duplicate" and not found and self._matching(_OF_ROW):
            return self._matching(_ALIASES["record"])
        return found

    def _matching(self, pattern: re.Pattern[str]) -> list[int]:
        found = [index for index, key in enumerate(self._keys) if pattern.fullmatch(key)]
        return [index for index in found if not self.other_kind(index)] or found

    def _edges(self) -> list[tuple[int, int]]:
        edges: list[tuple[int, int]] = []
        for index, key in enumerate(self._keys):
            match = _EDGE.fullmatch(key)
            if match is None or bool(match["before"]) == bool(match["after"]):
                continue
            other = (
                key.replace("left", "right", 1)
                if match["before"]
                else key.removesuffix(match["after"]) + _RIGHT[match["after"]]
            )
            edges += [(index, at) for at, each in enumerate(self._keys) if each == other]
        return edges

    def other_kind(self, index: int) -> Kind | None:
        """Return the kind that a name names, if it is the other one."""
        words = {"company": ("company", "organization", "organisation"), "person": ("person",)}
        for kind in get_args(Kind):
            if kind != self.kind and any(word in self._keys[index] for word in words[kind]):
                return cast(Kind, kind)
        return None


class _Choice:
    """The columns that were chosen for the roles, and what is wrong with that."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self.roles: dict[str, int] = {}
        self.flaws: list[str] = []
        self.understood: dict[str, str] = {}

    def take_named(self, role: str, name: str) -> None:
        names = self._header.names
        found = column_named(names, name)
        if len(found) == 1:
            self.roles[role] = found[0]
        else:
            count = "more than one column" if found else "no column"
            self.flaws.append(f"there is {count} {name!r} among {listed(names)}")

    def take(self, role: str, found: Sequence[int], *, is_understood: bool = False) -> None:
        if not found:
            return
        self.roles[role] = found[0]
        names = self._header.names
        for other in found[1:]:
            both = f"{shorten(names[found[0]])} and {shorten(names[other])}"
            self.flaws.append(f"{both} both name the {role}: keep one of them")
        for index in found:
            if (kind := self._header.other_kind(index)) is not None:
                mismatch = f"names {PLURAL[kind]}, but the kind is {self._header.kind}"
                self.flaws.append(f"{shorten(names[index])} {mismatch}")
        if is_understood:
            self.understood[role] = names[found[0]]


def _further(names: Sequence[str], used: Container[int]) -> Iterator[tuple[int, str]]:
    # A report adds its own columns to these, so their names are taken.
    taken = set(REPORT_COLUMNS)
    is_report = _REPORT_MARKS.issubset(names)
    for index in range(len(names)):
        if index in used or (is_report and names[index] in REPORT_COLUMNS):
            continue
        base = name = names[index] or f"column {index + 1}"
        count = 1
        while name in taken:
            count += 1
            name = f"{base} ({count})"
        taken.add(name)
        yield index, name


def label_of(form: Form, names: Sequence[str], index: int) -> str:
    """Return how a problem names a column: as people see it in that kind of file."""
    name = shorten(names[index])[1:-1]
    if form == "json":
        return name
    return f"column {_letters(index) if form == 'workbook' else index + 1} ({name})"


def _letters(index: int) -> str:
    letters, rest = "", index + 1
    while rest:
        rest, letter = divmod(rest - 1, _ALPHABET)
        letters = chr(ord("A") + letter) + letters
    return letters


def listed(names: Iterable[str]) -> str:
    """Return names of columns as an error shows them."""
    return shorten(", ".join(filter(None, names)))[1:-1]
