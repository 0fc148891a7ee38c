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
    transition,
)
from tests.profiles import examples


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
    """A ledger has the pairs of a plan in its order, then the skipped rows, with all columns."""
    text = b"primary_id,duplicate_id,owner\n1,2,Ann\n2,3,Bob\n7,8,\n9,10,Eve\n"
    plan = Plan.read(BytesIO(text), kind="company", source="pairs.csv", protect=[8])
    finding = transition(2, REFUSED, at=1.0, reason="gone")
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
        [transition(3, REFUSED)],
        [transition(1, FAILED)],
        [transition(1, SENDING), transition(1, SENDING)],
    ],
)
async def test_findings_obey_the_rules(store: Store, findings: list[Transition]) -> None:
    """A finding that is no allowed transition is refused, and the ledger stays empty."""
    async with store.writer() as ledger:
        with pytest.raises(LedgerError, match="at the beginning of a job"):
            await begin(ledger, plan_of(2), findings)
        assert ledger.job is None
        await begin(ledger, plan_of(2), [transition(1, SENDING), transition(2, SUCCEEDED)])
        totals = await ledger.totals()
    assert totals == dict.fromkeys(PairState, 0) | {SENDING: 1, SUCCEEDED: 1}


async def test_only_followers_may_follow(ledger: Ledger) -> None:
    """Of all transitions, those that are not allowed fail and change nothing."""
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
    """The pairs and the log that a ledger should have, in memory."""

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
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example has a new name
)
@given(sessions=st.lists(st.lists(st.lists(STEPS, max_size=6), max_size=5), max_size=3))
async def test_a_ledger_matches_a_model(store: Store, sessions: list[list[list[Step]]]) -> None:
    """After any batches of transitions and any reopening, all that is read matches a model."""
    name = next(NAMES)
    async with store.writer(name) as ledger:
        await begin(ledger, plan_of(4))
        model = Model(await ledger.pairs())
    time = 1.0
    for batches in sessions:
        async with store.writer(name) as ledger:
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
async def test_a_wrong_step_fails_alone(ledger: Ledger, wrong: Transition) -> None:
    """Of a shared commit only the transition fails that is not allowed or cannot be stored."""
    steps = [transition(1, SENDING), wrong, transition(3, SENDING)]
    seqs = await asyncio.gather(*[attempt(ledger, step) for step in steps])
    assert [seq is not None for seq in seqs] == [True, False, True]
    assert [pair.number for pair in await ledger.pairs(SENDING)] == [1, 3]
    assert await attempt(ledger, transition(4, SENDING)) is not None


async def test_a_cancelled_step_is_written(ledger: Ledger) -> None:
    """Cancelling a call does not undo its write."""
    async with asyncio.TaskGroup() as group:
        step = group.create_task(ledger.record(transition(1, SENDING)))
        await asyncio.sleep(0)
        _ = step.cancel()
    assert [pair.number for pair in await ledger.pairs(SENDING)] == [1]


async def test_a_cancelled_begin_is_written(store: Store) -> None:
    """A begin that was cancelled is on disk nevertheless, and ``job`` is set."""
    async with store.writer() as ledger:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(begin(ledger, plan_of(2)))
            await asyncio.sleep(0)
            _ = task.cancel()
        job = ledger.job
        assert job is not None
    async with store.reader() as again:
        assert again.job == job


async def test_leaving_writes_what_is_queued(store: Store) -> None:
    """Steps that were asked for before the scope is left are written; later ones are refused."""
    ledger = store.writer()
    async with asyncio.TaskGroup() as group, ledger:
        await begin(ledger, plan_of(9))
        steps = [group.create_task(ledger.record(transition(n, SENDING))) for n in (1, 2, 3)]
        await asyncio.sleep(0)
    assert [step.result() for step in steps] == [1, 2, 3]
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
        _ = await ledger.record(transition(1, SENDING))
    with pytest.raises(LedgerError, match="can be entered once"):
        async with ledger:
            pass


async def test_an_error_of_the_body_stays_as_it_is(store: Store) -> None:
    """What is raised inside the scope leaves it in no ExceptionGroup."""
    with pytest.raises(KeyError):
        async with store.writer():
            raise KeyError


