"""The ledger's rules, on virtual time and a connection without threads."""

import asyncio
import math
import os
import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from aiotasks import LedgerError
from aiotasks.dedupe.ledger import Ledger
from aiotasks.dedupe.models import (
    ALLOWED_TRANSITIONS,
    JobInfo,
    LoggedTransition,
    Pair,
    PairState,
    Transition,
)
from aiotasks.dedupe.plan import Plan
from benchmarks import inline
from tests.profiles import examples


ORIGIN = "https://api.affinity.co"
TASK = "https://api.affinity.co/v2/tasks/company-merges/00000000-0000-4000-8000-000000000001"
PLANNED, SENDING, STARTED, SUCCEEDED, FAILED, REFUSED, UNSETTLED = PairState

ROUTES: dict[PairState, list[PairState]] = {
    PLANNED: [],
    SENDING: [SENDING],
    STARTED: [SENDING, STARTED],
    SUCCEEDED: [SENDING, STARTED, SUCCEEDED],
    FAILED: [SENDING, STARTED, FAILED],
    REFUSED: [SENDING, REFUSED],
    UNSETTLED: [SENDING, UNSETTLED],
}


def plan_of(count: int) -> Plan:
    """Return a plan of so many merges that share no record."""
    return Plan.of([(2 * n - 1, 2 * n) for n in range(1, count + 1)], kind="company")


def transition(number: int, state: PairState, at: float = 2.0, **told: Any) -> Transition:
    return Transition(number=number, state=state, at=at, **told)


async def begin(
    ledger: Ledger, plan: Plan, findings: Sequence[Transition] = (), **told: Any
) -> None:
    settings = {"origin": ORIGIN, "records": {}, "at": 1.0, **told}
    await ledger.begin(plan, findings=findings, **settings)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "job.db"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    """A ledger of a hundred pairs."""
    async with Ledger(path, connect=inline.connect) as ledger:
        await begin(ledger, plan_of(100))
        yield ledger


class Faulty(inline.Connection):
    """A connection that counts its commits, and fails or waits when it is told to."""

    commits = 0
    failure: Exception | None = None
    gate: asyncio.Event | None = None

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await super().__aexit__(exc_type, exc, traceback)
        if Faulty.failure is not None:
            raise Faulty.failure

    async def commit(self) -> None:
        if Faulty.gate is not None:
            _ = await Faulty.gate.wait()
        if Faulty.failure is not None:
            raise Faulty.failure
        Faulty.commits += 1
        await super().commit()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> type[Faulty]:
    for name, value in {"commits": 0, "failure": None, "gate": None}.items():
        monkeypatch.setattr(Faulty, name, value)
    return Faulty


def connect_faulty(database: str, **settings: Any) -> Faulty:
    return Faulty(database, settings)


async def test_begin_keeps_the_whole_plan(path: Path) -> None:
    """A ledger has the pairs of a plan in its order, then what was left out, with all columns."""
    text = b"primary_id,duplicate_id,owner\n1,2,Ann\n2,3,Bob\n7,8,\n9,10,Eve\n"
    plan = Plan.read(BytesIO(text), kind="company", source="pairs.csv", protect=[8])
    finding = transition(2, REFUSED, at=1.0, reason="gone")
    async with Ledger(path, connect=inline.connect) as ledger:
        await begin(ledger, plan, [finding], records={1: b'{"id":1}'})
        job = ledger.job
        pairs = await ledger.pairs()
        ledger.check(plan, origin=ORIGIN)
    async with Ledger.reading(path, connect=inline.connect) as again:
        assert again.job == job
        assert await again.pairs() == pairs
        assert await again.records([1, 2]) == {1: b'{"id":1}'}
        assert await again.history() == [LoggedTransition(seq=1, transition=finding)]
        again.check(plan, origin=ORIGIN)
    assert job == JobInfo(
        kind="company",
        origin=ORIGIN,
        fingerprint=plan.fingerprint,
        source="pairs.csv",
        digest=plan.digest,
        columns=("owner",),
        merges=3,
        begun_at=1.0,
    )
    expected = [
        Pair(
            number=number,
            line=merge.row.line,
            primary_id=merge.primary_id,
            duplicate_id=merge.duplicate_id,
            state=PLANNED,
            asked_primary_id=2 if merge.duplicate_id == 3 else None,
            extra=merge.row.extra,
            planned_at=1.0,
        )
        for number, merge in enumerate(plan.merges, 1)
    ]
    expected[1] = expected[1].after(finding)
    (left,) = plan.left_out
    left_out = Pair(
        number=4,
        line=4,
        primary_id=7,
        duplicate_id=8,
        state=REFUSED,
        is_planned=False,
        extra={"owner": ""},
        reason=left.reason,
        ended_at=1.0,
    )
    assert pairs == [*expected, left_out]


