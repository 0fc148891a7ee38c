"""The diagnosis of an account: what it finds, and what it never does."""

import asyncio
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aiotasks import (
    AuthenticationError,
    AuthorizationError,
    Client,
    ConfigurationError,
    ConnectError,
    DecodeError,
    Diagnosis,
    KindDiagnosis,
    Lateness,
    MonthlyQuotaError,
    ServerError,
)
from aiotasks._diagnose import _add_up, _clock_ahead, _is_key_known, _issuer, _read, _shown_proxy
from aiotasks._http import wire
from aiotasks._http.transport import Probe
from aiotasks.sandbox import Fault
from tests.leaks import KEY
from tests.servers import Recorded, connect, host, saying
from tests.tls_proxy import ORIGIN, tls_proxy


pytestmark = pytest.mark.plain
CALLS = 10


def kind_of(found: Diagnosis, kind: str) -> KindDiagnosis:
    (one,) = (each for each in found.kinds if each.kind == kind)
    return one


@pytest.fixture
def limited() -> Recorded:
    return Recorded(
        quota=900, month_quota=1000, global_companies=0, api_key=KEY, gone_status=422, empty_share=0
    )


async def test_an_account_in_order(limited: Recorded) -> None:
    """A job could run: the key is known and may list, the limits add up, nothing was sent."""
    async with limited as sandbox, connect(sandbox, reserve=100) as client:
        for number in range(1, 21, 2):
            sandbox.start_merge("company", number, number + 1, duration=float(number))
        for url in sandbox.task_urls("company"):
            sandbox.finish(url)
        own = sandbox.start_merge("company", 31, 32, duration=600.0)
        _ = sandbox.start_merge("company", 33, 34, duration=600.0)
        found = await client.diagnose(
            task_urls=[own], lateness=Lateness(tasks=9, late=3, longest=1.5)
        )
        assert (found.can_run, found.error, found.is_key_known) == (True, None, True)
        assert found.calls == sandbox.requests <= 20
        assert {request.method for request in sandbox.log} == {"GET"}
        assert sandbox.calls["merge"] == 0
    companies = kind_of(found, "company")
    assert (companies.can_list, companies.tasks, companies.without_row) == (True, 12, 0)
    assert (companies.under_way, companies.foreign, companies.gone_status) == (2, 1, 422)
    assert kind_of(found, "person").took is None
    assert (found.headers_add_up, found.has_rate_limit_call) == (True, True)
    assert (found.month_limit, found.month_remaining) == (1000, 1000 - found.calls)
    assert found.api_version == "2026-09-17"
    assert abs(found.clock_ahead or 0.0) < 5
    assert found.latency == (0.0, 0.0)
    assert "Of 9 new tasks 3 answered 404 at first, the last for 1.5 s." in found.text
    assert f"about {(900 - found.calls) * 10 // 11} merges more" in found.text
    assert "Others merge companies at the same time" in found.text


async def test_the_page_can_be_passed_on(limited: Recorded) -> None:
    """The page has neither the key nor the base URL, a name or an id."""
    async with limited as sandbox, connect(sandbox) as client:
        for number in range(1551, 1571, 2):
            sandbox.start_merge("company", number, number + 1, duration=0.0)
        text = (await client.diagnose()).text
        assert KEY not in text
        assert sandbox.url not in text
        assert not re.search(r"15[5-7][0-9]", text)
        assert not any(url.rpartition("/")[2] in text for url in sandbox.task_urls("company"))
    assert "another base URL" in text


async def test_merges_without_a_row() -> None:
    """Tasks that have no row in the merge list are counted, and what follows is said."""
    async with (
        Recorded(
            global_companies=[1, 3], rows_for_global=False, checks_posts=False, gone_status=404
        ) as sandbox,
        connect(sandbox) as client,
    ):
        for number in range(1, 9, 2):
            sandbox.start_merge("company", number, number + 1, duration=60.0)
        for url in sandbox.task_urls("company")[2:]:
            sandbox.finish(url)
        found = await client.diagnose()
    companies = kind_of(found, "company")
    assert (companies.tasks, companies.without_row, companies.gone_status) == (4, 2, 404)
    assert companies.foreign is None
    assert "tasks without a row in the merge list: 2 of 4" in found.text
    assert "neither the id nor the reason of a failure" in found.text


async def test_how_long_merges_took(sandbox: Recorded, client: Client) -> None:
    """The durations are those of the rows, in the median, at 95 % and at most."""
    for number in range(1, 201, 2):
        sandbox.start_merge("company", number, number + 1, duration=float(number))
    await asyncio.sleep(300)
    found = kind_of(await client.diagnose(), "company")
    assert found.ended == 100
    assert found.took == (100.0, 189.0, 199.0)


