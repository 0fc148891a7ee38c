"""The sandbox as a server: limits, faults, control by tests, and its end."""

import asyncio
import math
from typing import Any

import aiohttp
import pytest

from aiotasks.sandbox import Fault, LoggedRequest, Sandbox, _server


async def test_the_per_minute_window_refuses_until_its_reset(serve: Any) -> None:
    """After the quota every request gets a 429 with the reset; then the quota is full again."""
    async with serve(quota=2, window=60.0) as api:
        await asyncio.sleep(0.5)
        remaining = [
            (await api.get("/v2/auth/whoami")).headers["X-Ratelimit-Limit-User-Remaining"]
            for _ in range(2)
        ]
        assert remaining == ["1", "0"]
        refused = await api.get("/v2/auth/whoami")
        assert (refused.status, refused.error["code"]) == (429, "rate-limit")
        assert refused.headers["X-Ratelimit-Limit-User-Reset"] == "60"
        assert refused.headers["X-Ratelimit-Limit-Org-Remaining"] == "99998"
        assert "Retry-After" not in refused.headers
        await asyncio.sleep(60.0)
        assert (await api.get("/v2/auth/whoami")).status == 200
        assert (api.sandbox.requests, api.sandbox.refused) == (4, 1)


async def test_windows_can_be_offset(serve: Any) -> None:
    """The first window can end early, as it does for a program that starts within a minute."""
    async with serve(quota=1, window_offset=7.0) as api:
        first = await api.get("/v2/auth/whoami")
        assert first.headers["X-Ratelimit-Limit-User-Reset"] == "7"
        await asyncio.sleep(7.0)
        assert (await api.get("/v2/auth/whoami")).status == 200


async def test_the_monthly_quota_refuses_with_calls_left(serve: Any) -> None:
    """The monthly quota refuses requests even if the per-minute quota has some left."""
    async with serve(month_quota=1, retry_after=True) as api:
        await api.get("/v2/auth/whoami")
        refused = await api.get("/v2/auth/whoami")
        assert refused.status == 429
        assert refused.headers["X-Ratelimit-Limit-User-Remaining"] == "899"
        assert refused.headers["X-Ratelimit-Limit-Org-Remaining"] == "0"
        assert refused.headers["Retry-After"] == "2592000"


async def test_too_many_at_once_are_refused(serve: Any) -> None:
    """Requests beyond the allowed number at once are refused with quota left in both windows."""
    async with serve(max_concurrent=2, latency=1.0) as api:
        answers = await asyncio.gather(*(api.get("/v2/auth/whoami") for _ in range(5)))
        assert sorted(answer.status for answer in answers) == [200, 200, 429, 429, 429]
        refused = max(answers, key=lambda answer: answer.status)
        assert int(refused.headers["X-Ratelimit-Limit-User-Remaining"]) > 0
        assert int(refused.headers["X-Ratelimit-Limit-Org-Remaining"]) > 0
        assert len({answer.headers["X-Request-Id"] for answer in answers}) == 5
        assert api.sandbox.max_in_flight == 3
        assert api.sandbox.in_flight == 0


async def test_no_limit_has_no_headers(serve: Any) -> None:
    """With both limits off no header mentions them."""
    async with serve(quota=0, month_quota=0) as api:
        headers = (await api.get("/v2/auth/whoami")).headers
        assert not [name for name in headers if "ratelimit" in name.lower()]


async def test_others_use_the_quota_too(serve: Any) -> None:
    """Requests of other programs and a lowered quota have an effect immediately."""
    async with serve() as api:
        api.sandbox.use_quota(800)
        headers = (await api.get("/v2/auth/whoami")).headers
        assert headers["X-Ratelimit-Limit-User-Remaining"] == "99"
        api.sandbox.set_quota(500)
        assert (await api.get("/v2/auth/whoami")).status == 429