async def test_a_ledger_has_one_job(ledger: Ledger) -> None:
    """A second begin is refused and changes nothing."""
    with pytest.raises(LedgerError, match="has a job already: `aiotasks resume"):
        await begin(ledger, plan_of(1))
    assert len(await ledger.pairs()) == 100


@pytest.mark.parametrize(
    "findings",
    [
        [transition(3, REFUSED)],
        [transition(1, FAILED)],
        [transition(1, SENDING), transition(1, SENDING)],
    ],
)
async def test_findings_obey_the_rules(path: Path, findings: list[Transition]) -> None:
    """A finding that no step allows is refused, and the ledger stays a new one."""
    async with Ledger(path, connect=inline.connect) as ledger:
        with pytest.raises(LedgerError, match="no step leads pair"):
            await begin(ledger, plan_of(2), findings)
        assert ledger.job is None
        await begin(ledger, plan_of(2), [transition(1, SENDING), transition(2, SUCCEEDED)])
        totals = await ledger.totals()
    assert totals == dict.fromkeys(PairState, 0) | {SENDING: 1, SUCCEEDED: 1}


async def test_only_followers_may_follow(ledger: Ledger) -> None:
    """Of all steps from a state to a state, those that are not allowed fail and change nothing."""
    cases = [(before, after) for before in PairState for after in PairState]
    for number, (before, after) in enumerate(cases, 1):
        for state in ROUTES[before]:
            _ = await ledger.record(transition(number, state))
        (pair,) = [pair for pair in await ledger.pairs(before) if pair.number == number]
        seq = await ledger.last_seq()
        step = transition(number, after, at=3.0)
        if after in ALLOWED_TRANSITIONS[before]:
            assert await ledger.record(step) > seq
            pair = pair.after(step)
        else:
            with pytest.raises(LedgerError, match=f"pair {number} did not become {after}"):
                _ = await ledger.record(step)
            assert await ledger.last_seq() == seq
        assert pair in await ledger.pairs()


async def test_a_step_of_no_pair(ledger: Ledger) -> None:
    """A number that no pair has is named."""
    with pytest.raises(LedgerError, match="there is no pair 101"):
        _ = await ledger.record(transition(101, SENDING))


Step = tuple[int, PairState, str | None, str | None, int | None]
STEPS = st.tuples(
    st.integers(1, 5),
    st.sampled_from(PairState),
    st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    st.none() | st.just(TASK),
    st.none() | st.integers(1, 9),
)


class Model:
    """What a ledger is to be, in memory."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self.pairs = {pair.number: pair for pair in pairs}
        self.log: list[Transition] = []

    def take(self, step: Transition) -> bool:
        pair = self.pairs.get(step.number)
        if pair is None or step.state not in ALLOWED_TRANSITIONS[pair.state]:
            return False
        self.pairs[step.number] = pair.after(step)
        self.log.append(step)
        return True


async def attempt(ledger: Ledger, step: Transition) -> int | None:
    try:
        return await ledger.record(step)
    except LedgerError:
        return None


async def compare(ledger: Ledger, model: Model) -> None:
    pairs = [*model.pairs.values()]
    states = [pair.state for pair in pairs]
    assert await ledger.pairs() == pairs
    assert await ledger.totals() == {state: states.count(state) for state in PairState}
    assert [logged.transition for logged in await ledger.history()] == model.log
    for state in PairState:
        assert await ledger.pairs(state) == [pair for pair in pairs if pair.state is state]


@settings(max_examples=examples(60), deadline=None)
@given(sessions=st.lists(st.lists(st.lists(STEPS, max_size=6), max_size=5), max_size=3))
async def test_a_ledger_is_what_it_was_told(sessions: list[list[list[Step]]]) -> None:
    """Over any batches of steps and any reopening, pairs, totals and log are those of a model."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "job.db"
        async with Ledger(path, connect=inline.connect) as ledger:
            await begin(ledger, plan_of(4))
            model = Model(await ledger.pairs())
        time = 1.0
        for batches in sessions:
            async with Ledger(path, connect=inline.connect) as ledger:
                for batch in batches:
                    time += 1.0
                    steps = [
                        Transition(
                            number=number,
                            state=state,
                            at=time,
                            reason=reason,
                            task_url=task_url,
                            merge_id=merge_id,
                        )
                        for number, state, reason, task_url, merge_id in batch
                    ]
                    seqs = await asyncio.gather(*[attempt(ledger, step) for step in steps])
                    assert [seq is not None for seq in seqs] == [model.take(one) for one in steps]
                    written = [seq for seq in seqs if seq is not None]
                    assert written == sorted(set(written))
                await compare(ledger, model)


