"""Faults that can be injected."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Self

from aiotasks.sandbox import _effects as effects
from aiotasks.sandbox._effects import Effect
from aiotasks.sandbox._limits import Cause
from aiotasks.sandbox._reply import JSON


OPERATIONS = (
    "merge",
    "merges",
    "get_merge",
    "task",
    "tasks",
    "record",
    "records",
    "suggestions",
    "rate_limit",
    "whoami",
    "other",
)
_SHOW_STATUS = ("merges", "get_merge", "task", "tasks")
_NUMBER = r"\d+(?:\.\d+)?"
_TEXT = re.compile(
    r"(?P<name>.+?)(?:@(?P<on>\w+?))?"
    rf"(?:\s*~(?P<percent>{_NUMBER})%)?(?:\s*x(?P<times>[1-9]\d*|\*))?"
)
_HELP = (
    "{text!r} is no fault: write a status from 400 to 599 (503), 429:SECONDS, disconnect, "
    "disconnect-after, hang, truncate, malformed, huge, html, wrong-types, {not_http}, "
    "latency=SECONDS, late=SECONDS (504 now, the request's effect later) or status=WORD, then @OPERATION if it should hit only one ({operations}), then ~PERCENT% if it "
    "should hit only so many of them, by chance, then xTIMES (x* for every time)."
)


NOT_HTTP: Mapping[str, Effect] = {
    "two-lengths": effects.say(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"
    ),
    "endless-headers": effects.say(b"HTTP/1.1 200 OK\r\n" + b"X-More: and more\r\n" * 65_536),
    "other-protocol": effects.say(b"\x15\x03\x01\x00\x02\x02\x46" * 4),
    "bad-brotli": effects.encode("br"),
    "bad-gzip": effects.encode("gzip"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which a request can go wrong.

    Make one with the class methods and give it to ``Sandbox.inject``. A fault replaces the work
    that was asked for, unless it comes ``after_work`` or can only spoil a real answer.

    Attributes:
        name: how it is written on a command line.
        after_work: whether the request has its effect anyway.
        on: the operations that it may hit; empty for any.
        times: how many requests it hits; None for all.
        late: after how many seconds the request has its effect, if not at once.
        share: which part of the requests it may hit, by chance; above 0, and 1 for each of them.
    """

    name: str
    effect: Effect = field(repr=False)
    after_work: bool = True
    on: tuple[str, ...] = ()
    times: int | None = 1
    share: float = 1.0
    late: float | None = None

    @classmethod
    def status(
        cls,
        status: int,
        *,
        html: bool = False,
        after_work: bool = False,
        retry_after: float | str | None = None,
    ) -> Self:
        """Answer with a status; with a proxy's page instead of the API's JSON if ``html``."""
        answer = effects.page(status) if html else effects.error(status)
        effect = effects.then(answer, effects.retry_after(retry_after))
        return cls(str(status), effect, after_work)

    @classmethod
    def rate_limit(
        cls,
        *,
        cause: Cause = "minute",
        retry_after: float | str | None = None,
        as_date: bool = False,
    ) -> Self:
        """Answer 429 with the headers of one of the three limits.

        ``retry_after`` is in seconds, sent as an HTTP date if ``as_date``; a text is sent as it is.
        """
        later = effects.retry_after(retry_after, as_date=as_date)
        effect = effects.then(effects.error(429), effects.blame(cause), later)
        return cls("429", effect, after_work=False)

    @classmethod
    def disconnect(cls, *, after_work: bool = False) -> Self:
        """Drop the connection without an answer."""
        name = "disconnect-after" if after_work else "disconnect"
        return cls(name, effects.end("disconnect"), after_work)

    @classmethod
    def passed_on_late(cls, seconds: float, *, status: int = 504) -> Self:
        """Answer with a status as a gateway does, and pass the request on later."""
        return cls(f"late={seconds:g}", effects.error(status), after_work=False, late=seconds)

    @classmethod
    def not_http(cls, kind: str) -> Self:
        """Answer with what is no HTTP answer: one of ``NOT_HTTP``.

        Those are two lengths of one body, headers beyond what clients accept, bytes of another
        protocol, and bodies that are not encoded as their headers say.
        """
        return cls(kind, NOT_HTTP[kind])

    @classmethod
    def hang(cls, *, after_work: bool = False) -> Self:
        """Never answer; the request stays open until the client leaves."""
        return cls("hang", effects.end("hang"), after_work)

    @classmethod
    def truncate(cls) -> Self:
        """Promise the whole body, send half of it, then drop the connection."""
        return cls("truncate", effects.end("truncate"))

    @classmethod
    def malformed(cls) -> Self:
        """Send half of the JSON as if it were all of it."""
        return cls("malformed", effects.halve())

    @classmethod
    def huge(cls, size: int = 64 * 2**20) -> Self:
        """Pad the JSON with blanks to ``size`` bytes."""
        return cls("huge", effects.pad(size))

    @classmethod
    def wrong_types(cls) -> Self:
        """Put numbers where the JSON has texts, and texts where it has numbers."""
        return cls("wrong-types", effects.edit(effects.swap_types))

    @classmethod
    def task_status(cls, status: str) -> Self:
        """Show another status in tasks and merges, such as one that the API may add."""
        effect = effects.edit(effects.relabel(status))
        return cls(f"status={status}", effect, on=_SHOW_STATUS)

    @classmethod
    def redirect(cls, location: str, *, status: int = 302) -> Self:
        """Send the client elsewhere."""
        effect = effects.then(effects.page(status), effects.set_headers({"Location": location}))
        return cls("redirect", effect, after_work=False)

    @classmethod
    def content(cls, body: bytes, *, content_type: str = JSON, status: int = 200) -> Self:
        """Answer with exactly this body."""
        return cls("content", effects.answer(status, body, content_type), after_work=False)

    @classmethod
    def headers(cls, headers: Mapping[str, str | None]) -> Self:
        """Set headers of the answer; None takes one away."""
        return cls("headers", effects.set_headers(headers))

    @classmethod
    def limit_headers(cls, value: str | None = None) -> Self:
        """Set all rate-limit headers to one text, such as ``unlimited``; None takes them away."""
        return cls.headers(dict.fromkeys(effects.LIMIT_HEADERS, value))

    @classmethod
    def latency(cls, seconds: float) -> Self:
        """Answer later by this many seconds; the work is done at once."""
        return cls(f"latency={seconds:g}", effects.delay(seconds))

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """Read a fault as written on a command line: ``NAME[@OPERATION][~PERCENT%][xTIMES]``.

        With a ``~PERCENT%`` it hits only so many of the requests, by chance. It happens once, or
        every time if it has a share, unless ``xTIMES`` says how often; ``x*`` is every time.

        Raises:
            ValueError: the text names no fault; the message lists what is allowed.
        """
        found = _TEXT.fullmatch(text.strip())
        fault = _read(found) if found else None
        if fault is None or not {*fault.on} <= {*OPERATIONS} or not is_share(fault.share):
            names = {"operations": ", ".join(OPERATIONS), "not_http": ", ".join(NOT_HTTP)}
            raise ValueError(_HELP.format(text=text, **names))
        return fault

    def hits(self, operation: str) -> bool:
        """Return whether the fault may hit an operation."""
        return not self.on or operation in self.on


