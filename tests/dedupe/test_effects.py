"""What becomes of the records of merges, decided from their JSON."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotasks.dedupe import Pair, PairState
from aiotasks.dedupe._effects import (
    Effect,
    Merge,
    Outlook,
    Traits,
    count_effects,
    effect_of,
    effect_of_pair,
    foresee,
    is_global,
    traits_of,
)


def company(*domains: str, is_global: bool | None = False) -> bytes:
    """Return the JSON of a company."""
    found: dict[str, Any] = {"id": 1, "domain": (*domains, None)[0], "domains": domains}
    return json.dumps(found if is_global is None else {**found, "isGlobal": is_global}).encode()


def local(*domains: str) -> Traits:
    return Traits(is_global=False, domains=frozenset(domains))


def shared(*domains: str) -> Traits:
    return Traits(is_global=True, domains=frozenset(domains))


NOT_KNOWN = Traits(is_global=None)


def outlook_of(*records: Traits | None, no_new_company: bool = False) -> Outlook:
    """Return the outlook of merging all other records into the first one; ``None`` is gone."""
    ids = range(len(records))
    traits = {each: found for each, found in zip(ids, records, strict=True) if found is not None}
    merges = [Merge(each, 0, each) for each in ids[1:]]
    return foresee(merges, traits, no_new_company=no_new_company)


class TestTraits:
    def test_a_company_says_whether_it_is_global(self) -> None:
        """A company is global if its JSON says so, and not known to be if it says nothing."""
        known = [is_global("company", company(is_global=each)) for each in (True, False, None)]
        assert known == [True, False, None]

    @pytest.mark.parametrize("snapshot", [None, b"", b"{", b"[]", b'{"id": 1, "name": "\xff"}'])
    def test_a_missing_or_damaged_snapshot(self, snapshot: bytes | None) -> None:
        """Without a snapshot that can be read it is not known whether a company is global."""
        assert is_global("company", snapshot) is None

    @pytest.mark.parametrize("snapshot", [None, b"{", b'{"id": 1}'])
    def test_persons_are_never_global(self, snapshot: bytes | None) -> None:
        """A person is never global, whatever is known of it."""
        assert is_global("person", snapshot) is False

    def test_domains(self) -> None:
        """The domains of a company are compared in lower case, its primary one included."""
        snapshot = b'{"id": 1, "domain": "A.com", "domains": ["b.COM"], "isGlobal": true}'
        assert traits_of("company", snapshot) == shared("a.com", "b.com")

    @pytest.mark.parametrize(
        ("snapshot", "is_internal"),
        [
            (b'{"id": 1, "type": "internal"}', True),
            (b'{"id": 1, "type": "external"}', False),
            (b'{"id": 1}', False),
            (b"{", False),
        ],
    )
    def test_internal_persons(self, snapshot: bytes, *, is_internal: bool) -> None:
        """A person is internal only if its JSON says so."""
        assert traits_of("person", snapshot) == Traits(is_global=False, is_internal=is_internal)


class TestEffect:
    @pytest.mark.parametrize(
        ("primary", "duplicate", "effect"),
        [
            (local("a"), local("b"), Effect.KEPT),
            (local("a"), shared("a"), Effect.HIDDEN),
            (shared("a"), local("a"), Effect.LOCAL_COPY),
            (shared("a", "b"), local("b"), Effect.LOCAL_COPY),
            (shared("a"), local(), Effect.LOCAL_COPY),
            (shared("a"), local("a", "b"), Effect.REPLACED),
            (shared("a"), shared("a"), Effect.REPLACED),
            (NOT_KNOWN, local("a"), Effect.UNKNOWN),
            (local("a"), NOT_KNOWN, Effect.UNKNOWN),
            (None, local("a"), Effect.UNKNOWN),
            (local("a"), None, Effect.UNKNOWN),
        ],
    )
    def test_of_two_records(
        self, primary: Traits | None, duplicate: Traits | None, effect: Effect
    ) -> None:
        """The effect depends on which of both is global, and on domains new to a global primary."""
        assert effect_of(primary, duplicate) is effect

    def test_undo(self) -> None:
        """Only a merge without a global company can be undone."""
        assert {effect for effect in Effect if effect.can_undo} == {Effect.KEPT}
        assert {effect for effect in Effect if effect.can_undo is None} == {Effect.UNKNOWN}


class TestOutlook:
    def test_a_local_primary_is_kept_by_all(self) -> None:
        """Merges into a local primary run in the order of the plan, and rely on none."""
        outlook = outlook_of(local("a"), shared("a"), local("b"))
        assert [*outlook.effects.items()] == [(1, Effect.HIDDEN), (2, Effect.KEPT)]
        assert (outlook.left_out, outlook.relies_on) == ({}, {})

    def test_a_local_copy_comes_first(self) -> None:
        """The merge that makes a global primary local runs first: the others find a local one."""
        outlook = outlook_of(shared("a"), local("b"), shared("c"), local("a"), local())
        assert [*outlook.effects.items()] == [
            (3, Effect.LOCAL_COPY),
            (4, Effect.KEPT),
            (1, Effect.KEPT),
            (2, Effect.HIDDEN),
        ]
        assert outlook.left_out == {}
        assert outlook.relies_on == {4: 3, 1: 3, 2: 3}

    def test_a_primary_is_replaced_once(self) -> None:
        """Where each merge would replace the primary, one does; the reason of the others says how to go on."""
        outlook = outlook_of(shared("a"), local("b"), shared("a"))
        assert outlook.effects == {1: Effect.REPLACED}
        assert outlook.left_out == {
            2: (
                "0 is replaced by a new company when 1 is merged into it: merge 2 in another run, "
                "with the id of the new company as primary"
            )
        }

    def test_a_primary_that_may_be_replaced(self) -> None:
        """A duplicate of which nothing is known may replace a global primary, so it is the only one."""
        outlook = outlook_of(shared("a"), NOT_KNOWN, local("b"))
        assert outlook.effects == {1: Effect.UNKNOWN}
        assert outlook.left_out[2].startswith("0 may be replaced by a new company when 1 is")

    def test_a_duplicate_that_is_gone(self) -> None:
        """A merge of a duplicate that is gone cannot run, so it keeps no other from running."""
        outlook = outlook_of(shared("a"), None, local("b"))
        assert outlook.effects == {1: Effect.UNKNOWN, 2: Effect.REPLACED}
        assert outlook.left_out == {}

    @pytest.mark.parametrize("primary", [None, NOT_KNOWN])
    def test_an_unknown_primary(self, primary: Traits | None) -> None:
        """Merges into a primary of which nothing is known have unknown effects, and all may run."""
        outlook = outlook_of(primary, local("a"), shared("a"))
        assert outlook.effects == dict.fromkeys([1, 2], Effect.UNKNOWN)
        assert outlook.left_out == {}

    def test_internal_persons(self) -> None:
        """An internal person is never merged away, but may be a primary."""
        internal = Traits(is_global=False, is_internal=True)
        outlook = outlook_of(internal, internal, local())
        assert outlook.effects == {2: Effect.KEPT}
        assert outlook.left_out == {1: "1 is an internal person, who cannot be merged away"}


class TestNoNewCompany:
    def test_replacements_are_left_out(self) -> None:
        """Without new companies, all merges that would make one are left out."""
        outlook = outlook_of(shared("a"), local("b"), shared("a"), no_new_company=True)
        assert outlook.effects == {}
        assert outlook.left_out == {
            1: "0 and 1 would be replaced by a new company (no new company)",
            2: "0 and 2 would be replaced by a new company (no new company)",
        }

    def test_a_local_copy_first_makes_none(self) -> None:
        """A merge that only replaces a global primary runs if the primary is made local before."""
        outlook = outlook_of(shared("a"), local("b"), local("a"), no_new_company=True)
        assert outlook.effects == {2: Effect.LOCAL_COPY, 1: Effect.KEPT}

    @pytest.mark.parametrize("primary", [None, NOT_KNOWN, shared("a")])
    def test_what_might_make_one_is_left_out(self, primary: Traits | None) -> None:
        """Without new companies, a merge is left out of which it is not known whether it makes one."""
        outlook = outlook_of(primary, NOT_KNOWN, no_new_company=True)
        reason = "0 and 1 might be replaced by a new company (no new company)"
        assert (outlook.effects, outlook.left_out) == ({}, {1: reason})

    def test_a_local_primary_makes_none(self) -> None:
        """No merge into a local primary makes a new company, whatever the duplicate is."""
        outlook = outlook_of(local("a"), NOT_KNOWN, no_new_company=True)
        assert outlook.effects == {1: Effect.UNKNOWN}


def pair(number: int, state: PairState, task_url: str | None = None) -> Pair:
    return Pair(
        number=number, line=1, primary_id=0, duplicate_id=number, state=state, task_url=task_url
    )


class TestPairs:
    def test_what_was_not_merged_has_no_effect(self) -> None:
        """A pair has its effect once it is merged, and before; if it was not merged, it has none."""
        outlook = outlook_of(local(), local())
        of_states = {state: effect_of_pair(pair(1, state), outlook) for state in PairState}
        assert {state for state, effect in of_states.items() if effect is None} == {
            PairState.FAILED,
            PairState.REFUSED,
        }

    def test_counts(self) -> None:
        """Counted are merges that were made, that are to come, and that may be tried again.

        Not those of records that were gone before the job, nor those that were left out.
        """
        internal = Traits(is_global=False, is_internal=True)
        outlook = outlook_of(local(), local(), shared(), local(), None, None, None, internal)
        pairs = [
            pair(1, PairState.PLANNED),
            pair(2, PairState.FAILED, "task"),
            pair(3, PairState.SUCCEEDED, "task"),
            pair(4, PairState.SUCCEEDED),
            pair(5, PairState.REFUSED),
            pair(6, PairState.SUCCEEDED, "task"),
            pair(7, PairState.REFUSED),
            pair(8, PairState.REFUSED),
        ]
        assert count_effects(pairs, outlook) == {
            Effect.KEPT: 2,
            Effect.HIDDEN: 1,
            Effect.UNKNOWN: 1,
        }


RECORDS = st.lists(
    st.builds(Traits, st.booleans(), st.frozensets(st.sampled_from("abc"))), min_size=2, max_size=6
)


def run_cluster(records: Mapping[int, Traits], duplicates: list[int]) -> list[Effect]:
    """Return what a server makes of merges into record 0, one after the other."""
    effects: list[Effect] = []
    primary: Traits | None = records[0]
    for each in duplicates:
        assert primary is not None
        effect = effect_of(primary, records[each])
        effects.append(effect)
        both = Traits(is_global=False, domains=primary.domains | records[each].domains)
        primary = None if effect is Effect.REPLACED else both
    return effects


@given(records=RECORDS, no_new_company=st.booleans())
def test_outlooks_come_true(records: list[Traits], *, no_new_company: bool) -> None:
    """In the order of an outlook, each merge has the effect that it says, and none a gone primary.

    Each merge runs or is left out; one replaces its primary only if it is the last one.
    """
    outlook = outlook_of(*records, no_new_company=no_new_company)
    assert {*outlook.effects} | {*outlook.left_out} == {*range(1, len(records))}
    assert not {*outlook.effects} & {*outlook.left_out}
    found = run_cluster(dict(enumerate(records)), [*outlook.effects])
    assert found == [*outlook.effects.values()]
    assert Effect.REPLACED not in (found if no_new_company else found[:-1])
