"""Tables: the shapes, encodings and formats that exports and spreadsheets have."""

import codecs
import csv
import io
import sys
import zipfile
from collections.abc import Sequence
from datetime import date, datetime, time
from typing import Any

import pytest
import python_calamine as calamine
import xlsxwriter
from hypothesis import given, settings
from hypothesis import strategies as st

from aiotasks.dedupe._input import workbook
from aiotasks.dedupe._input.formulas import links_of
from aiotasks.dedupe._input.ids import MAX_ID
from aiotasks.dedupe._input.pairs import ParsedPairs, read_pairs
from aiotasks.dedupe._input.places import sentences


HEADER = "primary_id,duplicate_id\n"


def read(content: str | bytes, source: str = "pairs.csv", **options: Any) -> ParsedPairs:
    encoded = content.encode() if isinstance(content, str) else content
    return read_pairs(encoded, kind="company", source=source, options=options)  # type: ignore[arg-type]


def pairs(content: str | bytes, **options: Any) -> list[tuple[int, int, int]]:
    found = read(content, **options)
    assert not found.problems
    return [(row.line, row.primary_id, row.duplicate_id) for row in found.rows]


def problems(content: str | bytes, source: str = "pairs.csv", **options: Any) -> list[str]:
    return list(sentences(read(content, source, **options).problems))


class TestSeparators:
    @pytest.mark.parametrize(
        "first", ["sep=;", "SEP=;", '"sep=;"', "sep=;;;;", "\ufeffsep=;", "sep=; "]
    )
    @pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
    def test_a_line_that_tells_it(self, first: str, ending: str) -> None:
        """A first line ``sep=`` tells the separator, and counts as a line."""
        text = ending.join([first, "primary_id;duplicate_id", "1;2", "3;4"])
        assert pairs(text) == [(3, 1, 2), (4, 3, 4)]
        assert read(text).separator == ";"

    @pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
    def test_without_it(self, separator: str) -> None:
        """The separator that finds the columns is known afterwards."""
        found = read(f"primary_id{separator}duplicate_id\n1{separator}2\n")
        assert (found.separator, len(found.rows)) == (separator, 1)

    def test_any_character(self) -> None:
        """Such a line may tell a separator that would not be found by itself."""
        assert pairs("sep=:\nprimary_id:duplicate_id\n1:2\n") == [(3, 1, 2)]

    def test_no_separator(self) -> None:
        """A line that tells nothing is a header like any other."""
        assert problems("sep=\n1,2\n")[0].startswith("pairs.csv:1: there is no column primary_id")

    def test_the_lines_of_problems(self) -> None:
        """Places count that line, also of rows that cannot be read."""
        assert problems('sep=,\nprimary_id,duplicate_id\nx,1\n"a"b,c\n')[0].startswith(
            "pairs.csv:3"
        )
        assert problems('sep=,\nprimary_id,duplicate_id\nx,1\n"a"b,c\n')[1].startswith(
            "pairs.csv:4"
        )


