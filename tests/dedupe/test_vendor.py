"""Jobs at a server as the vendor's own client describes it: its memory is the judge.

A second request for a merge is obeyed there, so "nothing is merged twice" can be seen to fail.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aiotasks.dedupe import JobResult, JobSettings, Pair, PairState, Plan
from tests.dedupe.conftest import Server, clock, go, read
from tests.dedupe.test_interruptions import copy_of, salvage
from tests.dedupe.vendor import VendorServer
from tests.profiles import is_thorough


KILLED = range(40 if is_thorough() else 1)
BATCHES = range(10 if is_thorough() else 1)
HISTORIES = 100 if is_thorough() else 10
SEEDS = range(10 if is_thorough() else 1)
PAIRS = 80 if is_thorough() else 40
REFUSED = PairState.REFUSED
TERMS: Mapping[str, Any] = {"max_failure_rate": 1.0, "canary": 0}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "lost answers": {},
    "half of the answers lost": {"lost": 0.3, "unsent": 0.2},
    "a server that tells survivors": {"gone_status": 422},
    "lists that lag by 20 s": {"list_lag": 20.0},
    "lists that lag by 90 s": {"list_lag": 90.0},
    "a gateway that passes on late": {"late": 0.1},
    "stale replicas": {"record_lag": 30.0},
    "lists out of order": {"list_lag": (0.0, 40.0), "list_shuffle": 9.0},
    "tasks that no list has": {"unlisted_share": 0.05},
    "merges of minutes": {"duration": (60.0, 300.0)},
}


def plan_with_clusters(seed: int, count: int = PAIRS) -> Plan:
    """Return a plan of which a tenth are clusters of three or four."""
    chance, pairs, record_id = Random(seed), list[tuple[int, int]](), 1
    while len(pairs) < count:
        size = chance.choice([1] * 18 + [2, 3])
        pairs += [(record_id, record_id + each) for each in range(1, size + 1)]
        record_id += size + 1
    return Plan.of(pairs, kind="company")


@asynccontextmanager
async def serving(seed: int, **settings: Any) -> AsyncIterator[VendorServer]:
    asyncio.get_running_loop().set_debug(False)
    own = {"duration": (2.0, 40.0), "failure_rate": 0.03, "quota": 900, "companies": 5000}
    async with VendorServer(**{**own, "seed": seed, **settings}) as server:
        yield server


async def check(server: VendorServer, path: Path, *, unsettled: float = 0.02) -> None:
    """Check that nothing was posted twice or reported wrongly, and little is unsettled."""
    pairs = await read(path)
    found = server.judge(pairs)
    assert (found["twice"], found["wrong"]) == ([], [])
    assert len(found["unsettled"]) <= max(1, unsettled * len(pairs))


async def start_and_kill(
    server: Server, path: Path, plan: Plan, after: float, **terms: Any
) -> Path:
    """Run a job for some seconds, and return its ledger as a kill leaves it."""
    running = asyncio.create_task(go(server, path, plan, **{**TERMS, **terms}))
    await asyncio.sleep(after)
    left = salvage(path)
    _ = running.cancel()
    _ = await asyncio.wait([running])
    return left


async def finish(server: VendorServer, path: Path, plan: Plan, **terms: Any) -> JobResult:
    return await go(server, path, plan, **{**TERMS, **terms})


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_is_posted_twice(job: Path, name: str, seed: int) -> None:
    """However answers, lists and records are lost or late, each merge is posted once."""
    async with serving(seed, **SETTINGS[name]) as server:
        _ = await finish(server, job, plan_with_clusters(seed))
        await check(server, job)
        assert server.repeated("company") == set()
        assert server.posted("company").total() >= PAIRS / 2


@asynccontextmanager
async def meddling(
    server: VendorServer, plan: Plan, chance: Random, *, ours: float, every: float = 2.0
) -> AsyncIterator[None]:
    """Let another user merge all the while, a share of it what the plan merges."""

    async def others() -> None:
        record_id = 3000
        while True:
            await asyncio.sleep(chance.expovariate(1 / every))
            merge = chance.choice(plan.merges)
            ids = (merge.primary_id, merge.duplicate_id)
            if chance.random() >= ours:
                record_id += 2
                ids = (record_id, record_id + 1)
            elif chance.random() < 0.5:
                ids = (chance.randint(2000, 2999), merge.duplicate_id)
            _ = server.start_merge("company", *ids)

    async with asyncio.TaskGroup() as group:
        user = group.create_task(others())
        yield
        _ = user.cancel()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ours", [0.0, 0.3])
async def test_others_merge_meanwhile(job: Path, seed: int, ours: float) -> None:
    """Merges of others, some of the very pairs or duplicates, are not taken for the job's own."""
    plan = plan_with_clusters(seed)
    chance = Random(f"{seed} others")

    async with serving(seed) as server, meddling(server, plan, chance, ours=ours):
        _ = await finish(server, job, plan)
        await check(server, job)


@pytest.mark.parametrize("seed", KILLED)
async def test_it_is_killed_again_and_again(job: Path, seed: int) -> None:
    """Killed six times, also while it finds out what the last kill left, it repeats nothing."""
    chance, path, plan = Random(f"{seed} kills"), job, plan_with_clusters(seed)
    async with serving(seed) as server:
        for _ in range(6):
            path = await start_and_kill(server, path, plan, chance.uniform(0.5, 60.0))
        _ = await finish(server, path, plan)
        await check(server, path)


