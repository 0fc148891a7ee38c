"""Task URLs, base URLs, requests and answers: what is accepted, built and read."""

import re
from collections.abc import Mapping
from copy import copy
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aiotasks import (
    AffinityError,
    AuthenticationError,
    AuthorizationError,
    CompanyMergeState,
    CompanyProfile,
    ConfigurationError,
    ConflictError,
    DecodeError,
    DuplicateSuggestion,
    Kind,
    MergedEntityError,
    MergeTask,
    NotFoundError,
    PersonMergeState,
    PersonProfile,
    RateLimitError,
    ResponseError,
    ServerError,
    ValidationError,
)
from aiotasks._http import urls, wire
from aiotasks._http.urls import TaskRef
from aiotasks._http.wire import Page, Pagination, Request, Started
from tests.profiles import examples


# How long Hypothesis takes to make examples depends on the machine.
SLOW = [HealthCheck.too_slow]

ORIGIN = "https://api.affinity.co"
LOCAL = "http://127.0.0.1:8080"
ID = "6fca3ac6-1ae0-4ffc-b0fa-9d4f3bfd4d8c"
TASK_PATH = f"/v2/tasks/company-merges/{ID}"
TASK_URL = ORIGIN + TASK_PATH
KINDS: tuple[Kind, Kind] = ("company", "person")

REQUESTS: Mapping[str, tuple[Request[Any], type]] = {
    "task": (wire.get_task(TaskRef("company", ID)), MergeTask),
    "tasks": (wire.list_tasks("person"), Page),
    "company merge": (wire.get_merge("company", 1), CompanyMergeState),
    "person merge": (wire.get_merge("person", 1), PersonMergeState),
    "company merges": (wire.list_merges("company"), Page),
    "person merges": (wire.list_merges("person"), Page),
    "company suggestions": (wire.list_suggestions("company"), Page),
    "person suggestions": (wire.list_suggestions("person"), Page),
    "companies": (wire.list_records("company", [1, 2]), Page),
    "company": (wire.get_record("company", 1), msgspec.Raw),
    "start": (wire.merge("company", 1, 2), Started),
}

FIELDS = [
    *("id", "status", "resultsSummary", "total", "failed", "data", "pagination", "nextUrl"),
    *("errors", "message", "code", "param", "taskUrl", "taskId", "startedAt", "matchCriteria"),
    *("primaryCompanyId", "duplicateCompanyId", "primaryPersonId", "duplicatePersonId"),
    *("primaryProfile", "duplicateProfiles"),
]


def shuffled(*parts: str) -> st.SearchStrategy[str]:
    """Text made of the pieces that the rules are about, so that much of it is nearly valid."""
    return st.lists(st.sampled_from(parts) | st.text(max_size=3), max_size=9).map("".join)


