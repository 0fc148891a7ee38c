"""What a preview finds out about a plan's records before anything is merged."""

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from aiotasks import (
    AffinityError,
    AuthenticationError,
    AuthorizationError,
    Client,
    ServerError,
    dedupe,
)
from aiotasks.dedupe import Effect, PairState, Plan, Preview, Transition
from aiotasks.dedupe._preview import _durations, label_of
from aiotasks.models import CompanyMergeState, TaskStatus
from aiotasks.sandbox import Fault
from tests.dedupe.conftest import Server, connect, plan_of, star


async def seen(server: Server, plan: Plan) -> Preview:
    async with connect(server) as client:
        return await dedupe.preview(client, plan)


def merge(server: Server, *pairs: tuple[int, int]) -> None:
    """Merge records, as other users did before the job."""
    for primary_id, duplicate_id in pairs:
        _ = server.start_merge("company", primary_id, duplicate_id, duration=0.0)


def findings(preview: Preview) -> dict[int, tuple[PairState, str | None]]:
    transitions = preview.findings(7.0)
    assert {transition.at for transition in transitions} <= {7.0}
    return {transition.number: (transition.state, transition.reason) for transition in transitions}


class TestRecords:
    async def test_they_are_read_a_hundred_a_call(self, server: Server) -> None:
        """Each record is read once and kept as the API sent it; no write request is sent."""
        preview = await seen(server, plan_of(120, *star(1, *range(301, 361))))
        assert preview.records.keys() == {*range(1, 241), *range(301, 361)}
        assert (preview.gone, preview.findings(1.0)) == ({}, [])
        assert server.calls == {"tasks": 1, "records": 3, "merges": 1}
        assert json.loads(preview.records[301])["id"] == 301

    @pytest.mark.parametrize("kind", ["company", "person"])
    async def test_their_names(self, server: Server, kind: str) -> None:
        """The label of a record is its name and what distinguishes it, made from its snapshot."""
        plan = Plan.of([(1, 2)], kind=kind)  # type: ignore[arg-type]
        preview = await seen(server, plan)
        label = {"company": "Amber Analytics (amber-analytics.example)"}.get(kind)
        assert label is None or preview.label(1) == label
        assert preview.label(1) == label_of(plan.kind, preview.records[1])
        assert preview.label(1) != preview.label(2)

    @pytest.mark.parametrize("snapshot", [b"{", b'{"id": 1, "name": "\xff"}'])
    def test_a_damaged_snapshot_has_no_name(self, snapshot: bytes) -> None:
        """A damaged snapshot only has no name; it does not make a report fail."""
        assert label_of("company", snapshot) == "a record that cannot be read"

    async def test_one_that_no_list_shows(self, server: Server) -> None:
        """A record that is missing in the list, but found by its id, exists."""
        server.inject(Fault.content(b'{"data": []}'), on="records")
        preview = await seen(server, plan_of(1))
        assert preview.records.keys() == {1, 2}
        assert preview.gone == {}


@pytest.mark.plain
class TestGone:
    async def test_survivors(self, server: Server) -> None:
        """For each missing record it is known what it survives as, or that it never existed."""
        merge(server, (5, 4), (7, 6))
        preview = await seen(server, Plan.of([(1, 2), (3, 4), (7, 6), (9, 9999)], kind="company"))
        assert preview.gone == {4: 5, 6: 7, 9999: None}
        assert preview.records.keys() == {1, 2, 3, 5, 7, 9}
        assert preview.label(4) == "was merged into 5"
        assert preview.label(9999) == "does not exist (any more)"
        assert findings(preview) == {
            2: (PairState.REFUSED, "4 had been merged into 5 before this job"),
            3: (PairState.SUCCEEDED, "6 had been merged into 7 before this job"),
            4: (PairState.REFUSED, "There is no company 9999 (any more)"),
        }

    async def test_chains(self, server: Server) -> None:
        """A chain is followed to its survivor, with one request for each record."""
        merge(server, (3, 2), (4, 3), (1, 4))
        preview = await seen(server, plan_of(0, (1, 2), (1, 4)))
        assert preview.gone == {2: 3, 3: 4, 4: 1}
        assert preview.records.keys() == {1}
        assert findings(preview) == {
            1: (PairState.SUCCEEDED, "2 had been merged into 1 before this job"),
            2: (PairState.SUCCEEDED, "4 had been merged into 1 before this job"),
        }
        assert server.calls["record"] <= 4

    async def test_a_chain_that_leads_elsewhere(self, server: Server) -> None:
        """A duplicate that survives as a third record is refused; that record has a snapshot."""
        merge(server, (1, 2), (9, 1))
        preview = await seen(server, plan_of(0, (1, 2)))
        assert preview.records.keys() == {9}
        # That the duplicate was merged into this primary does not count: the primary is gone, too.
        assert findings(preview) == {
            1: (PairState.REFUSED, "2 had been merged into 9 before this job")
        }

    async def test_a_primary_that_is_gone(self, server: Server) -> None:
        """A pair whose primary is gone is refused."""
        merge(server, (9, 1))
        preview = await seen(server, plan_of(0, (1, 2), (9998, 3)))
        assert findings(preview) == {
            1: (PairState.REFUSED, "1 had been merged into 9 before this job"),
            2: (PairState.REFUSED, "There is no company 9998 (any more)"),
        }

    async def test_a_chain_to_nowhere(self, server: Server) -> None:
        """A record that was merged into one that does not exist any more is refused."""
        message = "2 no longer exists as it has been merged into 9998"
        body = json.dumps({"errors": [{"code": "unprocessable-entity", "message": message}]})
        server.inject(Fault.content(b'{"data": []}'), on="records")
        server.inject(Fault.content(body.encode(), status=422), on="record")
        preview = await seen(server, Plan.of([(2, 1)], kind="company"))
        assert preview.gone == {2: 9998, 9998: None}
        assert findings(preview) == {1: (PairState.REFUSED, "There is no company 2 (any more)")}

    def test_a_cycle(self) -> None:
        """A cycle of merged records ends the search, and their merges are refused."""
        preview = Preview(plan=plan_of(1), records={}, gone={1: 2, 2: 1})
        (transition,) = preview.findings(1.0)
        assert isinstance(transition, Transition)
        assert transition.state is PairState.REFUSED


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "error"),
        [(401, AuthenticationError), (403, AuthorizationError), (503, ServerError)],
    )
    @pytest.mark.parametrize("on", ["records", "record"])
    async def test_they_come_out_as_themselves(
        self, server: Server, status: int, error: type[AffinityError], on: str
    ) -> None:
        """Whichever request fails, its error is raised, not an ``ExceptionGroup``."""
        merge(server, (9, 2))
        server.inject(Fault.status(status), on=on, times=None)
        with pytest.raises(error):
            _ = await seen(server, plan_of(200))

    async def test_a_client_that_is_not_open(self, server: Server, tmp_path: Path) -> None:
        """A preview with a client that is not open raises."""
        with pytest.raises(AffinityError, match="closed"):
            _ = await dedupe.preview(Client("key", base_url=server.url), plan_of(1))


