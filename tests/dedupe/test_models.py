"""The states of a pair: which transitions are allowed, and what they change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotasks.dedupe.models import ALLOWED_TRANSITIONS, TIME_OF, Pair, PairState, Transition


ENDS = set(PairState) - set(TIME_OF)
NEW_ATTEMPT = {PairState.PLANNED, PairState.SENDING}
TRANSITIONS = [
    (state, follower) for state in PairState for follower in sorted(ALLOWED_TRANSITIONS[state])
]


def pair_in(state: PairState) -> Pair:
    """Return a pair with all fields set."""
    return Pair(
        number=1,
        line=2,
        primary_id=3,
        duplicate_id=4,
        state=state,
        extra={"name": "Acme"},
        reason="why",
        task_url="https://x.example/tasks/1",
        merge_id=5,
        planned_at=1.0,
        sending_at=2.0,
        started_at=3.0,
        ended_at=4.0,
    )


class TestFollowers:
    def test_every_state_is_there(self) -> None:
        """Each state has its allowed transitions."""
        assert set(ALLOWED_TRANSITIONS) == set(PairState)

    def test_only_what_certainly_did_not_run_is_sent(self) -> None:
        """No open, unsettled or successful pair is sent, so that nothing is merged twice."""
        assert [state for state, follower in TRANSITIONS if follower is PairState.SENDING] == [
            PairState.PLANNED,
            PairState.FAILED,
            PairState.REFUSED,
        ]

    def test_success_is_final(self) -> None:
        """A merge that has happened is never planned again."""
        assert not ALLOWED_TRANSITIONS[PairState.SUCCEEDED]

    def test_what_was_started_is_not_planned_again_before_it_has_ended(self) -> None:
        """A merge that was started ends or becomes unsettled before it is planned again."""
        assert ALLOWED_TRANSITIONS[PairState.STARTED] == {
            PairState.SUCCEEDED,
            PairState.FAILED,
            PairState.UNSETTLED,
        }

    def test_an_unsettled_pair_may_reach_any_state(self) -> None:
        """An unsettled pair may reach any state but sending, even unsettled again."""
        for state in (PairState.SENDING, PairState.UNSETTLED):
            assert ALLOWED_TRANSITIONS[state] >= ENDS | {PairState.STARTED, PairState.PLANNED}


class TestAfter:
    @pytest.mark.parametrize(("state", "follower"), TRANSITIONS)
    def test_a_transition_sets_its_time(self, state: PairState, follower: PairState) -> None:
        """A transition sets the state, the reason and the time of the new state."""
        transition = Transition(number=1, state=follower, at=9.0, reason="new")
        pair = pair_in(state).after(transition)
        assert pair.state is follower
        assert pair.reason == (None if follower in NEW_ATTEMPT else "new")
        assert getattr(pair, TIME_OF.get(follower, "ended_at")) == 9.0
        assert (pair.number, pair.line, pair.primary_id, pair.duplicate_id) == (1, 2, 3, 4)
        assert pair.extra == {"name": "Acme"}

    @pytest.mark.parametrize("state", sorted(set(PairState) - NEW_ATTEMPT))
    def test_a_task_is_kept(self, state: PairState) -> None:
        """A transition without a task keeps the pair's task."""
        pair = pair_in(PairState.SENDING).after(Transition(number=1, state=state, at=9.0))
        assert (pair.task_url, pair.merge_id) == ("https://x.example/tasks/1", 5)
        transition = Transition(
            number=1, state=state, at=9.0, task_url="https://x.example/2", merge_id=6
        )
        pair = pair_in(PairState.SENDING).after(transition)
        assert (pair.task_url, pair.merge_id) == ("https://x.example/2", 6)

    @pytest.mark.parametrize("state", sorted(NEW_ATTEMPT))
    def test_a_new_attempt_clears_the_one_before(self, state: PairState) -> None:
        """A pair that is planned or sent again has no task, reason or time of its last attempt."""
        pair = pair_in(PairState.FAILED).after(Transition(number=1, state=state, at=9.0))
        assert (pair.task_url, pair.merge_id, pair.reason) == (None, None, None)
        is_sent = state is PairState.SENDING
        assert (pair.planned_at, pair.sending_at) == ((1.0, 9.0) if is_sent else (9.0, None))
        assert (pair.started_at, pair.ended_at) == (None, None)

    @given(st.data())
    def test_only_what_has_ended_has_an_end(self, data: st.DataObject) -> None:
        """After any transitions, a pair has ``ended_at`` exactly if it has ended."""
        pair = Pair(number=1, line=1, primary_id=1, duplicate_id=2, state=PairState.PLANNED)
        for at in range(data.draw(st.integers(0, 8))):
            if followers := sorted(ALLOWED_TRANSITIONS[pair.state]):
                state = data.draw(st.sampled_from(followers))
                pair = pair.after(Transition(number=1, state=state, at=float(at)))
        assert (pair.ended_at is not None) is (pair.state in ENDS)