class TestParseBaseUrl:
    @pytest.mark.parametrize(
        ("given_url", "origin"),
        [
            ("https://api.affinity.co", ORIGIN),
            ("https://api.affinity.co/", ORIGIN),
            ("HTTPS://API.Affinity.CO", ORIGIN),
            ("https://api.affinity.co:443", ORIGIN),
            ("https://api.affinity.co:0443", ORIGIN),
            ("https://gateway.example:8443/", "https://gateway.example:8443"),
            ("https://10.0.0.1:65535", "https://10.0.0.1:65535"),
            ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
            ("http://localhost", "http://localhost"),
            ("http://LOCALHOST:80", "http://localhost"),
            ("http://localhost:443", "http://localhost:443"),
            ("http://127.0.0.1:8080", LOCAL),
            ("http://127.255.255.254", "http://127.255.255.254"),
            ("http://[::1]:08080", "http://[::1]:8080"),
        ],
    )
    def test_an_origin_is_made_canonical(self, given_url: str, origin: str) -> None:
        """An origin has one form, whatever its case, its slash and its default port."""
        assert urls.parse_base_url(given_url) == origin

    @pytest.mark.parametrize(
        "given_url",
        [
            pytest.param("http://api.affinity.co", id="another host"),
            pytest.param("http://127.0.0.1.evil.com", id="loopback as a label"),
            pytest.param("http://localhost.evil.com", id="localhost as a label"),
            pytest.param("http://evil-localhost", id="localhost as an ending"),
            pytest.param("http://128.0.0.1", id="next to the loopback network"),
            pytest.param("http://0.0.0.0", id="any address"),
            pytest.param("http://[::2]", id="next to ::1"),
        ],
    )
    def test_plain_http_is_for_loopback_only(self, given_url: str) -> None:
        """Plain HTTP is for loopback only, so that no network sees the key unencrypted."""
        with pytest.raises(ConfigurationError, match="use https"):
            _ = urls.parse_base_url(given_url)

    @pytest.mark.parametrize(
        "given_url",
        [
            pytest.param("", id="empty"),
            pytest.param(None, id="none"),
            pytest.param(b"https://api.affinity.co", id="bytes"),
            pytest.param(443, id="number"),
            pytest.param("api.affinity.co", id="no scheme"),
            pytest.param("ftp://api.affinity.co", id="other scheme"),
            pytest.param("https:/api.affinity.co", id="one slash"),
            pytest.param("https://", id="no host"),
            pytest.param("https://api.affinity.co/v2", id="path"),
            pytest.param("https://api.affinity.co//", id="two slashes"),
            pytest.param("https://api.affinity.co?x", id="query"),
            pytest.param("https://api.affinity.co#x", id="fragment"),
            pytest.param("https://user@api.affinity.co", id="user"),
            pytest.param("https://api.affinity.co\\@evil.com", id="backslash"),
            pytest.param("https://api.affinity.co:", id="port without number"),
            pytest.param("https://api.affinity.co:0", id="port 0"),
            pytest.param("https://api.affinity.co:65536", id="port out of range"),
            pytest.param("https://api.affinity.co:44३", id="port in other digits"),
            pytest.param("https://api.affinity.co\n", id="line end"),
            pytest.param(" https://api.affinity.co", id="space"),
            pytest.param("https://api.affinity.co\0", id="NUL"),
            pytest.param("https://\u0430pi.affinity.co", id="Cyrillic a"),
            pytest.param("https://ban\u212a.example", id="Kelvin sign, lower case k"),
            pytest.param("https://a..b", id="empty label"),
            pytest.param("https://.", id="no label"),
            pytest.param("https://-a.b", id="label with hyphen first"),
            pytest.param("https://" + "a" * 64 + ".co", id="label too long"),
            pytest.param("https://[1.2]", id="no address in brackets"),
            pytest.param("http://[127.0.0.1]", id="IPv4 in brackets"),
            pytest.param("https://[:::::]", id="broken IPv6"),
            pytest.param("http://::1", id="IPv6 without brackets"),
            pytest.param("https://1.2.3.4.5", id="address of five numbers"),
            pytest.param("https://10.0.0.256", id="address out of range"),
            pytest.param("http://0177.0.0.1", id="octal address"),
            pytest.param("http://2130706433", id="address as a number"),
            pytest.param("http://127.1", id="short address"),
        ],
    )
    def test_anything_but_an_origin_is_refused(self, given_url: object) -> None:
        """A base URL that is not an origin is refused before anything is sent, with an example."""
        with pytest.raises(ConfigurationError, match=re.escape(ORIGIN)):
            _ = urls.parse_base_url(given_url)

    def test_a_password_is_not_shown(self) -> None:
        """A base URL with a key in it is refused without repeating the key."""
        with pytest.raises(ConfigurationError) as caught:
            _ = urls.parse_base_url("https://:s3cr3t@api.affinity.co")
        assert "s3cr3t" not in str(caught.value)

    @given(
        shuffled("https://", "http://", "HTTP", "localhost", "127.0.0.1", "[::1]", ":", "80", "443")
        | shuffled("https://", "api", ".", "-", "affinity", "co", ":", "9", "/", "@", "[", "]")
    )
    @settings(max_examples=examples(300), deadline=None, suppress_health_check=SLOW)
    def test_any_text_is_an_origin_or_refused(self, text: str) -> None:
        """Any text is a canonical origin or raises ``ConfigurationError``."""
        try:
            origin = urls.parse_base_url(text)
        except ConfigurationError:
            return
        assert urls.parse_base_url(origin) == origin
        parts = urlsplit(origin)
        assert origin == f"{parts.scheme}://{parts.netloc}"
        assert parts.scheme == "https" or parts.hostname in {"localhost", "127.0.0.1", "::1"}
        assert parts.username is None