async def test_answers_take_their_time(serve: Any) -> None:
    """Latency delays the answer, not the work."""
    loop = asyncio.get_running_loop()
    async with serve(latency=(1.0, 2.0), duration=lambda _random: 3.0) as api:
        started = loop.time()
        request = asyncio.create_task(api.merge(1, 2))
        await asyncio.sleep(0.5)
        assert api.sandbox.posted("company") == {(1, 2): 1}
        await request
        assert 1.0 <= loop.time() - started <= 2.0


async def test_requests_are_counted_by_operation(serve: Any) -> None:
    """Each request is counted under the name of what it asked for."""
    async with serve() as api:
        task_url = (await api.merge(1, 2)).body["taskUrl"]
        for path in (
            task_url,
            "/v2/tasks/company-merges",
            "/v2/company-merges",
            "/v2/company-merges/1",
            "/v2/companies/1",
            "/v2/persons",
            "/v2/duplicates/person-suggestions",
            "/v2/rate-limit",
            "/v2/auth/whoami",
            "/elsewhere",
        ):
            await api.get(path)
        names = "merge task tasks merges get_merge record records suggestions rate_limit whoami"
        assert api.sandbox.calls == dict.fromkeys([*names.split(), "other"], 1)


async def test_requests_are_logged(serve: Any) -> None:
    """Each request is logged when it has arrived, with what was sent, whatever becomes of it."""
    async with serve(latency=1.0) as api:
        await api.merge(1, 2)
        await api.get("/v2/tasks/company-merges", limit="7")
        await api.request("GET", "/elsewhere", headers={"Authorization": "Bearer x"})
        merge, tasks, other = api.sandbox.log
    assert merge == LoggedRequest(
        at=0.0,
        method="POST",
        path="/v2/company-merges",
        operation="merge",
        body=b'{"primaryCompanyId": 1, "duplicateCompanyId": 2}',
        is_authorized=True,
    )
    assert (tasks.at, tasks.path, tasks.body) == (1.0, "/v2/tasks/company-merges?limit=7", b"")
    assert (other.operation, other.is_authorized) == ("other", False)


