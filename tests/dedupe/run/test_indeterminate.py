"""What evidence proves of a merge without an answer, rule by rule."""

import math
from collections.abc import Mapping

import pytest

from aiotasks import CompanyMergeState, MergeTask, TaskStatus
from aiotasks.dedupe._run.indeterminate import (
    GONE_ALREADY,
    NO_REASON,
    UNATTRIBUTED,
    UNEXPLAINED,
    UNLISTED,
    Case,
    IndeterminateMerge,
    RecordStates,
    Resolution,
    failed_task,
    is_open_in_lists,
    resolve_by_lists,
    resolve_merged,
)
from aiotasks.dedupe._run.task_history import ForeignTask, Reading, TaskHistory
from aiotasks.dedupe.models import Pair, PairState
from aiotasks.errors import MergedEntityError


PLANNED, SENDING, STARTED, SUCCEEDED, FAILED, REFUSED, UNSETTLED = PairState
IN_PROGRESS, SUCCESS = TaskStatus.IN_PROGRESS, TaskStatus.SUCCESS
SETTLE_AFTER = 60.0
P, D, X = 1, 2, 9
URL = "https://x.example/v2/tasks/company-merges/own"


def merge_of(
    state: PairState = SENDING, *, task_url: str | None = None, suspects: tuple[str, ...] = ()
) -> IndeterminateMerge:
    """Return a merge of D into P that was sent at 10 s and whose request ended at 20 s."""
    pair = Pair(number=1, line=1, primary_id=P, duplicate_id=D, state=state, task_url=task_url)
    return IndeterminateMerge(
        pair=pair, sent_at=10.0, since=20.0, task_url=task_url, suspects=frozenset(suspects)
    )


def history_of(**tasks: TaskStatus) -> TaskHistory:
    """Return a history with foreign tasks that were seen at 30 s."""
    history = TaskHistory(["own"], [], settle_after=SETTLE_AFTER, now=0.0)
    for task_id, status in tasks.items():
        history.add_foreign(MergeTask(id=task_id, status=status), 30.0)
    return history


def row(
    task_id: str, status: TaskStatus, *, primary_id: int = P, error: str | None = None
) -> CompanyMergeState:
    return CompanyMergeState(
        id=1,
        status=status,
        task_id=task_id,
        primary_id=primary_id,
        duplicate_id=D,
        error_message=error,
    )


def decide(
    *suspects: TaskStatus,
    present: Mapping[int, bool | None],
    was_local: bool | None = False,
    survivors: Mapping[int, int | None] | None = None,
    merge: IndeterminateMerge | None = None,
    at: float = 100.0,
    failed_task: str | None = None,
    **case: int | None,
) -> Resolution | None:
    """Decide by the ends of the tasks that may be the merge, and by both records."""
    tasks = [ForeignTask(f"t{place}", each, 30.0) for place, each in enumerate(suspects)]
    return Case(
        merge or merge_of(),
        tasks,
        RecordStates(at, present, survivors or {}),
        was_local=was_local,
        taken_by=case.get("taken_by"),
        rivals=case.get("rivals") or 0,
        failed_task=failed_task,
        settle_after=SETTLE_AFTER,
    ).decide()


def suspects_of(merge: IndeterminateMerge) -> list[str]:
    return sorted(merge.suspects or ())


class TestByLists:
    def test_its_row_names_its_task(self) -> None:
        """A row of the pair in a foreign task is the merge in question."""
        history = history_of(t=IN_PROGRESS)
        assert resolve_by_lists(merge_of(), history) is None
        history.name([row("t", IN_PROGRESS)])
        assert resolve_by_lists(merge_of(), history) == (STARTED, None, "t")

    def test_of_several_the_successful_one_counts(self) -> None:
        """If others merge the same pair, it is decided when it is known which merge succeeds."""
        history = history_of(a=IN_PROGRESS, b=IN_PROGRESS, c=TaskStatus.FAILED)
        history.name([row("a", IN_PROGRESS), row("b", IN_PROGRESS), row("c", TaskStatus.FAILED)])
        assert resolve_by_lists(merge_of(), history) is None
        history.name([row("a", TaskStatus.FAILED)])
        assert resolve_by_lists(merge_of(), history) == (STARTED, None, "b")
        history.name([row("a", SUCCESS)])
        assert resolve_by_lists(merge_of(), history) == (STARTED, None, "a")

    def test_a_failure_alone_does_not_show_which_merge_it_was(self) -> None:
        """A failed row may be of this merge, if this was sent before the row was seen."""
        history = history_of(t=TaskStatus.FAILED)
        history.name([row("t", TaskStatus.FAILED)])
        assert resolve_by_lists(merge_of(), history) is None
        assert failed_task(merge_of(), history) == "t"
        assert failed_task(merge_of(PLANNED), history) is None
        later = IndeterminateMerge(pair=merge_of().pair, sent_at=31.0, since=40.0)
        assert failed_task(later, history) is None

    @pytest.mark.parametrize("status", [SUCCESS, TaskStatus.FAILED, IN_PROGRESS])
    def test_an_accepted_merge_ends_as_its_row_or_its_task(self, status: TaskStatus) -> None:
        """A merge whose task cannot be read has the end that a list shows, and its reason."""
        state = {SUCCESS: SUCCEEDED, TaskStatus.FAILED: FAILED}.get(status)
        accepted, history = merge_of(STARTED, task_url=URL), history_of()
        assert not is_open_in_lists(accepted, history)
        reading = Reading(history, asked_at=50.0, back_to=0.0)
        assert reading.read(MergeTask(id="own", status=status))
        history.apply(reading, now=50.0)
        reason = NO_REASON if state is FAILED else None
        assert resolve_by_lists(accepted, history) == (state and (state, reason, None))
        assert is_open_in_lists(accepted, history)
        history.name([row("own", status, error="why")])
        assert resolve_by_lists(accepted, history) == (state and (state, "why", None))