class TestParseTaskUrl:
    @pytest.mark.parametrize("origin", [ORIGIN, LOCAL])
    @pytest.mark.parametrize(
        "url",
        [
            pytest.param(TASK_URL, id="as answered"),
            pytest.param(f"{TASK_URL}/", id="slash at the end"),
            pytest.param(TASK_URL.replace("/v2", ""), id="without v2"),
            pytest.param(f"https://api.affinit.com/tasks/company-merges/{ID}", id="documented"),
            pytest.param(f"HTTPS://Api.Affinity.CO:443{TASK_PATH}", id="other spelling"),
        ],
    )
    def test_urls_of_affinity_are_accepted(self, origin: str, url: str) -> None:
        """A URL of Affinity's hosts names a task for every client, whatever its origin."""
        assert urls.parse_task_url(url, origin) == TaskRef("company", ID)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_built_url_is_parsed(self, kind: Kind) -> None:
        """A URL that this library returns names the same task again."""
        ref = TaskRef(kind, ID)
        assert urls.parse_task_url(urls.task_url(LOCAL, ref), LOCAL) == ref

    @pytest.mark.parametrize(
        "url",
        [
            pytest.param(f"https://evil.example{TASK_PATH}", id="host"),
            pytest.param(f"https://api.affinity.co.evil.example{TASK_PATH}", id="host as a label"),
            pytest.param(f"https://evil-api.affinity.co{TASK_PATH}", id="host as an ending"),
            pytest.param(f"https://api.affinity.co.{TASK_PATH}", id="dot at the end of the host"),
            pytest.param(f"https://api.affinity.co:444{TASK_PATH}", id="port"),
            pytest.param(f"https://api.affinity.co:{TASK_PATH}", id="port without number"),
            pytest.param(f"https://api.affinity.co:44٣{TASK_PATH}", id="port in other digits"),
            pytest.param(f"http://api.affinity.co{TASK_PATH}", id="plain http"),
            pytest.param(f"ftp://api.affinity.co{TASK_PATH}", id="ftp"),
            pytest.param(f"javascript://api.affinity.co{TASK_PATH}", id="javascript"),
            pytest.param(f"//api.affinity.co{TASK_PATH}", id="no scheme"),
            pytest.param(f"https:{TASK_PATH}", id="no host"),
            pytest.param(TASK_PATH, id="path alone"),
            pytest.param(f"\nhttps://api.affinity.co{TASK_PATH}", id="line end before the scheme"),
            pytest.param(f"https://api.affinity.co@evil.example{TASK_PATH}", id="user"),
            pytest.param(f"https://x:y@api.affinity.co{TASK_PATH}", id="user and password"),
            pytest.param(f"https://evil.example\\@api.affinity.co{TASK_PATH}", id="backslash"),
            pytest.param(TASK_URL.replace("/v2", "\\v2"), id="backslash in the path"),
            pytest.param(f"https://\u0430pi.affinity.co{TASK_PATH}", id="Cyrillic a in the host"),
            pytest.param(f"https://api。affinity。co{TASK_PATH}", id="ideographic full stops"),
            pytest.param(TASK_URL.replace("/v2", "/v1"), id="v1"),
            pytest.param(TASK_URL.replace("/v2", "/V2"), id="upper case path"),
            pytest.param(TASK_URL.replace("/v2", "/v2/v2"), id="twice v2"),
            pytest.param(TASK_URL.replace("/v2", "/v2/.."), id="dots"),
            pytest.param(TASK_URL.replace("/tasks", "//tasks"), id="empty segment"),
            pytest.param(TASK_URL.replace("/tasks", "%2ftasks"), id="coded slash"),
            pytest.param(TASK_URL.replace("company", "opportunity"), id="kind"),
            pytest.param(TASK_URL.replace("company", "COMPANY"), id="upper case kind"),
            pytest.param(TASK_URL.replace("company", "\u0441\u043empany"), id="Cyrillic kind"),
            pytest.param(f"{ORIGIN}/v2/company-merges/{ID}", id="merge"),
            pytest.param(f"{ORIGIN}/v2/tasks/company-merges", id="list"),
            pytest.param(f"{ORIGIN}/v2/tasks/company-merges/", id="no id"),
            pytest.param(f"{ORIGIN}/v2/tasks/company-merges/..", id="dots as id"),
            pytest.param(f"{ORIGIN}/v2/tasks/company-merges/%2e%2e", id="coded dots as id"),
            pytest.param(f"{ORIGIN}/v2/tasks/company-merges/a%2fb", id="coded slash in the id"),
            pytest.param(f"{ORIGIN}/v2/tasks/company-merges/-a", id="hyphen first"),
            pytest.param(f"{ORIGIN}/v2/tasks/company-merges/٣", id="Arabic digit as id"),
            pytest.param(f"{ORIGIN}/v2/tasks/company-merges/a b", id="space"),
            pytest.param(f"{TASK_URL}/more", id="longer path"),
            pytest.param(f"{TASK_URL}//", id="two slashes"),
            pytest.param(f"{TASK_URL}?limit=1", id="query"),
            pytest.param(f"{TASK_URL}#x", id="fragment"),
            pytest.param(f"{TASK_URL};x", id="parameter"),
            pytest.param(f"{TASK_URL}\n", id="line end"),
            pytest.param(f"{TASK_URL}\r\nX-Evil: 1", id="header"),
            pytest.param(f"{TASK_URL}\t", id="tab"),
            pytest.param(f"{TASK_URL}\0", id="NUL"),
            pytest.param(f" {TASK_URL}", id="space before"),
            pytest.param(f"{ORIGIN}/v2/tasks/company-merges/{'a' * 65}", id="long id"),
            pytest.param("https://" + "a" * 100_000 + TASK_PATH, id="long host"),
            pytest.param(TASK_URL + "/" * 100_000, id="long path"),
            pytest.param("", id="empty"),
            pytest.param(TASK_URL.encode(), id="bytes"),
            pytest.param(None, id="none"),
            pytest.param(7, id="number"),
            pytest.param([TASK_URL], id="list of one"),
            pytest.param(TaskRef("company", ID), id="what it stands for"),
        ],
    )
    def test_hostile_shapes_are_refused(self, url: object) -> None:
        """A URL that is not exactly a task URL of a known host is refused, with a short message."""
        with pytest.raises(ConfigurationError) as caught:
            _ = urls.parse_task_url(url, ORIGIN)
        assert len(str(caught.value)) < 600
        assert "\n" not in str(caught.value)

    def test_a_homoglyph_of_the_own_host_is_refused(self) -> None:
        """A letter that only lower-cases to one of the own host is refused."""
        with pytest.raises(ConfigurationError, match=r"base_url"):
            _ = urls.parse_task_url(f"https://ban\u212a.example{TASK_PATH}", "https://bank.example")

    def test_another_host_is_named_with_the_remedy(self) -> None:
        """The error for a task on another host names both hosts and the setting to change."""
        with pytest.raises(ConfigurationError, match="base_url") as caught:
            _ = urls.parse_task_url(f"https://evil.example{TASK_PATH}", ORIGIN)
        assert "https://evil.example" in str(caught.value)
        assert ORIGIN in str(caught.value)

    @given(
        st.text()
        | shuffled(ORIGIN, LOCAL, "/v2", "/tasks/", "company-merges/", "person-merges/", ID, "/")
        | st.tuples(
            shuffled("https://", "HTTPS://", "http://", "//"),
            st.sampled_from(["api.affinity.co", "API.AFFINIT.COM", "evil.example"]),
            st.sampled_from(["", ":443", ":80", "@evil.example", "\\", "\r\n", "#", "?"]),
            st.sampled_from(["/v2", "", "/v1", "/v2/..", "/v2%2f"]),
            st.sampled_from(["/tasks/company-merges/", "/tasks/person-merges/", "/tasks/"]),
            st.text("aZ09-_./%\t\n\0٣", max_size=70),
        ).map("".join)
    )
    @example(TASK_URL)
    @settings(max_examples=examples(500), deadline=None, suppress_health_check=SLOW)
    def test_any_text_is_a_task_or_refused(self, text: str) -> None:
        """Any URL that is accepted is requested from the configured origin only."""
        try:
            ref = urls.parse_task_url(text, ORIGIN)
        except ConfigurationError:
            return
        rebuilt = urls.task_url(ORIGIN, ref)
        assert re.fullmatch(
            r"https://api\.affinity\.co/v2/tasks/(company|person)-merges/[A-Za-z0-9_-]+",
            rebuilt,
            re.ASCII,
        )
        assert rebuilt == ORIGIN + wire.get_task(ref).target
        assert urls.parse_task_url(rebuilt, ORIGIN) == ref
        assert text.isascii()


