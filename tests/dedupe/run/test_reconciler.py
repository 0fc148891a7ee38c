"""Reconciling indeterminate merges: found, proved absent, or unsettled."""

import asyncio
from collections import Counter
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from aiotasks import ClosedError
from aiotasks.dedupe import Ledger, PairState, StopReason, run
from aiotasks.dedupe._run.indeterminate import UNEXPLAINED, UNLISTED, task_id_of
from aiotasks.dedupe._run.reconciler import MAX_INDETERMINATE
from aiotasks.dedupe._run.run import SENDERS
from aiotasks.dedupe._run.server_lists import ServerLists
from aiotasks.dedupe._run.task_history import TaskHistory
from aiotasks.models import MergeTask, TaskStatus
from aiotasks.sandbox import Fault, LoggedRequest
from benchmarks import inline
from tests.dedupe.conftest import (
    Network,
    Seen,
    Server,
    begin,
    check_ledger,
    clock,
    connect,
    go,
    plan_of,
    read,
    star,
    states,
)


PLANNED, SENDING, STARTED, SUCCEEDED, FAILED, REFUSED, UNSETTLED = PairState

WORKED = {
    "disconnect": Fault.disconnect(after_work=True),
    "hang": Fault.hang(after_work=True),
    "500": Fault.status(500, after_work=True),
    "502 of a proxy": Fault.status(502, html=True, after_work=True),
    "malformed": Fault.malformed(),
    "truncated": Fault.truncate(),
    "wrong types": Fault.wrong_types(),
    "redirect": Fault.status(408, after_work=True),
}
LOST = {
    "disconnect": Fault.disconnect(),
    "hang": Fault.hang(),
    "500": Fault.status(500),
    "503 of a proxy": Fault.status(503, html=True),
    "408": Fault.status(408),
}


def targets(server: Server) -> list[str]:
    """Return the requests from the second POST on."""
    paths = [f"{asked.method} {asked.path.partition('?')[0]}" for asked in server.log]
    return paths[paths.index("POST /v2/company-merges") + 1 :]


def lose(server: Server, number: int) -> None:
    """Let one request for a merge be lost."""

    def strike(asked: LoggedRequest) -> None:
        if asked.method == "POST" and len(server.posts) == number:
            server.inject(Fault.disconnect(), on="merge")

    server.interrupt = strike


def forget(server: Server) -> None:
    """Let the server answer no more for any task, once the job has begun."""

    def strike() -> None:
        server.inject(Fault.status(404), on="task", times=None)
        server.inject(Fault.status(400), on="tasks", times=None)

    _ = asyncio.get_running_loop().call_later(1.0, strike)


