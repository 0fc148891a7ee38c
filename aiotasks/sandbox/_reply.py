"""What the sandbox answers, before it becomes bytes on a socket."""

from dataclasses import dataclass, field
from typing import Any, Literal, Self

import msgspec


Ending = Literal["complete", "truncate", "disconnect", "hang", "raw"]
JSON = "application/json"
_CODES = {
    401: "authentication",
    403: "authorization",
    404: "not-found",
    405: "method-not-allowed",
    409: "conflict",
    415: "unsupported-media-type",
    422: "unprocessable-entity",
    429: "rate-limit",
}
_SERVER = 500


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and how its delivery ends: ``raw`` sends its body alone, without a head."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    ending: Ending = "complete"
    delay: float = 0.0

    @classmethod
    def json(cls, payload: Any, *, status: int = 200) -> Self:
        return cls(status, msgspec.json.encode(payload), {"Content-Type": JSON})


class Problem(Exception):  # noqa: N818 - a refusal by design is not an error of the sandbox
    """Refuse the request with one entry of the API's error list."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.headers = headers or {}

    @property
    def code(self) -> str:
        if self.param is not None:
            return "validation"
        return _CODES.get(self.status, "server" if self.status >= _SERVER else "bad-request")

    def reply(self) -> Reply:
        error = {"code": self.code, "message": str(self)}
        if self.param is not None:
            error["param"] = self.param
        reply = Reply.json({"errors": [error]}, status=self.status)
        reply.headers.update(self.headers)
        return reply
