"""A sandbox in a thread, for tests without an event loop."""

import logging
import math
import socket
import threading
import urllib.request

import pytest

from aiotasks.sandbox import PLAIN, in_thread


pytestmark = pytest.mark.real_time


def test_it_serves_and_ends() -> None:
    """It answers, is controlled from another thread, and leaves no thread behind."""
    before = threading.active_count()
    with in_thread(**PLAIN, duration=math.inf) as sandbox:
        url = sandbox.start_merge("company", 1, 2)
        sandbox.latency = 0.01
        assert sandbox.status(url) == "in-progress"
        sandbox.finish(url)
        request = urllib.request.Request(
            url, headers={"Authorization": f"Bearer {sandbox.api_key}"}
        )
        with urllib.request.urlopen(request) as answer:
            assert b'"success"' in answer.read()
        assert sandbox.requests == 1
        assert sandbox.latency == 0.01
        assert repr(sandbox) == f"<Sandbox {sandbox.url}: 1 requests, 0 tasks in progress>"
        with pytest.raises(ValueError, match="names no task"):
            sandbox.finish("https://x/")
    assert threading.active_count() == before


def test_a_port_that_is_taken() -> None:
    """A sandbox that cannot listen raises the reason, and leaves no thread behind."""
    before = threading.active_count()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"), in_thread(port=taken.getsockname()[1]):
            pass
    assert threading.active_count() == before


def test_an_error_of_the_body() -> None:
    """An error of the scope is raised unchanged."""
    with pytest.raises(KeyError), in_thread():
        raise KeyError


def test_requests_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Each request is logged with what was answered, and without the key."""
    caplog.set_level(logging.INFO, "aiotasks.sandbox")
    with in_thread(api_key="secret-key") as sandbox:
        url = f"{sandbox.url}/v2/auth/whoami?x=1"
        request = urllib.request.Request(url, headers={"Authorization": "Bearer secret-key"})
        with urllib.request.urlopen(request):
            pass
    assert [each.getMessage() for each in caplog.records] == ["GET /v2/auth/whoami?x=1: 200"]
