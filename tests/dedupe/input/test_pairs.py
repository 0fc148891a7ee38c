"""Files of pairs: what can be read, and which problems are reported."""

import csv
import io
import json
from collections.abc import Iterable
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotasks.dedupe._input.ids import MAX_ID
from aiotasks.dedupe._input.pairs import ParsedPairs, read_pairs
from aiotasks.dedupe._input.places import sentences
from aiotasks.dedupe.models import REPORT_COLUMNS, Row
from aiotasks.models import Kind


HEADER = b"primary_id,duplicate_id\n"
FURTHER = ("name", "owner")


def read(content: bytes, *, kind: Kind = "company", source: str = "pairs.csv") -> ParsedPairs:
    return read_pairs(content, kind=kind, source=source)


def problems(content: bytes, *, kind: Kind = "company", source: str = "pairs.csv") -> list[str]:
    return list(sentences(read(content, kind=kind, source=source).problems))


def ids(content: bytes, *, kind: Kind = "company") -> list[tuple[int, int, int]]:
    """Return line, primary and duplicate of each row of an input without problems."""
    pairs = read(content, kind=kind)
    assert not pairs.problems
    return [(row.line, row.primary_id, row.duplicate_id) for row in pairs.rows]


class TestColumns:
    @pytest.mark.parametrize(
        ("header", "kind"),
        [
            ("primary_id,duplicate_id", "company"),
            ("Primary ID, Duplicate ID", "person"),
            ("primaryCompanyId,duplicateCompanyId", "company"),
            ("primaryPersonId,duplicatePersonId", "person"),
            ('"PRIMARY-ID","duplicate company id"', "company"),
        ],
    )
    def test_names(self, header: str, kind: Kind) -> None:
        """In column names only the letters count, and the API's names are accepted."""
        assert ids(f"{header}\n1,2\n".encode(), kind=kind) == [(2, 1, 2)]

    def test_any_order(self) -> None:
        """Columns may be in any order; other columns are kept by name."""
        pairs = read(b"name,duplicate_id, owner ,primary_id\nAcme,2,Ann,1\n")
        assert pairs.columns == FURTHER
        extra = {"name": "Acme", "owner": "Ann"}
        assert pairs.rows == [Row(line=2, primary_id=1, duplicate_id=2, extra=extra)]

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_separators(self, delimiter: str) -> None:
        """The delimiter is the one between the ids in the header."""
        header = delimiter.join(["primary_id", '"a,b;c\td"', "e f", "duplicate_id"])
        pairs = read(f"{header}\n1{delimiter}x{delimiter}y{delimiter}2\n".encode())
        assert pairs.columns == ("a,b;c\td", "e f")
        assert [(row.primary_id, row.duplicate_id) for row in pairs.rows] == [(1, 2)]

    def test_separators_in_names(self) -> None:
        """Many commas within the names of columns are not taken for the delimiter."""
        assert ids(b"primary_id;duplicate_id;Name, first, last\n1;2;x\n") == [(2, 1, 2)]

    def test_a_very_long_header(self) -> None:
        """A header longer than the field limit of ``csv`` is a problem, not a crash."""
        assert "cannot be read (field larger than field limit" in problems(b"x" * 200_000)[0]

    def test_names_that_come_twice(self) -> None:
        """No column is lost: a repeated or empty name is replaced by a unique one."""
        pairs = read(b"a,primary_id,a,duplicate_id,a (2),,a\n1,2,3,4,5,6,7\n")
        assert pairs.columns == ("a", "a (2)", "a (2) (2)", "column 6", "a (3)")
        assert list(pairs.rows[0].extra.values()) == ["1", "3", "5", "6", "7"]

    def test_a_report_as_input(self) -> None:
        """Columns that a report added are dropped, so that the next report has them once."""
        names = ["primary_id", "duplicate_id", *REPORT_COLUMNS, "state (2)", "owner"]
        cells = ["1", "2", *("x" for _ in REPORT_COLUMNS), "NY", "Ann"]
        pairs = read("\n".join([",".join(names), ",".join(cells)]).encode())
        assert pairs.columns == ("state (2)", "owner")
        assert pairs.rows[0].extra == {"state (2)": "NY", "owner": "Ann"}

    def test_a_reports_names_elsewhere(self) -> None:
        """A column that only has the name of a report's column is kept, beside the report's."""
        pairs = read(b"primary_id,duplicate_id,state\n1,2,NY\n")
        assert pairs.rows[0].extra == {"state (2)": "NY"}

    def test_missing(self) -> None:
        """A missing column is one problem, with an example of a header."""
        hint = (
            "the first row has to name the columns, as in primary_id;duplicate_id, or "
            "--primary-column and --duplicate-column, or --cluster-column and --id-column, say "
            "which they are"
        )
        assert problems(b"\nprimary_id;name\n1;x\nx;y\n") == [
            f"pairs.csv:2: there is no column duplicate_id among primary_id, name: {hint}"
        ]
        both = "there is no column primary_id and no column duplicate_id"
        assert problems(b"id;name\n1;x\n") == [f"pairs.csv:1: {both} among id, name: {hint}"]

    def test_no_header(self) -> None:
        """A first row of numbers is reported as a missing header."""
        assert problems(b"1\t2\n3\t4\n") == [
            (
                "pairs.csv:1: there is no header: the first row has to name the columns, "
                "as in primary_id<tab>duplicate_id"
            )
        ]

    @pytest.mark.parametrize(
        ("kind", "other", "plural"),
        [("company", "Person", "persons"), ("person", "Company", "companies")],
    )
    def test_the_other_kind(self, kind: Kind, other: str, plural: str) -> None:
        """The API's column names for the other kind are each refused, without further problems."""
        names = [f"primary{other}Id", f"duplicate{other}Id"]
        assert problems(f"{','.join(names)}\nx,y\n".encode(), kind=kind) == [
            f"pairs.csv:1: '{name}' names {plural}, but the kind is {kind}" for name in names
        ]

    def test_a_role_twice(self) -> None:
        """Two columns for one role are refused as ambiguous."""
        assert problems(b"primary_id,duplicate_id,primaryCompanyId\n1,2,3\n") == [
            (
                "pairs.csv:1: 'primary_id' and 'primaryCompanyId' both name the primary: "
                "keep one of them"
            )
        ]


