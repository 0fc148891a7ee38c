"""The rules of a ledger, in every store: on virtual time."""

import asyncio
import itertools
import math
from collections.abc import Iterable
from io import BytesIO

import pytest
from hypothesis import HealthCheck, given, settings
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
from tests.dedupe.ledger.conftest import (
    FAILED,
    ORIGIN,
    PLANNED,
    REFUSED,
    SENDING,
    STARTED,
    SUCCEEDED,
    TASK,
    UNSETTLED,
    Store,
    attempt,
    begin,
    plan_of,
    transition_of,
)
from tests.profiles import examples
from tests.servers import client_tasks


ROUTES: dict[PairState, list[PairState]] = {
    PLANNED: [],
    SENDING: [SENDING],
    STARTED: [SENDING, STARTED],
    SUCCEEDED: [SENDING, STARTED, SUCCEEDED],
    FAILED: [SENDING, STARTED, FAILED],
    REFUSED: [SENDING, REFUSED],
    UNSETTLED: [SENDING, UNSETTLED],
}


async def test_begin_keeps_the_whole_plan(store: Store) -> None:
    """A ledger has the pairs in the order of the plan, then the skipped rows, with all columns."""
    text = b"primary_id,duplicate_id,owner\n1,2,Ann\n2,3,Bob\n7,8,\n9,10,Eve\n"
    plan = Plan.read(BytesIO(text), kind="company", source="pairs.csv", protect=[8])
    finding = transition_of(2, REFUSED, at=1.0, reason="gone")
    async with store.writer() as ledger:
        await begin(ledger, plan, [finding], records={1: b'{"id":1}'})
        job = ledger.job
        pairs = await ledger.pairs()
        ledger.check(plan, origin=ORIGIN)
    async with store.reader() as again:
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
        [transition_of(3, REFUSED)],
        [transition_of(1, FAILED)],
        [transition_of(1, SENDING), transition_of(1, SENDING)],
    ],
)
async def test_findings_are_allowed_transitions(store: Store, findings: list[Transition]) -> None:
    """A finding that is no allowed transition is refused, and the ledger remains empty."""
    async with store.writer() as ledger:
        with pytest.raises(LedgerError, match="at the beginning of a job"):
            await begin(ledger, plan_of(2), findings)
        assert ledger.job is None
        await begin(ledger, plan_of(2), [transition_of(1, SENDING), transition_of(2, SUCCEEDED)])
        totals = await ledger.totals()
    assert totals == dict.fromkeys(PairState, 0) | {SENDING: 1, SUCCEEDED: 1}


async def test_only_allowed_transitions_are_recorded(ledger: Ledger) -> None:
    """Every transition that is not allowed fails and changes nothing."""
    cases = [(before, after) for before in PairState for after in PairState]
    for number, (before, after) in enumerate(cases, 1):
        for state in ROUTES[before]:
            _ = await ledger.record(transition_of(number, state))
        (pair,) = [pair for pair in await ledger.pairs(before) if pair.number == number]
        seq = await ledger.last_seq()
        transition = transition_of(number, after, at=3.0)
        if after in ALLOWED_TRANSITIONS[before]:
            assert await ledger.record(transition) > seq
            pair = pair.after(transition)
        else:
            with pytest.raises(LedgerError, match=f"pair {number} did not become {after}"):
                _ = await ledger.record(transition)
            assert await ledger.last_seq() == seq
        assert pair in await ledger.pairs()


async def test_a_transition_of_no_pair(ledger: Ledger) -> None:
    """The error for an unknown pair has its number."""
    with pytest.raises(LedgerError, match="there is no pair 101"):
        _ = await ledger.record(transition_of(101, SENDING))


DrawnTransition = tuple[int, PairState, str | None, str | None, int | None]


DRAWN_TRANSITIONS = st.tuples(
    st.integers(1, 5),
    st.sampled_from(PairState),
    st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    st.none() | st.just(TASK),
    st.none() | st.integers(1, 9),
)


