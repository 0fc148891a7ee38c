"""Which proxy the environment names for the API."""

import pytest
from typer.testing import CliRunner

from aiotasks._http import transport
from aiotasks.cli.app import app
from aiotasks.cli.exit_codes import Exit
from aiotasks.cli.proxies import proxy_to


API = "https://api.affinity.co"
PROXY = "http://proxy:3128"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "http_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("base_url", "environment", "proxy"),
    [
        (API, {}, None),
        (API, {"HTTPS_PROXY": PROXY}, PROXY),
        (API, {"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, PROXY),
        (API, {"HTTPS_PROXY": ""}, None),
        (API, {"HTTP_PROXY": PROXY, "http_proxy": PROXY}, None),
        ("http://127.0.0.1:8080", {"HTTPS_PROXY": PROXY, "HTTP_PROXY": PROXY}, None),
        ("nonsense://[", {"HTTPS_PROXY": PROXY}, None),
        ("https://10.1.2.3", {"HTTPS_PROXY": PROXY, "NO_PROXY": "10.0.0.0/8"}, None),
        ("https://11.1.2.3", {"HTTPS_PROXY": PROXY, "NO_PROXY": "10.0.0.0/8,intern"}, PROXY),
    ],
)
def test_the_proxy_of_an_api(
    monkeypatch: pytest.MonkeyPatch, base_url: str, environment: dict[str, str], proxy: str | None
) -> None:
    """``HTTPS_PROXY`` counts for https, in either case, unless it is empty or excepted."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_to(base_url) == proxy


@pytest.mark.parametrize(
    ("excepted", "is_proxied"),
    [
        ("affinity.co", False),
        (".affinity.co", False),
        ("localhost, api.affinity.co", False),
        ("api.affinity.co:443", False),
        ("*", False),
        ("*.affinity.co", False),
        ("api.affinity.co:8443", True),
        ("finity.co", True),
        ("", True),
    ],
)
def test_hosts_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch, excepted: str, is_proxied: bool
) -> None:
    """``NO_PROXY`` excepts hosts, the names below them, ports of them, or all."""
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", excepted)
    assert (proxy_to(API) == PROXY) is is_proxied


@pytest.mark.real_time
def test_commands_ask_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An API that cannot be reached says which proxy the command asked."""
    monkeypatch.setattr(transport, "retry_delay", lambda _: 0.0)
    monkeypatch.setenv("AFFINITY_API_KEY", "key")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@127.0.0.1:9")
    done = CliRunner().invoke(app, ["quota", "--base-url", "https://api.affinity.test"])
    assert "through the proxy http://127.0.0.1:9 (" in done.stderr
    assert "secret" not in done.output
    assert done.exit_code == Exit.UNREACHABLE