class TestCells:
    @pytest.mark.parametrize("cell", ["7", " 7 ", "\t7", '"7"'])
    def test_numbers(self, cell: str) -> None:
        """An id is ASCII digits, with optional spaces around it."""
        assert ids(HEADER + f"{cell},{MAX_ID}\n".encode()) == [(2, 7, MAX_ID)]

    @pytest.mark.parametrize(
        ("cell", "flaw"),
        [
            ("abc", "'abc' is not a whole number"),
            ("+7", "'+7' is not a whole number"),
            ("7_0", "'7_0' is not a whole number"),
            ("\uff17", "'\uff17' is not a whole number"),
            ("\u0667", "'\u0667' is not a whole number"),
            ("a\x1b[1m", r"'a\x1b[1m' is not a whole number"),
            ("0", "'0' is not positive"),
            ("-7", "'-7' is not positive"),
            (str(MAX_ID + 1), f"'{MAX_ID + 1}' is larger than any id ({MAX_ID})"),
            ("9" * 5000, f"'{'9' * 119}… is larger than any id ({MAX_ID})"),
            ("", "it is empty"),
            (" ", "it is empty"),
        ],
    )
    def test_invalid_ids(self, cell: str, flaw: str) -> None:
        """An invalid id is shown with its place, shortened and without control characters."""
        assert problems(HEADER + f"1,{cell}\n".encode()) == [
            f"pairs.csv:2, column 2 (duplicate_id): {flaw}"
        ]

    def test_all_at_once(self) -> None:
        """All problems are reported in the order of their lines, even two of one row."""
        content = HEADER + b"x,y\n1,2\n3,3\n5\n6,7,8\n\xe9,1\n"
        assert problems(content) == [
            "pairs.csv:2, column 1 (primary_id): 'x' is not a whole number",
            "pairs.csv:2, column 2 (duplicate_id): 'y' is not a whole number",
            "pairs.csv:4: primary and duplicate are the same record, 3",
            "pairs.csv:5, column 2 (duplicate_id): it is empty",
            (
                "pairs.csv:6: the row has 3 cells, but the header only 2, so its ids may be in other "
                "columns: quote cells that contain the separator"
            ),
            (
                "pairs.csv:7, character 1: the byte 0xe9 is not valid UTF-8: "
                'save the file as "CSV UTF-8"'
            ),
            "pairs.csv:7, column 1 (primary_id): '\ufffd' is not a whole number",
        ]
        assert [row.line for row in read(content).rows] == [3]


