"""Pages and cursors."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotasks.sandbox._pages import Cursor, cut
from aiotasks.sandbox._reply import Problem


@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 7), st.booleans())
def test_pages_show_every_item_once_in_order(
    count: int, limit: int, step: int, newest_first: bool
) -> None:
    """Following ``next`` from the first page returns each matching item exactly once."""
    order = range(count, 0, -1) if newest_first else range(1, count + 1)
    seen: list[int] = []
    cursor = None
    while True:
        page = cut(
            order,
            limit=limit,
            cursor=cursor,
            newest_first=newest_first,
            matches=lambda number: number % step == 0,
        )
        seen += page.numbers
        cursor = page.next
        if cursor is None:
            break
        assert len(page.numbers) == limit
    assert seen == [number for number in order if number % step == 0]


@given(st.integers(1, 40), st.integers(1, 9), st.lists(st.integers(0, 5), max_size=40))
def test_new_items_never_disturb_later_pages(count: int, limit: int, news: list[int]) -> None:
    """Items added between two pages cause no item to be repeated or left out."""
    seen: list[int] = []
    cursor = None
    arrived = count
    arrivals = iter(news)
    while True:
        page = cut(range(arrived, 0, -1), limit=limit, cursor=cursor)
        seen += page.numbers
        if page.next is None:
            break
        cursor = page.next
        arrived += next(arrivals, 0)
    assert seen == list(range(count, 0, -1))


@given(st.integers(1, 40), st.integers(1, 9), st.booleans())
def test_previous_leads_back(count: int, limit: int, is_filtered: bool) -> None:
    """``prev`` of the next page is the page itself."""
    order = range(count, 0, -1)
    matches = (lambda number: number % 2 == 1) if is_filtered else None
    first = cut(order, limit=limit, matches=matches)
    assert first.previous is None
    if first.next is not None:
        second = cut(order, limit=limit, cursor=first.next, matches=matches)
        assert second.previous is not None
        back = cut(order, limit=limit, cursor=second.previous, matches=matches)
        assert (back.numbers, back.next, back.previous) == (first.numbers, first.next, None)


@given(st.sampled_from(["after", "before"]), st.integers(1, 10**17))
def test_cursors_are_read_back(direction: str, anchor: int) -> None:
    """A cursor is read back as the same place."""
    cursor = Cursor("after" if direction == "after" else "before", anchor)
    assert Cursor.parse(str(cursor)) == cursor


def test_cursors_look_like_the_documented_ones() -> None:
    """A cursor is unpadded base64 of a padded direction and the item it is anchored at."""
    assert str(Cursor("before", 7)) == "ICAgICAgYmVmb3JlOjo6Nw"
    assert str(Cursor("after", 4)) == "ICAgICAgIGFmdGVyOjo6NA"


@pytest.mark.parametrize("text", ["", "x", "!!!!", "7", "ÄÖ", "AAAA", "_-_-", "YWZ0ZXI6OjowMA"])
def test_made_up_cursors_are_refused(text: str) -> None:
    """A cursor that no page has returned is a validation error of the parameter."""
    with pytest.raises(Problem) as caught:
        Cursor.parse(text)
    assert (caught.value.status, caught.value.param) == (400, "cursor")


@given(st.one_of(st.text(max_size=20), st.just("after:::1")))
def test_no_text_breaks_the_parser(text: str) -> None:
    """Any text is either a cursor or refused, never an error of the sandbox."""
    try:
        Cursor.parse(base64.urlsafe_b64encode(text.encode()).decode())
        Cursor.parse(text)
    except Problem as problem:
        assert problem.param == "cursor"  # noqa: PT017 - either way is right


def test_a_page_past_the_end_is_empty() -> None:
    """A page after the oldest item is empty, and has neither ``next`` nor ``prev``."""
    page = cut(range(3, 0, -1), limit=2, cursor=Cursor("after", 1))
    assert (page.numbers, page.next, page.previous) == ([], None, None)
