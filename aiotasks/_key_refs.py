"""References to keys: where a key is, in place of the key itself.

``env:NAME`` is an environment variable, ``file:PATH`` a file such as a mounted secret, and
``command:…`` a command that prints the key, such as that of a password manager. A reference may be
stored and shown; what it leads to never is.
"""

import os
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ._checks import reject, shorten
from ._http.redaction import Hidden, without_arguments


# A choice: a password manager may ask for a finger or a password first.
_PATIENCE: Final = 120.0


@without_arguments
def read_key(ref: str) -> str:
    """Return the key that a reference leads to, as a text whose repr does not show it.

    A command is run without a shell; it may ask for a password on the terminal.

    Raises:
        ConfigurationError: when there is no such reference, or it leads to no key.
    """
    kind, colon, place = ref.partition(":")
    if not colon or kind not in _READERS or not place.strip():
        # It is not shown: it may be the key itself.
        reject(
            "A reference to a key begins with env:, file: or command:, as in env:AFFINITY_API_KEY"
        )
    key = Hidden(_READERS[kind](place.strip()).strip())
    if not key:
        reject(f"There is no key: {shorten(ref)} is empty")
    return key


def _from_environment(name: str) -> str:
    if name not in os.environ:
        reject(f"There is no key: the environment has no {name}")
    return os.environ[name]


def _from_file(path: str) -> str:
    try:
        return Path(path).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        reject(f"There is no key: cannot read {path}: {reason}")


def _from_command(command: str) -> str:
    words = _words(command)
    # The rest of the command may contain what is not to be shown.
    name = words[0]
    try:
        done = subprocess.run(  # noqa: S603 - the user gave this command to be run
            words, stdout=subprocess.PIPE, check=False, timeout=_PATIENCE, text=True
        )
    except OSError as error:
        reject(f"There is no key: cannot run {name}: {error.strerror}")
    except UnicodeDecodeError:
        reject(f"There is no key: what {name} prints is no text")
    except subprocess.TimeoutExpired:
        reject(f"There is no key: {name} has not ended after {_PATIENCE:g} s")
    if done.returncode:
        reject(f"There is no key: {name} has ended with the exit code {done.returncode}")
    return done.stdout


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command, posix=os.name != "nt")
    except ValueError as error:
        reject(f"The command of a key cannot be read: {error}")


_READERS: Final[Mapping[str, Callable[[str], str]]] = {
    "env": _from_environment,
    "file": _from_file,
    "command": _from_command,
}