_PLAIN = {
    "429": Fault.rate_limit(),
    "disconnect": Fault.disconnect(),
    "disconnect-after": Fault.disconnect(after_work=True),
    "hang": Fault.hang(),
    "truncate": Fault.truncate(),
    "malformed": Fault.malformed(),
    "huge": Fault.huge(),
    "html": Fault.status(200, html=True),
    "wrong-types": Fault.wrong_types(),
}

_WITH_VALUE: tuple[tuple[str, Callable[[str], Fault]], ...] = (
    (rf"429:({_NUMBER})", lambda value: Fault.rate_limit(retry_after=value)),
    (rf"latency=({_NUMBER})", lambda value: Fault.latency(float(value))),
    (rf"late=({_NUMBER})", lambda value: Fault.passed_on_late(float(value))),
    (r"status=([\w-]+)", Fault.task_status),
)


def is_share(share: float) -> bool:
    return 0 < share <= 1


def _read(found: re.Match[str]) -> Fault | None:
    if (fault := _named(found["name"])) is None:
        return None
    times = found["times"] or ("*" if found["percent"] else "1")
    return replace(
        fault,
        on=(found["on"],) if found["on"] else fault.on,
        times=None if times == "*" else int(times),
        share=float(found["percent"] or 100) / 100,
    )


def _named(name: str) -> Fault | None:
    if name in _PLAIN:
        return _PLAIN[name]
    if name in NOT_HTTP:
        return Fault.not_http(name)
    if re.fullmatch(r"[45]\d\d", name):
        return Fault.status(int(name))
    for pattern, make in _WITH_VALUE:
        if found := re.fullmatch(pattern, name):
            return make(found[1])
    return None


class Faults:
    """The faults that are still to happen, oldest first."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._waiting.append(fault)

    def clear(self) -> None:
        self._waiting.clear()

    def take(self, operation: str) -> Fault | None:
        """Take the oldest fault that may hit the operation and does, and count it."""
        for place, fault in enumerate(self._waiting):
            if fault.hits(operation) and self._happens(fault):
                self._count(place, fault)
                return fault
        return None

    def _happens(self, fault: Fault) -> bool:
        # A certain fault draws no random number, so that it does not change those of the others.
        return fault.share >= 1 or self._random.random() < fault.share

    def _count(self, place: int, fault: Fault) -> None:
        if fault.times is not None:
            left = replace(fault, times=fault.times - 1)
            self._waiting[place : place + 1] = [left] if left.times else []
