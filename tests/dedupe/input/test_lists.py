"""Lists of ids and of task URLs: one a line, or a column of a table."""

import io

import pytest
import xlsxwriter

from aiotasks.dedupe._input.lists import read_ids, read_urls
from aiotasks.errors import PlanError
from aiotasks.models import Kind


URL = "https://api.affinity.co/v2/tasks/company-merges/"


def ids(
    content: str | bytes, *, kind: Kind = "company", column: str | None = None
) -> frozenset[int]:
    encoded = content.encode() if isinstance(content, str) else content
    return read_ids(encoded, source="never.txt", kind=kind, column=column)


def problems(content: str | bytes, *, column: str | None = None) -> tuple[str, ...]:
    with pytest.raises(PlanError) as caught:
        _ = ids(content, column=column)
    assert caught.value.source == "never.txt"
    return caught.value.problems


def urls(content: str | bytes, *, column: str | None = None) -> list[tuple[str, str]]:
    encoded = content.encode() if isinstance(content, str) else content
    items, flaws = read_urls(encoded, source="urls", column=column)
    assert not flaws
    return [(item.place, item.text) for item in items]


class TestIds:
    def test_lines(self) -> None:
        """A list of ids has one id a line, and may have comments and blank lines."""
        assert ids("\ufeff# ours\n1\n\n 2 # the bank, ours\r\n1#x\n") == {1, 2}
        assert ids("") == frozenset()

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
    def test_encodings(self, encoding: str) -> None:
        """A list is read in every encoding that a file of pairs may have."""
        assert ids("1\r\n2\r\n".encode(encoding)) == {1, 2}

    def test_shapes(self) -> None:
        """Ids have all shapes that they have in pairs; a saved column may end in a separator."""
        site = "https://acme.affinity.co/companies"
        assert ids(f'1.0\n{site}/2#notes\n="3"\n4,\n5;;\n') == {1, 2, 3, 4, 5}

    @pytest.mark.parametrize(
        "text",
        [
            "id\n1\n2\n",
            "Organization Id\n1\n2\n",
            "Name,Organization Id,Person Id\nAcme,1,8\nBeta,2,9\n",
            "sep=;\nName;Record ID\nx;1\ny;2\n",
            '{"id": 1, "name": "x"}\n{"id": 2.0, "name": "y"}\n',
        ],
    )
    def test_a_column(self, text: str) -> None:
        """A column of a table is read if its name says that it has the ids."""
        assert ids(text) == {1, 2}

    def test_a_named_column(self) -> None:
        """Another column can be named."""
        assert ids("id,VIP\n8,1\n9,2\n", column="vip") == {1, 2}
        assert ids("VIP\n1\n2\n", column="vip") == {1, 2}

    def test_a_workbook(self) -> None:
        """A list may be a sheet; a mistake in it is named by row and column."""
        assert ids(book(["Name", "Organization Id"], ["x", 1], ["y", "2"])) == {1, 2}
        assert problems(book(["Name", "id"], ["x", 1.5])) == (
            (
                "never.txt, sheet 'Sheet1', row 2, column B (id): '1.5' is not a whole number: "
                "enter the id as a number, without decimals and separators"
            ),
        )

    def test_problems(self) -> None:
        """All invalid lines are reported together, in their order."""
        assert [each.partition(":")[2][:25] for each in problems(b"0\n1\n\xff# y\n2,3\n")] == [
            "1: '0' is not positive (n",
            "3, character 1: the byte ",
            "3: '\ufffd' is not a whole num",
            "4: '2,3' is not a whole n",
        ]

    def test_a_first_line_is_never_dropped(self) -> None:
        """A first line that is no id and no known name is a problem: it may be a misspelt id."""
        assert problems("12O\n13\n") == (
            (
                "never.txt:1: '12O' is not a whole number (nor the name of a column of ids, unless "
                "--protect-column says so)"
            ),
        )

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("Name,No\nx,1\n", "there is no column of ids among Name, No"),
            (
                "primary_id,duplicate_id\n1,2\n",
                "there is more than one column of ids among primary",
            ),
            ("Person Id,Name\n1,x\n", "there is no column of ids among Person Id, Name"),
            ('{"a": 1}\n', "there is no column of ids among a"),
        ],
    )
    def test_no_column(self, text: str, problem: str) -> None:
        """A table without one column of ids is one problem, with the option that names it."""
        (found,) = problems(text)
        assert found.startswith(f"never.txt: {problem}")
        assert found.endswith(": --protect-column names it")

    def test_no_such_column(self) -> None:
        """A named column has to be there, whatever the list is."""
        assert problems("id\n1\n", column="x") == (
            "never.txt: there is no column 'x' among id: --protect-column names it",
        )
        assert problems(b"PK\x03\x04")[0].startswith("never.txt: it is a workbook that is damaged")
        assert problems("\x1f\x8b", column="x")

    def test_an_empty_cell(self) -> None:
        """A row without an id is a problem, since nothing would be protected."""
        assert problems("Name,id\nx,\ny\n") == (
            "never.txt:2, column 2 (id): it is empty",
            "never.txt:3, column 2 (id): it is empty",
        )


class TestUrls:
    def test_lines(self) -> None:
        """A list of URLs has one a line, with comments and blank lines; each has its place."""
        assert urls(f"\n# these\n{URL}1\n {URL}2 # mine\n") == [
            ("urls:3", f"{URL}1"),
            ("urls:4", f"{URL}2"),
        ]
        assert urls(f"{URL}1#x".encode("utf-16")) == [("urls:1", f"{URL}1")]

    def test_a_report(self) -> None:
        """The URLs of a report are read, whatever rows have none."""
        text = f"primary_id,duplicate_id,task_url\n1,2,{URL}1\n3,4,\n5,6,{URL}2\n"
        assert urls(text) == [
            ("urls:2, column 3 (task_url)", f"{URL}1"),
            ("urls:4, column 3 (task_url)", f"{URL}2"),
        ]

    def test_tasks(self) -> None:
        """So are those of what lists tasks, and of a sheet."""
        assert urls(f'{{"url": "{URL}1", "task": {{}}}}\n') == [("urls:1, url", f"{URL}1")]
        assert urls(book(["Task URL"], [f"{URL}1"])) == [
            ("urls, sheet 'Sheet1', row 2, column A (Task URL)", f"{URL}1")
        ]

    def test_a_named_column(self) -> None:
        """Another column can be named."""
        assert [text for _, text in urls(f"a,b\n{URL}1,x\n", column="A")] == [f"{URL}1"]

    def test_problems(self) -> None:
        """What cannot be read is a problem, not a task."""
        assert read_urls(b"Name,Address\nx,y\n", source="urls") == (
            [],
            ("urls: there is no column of task URLs among Name, Address: --column names it",),
        )
        assert read_urls(b"PK\x03\x04", source="urls")[1][0].startswith("urls: it is a workbook")


def book(*rows: list[str | float]) -> bytes:
    file = io.BytesIO()
    with xlsxwriter.Workbook(file) as written:
        sheet = written.add_worksheet()
        for number, row in enumerate(rows):
            _ = sheet.write_row(number, 0, row)
    return file.getvalue()
