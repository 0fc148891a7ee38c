"""The part of the API's filter language that its merge lists know."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Self

from aiotasks.sandbox._reply import Problem


_FORBIDDEN = frozenset("=!<>()[]\"'*,~^$")


@dataclass(frozen=True, slots=True)
class Filter:
    """Alternatives of terms that must hold together: ``a & b | c``."""

    alternatives: tuple[tuple[tuple[str, str], ...], ...]

    @classmethod
    def parse(cls, text: str, properties: Mapping[str, Collection[str] | None]) -> Self:
        """Read a filter; ``properties`` names what may be asked and, if fixed, its values."""
        return cls(
            tuple(
                tuple(_term(term, properties) for term in alternative.split("&"))
                for alternative in text.split("|")
            )
        )

    def matches(self, item: Mapping[str, str]) -> bool:
        return any(all(item[name] == value for name, value in terms) for terms in self.alternatives)

    def values(self, name: str) -> set[str] | None:
        """Collect the values that an item must have, or None if an alternative allows any."""
        found: set[str] = set()
        for terms in self.alternatives:
            named = {value for term, value in terms if term == name}
            if not named:
                return None
            found |= named
        return found


def _term(text: str, properties: Mapping[str, Collection[str] | None]) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if name not in properties:
        message = f"{name!r} is no property to filter by; there is {_join(properties)}."
        raise Problem(400, message, param="filter")
    if not equals or not value or not _FORBIDDEN.isdisjoint(value) or " " in value:
        message = f"{text.strip()!r} does not read like {name}=value."
        raise Problem(400, message, param="filter")
    allowed = properties[name]
    if allowed is not None and value not in allowed:
        message = f"{name} is never {value!r}; it is one of {_join(allowed)}."
        raise Problem(400, message, param="filter")
    return name, value


def _join(words: Collection[str]) -> str:
    return ", ".join(words)
