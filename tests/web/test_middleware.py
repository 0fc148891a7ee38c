"""The middleware for all requests: hosts, origins, tokens, and the headers of responses."""

import asyncio
import time
from http.cookies import Morsel, SimpleCookie
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from aiotasks.sandbox import Sandbox
from aiotasks.web import _access, _app, _middleware, expiring_link
from aiotasks.web._access import AccessRules
from aiotasks.web._middleware import AccessMiddleware
from tests.web.conftest import Answer, OpenSite, Site


pytestmark = pytest.mark.real_time

TOKEN = 'a-token/with="odd";+sig,ns\\'
POLICY = "default-src 'none'"


async def test_every_response_has_the_headers(site: Site) -> None:
    """Every response has the policy, is not cached, and keeps its content type."""
    job = await site.upload(1)
    base = f"jobs/{job['id']}"
    answers = [
        await site.ask(path, headers=headers)
        for path in ("", "jobs", base, f"{base}/report.csv", f"{base}/page.html", "nothing")
        for headers in ({}, {"Accept": "text/html"}, {"Host": "evil.example"})
    ]
    answers.append(await site.send("jobs"))
    answers.append(await site.ask("jobs", method="PUT"))
    assert {answer.status for answer in answers} == {200, 303, 400, 403, 404, 405}
    async with site.session.get(f"{site.url}/{base}/events") as stream:
        headers = [answer.headers for answer in answers] + [stream.headers]
    for each in headers:
        assert each["Content-Security-Policy"].startswith(POLICY)
        assert each["X-Content-Type-Options"] == "nosniff"
        assert each["Referrer-Policy"] == "no-referrer"
        assert each["Cache-Control"] == "no-store"
    nonces = [each["Content-Security-Policy"] for each in headers]
    assert len(set(nonces)) == len(nonces)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_other_sites_start_nothing(
    site: Site, sandbox: Sandbox, headers: dict[str, str]
) -> None:
    """A page of another site cannot upload, start or stop a job, under any host name."""
    job = await site.upload(1)
    start = {"fingerprint": job["fingerprint"]}
    for path in ("jobs?kind=company", f"jobs/{job['id']}/start", f"jobs/{job['id']}/stop"):
        answer = await site.send(path, json=start, headers=headers)
        assert answer.status == 403
        assert answer.json["error"]
    assert len([*site.folder.glob("*.db")]) == 1
    assert not sandbox.posted("company")


async def test_named_hosts(open_site: OpenSite) -> None:
    """Requests may use a configured host name."""
    async with open_site(hosts=["jobs.example.org"]) as site:
        assert (await site.ask("jobs", headers={"Host": "jobs.example.org:8443"})).status == 200
        assert (await site.ask("jobs", headers={"Host": "other.example.org"})).status == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [(b"", b"403"), (b"Host: localhost\r\n" * 2, b"400"), (b"Host: localhost\r\n", b"200")],
)
async def test_one_host(site: Site, headers: bytes, status: bytes) -> None:
    """A request that names no host is refused, also in HTTP/1.0, and one with two is malformed."""
    host, _, port = site.url.removeprefix("http://").partition("/")[0].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /merges/jobs HTTP/1.0\r\n%b\r\n" % headers)
    assert (await reader.readline()).split()[1] == status
    writer.close()
    await writer.wait_closed()


def link_to(site: Site, token: str = TOKEN, *, hours: float = 24.0) -> dict[str, str]:
    """Return the parameters of a new link."""
    query = parse_qs(urlsplit(expiring_link(site.url, token, hours=hours)).query)
    return {name: value for name, (value,) in query.items()}


def cookie_of(answer: Answer) -> "Morsel[str]":
    (cookie,) = SimpleCookie(answer.headers["Set-Cookie"]).values()
    return cookie


