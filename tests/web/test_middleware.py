"""The middleware for all requests: hosts, origins, tokens, and the headers of responses."""

import asyncio

import pytest

from aiotasks.sandbox import Sandbox
from tests.web.conftest import OpenSite, Site


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


async def test_no_host(site: Site) -> None:
    """A request without a Host header is refused, also in HTTP/1.0."""
    host, _, port = site.url.removeprefix("http://").partition("/")[0].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /merges/jobs HTTP/1.0\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"403"
    writer.close()
    await writer.wait_closed()


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
        """The token of a link becomes an HttpOnly cookie, and is removed from the URL."""
        async with open_site(token=TOKEN) as site:
            answer = await site.ask("jobs", params={"token": TOKEN, "a": "1&2"})
            assert (answer.status, answer.headers["Location"]) == (303, "./jobs?a=1%262")
            cookie = answer.headers["Set-Cookie"]
            attributes = {each.strip().lower() for each in cookie.split(";")[1:]}
            assert attributes == {"httponly", "path=/merges/", "samesite=strict"}
            assert TOKEN not in answer.text
            # The session has the cookie.
            assert (await site.ask("jobs")).status == 200
            assert (await site.send("jobs")).status == 400
            headers = {"Origin": "http://evil.example"}
            assert (await site.send("jobs", headers=headers)).status == 403

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
            answer = await site.ask(path, params={"token": TOKEN})
            assert (answer.status, answer.headers["Location"]) == (303, location)

    async def test_a_post_has_no_link(self, open_site: OpenSite) -> None:
        """A token in the URL does not authorise a POST."""
        async with open_site(token=TOKEN) as site:
            answer = await site.send("jobs", params={"token": TOKEN, "kind": "company"})
            assert answer.status == 401
