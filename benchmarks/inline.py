"""SQLite on the event loop's own thread, with aiosqlite's interface: for virtual time.

A clock that jumps does not wait for other threads. ``Ledger(path, connect=inline.connect)`` keeps a
real file, too, and lets others run once at each call, as a thread would.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar


T = TypeVar("T")


class Connection:
    """The part of ``aiosqlite.Connection`` that a ledger needs; see ``connect``."""

    def __init__(self, database: str, settings: dict[str, Any]) -> None:
        self._database = database
        self._settings = settings

    async def __aenter__(self) -> Self:
        await asyncio.sleep(0)
        self._connection = sqlite3.connect(self._database, **self._settings)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await asyncio.sleep(0)
        finally:
            self._connection.close()

    async def execute_fetchall(
        self, sql: str, parameters: Iterable[Any] | None = None
    ) -> Iterable[Any]:
        """Execute a statement and return all of its rows."""
        values = tuple(parameters or ())
        return await self._call(lambda: self._connection.execute(sql, values).fetchall())

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> sqlite3.Cursor:
        """Execute a statement for each row of parameters."""
        rows = map(tuple, parameters)
        return await self._call(lambda: self._connection.executemany(sql, rows))

    async def executescript(self, sql_script: str) -> sqlite3.Cursor:
        """Execute several statements, each by itself."""
        return await self._call(lambda: self._connection.executescript(sql_script))

    async def commit(self) -> None:
        """Commit the transaction to disk."""
        await self._call(self._connection.commit)

    async def rollback(self) -> None:
        """Roll back the transaction."""
        await self._call(self._connection.rollback)

    async def _call(self, work: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        return work()


def connect(database: str, **settings: Any) -> Connection:
    """Return a connection to open with ``async with``; the settings are those of ``sqlite3``."""
    return Connection(database, settings)
