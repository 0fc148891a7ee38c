"""What has to be installed for each package. Layers are contracts in ``pyproject.toml``."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aiotasks


PACKAGE = Path(aiotasks.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# The URLs and headers that aiotasks passes to aiohttp are yarl's and multidict's: they come with
# aiohttp, as a part of its API.
CORE = {"aiohttp", "msgspec", "tenacity", "multidict", "yarl"}
CLI = {"typer", "rich"}
DEDUPE = {"aiosqlite", "platformdirs"}


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
    """Return the packages that a module imports and that are not in the standard library."""
    names = {name.partition(".")[0] for name in imports(file)}
    return names - sys.stdlib_module_names - {"aiotasks"}


def module_id(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("file", FILES, ids=module_id)
def test_what_must_be_installed(file: Path) -> None:
    """The core needs three packages; those of an extra are imported by its own package only."""
    top = file.relative_to(PACKAGE).parts[0]
    extras = {
        "cli": CLI | {"platformdirs"},
        "dedupe": DEDUPE,
        "web": {"prometheus_client"},
        "_spans.py": {"opentelemetry"},
        # Where pytest imports it, pytest is there.
        "_plugin": {"pytest", "pytest_asyncio"},
    }
    assert foreign(file) <= CORE | extras.get(top, set())


def loaded_by(module: str) -> set[str]:
    """Return the names of the modules that importing one loads in a new interpreter."""
    code = f"import sys; import {module}; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=20
    )
    return set(answer.stdout.split())


@pytest.mark.process
def test_the_core_loads_no_extra() -> None:
    """``import aiotasks`` loads no package of an extra and not the sandbox's server."""
    loaded = loaded_by("aiotasks")
    assert "aiotasks.client" in loaded
    others = {"aiotasks.cli", "aiotasks.dedupe", "aiotasks.sandbox", "aiotasks.web"}
    others |= {"aiohttp.web"}
    assert not loaded & (CLI | DEDUPE | others)