class TestWorked:
    @pytest.mark.parametrize("name", WORKED)
    @pytest.mark.parametrize("lag", [0.0, 20.0])
    @pytest.mark.parametrize("others", [0, 5])
    async def test_it_is_found_and_adopted(
        self, server: Server, job: Path, name: str, lag: float, others: int
    ) -> None:
        """A merge that was started is found in the list, however late, and never sent again."""
        server.inject(WORKED[name], on="merge")
        server.list_lag = lag
        server.duration = 90.0
        seen = Seen()
        _ = await go(server, job, plan_of(1 + others), seen=seen)
        assert await check_ledger(server, job) == {SUCCEEDED: 1 + others}
        assert len(server.posts) == 1 + others
        pairs = await read(job)
        assert {pair.task_url for pair in pairs} == {*server.task_urls("company")}
        assert seen.of(PLANNED) == []

    @pytest.mark.parametrize("is_listed", [True, False])
    @pytest.mark.plain
    async def test_it_has_ended_before_it_is_found(
        self, server: Server, job: Path, is_listed: bool
    ) -> None:
        """A merge that has ended is found as well, or by its record if no list shows it."""
        server.inject(Fault.hang(after_work=True), on="merge")
        server.list_lag = 0.0 if is_listed else 1000.0
        server.duration = 1.0
        _ = await go(server, job, plan_of(1))
        assert await check_ledger(server, job) == {SUCCEEDED: 1}
        (pair,) = await read(job)
        assert (pair.task_url is not None) is is_listed
        assert is_listed or pair.reason == "2 no longer exists as it has been merged into 1"
        assert len(server.posts) == 1

    async def test_it_has_failed(self, server: Server, job: Path) -> None:
        """An indeterminate merge that failed has the server's reason, and is not repeated."""
        server.inject(Fault.hang(after_work=True), on="merge")
        server.failure_rate = 1.0
        _ = await go(server, job, plan_of(1))
        (pair,) = await read(job)
        assert (pair.state, pair.reason) == (FAILED, server.merges[0].reason)
        assert len(server.posts) == 1

    async def test_it_has_failed_as_its_twin_succeeded(self, server: Server, job: Path) -> None:
        """The failure of another user's merge of the same pair does not hide its own success."""
        server.inject(Fault.hang(after_work=True), on="merge")
        server.list_lag, server.duration = 1000.0, 5.0

        def twin() -> None:
            server.list_lag = 0.0
            _ = server.start_merge("company", 1, 2, duration=300.0)

        _ = asyncio.get_running_loop().call_later(10.0, twin)
        _ = await go(server, job, plan_of(1))
        (pair,) = await read(job)
        assert [merge.outcome for merge in server.history("company")] == ["success", "failed"]
        assert (pair.state, pair.reason) == (UNSETTLED, UNEXPLAINED.format(2))

    async def test_another_attempt_after_a_failure(self, server: Server, job: Path) -> None:
        """An earlier failure is not taken for the merge that was sent later."""
        server.failure_rate = 1.0
        _ = await go(server, job, plan_of(1))
        server.failure_rate = 0.0
        server.inject(Fault.disconnect(), on="merge")
        _ = await go(server, job, retry_failed=True)
        assert await check_ledger(server, job) == {SUCCEEDED: 1}
        assert len(server.posts) == 3


