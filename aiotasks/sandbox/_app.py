"""Answer requests in the API's documented formats."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlencode

from aiotasks.sandbox import _routes as routes
from aiotasks.sandbox._limits import Cause, Limits
from aiotasks.sandbox._pages import Page, cut
from aiotasks.sandbox._records import COMPANY, KindName, Record, Suggestion
from aiotasks.sandbox._reply import JSON, Problem, Reply
from aiotasks.sandbox._routes import ApiRequest, Route
from aiotasks.sandbox._state import FAILED, IN_PROGRESS, SUCCESS, Merge, State, Task


Handler = Callable[[ApiRequest, Route, float], Reply]
_STATUSES = (IN_PROGRESS, SUCCESS, FAILED)
_BETA = frozenset({"suggestions", "rate_limit"})
_ADMIN = frozenset({"merge", "merges", "get_merge", "task", "tasks", "suggestions"})
_ORDERS = ("createdAt", "-createdAt", "name", "-name")
_REFUSALS: dict[Cause, str] = {
    "minute": "Too many requests within a minute.",
    "month": "The requests of this month are used up.",
    "concurrency": "Too many requests at once.",
}


@dataclass(frozen=True, slots=True)
class Clock:
    """Convert times of the loop's clock to dates."""

    started: float
    epoch: float

    def date(self, now: float) -> datetime:
        return datetime.fromtimestamp(self.epoch + now - self.started, UTC)

    def stamp(self, now: float) -> str:
        return self.date(now).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(kw_only=True)
class ApiSettings:
    """What the key may do, and how the API presents itself."""

    api_key: str = "sandbox-key"
    api_version: str = routes.VERSIONS[-1]
    permissions: bool = True
    retry_after: bool = False