class TestEffects:
    def test_of_the_merges_that_run(self) -> None:
        """Each merge that can run has an effect; they are in the order in which they run."""
        plan = Plan.of([(1, 2), (1, 3), (1, 4), (5, 6)], kind="company")
        companies = {1: ("a", True), 2: ("b", False), 3: ("a", False), 5: ("a", False)}
        records = {
            each: json.dumps({"id": each, "domain": domain, "isGlobal": is_global}).encode()
            for each, (domain, is_global) in companies.items()
        }
        preview = Preview(plan=plan, records=records, gone={4: None, 6: 5})
        assert [
            (plan.merges[number - 1].duplicate_id, each) for number, each in preview.effects.items()
        ] == [
            (3, Effect.LOCAL_COPY),
            (2, Effect.KEPT),
        ]

    def test_internal_persons_are_left_out(self) -> None:
        """A pair whose duplicate is an internal person is refused, with that reason."""
        records = {
            each: json.dumps({"id": each, "type": "internal" if each < 3 else "external"}).encode()
            for each in (1, 2, 3)
        }
        preview = Preview(plan=Plan.of([(1, 2), (1, 3)], kind="person"), records=records, gone={})
        assert findings(preview) == {
            1: (PairState.REFUSED, "2 is an internal person, who cannot be merged away")
        }
        assert preview.effects == {2: Effect.KEPT}

    @pytest.mark.parametrize("no_new_company", [False, True])
    def test_without_new_companies(self, *, no_new_company: bool) -> None:
        """A plan without new companies refuses what would make one; for persons it is the same."""
        records = dict.fromkeys((1, 2), b'{"id": 1, "isGlobal": true}')
        plan = Plan.of([(1, 2), (3, 4)], kind="company", no_new_company=no_new_company)
        preview = Preview(plan=plan, records=records, gone={3: None, 4: 5})
        reason = "1 and 2 would be replaced by a new company (no new company)"
        assert findings(preview).get(1) == ((PairState.REFUSED, reason) if no_new_company else None)
        assert findings(preview)[2][1] == "4 had been merged into 5 before this job"
        persons = Plan.of([(1, 2)], kind="person", no_new_company=no_new_company)
        assert Preview(plan=persons, records=records, gone={}).effects == {1: Effect.KEPT}


class TestDurations:
    """How long merges took lately, as the server's history shows it."""

    async def test_the_newest(self, server: Server) -> None:
        """A preview has the seconds that the newest merges took which succeeded."""
        _ = server.start_merge("company", 301, 302, duration=7.0)
        _ = server.start_merge("company", 303, 304, duration=3.0, outcome="failed")
        await asyncio.sleep(10.0)
        (seconds,) = (await seen(server, plan_of(1))).durations
        assert seconds == pytest.approx(7.0, abs=0.01)

    async def test_rows_without_times(self) -> None:
        """Rows whose times the server does not name are left out."""
        at = datetime(2026, 1, 1, tzinfo=UTC)
        row = CompanyMergeState(
            id=1, status=TaskStatus.SUCCESS, task_id="1", primary_id=1, duplicate_id=2
        )

        async def merges(**_: object) -> AsyncGenerator[CompanyMergeState]:
            yield row
            yield replace(row, started_at=at, completed_at=at + timedelta(seconds=5))

        client: Any = SimpleNamespace(merges_of=lambda _: SimpleNamespace(merges=merges))
        assert await _durations(client, "company") == (5.0,)
