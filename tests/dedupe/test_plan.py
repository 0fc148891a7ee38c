"""From pairs to a plan: what is merged into what, in which order, and what is left out."""

import io
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotasks import ConfigurationError, Kind
from aiotasks.dedupe.models import OnConflict
from aiotasks.dedupe.plan import Plan
from aiotasks.errors import PlanError


HEADER = b"primary_id,duplicate_id\n"
A, B, C, D, E = range(1, 6)

Pair = tuple[int, int]


def plan(*pairs: Pair, **settings: Any) -> Plan:
    return Plan.of(pairs, kind="company", **settings)


def merges(made: Plan) -> list[Pair]:
    return [(merge.primary_id, merge.duplicate_id) for merge in made.merges]


def rewrites(made: Plan) -> list[tuple[int, str]]:
    return [(rewrite.row.line, rewrite.text) for rewrite in made.rewrites]


def left_out(made: Plan) -> list[tuple[int, str]]:
    return [(left.row.line, left.reason) for left in made.left_out]


def refused(*pairs: Pair, **settings: Any) -> list[str]:
    """Return the problems for which a plan is refused."""
    with pytest.raises(PlanError) as caught:
        _ = plan(*pairs, **settings)
    return list(caught.value.problems)


class TestRepetitions:
    def test_the_same_pair_again(self) -> None:
        """A pair that comes again is one merge, and the repetition is listed."""
        made = plan((A, B), (A, B), (C, D), (A, B))
        assert merges(made) == [(A, B), (C, D)]
        assert rewrites(made) == [(2, "repeats pair 1"), (4, "repeats pair 1")]
        assert (made.left_out, made.rows) == ((), 4)

    @pytest.mark.parametrize("last", [(A, C), (C, A)])
    def test_another_primary_that_survives_as_the_same_record(self, last: Pair) -> None:
        """Two primaries are no conflict if any row, even a later one, makes them one record."""
        made = plan((A, B), (C, B), last)
        survivor = last[0]
        assert {merge.primary_id for merge in made.merges} == {survivor}
        assert (2, f"has the same effect as pair 1: {B} ends in {survivor} either way") in rewrites(
            made
        )


class TestChains:
    def test_a_chain_becomes_a_star(self) -> None:
        """A merge into a duplicate is rewritten to its survivor, and the rewrite is listed."""
        made = plan((A, B), (B, C), (C, D))
        assert merges(made) == [(A, B), (A, C), (A, D)]
        assert rewrites(made) == [
            (2, f"is merged into {A}, since {B} is a duplicate itself (pair 1)"),
            (3, f"is merged into {A}, since {C} is a duplicate itself (pair 2)"),
        ]
        assert [merge.row.primary_id for merge in made.merges] == [A, B, C]

    def test_the_order_of_rows_does_not_matter_for_the_survivor(self) -> None:
        """A chain may be listed from its end."""
        assert merges(plan((C, D), (B, C), (A, B))) == [(A, D), (A, C), (A, B)]

    def test_very_long_chains(self) -> None:
        """A chain of any length becomes one star."""
        pairs = [(number, number + 1) for number in range(1, 10_001)]
        random.Random(1).shuffle(pairs)
        made = plan(*pairs)
        assert {merge.primary_id for merge in made.merges} == {1}
        assert len(made.merges) == 10_000


class TestOrder:
    def test_the_longest_first(self) -> None:
        """Merges with the most others after them in their cluster come first, then by line."""
        made = plan((1, 10), (2, 20), (3, 30), (2, 21), (3, 31), (2, 22))
        assert [(merge.row.line, merge.primary_id) for merge in made.merges] == [
            (2, 2),
            (3, 3),
            (4, 2),
            (1, 1),
            (5, 3),
            (6, 2),
        ]


