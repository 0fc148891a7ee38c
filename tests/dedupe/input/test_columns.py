"""Columns: which have the ids, by options, by our names, or by those of other tools."""

import io
import json
from typing import Any

import pytest

from aiotasks.dedupe import InputOptions, Plan
from aiotasks.dedupe.models import REPORT_COLUMNS
from aiotasks.errors import ConfigurationError, PlanError
from aiotasks.models import Kind


def plan(text: str, kind: Kind = "company", **options: Any) -> Plan:
    return Plan.read(io.BytesIO(text.encode()), kind=kind, source="pairs.csv", **options)


def pairs(text: str, kind: Kind = "company", **options: Any) -> list[tuple[int, int]]:
    return [(merge.primary_id, merge.duplicate_id) for merge in plan(text, kind, **options).merges]


def problems(text: str, kind: Kind = "company", **options: Any) -> tuple[str, ...]:
    with pytest.raises(PlanError) as caught:
        _ = plan(text, kind, **options)
    return caught.value.problems


class TestKnownNames:
    @pytest.mark.parametrize(
        ("header", "kind"),
        [
            ("Record ID,Merge Into Record ID", "company"),
            ("Record ID,Merged Into Record ID", "person"),
            ("Duplicate Record ID,Master Record ID", "company"),
            ("Id,MasterRecordId", "company"),
            ("Loser ID,Winner ID", "person"),
            ("Duplicate Organization Id,Primary Organization Id", "company"),
            ("duplicate_organisation_id,primary_organisation_id", "company"),
            ("LOSER PERSON ID,MASTER PERSON ID", "person"),
        ],
    )
    def test_pairs_of_other_tools(self, header: str, kind: Kind) -> None:
        """The usual names of other tools are understood, and shown."""
        made = plan(f"{header}\n2,1\n", kind)
        assert [(each.primary_id, each.duplicate_id) for each in made.merges] == [(1, 2)]
        first, second = header.split(",")
        assert made.understood == (
            f"{second!r} is the primary, which survives, and {first!r} is the duplicate",
        )
        assert made.columns == ()

    def test_our_names_count_first(self) -> None:
        """Our names are understood in silence, and other columns beside them are further ones."""
        made = plan("Record ID,Merge Into Record ID,duplicate_id,primary_id\n8,9,2,1\n")
        assert [(each.primary_id, each.duplicate_id) for each in made.merges] == [(1, 2)]
        assert made.understood == ()
        assert made.columns == ("Record ID", "Merge Into Record ID")

    def test_half_a_pair(self) -> None:
        """A name of ours and one of another tool make a pair."""
        assert pairs("Duplicate Record ID,primary_id\n2,1\n") == [(1, 2)]
        assert plan("Duplicate Record ID,primary_id\n2,1\n").understood == (
            "'Duplicate Record ID' is the duplicate",
        )

    @pytest.mark.parametrize("header", ["record_id,primary_id", "id,target_id", "source,target"])
    def test_two_readings(self, header: str) -> None:
        """Names that may mean either direction are not understood."""
        (problem,) = problems(f"{header}\n1,2\n")
        assert "pairs.csv:1: there is no column" in problem
        assert "--primary-column and --duplicate-column" in problem

    def test_two_columns_of_a_role(self) -> None:
        """Two names for one role are refused."""
        assert problems("Master Record ID,Winner ID,Duplicate ID\n1,2,3\n") == (
            "pairs.csv:1: 'Master Record ID' and 'Winner ID' both name the primary: keep one of them",
        )

    def test_the_other_kind(self) -> None:
        """Names of the other kind are refused as ours are."""
        found = problems("Primary Organization Id,Duplicate Organization Id\n1,2\n", "person")
        assert found[0] == (
            "pairs.csv:1: 'Primary Organization Id' names companies, but the kind is person"
        )
        assert len(found) == 2

    def test_json(self) -> None:
        """They are understood in JSON, too, even if each object has other names."""
        text = '{"Record ID": 2, "Merge Into Record ID": 1}\n{"duplicate_id": 4, "primary_id": 3}\n'
        assert pairs(text) == [(1, 2), (3, 4)]


