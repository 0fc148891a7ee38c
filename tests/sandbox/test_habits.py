"""What the real server does beyond its document, as the sandbox does by default."""

import asyncio
import math
from collections import Counter
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotasks import dedupe
from aiotasks.sandbox import NOT_HTTP, PLAIN, Fault, Sandbox, SandboxMerge
from aiotasks.sandbox._log import repeated
from aiotasks.sandbox._records import COMPANY, PERSON, Directory
from aiotasks.sandbox._reply import Problem
from aiotasks.sandbox._state import MergeSettings, State
from aiotasks.sandbox._store import Store


# Of three neighbours 1, 3 and 5, each with a duplicate: 2 has the domain of 1, 4 another one than
# 3, and 6 has none.
SAME, OTHER, NONE = (1, 2), (3, 4), (5, 6)


def make(special: Any = (), *, kind: Any = COMPANY, ids: Any = 100, **settings: Any) -> State:
    """Return the merges of records, of which the special ones are global or internal."""
    store = Store(Directory(kind, ids, special=special))
    return State(kind, store, settings=MergeSettings(**settings), seed="0")


def last(state: State, now: float = math.inf) -> Any:
    """Return the last merge as it is at a time."""
    state.decide(now)
    return state.merges[-1]


def domains(state: State, record_id: int, now: float) -> list[str]:
    found: list[str] = state.record(record_id, now)["domains"]
    return found


class TestRequests:
    """No merge is refused when it is asked for; its fate is decided when it ends."""

    @pytest.mark.parametrize(
        ("pair", "reason"),
        [
            ((1, 1), None),
            ((1, 101), "Duplicate company not found"),
            ((101, 1), "Primary company not found"),
            ((1, 4), "Duplicate company not found"),
            ((4, 1), "Primary company not found"),
        ],
        ids=str,
    )
    def test_what_cannot_be_fails_later(self, pair: tuple[int, int], reason: str | None) -> None:
        """Only a record that is merged with itself is a success, which changes nothing."""
        state = make(duration=2.0)
        state.post(3, 4, 0.0)
        state.post(*pair, 5.0)
        assert last(state, 6.9).status(6.9) == "in-progress"
        merge = last(state, 7.0)
        assert (merge.status(7.0), merge.reason) == (
            "failed" if reason else "success",
            reason,
        )
        assert state.store.heirs() == {4: 3}

    def test_the_first_of_two_that_run_together_wins(self) -> None:
        """What is true when a merge ends decides it, not what was true when it began."""
        state = make()
        state.start(1, 2, 0.0, duration=9.0)
        state.start(3, 2, 1.0, duration=2.0)
        state.decide(10.0)
        assert [merge.outcome for merge in state.merges] == ["failed", "success"]

    def test_internal_persons(self) -> None:
        """An internal person can receive another one, and cannot be merged away."""
        state = make({1}, kind=PERSON)
        state.post(3, 1, 0.0)
        assert "Internal" in last(state).reason
        state.post(1, 3, 9.0)
        assert (last(state).outcome, last(state).fate.can_undo) == ("success", True)
        assert state.record(1, 99.0)["type"] == "internal"


class TestEffects:
    """What becomes of two companies depends on which of them are global, and on their domains."""

    @pytest.mark.parametrize(
        ("pair", "special", "effect"),
        [
            (SAME, (), "kept"),
            (OTHER, (), "kept"),
            (OTHER, {4}, "hidden"),
            (SAME, {1}, "local-copy"),
            (NONE, {5}, "local-copy"),
            (OTHER, {3}, "replaced"),
            (SAME, {1, 2}, "replaced"),
        ],
        ids=str,
    )
    def test_each(self, pair: tuple[int, int], special: Any, effect: str) -> None:
        """The primary, or the company that has replaced it, has the domains of both."""
        state = make(special)
        primary, duplicate = (domains(state, record_id, 0.0) for record_id in pair)
        both = [*dict.fromkeys(primary + duplicate)]
        state.post(*pair, 0.0)
        fate = last(state, 2.0).fate
        assert (fate.effect, fate.can_undo) == (effect, not special)
        heir = fate.new_id or pair[0]
        assert domains(state, heir, 2.0) == both
        assert state.record(heir, 2.0)["isGlobal"] is False
        gone = set(pair) if effect == "replaced" else {pair[1]}
        assert state.store.heirs() == dict.fromkeys(gone, heir)
        for record_id in gone:
            with pytest.raises(Problem) as caught:
                state.record(record_id, 2.0)
            assert caught.value.status == 404

    def test_a_new_company(self) -> None:
        """It has an id of its own and the name of the primary, and can be merged further."""
        state = make({3})
        name = state.record(3, 0.0)["name"]
        state.post(*OTHER, 0.0)
        new_id = last(state, 2.0).fate.new_id
        assert new_id == 101
        assert not state.is_there(new_id, 1.9)
        assert state.is_there(new_id, 2.0)
        assert state.record(new_id, 2.0)["name"] == name
        assert [*state.store.ids()] == [*range(1, 102)]
        state.post(new_id, 6, 2.0)
        assert last(state, 4.0).outcome == "success"
        state.post(7, new_id, 4.0)
        assert len(domains(state, 7, 6.0)) == 3

    def test_a_local_copy_is_local(self) -> None:
        """What a merge makes of a global primary decides what the next one makes of it."""
        state = make({1})
        state.post(*SAME, 0.0)
        state.post(1, 4, 3.0)
        assert last(state).fate.effect == "kept"

    def test_shares(self) -> None:
        """A tenth of the companies are global, and the same ones with the same seed."""
        first, second = (
            Directory(COMPANY, 2000, special=0.1, seed=seed).special_ids for seed in ("1", "2")
        )
        assert 150 < len({*first}) < 250
        assert first != second
        assert first == Directory(COMPANY, 2000, special=0.1, seed="1").special_ids