class TestConflicts:
    ADVICE = ": remove what is wrong, or let the first rows count (--on-conflict first)"

    def test_two_primaries(self) -> None:
        """A duplicate with different primaries is one conflict, with all its lines and ids."""
        assert refused((A, D), (B, D), (C, E), (C, D)) == [
            f"pair 1: different primaries of one duplicate: "
            f"{D} into {A} (pair 1), {D} into {B} (pair 2), {D} into {C} (pair 4)" + self.ADVICE
        ]

    def test_a_cycle(self) -> None:
        """A cycle of merges is one conflict, with all its lines and ids."""
        assert refused((D, E), (A, B), (B, C), (C, A)) == [
            f"pair 2: these form a cycle: "
            f"{B} into {A} (pair 2), {C} into {B} (pair 3), {A} into {C} (pair 4)" + self.ADVICE
        ]

    def test_cycles_that_share_rows(self) -> None:
        """Cycles that share rows are one conflict, and those that do not are separate conflicts."""
        shared = refused((2, 1), (1, 2), (3, 2), (1, 3), (8, 9), (9, 8), (1, 3))
        assert [problem.partition(":")[0] for problem in shared] == ["pair 1", "pair 5"]
        assert all(f"(pair {line})" in shared[0] for line in (1, 2, 3, 4, 7))
        assert all(f"(pair {line})" in shared[1] for line in (5, 6))
        # A row that leads into a cycle is no part of it.
        apart = refused((2, 1), (1, 2), (3, 2), (4, 3), (3, 4), (5, 4))
        assert [problem.count("(pair") for problem in apart] == [2, 2]

    def test_all_at_once(self) -> None:
        """All conflicts are reported in the order of their first lines, after invalid rows."""
        content = HEADER + b"1,2\n2,1\nx,3\n4,5\n6,5\n"
        with pytest.raises(PlanError) as caught:
            _ = Plan.read(io.BytesIO(content), kind="person", source="p.csv")
        assert [problem.partition(" ")[0] for problem in caught.value.problems] == [
            "p.csv:2:",
            "p.csv:4,",
            "p.csv:5:",
        ]
        assert str(caught.value).endswith("Nothing was merged: fix p.csv and try again.")

    def test_the_first_counts(self) -> None:
        """If the first row counts, later rows that contradict it are left out with the reason."""
        pairs = [(A, B), (B, C), (C, A), (B, A), (D, B)]
        made = plan(*pairs, on_conflict="first")
        assert merges(made) == [(A, B), (A, C)]
        assert left_out(made) == [
            (3, f"contradicts pair 2, which merges {C} into {B}, and so in the end into {A}"),
            (4, f"contradicts pair 1, which merges {B} into {A}"),
            (5, f"contradicts pair 1, which merges {B} into {A}"),
        ]

    def test_many_cycles_are_cheap_to_report(self) -> None:
        """Thousands of cycles through the same rows are one problem."""
        pairs = [pair for k in range(1, 1500) for pair in ((k + 1, k), (1, k + 1))]
        (problem,) = refused(*pairs)
        assert problem.count("(pair") == len(pairs)


class TestProtect:
    def test_rows_with_such_ids_are_left_out(self) -> None:
        """Rows with a protected record are left out, as primary or duplicate."""
        made = plan((A, B), (B, C), (D, E), protect=[A, C, 99])
        assert merges(made) == [(D, E)]
        assert left_out(made) == [
            (1, f"{A} may not be merged (protect)"),
            (2, f"{C} may not be merged (protect)"),
        ]

    def test_before_anything_else(self) -> None:
        """Rows with protected records are left out before chains and conflicts are found."""
        made = plan((A, B), (B, A), (C, A), (D, C), protect={B})
        assert merges(made) == [(D, A), (D, C)]
        both = left_out(plan((A, B), (C, D), protect=(B, A)))
        assert both == [(1, f"{A} and {B} may not be merged (protect)")]

    def test_no_text(self) -> None:
        """Ids as texts are refused, as they would protect nothing."""
        with pytest.raises(ConfigurationError, match="protect takes ids, which are whole numbers"):
            _ = plan((A, B), protect=["1"])


class TestMaxCluster:
    def test_large_clusters_are_left_out_as_a_whole(self) -> None:
        """A cluster with more records is left out with its repetitions; the others are kept."""
        made = plan((A, B), (B, C), (A, B), (D, E), max_cluster=2)
        assert merges(made) == [(D, E)]
        reason = f"its cluster has 3 records ({A} survives), more than 2"
        assert left_out(made) == [(1, reason), (2, reason), (3, reason)]
        assert rewrites(made) == []

    def test_the_largest_that_is_allowed(self) -> None:
        """The survivor counts, and a cluster of exactly the limit is merged."""
        assert merges(plan((A, B), (B, C), max_cluster=3)) == [(A, B), (A, C)]


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"kind": "firm"}, "'firm' is not a kind: it is company or person"),
            ({"on_conflict": "last"}, "'last' is not a rule for conflicts: it is refuse or first"),
            ({"max_cluster": 1}, "give 2 or more, not 1"),
            ({"max_cluster": 0}, "give 2 or more, not 0"),
        ],
    )
    def test_what_cannot_be_used(self, settings: dict[str, Any], message: str) -> None:
        """An invalid setting is refused."""
        with pytest.raises(ConfigurationError, match=message):
            _ = Plan.of([(A, B)], **({"kind": "company"} | settings))
        with pytest.raises(ConfigurationError, match=message):
            _ = Plan.read("no such file", **({"kind": "company"} | settings))


