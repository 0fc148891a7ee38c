"""The benchmarks as a package, without their folder's parent on the path.

With it there, the tests would run against the source and not against what was installed.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def _load() -> None:
    folder = Path(__file__).parents[2] / "benchmarks"
    spec = spec_from_file_location(
        "benchmarks", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["benchmarks"] = module
    spec.loader.exec_module(module)


_load()
