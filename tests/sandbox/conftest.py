"""A sandbox together with a plain HTTP client."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import pytest

from aiotasks.sandbox import PLAIN, Sandbox


@dataclass(frozen=True)
class Answer:
    """The response to one request."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def error(self) -> dict[str, str]:
        (error,) = self.body["errors"]
        assert isinstance(error, dict)
        return error


class Api:
    """Requests to one sandbox."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.session = session

    async def request(self, method: str, path: str, **settings: Any) -> Answer:
        url = path if path.startswith("http") else self.sandbox.url + path
        async with self.session.request(method, url, **settings) as response:
            is_json = response.content_type == "application/json"
            body = await (response.json() if is_json else response.text())
            return Answer(response.status, response.headers, body)

    async def get(self, path: str, **params: Any) -> Answer:
        return await self.request("GET", path, params=params or None)

    async def merge(self, primary_id: int, duplicate_id: int, kind: str = "company") -> Answer:
        title = kind.title()
        body = {f"primary{title}Id": primary_id, f"duplicate{title}Id": duplicate_id}
        return await self.request("POST", f"/v2/{kind}-merges", json=body)


class Serve(Protocol):
    def __call__(self, **settings: Any) -> AbstractAsyncContextManager[Api]: ...


@asynccontextmanager
async def _serve(**settings: Any) -> AsyncIterator[Api]:
    async with Sandbox(**{**PLAIN, **settings}) as sandbox:
        headers = {"Authorization": f"Bearer {sandbox.api_key}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            yield Api(sandbox, session)


@pytest.fixture
def serve() -> Serve:
    return _serve
