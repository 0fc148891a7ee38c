"""Answers that may show the key, and a search for it in everything that a report of an error may contain."""

import gzip
import traceback
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import TracebackType
from typing import Any

from aiotasks._http.transport import MAX_BODY


KEY = "secret-0123456789abcdef-key"

_HEAD = b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
ECHO = KEY.encode()
_PROBLEM = b'{"errors": [{"code": "%b", "message": "no such key: %b", "param": "%b"}]}'.replace(
    b"%b", ECHO
)


def answer(status: int, body: bytes, *headers: bytes) -> bytes:
    """Return an answer as it is on the wire."""
    head = _HEAD % (status, len(body))
    return head + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body


# Each is sent to every request.
ANSWERS: dict[str, bytes] = {
    "nothing": b"",
    "no HTTP": b"\x00\xff garbage \r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a status that is none": b"HTTP/1.1 999999 What\r\n\r\n",
    "an odd status": b"HTTP/1.1 42 What\r\nContent-Length: 0\r\n\r\n",
    "the key in the status line": b"HTTP/9.9 abc " + ECHO + b"\r\n\r\n",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: nonsense\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
    "a length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "broken chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "endless headers": b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 100_000,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X-Many: a\r\n" * 50_000,
    "broken headers": b"HTTP/1.1 200 OK\r\nX \x00: " + ECHO + b"\r\n\r\n",
    "the key in a broken header": b"HTTP/1.1 200 OK\r\nX: Bearer " + ECHO + b"\x00\r\n\r\n",
    "the key in headers": answer(200, b"{", b"X-Request-Id: " + ECHO, b"X: " + ECHO),
    "the key in a content type": b"HTTP/1.1 200 OK\r\nContent-Type: a/" + ECHO + b"\r\n\r\n",
    "no gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
    "no deflate": b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: 4\r\n\r\nnope",
    "brotli": b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 4\r\n\r\nnope",
    "zstd": b"HTTP/1.1 200 OK\r\nContent-Encoding: zstd\r\nContent-Length: 4\r\n\r\nnope",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "a redirect": answer(307, b"", b"Location: https://evil.example/" + ECHO),
    "a redirect to nowhere": answer(302, b"", b"Location: \x80://"),
    "the key in a problem": answer(400, _PROBLEM, b"X-Request-Id: " + ECHO),
    "the key is refused": answer(401, _PROBLEM),
    "the key may not": answer(403, _PROBLEM),
    "no such key": answer(404, _PROBLEM),
    "a conflict": answer(409, _PROBLEM),
    "a limit": answer(429, _PROBLEM, b"Retry-After: 1"),
    "a failure": answer(503, _PROBLEM),
    "the key as a body": answer(200, ECHO),
    "the key as a task": answer(200, b'{"id": "a", "status": "' + ECHO + b'"}'),
    "the key as a task URL": answer(202, b'{"taskUrl": "https://' + ECHO + b'.example/"}'),
    "the key as a page": answer(
        200, b'{"data": [], "pagination": {"nextUrl": "https://' + ECHO + b'.example/"}}'
    ),
    "a body that is too large": answer(200, b" " * (MAX_BODY + 1), b"X: " + ECHO),
    "a body that becomes too large": answer(
        200, gzip.compress(b" " * (MAX_BODY + 1)), b"Content-Encoding: gzip", b"X: " + ECHO
    ),
}

_DEEPEST = 6


def find_key(error: BaseException) -> list[str]:
    """Return where an error shows the key: its texts, its chain, and the variables of its frames."""
    return [
        f"{type(each).__name__}: {place}"
        for each in _chain(error, set())
        for place, text in _texts(each)
        if KEY in text
    ]


def _chain(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for each in (error.__cause__, error.__context__, *parts):
        yield from _chain(each, seen)


def _texts(error: BaseException) -> Iterator[tuple[str, str]]:
    yield "str", str(error)
    yield "repr", repr(error)
    yield "args", repr(error.args)
    yield "attributes", repr(vars(error))
    yield "traceback", "".join(traceback.format_exception(error))
    yield from _frames(error.__traceback__)


def _frames(frame: TracebackType | None) -> Iterator[tuple[str, str]]:
    while frame is not None:
        code = frame.tb_frame.f_code
        # The test has the key itself.
        if "/tests/" not in code.co_filename:
            for name, value in frame.tb_frame.f_locals.items():
                place = f"{code.co_filename}:{frame.tb_lineno} {code.co_qualname}: {name}"
                for text in _reprs(value, 0):
                    yield place, text
        frame = frame.tb_next


def _reprs(value: Any, depth: int) -> Iterator[str]:
    try:
        yield repr(value)
    except Exception as error:  # noqa: BLE001 - as reporters of errors do
        yield repr(error)
    if depth == _DEEPEST or isinstance(value, str | bytes):
        return
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _reprs(name, depth + 1)
            yield from _reprs(item, depth + 1)
    elif isinstance(value, Sequence | AbstractSet):
        for item in value:
            yield from _reprs(item, depth + 1)
