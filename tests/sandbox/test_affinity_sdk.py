"""The published SDK works with the sandbox as with the real API."""

from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from affinity import AsyncAffinity
from affinity.exceptions import (
    AffinityError,
    CompanyMergedError,
    NotFoundError,
    PersonMergedError,
)

from aiotasks.sandbox import PLAIN, Sandbox


pytestmark = pytest.mark.real_time

Kind = Literal["company", "person"]
KINDS = pytest.mark.parametrize("kind", ["company", "person"])


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(**PLAIN, duration=0.02, companies=300, persons=300) as sandbox:
        yield sandbox


@pytest.fixture
async def sdk(sandbox: Sandbox) -> AsyncIterator[AsyncAffinity]:
    async with AsyncAffinity(
        sandbox.api_key,
        v1_base_url=sandbox.url,
        v2_base_url=f"{sandbox.url}/v2",
        enable_beta_endpoints=True,
        max_retries=0,
    ) as sdk:
        yield sdk


def service(sdk: AsyncAffinity, kind: Kind) -> Any:
    return sdk.companies if kind == "company" else sdk.persons


@KINDS
async def test_it_merges_and_waits(sandbox: Sandbox, sdk: AsyncAffinity, kind: Kind) -> None:
    """The SDK follows a merge to its end and finds its state by task and by id."""
    records = service(sdk, kind)
    task_url = await records.merge(1, 2)
    task = await sdk.tasks.wait(task_url, poll_interval=0.01, timeout=5)
    assert task.status == "success"
    assert task.results_summary is not None
    assert task.results_summary.success == 1
    (merge,) = (await records.list_merges(task_id=task.id)).data
    assert await records.get_merge_state(merge.id) == merge
    assert merge.completed_at is not None
    assert getattr(merge, f"duplicate_{kind}_id") == 2
    assert sandbox.merged(kind) == {2: 1}


@KINDS
async def test_it_sees_failures(sandbox: Sandbox, sdk: AsyncAffinity, kind: Kind) -> None:
    """A failed task raises in the SDK, and the reason is in the merge list."""
    task_url = sandbox.start_merge(kind, 1, 2, reason="Because")
    with pytest.raises(AffinityError, match="Task failed"):
        await sdk.tasks.wait(task_url, poll_interval=0.01, timeout=5)
    (merge,) = (await service(sdk, kind).list_merges(status="failed")).data
    assert merge.error_message == "Because"


@KINDS
async def test_it_gets_the_survivor_of_a_merged_record(sdk: AsyncAffinity, kind: Kind) -> None:
    """Reading a merged record raises the SDK's own error with both ids."""
    records = service(sdk, kind)
    await sdk.tasks.wait(await records.merge(1, 2), poll_interval=0.01, timeout=5)
    with pytest.raises((CompanyMergedError, PersonMergedError)) as caught:
        await records.get(2)
    assert (caught.value.source_id, caught.value.target_id) == (2, 1)
    assert (await records.get(1)).id == 1


@KINDS
async def test_it_reads_whole_lists(sandbox: Sandbox, sdk: AsyncAffinity, kind: Kind) -> None:
    """The SDK's iterators follow the pages of tasks and merges to the end, newest first."""
    urls = [sandbox.start_merge(kind, 1, number) for number in range(2, 232)]
    tasks = [task.id async for task in sdk.tasks.iter_merge_tasks(kind)]
    assert tasks == [url.rpartition("/")[2] for url in reversed(urls)]
    merges = [merge.id async for merge in service(sdk, kind).iter_merges()]
    assert merges == list(range(230, 0, -1))
    page = await sdk.tasks.list_merge_tasks(kind, limit=7, status="failed")
    assert page.data == []


@KINDS
async def test_it_reads_suggestions(sdk: AsyncAffinity, kind: Kind) -> None:
    """The SDK reads and merges what the sandbox suggests."""
    records = service(sdk, kind)
    page = await records.list_duplicate_suggestions(limit=5, total_count=True)
    assert (len(page.data), page.pagination.total_count) == (5, 150)
    everything = [item async for item in records.iter_duplicate_suggestions()]
    assert len(everything) == 150
    suggestion = everything[0]
    (duplicate,) = suggestion.duplicates
    assert await records.merge(suggestion.primary.id, duplicate.id)


async def test_it_reads_limits_and_identity(sdk: AsyncAffinity) -> None:
    """The SDK reads the limits from the endpoint and from the headers, and its own user."""
    identity = await sdk.auth.whoami()
    assert identity.grant.scopes == ["api"]
    limits = await sdk.rate_limits.refresh()
    assert limits.source == "endpoint"
    assert (limits.api_key_per_minute.limit, limits.api_key_per_minute.remaining) == (900, 898)
    assert sdk.rate_limits.snapshot().org_monthly.remaining == 99_998


async def test_it_gives_up_at_the_first_404() -> None:
    """The SDK takes a task that is not there yet for one that does not exist."""
    async with (
        Sandbox(duration=0.02, task_lag=60.0, task_lag_share=1.0) as sandbox,
        AsyncAffinity(
            sandbox.api_key, v1_base_url=sandbox.url, v2_base_url=f"{sandbox.url}/v2", max_retries=0
        ) as sdk,
    ):
        task_url = await service(sdk, "company").merge(1, 2)
        with pytest.raises(NotFoundError):
            await sdk.tasks.wait(task_url, poll_interval=0.01, timeout=5)