async def test_the_log_is_bounded(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the newest requests are kept, in a list that the next request does not change."""
    monkeypatch.setattr(_server, "_LOG_SIZE", 3)
    async with serve() as api:
        for number in range(1, 6):
            await api.get(f"/v2/companies/{number}")
        log = api.sandbox.log
        await api.get("/v2/companies/6")
    assert [request.path[-1] for request in log] == ["3", "4", "5"]
    assert [request.path[-1] for request in api.sandbox.log] == ["4", "5", "6"]


async def test_a_request_can_be_acted_on(serve: Any) -> None:
    """``on_request`` gets each request before its answer, and its changes apply to it."""
    async with serve() as api:
        seen = []

        def refuse(request: LoggedRequest) -> None:
            seen.append(request)
            api.sandbox.permissions = request.operation != "merge"

        api.sandbox.on_request = refuse
        assert (await api.merge(1, 2)).status == 403
        assert (await api.get("/v2/tasks/company-merges")).status == 200
        assert seen == api.sandbox.log


async def test_tasks_can_be_steered(serve: Any) -> None:
    """Tasks can be seeded, joined, given any status and finished by a test."""
    async with serve() as api:
        sandbox = api.sandbox
        url = sandbox.start_merge("person", 1, 2, duration=math.inf)
        assert sandbox.start_merge("person", 1, 4, outcome="failed", task_url=url) == url
        await asyncio.sleep(1000)
        assert (await api.get(url)).body["resultsSummary"]["total"] == 2
        assert sandbox.status(url) == "in-progress"
        sandbox.set_status(url, "pending")
        assert (await api.get(url)).body["status"] == "pending"
        sandbox.set_status(url, None)
        sandbox.finish(url)
        assert sandbox.status(url) == "success"
        assert sandbox.task_urls("person") == [url]
        assert sandbox.merged("person") == {2: 1}
        assert not sandbox.posted("person")
        with pytest.raises(ValueError, match="names no task"):
            sandbox.finish(url + "0")
        with pytest.raises(ValueError, match="names no task"):
            sandbox.status("/elsewhere")


@pytest.mark.real_time
async def test_any_host(serve: Any) -> None:
    """At an address for all of a machine's, task URLs have the name by which it was reached."""
    async with serve(host="0.0.0.0") as api:
        assert api.sandbox.url.startswith("http://127.0.0.1:")
        port = api.sandbox.url.rpartition(":")[2]
        near, far = (
            (await api.merge(1, 2)).body["taskUrl"],
            (
                await api.request(
                    "POST",
                    f"http://localhost:{port}/v2/company-merges",
                    json={"primaryCompanyId": 3, "duplicateCompanyId": 4},
                )
            ).body["taskUrl"],
        )
        assert near.startswith(f"http://127.0.0.1:{port}/v2/tasks/")
        assert far.startswith(f"http://localhost:{port}/v2/tasks/")
        assert api.sandbox.status(far) == "in-progress"


@pytest.mark.parametrize(
    ("settings", "status"),
    [({}, "success"), ({"reason": "Locked"}, "failed"), ({"outcome": "paused"}, "paused")],
    ids=str,
)
async def test_a_test_decides_how_a_merge_ends(
    serve: Any, settings: dict[str, str], status: str
) -> None:
    """A merge is ended by a call, as a success, or as a failure if there is a reason."""
    async with serve(duration=math.inf) as api:
        url = (await api.merge(1, 2)).body["taskUrl"]
        api.sandbox.finish(url, **settings)
        assert [merge.outcome for merge in api.sandbox.history("company")] == [status]


async def test_task_urls_can_be_public(serve: Any) -> None:
    """Only task URLs begin with the public URL."""
    async with serve(public_url="https://api.affinity.example/") as api:
        url = (await api.merge(1, 2)).body["taskUrl"]
        assert url.startswith("https://api.affinity.example/v2/tasks/company-merges/")
        assert api.sandbox.status(url) == "in-progress"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("disconnect", aiohttp.ServerDisconnectedError),
        ("disconnect-after", aiohttp.ServerDisconnectedError),
        ("truncate", aiohttp.ClientPayloadError),
    ],
)
async def test_connections_can_break(serve: Any, fault: str, error: type[Exception]) -> None:
    """A dropped connection and a truncated body reach the client as what they are."""
    async with serve() as api:
        # Twice, because aiohttp repeats a GET on a dropped connection.
        api.sandbox.inject(fault, times=2)
        with pytest.raises(error):
            await api.get("/v2/tasks/company-merges")
        api.sandbox.clear_faults()
        assert (await api.get("/v2/auth/whoami")).status == 200


@pytest.mark.parametrize(
    ("fault", "is_merged"),
    [("disconnect", False), ("disconnect-after", True), ("503", False), ("truncate", True)],
)
async def test_work_is_done_or_not(serve: Any, fault: str, is_merged: bool) -> None:
    """A fault before the work prevents the merge; one after it only hides the answer."""
    async with serve() as api:
        api.sandbox.inject(fault, on="merge")
        try:
            assert (await api.merge(1, 2)).status == 503
        except aiohttp.ClientError:
            assert fault != "503"
        assert api.sandbox.posted("company") == ({(1, 2): 1} if is_merged else {})