async def test_calls_share_a_commit(path: Path, faulty: type[Faulty]) -> None:
    """What is asked for while a commit is under way goes into the next one, all of it."""
    async with Ledger(path, connect=connect_faulty) as ledger:
        await begin(ledger, plan_of(100))
        before = faulty.commits
        numbers = range(1, 101)
        seqs = await asyncio.gather(*[ledger.record(transition(n, SENDING)) for n in numbers])
        assert faulty.commits == before + 1
    assert seqs == [*range(1, 101)]


async def test_answers_come_after_the_commit(path: Path, faulty: type[Faulty]) -> None:
    """Nobody is told, and nobody can read, what is not committed yet."""
    async with Ledger(path, connect=connect_faulty) as ledger:
        await begin(ledger, plan_of(2))
        faulty.gate = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            step = group.create_task(ledger.record(transition(1, SENDING)))
            await asyncio.sleep(1)
            totals = group.create_task(ledger.totals())
            await asyncio.sleep(1)
            assert not step.done()
            assert not totals.done()
            faulty.gate.set()
        assert totals.result()[SENDING] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        transition(2, STARTED),
        transition(2**64, SENDING),
        transition(2, SENDING, at=math.nan),
        transition(2, SENDING, reason="\ud800"),
        transition(2, SENDING, merge_id=2**64),
    ],
    ids=["step", "number", "time", "text", "merge"],
)
async def test_a_wrong_step_costs_nobody_else(ledger: Ledger, wrong: Transition) -> None:
    """Of a shared commit only the step fails that is wrong or cannot be kept."""
    steps = [transition(1, SENDING), wrong, transition(3, SENDING)]
    seqs = await asyncio.gather(*[attempt(ledger, step) for step in steps])
    assert [seq is not None for seq in seqs] == [True, False, True]
    assert [pair.number for pair in await ledger.pairs(SENDING)] == [1, 3]
    assert await attempt(ledger, transition(4, SENDING)) is not None


async def test_what_cannot_be_kept_says_so(ledger: Ledger) -> None:
    """The error of a value that SQLite does not take has its cause."""
    with pytest.raises(LedgerError, match=r"cannot be kept .* nothing of it was written") as caught:
        await ledger.record_merge_ids({1: 2**64})
    assert isinstance(caught.value.__cause__, OverflowError)


async def test_a_cancelled_step_is_written(path: Path, ledger: Ledger) -> None:
    """Cancelling a call does not take back what it has asked for."""
    async with asyncio.TaskGroup() as group:
        step = group.create_task(ledger.record(transition(1, SENDING)))
        await asyncio.sleep(0)
        _ = step.cancel()
    assert [pair.number for pair in await ledger.pairs(SENDING)] == [1]


async def test_a_cancelled_failure_is_told_to_nobody(path: Path, faulty: type[Faulty]) -> None:
    """A caller that has gone is not told that its step could not be written."""
    async with Ledger(path, connect=connect_faulty) as ledger:
        await begin(ledger, plan_of(2))
        faulty.failure = sqlite3.OperationalError("disk I/O error")
        async with asyncio.TaskGroup() as group:
            step = group.create_task(ledger.record(transition(1, SENDING)))
            await asyncio.sleep(0)
            _ = step.cancel()
        assert await ledger.last_seq() == 0


