"""The answer to each request, over HTTP."""

import asyncio
from typing import Any

import pytest


KINDS = pytest.mark.parametrize("kind", ["company", "person"])
LISTS = pytest.mark.parametrize(
    ("path", "default"),
    [
        ("/v2/company-merges", 100),
        ("/v2/person-merges", 25),
        ("/v2/tasks/company-merges", 100),
        ("/v2/tasks/person-merges", 25),
    ],
)
UNKNOWN_TASK = "123e4567-e89b-12d3-a456-426614174000"


@KINDS
async def test_a_merge_from_start_to_end(serve: Any, kind: str) -> None:
    """A merge is accepted with a task URL; the task, the merge and the records show its result."""
    title = kind.title()
    records = {"company": "companies", "person": "persons"}[kind]
    async with serve(duration=2.0) as api:
        started = await api.merge(1, 2, kind)
        assert started.status == 202
        task_url = started.body["taskUrl"]
        task_id = task_url.rpartition("/")[2]
        assert task_url == f"{api.sandbox.url}/v2/tasks/{kind}-merges/{task_id}"
        running = {"total": 1, "inProgress": 1, "success": 0, "failed": 0}
        assert (await api.get(task_url)).body == {
            "id": task_id,
            "status": "in-progress",
            "resultsSummary": running,
        }
        merge = (await api.get(f"/v2/{kind}-merges/1")).body
        assert merge["completedAt"] is None
        await asyncio.sleep(2.0)
        assert (await api.get(task_url)).body["status"] == "success"
        merge |= {"status": "success", "completedAt": merge["startedAt"]}
        done = (await api.get(f"/v2/{kind}-merges", filter=f"taskId={task_id}")).body["data"]
        assert [item | {"completedAt": merge["startedAt"]} for item in done] == [merge]
        assert merge[f"primary{title}Id"] == 1
        assert merge[f"duplicate{title}Id"] == 2
        assert (await api.get(f"/v2/{records}/2")).error["message"] == (
            "2 no longer exists as it has been merged into 1"
        )
        page = await api.get(f"/v2/{records}?ids=1&ids=2&ids=3&ids=99999")
        assert [record["id"] for record in page.body["data"]] == [1, 3]
        assert (await api.get(f"/v2/{records}", limit=3)).body["data"][1]["id"] == 3


@LISTS
async def test_lists_are_paged_newest_first(serve: Any, path: str, default: int) -> None:
    """A list has its documented default length and is followed by absolute URLs to its end."""
    kind = "company" if "company" in path else "person"
    async with serve() as api:
        for number in range(default + 1):
            api.sandbox.start_merge(kind, 1, number + 2)
        first = await api.get(path)
        assert len(first.body["data"]) == default
        assert first.body["pagination"]["prevUrl"] is None
        assert first.body["pagination"]["nextUrl"].startswith(f"{api.sandbox.url}{path}?")
        second = await api.get(first.body["pagination"]["nextUrl"])
        assert len(second.body["data"]) == 1
        assert second.body["pagination"]["nextUrl"] is None
        back = await api.get(second.body["pagination"]["prevUrl"])
        assert back.body["data"] == first.body["data"]


async def test_next_pages_keep_the_parameters(serve: Any) -> None:
    """The URL of the next page carries the limit and the filter, and the host that was asked."""
    async with serve(duration=1.0) as api:
        for number in range(6):
            api.sandbox.start_merge("company", 1, number + 2, reason="No" if number % 2 else None)
        await asyncio.sleep(1.0)
        headers = {"Host": "proxy.example:8080"}
        params = {"limit": 2, "filter": "status=failed"}
        page = await api.request("GET", "/v2/tasks/company-merges", params=params, headers=headers)
        url = page.body["pagination"]["nextUrl"]
        assert url.startswith("http://proxy.example:8080/v2/tasks/company-merges?")
        rest = await api.get(url.replace("http://proxy.example:8080", api.sandbox.url))
        assert [task["status"] for task in page.body["data"] + rest.body["data"]] == ["failed"] * 3


