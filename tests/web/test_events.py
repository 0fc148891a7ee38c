"""The event streams of a job: each event once or a resync, many clients, restarts."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aiotasks import Client, LedgerError
from aiotasks.dedupe import Ledger, LedgerReader, PairState, Plan, Transition
from aiotasks.sandbox import Sandbox
from aiotasks.web import _app, _events
from aiotasks.web._background import BackgroundTasks
from aiotasks.web._events import Event as EncodedEvent
from aiotasks.web._events import Followers, Ring, Subscriber
from aiotasks.web._runner import JobRunner
from tests.web.conftest import Event, OpenSite, Site, events_of


pytestmark = pytest.mark.real_time

SENDING, SUCCEEDED, FAILED = PairState.SENDING, PairState.SUCCEEDED, PairState.FAILED


class Writer:
    """A job that another process runs."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.job = {"id": ledger.path.name.removesuffix(".job.db")}
        self.seqs: list[int] = []

    async def step(self, *numbers: int, state: PairState = SENDING) -> None:
        """Record a transition of some pairs."""
        transitions = [
            Transition(number=number, state=state, at=1_800_000_000.0) for number in numbers
        ]
        self.seqs += await asyncio.gather(*map(self._ledger.record, transitions))


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[Writer]:
    plan = Plan.of([(2 * n - 1, 2 * n) for n in range(1, 10_001)], kind="company")
    async with Ledger(tmp_path / "other.job.db") as ledger:
        await ledger.begin(plan, origin="https://x.example", records={}, findings=[], at=1.0)
        yield Writer(ledger)


async def take(events: AsyncIterator[Event], count: int) -> list[int]:
    """Return the numbers of the next transitions."""
    seqs: list[int] = []
    while len(seqs) < count:
        event = await anext(events)
        if event.seq is not None:
            seqs.append(event.seq)
    return seqs


class TestRing:
    def test_chunks_are_made_once(self) -> None:
        """Subscribers at the same place share a chunk, and only a few chunks are kept."""
        ring = Ring(0)
        ring.append([EncodedEvent(seq, b"%d " % seq) for seq in range(1, 1001)])
        first = ring.after(0)
        assert first.data.split()[0] == b"1"
        assert first.seq == 200
        assert ring.after(0) is first
        for seq in range(500):
            assert ring.after(seq).seq == seq + 200
        assert len(ring._chunks) <= 16
        assert ring.after(1000) == (b"", 1000)

    def test_it_is_bounded(self) -> None:
        """The ring never has more events than its size, and knows the first one."""
        ring = Ring(0)
        for start in range(1, 20_001, 100):
            ring.append([EncodedEvent(seq, b"%d " % seq) for seq in range(start, start + 100)])
            assert ring.end - ring.start <= 4000
            assert ring.after(ring.start).data.split()[0] == b"%d" % (ring.start + 1)


async def test_how_it_begins(site: Site, writer: Writer) -> None:
    """A stream starts with the missed transitions, then the state of the job."""
    await writer.step(1, 2)
    async with site.watch(writer.job) as events:
        first, second, third = [await anext(events) for _ in range(3)]
    assert [first.name, second.name, third.name] == ["pair", "pair", "progress"]
    assert first.data["number"] == 1
    assert first.data["state"] == "sending"
    assert third.data["totals"]["sending"] == 2
    assert third.data["is_running"] is False
    assert third.data["phase"] == "elsewhere"
    assert third.data["holder"].startswith(f"process {os.getpid()} on ")
    assert third.data["counts"]["open"] == 2
    assert third.data["point"][1:] == [0, None]


async def test_a_run(site: Site, sandbox: Sandbox) -> None:
    """A run is streamed from start to end: all transitions in order, with the totals."""
    sandbox.duration = 0.1
    job = await site.upload(15)
    seen: list[Event] = []
    async with site.watch(job) as events:
        _ = await site.start(job)
        async for event in events:
            seen.append(event)
            if event.name == "done":
                break
    assert [each.seq for each in seen if each.seq] == [*range(1, 46)]
    assert seen[-1].data["totals"]["succeeded"] == 15
    assert seen[-1].data["stopped"] is None
    states = [
        each.data["state"] for each in seen if each.name == "pair" and each.data["number"] == 1
    ]
    assert states == ["sending", "started", "succeeded"]
    assert any(each.data["progress"] for each in seen if each.name == "progress")
    assert any(each.data["is_running"] for each in seen if each.name == "progress")
    totals = [each.data["totals"]["succeeded"] for each in seen if each.name == "progress"]
    assert totals == sorted(totals)


