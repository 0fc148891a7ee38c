"""The ledger's tables, and the way from their rows to the words of a job and back."""

from collections.abc import Awaitable, Iterable, Iterator, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

import msgspec

from aiotasks.dedupe.models import (
    ALLOWED_TRANSITIONS,
    JobInfo,
    LoggedTransition,
    Pair,
    PairState,
    Transition,
)
from aiotasks.dedupe.plan import Plan


T = TypeVar("T")

VERSION: Final = 1
APPLICATION: Final = 0x61696F74
"""``aiot``, where SQLite's files say whose they are."""

_STATES = ", ".join(f"'{state}'" for state in PairState)

# The version and the owner are set with the tables, before there is a write-ahead log: so the
# first page of the file tells both, whatever else happens to it.
CREATE: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE job (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  kind TEXT NOT NULL, origin TEXT NOT NULL, fingerprint TEXT NOT NULL, source TEXT NOT NULL,
  digest TEXT NOT NULL, columns TEXT NOT NULL, merges INTEGER NOT NULL, begun_at REAL NOT NULL
);
CREATE TABLE pairs (
  number INTEGER PRIMARY KEY, line INTEGER NOT NULL,
  primary_id INTEGER NOT NULL, duplicate_id INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ({_STATES})), is_planned INTEGER NOT NULL,
  asked_primary_id INTEGER, extra TEXT NOT NULL, reason TEXT, task_url TEXT, merge_id INTEGER,
  planned_at REAL, sending_at REAL, started_at REAL, ended_at REAL
);
CREATE TABLE log (
  seq INTEGER PRIMARY KEY, number INTEGER NOT NULL, state TEXT NOT NULL, at REAL NOT NULL,
  reason TEXT, task_url TEXT, merge_id INTEGER
);
CREATE TABLE records (id INTEGER PRIMARY KEY, json BLOB NOT NULL);
CREATE TABLE notes (name TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID;
CREATE TRIGGER step AFTER INSERT ON log WHEN NEW.state <> 'planned' BEGIN
  UPDATE pairs SET
    state = NEW.state,
    reason = NEW.reason,
    task_url = coalesce(NEW.task_url, task_url),
    merge_id = coalesce(NEW.merge_id, merge_id),
    sending_at = CASE NEW.state WHEN 'sending' THEN NEW.at ELSE sending_at END,
    started_at = CASE NEW.state WHEN 'started' THEN NEW.at ELSE started_at END,
    ended_at = CASE WHEN NEW.state NOT IN ('sending', 'started') THEN NEW.at END
  WHERE number = NEW.number;
END;
CREATE TRIGGER step_back AFTER INSERT ON log WHEN NEW.state = 'planned' BEGIN
  UPDATE pairs SET
    state = NEW.state, reason = NULL, task_url = NULL, merge_id = NULL,
    planned_at = NEW.at, sending_at = NULL, started_at = NULL, ended_at = NULL
  WHERE number = NEW.number;
END;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
COMMIT;
"""  # noqa: S608 - made of our own words
SETTINGS: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA fullfsync = ON;
"""

_ALLOWED = ", ".join(
    f"('{state}', '{follower}')"
    for state in PairState
    for follower in sorted(ALLOWED_TRANSITIONS[state])
)
# The log is appended to only where the pair's state on disk allows the step; its trigger then
# changes the pair. So neither is ever ahead of the other.
TRANSITION: Final = f"""
INSERT INTO log (seq, number, state, at, reason, task_url, merge_id)
SELECT ?, ?, ?, ?, ?, ?, ? FROM pairs WHERE number = ? AND (state, ?) IN (VALUES {_ALLOWED})
"""  # noqa: S608 - made of our own words
JOB: Final = "INSERT INTO job VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)"
PAIR: Final = """
INSERT INTO pairs (number, line, primary_id, duplicate_id, state, is_planned, asked_primary_id,
  extra, reason, planned_at, ended_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
RECORD: Final = "INSERT INTO records VALUES (?, ?)"
NOTE: Final = """
INSERT INTO notes VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET text = excluded.text
"""
IDENTIFY: Final = "UPDATE pairs SET merge_id = ? WHERE number = ?"

GET_VERSION: Final = "PRAGMA user_version"
EXAMINE: Final = """
SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version
"""
# One finding is enough.
CHECK: Final = "PRAGMA quick_check(1)"
GET_JOB: Final = """
SELECT kind, origin, fingerprint, source, digest, columns, merges, begun_at FROM job
"""
GET_PAIRS: Final = """
SELECT number, line, primary_id, duplicate_id, state, is_planned, asked_primary_id, extra, reason,
  task_url, merge_id, planned_at, sending_at, started_at, ended_at
FROM pairs WHERE state IN (SELECT value FROM json_each(?)) ORDER BY number
"""
GET_NUMBERED: Final = GET_PAIRS.replace("state IN", "number IN")
GET_STATE: Final = "SELECT state FROM pairs WHERE number = ?"
GET_TOTALS: Final = "SELECT state, count(*) FROM pairs GROUP BY state"
GET_LOG: Final = """
SELECT seq, number, state, at, reason, task_url, merge_id FROM log WHERE seq > ?
ORDER BY seq LIMIT ?
"""
GET_SEQS: Final = "SELECT seq FROM log WHERE seq > ?"
GET_LAST_SEQ: Final = "SELECT coalesce(max(seq), 0) FROM log"
# No note of a user can be called that.
HOLDER: Final = "ledger.holder"
GET_HOLDER: Final = """
SELECT text FROM notes WHERE name = 'ledger.holder' AND text IS NOT NULL
"""
GET_NOTES: Final = """
SELECT name, text FROM notes WHERE name <> 'ledger.holder' AND text IS NOT NULL ORDER BY name
"""
GET_RECORDS: Final = """
SELECT id, json FROM records WHERE id IN (SELECT value FROM json_each(?))
"""
GET_NEXT_RECORDS: Final = "SELECT id, json FROM records WHERE id > ? ORDER BY id LIMIT 500"


class Database(Protocol):
    """The part of aiosqlite's connection that a ledger needs."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def execute_fetchall(
        self, sql: str, parameters: Iterable[Any] | None = None
    ) -> Awaitable[Iterable[Any]]:
        """Execute a statement and return all of its rows."""

    def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> Awaitable[object]:
        """Execute a statement once for each row of parameters."""

    def executescript(self, sql_script: str) -> Awaitable[object]:
        """Execute several statements."""

    def commit(self) -> Awaitable[None]:
        """End a transaction; what it wrote stays."""

    def rollback(self) -> Awaitable[None]:
        """End a transaction; what it wrote is gone."""