class App:
    """Answer requests synchronously, one at a time."""

    def __init__(
        self,
        states: Mapping[KindName, State],
        *,
        limits: Limits,
        settings: ApiSettings,
        clock: Clock,
        task_origin: str,
        has_any_name: bool,
    ) -> None:
        self.states = states
        self.limits = limits
        self._task_origin = task_origin
        self._has_any_name = has_any_name
        self._settings = settings
        self._clock = clock
        self._handlers: dict[str, Handler] = {
            "merge": self._merge,
            "merges": self._merges,
            "get_merge": self._get_merge,
            "task": self._task,
            "tasks": self._tasks,
            "record": self._record,
            "records": self._records,
            "suggestions": self._suggestions,
            "rate_limit": self._rate_limit,
            "whoami": self._whoami,
        }

    def admit(self, call: ApiRequest, now: float, *, in_flight: int) -> Problem | None:
        """Check the key and count the request against the limits, or return why it is refused."""
        cause: Cause | None = "concurrency" if self.limits.crowded(in_flight) else None
        if cause is None:
            if not self.is_authorized(call):
                return Problem(401, "The API key is missing or wrong.")
            cause = self.limits.admit(now)
        if cause is None:
            return None
        wait = (
            {"Retry-After": str(self.limits.wait(cause, now))} if self._settings.retry_after else {}
        )
        return Problem(429, _REFUSALS[cause], headers=wait)

    def is_authorized(self, call: ApiRequest) -> bool:
        """Return whether a request has the right key."""
        return call.headers.get("Authorization") == f"Bearer {self._settings.api_key}"

    def headers(self, now: float) -> dict[str, str]:
        """List the headers that every answer carries."""
        return {
            "Date": format_datetime(self._clock.date(now), usegmt=True),
            routes.VERSION_HEADER: self._settings.api_version,
        } | self.limits.headers(now)

    def answer(self, call: ApiRequest, route: Route, now: float) -> Reply:
        """Perform the request, or answer why not, in the API version that it names."""
        version = self._settings.api_version
        try:
            version = routes.version(call, version)
            reply = self._perform(call, route, now, version=version)
        except Problem as problem:
            reply = problem.reply()
        reply.headers[routes.VERSION_HEADER] = version
        return reply

    def task_url(self, kind: KindName, task: Task, *, asked: str | None = None) -> str:
        """Return the URL of a task; ``asked`` is the origin by which a client has reached it."""
        origin = asked if asked and self._has_any_name else self._task_origin
        return f"{origin}/v2/tasks/{kind}-merges/{task.id}"

    def _perform(self, call: ApiRequest, route: Route, now: float, *, version: str) -> Reply:
        if route.operation in _BETA and version == routes.VERSIONS[0]:
            raise Problem(404, f"API version {version} has nothing at this path.")
        if route.operation not in self._handlers:
            raise routes.refuse(route)
        if route.operation in _ADMIN and not self._settings.permissions:
            raise Problem(403, "The key's owner may not manage duplicates.")
        return self._handlers[route.operation](call, route, now)

    # One method for each operation

    def _merge(self, call: ApiRequest, route: Route, now: float) -> Reply:
        primary_id, duplicate_id = routes.pair(call, route.kind)
        task = self.states[route.kind.name].post(primary_id, duplicate_id, now)
        return Reply.json(
            {"taskUrl": self.task_url(route.kind.name, task, asked=call.origin)}, status=202
        )

    def _merges(self, call: ApiRequest, route: Route, now: float) -> Reply:
        state = self.states[route.kind.name]
        page = state.merge_page(
            now,
            limit=routes.limit(call, route.kind.list_limit),
            cursor=routes.cursor(call),
            where=routes.where(call, {"status": _STATUSES, "taskId": None}),
        )
        views = [self._view(state, state.merges[number - 1], now) for number in page.numbers]
        return _page(call, page, views)

    def _get_merge(self, _call: ApiRequest, route: Route, now: float) -> Reply:
        state = self.states[route.kind.name]
        merge = state.merge(routes.number(route.name, "mergeId"), now)
        return Reply.json(self._view(state, merge, now))

    def _task(self, _call: ApiRequest, route: Route, now: float) -> Reply:
        state = self.states[route.kind.name]
        task = state.task(routes.task_id(route.name), now)
        if state.is_answer_empty():
            return Reply(200, b"", {"Content-Type": JSON})
        return Reply.json(task.view(now))

    def _tasks(self, call: ApiRequest, route: Route, now: float) -> Reply:
        state = self.states[route.kind.name]
        page = state.task_page(
            now,
            limit=routes.limit(call, route.kind.list_limit),
            cursor=routes.cursor(call),
            where=routes.where(call, {"status": _STATUSES}),
        )
        return _page(call, page, [state.tasks[number - 1].view(now) for number in page.numbers])

    def _record(self, call: ApiRequest, route: Route, now: float) -> Reply:
        routes.check_fields(call)
        name, maximum = f"{route.kind.name}Id", routes.MAX_RECORD_ID
        record_id = routes.number(route.name, name, maximum=maximum)
        return Reply.json(self.states[route.kind.name].record(record_id, now))

    def _records(self, call: ApiRequest, route: Route, now: float) -> Reply:
        state = self.states[route.kind.name]
        routes.check_fields(call)
        ids = call.query.get("ids", ())
        wanted = {routes.number(text, "ids", maximum=routes.MAX_RECORD_ID) for text in ids}
        page = cut(
            sorted(wanted) or state.store.ids(),
            limit=routes.limit(call, routes.MAX_LIMIT),
            cursor=routes.cursor(call),
            newest_first=False,
            matches=lambda record_id: state.is_there(record_id, now),
        )
        return _page(call, page, [state.record(record_id, now) for record_id in page.numbers])

    def _suggestions(self, call: ApiRequest, route: Route, now: float) -> Reply:
        state = self.states[route.kind.name]
        found = _search(call, state, now)
        page = cut(
            range(1, len(found) + 1),
            limit=routes.limit(call, route.kind.list_limit),
            cursor=routes.cursor(call),
            newest_first=False,
        )
        shown = [_suggestion(state, found[number - 1], now) for number in page.numbers]
        more = {"totalCount": len(found)} if routes.flag(call, "totalCount") else {}
        return _page(call, page, shown, **more)

    def _rate_limit(self, _call: ApiRequest, _route: Route, now: float) -> Reply:
        return Reply.json(self.limits.view(now))

    def _whoami(self, _call: ApiRequest, _route: Route, _now: float) -> Reply:
        created = self._clock.stamp(self._clock.started)
        return Reply.json(
            {
                "tenant": {"id": 1, "name": "Sandbox", "subdomain": "sandbox"},
                "user": {
                    "id": 1,
                    "firstName": "Sandy",
                    "lastName": "Box",
                    "emailAddress": "sandy.box@sandbox.example",
                },
                "grant": {"type": "api-key", "scopes": ["api"], "createdAt": created},
            }
        )

    def _view(self, state: State, merge: Merge, now: float) -> Record:
        status = merge.status(now)
        is_over = status != IN_PROGRESS
        return {
            "id": merge.id,
            "status": status,
            "taskId": merge.task.id,
            "startedAt": self._clock.stamp(merge.started),
            "completedAt": self._clock.stamp(merge.ends) if is_over else None,
            state.kind.primary_field: merge.primary_id,
            state.kind.duplicate_field: merge.duplicate_id,
            "errorMessage": merge.reason if is_over else None,
        }


def _page(call: ApiRequest, page: Page, data: Sequence[Any], **more: Any) -> Reply:
    def url(cursor: object) -> str | None:
        if cursor is None:
            return None
        query = {**call.query, "cursor": str(cursor)}
        return f"{call.origin}{call.path}?{urlencode(query, doseq=True)}"

    pagination = {"nextUrl": url(page.next), "prevUrl": url(page.previous), **more}
    return Reply.json({"data": data, "pagination": pagination})


def _search(call: ApiRequest, state: State, now: float) -> list[Suggestion]:
    where = routes.where(call, {"matchCriteria": state.kind.match_criteria})
    term = routes.term(call)
    order = routes.choice(call, "orderBy", _ORDERS) or "createdAt"
    found = [
        suggestion
        for suggestion in state.store.directory.suggestions
        if term in suggestion.name.lower()
        and (where is None or where.matches({"matchCriteria": suggestion.criterion}))
        and state.is_open(suggestion, now)
    ]
    if order.endswith("name"):
        found.sort(key=lambda suggestion: suggestion.name)
    return found[::-1] if order.startswith("-") else found


def _suggestion(state: State, suggestion: Suggestion, now: float) -> Record:
    def profile(record_id: int) -> Record:
        enriched = {"isEnriched": True} if state.kind is COMPANY else {}
        return state.record(record_id, now) | enriched

    return {
        "id": suggestion.id,
        "matchCriteria": suggestion.criterion,
        "primaryProfile": profile(suggestion.primary_id),
        "duplicateProfiles": [profile(suggestion.duplicate_id)],
    }
