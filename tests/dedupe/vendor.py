"""A server that merges as the vendor's own client describes it, and judges what was sent to it.

The request for a merge checks nothing: the fate of a merge is decided when it ends, by the records
as they are then. The merge list has no row while the primary record is a global one or gone. A
merge into a global company makes it a local copy, or replaces both records by a new company. New
tasks are not there at once, and a record that was merged away is just not found.
"""

import json
import math
from collections.abc import Collection, Iterable
from random import Random
from typing import Any

from aiotasks.dedupe import Pair, PairState
from aiotasks.sandbox import Fault, LoggedRequest
from aiotasks.sandbox._filters import Filter
from aiotasks.sandbox._pages import Cursor, Page, cut
from aiotasks.sandbox._reply import Problem
from aiotasks.sandbox._state import FAILED, SUCCESS, Merge, State, Task, _matches
from tests.dedupe.conftest import Server


class VendorState(State):
    """The merges of a kind, whose fates are decided when they end."""

    global_ids: Collection[int] = ()
    gone_status = 404
    record_lag = 0.0

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.posts: list[Merge] = []
        self.done: set[tuple[int, int]] = set()
        self.local_copies: set[int] = set()
        self._lags: dict[str, float] = {}
        self._gone_at: dict[int, float] = {}
        self._heirs: dict[int, int] = {}
        self._gained: dict[int, set[str]] = {}
        self._decided = 0
        self._undecided: list[Merge] = []
        self._new_id = 10**9

    def decide(self, now: float) -> None:
        """Decide the fates of the merges that have ended, in the order of their ends."""
        self._undecided += self.merges[self._decided :]
        self._decided = len(self.merges)
        ended = sorted((each for each in self._undecided if each.ends <= now), key=_by_end)
        self._undecided = [each for each in self._undecided if each.ends > now]
        for merge in ended:
            if merge.outcome == SUCCESS:
                self._merge(merge)

    def is_global(self, record_id: int) -> bool:
        """Return whether a record is a global one now."""
        return record_id in self.global_ids and record_id not in self.local_copies

    def post(self, primary_id: int, duplicate_id: int, now: float) -> Task:
        task = self.start(primary_id, duplicate_id, now)
        self.posted[primary_id, duplicate_id] += 1
        self.posts += task.merges
        return task

    def start(self, *arguments: Any, **settings: Any) -> Task:
        task = super().start(*arguments, **settings)
        self._lags[task.id] = max(0.0, self._random.uniform(-5.0, 2.0))
        return task

    def task(self, task_id: str, now: float) -> Task:
        self.decide(now)
        task = super().task(task_id, now)
        if now < task.started + self._lags[task_id]:
            raise Problem(404, "It is not there yet.")
        return task

    def task_page(self, now: float, **page: Any) -> Page:
        self.decide(now)
        return super().task_page(now, **page)

    def merge_page(
        self, now: float, *, limit: int, cursor: Cursor | None, where: Filter | None
    ) -> Page:
        self.decide(now)
        wanted = where.values("taskId") if where else None
        shown = [
            merge.id
            for merge in reversed(self.merges)
            if merge.started <= now - self._settings.list_lag
            and not self.is_global(merge.primary_id)
            and merge.primary_id not in self._gone_at
            and (wanted is None or merge.task.id in wanted)
        ]

        def item(number: int) -> dict[str, str]:
            merge = self.merges[number - 1]
            return {"status": merge.status(now), "taskId": merge.task.id}

        return cut(shown, limit=limit, cursor=cursor, matches=_matches(where, item))

    def is_gone(self, record_id: int, now: float) -> bool:
        self.decide(now)
        return self._gone_at.get(record_id, math.inf) <= now - self.record_lag

    def record(self, record_id: int, now: float) -> dict[str, Any]:
        if self.is_gone(record_id, now) and self.gone_status == 422:
            heir = self._heirs[record_id]
            message = f"{record_id} no longer exists as it has been merged into {heir}"
            raise Problem(422, message)
        if self.is_gone(record_id, now) or record_id not in self.directory:
            raise Problem(404, "There is no such record.")
        record = self.directory.record(record_id)
        return record | {"isGlobal": self.is_global(record_id)}

    def merged(self, now: float) -> dict[int, int]:
        self.decide(now)
        return self._heirs.copy()

    def _merge(self, merge: Merge) -> None:
        primary_id, duplicate_id = merge.primary_id, merge.duplicate_id
        if {primary_id, duplicate_id} & self._gone_at.keys():
            merge.outcome, merge.reason = FAILED, "A company was not found"
            return
        self.done.add((primary_id, duplicate_id))
        gone = {duplicate_id: primary_id}
        new = self._domains(duplicate_id) - self._domains(primary_id)
        if self.is_global(primary_id) and (new or self.is_global(duplicate_id)):
            self._new_id += 1
            gone = dict.fromkeys((primary_id, duplicate_id), self._new_id)
        elif self.is_global(primary_id):
            self.local_copies.add(primary_id)
        self._heirs |= gone
        self._gone_at |= dict.fromkeys(gone, merge.ends)
        self._gained.setdefault(primary_id, set()).update(new)

    def _domains(self, record_id: int) -> set[str]:
        record = self.directory.record(record_id)
        return {*record.get("domains", ()), *self._gained.get(record_id, ())}


