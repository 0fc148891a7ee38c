"""The key is on no page and in no answer of the application."""

from collections.abc import AsyncIterator

import pytest

from aiotasks import Client
from tests.leaks import ANSWERS, KEY
from tests.servers import host, saying

from .conftest import Site


pytestmark = pytest.mark.real_time


# On the real clock, as all of them take half a minute.
@pytest.fixture(params=["two lengths", "the key is refused", "the key in a problem"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    async with (
        host(saying(ANSWERS[request.param], then_close=True)) as server,
        Client(KEY, base_url=server.url, request_timeout=1.0) as client,
    ):
        yield client


async def test_no_answer_shows_the_key(site: Site) -> None:
    """An upload that the API's answer makes fail says why, without the key."""
    answer = await site.send("jobs?kind=company", data="primary_id,duplicate_id\n1,2\n")
    assert answer.status in {502, 503}, answer.text
    assert KEY not in answer.text + str(answer.headers)
    page = await site.ask("jobs")
    assert page.status == 200
    assert KEY not in page.text