class TestRows:
    def test_blank_rows(self) -> None:
        """Blank rows are skipped, before the header and after it, but count as lines."""
        assert ids(b"\n ,\n" + HEADER + b"\n,\n \n1,2\n\n") == [(7, 1, 2)]

    def test_short_rows(self) -> None:
        """A row may end after its ids; the columns that follow are empty."""
        pairs = read(b"primary_id,duplicate_id,name,owner\n1,2,x\n3,4\n")
        assert [dict(row.extra) for row in pairs.rows] == [{"name": "x"}, {}]

    def test_line_breaks_in_cells(self) -> None:
        """The line of a row is its first, even if its cells have line breaks and quotes."""
        content = b'primary_id,duplicate_id,"a\nnote"\n1,2,"x\r\n""y"", z"\n3,4,w\n'
        pairs = read(content)
        assert pairs.columns == ("a\nnote",)
        assert [(row.line, *row.extra.values()) for row in pairs.rows] == [
            (3, 'x\r\n"y", z'),
            (5, "w"),
        ]

    @pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
    def test_line_endings(self, ending: bytes) -> None:
        """Line endings of any system are accepted, and the last line needs none."""
        assert ids(ending.join([HEADER.strip(), b"1,2", b"3,4"])) == [(2, 1, 2), (3, 3, 4)]

    def test_a_quote_that_is_not_closed(self) -> None:
        """A quote that is not closed is reported with its first line and the lines after it."""
        assert problems(HEADER + b'x,1\n3,"4\n5,6\n') == [
            "pairs.csv:2, column 1 (primary_id): 'x' is not a whole number",
            (
                "pairs.csv:3: lines 3 to 4 cannot be read (a quote is not closed): "
                'close every quote, and write "" for a quote within quoted text'
            ),
        ]

    def test_a_quote_within_quoted_text(self) -> None:
        """A row that ``csv`` cannot read does not affect the other rows."""
        content = b'primary_id,duplicate_id,name\n1,2,"a"b\n3,y\n'
        assert problems(content) == [
            (
                "pairs.csv:2: the row cannot be read (',' expected after '\"'): "
                'close every quote, and write "" for a quote within quoted text'
            ),
            "pairs.csv:3, column 2 (duplicate_id): 'y' is not a whole number",
        ]

    def test_a_header_that_cannot_be_read(self) -> None:
        """The row after an unreadable header is not taken for a header."""
        assert len(problems(b'"a"b,c\n1,2\n3,4\n')) == 1

    @pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf", HEADER, HEADER + b",\n"])
    def test_nothing(self, content: bytes) -> None:
        """An input without a pair is a problem."""
        assert problems(content) == [
            "pairs.csv: there is no pair in it: give at least one row with two ids"
        ]


class TestBytes:
    def test_a_byte_order_mark(self) -> None:
        """A BOM changes nothing but the digest, which is that of all bytes."""
        content = b"\xef\xbb\xbf" + HEADER + b"1,2\n"
        pairs = read(content)
        assert pairs.rows == read(content[3:]).rows
        assert pairs.digest == sha256(content).hexdigest()

    def test_encodings(self) -> None:
        """The first byte that is not UTF-8 is reported, with the number of further such lines."""
        content = (
            b"\xef\xbb\xbfprimary_id,duplicate_id,caf\xe9\n1,2,x\n3,4,\xc3\xbc\xff\n5,6,\xfc\n"
        )
        assert problems(content) == [
            (
                "pairs.csv:1, character 28: the byte 0xe9 is not valid UTF-8 (nor are 2 more lines): "
                'save the file as "CSV UTF-8"'
            )
        ]
        assert [row.line for row in read(content).rows] == [2, 3, 4]

    @given(
        st.binary(max_size=80), st.sampled_from([b"", HEADER, b"{", b"primary_id;duplicate_id\n"])
    )
    def test_anything(self, noise: bytes, start: bytes) -> None:
        """No bytes make the parser crash: the result has rows, problems, or both."""
        pairs = read(start + noise)
        assert pairs.rows or pairs.problems
        assert all(0 < row.primary_id <= MAX_ID for row in pairs.rows)