class TestLost:
    @pytest.mark.parametrize("name", LOST)
    async def test_it_is_sent_again_when_that_is_proved(
        self, server: Server, job: Path, name: str
    ) -> None:
        """It is sent again only after the lists and both records prove it absent for long."""
        server.inject(LOST[name], on="merge")
        _ = await go(server, job, plan_of(1))
        assert await check_ledger(server, job) == {SUCCEEDED: 1}
        assert len(server.posts) == 2
        asked = targets(server)
        between = asked[: asked.index("POST /v2/company-merges")]
        assert between[-2:] == ["GET /v2/tasks/company-merges", "GET /v2/companies"]
        assert server.posts[1].at - server.posts[0].at >= 60.0

    async def test_a_later_merge_proves_nothing(self, server: Server, job: Path) -> None:
        """A listed merge that was sent later does not prove that this one was lost."""
        lose(server, 2)
        server.duration = 3.0
        _ = await go(server, job, plan_of(3, *star(101, 102, 103, 104)))
        assert await check_ledger(server, job) == {SUCCEEDED: 6}
        assert len(server.posts) == 7
        bodies = [asked.body for asked in server.posts]
        again = max(bodies.index(body) for body in bodies if bodies.count(body) == 2)
        times = [asked.at for asked in server.posts if asked.body == bodies[again]]
        assert times[1] - times[0] >= 60.0

    @pytest.mark.parametrize("others", [0, 6])
    async def test_lists_that_lag_prove_nothing_too_early(
        self, server: Server, job: Path, others: int
    ) -> None:
        """It takes longer than ``settle_after`` by as much as the lists lag for other merges."""
        lose(server, 2 if others else 1)
        server.list_lag = 25.0
        server.duration = 2.0
        more = star(101, *range(102, 102 + others))
        _ = await go(server, job, plan_of(1, *more), max_open=2, canary=0)
        _ = await check_ledger(server, job)
        bodies = [asked.body for asked in server.posts]
        again = next(body for body in bodies if bodies.count(body) == 2)
        times = [asked.at for asked in server.posts if asked.body == again]
        assert times[1] - times[0] >= 85.0

    async def test_a_list_counts_from_its_request(self, server: Server, job: Path) -> None:
        """A list requested before ``settle_after`` proves nothing, however late its answer."""
        server.inject(Fault.disconnect(after_work=True), on="merge")
        server.list_lag = 50.0
        server.duration = 1000.0

        def be_slow(asked: LoggedRequest) -> None:
            server.latency = 20.0 * (asked.method == "GET" and asked.operation != "records")

        server.interrupt = be_slow
        _ = await go(server, job, plan_of(1))
        assert await check_ledger(server, job) == {SUCCEEDED: 1}
        assert len(server.posts) == 1

    async def test_the_time_of_a_resumed_merge_begins_again(
        self, server: Server, job: Path
    ) -> None:
        """Only the time of the new run counts, as the request may have waited for a slot."""
        server.list_lag = 50.0
        server.duration = 100.0
        server.inject(Fault.rate_limit(retry_after=90.0), on="merge")
        server.inject(Fault.hang(after_work=True), on="merge")
        running = asyncio.create_task(go(server, job, plan_of(1)))
        await asyncio.sleep(95.0)
        assert server.merges[0].started >= 90.0
        running.cancel()
        _ = await asyncio.wait([running])
        assert await states(job) == [SENDING]
        _ = await go(server, job)
        assert await check_ledger(server, job) == {SUCCEEDED: 1}
        assert len(server.posts) == 2

    async def test_what_the_server_never_starts_is_refused(self, server: Server, job: Path) -> None:
        """A merge that no attempt gets answered or started is refused, so that the job can end."""
        server.inject(Fault.status(500), on="merge", times=5)
        result = await go(server, job, plan_of(1))
        (pair,) = await read(job)
        assert pair.state is REFUSED
        assert pair.reason == "It was sent 5 times, and neither answered nor started"
        assert result.stopped is None
        assert result.seconds < 900.0
        _ = await go(server, job, retry_failed=True)
        assert await check_ledger(server, job) == {SUCCEEDED: 1}

    async def test_a_server_that_starts_nothing_stops_the_job(
        self, server: Server, job: Path
    ) -> None:
        """If the server starts no merge, the job stops by itself."""
        server.inject(Fault.status(500), on="merge", times=None)
        result = await go(server, job, plan_of(40))
        assert result.stopped is StopReason.FAILURES
        assert result.totals == {**dict.fromkeys(PairState, 0), REFUSED: 20, PLANNED: 20}

    async def test_with_many_indeterminate_merges_no_more_are_sent(
        self, server: Server, job: Path
    ) -> None:
        """Many indeterminate merges are reconciled before more are sent."""
        server.inject(Fault.disconnect(), on="merge", times=60)
        seen = Seen()
        _ = await go(server, job, plan_of(80), seen=seen, canary=0)
        assert await check_ledger(server, job) == {SUCCEEDED: 80}
        # Merges in flight when the limit is reached become indeterminate, too.
        sent = sum(asked.at < 60.0 for asked in server.posts)
        assert MAX_INDETERMINATE <= sent < MAX_INDETERMINATE + SENDERS
        assert "what became of merges that were not answered" in seen.waited_for

    async def test_a_missing_record_proves_nothing(self, server: Server, job: Path) -> None:
        """A pair with a missing record is not refused while its merge may be running."""
        server.inject(Fault.disconnect(after_work=True), on="merge")
        server.inject(Fault.status(404), on="record", times=None)
        server.list_lag = 20.0
        server.duration = 30.0
        _ = await go(server, job, plan_of(1))
        assert await check_ledger(server, job) == {SUCCEEDED: 1}
        assert len(server.posts) == 1


