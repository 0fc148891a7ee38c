"""The public interface of ``aiotasks``: all that users need, and nothing more."""

import importlib.metadata
import importlib.resources
import inspect
import re
import types
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest

import aiotasks
from aiotasks import errors, models, outcomes


SERVICES = {"Client", "MergeService", "TaskService", "Watch"}
ALIASES = {"Backoff", "ClientSettings", "Diagnosis", "Kind", "KindDiagnosis", "instrument"}
PUBLIC = sorted(set(aiotasks.__all__) - ALIASES)


def defined_in(module: types.ModuleType) -> set[str]:
    """Return the names of the public classes and functions that a module defines."""
    return {
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
        and not name.startswith("_")
        and not isinstance(value, TypeVar)
    }


def members(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties that a class of this library has."""
    for name, _ in inspect.getmembers(value) if isinstance(value, type) else ():
        owner = next((each for each in value.__mro__ if name in vars(each)), object)
        if not name.startswith("_") and owner.__module__.startswith("aiotasks"):
            member = inspect.getattr_static(value, name)
            if isinstance(member, property | classmethod | staticmethod | types.FunctionType):
                yield name, member


def signatures() -> Iterator[tuple[str, str]]:
    """Yield each public call with the text of its signature."""
    for name in PUBLIC:
        value = getattr(aiotasks, name)
        if isinstance(value, types.FunctionType):
            yield name, str(inspect.signature(value))
        for member_name, member in members(value):
            function: Any = member.fget if isinstance(member, property) else member
            function = getattr(function, "__func__", function)
            yield f"{name}.{member_name}", str(inspect.signature(function))


def test_all_is_exact() -> None:
    """``__all__`` has the models, the errors and the services, and nothing more."""
    expected = defined_in(models) | defined_in(outcomes) | defined_in(errors) | SERVICES | ALIASES
    assert set(aiotasks.__all__) == expected


def test_all_names_each_once() -> None:
    """``__all__`` has no name twice and none that is private."""
    assert len(set(aiotasks.__all__)) == len(aiotasks.__all__)
    assert not any(name.startswith("_") for name in aiotasks.__all__)


def test_nothing_else_is_public() -> None:
    """Every name without an underscore in ``aiotasks`` is public or a module."""
    names = {
        name
        for name, value in vars(aiotasks).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert names == set(aiotasks.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_has_a_docstring(name: str) -> None:
    """Each public class, call and property has a docstring."""
    value = getattr(aiotasks, name)
    own = value.__doc__ if isinstance(value, types.FunctionType) else vars(value).get("__doc__")
    assert own
    bare = [each for each, member in members(value) if not inspect.getdoc(member)]
    assert bare == []


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_calls_list_what_they_raise(name: str) -> None:
    """Each call that can fail lists errors of this library, by names that can be imported."""
    named: set[str] = set()
    for each, member in members(getattr(aiotasks, name)):
        doc = inspect.getdoc(member) or ""
        _, _, raises = doc.partition("Raises:\n")
        found = set(re.findall(r"^    (\w+):", raises, re.MULTILINE))
        assert found <= set(aiotasks.__all__), each
        is_async = inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)
        assert found or not is_async or each.startswith("next_"), each
        named |= found
    assert named


def test_signatures_name_public_things() -> None:
    """Every type that a public call accepts or returns can be imported from ``aiotasks``."""
    named = {
        (call, name)
        for call, signature in signatures()
        for name in re.findall(r"aiotasks\.(?:\w+\.)+(\w+)", signature)
    }
    assert ("TaskService.wait", "MergeTask") in named
    assert {(call, name) for call, name in named if name not in aiotasks.__all__} == set()


@pytest.mark.parametrize("name", sorted(SERVICES - {"Watch"}))
def test_at_most_a_pair_is_positional(name: str) -> None:
    """One argument, or a natural pair, is positional; all settings are keyword-only."""
    for each, member in members(getattr(aiotasks, name)):
        if isinstance(member, types.FunctionType):
            parameters = inspect.signature(member).parameters.values()
            positional = [one for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
            assert len(positional) <= 3, each


def test_types_ship() -> None:
    """``py.typed`` is in the package, so that users' type checkers see its types."""
    assert importlib.resources.files("aiotasks").joinpath("py.typed").is_file()


def test_the_distribution() -> None:
    """The core requires its three packages; all others are in extras."""
    assert aiotasks.__version__ == importlib.metadata.version("affinity-aiotasks")
    metadata = importlib.metadata.metadata("affinity-aiotasks")
    needed = importlib.metadata.requires("affinity-aiotasks") or []
    core = {re.split(r"[<>=; ]", each)[0] for each in needed if "extra ==" not in each}
    assert core == {"aiohttp", "msgspec", "tenacity"}
    assert set(metadata.get_all("Provides-Extra") or []) == {
        "cli",
        "dedupe",
        "excel",
        "metrics",
        "otel",
        "web",
    }
    of_jobs = {re.split(r"[<>=; ]", each)[0] for each in needed if "'dedupe'" in each}
    assert of_jobs == {"aiosqlite", "platformdirs"}
