"""The filter language."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotasks.sandbox._filters import Filter
from aiotasks.sandbox._reply import Problem


STATUSES = ("in-progress", "success", "failed")
PROPERTIES = {"status": STATUSES, "taskId": None}
TERMS = st.one_of(
    st.tuples(st.just("status"), st.sampled_from(STATUSES)),
    st.tuples(st.just("taskId"), st.sampled_from(["a", "b", "c"])),
)
BLANKS = st.sampled_from(["", " ", "  "])


@given(
    st.lists(st.lists(TERMS, min_size=1, max_size=3), min_size=1, max_size=3),
    st.fixed_dictionaries(
        {"status": st.sampled_from(STATUSES), "taskId": st.sampled_from(["a", "b", "c"])}
    ),
    BLANKS,
)
def test_and_binds_tighter_than_or(
    alternatives: list[list[tuple[str, str]]], item: dict[str, str], blank: str
) -> None:
    """An item passes if all terms of any alternative hold, however many blanks there are."""
    text = f"{blank}|{blank}".join(
        f"{blank}&{blank}".join(f"{name}{blank}={blank}{value}" for name, value in terms)
        for terms in alternatives
    )
    expected = any(all(item[name] == value for name, value in terms) for terms in alternatives)
    assert Filter.parse(text, PROPERTIES).matches(item) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "status",
        "status=",
        "status==failed",
        "status!=failed",
        "status=cancelled",
        "status=failed|",
        "status=failed & | taskId=a",
        "name=x",
        "(status=failed)",
        "taskId=a b",
        'taskId="a"',
    ],
)
def test_bad_filters_are_refused(text: str) -> None:
    """An invalid filter is a validation error of the parameter."""
    with pytest.raises(Problem) as caught:
        Filter.parse(text, PROPERTIES)
    assert (caught.value.status, caught.value.param) == (400, "filter")


def test_values_must_be_in_every_alternative() -> None:
    """An index can be used only if every alternative restricts the property."""
    assert Filter.parse("taskId=a & status=failed | taskId=b", PROPERTIES).values("taskId") == {
        "a",
        "b",
    }
    assert Filter.parse("taskId=a | status=failed", PROPERTIES).values("taskId") is None