async def test_answers_can_be_damaged(serve: Any) -> None:
    """Each fault damages exactly one answer in its own way."""
    async with serve(duration=0.0) as api:
        await api.merge(1, 2)

        async def request_with(fault: Fault | str) -> Any:
            api.sandbox.inject(fault)
            async with api.session.get(
                f"{api.sandbox.url}/v2/tasks/company-merges", allow_redirects=False
            ) as response:
                return response.status, response.headers, await response.read()

        status, headers, body = await request_with(Fault.status(502, html=True))
        assert (status, headers["Content-Type"], body[:6]) == (502, "text/html", b"<html>")
        status, _, body = await request_with(Fault.status(500, after_work=True))
        assert (status, b'"server"' in body) == (500, True)
        _, headers, body = await request_with(Fault.malformed())
        assert (len(body), body[:8]) == (int(headers["Content-Length"]), b'{"data":')
        assert len((await request_with(Fault.huge(10_000)))[2]) == 10_000
        assert b'"total":"text"' in (await request_with(Fault.wrong_types()))[2]
        assert b'"status":"odd"' in (await request_with(Fault.task_status("odd")))[2]
        status, headers, _ = await request_with(Fault.redirect("https://elsewhere.example/"))
        assert (status, headers["Location"]) == (302, "https://elsewhere.example/")
        status, headers, body = await request_with(Fault.content(b"hi", content_type="text/plain"))
        assert (status, headers["Content-Type"], body) == (200, "text/plain", b"hi")
        headers = (await request_with(Fault.limit_headers()))[1]
        assert not [name for name in headers if "Ratelimit" in name]
        headers = (await request_with(Fault.limit_headers("899.0")))[1]
        assert headers["X-Ratelimit-Limit-Org-Reset"] == "899.0"
        headers = (await request_with(Fault.rate_limit(cause="month", retry_after=1)))[1]
        assert headers["X-Ratelimit-Limit-Org-Remaining"] == "0"
        assert api.sandbox.refused == 1
        assert (await request_with("latency=1"))[0] == 200


async def test_faults_wait_for_admitted_requests(serve: Any) -> None:
    """A request that the limits refuse uses up no fault."""
    async with serve(quota=1, faults=["503@whoami"]) as api:
        api.sandbox.use_quota(1)
        assert (await api.get("/v2/auth/whoami")).status == 429
        await asyncio.sleep(60)
        assert (await api.get("/v2/auth/whoami")).status == 503


async def test_injections_can_say_where_and_how_often(serve: Any) -> None:
    """Arguments of inject override those of the fault; None is any operation, and no end."""
    async with serve() as api:
        api.sandbox.inject("503@whoami", on=None, times=None)
        assert [(await api.get("/v2/rate-limit")).status for _ in range(3)] == [503] * 3
        with pytest.raises(ValueError, match="whoami"):
            api.sandbox.inject("503", on="nowhere")
        with pytest.raises(ValueError, match="times"):
            api.sandbox.inject("503", times=0)
        for share in (0, 1.5, -0.1):
            with pytest.raises(ValueError, match="share"):
                api.sandbox.inject("503", share=share)


async def test_a_share_of_the_requests_suffers(serve: Any) -> None:
    """A fault may hit a share of the requests, the same ones for the same seed."""
    statuses = []
    for _ in range(2):
        async with serve(seed=3) as api:
            api.sandbox.inject("503", on="whoami", times=None, share=0.3)
            statuses.append([(await api.get("/v2/auth/whoami")).status for _ in range(40)])
    assert statuses[0] == statuses[1]
    assert 4 <= statuses[0].count(503) <= 20


@pytest.mark.parametrize("fault", ["hang", "latency=1000"])
async def test_hanging_requests_end_with_their_client(serve: Any, fault: str) -> None:
    """A request that is not answered ends when its client disconnects."""
    async with serve() as api:
        api.sandbox.inject(fault)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await api.get("/v2/auth/whoami")
        await asyncio.sleep(1)
        assert api.sandbox.in_flight == 0