async def test_a_failure_is_told_to_all(path: Path, faulty: type[Faulty]) -> None:
    """When SQLite cannot write, every caller gets an error of its own, and so do all later ones."""
    async with Ledger(path, connect=connect_faulty) as ledger:
        await begin(ledger, plan_of(9))
        faulty.failure = sqlite3.OperationalError("disk I/O error")
        steps = [ledger.record(transition(number, SENDING)) for number in (1, 2, 3)]
        errors = await asyncio.gather(*steps, return_exceptions=True)
        faulty.failure = None
        for later in (
            ledger.record(transition(4, SENDING)),
            ledger.note(a="b"),
            ledger.record_merge_ids({1: 1}),
        ):
            with pytest.raises(LedgerError) as caught:
                await later
            errors.append(caught.value)
        assert len({id(error) for error in errors}) == 6
        for error in errors:
            assert isinstance(error, LedgerError)
            assert str(error).startswith(f"{path}: it cannot be written (disk I/O error)")
            assert str(error).endswith("run the same command again: nothing is lost")
            assert isinstance(error.__cause__, sqlite3.OperationalError)
        assert await ledger.totals() == dict.fromkeys(PairState, 0) | {PLANNED: 9}
    async with Ledger(path, connect=inline.connect) as ledger:
        assert await ledger.record(transition(1, SENDING)) == 1


async def test_a_failure_reaches_who_came_meanwhile(path: Path, faulty: type[Faulty]) -> None:
    """A step that was queued while the failing commit was under way fails with it."""
    async with Ledger(path, connect=connect_faulty) as ledger:
        await begin(ledger, plan_of(2))
        faulty.gate = asyncio.Event()
        faulty.failure = sqlite3.OperationalError("database or disk is full")
        async with asyncio.TaskGroup() as group:
            first = group.create_task(attempt(ledger, transition(1, SENDING)))
            await asyncio.sleep(1)
            second = group.create_task(attempt(ledger, transition(2, SENDING)))
            await asyncio.sleep(1)
            faulty.gate.set()
    assert (first.result(), second.result()) == (None, None)


async def test_a_failed_begin_leaves_a_new_ledger(path: Path, faulty: type[Faulty]) -> None:
    """A job that could not be written down was not begun, here and on disk."""
    async with Ledger(path, connect=connect_faulty) as ledger:
        faulty.failure = sqlite3.OperationalError("database or disk is full")
        with pytest.raises(LedgerError, match="free space"):
            await begin(ledger, plan_of(2))
        assert ledger.job is None
    async with Ledger(path, connect=inline.connect) as ledger:
        assert ledger.job is None
        await begin(ledger, plan_of(2))


async def test_a_cancelled_begin_is_written(path: Path) -> None:
    """A begin that was cancelled is on disk all the same, and the ledger knows."""
    async with Ledger(path, connect=inline.connect) as ledger:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(begin(ledger, plan_of(2)))
            await asyncio.sleep(0)
            _ = task.cancel()
        job = ledger.job
        assert job is not None
    async with Ledger.reading(path, connect=inline.connect) as again:
        assert again.job == job


async def test_leaving_writes_what_is_queued(path: Path) -> None:
    """Steps that were asked for before the scope is left are written; later ones are refused."""
    ledger = Ledger(path, connect=inline.connect)
    async with asyncio.TaskGroup() as group, ledger:
        await begin(ledger, plan_of(9))
        steps = [group.create_task(ledger.record(transition(n, SENDING))) for n in (1, 2, 3)]
        await asyncio.sleep(0)
    assert [step.result() for step in steps] == [1, 2, 3]
    async with Ledger.reading(path, connect=inline.connect) as again:
        assert await again.last_seq() == 3


async def test_a_ledger_outside_its_scope(path: Path) -> None:
    """Before its scope, while it is left and after it, a ledger says that it is not open."""
    ledger = Ledger(path, connect=inline.connect)
    assert repr(ledger) == f"<Ledger {path}: closed>"
    with pytest.raises(LedgerError, match="not open: use it within its `async with`"):
        _ = await ledger.pairs()
    async with ledger:
        assert repr(ledger) == f"<Ledger {path}: open>"
        await begin(ledger, plan_of(1))
    with pytest.raises(LedgerError, match="not open"):
        _ = await ledger.record(transition(1, SENDING))
    with pytest.raises(LedgerError, match="can be entered once"):
        async with ledger:
            pass