class TestSuspects:
    def test_they_are_fixed_when_lists_must_show_it(self) -> None:
        """Its tasks are fixed by the first list requested after ``settle_after`` and the lag."""
        history, merge = history_of(t=SUCCESS), merge_of()
        merge.suspects = None
        for asked_at in (79.0, 80.0, 109.9):
            merge.fix_suspects(history, asked_at=asked_at, settle_after=SETTLE_AFTER)
            assert not merge.needs_records(history)
        merge.fix_suspects(history, asked_at=110.0, settle_after=SETTLE_AFTER)
        assert suspects_of(merge) == ["t"]
        history.add_foreign(MergeTask(id="later", status=SUCCESS), 111.0)
        merge.fix_suspects(history, asked_at=120.0, settle_after=SETTLE_AFTER)
        assert suspects_of(merge) == ["t"]

    def test_the_records_show_nothing_while_one_runs(self) -> None:
        """Records are read when every task that may be it has ended, or is known as another's."""
        history, merge = history_of(a=IN_PROGRESS, b=SUCCESS), merge_of(suspects=("a", "b"))
        assert not merge.needs_records(history)
        history.name([row("a", IN_PROGRESS, primary_id=X)])
        assert merge.needs_records(history)
        assert [each.id for each in merge.open_suspects(history)] == ["b"]


class TestPresent:
    def test_without_any_task_it_never_ran(self) -> None:
        """If no task can be it and its duplicate stays there, it is sent again."""
        merge = merge_of()
        assert decide(present={P: True, D: False}, merge=merge) is None
        assert decide(present={P: True, D: False}, merge=merge, at=160.0) == (PLANNED, None, None)

    def test_a_success_may_not_show_yet(self) -> None:
        """A replica may show a merged record for a while, so it has to stay for settle_after."""
        merge = merge_of()
        for at in (100.0, 159.0):
            assert decide(SUCCESS, present={D: False}, merge=merge, at=at) is None
        assert decide(SUCCESS, present={D: False}, merge=merge, at=160.0) == (PLANNED, None, None)

    def test_a_failure_counts_while_its_duplicate_stays(self) -> None:
        """A failed merge of the pair is this one if nothing has merged its duplicate by then."""
        merge, present = merge_of(), {P: False, D: False}
        assert decide(present=present, merge=merge, failed_task="t") is None
        found = decide(present=present, merge=merge, failed_task="t", at=160.0)
        assert found == (STARTED, None, "t")

    @pytest.mark.parametrize("was_local", [True, False, None])
    def test_a_failure_without_a_row_may_be_its_own(self, was_local: bool | None) -> None:
        """It is not sent again, unless its row would be there."""
        merge = merge_of()
        found = decide(TaskStatus.FAILED, present={D: False}, was_local=was_local, merge=merge)
        assert found == (None if was_local else (FAILED, NO_REASON, None))
        if was_local:
            at_last = decide(
                TaskStatus.FAILED, present={D: False}, was_local=True, merge=merge, at=160.0
            )
            assert at_last == (PLANNED, None, None)

    def test_a_pair_that_was_never_sent_is_sent(self) -> None:
        """A pair that was only held is sent once the tasks of others have ended without it."""
        held = merge_of(PLANNED)
        assert decide(TaskStatus.FAILED, present={D: False}, merge=held) == (PLANNED, None, None)

    def test_an_accepted_one_stays_unsettled(self) -> None:
        """What was accepted and is in no list is never sent again."""
        accepted = merge_of(STARTED, task_url=URL)
        assert decide(present={D: False}, merge=accepted) == (UNSETTLED, UNLISTED, None)