class TestStartedTask:
    @pytest.mark.parametrize(
        "url",
        [
            TASK_URL,
            f"http://internal:3000{TASK_PATH}",
            f"https://api.affinit.com/tasks/company-merges/{ID}",
        ],
    )
    def test_any_host_of_the_server_is_accepted(self, url: str) -> None:
        """The server may name a new task by any of its hosts."""
        assert wire.started_task(Started(url), "company") == TaskRef("company", ID)

    @pytest.mark.parametrize(
        "url",
        [
            pytest.param("", id="empty"),
            pytest.param(ID, id="id alone"),
            pytest.param(TASK_URL.replace("company", "person"), id="other kind"),
            pytest.param(f"{TASK_URL}/../../x", id="dots"),
        ],
    )
    def test_it_names_a_task_of_the_kind(self, url: str) -> None:
        """An answer that names no task of the merged kind is an error."""
        with pytest.raises(DecodeError, match="company merge task"):
            _ = wire.started_task(Started(url), "company")


class TestNextPage:
    @pytest.mark.parametrize(
        "target",
        [
            "/v2/tasks/company-merges?limit=100&cursor=ICAgICAgYmVmb3Jl",
            "/v2/companies/merge?cursor=a%2Fb",
            "/",
        ],
    )
    def test_it_is_followed_unchanged(self, target: str) -> None:
        """A link on the origin is followed unchanged, even if its path differs."""
        assert urls.next_target(ORIGIN + target, ORIGIN) == target

    @pytest.mark.parametrize(
        "url",
        [
            pytest.param("https://evil.example/v2", id="host"),
            pytest.param(f"{ORIGIN}.evil.example/v2", id="origin as a prefix"),
            pytest.param(f"{ORIGIN}:444/v2", id="port"),
            pytest.param(f"{ORIGIN}@evil.example/v2", id="user"),
            pytest.param(f"{ORIGIN}\\@evil.example/v2", id="backslash after the origin"),
            pytest.param(f"{ORIGIN}/\\evil.example", id="backslash in the path"),
            pytest.param("http://api.affinity.co/v2", id="plain http"),
            pytest.param("/v2/tasks", id="path alone"),
            pytest.param("//evil.example/v2", id="no scheme"),
            pytest.param(ORIGIN, id="no path"),
            pytest.param("", id="empty"),
            pytest.param(f"{ORIGIN}/v2 /x", id="space"),
            pytest.param(f"{ORIGIN}/v2\r\nX-Evil: 1", id="header"),
            pytest.param(f"{ORIGIN}/v2/é", id="not ASCII"),
        ],
    )
    def test_it_stays_on_the_origin(self, url: str) -> None:
        """A link to another origin raises a ``DecodeError``."""
        with pytest.raises(DecodeError, match="leads away"):
            _ = urls.next_target(url, ORIGIN)

    @given(shuffled(ORIGIN, "/", "//", "@", ":", "\\", "evil.example", "?", "#", "%2e", "\r\n"))
    @settings(max_examples=examples(300), deadline=None, suppress_health_check=SLOW)
    def test_any_text_stays_on_the_origin_or_is_refused(self, text: str) -> None:
        """Any link stays on the origin or raises ``DecodeError``."""
        try:
            target = urls.next_target(text, ORIGIN)
        except DecodeError:
            return
        assert urlsplit(ORIGIN + target)[:2] == ("https", "api.affinity.co")
        assert re.fullmatch(r"[!-~]+", target)

    def test_the_next_page_is_decoded_alike(self) -> None:
        """The request for the next page decodes the same model, to the last page."""
        request = wire.list_tasks("company")
        linked = Page[MergeTask]([], Pagination(next_url=f"{ORIGIN}/v2/x?cursor=7"))
        following = wire.follow(request, linked, ORIGIN)
        assert following == Request("GET", "/v2/x?cursor=7", request.decoder)
        assert wire.follow(request, Page[MergeTask]([]), ORIGIN) is None