async def test_an_error_of_the_body_stays_as_it_is(path: Path) -> None:
    """What is raised inside the scope leaves it in no ExceptionGroup."""
    with pytest.raises(KeyError):
        async with Ledger(path, connect=inline.connect):
            raise KeyError


async def test_a_close_that_fails_loses_nothing(path: Path, faulty: type[Faulty]) -> None:
    """Once everything is on disk, it is nobody's matter that the file cannot be closed."""
    async with Ledger(path, connect=connect_faulty) as ledger:
        await begin(ledger, plan_of(1))
        assert await ledger.record(transition(1, SENDING)) == 1
        faulty.failure = sqlite3.OperationalError("disk I/O error")
    async with Ledger(path, connect=inline.connect) as ledger:
        assert (await ledger.totals())[SENDING] == 1


async def session(path: Path) -> None:
    """Use a ledger a little, so that there is much to cancel."""
    async with Ledger(path, connect=inline.connect) as ledger:
        if ledger.job is None:
            await begin(ledger, plan_of(3))
        for number in (1, 2, 3):
            _ = await attempt(ledger, transition(number, SENDING))
        _ = await ledger.pairs()


async def run_until_cancelled(path: Path, turns: int, again: int) -> bool:
    """Cancel a session after so many turns of the loop, and again some turns later."""
    task = asyncio.create_task(session(path))
    for _ in range(turns):
        await asyncio.sleep(0)
    for _ in range(again):
        _ = task.cancel()
        await asyncio.sleep(0)
    _ = await asyncio.wait([task])
    return task.cancelled()


@pytest.mark.parametrize("again", [1, 2])
async def test_cancelled_at_each_await(tmp_path: Path, again: int) -> None:
    """Whenever a session is cancelled, it ends, leaves no task and no lock, and tears no step."""
    turns = 0
    tasks = asyncio.all_tasks()
    while await run_until_cancelled(path := tmp_path / f"{turns}.db", turns, again):
        assert asyncio.all_tasks() == tasks
        async with Ledger(path, connect=inline.connect) as ledger:
            sending = [pair.number for pair in await ledger.pairs(SENDING)]
            assert sending == [logged.transition.number for logged in await ledger.history()]
        turns += 1
    assert turns > 20


async def test_one_writer_at_a_time(path: Path, ledger: Ledger) -> None:
    """A second ledger of the same file, in the same process too, is told who holds it."""
    with pytest.raises(LedgerError) as caught:
        async with Ledger(path, connect=inline.connect):
            pass
    assert ledger.holder in str(caught.value)
    assert "wait until that has ended, or stop it" in str(caught.value)


async def test_the_holder_is_named_with_its_time(path: Path) -> None:
    """The holder is a process and a host, since a time in UTC; nobody is when it has left."""
    async with Ledger(path, connect=inline.connect, clock=lambda: 0.0) as ledger:
        holder = ledger.holder
        assert holder.startswith("process ")
        assert holder.endswith(" since 1970-01-01 00:00:00 UTC")
        assert await ledger.notes() == {}
    async with Ledger.reading(path, connect=inline.connect) as again:
        assert again.holder == ""


