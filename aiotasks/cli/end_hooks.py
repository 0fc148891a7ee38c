"""What is called when a job has ended: a command, a URL, or both. Neither gets the API key."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple

import aiohttp
import msgspec
import typer
from yarl import URL

from aiotasks._checks import reject

from .option_groups import with_group
from .output import say
from .proxies import proxy_to


# A choice: the job has ended, and its command should do so soon.
_PATIENCE: Final = 30.0
_OPTIONS: Final[Mapping[str, Any]] = {
    "end_command": Annotated[
        str | None,
        typer.Option(
            help="Run this when the job ends, without a shell: its totals are JSON on standard input.",
            metavar="COMMAND",
        ),
    ],
    "end_url": Annotated[
        str | None,
        typer.Option(help="Send the totals of the job there as JSON when it ends.", metavar="URL"),
    ],
}


class EndHooks(NamedTuple):
    """The command and the URL that are called when a job has ended."""

    command: tuple[str, ...] = ()
    url: URL | None = None

    async def call(self, end: Mapping[str, Any]) -> None:
        """Call both of them; what goes wrong there is printed, and changes nothing of the job."""
        body = msgspec.json.encode(end)
        if self.command:
            # Nothing else is left to do, so that it may hold the loop up.
            _run(self.command, body)
        if self.url is not None:
            await _post(self.url, body)


def _hooks(end_command: str | None, end_url: str | None) -> EndHooks:
    command = () if end_command is None else _parse_command(end_command)
    return EndHooks(command, None if end_url is None else _parse_url(end_url))


def _parse_command(text: str) -> tuple[str, ...]:
    try:
        words = shlex.split(text, posix=os.name != "nt")
    except ValueError as error:
        reject(f"--end-command cannot be read: {error}")
    if not words or shutil.which(words[0]) is None:
        reject(f"--end-command: there is no command {words[0] if words else text!r}")
    return tuple(words)


def _parse_url(text: str) -> URL:
    # It is not shown: its path is often a secret.
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host:
        reject("--end-url takes a URL that begins with https:// or http://")
    return url


def _run(command: tuple[str, ...], body: bytes) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("AFFINITY_API_KEY")
    }
    try:
        done = subprocess.run(  # noqa: S603 - the user gave this command to be run
            command, input=body, env=environment, check=False, timeout=_PATIENCE
        )
    except OSError as error:
        say(f"--end-command: cannot run {command[0]}: {error.strerror}.")
    except subprocess.TimeoutExpired:
        say(f"--end-command: {command[0]} had not ended after {_PATIENCE:g} s, and was stopped.")
    else:
        if done.returncode:
            say(f"--end-command: {command[0]} has ended with the exit code {done.returncode}.")


async def _post(url: URL, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=_PATIENCE)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.post(url, data=body, proxy=_proxy_to(url), allow_redirects=False) as answer,
        ):
            status = answer.status
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        say(
            f"--end-url: {url.host} cannot be told that the job has ended ({type(error).__name__})."
        )
    else:
        if status >= 300:  # noqa: PLR2004 - HTTP's own number
            say(f"--end-url: {url.host} answers {status} to the end of the job.")


def _proxy_to(url: URL) -> str | None:
    return None if url.host in {"localhost", "127.0.0.1", "::1"} else proxy_to(str(url))


with_end_hooks = with_group("hooks", _OPTIONS, None, _hooks)
"""Replace the parameter ``hooks`` of a command, which gets what is called when its job ends."""