class TestRequests:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_task_is_requested_by_its_name(self, kind: Kind) -> None:
        """A task is requested on the path of its kind."""
        request = wire.get_task(TaskRef(kind, ID))
        assert (request.method, request.body) == ("GET", None)
        assert request.target == f"/v2/tasks/{kind}-merges/{ID}"

    @pytest.mark.parametrize(
        ("request_", "path", "expression"),
        [
            (wire.list_tasks("company"), "tasks/company-merges", None),
            (wire.list_tasks("person", "failed"), "tasks/person-merges", "status=failed"),
            (wire.list_merges("company"), "company-merges", None),
            (wire.list_merges("person", status="success"), "person-merges", "status=success"),
            (wire.list_merges("company", task_ids=["a"]), "company-merges", "taskId=a"),
            (wire.list_merges("person", task_ids=["9-x_Z"]), "person-merges", "taskId=9-x_Z"),
            (wire.list_merges("company", task_ids=[]), "company-merges", None),
            (
                wire.list_merges("company", task_ids=["a", "b"]),
                "company-merges",
                "taskId=a | taskId=b",
            ),
            (
                wire.list_merges("company", status="failed", task_ids=["a", "b"]),
                "company-merges",
                "status=failed & taskId=a | status=failed & taskId=b",
            ),
            (wire.list_suggestions("company"), "duplicates/company-suggestions", None),
        ],
    )
    def test_a_list_requests_whole_pages(
        self, request_: Request[Any], path: str, expression: str | None
    ) -> None:
        """Every list requests a hundred items per page, and its filter arrives unchanged."""
        parts = urlsplit(request_.target)
        assert (request_.method, parts.path) == ("GET", f"/v2/{path}")
        expected = {"limit": ["100"]} | ({"filter": [expression]} if expression else {})
        assert parse_qs(parts.query, strict_parsing=True) == expected
        assert re.fullmatch(r"[!-~]+", request_.target)

    @pytest.mark.parametrize("status", ["", "in progress", "a=b", "failed|x", "é", "-", "a\n"])
    def test_a_status_cannot_change_the_filter(self, status: str) -> None:
        """An invalid status is refused and not sent inside a filter."""
        with pytest.raises(ConfigurationError, match="not a status"):
            _ = wire.list_tasks("company", status)

    @pytest.mark.parametrize("task_id", ["", "a b", "a|b", "a&status=x", "../x", "é"])
    def test_a_task_id_cannot_change_the_filter(self, task_id: str) -> None:
        """An invalid task id is refused and not sent inside a filter."""
        with pytest.raises(ConfigurationError, match="not a task id"):
            _ = wire.list_merges("company", task_ids=[ID, task_id])

    @pytest.mark.parametrize("kind", ["", "Company", "companies", "opportunity", "../x"])
    def test_a_kind_is_one_of_two(self, kind: Any) -> None:
        """A list of anything but companies or persons is refused."""
        with pytest.raises(ConfigurationError, match="company or person"):
            _ = wire.list_tasks(kind)

    @pytest.mark.parametrize(("kind", "name"), [("company", "Company"), ("person", "Person")])
    def test_a_merge_names_both_records(self, kind: Kind, name: str) -> None:
        """The body of a merge names the primary record and the duplicate."""
        request = wire.merge(kind, 7, 8)
        assert (request.method, request.target) == ("POST", f"/v2/{kind}-merges")
        assert request.body is not None
        body = msgspec.json.decode(request.body)
        assert body == {f"primary{name}Id": 7, f"duplicate{name}Id": 8}

    @pytest.mark.parametrize("number", [0, -1, 2**53, True, 1.0, "1", None, b"7"])
    def test_an_id_is_a_positive_whole_number(self, number: Any) -> None:
        """An invalid record id is refused before anything is sent, in each place."""
        with pytest.raises(ConfigurationError, match="primary_id"):
            _ = wire.merge("company", number, 2)
        with pytest.raises(ConfigurationError, match="duplicate_id"):
            _ = wire.merge("company", 2, number)
        with pytest.raises(ConfigurationError, match="merge_id"):
            _ = wire.get_merge("person", number)

    def test_the_largest_id_is_accepted(self) -> None:
        """The largest id that the API's document allows is accepted."""
        assert wire.get_merge("company", 2**53 - 1).target == f"/v2/company-merges/{2**53 - 1}"

    def test_a_record_is_not_merged_into_itself(self) -> None:
        """Two equal ids are refused."""
        with pytest.raises(ConfigurationError, match="into itself"):
            _ = wire.merge("person", 7, 7)