class Model:
    """The pairs and the log that a ledger is expected to have, in memory."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self.pairs = {pair.number: pair for pair in pairs}
        self.log: list[Transition] = []

    def take(self, transition: Transition) -> bool:
        pair = self.pairs.get(transition.number)
        if pair is None or transition.state not in ALLOWED_TRANSITIONS[pair.state]:
            return False
        self.pairs[transition.number] = pair.after(transition)
        self.log.append(transition)
        return True


async def compare(ledger: Ledger, model: Model) -> None:
    pairs = [*model.pairs.values()]
    states = [pair.state for pair in pairs]
    assert await ledger.pairs() == pairs
    assert await ledger.totals() == {state: states.count(state) for state in PairState}
    assert [logged.transition for logged in await ledger.history()] == model.log
    for state in PairState:
        assert await ledger.pairs(state) == [pair for pair in pairs if pair.state is state]


NAMES = map(str, itertools.count())


@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example needs a new name
)
@given(sessions=st.lists(st.lists(st.lists(DRAWN_TRANSITIONS, max_size=6), max_size=5), max_size=3))
async def test_a_ledger_matches_a_model(
    store: Store, sessions: list[list[list[DrawnTransition]]]
) -> None:
    """After any batches of transitions and any reopening, a ledger matches the model."""
    name = next(NAMES)
    async with store.writer(name) as ledger:
        await begin(ledger, plan_of(4))
        model = Model(await ledger.pairs())
    time = 1.0
    for batches in sessions:
        async with store.writer(name) as ledger:
            for batch in batches:
                time += 1.0
                transitions = [
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
                seqs = await asyncio.gather(
                    *[attempt(ledger, transition) for transition in transitions]
                )
                assert [seq is not None for seq in seqs] == [model.take(one) for one in transitions]
                written = [seq for seq in seqs if seq is not None]
                assert written == sorted(set(written))
            await compare(ledger, model)


@pytest.mark.parametrize(
    "wrong",
    [
        transition_of(2, FAILED),
        transition_of(2**64, SENDING),
        transition_of(2, SENDING, at=math.nan),
        transition_of(2, SENDING, reason="\ud800"),
        transition_of(2, SENDING, merge_id=2**64),
    ],
    ids=["step", "number", "time", "text", "merge"],
)
async def test_a_wrong_transition_fails_alone(ledger: Ledger, wrong: Transition) -> None:
    """In a shared commit, only transitions that are not allowed or cannot be stored fail."""
    transitions = [transition_of(1, SENDING), wrong, transition_of(3, SENDING)]
    seqs = await asyncio.gather(*[attempt(ledger, transition) for transition in transitions])
    assert [seq is not None for seq in seqs] == [True, False, True]
    assert [pair.number for pair in await ledger.pairs(SENDING)] == [1, 3]
    assert await attempt(ledger, transition_of(4, SENDING)) is not None


async def test_a_cancelled_transition_is_written(ledger: Ledger) -> None:
    """Cancelling a call does not undo its write."""
    async with asyncio.TaskGroup() as group:
        transition = group.create_task(ledger.record(transition_of(1, SENDING)))
        await asyncio.sleep(0)
        _ = transition.cancel()
    assert [pair.number for pair in await ledger.pairs(SENDING)] == [1]


async def test_a_cancelled_begin_is_written(store: Store) -> None:
    """A cancelled ``begin`` is written nevertheless, and ``job`` is set."""
    async with store.writer() as ledger:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(begin(ledger, plan_of(2)))
            await asyncio.sleep(0)
            _ = task.cancel()
        job = ledger.job
        assert job is not None
    async with store.reader() as again:
        assert again.job == job


async def test_closing_writes_what_is_queued(store: Store) -> None:
    """Transitions queued before the scope ends are written; later ones are refused."""
    ledger = store.writer()
    async with asyncio.TaskGroup() as group, ledger:
        await begin(ledger, plan_of(9))
        transitions = [
            group.create_task(ledger.record(transition_of(n, SENDING))) for n in (1, 2, 3)
        ]
        await asyncio.sleep(0)
    assert [transition.result() for transition in transitions] == [1, 2, 3]
    async with store.reader() as again:
        assert await again.last_seq() == 3


async def test_a_ledger_outside_its_scope(store: Store) -> None:
    """Before and after its scope, a ledger reports that it is not open."""
    ledger = store.writer()
    assert repr(ledger) == f"<Ledger {ledger.path}: closed>"
    with pytest.raises(LedgerError, match="not open: use it within its `async with`"):
        _ = await ledger.pairs()
    async with ledger:
        assert repr(ledger) == f"<Ledger {ledger.path}: open>"
        await begin(ledger, plan_of(1))
    with pytest.raises(LedgerError, match="not open"):
        _ = await ledger.record(transition_of(1, SENDING))
    with pytest.raises(LedgerError, match="can be entered once"):
        async with ledger:
            pass


async def test_an_error_of_the_body_is_raised_unchanged(store: Store) -> None:
    """An exception raised inside the scope is not wrapped in an ExceptionGroup."""
    with pytest.raises(KeyError):
        async with store.writer():
            raise KeyError


async def test_a_crash_while_it_is_opened(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug while a ledger is opened is raised there, and leaves no task and no lock."""
    monkeypatch.setattr(Ledger, "_prepare", lambda _, __: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await store.writer().__aenter__()
    monkeypatch.undo()
    async with store.writer():
        pass
    assert client_tasks() == []


async def session(store: Store, name: str) -> None:
    """Use a ledger with several awaits at which it can be cancelled."""
    async with store.writer(name) as ledger:
        if ledger.job is None:
            await begin(ledger, plan_of(3))
        for number in (1, 2, 3):
            _ = await attempt(ledger, transition_of(number, SENDING))
        _ = await ledger.pairs()


async def run_until_cancelled(store: Store, name: str, turns: int, again: int) -> bool:
    """Cancel a session after so many iterations of the loop, and again some iterations later."""
    task = asyncio.create_task(session(store, name))
    for _ in range(turns):
        await asyncio.sleep(0)
    for _ in range(again):
        _ = task.cancel()
        await asyncio.sleep(0)
    _ = await asyncio.wait([task])
    return task.cancelled()


@pytest.mark.parametrize("again", [1, 2])
async def test_cancelled_at_each_await(store: Store, again: int) -> None:
    """At whichever await a session is cancelled, it ends, and no task or lock remains."""
    turns = 0
    tasks = asyncio.all_tasks()
    while await run_until_cancelled(store, str(turns), turns, again):
        assert asyncio.all_tasks() == tasks
        async with store.writer(str(turns)) as ledger:
            sending = [pair.number for pair in await ledger.pairs(SENDING)]
            assert sending == [logged.transition.number for logged in await ledger.history()]
        turns += 1
    assert turns > 20


async def test_one_writer_at_a_time(store: Store, ledger: Ledger) -> None:
    """A second writer, even in the same process, raises an error that names the holder."""
    with pytest.raises(LedgerError) as caught:
        async with store.writer():
            pass
    assert ledger.holder in str(caught.value)
    assert "wait until that has ended, or stop it" in str(caught.value)


async def test_the_holder_is_named_with_its_time(store: Store) -> None:
    """The holder has the process, the host and the time in UTC; it is empty after closing."""
    async with store.writer(clock=lambda: 0.0) as ledger:
        holder = ledger.holder
        assert holder.startswith("process ")
        assert holder.endswith(" since 1970-01-01 00:00:00 UTC")
        assert await ledger.notes() == {}
    async with store.reader() as again:
        assert again.holder == ""


async def test_notes_outlive_the_process(store: Store, ledger: Ledger) -> None:
    """Notes are stored by name, the last value counts, and ``None`` deletes a note."""
    await ledger.note(anchor="1", calls="2")
    await ledger.note(anchor="3", calls=None)
    await ledger.note(stopped=None)
    assert await ledger.notes() == {"anchor": "3"}
    async with store.reader() as again:
        assert await again.notes() == {"anchor": "3"}


async def test_merges_are_identified(ledger: Ledger) -> None:
    """The server's ids of merges are stored, and cleared when the pair is planned again."""
    for state in (SENDING, STARTED, FAILED):
        _ = await ledger.record(transition_of(1, state))
    await ledger.record_merge_ids({1: 11, 2: 22})
    assert [pair.merge_id for pair in (await ledger.pairs())[:3]] == [11, 22, None]
    _ = await ledger.record(transition_of(1, PLANNED))
    assert [pair.merge_id for pair in (await ledger.pairs())[:3]] == [None, 22, None]


async def test_snapshots_come_in_pieces(store: Store) -> None:
    """All snapshots are read in the order of their ids, however many there are."""
    records = {number: b"%d" % number for number in range(1, 1102)}
    async with store.writer() as ledger:
        await begin(ledger, plan_of(1), records=dict(reversed(records.items())))
        assert [each async for each in ledger.snapshots()] == [*records.items()]
        assert await ledger.records([1100, 5, 5000]) == {5: b"5", 1100: b"1100"}


async def test_the_log_is_followed(ledger: Ledger) -> None:
    """``history`` after a transition has all later transitions, as they were recorded."""
    transitions = [
        transition_of(1, SENDING),
        transition_of(1, STARTED, at=3.5, task_url=TASK),
        transition_of(1, FAILED, reason="no", merge_id=7),
    ]
    seqs = [await ledger.record(transition) for transition in transitions]
    logged = [
        LoggedTransition(seq=seq, transition=transition)
        for seq, transition in zip(seqs, transitions, strict=True)
    ]
    assert await ledger.history() == logged
    assert await ledger.history(after=seqs[0]) == logged[1:]
    assert await ledger.last_seq() == seqs[-1]


async def test_check_names_each_difference(ledger: Ledger) -> None:
    """One error names each difference in kind, server, input and plan, and what to do."""
    ledger.check(plan_of(100), origin=ORIGIN)
    other = replace(plan_of(2), kind="person", source="new.csv")
    with pytest.raises(LedgerError) as caught:
        ledger.check(other, origin="http://127.0.0.1:8080")
    for text in (
        "this is the ledger of another job",
        "it merges company records, not person records",
        "its server is https://api.affinity.co, not http://127.0.0.1:8080",
        "its input was the pairs, which is not new.csv as it is now",
        f"Continue that job: `aiotasks resume {ledger.path}`. When it is over, move its file",
    ):
        assert text in str(caught.value)


async def test_another_plan_of_the_same_input(ledger: Ledger) -> None:
    """With different rules, the same input gives a different plan."""
    with pytest.raises(LedgerError, match="its plan has 100 merges, and this one 2, not the same"):
        ledger.check(replace(plan_of(2), digest=plan_of(100).digest), origin=ORIGIN)


async def test_check_names_no_more(ledger: Ledger) -> None:
    """Only differences are named: here only a column differs."""
    with pytest.raises(LedgerError) as caught:
        ledger.check(replace(plan_of(100), digest="0"), origin=ORIGIN)
    assert str(caught.value).count("; ") == 0
    assert "its input" in str(caught.value)


async def test_some_of_many(ledger: Ledger) -> None:
    """Pairs can be read by number, and the log in part."""
    assert [pair.number for pair in await ledger.numbered([7, 3, 500])] == [3, 7]
    assert await ledger.numbered([]) == []
    for number in range(1, 11):
        _ = await ledger.record(transition_of(number, SENDING))
    transitions = await ledger.history(after=2, limit=3)
    assert [transition.seq for transition in transitions] == [3, 4, 5]
    assert [transition.seq for transition in await ledger.history(after=8)] == [9, 10]
    assert await ledger.history(limit=0) == []


async def test_there_must_be_a_job(store: Store) -> None:
    """A ledger without a job does not match any plan."""
    async with store.writer() as ledger:
        with pytest.raises(LedgerError, match="there is no job in it yet"):
            ledger.check(plan_of(1), origin=ORIGIN)