def _by_end(merge: Merge) -> tuple[float, int]:
    return merge.ends, merge.id


class VendorServer(Server):
    """A server of the vendor's kind, whose network loses answers and requests by chance.

    Args of its own: ``global_share`` of the companies, ``lost`` and ``unsent`` shares of the merge
    requests whose answer, or which themselves, get lost, and ``late`` of those that a gateway
    passes on 20 s after it has answered 504.
    """

    def __init__(
        self,
        *,
        global_share: float = 0.3,
        lost: float = 0.15,
        unsent: float = 0.1,
        late: float = 0.0,
        gone_status: int = 404,
        record_lag: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(month_quota=0, latency=0.02, **settings)
        self.chance = Random(self.seed)
        self._shares = (lost, unsent, late)
        ids = range(1, 5000)
        self._of_companies = {
            "global_ids": {each for each in ids if self.chance.random() < global_share},
            "gone_status": gone_status,
            "record_lag": record_lag,
        }
        self.interrupt = self._strike

    @property
    def companies_state(self) -> VendorState:
        """The merges of companies."""
        state = self._app.states["company"]
        assert isinstance(state, VendorState)
        return state

    def _state(self, kind: Any) -> State:
        plain = super()._state(kind)
        state = VendorState(
            plain.kind, plain.directory, settings=self, random=Random(f"{self.seed} {kind}")
        )
        if kind == "company":
            vars(state).update(self._of_companies)
        return state

    def _strike(self, asked: LoggedRequest) -> None:
        if asked.method != "POST":
            return
        chance = self.chance.random()
        lost, unsent, late = self._shares
        if chance < lost:
            self.inject(Fault.disconnect(after_work=True), on="merge")
        elif chance < lost + unsent:
            self.inject(Fault.disconnect(), on="merge")
        elif chance < lost + unsent + late:
            self.inject(Fault.status(504), on="merge")
            _ = self._loop.call_later(20.0, self._post_late, asked)

    def _post_late(self, asked: LoggedRequest) -> None:
        primary_id, duplicate_id = json.loads(asked.body).values()
        _ = self.companies_state.post(primary_id, duplicate_id, self._loop.time())

    def judge(self, pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
        """Return which pairs were posted twice, reported wrongly, or left unsettled."""
        state = self.companies_state
        state.decide(math.inf)
        found: dict[str, list[Pair]] = {"twice": [], "wrong": [], "unsettled": []}
        for pair in pairs:
            ids = (pair.primary_id, pair.duplicate_id)
            own = [each for each in state.posts if (each.primary_id, each.duplicate_id) == ids]
            if _is_repeated(own):
                found["twice"].append(pair)
            if _is_wrong(pair.state, is_done=ids in state.done, own=own):
                found["wrong"].append(pair)
            if pair.state is PairState.UNSETTLED:
                found["unsettled"].append(pair)
        return found


def _is_repeated(merges: list[Merge]) -> bool:
    """Return whether a merge was posted while an earlier one ran, or after one had succeeded."""
    return any(
        earlier.ends > later.started or earlier.outcome == SUCCESS
        for place, later in enumerate(merges)
        for earlier in merges[:place]
    )


def _is_wrong(state: PairState, *, is_done: bool, own: list[Merge]) -> bool:
    if state is PairState.SUCCEEDED:
        return not is_done
    is_own = any(merge.outcome == SUCCESS for merge in own)
    return is_own and state in {PairState.FAILED, PairState.REFUSED, PairState.PLANNED}
