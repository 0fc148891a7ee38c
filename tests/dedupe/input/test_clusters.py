"""Clusters, and pairs without a direction: who survives is told, and never guessed."""

import io
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotasks.dedupe import Plan
from aiotasks.errors import PlanError


CLUSTERS = "cluster_id,record_id,score\n1,5,0.9\n1,2,0.97\n2,4,0.5\n2,3,0.88\n"
EDGES = "match_probability,unique_id_l,unique_id_r,keep\n0.9,5,2,2\n0.8,2,7,2\n0.7,4,3,3\n"


def plan(text: str, **options: Any) -> Plan:
    return Plan.read(io.BytesIO(text.encode()), kind="company", source="p.csv", **options)


def pairs(text: str, **options: Any) -> set[tuple[int, int]]:
    return {(merge.primary_id, merge.duplicate_id) for merge in plan(text, **options).merges}


def problems(text: str, **options: Any) -> tuple[str, ...]:
    with pytest.raises(PlanError) as caught:
        _ = plan(text, **options)
    return caught.value.problems


class TestClusters:
    @pytest.mark.parametrize(
        ("keep", "expected"),
        [
            ("first", {(5, 2), (4, 3)}),
            ("lowest", {(2, 5), (3, 4)}),
            ("score", {(2, 5), (3, 4)}),
            ("SCORE", {(2, 5), (3, 4)}),
        ],
    )
    def test_who_survives(self, keep: str, expected: set[tuple[int, int]]) -> None:
        """The others of a cluster are merged into the record that is kept."""
        assert pairs(CLUSTERS, keep=keep) == expected

    def test_what_is_shown(self) -> None:
        """The plan says what it understood, and keeps the columns and lines of the duplicates."""
        made = plan(CLUSTERS, keep="score")
        assert made.understood == (
            "'cluster_id' is the cluster and 'record_id' is its record",
            "the record of each cluster that 'score' ranks highest or names survives",
        )
        assert made.columns == ("cluster_id", "score")
        assert [(each.row.line, dict(each.row.extra)) for each in made.merges] == [
            (2, {"cluster_id": "1", "score": "0.9"}),
            (4, {"cluster_id": "2", "score": "0.5"}),
        ]

    def test_nobody_is_guessed(self) -> None:
        """Without a rule who survives, clusters are one problem."""
        assert problems(CLUSTERS) == (
            (
                "p.csv:1: these are clusters (cluster_id, record_id), which do not say who "
                "survives: give --keep first, --keep lowest, or --keep with the name of a column "
                "that ranks them"
            ),
        )

    def test_named_columns(self) -> None:
        """Columns of other names can be named, and the rest is found."""
        text = "group,Name,no\nA,Acme,1\nA,ACME,2\n"
        assert pairs(text, cluster_column="Group", id_column="no", keep="first") == {(1, 2)}
        text = "group,record_id\nA,1\nA,2\n"
        assert pairs(text, cluster_column="group", keep="first") == {(1, 2)}
        text = "cluster_id,no\nA,1\nA,2\n"
        assert pairs(text, id_column="no", keep="first") == {(1, 2)}
        assert pairs("DuplicateRecordSetId,RecordId\nA,1\nA,2\n", keep="first") == {(1, 2)}
        assert pairs("z_cluster,id\nA,1\nA,2\n", keep="first") == {(1, 2)}
        assert pairs("cluster_id,unique_id\nA,1\nA,2\n", keep="first") == {(1, 2)}
        assert pairs("cluster_id,Organization Id\nA,1\nA,2\n", keep="first") == {(1, 2)}

    def test_no_record_column(self) -> None:
        """If the column of the records is not found, the options that name it are."""
        (problem,) = problems("group,no\nA,1\n", cluster_column="group", keep="first")
        assert "there is no column record_id among group, no" in problem
        assert "--cluster-column and --id-column say which they are" in problem

    def test_a_rule_without_a_column(self) -> None:
        """A column that is not there ranks nothing."""
        (problem,) = problems(CLUSTERS, keep="size")
        assert problem.startswith("p.csv:1: there is no one column 'size' among cluster_id, record")

    def test_a_rule_for_pairs(self) -> None:
        """Pairs say themselves who survives."""
        (problem,) = problems("primary_id,duplicate_id\n1,2\n", keep="first")
        assert "so that --keep decides nothing: leave it out" in problem

    @pytest.mark.parametrize(
        ("cells", "survivor"),
        [
            (("x", "", ""), 1),
            (("no", "Yes", "no"), 2),
            (("false", "false", "TRUE"), 3),
            (("1", "0", "0"), 1),
            (("0", "1", "0"), 2),
            (("", "1", ""), None),
            (("2", "2", "2"), 2),
            (("3", "", "3"), 3),
            (("0.9", "0,95", "-1"), 2),
            (("-5", "", "-9"), 1),
            (("1e3", "999", "1"), 1),
            (("1,234", "5", "6"), None),
            (("x", "x", ""), None),
            (("", "", ""), None),
            (("9", "9", "9"), None),
            (("2026-01-02", "2025-01-02", "2024-01-02"), None),
            (("https://acme.affinity.co/companies/3", "3", "3"), None),
        ],
    )
    def test_a_column_that_ranks(self, cells: Iterable[str], survivor: int | None) -> None:
        """The highest number, the only mark or the only name decides, if only one reading does."""
        rows = "".join(f'c,{number},"{cell}"\n' for number, cell in enumerate(cells, 1))
        text = f"cluster_id,record_id,best\n{rows}"
        if survivor is None:
            (problem,) = problems(text, keep="best")
            assert "'best' does not decide which record of the cluster 'c' survives" in problem
            assert "of 1, 2, 3 (it has " in problem
        else:
            assert {primary for primary, _ in pairs(text, keep="best")} == {survivor}

    def test_a_large_cluster_without_a_survivor(self) -> None:
        """A problem names only the first of many records."""
        rows = "".join(f"c,{number},x\n" for number in range(1, 9))
        (problem,) = problems(f"cluster_id,record_id,best\n{rows}", keep="best")
        assert "of 1, 2, 3, 4, 5 and 3 more (it has 'x')" in problem

    def test_alone(self) -> None:
        """A cluster of one record has nothing to merge, whatever its rank."""
        text = "cluster_id,record_id,best\nA,1,\nB,2,\nB,3,x\n"
        assert pairs(text, keep="best") == {(3, 2)}
        (problem,) = problems("cluster_id,record_id\nA,1\n", keep="first")
        assert "there is no pair in it" in problem

    def test_a_record_twice(self) -> None:
        """A row that repeats a record changes nothing; one in two clusters is refused."""
        made = plan("cluster_id,record_id\nA,1\nA,2\nA,1\nA,2\n", keep="first")
        assert len(made.merges) == 1
        assert [each.text for each in made.rewrites] == ["repeats line 3"]
        assert problems("cluster_id,record_id\nA,1\nA,2\nB,2\nB,3\n", keep="first") == (
            "p.csv:4: 2 is in the clusters 'A' (line 3) and 'B': give it one",
        )

    def test_mistakes(self) -> None:
        """All mistakes are reported with their places, as in pairs."""
        assert problems("cluster_id,record_id\n,1\nA,x\nA\n", keep="first") == (
            "p.csv:2, column 1 (cluster_id): it is empty: name the cluster",
            "p.csv:3, column 2 (record_id): 'x' is not a whole number",
            "p.csv:4, column 2 (record_id): it is empty",
        )

    def test_json(self) -> None:
        """Clusters may be JSON lines; an object without its record is a problem."""
        lines = [{"cluster_id": 1, "record_id": each} for each in (7, 8)]
        text = "\n".join(map(json.dumps, lines))
        assert pairs(text, keep="lowest") == {(7, 8)}
        assert problems(f'{text}\n{{"cluster_id": 1}}\n', keep="lowest") == (
            "p.csv:3, record_id: it is missing",
        )
        assert "these are clusters" in problems(text)[0]

    def test_protected(self) -> None:
        """Rows of protected records are left out, and so is a cluster whose survivor is one."""
        made = plan(CLUSTERS, keep="first", protect=[4, 2])
        assert made.merges == ()
        assert [each.reason for each in made.left_out] == [
            "2 may not be merged (protect)",
            "4 may not be merged (protect)",
        ]


