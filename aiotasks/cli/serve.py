"""The command that shows jobs in a browser, and the page beside a job that runs."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from aiotasks.client import Client, ClientSettings
from aiotasks.dedupe import JobProgress
from aiotasks.errors import AffinityError, AuthenticationError, AuthorizationError
from aiotasks.web import serve as serve_jobs
from aiotasks.web import serve_job

from .client_options import with_client_settings
from .command import complete
from .commands import Commands
from .interrupts import on_interrupt
from .logs import shown_too
from .output import note, say


_KEY_CHECK_SECONDS = 5.0
_NOTHING_LOST = "Nothing is lost: jobs that ran go on when the server is started again."

commands = Commands()


@commands.command(short_help="Show the jobs of a folder in a browser.")
@with_client_settings
def serve(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where the ledgers of the jobs are.")
    ] = Path(),
    *,
    host: Annotated[
        str, typer.Option(help="The address to listen at; 0.0.0.0 for all.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to listen at; 0 takes a free one.")
    ] = 0,
    token: Annotated[
        str | None,
        typer.Option(
            help="The token that requests of programs must have; the link gives access by it.",
            envvar="AIOTASKS_TOKEN",
            show_default="none on loopback, else a random one",
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="A further host name in requests; may be repeated."),
    ] = None,
    link_hours: Annotated[
        float, typer.Option(help="Hours after which a link expires, if there is a token.")
    ] = 24.0,
    https: Annotated[
        bool,
        typer.Option("--https", help="Browsers come by TLS, which a proxy in front of this ends."),
    ] = False,
    user_header: Annotated[
        str | None,
        typer.Option(help="The header in which a proxy names the user, for the log."),
    ] = None,
    no_resume: Annotated[
        bool,
        typer.Option("--no-resume", help="Leave the jobs that the last server was running."),
    ] = False,
    client: ClientSettings,
) -> None:
    """Show the jobs of a folder in a browser, to be planned, started and watched, until Ctrl-C.

    Jobs that it was running when it ended go on when it starts again, unless someone had stopped
    them. Requests, and who did what to a job, are logged to standard error.

    The first line on standard output is the link; when it expires, a new one follows. Anyone who
    has it can start merges, some of which can NEVER be undone.
    """
    access = _Access(
        host=host,
        port=port,
        token=token,
        hosts=name or [],
        link_hours=link_hours,
        https=https,
        user_header=user_header,
        resume=not no_resume,
    )
    served = _serve(folder, client, access)
    try:
        complete(served, _NOTHING_LOST)
    except asyncio.CancelledError:
        say(f"Ended. {_NOTHING_LOST}")


@asynccontextmanager
async def page_beside(
    client: Client, path: Path, stop: asyncio.Event, show_here: Callable[[JobProgress], object]
) -> AsyncIterator[Callable[[JobProgress], None]]:
    """Serve the page of a job, and yield an ``on_progress`` that updates both page and terminal.

    The link is printed once there is something left to watch.
    """
    is_printed = False
    async with serve_job(client, path, stop=stop) as page:

        def show(progress: JobProgress) -> None:
            nonlocal is_printed
            _ = show_here(progress)
            page.show(progress)
            if not is_printed and progress.ended < progress.total:
                say(f"To watch it in a browser: {page.link}")
                is_printed = True

        yield show


class _Access(TypedDict):
    host: str
    port: int
    token: str | None
    hosts: list[str]
    link_hours: float
    https: bool
    user_header: str | None
    resume: bool


async def _serve(folder: Path, settings: ClientSettings, access: _Access) -> None:
    with _ended_by_signals(), shown_too("aiotasks.web"):
        await _serve_until_ended(folder, settings, access)


async def _serve_until_ended(folder: Path, settings: ClientSettings, access: _Access) -> None:
    async with Client.from_env(**settings) as client:
        served = serve_jobs(client, folder, **access)
        await _try_key(client)
        async with served as link:
            _print(link)
            note("Open this link in a browser. Ctrl-C ends the server, and the jobs that it runs.")
            if served.resumed:
                note(
                    f"Going on with what the last server was running: {', '.join(served.resumed)}."
                )
            while "?" in link:
                await asyncio.sleep(3600 * access["link_hours"])
                _print(served.link())
            _ = await asyncio.Event().wait()


def _print(link: str) -> None:
    typer.echo(link)
    _ = sys.stdout.flush()


def _ended_by_signals() -> AbstractContextManager[None]:
    """Let SIGINT and SIGTERM cancel this task, once: a second signal must not stop the cleanup."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - called in the task that is to end

    def end() -> None:
        if not task.cancelling():
            _ = task.cancel()

    return on_interrupt(end)


async def _try_key(client: Client) -> None:
    try:
        async with asyncio.timeout(_KEY_CHECK_SECONDS):
            _ = await client.refresh_quota()
    except (AuthenticationError, AuthorizationError):
        raise
    except (AffinityError, TimeoutError) as error:
        # Without the API, jobs can still be shown from their ledgers.
        reason = str(error) or f"there was no answer in {_KEY_CHECK_SECONDS:g} s"
        say(f"Jobs can be shown, but the API does not answer now: {reason}")