def decoded(name: str, body: bytes) -> Any:
    return wire.decode(REQUESTS[name][0], 200, {}, body)


class TestDecode:
    def test_a_task(self) -> None:
        """A task is decoded with its counts, and unknown fields are ignored."""
        task = decoded(
            "task",
            b'{"id":"a","status":"in-progress","new":[{"x":1}],'
            b'"resultsSummary":{"total":4,"inProgress":1,"success":2,"failed":1,"new":null}}',
        )
        assert (task.id, task.status) == ("a", "in-progress")
        summary = task.results_summary
        assert (summary.total, summary.in_progress, summary.success, summary.failed) == (4, 1, 2, 1)

    @pytest.mark.parametrize("rest", ["", ',"resultsSummary":null', ',"resultsSummary":{}'])
    def test_a_task_without_counts(self, rest: str) -> None:
        """All or some of the counts of a task may be missing."""
        task = decoded("task", f'{{"id":"a","status":"success"{rest}}}'.encode())
        assert not (task.results_summary and task.results_summary.total)

    @pytest.mark.parametrize("kind", KINDS)
    def test_merge_states(self, kind: Kind) -> None:
        """Merges of both kinds name their records by the same attributes."""
        name = kind.capitalize()
        state = (
            f'{{"id":3,"status":"failed","taskId":"t","startedAt":"2026-01-02T03:04:05Z",'
            f'"completedAt":null,"primary{name}Id":1,"duplicate{name}Id":2,"errorMessage":"Gone"}}'
        )
        merge = decoded(f"{kind} merge", state.encode())
        assert (merge.primary_id, merge.duplicate_id, merge.task_id) == (1, 2, "t")
        assert (merge.error_message, merge.completed_at) == ("Gone", None)
        assert merge.started_at.isoformat() == "2026-01-02T03:04:05+00:00"
        page = decoded(f"{kind} merges", f'{{"data":[{state}]}}'.encode())
        assert page == Page([merge])

    def test_suggestions(self) -> None:
        """Suggestions carry the profiles of their kind."""
        company = decoded(
            "company suggestions",
            b'{"data":[{"id":"s","matchCriteria":"name","primaryProfile":{"id":1,"isGlobal":true},'
            b'"duplicateProfiles":[{"id":2,"domains":["a.co"]}]}]}',
        )
        assert company.data == [
            DuplicateSuggestion(
                id="s",
                match_criteria="name",
                primary_profile=CompanyProfile(id=1, is_global=True),
                duplicate_profiles=(CompanyProfile(id=2, domains=("a.co",)),),
            )
        ]
        person = decoded(
            "person suggestions",
            b'{"data":[{"id":"s","matchCriteria":"new","primaryProfile":{"id":1,"lastName":"X"}}]}',
        )
        assert person.data[0].primary_profile == PersonProfile(id=1, last_name="X")

    def test_a_page_names_the_next(self) -> None:
        """The link to the next page is decoded with the page; without one the list ends."""
        page = decoded("tasks", b'{"data":[],"pagination":{"prevUrl":null,"nextUrl":"u"}}')
        assert page.pagination.next_url == "u"
        assert decoded("tasks", b'{"data":[]}').pagination.next_url is None

    @pytest.mark.parametrize("status", [200, 202, 299])
    def test_every_2xx_is_a_success(self, status: int) -> None:
        """Any 2xx is decoded as an answer."""
        request: Request[Started] = REQUESTS["start"][0]
        answer = wire.decode(request, status, {}, b'{"taskUrl":"u"}')
        assert answer == Started("u")

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"<html>Bad gateway</html>", id="HTML"),
            pytest.param(b"null", id="null"),
            pytest.param(b"[]", id="list"),
            pytest.param(b"{}", id="no fields"),
            pytest.param(b'{"id":"a"}', id="no status"),
            pytest.param(b'{"id":1,"status":"success"}', id="number as id"),
            pytest.param(b'{"id":"a","status":1}', id="number as status"),
            pytest.param(b'{"id":"a","status":null}', id="null as status"),
            pytest.param(b'{"id":"a","status":"success"', id="cut off"),
            pytest.param(b'{"id":"a","status":"success"} x', id="more than one value"),
            pytest.param(b'{"id":"\xff","status":"success"}', id="invalid UTF-8"),
            pytest.param(b'\xef\xbb\xbf{"id":"a","status":"success"}', id="byte order mark"),
            pytest.param(b'{"id":"\\ud800","status":"success"}', id="half a surrogate pair"),
            pytest.param(b'{"id":"a","status":"s","new":NaN}', id="NaN"),
            pytest.param(b'{"id":"a","status":"s","new":' + b"[" * 100_000, id="deep lists"),
            pytest.param(b'{"new":' * 100_000, id="deep objects"),
            pytest.param(
                b'{"id":"a","status":"s","resultsSummary":{"total":' + b"9" * 5000 + b"}}",
                id="huge number",
            ),
            pytest.param(
                b'{"id":"a","status":"s","resultsSummary":{"total":1e999}}', id="infinity"
            ),
        ],
    )
    def test_undecodable_answers_are_reported(self, body: bytes) -> None:
        """A success that is not a task raises a ``DecodeError`` with its size and its type."""
        headers = {"Content-Type": "text/html"}
        with pytest.raises(DecodeError, match=rf"{len(body)} bytes of 'text/html'") as caught:
            _ = wire.decode(REQUESTS["task"][0], 200, headers, body)
        assert caught.value.status == 200
        assert caught.value.__cause__ is not None

    def test_an_answer_without_a_body(self) -> None:
        """An answer without a body says so, as it may come from a replica that lags."""
        with pytest.raises(DecodeError, match="has no body") as caught:
            _ = wire.decode(REQUESTS["task"][0], 200, {}, b"")
        assert caught.value.is_empty
        assert copy(caught.value).is_empty

    @given(
        name=st.sampled_from(sorted(REQUESTS)),
        status=st.integers(100, 999) | st.sampled_from([200, 202, 422]),
        headers=st.dictionaries(
            st.sampled_from(["Content-Type", "Location", "X-Request-Id"]), st.text()
        ),
        body=st.binary()
        | st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.sampled_from(["success", "7 no longer exists as it has been merged into 8"])
            | st.text()
            | st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
            lambda value: (
                st.lists(value, max_size=3)
                | st.dictionaries(
                    st.sampled_from(FIELDS),
                    value,
                )
            ),
            max_leaves=20,
        ).map(msgspec.json.encode),
    )
    @settings(max_examples=examples(500), deadline=None, suppress_health_check=SLOW)
    def test_any_answer_is_the_model_or_an_error(
        self, name: str, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        """Any answer becomes the model or an ``AffinityError`` that can be printed."""
        request, model = REQUESTS[name]
        outcome: object
        try:
            outcome = wire.decode(request, status, headers, body)
        except AffinityError as error:
            outcome = error
        expected = (model, DecodeError) if 200 <= status < 300 else (ResponseError,)
        assert isinstance(outcome, expected)
        assert str(outcome)


def refusal(
    status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> ResponseError:
    with pytest.raises(ResponseError) as caught:
        _ = wire.decode(REQUESTS["task"][0], status, headers or {}, body)
    return caught.value


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "error_class"),
        [
            (400, ValidationError),
            (401, AuthenticationError),
            (403, AuthorizationError),
            (404, NotFoundError),
            (405, ResponseError),
            (408, ServerError),
            (409, ConflictError),
            (418, ResponseError),
            (422, ValidationError),
            (429, RateLimitError),
            (500, ServerError),
            (503, ServerError),
            (599, ServerError),
            (199, ResponseError),
        ],
    )
    def test_the_status_decides_the_class(
        self, status: int, error_class: type[ResponseError]
    ) -> None:
        """Each status has its own error class, and an unknown one the base class."""
        assert type(refusal(status)) is error_class

    def test_the_apis_own_message_is_kept(self) -> None:
        """Code, message, parameter and request id are those of the API's first error."""
        error = refusal(
            400,
            b'{"errors":[{"code":"validation","message":"Bad id.","param":"primaryCompanyId"},'
            b'{"code":"other","message":"Other"}]}',
            {"X-Request-Id": "r-1"},
        )
        assert (error.status, error.code, error.message) == (400, "validation", "Bad id.")
        assert (error.param, error.request_id) == ("primaryCompanyId", "r-1")

    def test_a_timeout_of_the_api_is_a_server_error(self) -> None:
        """The code ``timeout`` is an error of the server, whatever the status."""
        assert type(refusal(400, b'{"errors":[{"code":"timeout"}]}')) is ServerError

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html>" + b"x" * 1000,
            b"[]",
            b'{"errors":[]}',
            b'{"errors":[{}]}',
            b'{"errors":{"message":"x"}}',
            b'{"errors":[{"new":' + b"[" * 100_000,
            b"\xff",
        ],
        ids=["empty", "HTML", "list", "none", "nameless", "object", "deep", "bytes"],
    )
    def test_without_a_reason_nothing_is_made_up(self, body: bytes) -> None:
        """Of a proxy's error page only the status is shown."""
        error = refusal(502, body)
        assert type(error) is ServerError
        assert error.code is None
        assert "gave no reason" in str(error)
        assert len(str(error)) < 200

    def test_a_redirect_is_reported_and_not_followed(self) -> None:
        """A redirect is an error that names its target."""
        error = refusal(302, headers={"Location": "https://evil.example/" + "x" * 1000})
        assert type(error) is ResponseError
        assert "https://evil.example" in str(error)
        assert len(str(error)) < 400
        assert "redirects" not in str(refusal(199))

    @pytest.mark.parametrize(
        "message",
        [
            "7 no longer exists as it has been merged into 8",
            "Company 7 no longer exists as it has been merged into 8.",
            "`7` no longer exists as it has been merged into `8`",
            'Company "7" no longer exists as it has been merged into: 8',
        ],
    )
    def test_a_record_that_was_merged_away_is_evidence(self, message: str) -> None:
        """The error for a record that was merged away names the record that it survives as."""
        error = refusal(422, msgspec.json.encode({"errors": [{"message": message}]}))
        assert isinstance(error, MergedEntityError)
        assert (error.source_id, error.target_id) == (7, 8)

    @pytest.mark.parametrize(
        ("status", "message"),
        [
            pytest.param(400, "7 no longer exists as it has been merged into 8", id="status"),
            pytest.param(422, "7 no longer exists", id="other words"),
            pytest.param(422, "x no longer exists as it has been merged into 8", id="no number"),
            pytest.param(
                422,
                "1" * 5000 + " no longer exists as it has been merged into 8",
                id="number too long to read",
            ),
            pytest.param(
                422,
                "7 no longer exists as it has been merged into " + "1" * 5000,
                id="other number too long",
            ),
        ],
    )
    def test_other_refusals_are_no_evidence(self, status: int, message: str) -> None:
        """Only the exact message with two ids proves a merge."""
        error = refusal(status, msgspec.json.encode({"errors": [{"message": message}]}))
        assert type(error) is ValidationError
