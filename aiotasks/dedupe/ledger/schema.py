"""The ledger's tables and statements, and the conversion between rows and structs."""

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
"""``aiot``, in the header field of SQLite files that names their application."""

_STATES = ", ".join(f"'{state}'" for state in PairState)

# The version and the application are set with the tables, before there is a write-ahead log, so they
# are in the file's first page whatever happens to the log.
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
CREATE TRIGGER transition AFTER INSERT ON log WHEN NEW.state NOT IN ('planned', 'sending') BEGIN
  UPDATE pairs SET
    state = NEW.state,
    reason = NEW.reason,
    task_url = coalesce(NEW.task_url, task_url),
    merge_id = coalesce(NEW.merge_id, merge_id),
    started_at = CASE NEW.state WHEN 'started' THEN NEW.at ELSE started_at END,
    ended_at = CASE WHEN NEW.state <> 'started' THEN NEW.at END
  WHERE number = NEW.number;
END;
CREATE TRIGGER attempt AFTER INSERT ON log WHEN NEW.state IN ('planned', 'sending') BEGIN
  UPDATE pairs SET
    state = NEW.state, reason = NULL, task_url = NULL, merge_id = NULL,
    planned_at = CASE NEW.state WHEN 'planned' THEN NEW.at ELSE planned_at END,
    sending_at = CASE NEW.state WHEN 'sending' THEN NEW.at END,
    started_at = NULL, ended_at = NULL
  WHERE number = NEW.number;
END;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
COMMIT;
"""  # noqa: S608 - made of our own words
# FULL syncs the log at each commit: in WAL mode, NORMAL may lose commits when the power fails.
# fullfsync does on macOS what fsync does elsewhere. See https://www.sqlite.org/pragma.html.
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
# A transition is appended only if the pair's state on disk allows it, and a trigger of the same
# statement then changes the pair: log and state can never differ.
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
MERGE_ID: Final = "UPDATE pairs SET merge_id = ? WHERE number = ?"

# It never waits for readers, and writes all that they do not need any more in its old form.
CHECKPOINT: Final = "PRAGMA wal_checkpoint(PASSIVE)"

GET_VERSION: Final = "PRAGMA user_version"
GET_FORMAT: Final = """
SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version
"""
# The first finding is enough. quick_check takes linear time, integrity_check does not.
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
GET_TASK_URLS: Final = "SELECT DISTINCT task_url FROM log WHERE task_url IS NOT NULL"
GET_SEQS: Final = "SELECT seq FROM log WHERE seq > ?"
GET_LAST_SEQ: Final = "SELECT coalesce(max(seq), 0) FROM log"
# With a dot, no note of a caller can have this name: those are keywords of ``note``.
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
    """The methods of aiosqlite's connection that a ledger uses."""

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
        """Commit a transaction."""

    def rollback(self) -> Awaitable[None]:
        """Roll a transaction back."""


def job_of(plan: Plan, *, origin: str, at: float) -> JobInfo:
    """Return what a ledger stores of a plan besides its pairs."""
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
    """Return the row of a job, as ``JOB`` takes it."""
    columns = msgspec.json.encode(job.columns).decode()
    return (*msgspec.structs.astuple(job)[:5], columns, job.merges, job.begun_at)


def pair_rows(plan: Plan, at: float) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of all pairs of a plan, as ``PAIR`` takes them."""
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


def note_rows(plan: Plan) -> list[tuple[str, str]]:
    """Return the rows of what is noted of a plan, as ``NOTE`` takes them."""
    notes = {
        "no_new_company": "yes" if plan.no_new_company else None,
        "separator": None if plan.separator == "," else plan.separator,
        "understood": "\n".join(plan.understood) or None,
    }
    return [(name, text) for name, text in notes.items() if text is not None]


def transition_row(seq: int, transition: Transition) -> tuple[Any, ...]:
    """Return the row of a transition, as ``TRANSITION`` takes it."""
    number, state = transition.number, str(transition.state)
    values = (transition.at, transition.reason, transition.task_url, transition.merge_id)
    return (seq, number, state, *values, number, state)


def to_job(rows: Iterable[Sequence[Any]]) -> JobInfo | None:
    """Return the job of a ledger, or ``None`` if none was begun."""
    for row in rows:
        values = dict(zip(JobInfo.__struct_fields__, row, strict=True))
        values["columns"] = msgspec.json.decode(str(values["columns"]))
        return msgspec.convert(values, JobInfo)
    return None


def to_pairs(rows: Iterable[Sequence[Any]]) -> list[Pair]:
    """Return the pairs in rows of ``GET_PAIRS``."""
    decode = msgspec.json.decode
    pairs = [dict(zip(Pair.__struct_fields__, row, strict=False)) for row in rows]
    for pair in pairs:
        pair["is_planned"] = bool(pair["is_planned"])
        pair["extra"] = decode(str(pair["extra"]))
    return msgspec.convert(pairs, list[Pair])


def to_history(rows: Iterable[Sequence[Any]]) -> list[LoggedTransition]:
    """Return the transitions in rows of ``GET_LOG``."""
    fields = Transition.__struct_fields__
    transitions = [
        {"seq": seq, "transition": dict(zip(fields, transition, strict=True))}
        for seq, *transition in rows
    ]
    return msgspec.convert(transitions, list[LoggedTransition])


def to_dict(rows: Iterable[Sequence[Any]], kind: type[T]) -> T:
    """Return rows of a key and a value as a mapping of a type."""
    return msgspec.convert(dict(map(tuple, rows)), kind)