async def test_an_earlier_end_is_not_sent(site: Site) -> None:
    """A stream that starts after the end of a run gets no `done` event for it."""
    job = await site.upload(1)
    async with site.watch(job) as first:
        _ = await site.start(job)
        assert "done" in [event.name async for event in _until(first, "done")]
        async with site.watch(job) as second:
            names = [event.name async for event in _until(second, "progress")]
            assert names == ["pair"] * 3 + ["progress"]
            _ = await site.start(job)
            assert "done" in [event.name async for event in _until(second, "done")]


async def test_a_short_run(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that begins and ends between two polls has a `done` event, too."""
    job = await site.upload(1)
    _ = await site.finish(job)
    history = LedgerReader.history

    async def slow(self: Any, **settings: Any) -> Any:
        await asyncio.sleep(0.3)
        return await history(self, **settings)

    monkeypatch.setattr(LedgerReader, "history", slow)
    async with site.watch(job) as events:
        _ = [event async for event in _until(events, "progress")]
        await asyncio.sleep(0.1)
        _ = await site.start(job)
        seen = [event async for event in _until(events, "done")]
    assert not any(event.data["is_running"] for event in seen if event.name == "progress")


async def _until(events: AsyncIterator[Event], name: str) -> AsyncIterator[Event]:
    async for event in events:
        yield event
        if event.name == name:
            return


class TestResuming:
    async def test_where_it_was(self, site: Site, writer: Writer) -> None:
        """A client that reconnects gets the events after its last one, and none twice."""
        await writer.step(*range(1, 21))
        async with site.watch(writer.job, params={"after": "5"}) as events:
            assert await take(events, 15) == [*range(6, 21)]
        headers = {"Last-Event-ID": "18"}
        async with site.watch(writer.job, params={"after": "5"}, headers=headers) as events:
            assert await take(events, 2) == [19, 20]
            await writer.step(21)
            assert await take(events, 1) == [21]

    async def test_across_restarts(self, open_site: OpenSite, writer: Writer) -> None:
        """Another server continues the stream where the first has ended."""
        seen: list[int] = []
        for start in (1, 301, 601):
            async with open_site() as site:
                headers = {"Last-Event-ID": str(seen[-1])} if seen else {}
                async with site.watch(writer.job, headers=headers) as events:
                    await writer.step(*range(start, start + 300))
                    seen += await take(events, 250)
        assert seen == [*range(1, 751)]

    @pytest.mark.parametrize("after", ["-1", "x", "1.0", "9" * 100])
    async def test_from_nowhere(self, site: Site, writer: Writer, after: str) -> None:
        """An invalid number is refused; for one in the future the stream waits."""
        url = f"jobs/{writer.job['id']}/events"
        assert (await site.ask(url, params={"after": after})).status == 400
        assert (await site.ask(url, headers={"Last-Event-ID": after})).status == 400
        async with site.watch(writer.job, params={"after": "1000000"}) as events:
            assert (await anext(events)).name == "progress"
            await writer.step(1)
            assert await take(events, 1) == [1]

    async def test_from_long_ago(
        self, site: Site, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A stream behind the ring gets a resync with its number, and the events after it."""
        monkeypatch.setattr(_events, "_RING", 100)
        await writer.step(*range(1, 1501))
        async with site.watch(writer.job, params={"after": "7"}) as events:
            first, second = await anext(events), await anext(events)
            assert first == Event("resync", {"seq": 1500}, 1500)
            assert second.name == "progress"
            assert second.data["counts"]["open"] == 1500
            await writer.step(1501)
            assert await take(events, 1) == [1501]

    async def test_it_is_read_once(
        self, site: Site, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The log is not read for streams that are behind, however many and however long."""
        monkeypatch.setattr(_events, "_RING", 100)
        await writer.step(*range(1, 1501))
        reads = _count(monkeypatch, "history")
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._first(site, writer, after)) for after in [0, 7] * 5]
        assert [task.result().name for task in tasks] == ["resync"] * 10
        assert len(reads) < 30

    async def _first(self, site: Site, writer: Writer, after: int) -> Event:
        async with site.watch(writer.job, params={"after": str(after)}) as events:
            return await anext(events)

    async def test_gaps(self, site: Site, writer: Writer) -> None:
        """Transitions that the ledger refused leave gaps in the numbers, which are skipped."""
        await writer.step(*range(1, 11))
        refused = (writer.step(20_000 + n) for n in range(300))
        _ = await asyncio.gather(*refused, return_exceptions=True)
        await writer.step(*range(11, 400))
        async with site.watch(writer.job) as events:
            assert await take(events, len(writer.seqs)) == writer.seqs
        assert writer.seqs[10] - writer.seqs[9] == 301


def _count(monkeypatch: pytest.MonkeyPatch, name: str) -> list[float]:
    """Record the time of each call of a method of ledgers."""
    method, calls = getattr(LedgerReader, name), list[float]()

    async def counted(self: Any, *arguments: Any, **settings: Any) -> Any:
        calls.append(asyncio.get_running_loop().time())
        return await method(self, *arguments, **settings)

    monkeypatch.setattr(LedgerReader, name, counted)
    return calls


class TestMany:
    async def test_one_reads_for_all(
        self, site: Site, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With many subscribers, a ledger is read and each event is encoded once a tick."""
        reads = _count(monkeypatch, "history")
        encoded = _count(monkeypatch, "numbered")
        opened = _count(monkeypatch, "last_seq")
        monkeypatch.setattr(_events, "_TICK", 0.2)
        began = asyncio.get_running_loop().time()

        async def watch(ready: asyncio.Barrier) -> list[int]:
            async with site.watch(writer.job) as events:
                assert (await anext(events)).name == "progress"
                _ = await ready.wait()
                return await take(events, 40)

        ready = asyncio.Barrier(81)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(watch(ready)) for _ in range(80)]
            _ = await ready.wait()
            await writer.step(*range(1, 21))
            await writer.step(*range(21, 41))
        assert all(task.result() == [*range(1, 41)] for task in tasks)
        ticks = (asyncio.get_running_loop().time() - began) / 0.2 + 1
        assert len(reads) <= ticks + 2
        assert len(encoded) <= 2
        assert len(opened) == 1

    async def test_without_subscribers(
        self, site: Site, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The ledger is not read after the last subscriber has disconnected."""
        reads = _count(monkeypatch, "history")
        async with site.watch(writer.job) as events:
            _ = await anext(events)
            async with site.watch(writer.job) as others:
                _ = await anext(others)
        await _until_idle()
        count = len(reads)
        await asyncio.sleep(0.2)
        assert len(reads) == count

    async def test_a_slow_client(
        self, site: Site, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A slow stream delays no other, needs no more memory, and gets a resync."""
        monkeypatch.setattr(_events, "_RING", 200)
        url = f"{site.url}/jobs/{writer.job['id']}/events"
        async with site.session.get(url, read_bufsize=1024) as slow, site.watch(writer.job) as fast:
            for start in range(1, 6001, 100):
                await writer.step(*range(start, start + 100))
                assert await take(fast, 100) == [*range(start, start + 100)]
            resynced, last = 0, 0
            async for event in events_of(slow):
                if event.seq is not None:
                    resynced += event.name == "resync"
                    assert event.name == "resync" or event.seq == last + 1
                    last = event.seq
                    if last == 6000:
                        break
            assert resynced > 0


async def _until_idle() -> None:
    name = "aiotasks: watch of other"
    if tasks := [task for task in asyncio.all_tasks() if task.get_name() == name]:
        _ = await asyncio.wait(tasks)


async def test_a_heartbeat(site: Site, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an idle stream, comments keep proxies from closing the connection."""
    monkeypatch.setattr(_app, "_HEARTBEAT", 0.02)
    async with site.session.get(f"{site.url}/jobs/{writer.job['id']}/events") as answer:
        async for line in answer.content:
            if line == b": still here\n":
                break
    assert line == b": still here\n"


async def test_a_client_that_disconnects(site: Site, writer: Writer) -> None:
    """A stream ends when its client disconnects, even if there is nothing to send."""
    async with site.watch(writer.job) as events:
        _ = await anext(events)
    await asyncio.wait_for(_until_idle(), 1.0)


async def test_a_ledger_that_breaks(
    site: Site, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the ledger cannot be read any more, streams end, and the next request gets the error."""

    async def fail(self: Any, *_: Any, **__: Any) -> Any:
        raise LedgerError(str(self.path), "the disk is gone")

    async with site.watch(writer.job) as events:
        _ = await anext(events)
        with monkeypatch.context() as patch:
            patch.setattr(LedgerReader, "history", fail)
            assert [event async for event in events] == []
            answer = await site.ask(f"jobs/{writer.job['id']}/events")
            assert answer.status == 500
            assert answer.json == {"error": "The job's ledger: the disk is gone"}
        async with site.watch(writer.job) as again:
            assert (await anext(again)).name == "progress"


async def test_a_follower_that_fails_is_replaced(
    client: Client, tmp_path: Path, writer: Writer
) -> None:
    """A subscriber of a failed follower does not stop its successor."""
    tasks = BackgroundTasks()
    await tasks.open()
    followers = Followers(tasks, JobRunner(client, tasks))
    path = tmp_path / "other.job.db"
    first, second = (Subscriber(0, lambda: False) for _ in range(2))
    with followers.subscribed("other", path, first) as follower:
        follower.is_over = True
        watching = followers.subscribed("other", path, second)
        kept = watching.__enter__()
        assert kept is not follower
    with followers.subscribed("other", path, first) as again:
        assert again is kept
    watching.__exit__(None, None, None)
    await tasks.close()