class TestShapes:
    def test_trailing_empty_cells(self) -> None:
        """Empty cells behind a row are nothing; others are a problem, as ids may have moved."""
        assert pairs("primary_id,duplicate_id\r\n1,2,\r\n3,4,, \r\n5,6\r\n") == [
            (2, 1, 2),
            (3, 3, 4),
            (4, 5, 6),
        ]
        assert problems(HEADER + "1,2,,x\n")[0].startswith("pairs.csv:2: the row has 4 cells")

    def test_trailing_empty_names(self) -> None:
        """Columns without a name or a value behind the others are none."""
        assert read("primary_id,duplicate_id,,\n1,2,,\n3,4\n").columns == ()
        found = read("primary_id,duplicate_id,,,\n1,2,,x,\n")
        assert found.columns == ("column 3", "column 4")
        assert found.rows[0].extra == {"column 3": "", "column 4": "x"}

    def test_a_space_before_a_quoted_cell(self) -> None:
        """A quoted cell may follow a space, and then has separators within like any other."""
        found = read('primary_id, duplicate_id, name\n1, "2",  "Acme, Inc."\n3, 4, ""\n')
        assert not found.problems
        assert [row.extra["name"] for row in found.rows] == ["Acme, Inc.", ""]
        assert pairs('name,primary_id,duplicate_id\n "Acme, Inc.",1,2\n') == [(2, 1, 2)]

    def test_spaces_are_kept(self) -> None:
        """Otherwise the spaces of a cell are its own, also beside quotes within quoted text."""
        found = read('primary_id,duplicate_id,name\n1,2,  Acme\n3,4,"a, ""b"""\n')
        assert [row.extra["name"] for row in found.rows] == ["  Acme", 'a, "b"']

    def test_mixed_line_ends(self) -> None:
        """Lines may end in different ways within a file."""
        assert pairs("primary_id,duplicate_id\r\n1,2\n3,4\r5,6") == [
            (2, 1, 2),
            (3, 3, 4),
            (4, 5, 6),
        ]

    def test_letter_case(self) -> None:
        """Names of columns count in any letter case."""
        assert pairs("PRIMARY_ID,Duplicate_Id\n1,2\n") == [(2, 1, 2)]

    def test_ids_of_all_shapes(self) -> None:
        """Cells of ids are read in all their shapes."""
        site = "https://acme.affinity.co/companies"
        cells = f'{site}/1,"=HYPERLINK(""{site}/2"",""A"")"\n3.0,"=""4"""\n\'5,"6"\n'
        assert pairs(HEADER + cells) == [(2, 1, 2), (3, 3, 4), (4, 5, 6)]

    @pytest.mark.parametrize(
        "dialect",
        [
            {"lineterminator": "\n"},
            {"delimiter": ";", "quoting": csv.QUOTE_ALL},
            {"delimiter": "\t", "quoting": csv.QUOTE_NONNUMERIC},
            {"delimiter": "|", "lineterminator": "\r"},
        ],
    )
    @given(
        cells=st.lists(
            st.tuples(
                st.integers(1, MAX_ID),
                st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=6),
            ),
            min_size=1,
            max_size=5,
        )
    )
    def test_dialects(self, dialect: dict[str, Any], cells: list[tuple[int, str]]) -> None:
        """What a CSV writer writes in any of its dialects is read back unchanged."""
        file = io.StringIO(newline="")
        writer = csv.writer(file, **dialect)
        writer.writerow(["primary_id", "name", "duplicate_id"])
        writer.writerows([number, name, number % 7 + 1] for number, name in cells)
        found = read(file.getvalue())
        same = [each for each in cells if each[0] == each[0] % 7 + 1]
        assert len(found.problems) == len(same)
        assert [(row.primary_id, row.extra["name"]) for row in found.rows] == [
            each for each in cells if each not in same
        ]


class TestEncodings:
    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
    def test_byte_order_marks(self, encoding: str) -> None:
        """A byte order mark names the encoding, of CSV and of JSON lines."""
        name = "M\u00fcller \u5c71\u7530 \U0001f600"
        for text in (
            f"primary_id,duplicate_id,name\n1,2,{name}\n",
            f'{{"primary_id": 1, "duplicate_id": 2, "name": "{name}"}}\n',
        ):
            assert read(text.encode(encoding)).rows[0].extra["name"] == name

    def test_either_end_first(self) -> None:
        """UTF-16 may have either byte order."""
        for mark, encoding in (
            (codecs.BOM_UTF16_LE, "utf-16-le"),
            (codecs.BOM_UTF16_BE, "utf-16-be"),
        ):
            assert pairs(mark + (HEADER + "1,2\n").encode(encoding)) == [(2, 1, 2)]

    def test_two_marks(self) -> None:
        """Some programs put a mark before a file that has one already."""
        assert pairs(codecs.BOM_UTF8 * 2 + (HEADER + "1,2\n").encode()) == [(2, 1, 2)]

    @pytest.mark.parametrize(
        ("content", "flaw"),
        [
            (HEADER.encode("utf-16-le"), "it is UTF-16 text without a byte order mark: save the"),
            (HEADER.encode("utf-16-be"), "it is UTF-16 text without a byte order mark: save the"),
            (codecs.BOM_UTF16_LE + b"p\x00r", "it is UTF-16 text that cannot be read (truncated"),
            (b"\x1f\x8b\x08\x00", "it is compressed: unpack it first"),
            (
                b"\n<html><table>",
                'it is HTML or XML: open it in a spreadsheet, and save the file as "',
            ),
            (b"PK\x03\x04\x14\x00", "it is a workbook that is damaged: save the sheet as"),
            (b"\xd0\xcf\x11\xe0\xa1\xb1", "it is no workbook that can be read (Cannot detect"),
        ],
    )
    def test_what_is_no_such_text(self, content: bytes, flaw: str) -> None:
        """Other encodings and formats are one problem, with the cure."""
        (problem,) = problems(content)
        assert problem.startswith(f"pairs.csv: {flaw}")