class TestPairsInCode:
    def test_problems(self) -> None:
        """All invalid pairs are reported together, by their numbers."""
        pairs: list[Any] = [(1, 2), 7, (1, 2, 3), (3, 3), ("4", 5.0), (True, 0), (-1, 2**53), "ab"]
        assert refused(*pairs) == [
            "pair 2: 7 is not a pair of ids",
            "pair 3: (1, 2, 3) is not a pair of ids",
            "pair 4: primary and duplicate are the same record, 3",
            "pair 5, primary_id: '4' is not a whole number",
            "pair 5, duplicate_id: 5.0 is not a whole number",
            "pair 6, primary_id: True is not a whole number",
            "pair 6, duplicate_id: it is not positive",
            "pair 7, primary_id: it is not positive",
            "pair 7, duplicate_id: it is larger than any id (9007199254740991)",
            "pair 8, primary_id: 'a' is not a whole number",
            "pair 8, duplicate_id: 'b' is not a whole number",
        ]

    def test_nothing(self) -> None:
        """No pair at all is a problem, too."""
        assert refused() == ["There is no pair: give at least one."]


class TestRead:
    def test_a_path(self, tmp_path: Path) -> None:
        """The source of a plan is the path of its file unless another name is given."""
        path = tmp_path / "pairs.csv"
        _ = path.write_bytes(b"name;primary_id;duplicate_id\nx;1;2\n")
        made = Plan.read(path, kind="company")
        assert (made.source, made.columns, made.kind) == (str(path), ("name",), "company")
        assert Plan.read(str(path), kind="company", source="mine").source == "mine"
        assert made.merges[0].row.extra == {"name": "x"}
        assert repr(made) == f"<Plan of {path}: 1 company merges, 0 rows left out>"

    def test_an_open_file(self, tmp_path: Path) -> None:
        """The source of an open file is its name if it has one, and the file is not closed."""
        path = tmp_path / "pairs.csv"
        _ = path.write_bytes(HEADER + b"1,2\n")
        with path.open("rb") as file:
            assert Plan.read(file, kind="person").source == str(path)
            assert not file.closed
        assert Plan.read([HEADER, b"1,2\n"], kind="person").source == "input"

    def test_no_file(self, tmp_path: Path) -> None:
        """An ``OSError`` of a file is raised unchanged."""
        with pytest.raises(FileNotFoundError):
            _ = Plan.read(tmp_path / "none.csv", kind="company")


def apart(merges: int) -> list[tuple[int, int]]:
    """Return pairs that share no record."""
    return [(2 * number, 2 * number + 1) for number in range(1, merges + 1)]


class TestCost:
    def test_calls(self) -> None:
        """A plan costs a call for each merge, for each hundred records and ids, and the polls."""
        cost = plan(*apart(1000)).cost(limit=900, month_limit=100_000)
        assert 20 + 1000 + 10 < cost.calls < 1000 + 200
        assert cost.month_share == cost.calls / 100_000
        assert plan((A, B)).cost(limit=900, month_limit=None).month_share is None

    @pytest.mark.parametrize(
        ("merges", "seconds"), [(10, 67), (100, 150), (1000, 240), (5000, 525)]
    )
    def test_time(self, merges: int, seconds: int) -> None:
        """The estimate is what default jobs took in the median, with merges of 20 s."""
        cost = plan(*apart(merges)).cost(limit=900, month_limit=None)
        assert 60 * cost.minutes == pytest.approx(seconds, rel=0.1)
        assert cost.fewest_minutes < cost.minutes < cost.most_minutes
        assert (cost.is_assumed, cost.in_a_row) == (True, None)

    def test_known_durations(self) -> None:
        """With merges that are known to take a second, a job takes that much less time."""
        known = plan(*apart(100)).cost(limit=900, month_limit=None, durations=[0.9, 1.0, 1.1] * 4)
        assert not known.is_assumed
        assert known.minutes * 60 < 5
        assert known.notes == []

    def test_a_long_row(self) -> None:
        """Merges into one record run one after the other, which is said if it takes longer."""
        pairs = [(1, number) for number in range(2, 52)]
        cost = plan(*pairs).cost(limit=900, month_limit=None)
        assert 50 * 25 < cost.minutes * 60 < 50 * 40
        assert cost.in_a_row == 50
        assert "Up to 50 merges into one record run one after the other." in cost.notes
        assert plan(*apart(20), (1000, 1001)).cost(limit=900, month_limit=None).in_a_row is None

    def test_time_as_text(self) -> None:
        """Below a thousand merges nobody can know how long the slowest takes: a range is shown."""
        assert plan(*apart(100)).cost(limit=900, month_limit=None).time == "1.9 to 3.4 min"
        assert plan(*apart(5000)).cost(limit=900, month_limit=None).time == "about 8.6 min"
        assert plan((A, B)).cost(limit=900, month_limit=None).time == "12 to 61 s"
        assert plan(*apart(900)).cost(limit=2, month_limit=None).time.endswith(" h")

    def test_nothing(self) -> None:
        """A plan without merges costs nothing."""
        made = plan((A, B), protect=[A])
        cost = made.cost(limit=900, month_limit=100)
        assert (cost.calls, cost.minutes, cost.month_share) == (0, 0.0, 0.0)
        assert (made.merges, made.record_ids) == ((), ())

    def test_no_limit(self) -> None:
        """A limit of no calls is refused."""
        with pytest.raises(ConfigurationError, match="limit must be 1 or more, not 0"):
            _ = plan((A, B)).cost(limit=0, month_limit=None)