async def test_without_the_permission(sandbox: Recorded, client: Client) -> None:
    """A key that may not manage duplicates can run no job, and the page says what it lacks."""
    sandbox.permissions = False
    found = await client.diagnose()
    assert isinstance(found.error, AuthorizationError)
    assert [each.can_list for each in found.kinds] == [False, False]
    assert found.is_key_known is True
    assert "'Manage duplicates'" in found.text
    assert "under way" not in found.text


async def test_a_wrong_key(sandbox: Recorded) -> None:
    """Of a key that is not known nothing else is asked."""
    async with connect(sandbox, api_key="another") as client:
        found = await client.diagnose()
    assert isinstance(found.error, AuthenticationError)
    assert (found.is_key_known, found.calls, found.kinds) == (False, 1, ())
    assert "another" not in found.text.replace("another base URL", "")
    assert "No job can run now: AuthenticationError. Check the API key" in found.text


async def test_nothing_listens() -> None:
    """An API that cannot be reached is a result, and no error."""
    async with Recorded() as sandbox:
        url = sandbox.url
    async with Client("key", base_url=url) as client:
        found = await client.diagnose()
    assert isinstance(found.error, ConnectError)
    assert (found.calls, found.latency, found.clock_ahead, found.is_key_known) == (
        1,
        None,
        None,
        None,
    )
    assert "No job can run now: ConnectError. Check the network" in found.text


async def test_a_month_that_is_used_up() -> None:
    """With no more calls than the reserve a job cannot run."""
    async with Recorded(quota=0, month_quota=12) as sandbox, connect(sandbox, reserve=5) as client:
        found = await client.diagnose()
        assert isinstance(found.error, MonthlyQuotaError)
        assert found.calls == sandbox.requests <= 7
        assert (await client.diagnose()).calls == 0
    assert "for about 0 merges more" in found.text


async def test_a_month_that_is_used_up_by_the_last_call() -> None:
    """The last call may show that no more than the reserve is left."""
    async with Recorded(quota=0, month_quota=12) as sandbox, connect(sandbox, reserve=4) as client:
        found = await client.diagnose()
    assert isinstance(found.error, MonthlyQuotaError)
    assert (found.calls, found.month_remaining) == (8, 4)


@pytest.mark.parametrize("times", [1, 2])
async def test_an_answer_that_says_nothing(sandbox: Recorded, client: Client, times: int) -> None:
    """An empty answer, or a server error, is asked for once more, and then not known."""
    sandbox.inject(Fault.status(503), on="tasks", times=times)
    found = await client.diagnose()
    assert kind_of(found, "company").can_list is (True if times == 1 else None)
    assert kind_of(found, "person").can_list is True
    assert found.can_run
    assert found.calls == sandbox.requests


async def test_calls_are_bounded(sandbox: Recorded, client: Client) -> None:
    """Whatever fails, at most 20 calls are made."""
    sandbox.inject(Fault.status(503), on="tasks", times=None)
    sandbox.inject(Fault.status(503), on="merges", times=None)
    sandbox.inject(Fault.status(503), on="rate_limit", times=None)
    found = await client.diagnose()
    assert found.has_rate_limit_call is False
    assert sandbox.requests <= 20


async def test_no_limits(sandbox: Recorded, client: Client) -> None:
    """An API without headers about limits is said to have none."""
    found = await client.diagnose()
    assert (found.headers, found.headers_add_up, found.month_remaining) == ((), None, None)
    assert "headers: none" in found.text
    assert "The limits are not to be relied on" in found.text


async def test_foreign_tasks_are_those_of_this_api(client: Client) -> None:
    """A task URL of another host is an error of the caller."""
    with pytest.raises(ConfigurationError, match="not a task URL"):
        await client.diagnose(task_urls=["https://example.com/"])


async def test_pages_of_merges(limited: Recorded) -> None:
    """With more than a hundred merges a second page of rows is read, and no third."""
    async with limited as sandbox, connect(sandbox) as client:
        for number in range(1, 601, 2):
            sandbox.start_merge("company", number, number + 1, duration=0.0)
        found = await client.diagnose()
        assert sandbox.calls["merges"] == 3
    assert kind_of(found, "company").without_row == 0
    assert kind_of(found, "company").ended == 200


async def test_a_page_that_leads_away() -> None:
    """A page whose link leads to another host is followed nowhere."""
    body = b'{"data": [], "pagination": {"nextUrl": "https://evil.example/x"}, "user": {"id": 1}}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    async with (
        host(saying(head % len(body) + body)) as server,
        Client("key", base_url=server.url) as client,
    ):
        found = await client.diagnose()
    assert [each.can_list for each in found.kinds] == [True, True]
    # The limits cannot be read from it either.
    assert found.has_rate_limit_call is False
    assert found.clock_ahead is None


def probe(seconds: float = 0.1, *, at: float = 1_000_000.0, **headers: str) -> Probe:
    return Probe(200, headers, b"", seconds, at, None)