class TestGone:
    @pytest.mark.parametrize("state", [PLANNED, SENDING])
    def test_the_server_may_tell_what_it_was_merged_into(self, state: PairState) -> None:
        """A server that names the survivor proves whether it is this merge."""
        merge = merge_of(state)
        reason = "2 no longer exists as it has been merged into {}"
        found = decide(present={P: False}, survivors={D: P}, merge=merge)
        assert found == (SUCCEEDED, reason.format(P), None)
        found = decide(present={P: False}, survivors={D: X}, merge=merge)
        assert found == (REFUSED, reason.format(X), None)

    def test_a_new_company_survives_both(self) -> None:
        """If both records of a global primary survive as one, the merge has replaced them."""
        found = decide(SUCCESS, present={}, survivors={D: X, P: X})
        assert found == (SUCCEEDED, None, "t0")
        found = decide(SUCCESS, present={}, survivors={D: X, P: X}, was_local=True)
        assert found is not None
        assert found.state is REFUSED

    def test_a_row_shows_that_another_merge_took_it(self) -> None:
        """A row that merges the duplicate elsewhere refuses it, however its records are."""
        found = decide(SUCCESS, present={P: False}, taken_by=X)
        assert found is not None
        assert found.state is REFUSED

    def test_a_pair_that_was_never_sent_is_refused(self) -> None:
        """What is gone before it was sent was not this job."""
        found = decide(SUCCESS, present={P: True}, merge=merge_of(PLANNED))
        assert found == (REFUSED, GONE_ALREADY.format(D), None)

    def test_nothing_is_decided_before_its_tasks_are_known(self) -> None:
        """While lists may not show it yet, records prove nothing unless a survivor is named."""
        merge = merge_of()
        merge.suspects = None
        assert decide(present={P: True, D: False}, merge=merge) is None
        assert decide(present={P: True}, merge=merge) is None

    @pytest.mark.parametrize("present", [{P: False}, {}], ids=["local copy", "new company"])
    def test_a_global_primary_shows_its_own_merge(self, present: Mapping[int, bool]) -> None:
        """Only a merge into a global company makes it a local one, or replaces it."""
        assert decide(SUCCESS, SUCCESS, present=present) == (SUCCEEDED, None, "t0")

    def test_a_primary_that_stays_global_shows_another_merge(self) -> None:
        """If its primary is unchanged for settle_after, others have merged the duplicate."""
        merge = merge_of()
        assert decide(SUCCESS, present={P: True}, merge=merge) is None
        found = decide(SUCCESS, present={P: True}, merge=merge, at=160.0)
        assert found == (REFUSED, GONE_ALREADY.format(D), None)

    @pytest.mark.parametrize("suspects", [(), (SUCCESS,)], ids=str)
    def test_no_row_is_no_proof_of_another_merge(self, suspects: tuple[TaskStatus, ...]) -> None:
        """The list may never have the row of this merge, so that nothing shows what happened."""
        merge = merge_of()
        assert decide(*suspects, present={P: False}, was_local=True, merge=merge) is None
        found = decide(*suspects, present={P: False}, was_local=True, merge=merge, at=160.0)
        assert found == (UNSETTLED, UNEXPLAINED.format(D), None)
        found = decide(SUCCESS, present={}, was_local=True)
        assert found == (UNSETTLED, UNATTRIBUTED.format(D), None)

    def test_both_gone_without_any_success(self) -> None:
        """If no task can have done it, it stays unsettled."""
        assert decide(present={}) == (UNSETTLED, UNATTRIBUTED.format(D), None)

    def test_of_an_unknown_primary_the_successes_are_counted(self) -> None:
        """No more successes than unanswered merges of this job are those merges."""
        found = decide(SUCCESS, SUCCESS, present={P: False}, was_local=None, rivals=1)
        assert found == (SUCCEEDED, None, "t0")
        found = decide(SUCCESS, SUCCESS, present={P: False}, was_local=None)
        assert found == (UNSETTLED, UNATTRIBUTED.format(D), None)

    def test_an_accepted_one_succeeded_unless_others_may_have_done_it(self) -> None:
        """An accepted merge whose duplicate is gone has succeeded, if no other task succeeded."""
        accepted = merge_of(STARTED, task_url=URL)
        found = decide(present={P: False}, was_local=True, merge=accepted)
        assert found == (SUCCEEDED, None, None)
        found = decide(SUCCESS, present={P: False}, was_local=True, merge=accepted)
        assert found == (UNSETTLED, UNATTRIBUTED.format(D), None)


@pytest.mark.parametrize(("source", "target"), [(D, P), (D, X), (P, X), (D, None)])
def test_a_refusal_names_what_was_merged(source: int, target: int | None) -> None:
    """The server's refusal of a merged record proves whether the merge has happened."""
    error = MergedEntityError(422, None, "gone", source_id=source, target_id=target)
    found = resolve_merged(merge_of().pair, error)
    assert found.state is (SUCCEEDED if (source, target) == (D, P) else REFUSED)
    assert found.reason is not None


def test_a_failed_merge_that_was_started() -> None:
    """A started merge whose duplicate went into another record has failed."""
    accepted = merge_of(STARTED, task_url=URL)
    found = decide(present={P: False}, survivors={D: X}, merge=accepted)
    assert found is not None
    assert found.state is FAILED


def test_a_merge_of_an_earlier_run_may_be_any_task() -> None:
    """When it was sent is not known, so any task that is not older than the job may be it."""
    merge = IndeterminateMerge(pair=merge_of(UNSETTLED).pair, sent_at=-math.inf, since=0.0)
    history = history_of(t=SUCCESS)
    merge.fix_suspects(history, asked_at=90.0, settle_after=SETTLE_AFTER)
    assert suspects_of(merge) == ["t"]