def job_of(plan: Plan, *, origin: str, at: float) -> JobInfo:
    """Return what a ledger keeps of a plan besides its pairs."""
    return JobInfo(
        kind=plan.kind,
        origin=origin,
        fingerprint=plan.fingerprint,
        source=plan.source,
        digest=plan.digest,
        columns=plan.columns,
        merges=len(plan.merges),
        begun_at=at,
    )


def job_row(job: JobInfo) -> tuple[Any, ...]:
    """Return the row of a job, as ``JOB`` wants it."""
    columns = msgspec.json.encode(job.columns).decode()
    return (*msgspec.structs.astuple(job)[:5], columns, job.merges, job.begun_at)


def pair_rows(plan: Plan, at: float) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of all pairs of a plan, as ``PAIR`` wants them."""
    numbers = count(1)
    encode = msgspec.json.encode
    for merge in plan.merges:
        row = merge.row
        asked = None if row.primary_id == merge.primary_id else row.primary_id
        ids = (next(numbers), row.line, merge.primary_id, merge.duplicate_id)
        extra = encode(row.extra).decode()
        yield (*ids, str(PairState.PLANNED), 1, asked, extra, None, at, None)
    for left in plan.left_out:
        row = left.row
        ids = (next(numbers), row.line, row.primary_id, row.duplicate_id)
        extra = encode(row.extra).decode()
        yield (*ids, str(PairState.REFUSED), 0, None, extra, left.reason, None, at)


def transition_row(seq: int, transition: Transition) -> tuple[Any, ...]:
    """Return the row of a step, as ``STEP`` wants it."""
    number, state = transition.number, str(transition.state)
    told = (transition.at, transition.reason, transition.task_url, transition.merge_id)
    return (seq, number, state, *told, number, state)


def to_job(rows: Iterable[Sequence[Any]]) -> JobInfo | None:
    """Return the job of a ledger, or none if it was not begun."""
    for row in rows:
        values = dict(zip(JobInfo.__struct_fields__, row, strict=True))
        values["columns"] = msgspec.json.decode(str(values["columns"]))
        return msgspec.convert(values, JobInfo)
    return None


def to_pairs(rows: Iterable[Sequence[Any]]) -> list[Pair]:
    """Return the pairs that ``GET_PAIRS`` has found."""
    decode = msgspec.json.decode
    pairs = [dict(zip(Pair.__struct_fields__, row, strict=False)) for row in rows]
    for pair in pairs:
        pair["is_planned"] = bool(pair["is_planned"])
        pair["extra"] = decode(str(pair["extra"]))
    return msgspec.convert(pairs, list[Pair])


def to_history(rows: Iterable[Sequence[Any]]) -> list[LoggedTransition]:
    """Return the steps that ``GET_LOG`` has found."""
    fields = Transition.__struct_fields__
    steps = [
        {"seq": seq, "transition": dict(zip(fields, transition, strict=True))}
        for seq, *transition in rows
    ]
    return msgspec.convert(steps, list[LoggedTransition])


def to_dict(rows: Iterable[Sequence[Any]], kind: type[T]) -> T:
    """Return rows of a key and a value as a mapping of the kind that is asked for."""
    return msgspec.convert(dict(map(tuple, rows)), kind)