class Understood(NamedTuple):
    """A simple model: the rows that count and those that repeat them, by their lines."""

    above: dict[int, int]
    accepted: set[int]
    repeated: set[int]
    rejected: set[int]

    def survivor(self, record_id: int) -> int:
        while record_id in self.above:
            record_id = self.above[record_id]
        return record_id


def understand(pairs: Sequence[Pair]) -> Understood:
    model = Understood({}, set(), set(), set())
    later = []
    for line, (primary, duplicate) in enumerate(pairs, 1):
        if duplicate in model.above:
            later.append((line, primary, duplicate))
        elif model.survivor(primary) == duplicate:
            model.rejected.add(line)
        else:
            model.above[duplicate] = primary
            model.accepted.add(line)
    for line, primary, duplicate in later:
        is_same = model.survivor(primary) == model.survivor(duplicate)
        (model.repeated if is_same else model.rejected).add(line)
    return model


pairs_of = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 9)).filter(lambda pair: pair[0] != pair[1]),
    min_size=1,
    max_size=12,
)
rules: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "protect": st.sets(st.integers(1, 9), max_size=2),
        "max_cluster": st.none() | st.integers(2, 5),
    }
)


@given(pairs_of, st.randoms(use_true_random=False))
def test_any_order_of_merges_ends_as_the_rows_say(pairs: list[Pair], chance: random.Random) -> None:
    """Whatever the order, each record ends where its rows lead; none is merged twice."""
    made = plan(*pairs, on_conflict="first")
    model = understand(pairs)
    assert {merge.row.line for merge in made.merges} == set(model.accepted)
    into: dict[int, int] = {}
    for merge in chance.sample(made.merges, len(made.merges)):
        # Both records exist, as the API demands.
        assert not {merge.primary_id, merge.duplicate_id} & into.keys()
        into[merge.duplicate_id] = merge.primary_id
    assert {each: into.get(each, each) for each in range(1, 10)} == {
        each: model.survivor(each) for each in range(1, 10)
    }


@given(pairs_of, rules)
def test_every_row_is_accounted_for(pairs: list[Pair], settings: dict[str, Any]) -> None:
    """Each row is exactly one of a merge, a row left out, or a repetition."""
    made = plan(*pairs, on_conflict="first", **settings)
    merged = Counter(merge.row.line for merge in made.merges)
    lines = Counter(left.row.line for left in made.left_out) + merged
    lines.update(each.row.line for each in made.rewrites if each.row.line not in merged)
    assert lines == Counter(range(1, len(pairs) + 1))
    assert made.rows == len(pairs)


@given(pairs_of, rules)
def test_plans_comply_with_the_rules(pairs: list[Pair], settings: dict[str, Any]) -> None:
    """No survivor is a duplicate, no protected record is merged, and no cluster is too large."""
    made = plan(*pairs, on_conflict="first", **settings)
    clusters: dict[int, list[int]] = {}
    for merge in made.merges:
        clusters.setdefault(merge.primary_id, []).append(merge.duplicate_id)
        assert (merge.row.primary_id == merge.primary_id) == (
            merge.row.line not in {each.row.line for each in made.rewrites}
        )
    duplicates = [each for cluster in clusters.values() for each in cluster]
    assert len(duplicates) == len({*duplicates})
    assert not clusters.keys() & {*duplicates}
    assert not settings["protect"] & {*made.record_ids}
    assert max(map(len, clusters.values()), default=0) < (settings["max_cluster"] or 99)
    assert {*made.record_ids} == {*duplicates, *clusters}
    assert len(made.record_ids) == len({*made.record_ids})