@pytest.mark.parametrize("fault", [Fault.hang(), Fault.hang(after_work=True), Fault.latency(999)])
async def test_the_scope_ends_at_once(fault: Fault) -> None:
    """The scope ends immediately and without a remaining task, whatever is still open."""
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession() as session:
        async with Sandbox() as sandbox:
            headers = {"Authorization": f"Bearer {sandbox.api_key}"}
            requests = [session.get(f"{sandbox.url}/v2/x", headers=headers) for _ in range(2)]
            for idle in await asyncio.gather(*requests):
                await idle.read()
            sandbox.inject(fault)
            # A POST, because aiohttp would repeat a GET.
            request = asyncio.create_task(session.post(f"{sandbox.url}/v2/x", headers=headers))
            await asyncio.sleep(1)
            assert sandbox.in_flight == 1
            ended = loop.time()
        assert loop.time() - ended < 0.01
        assert sandbox.in_flight == 0
        with pytest.raises(aiohttp.ClientError):
            await request
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_sandbox_is_entered_once() -> None:
    """Neither within its scope nor after it can a sandbox be entered again."""
    async with Sandbox() as sandbox:
        with pytest.raises(RuntimeError, match="only once"):
            await sandbox.__aenter__()
    with pytest.raises(RuntimeError, match="only once"):
        await sandbox.__aenter__()


async def test_its_repr(serve: Any) -> None:
    """The repr has the URL and what is in progress, also before and after the scope."""
    assert repr(Sandbox()) == "<Sandbox: not entered>"
    async with serve() as api:
        await api.merge(1, 2)
        url = api.sandbox.url
        assert repr(api.sandbox) == f"<Sandbox {url}: 1 requests, 1 tasks in progress>"
        await asyncio.sleep(2)
    assert repr(api.sandbox) == f"<Sandbox {url}: 1 requests, 0 tasks in progress>"


@pytest.mark.parametrize(
    "use",
    [
        lambda sandbox: sandbox.url,
        lambda sandbox: sandbox.start_merge("company", 1, 2),
        lambda sandbox: sandbox.posted("company"),
        lambda sandbox: sandbox.use_quota(1),
        lambda sandbox: sandbox.set_quota(1),
        lambda sandbox: sandbox.status("x"),
    ],
    ids=["url", "start_merge", "posted", "use_quota", "set_quota", "status"],
)
def test_it_has_to_be_entered_first(use: Any) -> None:
    """Outside its scope everything that needs the server raises."""
    with pytest.raises(RuntimeError, match="Enter the Sandbox first"):
        use(Sandbox())


async def test_addresses_with_colons_are_bracketed() -> None:
    """An IPv6 address becomes a valid URL."""
    async with Sandbox(host="::1") as sandbox:
        assert sandbox.url.startswith("http://[::1]:")


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": ""},
        {"api_version": "2025-01-01"},
        {"port": -1},
        {"port": 65536},
        {"quota": -1},
        {"window": 0},
        {"window_offset": 60},
        {"month_quota": -1},
        {"max_concurrent": 0},
        {"duration": -1},
        {"duration": (2, 1)},
        {"latency": (-1, 1)},
        {"failure_rate": 1.1},
        {"list_lag": -1},
        {"task_lag": -1},
        {"public_url": "ftp://x"},
        {"public_url": "https://"},
        {"companies": -1},
        {"persons": [0, 1]},
    ],
    ids=str,
)
def test_invalid_settings_are_refused(settings: dict[str, Any]) -> None:
    """The error for an invalid setting begins with its name."""
    (name,) = settings
    with pytest.raises(ValueError, match=rf"^{name} has to be "):
        Sandbox(**settings)


def test_invalid_faults_are_refused() -> None:
    """An invalid fault raises before anything is served."""
    with pytest.raises(ValueError, match="is no fault"):
        Sandbox(faults=["boom"])


async def test_everything_repeats_by_seed(serve: Any) -> None:
    """Two sandboxes with the same settings give the same answers to the same requests."""
    urls = []
    for _ in range(2):
        async with serve(seed=7, public_url="https://x.example") as api:
            urls.append((await api.merge(1, 2)).body["taskUrl"])
    assert urls[0] == urls[1]
