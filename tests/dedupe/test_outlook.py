"""How a job keeps to the effects that its plan has shown."""

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aiotasks import LedgerError
from aiotasks.dedupe import Effect, Ledger, Pair, PairState, Plan, preview, report_lines
from aiotasks.dedupe._outlook import read_outlook
from aiotasks.sandbox import Fault, LoggedRequest
from benchmarks import inline
from tests.dedupe.conftest import Seen, Server, clock, connect, go, plan_of, read, star
from tests.profiles import is_thorough


SUCCEEDED, FAILED, REFUSED = PairState.SUCCEEDED, PairState.FAILED, PairState.REFUSED


def company(*domains: str, is_global: bool = False) -> bytes:
    return json.dumps({"id": 1, "domains": domains, "isGlobal": is_global}).encode()


async def begin(server: Server, job: Path, plan: Plan, records: Mapping[int, bytes]) -> None:
    """Begin a job whose records were these, as a version without these rules did."""
    async with Ledger(job, connect=inline.connect) as ledger:
        await ledger.begin(plan, origin=server.url, records=records, findings=[], at=clock())


def posted(server: Server) -> list[int]:
    """Return the duplicates that were requested to be merged, in order."""
    return [json.loads(request.body)["duplicateCompanyId"] for request in server.posts]


async def report(job: Path) -> list[dict[str, Any]]:
    """Return the rows of a report."""
    async with Ledger.reading(job, connect=inline.connect) as ledger:
        return [json.loads(line) async for line in report_lines(ledger, format="jsonl")]


async def ends(job: Path) -> dict[int, PairState]:
    """Return the state of each duplicate's pair."""
    return {pair.duplicate_id: pair.state for pair in await read(job)}


# Only the merge of 5 makes the global primary 2 local.
COPIED = {
    2: company("a", is_global=True),
    3: company("b"),
    4: company("c", is_global=True),
    5: company("a"),
}
# Each merge would replace the primary.
REPLACED = {2: company("a", is_global=True), 3: company("b"), 4: company("c")}


class TestOrder:
    async def test_the_local_copy_comes_first(self, server: Server, job: Path) -> None:
        """A merge that makes the primary local is sent before all others of its cluster."""
        await begin(server, job, Plan.of(star(2, 3, 4, 5), kind="company"), COPIED)
        _ = await go(server, job)
        assert posted(server) == [5, 3, 4]

    async def test_without_it_the_others_are_refused(self, server: Server, job: Path) -> None:
        """If the primary was not made local, what relies on that is refused with the reason."""
        await begin(server, job, Plan.of(star(2, 3, 4, 5), kind="company"), COPIED)
        server.failure_rate = 1.0
        _ = await go(server, job)
        assert posted(server) == [5]
        assert await ends(job) == {3: REFUSED, 4: REFUSED, 5: FAILED}
        reason = (
            "2 was to be made local by the merge of 5, which did not succeed: as it is, this merge "
            "would have another effect than was shown"
        )
        assert [pair.reason for pair in await read(job)][:2] == [reason] * 2

    async def test_they_are_no_failures(self, server: Server, job: Path) -> None:
        """What relies on a merge that failed says nothing about the server, and stops no job."""
        many = star(2, 5, *range(100, 150))
        plan = Plan.of([*many, *star(7, *range(200, 240))], kind="company")
        records = {each: company() for each in range(100, 240)}
        await begin(server, job, plan, {**records, **COPIED, 7: company()})
        server.interrupt = lambda _: setattr(
            server, "failure_rate", float(b'CompanyId":5}' in server.log[-1].body)
        )
        result = await go(server, job)
        assert result.stopped is None
        assert (result.totals[FAILED], result.totals[REFUSED]) == (1, 50)

    async def test_they_are_retried_in_the_same_order(self, server: Server, job: Path) -> None:
        """Tried again, the merges of a cluster keep their order, and the others follow a success."""
        await begin(server, job, Plan.of(star(2, 3, 4, 5), kind="company"), COPIED)
        server.failure_rate = 1.0
        _ = await go(server, job)
        server.failure_rate = 0.0
        _ = await go(server, job, retry_failed=True)
        assert posted(server) == [5, 5, 3, 4]
        assert await ends(job) == dict.fromkeys([3, 4, 5], SUCCEEDED)

    async def test_a_success_of_an_earlier_run_counts(self, server: Server, job: Path) -> None:
        """A primary that an earlier run has made local stays local for the next one."""
        await begin(server, job, Plan.of(star(2, 3, 5), kind="company"), COPIED)
        server.on_request = lambda _: setattr(server, "failure_rate", float(len(server.posts) == 2))
        _ = await go(server, job)
        assert await ends(job) == {3: FAILED, 5: SUCCEEDED}
        _ = await go(server, job, retry_failed=True)
        assert await ends(job) == {3: SUCCEEDED, 5: SUCCEEDED}


