"""A server whose network loses requests and answers, and what its memory says of a job."""

import math
from collections.abc import Iterable
from typing import Any

from aiotasks.dedupe import Pair, PairState
from aiotasks.sandbox import Fault, SandboxMerge
from tests.dedupe.conftest import Server


class VendorServer(Server):
    """A sandbox with all its habits and many global companies, behind a bad network.

    Args of its own: ``lost`` and ``unsent`` shares of the merge requests whose answer, or which
    themselves, get lost, and ``late`` of those that a gateway passes on 20 s after it has
    answered 504.
    """

    def __init__(
        self, *, lost: float = 0.15, unsent: float = 0.1, late: float = 0.0, **settings: Any
    ) -> None:
        own = {"month_quota": 0, "latency": 0.02, "global_companies": 0.3}
        super().__init__(**{**own, **settings})
        left = 1.0
        faults = (
            (Fault.disconnect(after_work=True), lost),
            (Fault.disconnect(), unsent),
            (Fault.passed_on_late(20.0), late),
        )
        for fault, share in faults:
            if share:
                # A fault is drawn only if those before it have spared the request.
                self.inject(fault, on="merge", times=None, share=share / left)
                left -= share

    def judge(self, pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
        """Return which pairs were posted twice, reported wrongly, or left unsettled."""
        self._app.states["company"].decide(math.inf)
        repeated = self.repeated("company")
        history: dict[tuple[int, int], list[SandboxMerge]] = {}
        for merge in self.history("company"):
            history.setdefault((merge.primary_id, merge.duplicate_id), []).append(merge)
        found: dict[str, list[Pair]] = {"twice": [], "wrong": [], "unsettled": []}
        for pair in pairs:
            ids = (pair.primary_id, pair.duplicate_id)
            if ids in repeated:
                found["twice"].append(pair)
            if _is_wrong(pair.state, history.get(ids, [])):
                found["wrong"].append(pair)
            if pair.state is PairState.UNSETTLED:
                found["unsettled"].append(pair)
        return found


def _is_wrong(state: PairState, merges: list[SandboxMerge]) -> bool:
    """Return whether a pair is said to be merged and is not, or is merged by us and not so said."""
    done = [merge for merge in merges if merge.outcome == "success"]
    if state is PairState.SUCCEEDED:
        return not done
    is_own = any(not merge.is_foreign for merge in done)
    return is_own and state in {PairState.FAILED, PairState.REFUSED, PairState.PLANNED}