@given(pairs_of)
def test_the_order_is_by_what_follows(pairs: list[Pair]) -> None:
    """Merges are sorted by how many follow in their cluster, then by line."""
    made = plan(*pairs, on_conflict="first")
    left = Counter(merge.primary_id for merge in made.merges)
    ranks = []
    for merge in sorted(made.merges, key=lambda merge: merge.row.line):
        left[merge.primary_id] -= 1
        ranks.append((-left[merge.primary_id], merge.row.line))
    assert [merge.row.line for merge in made.merges] == [line for _, line in sorted(ranks)]


@given(pairs_of)
def test_refusals_name_all_that_the_first_would_leave_out(pairs: list[Pair]) -> None:
    """A plan is refused exactly if rows contradict each other, and each such row is named."""
    rejected = understand(pairs).rejected
    if not rejected:
        assert plan(*pairs) == plan(*pairs, on_conflict="first")
        return
    text = "\n".join(refused(*pairs))
    for line in rejected:
        assert f"{pairs[line - 1][1]} into {pairs[line - 1][0]} (pair {line})" in text
    # The named rows contradict each other without any other row.
    named = [pair for line, pair in enumerate(pairs, 1) if f"(pair {line})" in text]
    assert len(understand(named).rejected) == len(rejected)


def of_rows(rows: Iterable[Sequence[object]], *, start: bytes = b"") -> Plan:
    content = start + "".join(",".join(map(str, row)) + "\n" for row in rows).encode()
    return Plan.read(io.BytesIO(content), kind="company", on_conflict="first")


def without_digest(made: Plan) -> list[object]:
    return [made.merges, made.left_out, made.rewrites, made.rows, made.fingerprint]


@given(pairs_of, st.permutations(["primary_id", "duplicate_id", "name", "owner"]))
def test_the_same_input_makes_the_same_plan(pairs: list[Pair], order: list[str]) -> None:
    """Other columns, their order and a BOM change only the digest of a plan."""
    names = ["primary_id", "duplicate_id", "name", "owner"]
    table: list[list[object]] = [
        [*names],
        *([primary, duplicate, "x", "y"] for primary, duplicate in pairs),
    ]
    shuffled = [[row[names.index(name)] for name in order] for row in table]
    made = of_rows(table)
    assert made == of_rows(table)
    marked, moved = of_rows(table, start=b"\xef\xbb\xbf"), of_rows(shuffled)
    assert without_digest(made) == without_digest(marked) == without_digest(moved)
    assert marked.digest != made.digest
    assert of_rows(row[:2] for row in table).fingerprint == made.fingerprint


@pytest.mark.parametrize(
    ("pairs", "kind"),
    [
        ([(A, B), (D, C)], "company"),
        ([(C, D), (A, B)], "company"),
        ([(A, B)], "company"),
        ([(A, B), (C, D)], "person"),
    ],
)
def test_fingerprints_distinguish_plans(pairs: list[Pair], kind: Kind) -> None:
    """A plan with another kind, other merges or another order has another fingerprint."""
    assert Plan.of(pairs, kind=kind).fingerprint != plan((A, B), (C, D)).fingerprint


@pytest.mark.parametrize("kind", ["company", "person"])
def test_fingerprints_tell_whether_new_companies_are_allowed(kind: Kind) -> None:
    """A plan of companies without new ones is another plan; persons are never replaced."""
    plans = [Plan.of([(A, B)], kind=kind, no_new_company=each) for each in (False, True)]
    assert (plans[0].fingerprint != plans[1].fingerprint) == (kind == "company")
    text = b"primary_id,duplicate_id\n1,2\n"
    assert Plan.read([text], kind=kind, no_new_company=True).no_new_company == (kind == "company")


@pytest.mark.parametrize("on_conflict", ["refuse", "first"])
def test_digests_of_pairs_in_code(on_conflict: OnConflict) -> None:
    """The digest of pairs in code is that of their ids, whatever the rules."""
    first = plan((A, B), on_conflict=on_conflict)
    assert first.digest == plan((A, B)).digest
    assert first.digest != plan((A, C)).digest
