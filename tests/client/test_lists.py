"""Lists: tasks, merges and suggestions, page by page."""

from typing import Any

import pytest

from aiotasks import (
    AuthorizationError,
    Client,
    ConfigurationError,
    DecodeError,
    DuplicateSuggestion,
    MergeTask,
    NotFoundError,
)
from aiotasks.sandbox import Fault
from tests.servers import Recorded, connect


def started(sandbox: Recorded, kind: Any, count: int, **settings: Any) -> list[str]:
    """Start merges and return the ids of their tasks, newest first."""
    urls = [
        sandbox.start_merge(kind, 2 * number + 1, 2 * number + 2, **settings)
        for number in range(count)
    ]
    return [url.rsplit("/", 1)[1] for url in reversed(urls)]


@pytest.mark.parametrize("kind", ["company", "person"])
@pytest.mark.parametrize(("count", "requests"), [(0, 1), (1, 1), (100, 1), (101, 2), (250, 3)])
async def test_tasks_are_listed_newest_first(
    sandbox: Recorded, client: Client, kind: Any, count: int, requests: int
) -> None:
    """The iterator follows the pages of a hundred to the last one."""
    ids = started(sandbox, kind, count)
    assert [task.id async for task in client.tasks.list(kind)] == ids
    assert sandbox.requests == requests


async def test_tasks_are_filtered_by_the_server(sandbox: Recorded, client: Client) -> None:
    """A status is sent as the filter, on every page."""
    started(sandbox, "company", 130)
    failed = started(sandbox, "company", 120, duration=0.0, reason="Locked")
    listed = [task async for task in client.tasks.list("company", status="failed")]
    assert [task.id for task in listed] == failed
    assert sandbox.requests == 2


async def test_a_list_is_read_only_as_far_as_it_is_iterated(
    sandbox: Recorded, client: Client
) -> None:
    """A caller that stops iterating causes no more page requests."""
    started(sandbox, "company", 250)
    listed = client.tasks.list("company")
    first = await anext(listed)
    assert isinstance(first, MergeTask)
    await listed.aclose()
    assert sandbox.requests == 1


@pytest.mark.parametrize("kind", ["company", "person"])
async def test_merges_have_more_details_than_tasks(
    sandbox: Recorded, client: Client, kind: Any
) -> None:
    """The history has both ids, the times and the reason; one merge can be fetched alone."""
    service: Any = client.merges_of(kind)
    sandbox.start_merge(kind, 1, 2, duration=0.0)
    url = sandbox.start_merge(kind, 3, 4, duration=0.0, reason="Locked")
    newest, oldest = [merge async for merge in service.merges()]
    assert (newest.primary_id, newest.duplicate_id) == (3, 4)
    assert (newest.status, newest.error_message) == ("failed", "Locked")
    assert newest.task_id == url.rsplit("/", 1)[1]
    assert newest.started_at == newest.completed_at
    assert (oldest.status, oldest.error_message) == ("success", None)
    assert await service.get_merge(oldest.id) == oldest
    with pytest.raises(NotFoundError):
        await service.get_merge(99)


async def test_merges_are_filtered_by_the_server(sandbox: Recorded, client: Client) -> None:
    """A status and a task URL are sent as filters, alone or together."""
    good = sandbox.start_merge("company", 1, 2, duration=0.0)
    sandbox.start_merge("company", 3, 4, duration=0.0, reason="Locked", task_url=good)
    sandbox.start_merge("company", 5, 6, duration=0.0)

    async def found(**settings: Any) -> list[int]:
        return [merge.primary_id async for merge in client.companies.merges(**settings)]

    assert await found() == [5, 3, 1]
    assert await found(status="success") == [5, 1]
    assert await found(task_url=good) == [3, 1]
    assert await found(status="failed", task_url=good) == [3]
    assert sandbox.requests == 4


async def test_a_task_of_the_other_kind_is_refused(sandbox: Recorded, client: Client) -> None:
    """Filtering the history of companies by a task of persons is an error."""
    url = sandbox.start_merge("person", 1, 2)
    with pytest.raises(ConfigurationError, match="person merges, not of company"):
        _ = [merge async for merge in client.companies.merges(task_url=url)]
    assert sandbox.requests == 0


