"""The commands that read ledgers to say how far jobs are."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from aiotasks._text import iso_time
from aiotasks.dedupe import JobInfo, JobStatus, Ledger
from aiotasks.dedupe.models import has_pairs_left
from aiotasks.errors import LedgerError, NoJobError

from . import job_text
from .command import complete, fail
from .commands import Commands
from .exit_codes import Exit
from .options import AsJson, LedgerFile, is_for_people, must_exist
from .output import OutputFile, open_output, print_line, print_text


commands = Commands()


@commands.command()
def status(ledger: LedgerFile, *, json: AsJson = False) -> None:
    """Show how far a job is, from its ledger. The exit code is that of the job."""
    must_exist(ledger)
    raise typer.Exit(complete(_status(ledger, as_json=json), ""))


@commands.command(short_help="List the jobs of a folder.")
def jobs(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where the ledgers of the jobs are.")
    ] = Path(),
    *,
    output: OutputFile = None,
    json: AsJson = False,
) -> None:
    """List the jobs whose ledgers are in a folder: as lines for people, or as JSON lines."""
    paths = _ledgers(folder)
    with open_output(output):
        complete(_jobs(paths, is_for_people=is_for_people(json)), "")


async def _status(path: Path, *, as_json: bool) -> Exit:
    async with Ledger.reading(path) as ledger:
        job, totals, notes = ledger.require_job(), await ledger.totals(), await ledger.notes()
        holder = await ledger.live_holder()
    status = JobStatus.of(job, totals, notes, holder=holder, error=notes.get("error"))
    code = job_text.exit_of(totals, status.stopped)
    if as_json:
        print_line({**_view(path, job, status), "totals": totals, "exit_code": code})
        return code
    for line in job_text.status(job, status):
        print_text(line)
    print_text(job_text.counted(totals))
    if not holder and has_pairs_left(totals):
        print_text(f"Go on with: {shlex.join(['aiotasks', 'resume', str(path)])}")
    return code


def _view(path: Path, job: JobInfo, status: JobStatus) -> dict[str, Any]:
    return {
        "ledger": str(path),
        "source": job.source,
        "kind": job.kind,
        "begun_at": iso_time(job.begun_at),
        "origin": job.origin,
        "fingerprint": job.fingerprint,
        **status.to_dict(),
    }


def _ledgers(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(".job.db"))
    except OSError as error:
        fail(f"Cannot read the folder {folder}: {error.strerror}.")


async def _jobs(paths: list[Path], *, is_for_people: bool) -> None:
    if not paths and is_for_people:
        print_text("There are no jobs: `aiotasks merge` begins one beside its input.")
    for path in paths:
        view = await _view_of(path)
        if is_for_people:
            print_text(job_text.in_list(path.name, view))
        else:
            print_line(view)


async def _view_of(path: Path) -> dict[str, Any]:
    try:
        async with Ledger.reading(path) as ledger:
            job, totals, notes = ledger.require_job(), await ledger.totals(), await ledger.notes()
            holder = await ledger.live_holder()
    except NoJobError:
        return {"ledger": str(path), "error": "it has no job yet"}
    except LedgerError as error:
        return {"ledger": str(path), "error": str(error)}
    return _view(path, job, JobStatus.of(job, totals, notes, holder=holder))