class TestOptions:
    def test_named_columns(self) -> None:
        """Columns can be named in any letter case, and then no other name counts."""
        text = "Keep,Drop,primary_id,duplicate_id\n1,2,8,9\n"
        named = plan(text, primary_column="keep", duplicate_column="DROP ")
        assert [(each.primary_id, each.duplicate_id) for each in named.merges] == [(1, 2)]
        assert named.understood == ()

    def test_the_exact_name_counts_first(self) -> None:
        """Of two names that differ in case only, the exact one is meant."""
        text = "A,a,b\n1,8,2\n"
        assert pairs(text, primary_column="A", duplicate_column="b") == [(1, 2)]
        assert "there is more than one column 'A'" in str(
            problems("a,a,b\n1,8,2\n", primary_column="A", duplicate_column="b")
        )

    def test_one_of_two(self) -> None:
        """If only one column is named, the other one is found by its name."""
        assert pairs("x,duplicate_id\n1,2\n", primary_column="x") == [(1, 2)]
        assert pairs("x,primary_id\n1,2\n", duplicate_column="x") == [(2, 1)]
        assert pairs("x,Master Record ID\n1,2\n", duplicate_column="x") == [(2, 1)]

    def test_a_separator_in_a_name(self) -> None:
        """The separator is the one with which the named columns are found."""
        assert pairs("a, b;c\n1;2\n", primary_column="a, b", duplicate_column="c") == [(1, 2)]

    def test_no_such_column(self) -> None:
        """A name that is not there is a problem that lists those that are."""
        assert problems("a,b\n1,2\n", primary_column="x", duplicate_column="b") == (
            "pairs.csv:1: there is no column 'x' among a, b",
        )
        text = json.dumps({"a": 1, "b": 2})
        assert problems(text, primary_column="x", duplicate_column="b") == (
            "pairs.csv:1: there is no column 'x' among a, b",
        )

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"primary_column": "a", "cluster_column": "b"}, "do not go together"),
            ({"primary_column": "a", "keep": "first"}, "keep is for clusters"),
            ({"primary_column": " "}, "primary_column must be a name, not ' '"),
            ({"sheet": 1}, "sheet must be a name, not 1"),
            ({"primary": "a"}, "'primary' is no option of an input: there are sheet, "),
        ],
    )
    def test_what_cannot_be_used(self, options: dict[str, Any], message: str) -> None:
        """Options that make no sense together are refused before the file is looked at."""
        with pytest.raises(ConfigurationError, match=message):
            _ = plan("", **options)

    def test_options_are_public(self) -> None:
        """The options of an input have a type, for code that passes them on."""
        options = InputOptions(primary_column="a", duplicate_column="b")
        assert Plan.read([b"a,b\n1,2\n"], kind="company", **options).rows == 1

    def test_a_sheet_of_a_text(self) -> None:
        """Only workbooks have sheets."""
        assert problems("primary_id,duplicate_id\n1,2\n", sheet="A") == (
            "pairs.csv: it is no workbook, so it has no sheet 'A'",
        )


class TestReports:
    def test_a_report_of_clusters(self) -> None:
        """A report of clusters, which has their columns too, is read as the pairs that it has."""
        header = ["primary_id", "duplicate_id", "cluster_id", "score", *REPORT_COLUMNS]
        cells = ["1", "2", "c", "0.9", *("x" for _ in REPORT_COLUMNS)]
        made = plan("\n".join([",".join(header), ",".join(cells)]))
        assert [(each.primary_id, each.duplicate_id) for each in made.merges] == [(1, 2)]
        assert made.columns == ("cluster_id", "score")