@pytest.mark.parametrize("kind", ["company", "person"])
async def test_suggestions_name_both_profiles(client: Client, kind: Any) -> None:
    """All suggestions are returned, over many pages, with profiles of their kind."""
    service: Any = client.companies if kind == "company" else client.persons
    found = [suggestion async for suggestion in service.suggestions()]
    assert len(found) == 1000
    assert isinstance(found[0], DuplicateSuggestion)
    first = found[0]
    assert (first.primary_profile.id, first.duplicate_profiles[0].id) == (1, 2)
    if kind == "company":
        assert first.primary_profile.domains == (first.primary_profile.domain,)
    else:
        assert first.primary_profile.first_name is not None


async def test_lists_need_the_permission() -> None:
    """A 403 is raised at the first page, with the missing permission."""
    async with Recorded(permissions=False) as sandbox, connect(sandbox) as client:
        with pytest.raises(AuthorizationError, match="Manage duplicates"):
            _ = [task async for task in client.tasks.list("company")]
        assert sandbox.requests == 1


async def test_a_page_that_fails_is_retried(sandbox: Recorded, client: Client) -> None:
    """A page that fails is retried, and no item is repeated or lost."""
    ids = started(sandbox, "company", 250)
    listed = []
    async for task in client.tasks.list("company"):
        listed.append(task.id)
        if len(listed) == 100:
            sandbox.inject(Fault.status(503), times=2)
    assert listed == ids
    assert sandbox.requests == 5


def page(next_url: str) -> Fault:
    body = f'{{"data": [], "pagination": {{"nextUrl": "{next_url}"}}}}'
    return Fault.content(body.encode())


@pytest.mark.parametrize(
    "next_url",
    [
        "https://api.affinity.co/v2/tasks/company-merges?cursor=a",
        "http://127.0.0.1:1/v2/tasks/company-merges?cursor=a",
        "{origin}@evil.example/v2/tasks",
        "{origin}.evil.example/v2/tasks",
        "{origin}0/v2/tasks",
        "//evil.example/v2/tasks",
        "/v2/tasks/company-merges?cursor=a",
        "{origin}/v2/tasks?cursor=a\\r\\nX-Evil: 1",
        "{origin}/v2/tasks?cursor=a b",
        "",
    ],
)
async def test_pages_never_lead_to_another_origin(
    sandbox: Recorded, client: Client, next_url: str
) -> None:
    """A nextUrl that is not on the configured origin is refused before it is followed."""
    sandbox.inject(page(next_url.format(origin=sandbox.url)))
    with pytest.raises(DecodeError, match="leads away"):
        _ = [task async for task in client.tasks.list("company")]
    assert sandbox.requests == 1


async def test_a_next_url_is_followed_as_given(sandbox: Recorded, client: Client) -> None:
    """The path of the next page may differ from the requested one."""
    started(sandbox, "person", 1)
    sandbox.inject(page(f"{sandbox.url}/v2/tasks/person-merges?limit=7&x=%2F"))
    assert len([task async for task in client.tasks.list("company")]) == 1
    assert sandbox.log[1].path == "/v2/tasks/person-merges?limit=7&x=%2F"


async def test_pages_never_form_a_cycle(sandbox: Recorded, client: Client) -> None:
    """A nextUrl that repeats a page ends the list with an error instead of an endless loop."""
    for cursor in ("a", "b", "a"):
        sandbox.inject(page(f"{sandbox.url}/v2/tasks/company-merges?cursor={cursor}"))
    with pytest.raises(DecodeError, match="leads back"):
        _ = [task async for task in client.tasks.list("company")]
    assert sandbox.requests == 3


@pytest.mark.parametrize("kind", ["company", "person"])
async def test_a_task_that_is_listed_has_a_url(
    sandbox: Recorded, client: Client, kind: Any
) -> None:
    """Lists name tasks by ids; url_of turns these into the URLs that wait and get accept."""
    url = sandbox.start_merge(kind, 1, 2)
    (task,) = [task async for task in client.tasks.list(kind)]
    assert client.tasks.url_of(kind, task.id) == url
    assert client.tasks.url_of(kind, (await anext(client.merges_of(kind).merges())).task_id) == url


def test_an_unknown_kind() -> None:
    """An unknown kind is refused immediately, by its name."""
    with pytest.raises(ConfigurationError, match="'deal' is not a kind"):
        _ = Client("key").merges_of("deal")  # type: ignore[call-overload]