class TestUnsettled:
    async def test_without_evidence(self, server: Server, job: Path) -> None:
        """After five minutes without evidence a pair and its cluster wait for the next run."""
        server.inject(Fault.disconnect(after_work=True), on="merge")
        server.inject(Fault.status(503), on="merges", times=None)
        server.duration = 400.0
        plan = plan_of(2, *star(101, 102, 103, 104))
        async with connect(server) as client:
            await begin(client, job, plan)
        result = await go(server, job)
        assert result.stopped is None
        pairs = {pair.duplicate_id: pair for pair in await read(job)}
        pair = pairs[102]
        assert pair.state is UNSETTLED
        assert [pairs[each].state for each in (2, 4, 103, 104)] == [
            *[SUCCEEDED] * 2,
            *[PLANNED] * 2,
        ]
        assert pair.reason == "Neither the server's lists nor the records show what became of it"
        assert 300.0 <= (pair.ended_at or 0) - (pair.sending_at or 0) < 330.0
        server.clear_faults()
        _ = await go(server, job)
        assert await check_ledger(server, job) == {SUCCEEDED: 5}
        assert max(server.posted("company").values()) == 1

    async def test_an_unsettled_one_that_was_lost(self, server: Server, job: Path) -> None:
        """It is sent again once the records can be read; its time begins again in each run."""
        async with connect(server) as client:
            await begin(client, job, plan_of(1))
        server.inject(Fault.disconnect(), on="merge")
        server.inject(Fault.status(503), on="records", times=None)
        _ = await go(server, job)
        assert await states(job) == [UNSETTLED]
        server.clear_faults()
        await asyncio.sleep(3600.0)
        result = await go(server, job)
        assert await check_ledger(server, job) == {SUCCEEDED: 1}
        assert result.seconds > 60.0

    @pytest.mark.plain
    async def test_the_record_is_evidence_without_a_list(self, server: Server, job: Path) -> None:
        """If the list cannot be read, the merged record is evidence enough."""
        server.inject(Fault.disconnect(after_work=True), on="merge")
        server.inject(Fault.status(503), on="merges", times=None)
        async with connect(server) as client:
            await begin(client, job, plan_of(1))
        _ = await go(server, job)
        assert await check_ledger(server, job) == {SUCCEEDED: 1}

    async def test_no_record_no_second_request(self, server: Server, job: Path) -> None:
        """While the record cannot be read, the list alone does not let it be sent again."""
        async with connect(server) as client:
            await begin(client, job, plan_of(1))
        server.inject(Fault.disconnect(), on="merge")
        server.inject(Fault.status(503), on="records", times=None)
        _ = await go(server, job)
        assert await states(job) == [UNSETTLED]
        assert len(server.posts) == 1

    async def test_it_is_not_given_up_before_settle_after(self, server: Server, job: Path) -> None:
        """With a longer ``settle_after`` a merge is not given up before that has passed."""
        server.inject(Fault.disconnect(), on="merge")
        _ = await go(server, job, plan_of(1), settle_after=500.0)
        assert await check_ledger(server, job) == {SUCCEEDED: 1}
        assert server.posts[1].at - server.posts[0].at >= 500.0

    async def test_a_client_that_is_closed(self, server: Server, job: Path) -> None:
        """Closing the client while a merge is indeterminate raises, and loses nothing."""
        server.inject(Fault.disconnect(after_work=True), on="merge")
        server.list_lag = 30.0
        server.duration = 60.0
        async with Ledger(job, connect=inline.connect) as ledger:
            async with connect(server) as client:
                running = asyncio.create_task(run(client, plan_of(1), ledger, clock=clock))
                await asyncio.sleep(5.0)
            with pytest.raises(ClosedError):
                await running
        _ = await go(server, job)
        assert await check_ledger(server, job) == {SUCCEEDED: 1}
        assert len(server.posts) == 1