class TestLists:
    """What lists leave out, show late, or show in another order."""

    def rows(self, state: State, now: float) -> list[int]:
        return state.merge_page(now, limit=100, cursor=None, where=None).numbers

    def test_no_rows_for_global_primaries(self) -> None:
        """A merge has no row while its primary is global or gone, and its task is listed."""
        state = make({1})
        for pair in (SAME, OTHER):
            state.post(*pair, 0.0)
        assert self.rows(state, 1.0) == [2]
        with pytest.raises(Problem) as caught:
            state.merge(1, 1.0)
        assert caught.value.status == 404
        assert self.rows(state, 2.0) == [2, 1]
        assert state.merge(1, 2.0).primary_id == 1
        state.post(7, 3, 2.0)
        assert self.rows(state, 4.0) == [3, 1]
        assert state.task_page(4.0, limit=9, cursor=None, where=None).numbers == [3, 2, 1]

    def test_tasks_appear_late(self) -> None:
        """Some tasks answer 404 at first, by chance; some are listed later, or never."""
        state = make(task_lag_share=0.3, unlisted_share=0.2, list_lag=(0.0, 10.0), duration=99.0)
        tasks = [state.post(1, number, 0.0) for number in range(2, 202)]
        late = sum(task.readable > 0 for task in tasks)
        assert 40 < late < 80
        assert all(task.readable <= 2.0 for task in tasks)
        seen = [
            len(state.task_page(now, limit=500, cursor=None, where=None).numbers)
            for now in (0.0, 5.0, 10.0, 1e9)
        ]
        assert seen[0] == 0
        assert seen[1] in range(50, 120)
        assert seen[2] == seen[3] == sum(task.listed < math.inf for task in tasks)
        assert seen[2] in range(140, 180)

    @given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 20))
    def test_lists_out_of_order(self, count: int, shuffle: int, limit: int) -> None:
        """The pages of a shuffled list have each task once, at most so many places off."""
        state = make(list_shuffle=float(shuffle))
        for number in range(count):
            state.post(1, number + 2, 0.0)
        seen, page = [], state.task_page(0.0, limit=limit, cursor=None, where=None)
        seen += page.numbers
        while page.next:
            page = state.task_page(0.0, limit=limit, cursor=page.next, where=None)
            seen += page.numbers
        assert sorted(seen) == [*range(1, count + 1)]
        for place, number in enumerate(seen):
            assert all(other < number + shuffle for other in seen[place:])

    def test_a_record_is_read_from_the_past(self) -> None:
        """Records that lag are shown as they were."""
        state = make({3}, record_lag=30.0)
        state.post(*OTHER, 0.0)
        assert state.record(4, 31.9)["id"] == 4
        assert state.record(3, 31.9)["isGlobal"] is True
        assert not state.is_there(101, 31.9)
        with pytest.raises(Problem, match="There is no company 101"):
            state.record(101, 31.9)
        assert not state.is_there(3, 32.0)
        assert state.is_there(101, 32.0)


