"""Write the lowest versions that the package's metadata allows, as requirements for pip."""

import sys
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement


PACKAGE = "affinity-aiotasks"


def lowest(requirement: Requirement) -> str:
    """Return a requirement of exactly the lowest version; there has to be one."""
    (version,) = [each.version for each in requirement.specifier if each.operator == ">="]
    return f"{requirement.name}=={version}"


def main(path: Path) -> None:
    """Write one requirement a line, of all extras."""
    found = [Requirement(each) for each in requires(PACKAGE) or ()]
    pinned = {lowest(each) for each in found if each.name != PACKAGE}
    _ = path.write_text("".join(f"{each}\n" for each in sorted(pinned)), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