@KINDS
async def test_merges_are_filtered_by_status_and_task(serve: Any, kind: str) -> None:
    """The merge list knows both properties and their combinations; the task list only status."""
    path = f"/v2/{kind}-merges"
    async with serve(duration=1.0) as api:
        urls = [api.sandbox.start_merge(kind, 1, number + 2) for number in range(4)]
        ids = [url.rpartition("/")[2] for url in urls]
        api.sandbox.finish(urls[2], outcome="failed", reason="No")

        async def found(text: str) -> list[int]:
            return [merge["id"] for merge in (await api.get(path, filter=text)).body["data"]]

        assert await found("status=failed") == [3]
        assert await found(f"taskId={ids[0]}|taskId={ids[3]}") == [4, 1]
        assert await found(f"status=failed | taskId={ids[1]}") == [3, 2]
        assert await found(f"status=failed & taskId={ids[1]}") == []
        assert await found(f"taskId={UNKNOWN_TASK}") == []
        refused = await api.get(f"/v2/tasks/{kind}-merges", filter=f"taskId={ids[0]}")
        assert (refused.status, refused.error["param"]) == (400, "filter")


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/v2/company-merges?limit=0", "limit"),
        ("/v2/company-merges?limit=101", "limit"),
        ("/v2/person-merges?limit=ten", "limit"),
        ("/v2/tasks/company-merges?limit=", "limit"),
        ("/v2/tasks/person-merges?cursor=made-up", "cursor"),
        ("/v2/company-merges?filter=status%3Dodd", "filter"),
        ("/v2/company-merges/0", "mergeId"),
        ("/v2/company-merges/x", "mergeId"),
        ("/v2/tasks/company-merges/7", "taskId"),
        ("/v2/companies/-1", "companyId"),
        ("/v2/persons/9223372036854775808", "personId"),
        ("/v2/company-merges/9007199254740992", "mergeId"),
        ("/v2/companies?fieldTypes=all", "fieldTypes"),
        ("/v2/persons/1?fieldTypes=global&fieldTypes=list", "fieldTypes"),
        ("/v2/companies?ids=1,2", "ids"),
        ("/v2/duplicates/company-suggestions?orderBy=size", "orderBy"),
        ("/v2/duplicates/company-suggestions?totalCount=yes", "totalCount"),
        ("/v2/duplicates/company-suggestions?term=a", "term"),
        ("/v2/duplicates/person-suggestions?filter=matchCriteria%3Ddomain-match", "filter"),
    ],
)
async def test_bad_parameters_are_named(serve: Any, path: str, param: str) -> None:
    """A parameter out of its bounds is a validation error that names it."""
    async with serve() as api:
        refused = await api.get(path)
        assert refused.status == 400
        assert (refused.error["code"], refused.error["param"]) == ("validation", param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "primaryCompanyId"),
        ({"primaryCompanyId": 1}, "duplicateCompanyId"),
        ({"primaryCompanyId": 1, "duplicateCompanyId": 2, "force": True}, "force"),
        ({"primaryCompanyId": "1", "duplicateCompanyId": 2}, "primaryCompanyId"),
        ({"primaryCompanyId": True, "duplicateCompanyId": 2}, "primaryCompanyId"),
        ({"primaryCompanyId": 1.0, "duplicateCompanyId": 2}, "primaryCompanyId"),
        ({"primaryCompanyId": 1, "duplicateCompanyId": 0}, "duplicateCompanyId"),
        ({"primaryCompanyId": 1, "duplicateCompanyId": 2**53}, "duplicateCompanyId"),
        ({"primaryCompanyId": None, "duplicateCompanyId": 2}, "primaryCompanyId"),
        ({"primaryPersonId": 1, "duplicatePersonId": 2}, "primaryPersonId"),
    ],
)
async def test_bad_merges_are_named(serve: Any, body: dict[str, Any], param: str) -> None:
    """A body with anything but two ids is a validation error, and nothing is merged."""
    async with serve() as api:
        refused = await api.request("POST", "/v2/company-merges", json=body)
        assert (refused.status, refused.error["code"]) == (400, "validation")
        assert refused.error["param"] in {param, "duplicatePersonId"}
        assert not api.sandbox.posted("company")


@pytest.mark.parametrize("body", [b"", b"{", b"[1, 2]", b"null", b"\xff"])
async def test_broken_bodies_are_refused(serve: Any, body: bytes) -> None:
    """A body that is not one JSON object is a bad request."""
    async with serve() as api:
        headers = {"Content-Type": "application/json; charset=utf-8"}
        refused = await api.request("POST", "/v2/company-merges", data=body, headers=headers)
        assert (refused.status, refused.error["code"]) == (400, "bad-request")


async def test_other_content_types_are_refused(serve: Any) -> None:
    """A merge must be JSON, and a form is refused."""
    async with serve() as api:
        refused = await api.request("POST", "/v2/company-merges", data={"primaryCompanyId": "1"})
        assert (refused.status, refused.error["code"]) == (415, "unsupported-media-type")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v2",
        "/v2/company-merges/",
        "/v2/opportunities",
        "/v2/company-merges/1",
        f"/v2/tasks/person-merges/{UNKNOWN_TASK}",
        "/v2/companies/99999",
        "/v2/persons/99999",
    ],
)
async def test_unknown_things_are_not_found(serve: Any, path: str) -> None:
    """A path, task, merge or record that does not exist is a 404 in the API's format."""
    async with serve() as api:
        missing = await api.get(path)
        assert (missing.status, missing.error["code"]) == (404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v2/company-merges", "GET, POST"),
        ("POST", "/v2/tasks/company-merges", "GET"),
        ("PUT", "/v2/auth/whoami", "GET"),
    ],
)
async def test_other_methods_are_refused(serve: Any, method: str, path: str, allow: str) -> None:
    """A known path with another method is answered with the methods that it has."""
    async with serve() as api:
        refused = await api.request(method, path)
        assert (refused.status, refused.error["code"]) == (405, "method-not-allowed")
        assert refused.headers["Allow"] == allow
        assert api.sandbox.calls == {"other": 1}