@pytest.mark.parametrize(
    ("date", "ahead"),
    [
        ("Mon, 12 Jan 1970 13:46:40 GMT", 0.0),
        ("Mon, 12 Jan 1970 13:46:39 GMT", 0.0),
        ("Mon, 12 Jan 1970 13:46:10 GMT", 30.0),
        ("Mon, 12 Jan 1970 13:47:10 GMT", -30.0),
        ("yesterday", None),
        ("", None),
    ],
)
def test_the_clock(date: str, ahead: float | None) -> None:
    """The clock is compared with the server's, up to the second that the header has."""
    assert _clock_ahead([probe(Date=date)]) == ahead


def test_the_quickest_answer_shows_the_clock() -> None:
    """The quickest answer shows the time of the server best; one without a date shows none."""
    date = "Mon, 12 Jan 1970 13:46:10 GMT"
    probes = [probe(0.01), probe(0.5, at=1_000_005.0, Date=date), probe(0.1, Date=date)]
    assert _clock_ahead(probes) == 30.0


@pytest.mark.parametrize(
    ("counts", "adds_up"),
    [
        ("899 898 897", True),
        ("899 895 880", True),
        ("2 1 899", True),
        ("899 899 899", False),
        ("x 899", None),
        ("899", None),
    ],
)
def test_headers_that_add_up(counts: str, adds_up: bool | None) -> None:
    """The calls left go down with each call, except where a minute begins."""
    name = "X-Ratelimit-Limit-User-Remaining"
    probes = [probe()._replace(headers={name: each}) for each in counts.split()]
    assert _add_up([*probes, None]) is adds_up


@pytest.mark.parametrize(
    ("certificate", "shown"),
    [
        (
            {
                "issuer": ((("organizationName", "Example CA"),), (("commonName", "X1"),)),
                "notAfter": "2030",
            },
            "signed by Example CA, until 2030",
        ),
        ({"issuer": ((("commonName", "proxy"),),)}, "signed by proxy, until an unknown time"),
        (
            {"issuer": ((("countryName", "DE"),),)},
            "signed by an unknown name, until an unknown time",
        ),
        ({}, None),
        (None, None),
    ],
)
def test_the_certificate(certificate: Any, shown: str | None) -> None:
    """Who has signed the certificate is shown, and until when it is valid."""
    assert _issuer([probe()._replace(certificate=certificate)]) == shown


@pytest.mark.real_time
async def test_a_certificate_and_a_proxy(sandbox: Recorded, tmp_path: Path) -> None:
    """Behind a proxy, the certificate is that of the server at the end of the tunnel."""
    async with (
        tls_proxy(sandbox, tmp_path) as proxy,
        Client("sandbox-key", base_url=ORIGIN, proxy=proxy.url, ca_file=proxy.ca_file) as client,
    ):
        found = await client.diagnose()
    assert found.can_run
    assert found.issuer is not None
    assert found.issuer.startswith("signed by trustme")
    assert found.proxy == f"one that speaks http, at port {proxy.url.rpartition(':')[2]}"


async def test_a_proxy_is_shown_without_its_name(sandbox: Recorded) -> None:
    """Of a proxy the scheme and the port are shown, and neither its name nor its password."""
    async with (
        aiohttp.ClientSession(proxy=sandbox.url) as session,
        connect(sandbox, session=session) as client,
    ):
        found = await client.diagnose()
    assert found.proxy == f"one that speaks http, at port {sandbox.url.rpartition(':')[2]}"
    assert _shown_proxy("http://user:secret@proxy.example:3128") == (
        "one that speaks http, at port 3128"
    )


def test_answers_that_cannot_be_read() -> None:
    """A body that is too large, and an answer that proves nothing about the key, are no answers."""
    asked = _read(wire.get_identity(), probe()._replace(body=None))
    assert isinstance(asked.error, DecodeError)
    assert _is_key_known(asked._replace(probe=probe()._replace(status=500))) is None


TEXTS: list[tuple[dict[str, Any], str]] = [
    ({"clock_ahead": 90.0}, "Set the clock of this machine"),
    ({"clock_ahead": -90.0}, "clock: 90 s behind the server's"),
    ({"latency": (0.1, 3.0)}, "Answers are slow"),
    ({"is_key_known": True, "headers": ("X",), "headers_add_up": False}, "not to be relied on"),
    ({"error": ServerError(500, None, "x")}, "No job can run now: ServerError. Try again later."),
    ({"is_affinity": True}, "server: Affinity"),
    ({"lateness": Lateness(tasks=5)}, "Of 5 new tasks 0 answered 404 at first."),
    (
        {"kinds": (KindDiagnosis(kind="person", can_list=True, gone_status=200),)},
        "A merged record was still shown",
    ),
]


@pytest.mark.parametrize(("values", "words"), TEXTS, ids=str)
def test_what_follows(values: dict[str, Any], words: str) -> None:
    """The page says what each finding means for a job."""
    assert words in Diagnosis(**values).text
    assert "None" not in Diagnosis(**values).text