async def session(store: Store, name: str) -> None:
    """Use a ledger a little, so that there is much to cancel."""
    async with store.writer(name) as ledger:
        if ledger.job is None:
            await begin(ledger, plan_of(3))
        for number in (1, 2, 3):
            _ = await attempt(ledger, transition(number, SENDING))
        _ = await ledger.pairs()


async def run_until_cancelled(store: Store, name: str, turns: int, again: int) -> bool:
    """Cancel a session after so many turns of the loop, and again some turns later."""
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
    """At whichever await a session is cancelled: it ends, and leaves no task and no lock."""
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
    """A second writer, even in the same process, gets an error that names the holder."""
    with pytest.raises(LedgerError) as caught:
        async with store.writer():
            pass
    assert ledger.holder in str(caught.value)
    assert "wait until that has ended, or stop it" in str(caught.value)


async def test_the_holder_is_named_with_its_time(store: Store) -> None:
    """The holder is a process and a host, since a time in UTC; it is empty after closing."""
    async with store.writer(clock=lambda: 0.0) as ledger:
        holder = ledger.holder
        assert holder.startswith("process ")
        assert holder.endswith(" since 1970-01-01 00:00:00 UTC")
        assert await ledger.notes() == {}
    async with store.reader() as again:
        assert again.holder == ""


async def test_notes_outlive_the_process(store: Store, ledger: Ledger) -> None:
    """Notes are stored by name, the last one counts, and ``None`` deletes one."""
    await ledger.note(anchor="1", calls="2")
    await ledger.note(anchor="3", calls=None)
    await ledger.note(stopped=None)
    assert await ledger.notes() == {"anchor": "3"}
    async with store.reader() as again:
        assert await again.notes() == {"anchor": "3"}


async def test_merges_are_identified(ledger: Ledger) -> None:
    """The server's ids of merges are stored, and cleared when the pair is planned again."""
    for state in (SENDING, STARTED, FAILED):
        _ = await ledger.record(transition(1, state))
    await ledger.record_merge_ids({1: 11, 2: 22})
    assert [pair.merge_id for pair in (await ledger.pairs())[:3]] == [11, 22, None]
    _ = await ledger.record(transition(1, PLANNED))
    assert [pair.merge_id for pair in (await ledger.pairs())[:3]] == [None, 22, None]


async def test_snapshots_come_in_pieces(store: Store) -> None:
    """All records are read, in the order of their ids, however many there are."""
    records = {number: b"%d" % number for number in range(1, 1102)}
    async with store.writer() as ledger:
        await begin(ledger, plan_of(1), records=dict(reversed(records.items())))
        assert [each async for each in ledger.snapshots()] == [*records.items()]
        assert await ledger.records([1100, 5, 5000]) == {5: b"5", 1100: b"1100"}


async def test_the_log_is_followed(ledger: Ledger) -> None:
    """History after a transition has all later ones, as they were recorded."""
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


async def test_check_names_each_difference(ledger: Ledger) -> None:
    """One error names each difference of kind, server, input and plan, with what to do."""
    ledger.check(plan_of(100), origin=ORIGIN)
    other = replace(plan_of(2), kind="person", source="new.csv")
    with pytest.raises(LedgerError) as caught:
        ledger.check(other, origin="http://127.0.0.1:8080")
    for text in (
        "this is the ledger of another job",
        "it merges company records, not person records",
        "its server is https://api.affinity.co, not http://127.0.0.1:8080",
        "its input was the pairs, which is not new.csv as it is now",
        f"Name another file with --ledger, or continue the job that is in it: `aiotasks resume {ledger.path}`",
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


async def test_some_of_many(ledger: Ledger) -> None:
    """Pairs by number, and a part of the log, are read without the others."""
    assert [pair.number for pair in await ledger.numbered([7, 3, 500])] == [3, 7]
    assert await ledger.numbered([]) == []
    for number in range(1, 11):
        _ = await ledger.record(transition(number, SENDING))
    steps = await ledger.history(after=2, limit=3)
    assert [step.seq for step in steps] == [3, 4, 5]
    assert [step.seq for step in await ledger.history(after=8)] == [9, 10]
    assert await ledger.history(limit=0) == []


async def test_there_must_be_a_job(store: Store) -> None:
    """A ledger without a job is that of no plan."""
    async with store.writer() as ledger:
        with pytest.raises(LedgerError, match="there is no job in it yet"):
            ledger.check(plan_of(1), origin=ORIGIN)
