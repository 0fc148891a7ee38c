"""The access rules, as functions of the headers."""

import pytest
from multidict import CIMultiDict

from aiotasks import ConfigurationError
from aiotasks.web import _access
from aiotasks.web._access import AccessRules


pytestmark = pytest.mark.real_time

RULES = AccessRules.of(["Jobs.Example.org", "box:8080"], None)


def refusal(method: str, host: str, **headers: str) -> str:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return _access.refusal(method, [host], CIMultiDict(named), RULES)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8080",
        "localhost:1",
        "LOCALHOST",
        "[::1]",
        "[::1]:65535",
        "jobs.example.org",
        "JOBS.example.org:443",
        "box:8080",
    ],
)
def test_our_hosts(host: str) -> None:
    """Loopback addresses and configured hosts are accepted, with or without a port."""
    assert not refusal("GET", host)
    assert not refusal("POST", host, Origin=f"http://{host}", Sec_Fetch_Site="same-origin")


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost.",
        "evil.example#localhost",
        "user@localhost",
        "127.0.0.1:80:80",
        "127.0.0.1:",
        "127.0.0.1:80\n",
        "0.0.0.0",
        "10.0.0.1",
        "::1",
        "[::]",
        "box",
        "box:8081",
        "not.jobs.example.org",
    ],
)
def test_other_hosts(host: str) -> None:
    """A foreign host name that resolves to this machine is refused."""
    assert refusal("GET", host)
    assert refusal("POST", host, Origin=f"http://{host}", Sec_Fetch_Site="same-origin")


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"], ["localhost", "evil.example"]])
def test_one_host(hosts: list[str]) -> None:
    """A request must name exactly one host."""
    assert _access.refusal("GET", hosts, CIMultiDict(), RULES)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://evil.example",
        "http://localhost",
        "http://localhost:81",
        "http://localhost:80.evil.example",
        "http://[",
        "localhost:80",
        "file://",
    ],
)
def test_posts_of_other_origins(origin: str) -> None:
    """Only pages of this host and port may send a POST."""
    assert refusal("POST", "localhost:80", Origin=origin)
    assert not refusal("POST", "localhost:80", Origin="http://LOCALHOST:80")
    assert not refusal("POST", "localhost:80", Origin="https://localhost:80")


@pytest.mark.parametrize("site", ["cross-site", "same-site", "something new", ""])
def test_posts_of_other_sites(site: str) -> None:
    """A request that the browser marks as cross-site is refused, despite its other headers."""
    headers = {"Origin": "http://localhost:80", "Sec_Fetch_Mode": "navigate"}
    assert refusal("POST", "localhost:80", Sec_Fetch_Site=site, **headers)
    assert not refusal("POST", "localhost:80", Sec_Fetch_Site="none", **headers)


def test_programs_may_post() -> None:
    """A POST without these headers is accepted: programs send none, and browsers always do."""
    assert not refusal("POST", "localhost:80")


def test_links_lead_here() -> None:
    """Other sites may link to a page, but may not load anything from here."""
    assert not refusal("GET", "localhost", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
    assert not refusal("GET", "localhost", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors")
    for mode in ("no-cors", "cors", "websocket", ""):
        assert refusal("GET", "localhost", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode=mode)


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("Basic abc", ""),
        ("abc", ""),
        ("", ""),
        ("Bearer", ""),
    ],
)
def test_bearer(header: str, token: str) -> None:
    """Only a bearer token is read from the header."""
    assert _access.bearer_of(header) == token


def test_tokens() -> None:
    """Only the exact token is accepted, and no input raises an error."""
    assert _access.is_token("abc", "abc")
    for other in ("", "ab", "abcd", "ABC", "äbc", "\udcff", "\ud800", "a\0c"):
        assert not _access.is_token(other, "abc")


def test_signatures() -> None:
    """Only what was signed for this purpose, time and token gives access, and it hides the token."""
    given = _access.signed("link", 1234.6, "abc")
    assert _access.expiry_of(given, "link", "abc") == 1234
    assert "abc" not in given
    time, _, mac = given.partition(".")
    assert _access.expiry_of(given, "cookie", "abc") is None
    assert _access.expiry_of(given, "link", "abd") is None
    for other in ("", "abc", f"1235.{mac}", time, f"{time}.", f".{mac}", f"{given}0", f"0{given}"):
        assert _access.expiry_of(other, "link", "abc") is None
    for other in ("-1.0", "1e3.0", "٣.0", "²", f"{'1' * 5000}.0", "\udcff", f"{given}\ud800"):
        assert _access.expiry_of(other, "link", "abc") is None


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost:8080", "aiotasks-8080"),
        ("[::1]:81", "aiotasks-81"),
        ("[::1]", "aiotasks-7000"),
        ("jobs.example.org", "aiotasks-7000"),
    ],
)
def test_cookies_of_other_ports(host: str, name: str) -> None:
    """A cookie is named by the port that the browser sees, or else by the server's own."""
    assert _access.cookie_name(host, 7000) == name


@pytest.mark.parametrize("token", ["", " ", "ä", "a\nb", "a b"])
def test_what_is_no_token(token: str) -> None:
    """An empty token would let every request in, so it is refused."""
    with pytest.raises(ConfigurationError, match="token must be"):
        _ = AccessRules.of((), token)


def test_hosts_are_names() -> None:
    """A single text is refused, and not taken for a list of characters."""
    with pytest.raises(ConfigurationError, match=r"\('box',\)"):
        _ = AccessRules.of("box", None)


def test_the_policy() -> None:
    """A page can load and run only what it contains, and connect only to its server."""
    assert _access.security_headers("N") == {
        "Content-Security-Policy": (
            "default-src 'none'; style-src 'nonce-N'; script-src 'nonce-N'; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
        "Vary": "Accept, Cookie",
    }