@pytest.mark.plain
class TestConflicts:
    async def test_a_conflict_may_be_with_the_jobs_own_merge(
        self, server: Server, job: Path
    ) -> None:
        """If a merge is sent again too early, the conflict leads to the one that runs."""
        server.inject(Fault.disconnect(after_work=True), on="merge")
        server.list_lag = 40.0
        server.duration = 60.0
        _ = await go(server, job, plan_of(1), settle_after=10.0)
        assert await check_ledger(server, job, repeated=1) == {SUCCEEDED: 1}
        assert len(server.posts) > 1
        assert server.posted("company") == {(1, 2): 1}

    async def test_a_lasting_conflict_is_refused(self, server: Server, job: Path) -> None:
        """A conflict with merges of others that lasts for hours does not keep the job for hours."""
        server.inject(Fault.disconnect(), on="merge")

        def meddle(asked: LoggedRequest) -> None:
            if asked.method == "POST" and len(server.posts) == 1:
                _ = server.start_merge("company", 9, 2, duration=1e6)

        server.interrupt = meddle
        result = await go(server, job, plan_of(1))
        (pair,) = await read(job)
        assert pair.state is REFUSED
        assert result.seconds < 900.0


class TestTasksThatCannotBeRead:
    """A merge whose task the server has forgotten is settled by its history."""

    @pytest.mark.parametrize("state", [SUCCEEDED, FAILED])
    async def test_by_the_list(self, server: Server, job: Path, state: PairState) -> None:
        """If the merge list has it, its state is that of the list."""
        server.failure_rate = float(state is FAILED)
        forget(server)
        server.duration = 50.0
        _ = await go(server, job, plan_of(2))
        assert await check_ledger(server, job) == {state: 2}
        assert {pair.reason for pair in await read(job)} == {
            merge.reason for merge in server.merges
        }

    @pytest.mark.parametrize("is_its_own", [True, False])
    @pytest.mark.plain
    async def test_by_the_record(self, server: Server, job: Path, is_its_own: bool) -> None:
        """If the list does not have it, the record shows what it was merged into."""
        async with connect(server) as client:
            await begin(client, job, plan_of(1))
        forget(server)
        server.inject(Fault.status(503), on="merges", times=None)
        server.duration = 5.0 if is_its_own else 1e6
        if not is_its_own:
            merge = partial(server.start_merge, "company", 9, 2, duration=0.0)
            _ = asyncio.get_running_loop().call_later(20.0, merge)
        _ = await go(server, job)
        (pair,) = await read(job)
        assert pair.state is (SUCCEEDED if is_its_own else FAILED)
        assert (
            pair.reason == f"2 no longer exists as it has been merged into {1 if is_its_own else 9}"
        )

    @pytest.mark.parametrize("status", [404, 503])
    async def test_by_nothing(self, server: Server, job: Path, status: int) -> None:
        """Without evidence it remains unsettled, and a later run may settle it."""
        async with connect(server) as client:
            await begin(client, job, plan_of(1))
        forget(server)
        server.inject(Fault.status(status), on="records", times=None)
        server.duration = 1000.0
        _ = await go(server, job)
        (pair,) = await read(job)
        assert (pair.state, pair.task_url) == (UNSETTLED, server.task_urls("company")[0])
        await asyncio.sleep(1000.0)
        server.clear_faults()
        server.inject(Fault.status(404), on="task", times=None)
        _ = await go(server, job)
        assert await check_ledger(server, job) == {SUCCEEDED: 1}
        assert len(server.posts) == 1

    async def test_a_status_that_is_unknown(self, server: Server, job: Path) -> None:
        """A task that ended with an unknown status is settled by its merge."""
        server.inject(Fault.task_status("reverted"), on="task", times=None)
        server.inject(Fault.task_status("reverted"), on="tasks", times=None)
        _ = await go(server, job, plan_of(1))
        assert await check_ledger(server, job) == {SUCCEEDED: 1}

    @pytest.mark.parametrize("failures", [0, 1])
    async def test_tasks_of_several_merges(self, server: Server, job: Path, failures: int) -> None:
        """If a server puts several merges into one task, each pair gets the state of its merge."""
        state = server._app.states["company"]
        start = state.start

        def join(*arguments: int, **settings: object) -> object:
            task = state.tasks[0] if state.tasks else None
            outcome = "failed" if len(state.merges) < failures else None
            return start(*arguments, task=task, outcome=outcome, **settings)  # type: ignore[arg-type]

        state.start = join  # type: ignore[method-assign, assignment]
        server.duration = 20.0
        _ = await go(server, job, plan_of(3))
        totals = await check_ledger(server, job)
        assert (totals[SUCCEEDED], totals[FAILED]) == (3 - failures, failures)

    async def test_merges_lost_with_their_server(self, server: Server, job: Path) -> None:
        """Two hundred are settled together: under 50 calls beyond one poll of each task."""
        server.duration = 60.0
        calls: Counter[str] = Counter()

        def strike() -> None:
            server.forget()
            calls.update(server.calls)

        _ = asyncio.get_running_loop().call_later(6.0, strike)
        result = await go(server, job, plan_of(200), canary=0)
        assert {pair.reason for pair in await read(job)} == {UNLISTED}
        assert (server.calls - calls)["task"] <= 200
        assert (server.calls - calls).total() < 200 + 50
        assert len(server.posts) == 200
        assert result.seconds < 2 * (60.0 + 120.0)


