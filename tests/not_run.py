"""Print which environments of ``tox.ini`` could not run on this machine, and what they need."""

import shutil
import subprocess


VERSIONS = ("3.11", "3.12", "3.13")


def is_there(command: str) -> bool:
    """Return whether a command runs; a shim of pyenv may exist and lead nowhere."""
    path = shutil.which(command)
    if path is None:
        return False
    return subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0


def main() -> None:
    """Print which environments did not run, or that all of them ran."""
    missing = [f"Python {version}" for version in VERSIONS if not is_there(f"python{version}")]
    if not is_there("chromium"):
        missing.append("the tests in a browser (install chromium)")
    print("\nNOT RUN here: " + ", ".join(missing) if missing else "\nNothing was left out.")  # noqa: T201


if __name__ == "__main__":
    main()
