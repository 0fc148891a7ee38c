"""Ids in cells: every shape that has one reading is that id, and every other is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotasks.dedupe._input.ids import MAX_ID, Form, id_of


SITE = "https://acme.affinity.co"

ids = st.integers(1, MAX_ID)


@pytest.mark.parametrize(
    "cell",
    [
        "123",
        "\ufeff123\u200b",
        "\u202a123\u202c",
        "\xa0123\u2007",
        "123\u2028\x0b",
        "123.0",
        "123.00",
        "123.000000",
        "123,0",
        '="123"',
        "=123",
        '"123"',
        "'123",
        "'123'",
        '= "123"',
        f"{SITE}/companies/123",
        f"{SITE}/companies/123/",
        f"{SITE}/companies/123/notes?tab=2#top",
        f"{SITE.upper()}/organizations/123",
        "acme.affinity.co/companies/123",
        "/companies/123",
        "https://api.affinity.co/v2/companies/123",
        "http://127.0.0.1:8080/v2/companies/123",
        f"'{SITE}/companies/123",
        f'=HYPERLINK("{SITE}/companies/123","Acme, Inc.")',
        f'=hyperlink( "{SITE}/companies/123" ; "123" )',
        f'=HYPERLINK("{SITE}/companies/123";123)',
        f'\'=HYPERLINK("{SITE}/companies/123")',
    ],
)
def test_shapes(cell: str) -> None:
    """Spreadsheets, exports and browsers write an id in many shapes, each with one reading."""
    assert id_of(cell, "company") == 123


@pytest.mark.parametrize(
    ("cell", "flaw"),
    [
        ("1.23E+08", "is not a whole number, and digits of it may be lost"),
        ("1,2e5", "is not a whole number, and digits of it may be lost"),
        ("12,345", "is not a whole number: format the column as a number"),
        ("1.234", "is not a whole number: format the column as a number"),
        ("1.000", "is not a whole number: format the column as a number"),
        ("1,234.0", "is not a whole number: format the column as a number"),
        ("1 234", "is not a whole number: format the column as a number"),
        ("1\u202f234", "is not a whole number: format the column as a number"),
        ("1'234", "is not a whole number: format the column as a number"),
        ("1.5", "is not a whole number: format the column as a number"),
        ("123.0.0", "is not a whole number"),
        ("005", "begins with 0, as what follows the separator of a large number does"),
        ("05.0", "begins with 0"),
        ("nan", "is no id: give it, or remove the row"),
        ("NULL", "is no id: give it, or remove the row"),
        ("#N/A", "is no id: give it, or remove the row"),
        ("0", "is not positive"),
        ("00", "is not positive"),
        ("0.0", "is not positive"),
        ("-7.0", "is not positive"),
        ("9007199254740993.0", "is larger than any id (9007199254740991) and was rounded"),
        ("9007199254740993", "is larger than any id (9007199254740991)"),
        ("1;2", "is not a whole number"),
        ("12O", "is not a whole number"),
        ("\u0661\u0662", "is not a whole number"),
        (f"{SITE}/persons/123", "is a link to a person, but the kind is company"),
        (f"{SITE}/people/123", "is a link to a person, but the kind is company"),
        (f'=HYPERLINK("{SITE}/persons/1")', "is a link to a person, but the kind is company"),
        (f"{SITE}/lists/9/entries/1", "is a link to no record"),
        (f"{SITE}/companies/acme", "is a link to no record"),
        (f"{SITE}/companies/1/persons/2", "is a link to more than one record"),
        (f"{SITE}/companies/007", "begins with 0"),
        ("https://www.linkedin.com/companies/123", "is a link to another site than Affinity"),
        ("https://affinity.co.example.com/companies/1", "is a link to another site"),
        ("https://user@acme.affinity.co/companies/1", "is a link to another site"),
        (f'=HYPERLINK("{SITE}/companies/1","2")', "links to 1, but shows 2: give one id"),
        ('=HYPERLINK("mailto:x")', "is no link to a record"),
        ("=SUM(1)", "is not a whole number"),
    ],
)
def test_refused(cell: str, flaw: str) -> None:
    """What has two readings, or none, is refused with what to do."""
    found = id_of(cell, "company")
    assert isinstance(found, str)
    assert f" {flaw}" in found


@pytest.mark.parametrize("cell", ["", " \t", "\ufeff", '=""', "'", '""'])
def test_empty(cell: str) -> None:
    """A cell without a character that counts is empty, whatever it looks like."""
    assert id_of(cell, "company") == "it is empty"


@pytest.mark.parametrize(
    ("form", "cell", "advice"),
    [
        ("csv", "1.5", "format the column as a number without decimals and separators"),
        ("json", "1.5", "write the id as a whole number, such as 123"),
        ("workbook", "1.5", "enter the id as a number, without decimals and separators"),
        ("csv", "1E9", "format the column as a number without decimals, and export it again"),
        ("json", "1e300", "write the id as an integer with all of its digits"),
        ("workbook", "1e300", "a workbook keeps 15 digits of a number: enter the id as text"),
        ("json", "NaN", "write the id as a whole number, or leave out the line"),
        ("json", "", "write the id as a whole number, or leave out the line"),
        ("workbook", "", "enter the id, or remove the row"),
    ],
)
def test_advice(form: Form, cell: str, advice: str) -> None:
    """What to do about a cell depends on the kind of the file."""
    assert str(id_of(cell, "company", form)).endswith(f": {advice}")


@given(ids, st.sampled_from(["{}", " {} ", "{}.0", '="{}"', "'{}", f"{SITE}/persons/{{}}"]))
def test_round_trip(number: int, shape: str) -> None:
    """Whatever shape an id is written in, it is read as itself."""
    assert id_of(shape.format(number), "person") == number


@given(st.text(max_size=12) | st.text("0123456789.,eE+-'\"= #/", max_size=12))
def test_nothing_is_guessed(cell: str) -> None:
    """An id that is read stands in the cell digit by digit."""
    found = id_of(cell, "company")
    assert isinstance(found, str) or (str(found) in cell and 0 < found <= MAX_ID)


@given(ids, st.sampled_from([",", ".", " ", "'", "\u202f"]))
def test_grouped_digits_are_refused(number: int, separator: str) -> None:
    """A number with grouped digits has two readings, so that it is none."""
    grouped = f"{number:,}".replace(",", separator)
    found = id_of(grouped, "company")
    assert found == number if number < 1000 else isinstance(found, str)