class TestReplaced:
    async def test_once_a_run(self, server: Server, job: Path) -> None:
        """A primary is replaced once; the rest of its cluster is refused and never sent."""
        await begin(server, job, Plan.of(star(2, 3, 4), kind="company"), REPLACED)
        _ = await go(server, job)
        (_, left_out) = await read(job)
        again = Seen()
        _ = await go(server, job, retry_failed=True, seen=again)
        assert posted(server) == [3]
        assert again.events == []
        assert await ends(job) == {3: SUCCEEDED, 4: REFUSED}
        assert left_out.reason is not None
        assert left_out.reason.endswith("with the id of the new company as primary")

    async def test_never_without_new_companies(self, server: Server, job: Path) -> None:
        """A job without new companies stays one, also when it is resumed and retried."""
        plan = Plan.of([*star(2, 3, 4), (7, 8)], kind="company", no_new_company=True)
        await begin(server, job, plan, {**REPLACED, 7: company(), 8: company()})
        _ = await go(server, job)
        _ = await go(server, job, retry_failed=True)
        assert posted(server) == [8]
        assert await ends(job) == {3: REFUSED, 4: REFUSED, 8: SUCCEEDED}
        with pytest.raises(LedgerError, match="another job"):
            _ = await go(server, job, Plan.of([*star(2, 3, 4), (7, 8)], kind="company"))


async def test_an_outlook_needs_only_the_ledger(server: Server, job: Path) -> None:
    """What becomes of each merge follows from the ledger, whatever the states of its pairs are."""
    plan = Plan.of([*star(2, 3, 4, 5), *star(11, *range(12, 712))], kind="company")
    await begin(server, job, plan, {**COPIED, 11: company(), 600: company()})
    async with Ledger.reading(job, connect=inline.connect) as ledger:
        outlook = await read_outlook(ledger)
        pairs: dict[int, Pair] = {pair.duplicate_id: pair for pair in await ledger.pairs()}
    effects = {each: outlook.effects[pair.number] for each, pair in pairs.items()}
    assert effects[3] is effects[600] is Effect.KEPT
    assert (effects[5], effects[12]) == (Effect.LOCAL_COPY, Effect.UNKNOWN)


class TestReport:
    async def test_what_became_of_each_pair(self, server: Server, job: Path) -> None:
        """A report says what becomes of each pair, and who can undo it; what did not run has no effect."""
        plan = Plan.of([*star(2, 3, 4, 5), (7, 8), (9, 10)], kind="company")
        await begin(server, job, plan, {**COPIED, 7: company(), 8: company()})
        server.interrupt = lambda _: setattr(
            server, "failure_rate", float(b"10}" in server.log[-1].body)
        )
        _ = await go(server, job)
        rows = await report(job)
        assert {row["duplicate_id"]: (row["effect"], row["undo"]) for row in rows} == {
            3: ("kept", "by an admin in Settings > Duplicate Management > Merged"),
            4: ("hidden", "never"),
            5: ("local-copy", "never"),
            8: ("kept", "by an admin in Settings > Duplicate Management > Merged"),
            10: (None, None),
        }

    async def test_pairs_to_come(self, server: Server, job: Path) -> None:
        """Before a job has run, its report says what it would do, as far as that is known."""
        await begin(server, job, plan_of(0, (2, 3), (2, 4), (7, 8)), REPLACED)
        rows = await report(job)
        assert [(row["effect"], row["undo"]) for row in rows] == [
            ("replaced", "never"),
            (None, None),
            ("unknown", "unknown"),
        ]


def replace_primaries(server: Server, *primary_ids: int) -> None:
    """Let primaries be gone when the job has merged its pairs and reads their records again."""

    def strike(asked: LoggedRequest) -> None:
        if asked.operation == "records" and server.posts:
            for each in {*primary_ids} - server.merged("company").keys():
                _ = server.start_merge("company", 99, each, duration=0.0)

    server.interrupt = strike