def book(*rows: Sequence[Any], first: int = 0, left: int = 0, **sheets: Sequence[Any]) -> bytes:
    """Return a workbook with these rows, and further sheets of one row each."""
    file = io.BytesIO()
    with xlsxwriter.Workbook(file) as written:
        formats = [written.add_format({"num_format": each}) for each in ("yyyy-mm-dd", "hh:mm:ss")]
        sheet = written.add_worksheet("Pairs")
        for number, row in enumerate(rows, first):
            for column, cell in enumerate(row, left):
                if isinstance(cell, date | time):
                    number_format = formats[isinstance(cell, time)]
                    _ = sheet.write_datetime(number, column, cell, number_format)
                else:
                    _ = sheet.write(number, column, cell)
        for name, row in sheets.items():
            _ = written.add_worksheet(name).write_row(0, 0, row)
    return file.getvalue()


NAMES = ("primary_id", "duplicate_id")


class TestWorkbooks:
    def test_cells(self) -> None:
        """Numbers, numbers as text, and dates and the like in further columns are read."""
        when = (datetime(2026, 1, 2, 3, 4, 5), date(2026, 1, 2), time(3, 4, 5))  # noqa: DTZ001 - sheets have no zones
        content = book(
            [*NAMES, "at", "on", "time", "ok", "score", "note"],
            [1, "2", *when, True, 0.5, "\u5c71 \xa0"],
            [],
            [3.0, " 4.0 "],
        )
        found = read(content, "pairs.xlsx")
        assert not found.problems
        assert [(row.line, row.primary_id, row.duplicate_id) for row in found.rows] == [
            (2, 1, 2),
            (4, 3, 4),
        ]
        assert [*found.rows[0].extra.values()] == [
            "2026-01-02 03:04:05",
            "2026-01-02",
            "03:04:05",
            "True",
            "0.5",
            "\u5c71 \xa0",
        ]
        assert (found.source.unit, found.separator, found.understood) == ("row", None, ())

    def test_places(self) -> None:
        """A problem names sheet, row and column as the spreadsheet shows them."""
        content = book(NAMES, ["x", 1], [1.5, 2**53], [None, "1E9"], first=3, left=26)
        at = "pairs.xlsx, sheet 'Pairs', row"
        assert problems(content, "pairs.xlsx") == [
            f"{at} 5, column AA (primary_id): 'x' is not a whole number",
            (
                f"{at} 6, column AA (primary_id): '1.5' is not a whole number: "
                "enter the id as a number, without decimals and separators"
            ),
            (
                f"{at} 6, column AB (duplicate_id): '9007199254740992.0' is larger than any id "
                f"({MAX_ID}) and was rounded: a workbook keeps 15 digits of a number: enter the id "
                "as text"
            ),
            (
                f"{at} 7, column AA (primary_id): it is empty, or a formula that was never "
                "calculated: enter the id, or remove the row"
            ),
            (
                f"{at} 7, column AB (duplicate_id): '1E9' is not a whole number, and digits of it "
                "may be lost: a workbook keeps 15 digits of a number: enter the id as text"
            ),
        ]

    def test_sheets(self) -> None:
        """The first sheet is read, and the plan says so if there are more; another can be named."""
        content = book(NAMES, [1, 2], Other=["primary_id", "duplicate_id"], None_=["x"])
        assert read(content).understood == ("the sheet 'Pairs', of 3",)
        assert pairs(content, sheet="pairs") == [(2, 1, 2)]
        assert problems(content, sheet="OTHER") == [
            "pairs.csv: there is no pair in it: give at least one row with two ids"
        ]
        assert problems(content, sheet="None_")[0].startswith("pairs.csv, sheet 'None_', row 1:")
        assert problems(content, sheet="x") == [
            "pairs.csv: there is no one sheet 'x': its sheets are Pairs, Other, None_"
        ]

    def test_hidden_sheets(self) -> None:
        """A sheet that nobody sees is read only if it is named."""
        file = io.BytesIO()
        with xlsxwriter.Workbook(file) as written:
            written.add_worksheet("Lists").hide()
            sheet = written.add_worksheet("Pairs")
            sheet.activate()
            for number, row in enumerate([NAMES, (1, 2)]):
                _ = sheet.write_row(number, 0, row)
        assert pairs(file.getvalue()) == [(2, 1, 2)]
        assert problems(file.getvalue(), sheet="Lists")[0].startswith("pairs.csv: there is no pair")

    def test_nothing(self) -> None:
        """A workbook without cells has no pair."""
        assert problems(book()) == [
            "pairs.csv: there is no pair in it: give at least one row with two ids"
        ]

    def test_a_header_of_numbers(self) -> None:
        """A sheet without a header is refused as other tables are."""
        assert problems(book([1, 2], [3, 4]))[0].startswith(
            "pairs.csv, sheet 'Pairs', row 1: there is no header: the first row has to name"
        )

    def test_links(self) -> None:
        """A formula that links to a record is its id; in other columns it is what it shows."""
        site = "https://acme.affinity.co"
        link = '=HYPERLINK("{0}/companies/{1}?a=1&b=2","Acme")'
        file = io.BytesIO()
        with xlsxwriter.Workbook(file) as written:
            sheet = written.add_worksheet("A & B")
            _ = sheet.write_row(0, 0, ["", "name", *NAMES])
            for number in (1, 3):
                _ = sheet.write_formula(number, 1, link.format(site, 9), None, "Acme")
                _ = sheet.write_formula(number, 2, link.format(site, number), None, "Acme")
                _ = sheet.write_formula(number, 3, link.format(site, number + 1), None, "")
            _ = sheet.write_formula(4, 2, f'=HYPERLINK("{site}/persons/1")', None, "Ann")
            _ = sheet.write_formula(4, 3, "=1+1", None, 2)
        found = read(file.getvalue(), "p.xlsx")
        assert [(row.line, row.primary_id, row.duplicate_id) for row in found.rows] == [
            (2, 1, 2),
            (4, 3, 4),
        ]
        assert {row.extra["name"] for row in found.rows} == {"Acme"}
        assert [each.text for each in found.problems] == [
            (
                "p.xlsx, sheet 'A & B', row 5, column C (primary_id): "
                f"'{site}/persons/1' is a link to a person, but the kind is company"
            )
        ]

    def test_links_that_cannot_be_found(self) -> None:
        """A workbook in whose parts the sheet is not found has its cells only."""
        content = book(NAMES, [1, 2])
        assert links_of(content, "Pairs") == {}
        assert links_of(content, "x") == {}
        assert links_of(b"\xd0\xcf\x11\xe0", "Pairs") == {}

    def test_clusters(self) -> None:
        """Clusters may be in a workbook, too."""
        content = book(["cluster_id", "record_id", "score"], [1, 1, 0.5], [1, 2, 0.75])
        assert [(row.primary_id, row.duplicate_id) for row in read(content, keep="score").rows] == [
            (2, 1)
        ]

    def test_without_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the extra, the problem names it."""
        monkeypatch.setitem(sys.modules, "python_calamine", None)
        assert problems(book(NAMES, [1, 2])) == [
            (
                "pairs.csv: it is a workbook: install affinity-aiotasks[excel] to read it, or save "
                'the sheet as "CSV UTF-8"'
            )
        ]

    def test_an_archive_of_something_else(self) -> None:
        """An archive that is no workbook is refused."""
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("pairs.csv", HEADER)
        (problem,) = problems(file.getvalue())
        assert problem.startswith("pairs.csv: it is no workbook that can be read (")

    def test_a_small_file_of_much(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A workbook that would fill the memory is refused before it is unpacked."""
        monkeypatch.setattr(workbook, "_MOST_UNPACKED", 1000)
        assert problems(book(NAMES, [1, 2])) == [
            'pairs.csv: it is a workbook that is too large: save the sheet as "CSV UTF-8"'
        ]

    def test_a_password(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A workbook with a password says so."""

        def refuse(_: object) -> None:
            raise calamine.PasswordError

        opened = type("Opened", (), {"from_filelike": staticmethod(refuse)})
        monkeypatch.setattr(calamine, "CalamineWorkbook", opened)
        assert problems(book(NAMES, [1, 2])) == [
            "pairs.csv: it is protected by a password: save it without one"
        ]

    @settings(deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.integers(1, 10**15),
                st.text(
                    st.characters(
                        codec="utf-8",
                        exclude_categories=["Cc", "Cs"],
                        exclude_characters="\ufffe\uffff",
                    ),
                    max_size=9,
                ),
            ),
            min_size=1,
            max_size=5,
        )
    )
    def test_round_trip(self, cells: list[tuple[int, str]]) -> None:
        """Numbers and texts of a sheet are read as they were written."""
        file = io.BytesIO()
        with xlsxwriter.Workbook(file) as written:
            sheet = written.add_worksheet()
            _ = sheet.write_row(0, 0, ["primary_id", "duplicate_id", "name"])
            for number, (record_id, name) in enumerate(cells, 1):
                _ = sheet.write_row(number, 0, [record_id, record_id + 1])
                _ = sheet.write_string(number, 2, name)
        found = read(file.getvalue())
        assert not found.problems
        assert [(row.primary_id, row.extra["name"]) for row in found.rows] == cells


@given(st.binary(max_size=60))
def test_any_workbook(noise: bytes) -> None:
    """No bytes that begin as a workbook make the parser crash."""
    for mark in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        assert problems(mark + noise)