@pytest.mark.parametrize("seed", SEEDS)
async def test_it_begins_again_with_another_ledger(job: Path, seed: int) -> None:
    """A second ledger takes up what the first has begun, and repeats nothing of it."""
    plan = plan_with_clusters(seed)
    async with serving(seed, lost=0.0, unsent=0.0) as server:
        _ = await start_and_kill(server, job, plan, 8.0)
        assert server.posted("company").total() > PAIRS / 4
        other = job.with_name("other.db")
        _ = await finish(server, other, plan)
        pairs = await read(other)
        found = server.judge(pairs)
        assert found["twice"] == []
        # What had ended before is gone already, which is not the second ledger's doing.
        reasons = [pair.reason or "" for pair in found["wrong"]]
        assert all(pair.state is REFUSED for pair in found["wrong"])
        assert all("gone" in reason or "no company" in reason for reason in reasons)


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_copy_is_put_back(job: Path, seed: int) -> None:
    """An older copy of the ledger takes up what was merged since, and repeats nothing."""
    plan = plan_with_clusters(seed)
    async with serving(seed) as server:
        old = await start_and_kill(server, job, plan, 5.0, max_open=10)
        # Salvaged twice, since the next run's is salvaged to the first name.
        copy, before = copy_of(copy_of(old)), server.posted("company").total()
        _ = await start_and_kill(server, old, plan, 30.0)
        assert server.posted("company").total() > before + PAIRS / 4
        _ = await finish(server, copy, plan)
        assert server.judge(await read(copy))["twice"] == []


async def test_a_clock_is_set_between_two_runs(job: Path) -> None:
    """A clock that is an hour ahead in the next run makes nothing look settled."""
    plan = plan_with_clusters(0)
    async with serving(0, list_lag=30.0, duration=100.0, lost=0.5) as server:
        path = await start_and_kill(server, job, plan, 3.0)
        _ = await finish(server, path, plan, clock=lambda: clock() + 3600.0)
        await check(server, path)


@pytest.mark.slow
@pytest.mark.parametrize("batch", BATCHES)
async def test_generated_histories(tmp_path: Path, batch: int) -> None:
    """Whatever comes together: nothing twice, nothing wrong, and less than 2 % unsettled."""
    unsettled = total = 0
    for seed in range(batch * HISTORIES, (batch + 1) * HISTORIES):
        folder = tmp_path / str(seed)
        folder.mkdir()
        found, count = await play_history(folder / "job.db", seed)
        assert (found["twice"], found["wrong"]) == ([], []), seed
        unsettled += len(found["unsettled"])
        total += count
    assert unsettled < 0.02 * total


async def play_history(path: Path, seed: int) -> tuple[dict[str, list[Pair]], int]:
    """Run a job through kills, losses, lags and others' merges; return the server's verdict."""
    chance = Random(f"{seed} histories")
    some: Mapping[str, Any] = {
        "list_lag": (0.0, chance.choice([10.0, 50.0, 200.0])),
        "list_shuffle": 9.0,
        "unlisted_share": 0.02,
        "record_lag": chance.uniform(0.0, 60.0),
        "late": 0.05,
        "gone_status": 422,
        "duration": (2.0, chance.choice([5.0, 120.0])),
        "global_companies": chance.random(),
        "lost": chance.uniform(0.0, 0.4),
        "failure_rate": chance.uniform(0.0, 0.3),
    }
    settings = {name: some[name] for name in some if chance.random() < 0.4}
    plan, is_same = plan_with_clusters(seed), True
    _, lag = settings.get("list_lag", (0.0, 0.0))
    async with serving(seed, **settings) as server, contextlib.AsyncExitStack() as stack:
        if chance.random() < 0.4:
            # Merges of our very pairs that no list shows in time are taken for our own.
            ours = chance.choice([0.0, 0.2]) if lag <= JobSettings().settle_after else 0.0
            others = meddling(server, plan, chance, ours=ours, every=5.0)
            await stack.enter_async_context(others)
        for number in range(chance.choice([0, 0, 1, 2, 4])):
            path = await start_and_kill(server, path, plan, chance.expovariate(1 / 30))
            then = chance.choice(["same", "same", "copy", "other"])
            # What no list has, or records that lag show, can be known to its own ledger alone.
            then = then if {"unlisted_share", "record_lag"}.isdisjoint(settings) else "same"
            if then == "copy":
                copy = copy_of(copy_of(path))
                _ = await start_and_kill(server, path, plan, chance.expovariate(1 / 30))
                path = copy
            elif then == "other":
                path, is_same = path.with_name(f"other-{number}.db"), False
            if then != "same" and lag > JobSettings().settle_after:
                # What was sent within the lag of a list that lags for longer can be seen by nobody.
                await asyncio.sleep(lag)
        _ = await finish(server, path, plan)
        pairs = await read(path)
        found = server.judge(pairs)
        if not is_same:
            # What had ended before is gone for another ledger, which is not that one's doing.
            found["wrong"] = [each for each in found["wrong"] if each.state is not REFUSED]
        return found, len(pairs)
