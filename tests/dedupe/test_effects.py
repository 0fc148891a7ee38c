"""What becomes of the two records of a merge."""

import json
from typing import Any

import pytest

from aiotasks.dedupe._effects import Effect, effect_of, is_global


def company(*domains: str, is_global: bool | None = False) -> bytes:
    """Return the JSON of a company."""
    found: dict[str, Any] = {"id": 1, "domain": (*domains, None)[0], "domains": domains}
    return json.dumps(found if is_global is None else {**found, "isGlobal": is_global}).encode()


class TestGlobal:
    def test_a_company_says_so(self) -> None:
        """A company is global if its JSON says so, and not known to be if it says nothing."""
        known = [is_global("company", company(is_global=each)) for each in (True, False, None)]
        assert known == [True, False, None]

    @pytest.mark.parametrize("snapshot", [None, b"", b"{", b"[]", b'{"id": 1, "name": "\xff"}'])
    def test_a_missing_or_damaged_snapshot(self, snapshot: bytes | None) -> None:
        """Without a snapshot that can be read it is not known whether a company is global."""
        assert is_global("company", snapshot) is None

    @pytest.mark.parametrize("snapshot", [None, b"{", b'{"id": 1}'])
    def test_persons(self, snapshot: bytes | None) -> None:
        """A person is never global."""
        assert is_global("person", snapshot) is False


class TestEffect:
    @pytest.mark.parametrize(
        ("primary", "duplicate", "effect"),
        [
            (company("a.com"), company("b.com"), Effect.KEPT),
            (company("a.com"), company("a.com", is_global=True), Effect.HIDDEN),
            (company("a.com", is_global=True), company("a.com"), Effect.LOCAL_COPY),
            (company("a.com", is_global=True), company("A.COM"), Effect.LOCAL_COPY),
            (company("a.com", is_global=True), company(), Effect.LOCAL_COPY),
            (company("a.com", is_global=True), company("a.com", "b.com"), Effect.REPLACED),
            (company("a.com", is_global=True), company("a.com", is_global=True), Effect.REPLACED),
            (company(is_global=None), company(), Effect.UNKNOWN),
            (company(), company(is_global=None), Effect.UNKNOWN),
            (company(), None, Effect.UNKNOWN),
        ],
    )
    def test_of_companies(self, primary: bytes, duplicate: bytes, effect: Effect) -> None:
        """The effect depends on which of two companies is global, and on new domains."""
        assert effect_of("company", primary, duplicate) is effect

    def test_of_persons(self) -> None:
        """The primary person is kept, and its duplicate is not."""
        assert effect_of("person", b"{}", None) is Effect.KEPT