class TestJson:
    def test_objects(self) -> None:
        """Each line is an object; its other values are kept as texts, whatever their type."""
        content = (
            b'\n {"primaryCompanyId": 1, "duplicate_id": " 2 ", "name": "\xc3\xa9", "n": 1.5}\n'
            b'\n{"b": {"x": [true]}, "duplicate_id": 3, "primary_id": 1, "name": null}\n'
        )
        pairs = read(content)
        assert not pairs.problems
        assert pairs.columns == ("name", "n", "b")
        assert [(row.line, row.primary_id, row.duplicate_id) for row in pairs.rows] == [
            (2, 1, 2),
            (4, 1, 3),
        ]
        assert [dict(row.extra) for row in pairs.rows] == [
            {"name": "é", "n": "1.5"},
            {"b": '{"x": [true]}', "name": ""},
        ]

    def test_a_report_as_input(self) -> None:
        """Columns that a report added are dropped here, too."""
        row = {"primary_id": 1, "duplicate_id": 2, "owner": "Ann"} | dict.fromkeys(REPORT_COLUMNS)
        assert read(json.dumps(row).encode()).columns == ("owner",)

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            (
                '{"primary_id": true, "duplicate_id": 1}',
                ", primary_id: 'true' is not a whole number",
            ),
            ('{"primary_id": 1, "duplicate_id": null}', ", duplicate_id: it is empty"),
            (
                '{"primary_id": 1, "duplicate_id": 1}',
                ": primary and duplicate are the same record, 1",
            ),
            ('{"primary_id": 1, "x": 2}', ", duplicate_id: it is missing"),
            ('{"primaryPersonId": 1, "duplicate_id": 2}', ": 'primaryPersonId' names persons, but"),
            ('{"primary_id": [1], "duplicate_id": 2}', ", primary_id: '[1]' is not a whole number"),
            (
                '{"primary_id": 1.5, "duplicate_id": 2}',
                ", primary_id: '1.5' is not a whole number: write the id as a whole number, such as",
            ),
            ("[1, 2]", ": '[1, 2]' is not an object: give one whole JSON object a line"),
            (
                '{"primary_id": 1',
                ": this is not JSON (Expecting ',' delimiter, character 17): give",
            ),
            ('{"a": 1, "a": 2}', ": this JSON cannot be used (a name comes twice in an object)"),
            ('{"a": ' + "[" * 100_000, ": this JSON cannot be used ("),
            ('{"a": ' + "9" * 5000 + "}", ": this JSON cannot be used (Exceeds the limit"),
            (r'{"a": "\ud800"}', ": this JSON has half a character, a lone surrogate: give"),
        ],
    )
    def test_problems(self, line: str, problem: str) -> None:
        """An invalid line is a problem, and the lines after it are read."""
        content = f'{{"primary_id": 1, "duplicate_id": 2}}\n{line}\nnull\n'.encode()
        found = problems(content, source="pairs.jsonl")
        assert found[0].startswith(f"pairs.jsonl:2{problem}")
        assert found[1:] == [
            "pairs.jsonl:3: 'null' is not an object: give one whole JSON object a line"
        ]

    def test_two_problems_of_an_object(self) -> None:
        """All problems of an object are reported together."""
        assert problems(b'{"primary_id": "x"}') == [
            "pairs.csv:1, primary_id: 'x' is not a whole number",
            "pairs.csv:1, duplicate_id: it is missing",
        ]

    def test_an_array(self) -> None:
        """An array of objects is refused with the format to use instead."""
        for array in (b'\n[{"primary_id": 1}]', b'\n[\n{"primary_id": 1}\n]\n'):
            assert problems(array) == [
                "pairs.csv:2: this is a JSON array: give one JSON object a line instead"
            ]


texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=6)
rows_of_text = st.lists(
    st.tuples(st.integers(1, 9), st.integers(10, MAX_ID), texts, texts), min_size=1, max_size=6
)


def written(rows: Iterable[Iterable[object]], header: Iterable[str], delimiter: str) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue().encode()


@given(rows_of_text, st.permutations(range(4)), st.sampled_from(",;\t"))
def test_what_csv_writes_is_read(
    rows: list[tuple[int, int, str, str]], order: list[int], delimiter: str
) -> None:
    """Whatever a CSV writer writes, in whatever order of columns, is read back unchanged."""
    names = ("primary_id", "duplicate_id", *FURTHER)
    shuffled = [[row[index] for index in order] for row in rows]
    content = written(shuffled, (names[index] for index in order), delimiter)
    pairs = read(content)
    assert not pairs.problems
    assert sorted(pairs.columns) == sorted(FURTHER)
    assert [
        (row.primary_id, row.duplicate_id, row.extra["name"], row.extra["owner"])
        for row in pairs.rows
    ] == rows


@given(rows_of_text)
def test_json_says_the_same(rows: list[tuple[int, int, str, str]]) -> None:
    """JSON lines and CSV with the same rows differ only in line numbers and digest."""
    names = ("primary_id", "duplicate_id", *FURTHER)
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    from_json, from_csv = read("\n".join(lines).encode()), read(written(rows, names, ","))
    assert from_json.columns == from_csv.columns
    assert [(row.primary_id, row.duplicate_id, row.extra) for row in from_json.rows] == [
        (row.primary_id, row.duplicate_id, row.extra) for row in from_csv.rows
    ]