async def test_a_ledger_in_an_archive(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger can be read where nothing may be written beside it."""
    async with Ledger(path, connect=inline.connect) as ledger:
        await begin(ledger, plan_of(2))
        await ledger.note(anchor="1")
    monkeypatch.setattr(os, "access", lambda *_: False)
    async with Ledger.reading(path, connect=inline.connect) as archived:
        assert await archived.notes() == {"anchor": "1"}
        assert not path.with_name("job.db-wal").exists()


async def test_notes_outlive_the_process(path: Path, ledger: Ledger) -> None:
    """Notes are kept by name, the last one counts, and ``None`` forgets one."""
    await ledger.note(anchor="1", calls="2")
    await ledger.note(anchor="3", calls=None)
    await ledger.note(stopped=None)
    assert await ledger.notes() == {"anchor": "3"}
    async with Ledger.reading(path, connect=inline.connect) as again:
        assert await again.notes() == {"anchor": "3"}


async def test_merges_are_identified(ledger: Ledger) -> None:
    """The server's ids of merges are kept, and forgotten when the pair is planned again."""
    for state in (SENDING, STARTED, FAILED):
        _ = await ledger.record(transition(1, state))
    await ledger.record_merge_ids({1: 11, 2: 22})
    assert [pair.merge_id for pair in (await ledger.pairs())[:3]] == [11, 22, None]
    _ = await ledger.record(transition(1, PLANNED))
    assert [pair.merge_id for pair in (await ledger.pairs())[:3]] == [None, 22, None]


async def test_snapshots_come_in_pieces(path: Path) -> None:
    """All records are read, in the order of their ids, however many there are."""
    records = {number: b"%d" % number for number in range(1, 1102)}
    async with Ledger(path, connect=inline.connect) as ledger:
        await begin(ledger, plan_of(1), records=dict(reversed(records.items())))
        assert [each async for each in ledger.snapshots()] == [*records.items()]
        assert await ledger.records([1100, 5, 5000]) == {5: b"5", 1100: b"1100"}


async def test_the_log_is_followed(ledger: Ledger) -> None:
    """History after a step has all later ones, as they were told."""
    steps = [
        transition(1, SENDING),
        transition(1, STARTED, at=3.5, task_url=TASK),
        transition(1, FAILED, reason="no", merge_id=7),
    ]
    seqs = [await ledger.record(step) for step in steps]
    logged = [
        LoggedTransition(seq=seq, transition=step) for seq, step in zip(seqs, steps, strict=True)
    ]
    assert await ledger.history() == logged
    assert await ledger.history(after=seqs[0]) == logged[1:]
    assert await ledger.last_seq() == seqs[-1]


async def test_check_names_each_difference(path: Path, ledger: Ledger) -> None:
    """Another kind, server, input or plan is told, all at once, with what to do."""
    ledger.check(plan_of(100), origin=ORIGIN)
    other = replace(plan_of(2), kind="person", source="new.csv")
    with pytest.raises(LedgerError) as caught:
        ledger.check(other, origin="http://127.0.0.1:8080")
    for text in (
        "this is the ledger of another job",
        "it merges company records, not person records",
        "its server is https://api.affinity.co, not http://127.0.0.1:8080",
        "its input was the pairs, which is not new.csv as it is now",
        f"Name another file with --ledger, or go on with the job that is in it: `aiotasks resume {path}`",
    ):
        assert text in str(caught.value)


async def test_another_plan_of_the_same_input(ledger: Ledger) -> None:
    """The same input gives another plan where the rules are others."""
    with pytest.raises(LedgerError, match="its plan has 100 merges, and this one 2, not the same"):
        ledger.check(replace(plan_of(2), digest=plan_of(100).digest), origin=ORIGIN)


async def test_check_names_no_more(ledger: Ledger) -> None:
    """What is the same is not named: here only a column differs."""
    with pytest.raises(LedgerError) as caught:
        ledger.check(replace(plan_of(100), digest="0"), origin=ORIGIN)
    assert str(caught.value).count("; ") == 0
    assert "its input" in str(caught.value)


@pytest.mark.parametrize("is_empty", [False, True])
async def test_there_must_be_a_ledger_to_read(path: Path, is_empty: bool) -> None:
    """No file, or an empty one, is nothing to read, and is not made."""
    if is_empty:
        path.touch()  # noqa: ASYNC240 - nobody else is to run
    with pytest.raises(LedgerError, match="there is no job in it yet: begin one"):
        async with Ledger.reading(path, connect=inline.connect):
            pass
    assert [*path.parent.iterdir()] == ([path] if is_empty else [])


async def test_some_of_many(ledger: Ledger) -> None:
    """Whoever needs only some pairs, or only the next steps, reads no others."""
    assert [pair.number for pair in await ledger.numbered([7, 3, 500])] == [3, 7]
    assert await ledger.numbered([]) == []
    for number in range(1, 11):
        _ = await ledger.record(transition(number, SENDING))
    steps = await ledger.history(after=2, limit=3)
    assert [step.seq for step in steps] == [3, 4, 5]
    assert [step.seq for step in await ledger.history(after=8)] == [9, 10]
    assert await ledger.history(limit=0) == []


async def test_there_must_be_a_job(path: Path) -> None:
    """A ledger without a job is that of no plan."""
    async with Ledger(path, connect=inline.connect) as ledger:
        with pytest.raises(LedgerError, match="there is no job in it yet"):
            ledger.check(plan_of(1), origin=ORIGIN)