@pytest.mark.plain
class TestNewCompanies:
    async def test_their_ids_are_reported(self, server: Server, job: Path) -> None:
        """Where the API says what a replaced primary survives as, the report has that id."""
        await begin(server, job, Plan.of([(2, 3), (7, 8)], kind="company"), REPLACED)
        replace_primaries(server, 2)
        _ = await go(server, job)
        assert [(row["duplicate_id"], row["new_id"]) for row in await report(job)] == [
            (3, 99),
            (8, None),
        ]
        asked = server.calls["record"]
        _ = await go(server, job)
        assert server.calls["record"] == asked

    async def test_the_api_may_not_name_them(self, server: Server, job: Path) -> None:
        """Where a replaced primary is only gone, one call shows that, and no id is reported."""
        records = {each: company("a", is_global=True) for each in range(2, 8)}
        await begin(server, job, Plan.of([(2, 3), (4, 5), (6, 7)], kind="company"), records)
        replace_primaries(server, 2, 4, 6)
        server.inject(Fault.content(b"{}", status=404), on="record", times=None)
        _ = await go(server, job)
        assert {row["new_id"] for row in await report(job)} == {None}
        assert server.calls["record"] == 1

    async def test_one_that_is_not_gone_yet(self, server: Server, job: Path) -> None:
        """A replaced primary that the API still shows is asked for again in the next run."""
        await begin(server, job, Plan.of([(2, 3)], kind="company"), REPLACED)
        _ = await go(server, job)
        assert [row["new_id"] for row in await report(job)] == [None]
        _ = server.start_merge("company", 99, 2, duration=0.0)
        _ = await go(server, job)
        assert [row["new_id"] for row in await report(job)] == [99]

    async def test_more_than_a_call_has(self, server: Server, job: Path) -> None:
        """Replaced primaries are read however many there are, also if the API still shows them."""
        records = {each: company("a", is_global=True) for each in range(1, 301)}
        await begin(server, job, plan_of(150), records)
        _ = await go(server, job)
        assert {row["new_id"] for row in await report(job)} == {None}

    async def test_damaged_notes(self, server: Server, job: Path) -> None:
        """A damaged note costs the ids in it, and not the report."""
        await begin(server, job, Plan.of([(2, 3)], kind="company"), REPLACED)
        async with Ledger(job, connect=inline.connect) as ledger:
            await ledger.note(new_ids="[")
        assert [row["new_id"] for row in await report(job)] == [None]


@pytest.mark.parametrize("seed", range(20 if is_thorough() else 4))
@pytest.mark.parametrize("no_new_company", [False, True])
async def test_shown_effects_come_true(
    server: Server, job: Path, monkeypatch: pytest.MonkeyPatch, seed: int, *, no_new_company: bool
) -> None:
    """Whatever fails, and is tried again, each merge that succeeds has the effect that was shown.

    So the server says, which decides by the records as they are when a merge ends.
    """
    random, store = Random(seed), server._app.states["company"].store
    ids = range(1, 31)
    store.directory.special_ids = {each for each in ids if random.random() < 0.4}
    domains = {each: random.sample("abc", random.randint(0, 2)) for each in ids}
    monkeypatch.setattr(
        store.directory, "record", lambda each: {"id": each, "domains": [*domains[each]]}
    )
    pairs = [(random.randint(1, 6), duplicate_id) for duplicate_id in range(7, 31)]
    plan = Plan.of(pairs, kind="company", no_new_company=no_new_company)
    async with connect(server) as client:
        shown = await preview(client, plan)
    server.failure_rate = 0.3
    _ = await go(server, job, plan, max_failure_rate=1.0)
    server.failure_rate = 0.0
    _ = await go(server, job, retry_failed=True, max_failure_rate=1.0)
    history = server.history("company")
    made = {each.duplicate_id: each.effect for each in history if each.outcome == "success"}
    by_duplicate = {plan.merges[n - 1].duplicate_id: effect for n, effect in shown.effects.items()}
    assert made == by_duplicate
    assert {row["duplicate_id"]: row["effect"] for row in await report(job)} == {
        duplicate_id: made.get(duplicate_id) for _, duplicate_id in pairs
    }
    assert not (no_new_company and Effect.REPLACED in made.values())
