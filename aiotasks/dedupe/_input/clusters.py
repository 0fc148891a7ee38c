"""From clusters, or pairs without a direction, to rows: who survives, and who is merged into it."""

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from aiotasks._checks import shorten
from aiotasks.dedupe.models import Row
from aiotasks.models import Kind

from .ids import id_of
from .places import Problem, Source


FIRST: Final = "first"
LOWEST: Final = "lowest"
_MARKS: Mapping[str, float] = {
    "": -math.inf,
    **dict.fromkeys(("true", "yes", "y", "x", "keep"), 1.0),
    **dict.fromkeys(("false", "no", "n"), 0.0),
}
# Not 1,234, which may be a fraction or a large number.
_RANK = re.compile(r"[+-]?\d+(?:\.\d+|,\d{1,2}|,\d{4,})?(?:[eE][+-]?\d+)?", re.ASCII)
_SHOWN = 5


class Keep(NamedTuple):
    """The rule that says which record of a cluster survives."""

    rule: str
    kind: Kind

    def __str__(self) -> str:
        """Return the sentence that a plan shows."""
        if self.rule == FIRST:
            return "the first record of each cluster survives"
        if self.rule == LOWEST:
            return "the record with the lowest id of each cluster survives"
        return (
            f"the record of each cluster that {shorten(self.rule)} ranks highest or names survives"
        )


class Member(NamedTuple):
    """A row of a record, with the cell that ranks it."""

    line: int
    record_id: int
    extra: Mapping[str, str]
    rank: str = ""


class Edge(NamedTuple):
    """A row of two records that are the same, with the cell that names the survivor."""

    line: int
    left: int
    right: int
    extra: Mapping[str, str]
    rank: str = ""


def rows_of_clusters(
    clusters: Mapping[str, Sequence[Member]], keep: Keep, source: Source
) -> tuple[list[Row], list[Problem]]:
    """Return a row for each record that does not survive, in the order of their lines."""
    rows: list[Row] = []
    problems = list(_in_two_clusters(clusters, source))
    for name, members in clusters.items():
        survivor = _survivor(members, keep)
        if survivor is None:
            line = members[0].line
            problems.append(Problem(line, f"{source.at(line)}: {_undecided(members, keep, name)}"))
        else:
            rows += _merged_into(survivor, members)
    return sorted(rows, key=attrgetter("line")), problems


def rows_of_edges(
    edges: Sequence[Edge], keep: Keep, source: Source, protect: Collection[int]
) -> tuple[list[Row], list[Problem]]:
    """Return a row for each record that does not survive; its line is the first that names it.

    Edges of protected records connect nothing, and are rows that the planner leaves out.
    """
    free = [each for each in edges if each.left not in protect and each.right not in protect]
    rows = [
        Row(line=each.line, primary_id=each.left, duplicate_id=each.right, extra=each.extra)
        for each in edges
        if each.left in protect or each.right in protect
    ]
    problems: list[Problem] = []
    for members in _connected(free):
        survivor = _survivor(members, keep, is_ranked=False)
        if survivor is None:
            line = members[0].line
            problems.append(Problem(line, f"{source.at(line)}: {_undecided(members, keep, None)}"))
        else:
            rows += _merged_into(survivor, members)
    return sorted(rows, key=attrgetter("line")), problems


def _connected(edges: Iterable[Edge]) -> Iterator[list[Member]]:
    """Yield the members of each connected component, in the order in which edges name them."""
    above: dict[int, int] = {}

    def root(record_id: int) -> int:
        while (parent := above[record_id]) != record_id:
            above[record_id] = record_id = above[parent]
        return record_id

    members: list[Member] = []
    for edge in edges:
        for record_id in (edge.left, edge.right):
            _ = above.setdefault(record_id, record_id)
            members.append(Member(edge.line, record_id, edge.extra, edge.rank))
        above[root(edge.right)] = root(edge.left)
    components: dict[int, list[Member]] = defaultdict(list)
    for member in members:
        components[root(member.record_id)].append(member)
    for component in components.values():
        first = {member.record_id: member for member in reversed(component)}
        # All cells that name a survivor count, also those of later edges of the same records.
        named = next((member.rank for member in component if member.rank.strip()), "")
        is_one = all(member.rank.strip() in {"", named.strip()} for member in component)
        rank = named if is_one else "; ".join(member.rank for member in component)
        yield [member._replace(rank=rank) for member in reversed(first.values())]


def _merged_into(survivor: int, members: Iterable[Member]) -> Iterator[Row]:
    for member in members:
        if member.record_id != survivor:
            yield Row(
                line=member.line,
                primary_id=survivor,
                duplicate_id=member.record_id,
                extra=member.extra,
            )


def _in_two_clusters(clusters: Mapping[str, Sequence[Member]], source: Source) -> Iterator[Problem]:
    seen: dict[int, tuple[str, int]] = {}
    for name, members in clusters.items():
        for member in members:
            first, line = seen.setdefault(member.record_id, (name, member.line))
            if first != name:
                yield Problem(
                    member.line,
                    f"{source.at(member.line)}: {member.record_id} is in the clusters "
                    f"{shorten(first)} ({source.unit} {line}) and {shorten(name)}: give it one",
                )


def _survivor(members: Sequence[Member], keep: Keep, *, is_ranked: bool = True) -> int | None:
    if keep.rule == FIRST:
        return members[0].record_id
    ids = {member.record_id for member in members}
    if keep.rule == LOWEST or len(ids) == 1:
        return min(ids)
    readings = {_named(members, ids, keep.kind)}
    if is_ranked:
        readings.add(_highest(members))
    readings.discard(None)
    # One cell may name a record or rank it; nothing is guessed where both can be.
    return readings.pop() if len(readings) == 1 else None


def _named(members: Iterable[Member], ids: Collection[int], kind: Kind) -> int | None:
    cells = {member.rank.strip() for member in members} - {""}
    if len(cells) != 1:
        return None
    found = id_of(cells.pop(), kind)
    return found if isinstance(found, int) and found in ids else None


def _highest(members: Iterable[Member]) -> int | None:
    ranks = [(_rank(member.rank.strip()), member.record_id) for member in members]
    if any(rank is None for rank, _ in ranks):
        return None
    most = max(rank for rank, _ in ranks if rank is not None)
    best = {record_id for rank, record_id in ranks if rank == most}
    return best.pop() if len(best) == 1 else None


def _rank(cell: str) -> float | None:
    if (mark := _MARKS.get(cell.casefold())) is not None:
        return mark
    return float(cell.replace(",", ".")) if _RANK.fullmatch(cell) else None


def _undecided(members: Sequence[Member], keep: Keep, name: str | None) -> str:
    ids = list(dict.fromkeys(member.record_id for member in members))
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    which = "" if name is None else f" {shorten(name)}"
    cells = ", ".join(dict.fromkeys(shorten(member.rank) for member in members[:_SHOWN]))
    return (
        f"{shorten(keep.rule)} does not decide which record of the cluster{which} survives, of "
        f"{', '.join(map(str, ids[:_SHOWN]))}{more} (it has {cells}): rank one of them highest, or "
        "give all the id of the survivor"
    )