class TestReading:
    async def test_old_tasks_are_read_one_by_one(self, server: Server) -> None:
        """A task that the last reading did not reach is read itself, if it is still there."""
        history = TaskHistory([], [], settle_after=60.0, now=0.0)
        there, lost = task_id_of(server.start_merge("company", 1, 2)), str(UUID(int=7))
        for each in (there, lost):
            history.add_foreign(MergeTask(id=each, status=TaskStatus.IN_PROGRESS), 0.0)
        await asyncio.sleep(3.0)
        async with connect(server) as client:
            await ServerLists(client, "company", history).read_old_tasks([there, lost])
        assert history.foreign[there].status is TaskStatus.SUCCESS
        assert history.foreign[lost].status is TaskStatus.IN_PROGRESS

    @pytest.mark.parametrize("times", [1, None])
    async def test_a_filter_that_is_refused(
        self, server: Server, job: Path, times: int | None
    ) -> None:
        """A filter with too many tasks is halved; if it is always refused, rows prove nothing."""
        server.inject(Fault.disconnect(after_work=True), on="merge", times=2)
        server.inject(Fault.status(400), on="merges", times=times)
        server.duration = 1000.0
        _ = await go(server, job, plan_of(2))
        assert {*await states(job)} == {SUCCEEDED if times else UNSETTLED}
        assert len(server.posts) == 2

    async def test_a_record_that_a_list_leaves_out(self, server: Server, job: Path) -> None:
        """A record that only a list does not have is not gone."""
        async with connect(server) as client:
            await begin(client, job, plan_of(1))
        server.inject(Fault.disconnect(), on="merge")
        server.inject(Fault.content(b'{"data": [], "pagination": {}}'), on="records")
        _ = await go(server, job)
        assert await check_ledger(server, job) == {SUCCEEDED: 1}
        assert len(server.posts) == 2

    async def test_an_outage_settles_nothing(
        self, server: Server, network: Network, job: Path
    ) -> None:
        """Time without a network is not counted against a merge that is searched for."""
        server.inject(Fault.disconnect(), on="merge")
        _ = asyncio.get_running_loop().call_later(5.0, network.cut, server)
        _ = asyncio.get_running_loop().call_later(400.0, network.restore, server)
        _ = await go(server, job, plan_of(1))
        assert await check_ledger(server, job) == {SUCCEEDED: 1}

    async def test_a_held_pair_that_cannot_be_settled(self, server: Server, job: Path) -> None:
        """A pair that others are merging elsewhere stays planned while nothing can be read."""
        async with connect(server) as client:
            await begin(client, job, plan_of(2))
        _ = server.start_merge("company", 9, 2, duration=1e6)

        def strike() -> None:
            server.inject(Fault.status(503), on="records", times=None)

        _ = asyncio.get_running_loop().call_later(10.0, strike)
        result = await go(server, job)
        assert await states(job) == [PLANNED, SUCCEEDED]
        assert result.stopped is None
        assert len(server.posts) == 1
