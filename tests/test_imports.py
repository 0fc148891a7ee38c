"""Who imports what. The layers are held by import-linter; see ``pyproject.toml``."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aiotasks


PACKAGE = Path(aiotasks.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
PURE = {
    "_http/wire",
    "_http/pacer",
    "_polling/schedule",
    "_polling/timers",
    "_polling/waiters",
    "_polling/task_list",
    "_polling/pending",
    "_http/urls",
    "models",
    "errors",
    "backoff",
    "dedupe/models",
    "dedupe/plan",
    "dedupe/_input",
    "dedupe/_run/queue",
    "dedupe/_run/evidence",
    "dedupe/ledger/schema",
    "dedupe/_progress",
    "web/_json",
}
COMMAND_LINE = {"cli", "__main__"}
# The URLs and headers that aiotasks gives to aiohttp are yarl's and multidict's: they come with
# aiohttp, as a part of its API.
CORE = {"aiohttp", "msgspec", "tenacity", "multidict", "yarl"}
CLI = {"typer", "rich"}
DEDUPE = {"aiosqlite", "filelock"}


def room(file: Path) -> str:
    """Return the name of a module, or of the folder that it is in."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> Iterator[str]:
    """Yield the full name of all that a module imports, at the top or within a function."""
    package = ["aiotasks", *file.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*parent, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def foreign(file: Path) -> set[str]:
    """Return the packages that a module imports and that Python does not bring along."""
    names = {name.partition(".")[0] for name in imports(file)}
    return names - sys.stdlib_module_names - {"aiotasks"}


def own(file: Path) -> set[str]:
    """Return the rooms that a module imports."""
    names = (name.split(".") for name in imports(file))
    return {name[1] for name in names if name[0] == "aiotasks" and len(name) > 1}


def module_id(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_rooms_do_no_io(name: str) -> None:
    """What only decides imports neither asyncio nor aiohttp."""
    names = {each.partition(".")[0] for each in imports(PACKAGE / f"{name}.py")}
    assert names
    assert not names & {"asyncio", "aiohttp", "socket", "threading", "time"}


def test_only_backoff_knows_tenacity() -> None:
    """Tenacity is known in one place, so that no retry loop of it runs anywhere."""
    assert [room(file) for file in FILES if "tenacity" in foreign(file)] == ["backoff"]


@pytest.mark.parametrize("file", FILES, ids=module_id)
def test_what_must_be_installed(file: Path) -> None:
    """The core needs three packages; what an extra brings is for its own rooms alone."""
    allowed = set(CORE)
    if room(file) in COMMAND_LINE:
        allowed |= CLI
    if room(file) == "dedupe":
        allowed |= DEDUPE
    assert foreign(file) <= allowed


@pytest.mark.parametrize("name", ["dedupe", "web"])
def test_jobs_know_nothing_of_what_shows_them(name: str) -> None:
    """Jobs do not import their pages, nor pages the command line."""
    rooms = set[str]().union(*(own(file) for file in FILES if room(file) == name))
    assert rooms
    assert not rooms & {*COMMAND_LINE, *({"web"} - {name})}


@pytest.mark.parametrize("file", FILES, ids=module_id)
def test_client_and_sandbox_share_nothing(file: Path) -> None:
    """Neither side imports the other, so that neither hides the other's mistake."""
    if room(file) == "sandbox":
        assert own(file) <= {"sandbox"}
    elif room(file) not in COMMAND_LINE:
        assert "sandbox" not in own(file)


def loaded_by(module: str) -> set[str]:
    """Return the names of the modules that importing one loads in a new interpreter."""
    code = f"import sys; import {module}; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=20
    )
    return set(answer.stdout.split())


@pytest.mark.process
def test_the_core_loads_no_extra() -> None:
    """``import aiotasks`` needs nothing of the extras and does not load the sandbox's server."""
    loaded = loaded_by("aiotasks")
    assert "aiotasks.client" in loaded
    others = {"aiotasks.cli", "aiotasks.dedupe", "aiotasks.sandbox", "aiotasks.web"}
    others |= {"aiohttp.web"}
    assert not loaded & (CLI | DEDUPE | others)
