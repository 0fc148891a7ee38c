"""The README's promises, kept by running them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


README = Path(__file__).parents[2] / "README.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
@pytest.mark.usefixtures("environment")
def test_examples_run_as_they_stand(example: str, tmp_path: Path) -> None:
    """Each example is a whole program that works."""
    command = [sys.executable, "-W", "error", "-c", example]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=20
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_quick_start_is_two_commands() -> None:
    """The first fenced blocks are the demo and the tests, one line each, and no other is `sh`."""
    blocks = re.findall(
        r"^```(\w+)\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )

    assert [language for language, _ in blocks].count("sh") == 2
    (first, demo), (second, tests) = blocks[:2]
    assert (first, second) == ("sh", "sh")
    assert demo.count("\n") == tests.count("\n") == 1
    assert demo.endswith("aiotasks demo\n")
    assert tests.endswith("tox\n")