def merge(started: float, ended: float | None, outcome: str | None, **more: Any) -> SandboxMerge:
    return SandboxMerge(
        **{
            "primary_id": 1,
            "duplicate_id": 2,
            "task_url": "",
            "is_foreign": False,
            "reason": None,
            "effect": None,
            "can_undo": None,
            "new_id": None,
            "started": started,
            "ended": ended,
            "outcome": outcome,
            **more,
        }
    )


@pytest.mark.parametrize(
    ("first", "second", "is_repeated"),
    [
        (merge(0, 2, "failed"), merge(2, None, None), False),
        (merge(0, 2, "failed"), merge(1, None, None), True),
        (merge(0, 2, "success"), merge(3, 4, "failed"), True),
        (merge(0, None, None), merge(3, None, None), True),
        (merge(0, 2, "success"), merge(3, 4, "failed", primary_id=3), False),
        (merge(0, 2, "success", is_foreign=True), merge(3, 4, "failed"), False),
    ],
)
def test_repetitions(first: SandboxMerge, second: SandboxMerge, is_repeated: bool) -> None:
    """A merge is repeated if it is asked for while it runs, or after it has succeeded."""
    assert repeated([first, second]) == ({(1, 2)} if is_repeated else set())


async def test_its_memory(serve: Any) -> None:
    """The sandbox knows all merges, also those which nobody was told of."""
    async with serve(checks_posts=False, global_companies={3}) as api:
        foreign = api.sandbox.start_merge("company", 5, 6, duration=math.inf)
        api.sandbox.inject(Fault.disconnect(after_work=True))
        with pytest.raises(aiohttp.ClientError):
            await api.merge(*OTHER)
        await api.merge(*OTHER)
        await asyncio.sleep(2.0)
        other, first, second = api.sandbox.history("company")
        assert (other.task_url, other.is_foreign, other.ended) == (foreign, True, None)
        assert (first.outcome, first.effect, first.new_id) == ("success", "replaced", 2001)
        assert (second.outcome, second.effect, second.is_foreign) == ("failed", None, False)
        assert api.sandbox.repeated("company") == {OTHER}
        assert api.sandbox.repeated("person") == set()


async def test_answers_without_a_body(serve: Any) -> None:
    """Some answers about a task are a 200 without a body."""
    async with serve(empty_share=0.5) as api:
        task_url = api.sandbox.start_merge("company", 1, 2)
        lengths: Counter[bool] = Counter()
        for _ in range(40):
            async with api.session.get(task_url) as response:
                assert response.status == 200
                lengths[bool(await response.read())] += 1
        assert min(lengths.values()) > 5


async def test_a_gateway_passes_a_request_on_later(serve: Any) -> None:
    """The answer is a 504 at once; the merge starts when the time is over."""
    async with serve() as api:
        api.sandbox.inject("late=20@merge")
        assert (await api.merge(1, 2)).status == 504
        await asyncio.sleep(19.9)
        assert api.sandbox.history("company") == []
        await asyncio.sleep(0.2)
        (started,) = api.sandbox.history("company")
        assert (started.primary_id, started.is_foreign) == (1, False)
        api.sandbox.inject(Fault.passed_on_late(20.0, status=502))
        assert (await api.merge(3, 4)).status == 502
    # What was to come when the server closed never comes.
    await asyncio.sleep(30.0)


@pytest.mark.parametrize("kind", NOT_HTTP)
async def test_answers_that_are_no_http(serve: Any, kind: str) -> None:
    """No client can read them; the next answer is a right one."""
    async with serve() as api:
        api.sandbox.inject(kind)
        with pytest.raises(aiohttp.ClientError):
            await api.get("/v2/companies")
        assert (await api.get("/v2/companies")).status == 200


async def test_ids_of_records_may_be_larger_than_those_of_merges(serve: Any) -> None:
    """A record may have any id of 63 bits; a merge takes only those of 53."""
    largest = 2**63 - 1
    async with serve(companies=[1, largest]) as api:
        assert (await api.get(f"/v2/companies/{largest}")).body["id"] == largest
        assert (await api.get("/v2/companies", ids=largest)).body["data"][0]["id"] == largest
        assert (await api.merge(1, largest)).status == 400


def test_plain_is_a_set_of_settings() -> None:
    """Each of them differs from what the real server does."""
    real, plain = Sandbox(), Sandbox(**PLAIN)
    assert all(getattr(real, name) != getattr(plain, name) for name in PLAIN)


def test_effects_have_the_names_of_the_library() -> None:
    """A test can compare a preview with what the sandbox has made of it."""
    names = {"kept", "hidden", "local-copy", "replaced"}
    assert names == {*dedupe.Effect} - {dedupe.Effect.UNKNOWN}