def let_pass(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the clock of the application be ahead."""
    now = time.time() + seconds
    for module in (_middleware, _app):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: now))


async def test_two_hosts() -> None:
    """A request with two Host headers is malformed, whatever version of aiohttp has read it."""
    access = AccessMiddleware(AccessRules.of((), None))
    headers = CIMultiDict([("Host", "localhost"), ("Host", "localhost")])

    async def never(request: web.Request) -> web.StreamResponse:
        raise AssertionError

    answer = await access.middleware(make_mocked_request("GET", "/jobs", headers), never)
    assert answer.status == 400


class TestToken:
    async def test_without_it(self, open_site: OpenSite) -> None:
        """Without the token, or with a wrong or partial one, every request is refused."""
        async with open_site(token=TOKEN) as site:
            for token in (None, "", TOKEN[:-1], TOKEN.upper(), f"{TOKEN}x", "ä"):
                bearer = {"Authorization": f"Bearer {token}"} if token is not None else {}
                for path in ("", "jobs", "jobs/missing", "nothing"):
                    assert (await site.ask(path, headers=bearer)).status == 401
                    params = {} if token is None else {"token": token}
                    assert (await site.ask(path, params=params)).status == 401
                assert (await site.send("jobs", headers=bearer)).status == 401

    async def test_bearer(self, open_site: OpenSite) -> None:
        """Programs send the token with each request."""
        async with open_site(token=TOKEN) as site:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            assert (await site.ask("jobs", headers=headers)).status == 200
            assert (await site.send("jobs", headers=headers)).status == 400

    async def test_a_link(self, open_site: OpenSite) -> None:
        """A link becomes an HttpOnly cookie for twelve hours, and the URL gives access no more."""
        async with open_site(token=TOKEN) as site:
            answer = await site.ask("jobs", params={"a": "1&2", **link_to(site)})
            assert (answer.status, answer.headers["Location"]) == (303, "./jobs?a=1%262")
            cookie = cookie_of(answer)
            assert cookie.key == f"aiotasks-{urlsplit(site.url).port}"
            assert {name: value for name, value in cookie.items() if value} == {
                "httponly": True,
                "max-age": "43200",
                "path": "/merges/",
                "samesite": "Strict",
            }
            assert TOKEN not in answer.text + answer.headers["Set-Cookie"]
            # The session has the cookie.
            assert (await site.ask("jobs")).status == 200
            assert (await site.send("jobs")).status == 400
            headers = {"Origin": "http://evil.example"}
            assert (await site.send("jobs", headers=headers)).status == 403

    async def test_the_token_itself_is_no_link(self, open_site: OpenSite) -> None:
        """Neither the token, nor the value of a cookie, gives access in a link or as the other."""
        async with open_site(token=TOKEN) as site:
            name = f"aiotasks-{urlsplit(site.url).port}"
            cookie = _access.signed("cookie", time.time() + 60, TOKEN)
            for token in (TOKEN, cookie):
                assert (await site.ask("jobs", params={"token": token})).status == 401
            for token in (TOKEN, link_to(site)["token"]):
                assert (await site.ask("jobs", cookies={name: f'"{token}"'})).status == 401
            assert (await site.ask("jobs", cookies={name: cookie})).status == 200

    async def test_a_link_expires(
        self, open_site: OpenSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A link that has expired says how to get a new one, unless the browser has access."""
        async with open_site(token=TOKEN) as site:
            link = link_to(site, hours=2.0)
            expired = link_to(site, hours=1e-9)
            refused = await site.ask("jobs", params=expired, headers={"Accept": "text/html"})
            assert refused.status == 401
            assert "This link has expired: get a new one where you got it." in refused.text
            assert (await site.ask("jobs", params=link)).status == 303
            assert (await site.ask("jobs", params=expired)).status == 200
            let_pass(monkeypatch, 2 * 3600)
            site.session.cookie_jar.clear()
            assert (await site.ask("jobs", params=link)).status == 401

    async def test_access_ends(self, open_site: OpenSite, monkeypatch: pytest.MonkeyPatch) -> None:
        """After twelve hours the server takes a cookie no more, whatever the browser keeps."""
        async with open_site(token=TOKEN) as site:
            value = cookie_of(await site.ask("jobs", params=link_to(site))).value
            cookies = {f"aiotasks-{urlsplit(site.url).port}": value}
            let_pass(monkeypatch, 12 * 3600 - 60)
            assert (await site.ask("jobs", cookies=cookies)).status == 200
            let_pass(monkeypatch, 12 * 3600 + 1)
            ended = await site.ask("jobs", cookies=cookies)
            assert ended.status == 401
            assert "twelve hours" in ended.json["error"]

    async def test_a_stream_ends_with_the_access(
        self, open_site: OpenSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A stream of events ends with the access of the browser that follows it."""
        monkeypatch.setattr(_app, "_HEARTBEAT", 0.05)
        async with open_site(token=TOKEN) as site:
            _ = await site.ask("jobs", params=link_to(site))
            job = await site.upload(1)
            async with site.session.get(f"{site.url}/jobs/{job['id']}/events") as stream:
                _ = await stream.content.readuntil(b": still here\n")
                let_pass(monkeypatch, 12 * 3600 + 1)
                async with asyncio.timeout(5):
                    _ = await stream.read()

    @pytest.mark.parametrize("https", [False, True])
    async def test_https(self, open_site: OpenSite, *, https: bool) -> None:
        """The cookie is sent by TLS only if the setting says so; no header can say it."""
        async with open_site(token=TOKEN, https=https) as site:
            headers = {"X-Forwarded-Proto": "https", "Forwarded": "proto=https"}
            answer = await site.ask("jobs", params=link_to(site), headers=headers)
            assert bool(cookie_of(answer)["secure"]) == https

    async def test_two_servers_on_one_host(self, open_site: OpenSite) -> None:
        """Access to one server does not end that to another one on the same host."""
        async with open_site(token=TOKEN) as one, open_site(token="other") as other:
            other.session = one.session
            for site, token in ((one, TOKEN), (other, "other")):
                assert (await site.ask("jobs", params=link_to(site, token))).status == 303
            assert [(await site.ask("jobs")).status for site in (one, other)] == [200, 200]

    @pytest.mark.parametrize(
        ("path", "location"),
        [
            ("", "./"),
            ("/evil.example/", "./"),
            ("//evil.example", "./evil.example"),
            ("a:b", "./a:b"),
        ],
    )
    async def test_a_link_leads_nowhere_else(
        self, open_site: OpenSite, path: str, location: str
    ) -> None:
        """The redirect that removes the token leads to this server, for any path."""
        async with open_site(token=TOKEN) as site:
            answer = await site.ask(path, params=link_to(site))
            assert (answer.status, answer.headers["Location"]) == (303, location)

    async def test_a_post_has_no_link(self, open_site: OpenSite) -> None:
        """A token in the URL does not authorise a POST."""
        async with open_site(token=TOKEN) as site:
            answer = await site.send("jobs", params={"kind": "company", **link_to(site)})
            assert answer.status == 401
