"""What users write, for mypy to check. It is never run."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, assert_type

import aiohttp
import tenacity

import aiotasks
from aiotasks import (
    Backoff,
    Client,
    CompanyMergeState,
    CompanyProfile,
    DuplicateSuggestion,
    Kind,
    MergeService,
    MergeTask,
    Outcome,
    Outcomes,
    OutcomeState,
    PersonMergeState,
    PersonProfile,
    Progress,
    Quota,
    Record,
    ResultsSummary,
    TaskService,
    TaskStatus,
    Watch,
    dedupe,
)


def slower(state: tenacity.RetryCallState) -> float:
    return state.attempt_number * 2.0


def show(progress: Progress) -> None:
    assert_type(progress.total, int)
    assert_type(progress.done, int)
    assert_type(progress.outcome, Outcome)


async def readme(api_key: str, primary_id: int, duplicate_id: int) -> None:
    async with aiotasks.Client(api_key) as client:
        task_url = await client.companies.merge(primary_id, duplicate_id)
        task = await client.tasks.wait(task_url, timeout=60.0)
        if task.status == "success":
            print("Merge completed!")  # noqa: T201 - as users do


async def clients(session: aiohttp.ClientSession) -> None:
    _ = Client("key", base_url="http://localhost:8080", session=session, api_version="current")
    _ = Client("key", request_timeout=5, max_in_flight=4, reserve=1000)
    Client(b"key")  # type: ignore[arg-type]
    Client("key", "https://api.affinity.co")  # type: ignore[call-arg]
    async with Client.from_env(api_version="2026-09-17") as client:
        assert_type(client, Client)
        assert_type(client.base_url, str)
        assert_type(client.tasks, TaskService)
        assert_type(client.companies, MergeService[CompanyMergeState, CompanyProfile])
        assert_type(client.persons, MergeService[PersonMergeState, PersonProfile])
        assert_type(client.quota, Quota)
        assert_type(client.quota.remaining, int | None)
        assert_type(client.quota.reset, float | None)
        assert_type(client.quota.in_flight, int)
    settings = aiotasks.ClientSettings(base_url="http://localhost:8080", max_in_flight=4)
    _ = Client.from_env(**settings)
    Client.from_env(base_ulr="http://localhost:8080")  # type: ignore[call-arg]
    Client.from_env(reserve="1000")  # type: ignore[arg-type]


def services(client: Client, kind: Kind) -> None:
    assert_type(client.merges_of("company"), MergeService[CompanyMergeState, CompanyProfile])
    assert_type(client.merges_of("person"), MergeService[PersonMergeState, PersonProfile])
    assert_type(
        client.merges_of(kind),
        MergeService[CompanyMergeState, CompanyProfile]
        | MergeService[PersonMergeState, PersonProfile],
    )
    assert_type(client.tasks.url_of(kind, "id"), str)
    client.merges_of("deal")  # type: ignore[call-overload]


async def get(client: Client, url: str) -> None:
    task = await client.tasks.get(url)
    assert_type(task, MergeTask)
    assert_type(task.id, str)
    assert_type(task.status, TaskStatus)
    assert_type(task.results_summary, ResultsSummary | None)
    if task.results_summary is not None:
        assert_type(task.results_summary.in_progress, int)
    task.id = "other"  # type: ignore[misc]


async def wait(client: Client, url: str) -> None:
    assert_type(await client.tasks.wait(url), MergeTask)
    assert_type(await client.tasks.wait(url, timeout=None), MergeTask)
    _ = await client.tasks.wait(url, timeout=60, poll_interval=1, max_poll_interval=10)
    await client.tasks.wait(url, 60.0)  # type: ignore[call-arg]
    await client.tasks.wait(None)  # type: ignore[arg-type]


async def backoff(client: Client, url: str) -> None:
    strategies: list[Backoff] = [
        tenacity.wait_fixed(3),
        tenacity.wait_exponential(multiplier=1, max=60) + tenacity.wait_random(0, 1),
        tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(9)),
        slower,
        lambda state: min(60.0, 2.0**state.attempt_number),
    ]
    for strategy in strategies:
        _ = await client.tasks.wait(url, backoff=strategy)
        _ = await client.tasks.wait_many([url], backoff=strategy)
        _ = client.tasks.watch([url], backoff=strategy)
    await client.tasks.wait(url, backoff=tenacity.wait_none())
    await client.tasks.wait(url, backoff=3.0)  # type: ignore[arg-type]
    await client.tasks.wait(url, backoff=lambda: 3.0)  # type: ignore[arg-type]


async def wait_many(client: Client, urls: set[str]) -> None:
    outcomes = await client.tasks.wait_many(urls, timeout=None, on_progress=show)
    assert_type(outcomes, Outcomes)
    assert_type(outcomes[0], Outcome)
    assert_type(outcomes[-3:], Outcomes)
    assert_type(outcomes[1:].failed, Outcomes)
    assert_type(outcomes.succeeded, Outcomes)
    assert_type(outcomes.running[0].task, MergeTask | None)
    assert_type(outcomes.unknown, Outcomes)
    assert_type([outcome.url for outcome in outcomes], list[str])
    assert_type(len(outcomes), int)
    sequence: Sequence[Outcome] = outcomes
    assert_type(sequence.index(outcomes[0]), int)
    _ = await client.tasks.wait_many(url for url in urls)
    _ = await client.tasks.wait_many(urls, on_progress=print)
    try:
        outcomes.raise_for_failures()
    except* aiotasks.TaskFailedError as failures:
        assert_type(failures, ExceptionGroup[aiotasks.TaskFailedError])


def report(outcome: Outcome) -> str:
    assert_type(outcome.error, aiotasks.AffinityError | None)
    assert_type(outcome.reason, str | None)
    assert_type(outcome.polls, int)
    assert_type(outcome.waited, float)
    match outcome.state:
        case OutcomeState.SUCCESS:
            return "done"
        case OutcomeState.FAILED:
            return outcome.reason or "failed"
        case OutcomeState.RUNNING:
            return "still running"
        case OutcomeState.UNKNOWN:
            return str(outcome.error)


async def watch(client: Client, url: str) -> None:
    async with client.tasks.watch(timeout=60.0) as watching:
        assert_type(watching, Watch)
        watching.add(url)
        watching.close()
        async for outcome in watching:
            assert_type(outcome, Outcome)
        assert_type(watching.unsettled, list[Outcome])
    async with client.tasks.watch([url]) as watching:
        assert_type(await anext(watching), Outcome)
        iterator: AsyncIterator[Outcome] = watching
        assert_type(iterator, AsyncIterator[Outcome])


async def lists(client: Client, kind: Kind) -> None:
    async for task in client.tasks.list(kind, status="in-progress"):
        assert_type(task, MergeTask)
    async for task in client.tasks.list("person", status=TaskStatus.FAILED):
        assert_type(task, MergeTask)
    client.tasks.list("opportunity")  # type: ignore[arg-type]
    assert_type([task.id async for task in client.tasks.list("company")], list[str])


async def companies(client: Client, url: str) -> None:
    assert_type(await client.companies.merge(1, 2), str)
    assert_type(await client.companies.get_merge(7), CompanyMergeState)
    await client.companies.merge("1", "2")  # type: ignore[arg-type]
    async for merge in client.companies.merges(status="failed", task_url=url):
        assert_type(merge, CompanyMergeState)
        assert_type(merge.status, TaskStatus)
        assert_type(merge.primary_id, int)
        assert_type(merge.duplicate_id, int)
        assert_type(merge.started_at, datetime | None)
        assert_type(merge.error_message, str | None)
    async for suggestion in client.companies.suggestions():
        assert_type(suggestion, DuplicateSuggestion[CompanyProfile])
        assert_type(suggestion.match_criteria, str)
        assert_type(suggestion.primary_profile.domains, tuple[str, ...])
        assert_type(suggestion.duplicate_profiles, tuple[CompanyProfile, ...])
    async for record in client.companies.records([1, 2]):
        assert_type(record, Record[CompanyProfile])
        assert_type(record.profile.domain, str | None)
        assert_type(record.json, bytes)


async def persons(client: Client, url: str) -> None:
    assert_type(await client.persons.merge(1, 2), str)
    assert_type(await client.persons.get_merge(7), PersonMergeState)
    async for merge in client.persons.merges(status=TaskStatus.SUCCESS, task_url=url):
        assert_type(merge, PersonMergeState)
        assert_type(merge.task_id, str)
    async for suggestion in client.persons.suggestions():
        assert_type(suggestion, DuplicateSuggestion[PersonProfile])
        assert_type(suggestion.primary_profile.email_addresses, tuple[str, ...])
    assert_type(await client.persons.get_record(1), Record[PersonProfile])


async def errors(client: Client, url: str) -> None:
    try:
        _ = await client.tasks.wait(url)
    except aiotasks.TaskFailedError as error:
        assert_type(error.task_url, str)
        assert_type(error.task, MergeTask)
        assert_type(error.reason, str | None)
    except aiotasks.TaskTimeoutError as error:
        assert_type(error.task, MergeTask | None)
        assert_type(error.waited, float)
    except aiotasks.UnknownStatusError as error:
        assert_type(error.task.status, TaskStatus)
    except aiotasks.MergedEntityError as error:
        assert_type(error.source_id, int | None)
        assert_type(error.target_id, int | None)
    except aiotasks.ResponseError as error:
        assert_type(error.status, int)
        assert_type(error.code, str | None)
        assert_type(error.message, str)
        assert_type(error.param, str | None)
        assert_type(error.request_id, str | None)
    except aiotasks.DecodeError as error:
        assert_type(error.status, int)
        assert_type(error.problem, str)
    except aiotasks.NetworkError as error:
        assert_type(error.was_sent, bool)
    except aiotasks.IndeterminateMergeError as error:
        assert_type(error.kind, str)
        assert_type(error.primary_id, int)
        assert_type(error.duplicate_id, int)


async def own_errors() -> None:
    try:
        _ = dedupe.Plan.of([], kind="company")
    except aiotasks.PlanError as error:
        assert_type(error.source, str)
        assert_type(error.problems, tuple[str, ...])
    except aiotasks.LedgerError as error:
        assert_type(error.path, str)
        assert_type(error.problem, str)


async def jobs(client: Client) -> None:
    plan = dedupe.Plan.read("pairs.csv", kind="company", on_conflict="first", protect=[7])
    _ = dedupe.Plan.of([(1, 2)], kind="persons")  # type: ignore[arg-type]
    assert_type(plan.fingerprint, str)
    assert_type(plan.understood, tuple[str, ...])
    options = dedupe.InputOptions(cluster_column="group", id_column="no", keep="lowest")
    _ = dedupe.Plan.read("clusters.xlsx", kind="company", **options)
    _ = dedupe.Plan.read("pairs.csv", kind="company", column="no")  # type: ignore[call-arg]
    assert_type(plan.cost(limit=900, month_limit=None).calls, int)
    preview = await dedupe.preview(client, plan)
    assert_type(preview.label(1), str)
    async with dedupe.Ledger("pairs.job.db") as ledger:
        result = await dedupe.run(client, plan, ledger, preview=preview, on_progress=show_job)
        assert_type(result.totals[dedupe.PairState.SUCCEEDED], int)
        assert_type(result.stopped, dedupe.StopReason | None)
        assert_type(await dedupe.resume(client, ledger, retry_failed=True), dedupe.JobResult)
        settings = dedupe.JobSettings(max_open=50)
        _ = await dedupe.resume(client, ledger, settings=settings)
        _ = await dedupe.resume(client, ledger, max_open=50)  # type: ignore[call-arg]
        assert_type(await ledger.pairs(dedupe.PairState.FAILED), list[dedupe.Pair])
    async with dedupe.Ledger.reading("pairs.job.db") as reader:
        async for line in dedupe.report_lines(reader, format="jsonl"):
            assert_type(line, str)
        assert_type(await dedupe.report_workbook(reader, dedupe.PairState.FAILED), bytes)


def show_job(progress: dedupe.JobProgress) -> None:
    assert_type(progress.total, int)
    assert_type(progress.waiting_for, str | None)
    assert_type(progress.seconds_left, float | None)


def hierarchy() -> None:
    base: list[type[aiotasks.AffinityError]] = [
        aiotasks.ClosedError,
        aiotasks.ConfigurationError,
        aiotasks.LedgerError,
        aiotasks.PlanError,
    ]
    timeouts: list[type[TimeoutError]] = [aiotasks.TaskTimeoutError, aiotasks.RequestTimeoutError]
    refusals: list[type[aiotasks.RateLimitError]] = [aiotasks.MonthlyQuotaError]
    values: list[type[ValueError]] = [aiotasks.ConfigurationError]
    print(base, timeouts, refusals, values)  # noqa: T201 - so that they are used


def count(request: aiotasks.RequestInfo) -> None:
    assert_type(request.route, str)
    assert_type(request.status, int | None)


async def in_a_service(error: aiotasks.AffinityError) -> None:
    client = await Client("key", on_request=count, allow_http=True).open()
    assert_type(client, Client)
    assert_type(client.pending, int)
    found = await client.diagnose(task_urls=["https://api.affinity.co/v2/tasks/company-merges/a"])
    assert_type(found, aiotasks.Diagnosis)
    assert_type(found.can_run, bool)
    assert_type(found.text, str)
    await client.aclose()
    assert_type(aiotasks.http_status_of(error), int)
    assert_type(error.to_dict(), dict[str, Any])
    assert_type(found.to_dict(), dict[str, Any])
    assert_type(Outcomes([]).to_dict(), dict[str, Any])
    assert_type(aiotasks.__version__, str)
    aiotasks.instrument()