@pytest.mark.parametrize("key", ["", "Bearer wrong", "sandbox-key", "Basic c2FuZGJveC1rZXk="])
async def test_only_the_key_is_let_in(serve: Any, key: str) -> None:
    """A missing or wrong key is refused and costs nothing of the quota."""
    async with serve(api_key="right") as api:
        refused = await api.request("GET", "/v2/auth/whoami", headers={"Authorization": key})
        assert (refused.status, refused.error["code"]) == (401, "authentication")
        assert refused.headers["X-Ratelimit-Limit-User-Remaining"] == "900"


async def test_merging_needs_permission(serve: Any) -> None:
    """Without the permission every request about merges is refused; it can be granted later."""
    async with serve(permissions=False) as api:
        for path in ("/v2/company-merges", f"/v2/tasks/company-merges/{UNKNOWN_TASK}"):
            refused = await api.get(path)
            assert (refused.status, refused.error["code"]) == (403, "authorization")
        assert (await api.merge(1, 2)).status == 403
        assert (await api.get("/v2/companies/1")).status == 200
        api.sandbox.permissions = True
        assert (await api.merge(1, 2)).status == 202


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (None, "2026-09-17"),
        ("current", "2026-09-17"),
        ("2026-07-15", "2026-07-15"),
        ("2024-01-01", "2024-01-01"),
    ],
)
async def test_versions_are_answered_by_name(serve: Any, sent: str | None, answered: str) -> None:
    """Every answer names the version that gave it, the key's default if none was asked for."""
    headers = {"X-Affinity-Api-Version": sent} if sent else {}
    async with serve() as api:
        for path, status in (
            ("/v2/auth/whoami", 200),
            ("/v2/rate-limit", 404 if answered == "2024-01-01" else 200),
            ("/v2/duplicates/person-suggestions", 404 if answered == "2024-01-01" else 200),
        ):
            answer = await api.request("GET", path, headers=headers)
            assert answer.status == status
            assert answer.headers["X-Affinity-Api-Version"] == answered


async def test_unknown_versions_are_refused(serve: Any) -> None:
    """A version that does not exist is a validation error of the header."""
    async with serve(api_version="2024-01-01") as api:
        refused = await api.request(
            "GET", "/v2/auth/whoami", headers={"X-Affinity-Api-Version": "2025-01-01"}
        )
        assert (refused.status, refused.error["param"]) == (400, "X-Affinity-Api-Version")
        assert refused.headers["X-Affinity-Api-Version"] == "2024-01-01"


@KINDS
async def test_suggestions_can_be_merged(serve: Any, kind: str) -> None:
    """Every suggestion names two records that exist, and is gone as soon as they are merged."""
    path = f"/v2/duplicates/{kind}-suggestions"
    async with serve(duration=1.0, companies=4, persons=4) as api:
        page = (await api.get(path, limit=1, totalCount="true")).body
        assert page["pagination"]["totalCount"] == 2
        (suggestion,) = page["data"]
        (duplicate,) = suggestion["duplicateProfiles"]
        primary_id = suggestion["primaryProfile"]["id"]
        assert (await api.merge(primary_id, duplicate["id"], kind)).status == 202
        assert "totalCount" not in (await api.get(path)).body["pagination"]
        assert len((await api.get(path)).body["data"]) == 1
        await asyncio.sleep(1.0)
        assert len((await api.get(path)).body["data"]) == 1


async def test_suggestions_are_searched_and_ordered(serve: Any) -> None:
    """The list can be searched by name, filtered by criterion and put in order."""
    path = "/v2/duplicates/company-suggestions"
    async with serve(companies=20) as api:

        async def names(**params: Any) -> list[str]:
            page = await api.get(path, **params)
            return [item["primaryProfile"]["name"] for item in page.body["data"]]

        everything = await names()
        assert everything[:2] == ["Amber Analytics", "Bright Bakery"]
        assert await names(term="bakery") == ["Bright Bakery"]
        assert await names(orderBy="-createdAt") == everything[::-1]
        assert await names(orderBy="-name") == sorted(everything, reverse=True)
        named = (await api.get(path, filter="matchCriteria=name")).body["data"]
        assert {item["matchCriteria"] for item in named} == {"name"}


async def test_limits_are_reported_in_a_body_too(serve: Any) -> None:
    """The rate-limit endpoint counts itself, and omits a monthly quota that is switched off."""
    async with serve(month_quota=0, quota=10) as api:
        body = (await api.get("/v2/rate-limit")).body
        assert body == {"callerPerMinute": {"limit": 10, "remaining": 9, "reset": 60, "used": 1}}