class TestEdges:
    @pytest.mark.parametrize(
        ("keep", "expected"),
        [
            ("first", {(5, 2), (5, 7), (4, 3)}),
            ("lowest", {(2, 5), (2, 7), (3, 4)}),
            ("keep", {(2, 5), (2, 7), (3, 4)}),
        ],
    )
    def test_who_survives(self, keep: str, expected: set[tuple[int, int]]) -> None:
        """Pairs without a direction are connected to clusters, of which one record survives."""
        assert pairs(EDGES, keep=keep) == expected

    def test_what_is_shown(self) -> None:
        """The plan says what it understood; the line of a duplicate is the first that names it."""
        made = plan(EDGES, keep="lowest")
        assert made.understood == (
            "'unique_id_l' and 'unique_id_r' are records that are the same",
            "the record with the lowest id of each cluster survives",
        )
        assert made.columns == ("match_probability", "keep")
        assert sorted((each.row.line, each.duplicate_id) for each in made.merges) == [
            (2, 5),
            (3, 7),
            (4, 4),
        ]

    @pytest.mark.parametrize(
        "header",
        ["id_l,id_r", "Record ID 1,Record ID 2", "id_a,id_b", "left_id,right_id", "idleft,idright"],
    )
    def test_names(self, header: str) -> None:
        """Names that differ only in a side are a pair without a direction."""
        assert pairs(f"{header}\n2,1\n", keep="lowest") == {(1, 2)}

    def test_two_pairs_of_names(self) -> None:
        """Two such pairs of columns are refused."""
        assert problems("id_l,id_r,id_1,id_2\n1,2,3,4\n", keep="lowest") == (
            "p.csv:1: 'id_l' and 'id_1' both name the left: keep one of them",
            "p.csv:1: 'id_r' and 'id_2' both name the right: keep one of them",
        )

    def test_nobody_is_guessed(self) -> None:
        """Without a rule who survives, they are one problem."""
        (problem,) = problems(EDGES)
        assert "these are pairs without a direction (unique_id_l, unique_id_r)" in problem

    def test_a_direction_can_be_told(self) -> None:
        """Named as primary and duplicate, they are pairs like any other."""
        text = "unique_id_l,unique_id_r\n1,2\n3,2\n"
        options = {"primary_column": "unique_id_r", "duplicate_column": "unique_id_l"}
        assert pairs(text, **options) == {(2, 1), (2, 3)}

    def test_a_column_that_disagrees(self) -> None:
        """A column decides only if it names one record of the cluster in all of its rows."""
        text = "id_l,id_r,best\n1,2,1\n2,3,2\n8,9,7\n"
        found = problems(text, keep="best")
        assert [each.partition(" survives")[0] for each in found] == [
            "p.csv:2: 'best' does not decide which record of the cluster",
            "p.csv:4: 'best' does not decide which record of the cluster",
        ]
        assert pairs("id_l,id_r,best\n1,2,\n2,3,3\n", keep="best") == {(3, 1), (3, 2)}

    def test_a_record_with_itself(self) -> None:
        """A record cannot be its own duplicate."""
        assert problems("id_l,id_r\n1,1\n", keep="first") == (
            "p.csv:2: left and right are the same record, 1",
        )

    def test_protected(self) -> None:
        """A pair with a protected record is left out, and connects nothing."""
        made = plan("id_l,id_r\n1,2\n2,3\n4,5\n", keep="lowest", protect=[2])
        assert [(each.primary_id, each.duplicate_id) for each in made.merges] == [(4, 5)]
        assert [each.row.line for each in made.left_out] == [2, 3]

    @given(st.lists(st.tuples(st.integers(1, 9), st.integers(10, 19)), min_size=1, max_size=12))
    def test_whatever_is_connected(self, edges: list[tuple[int, int]]) -> None:
        """All records that edges connect end in the lowest of them, each once."""
        rows = "".join(f"{left},{right}\n" for left, right in edges)
        merges = plan(f"id_l,id_r\n{rows}", keep="lowest").merges
        lowest = {each: each for edge in edges for each in edge}
        for _ in edges:
            for edge in edges:
                least = min(lowest[each] for each in edge)
                lowest.update((each, least) for each in edge)
        assert {each.duplicate_id: each.primary_id for each in merges} == {
            record: least for record, least in lowest.items() if record != least
        }
        assert len(merges) == len({each.duplicate_id for each in merges})
