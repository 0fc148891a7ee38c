"""The options that several commands share."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from aiotasks.dedupe import InputOptions, JobSettings
from aiotasks.dedupe.models import OnConflict
from aiotasks.models import Kind

from .command import fail
from .option_groups import with_group


PairsFile = Annotated[
    Path,
    typer.Argument(
        metavar="PAIRS",
        help="CSV, JSON lines or a workbook, with the columns primary_id and duplicate_id; - for standard input.",
    ),
]
LedgerFile = Annotated[Path, typer.Argument(metavar="LEDGER", help="The job's ledger.")]
KindOption = Annotated[Kind, typer.Option(help="What is merged.")]
Conflicts = Annotated[
    OnConflict,
    typer.Option(help="Refuse rows that contradict each other, or let the first count."),
]
Protect = Annotated[
    Path | None,
    typer.Option(help="A file of ids that no merge may touch: one a line, or a table with them."),
]
ProtectColumn = Annotated[
    str | None, typer.Option(help="The column of a table of protected ids.", metavar="NAME")
]
MaxCluster = Annotated[
    int | None,
    typer.Option(
        min=2, help="Leave out clusters of more records than this, including the survivor."
    ),
]
NoNewCompany = Annotated[
    bool,
    typer.Option(
        "--no-new-company",
        help="Leave out merges that would replace both companies by a new one, or might.",
    ),
]
_INPUT_OPTIONS: Mapping[str, str] = {
    "sheet": "The sheet of a workbook; its first by default.",
    "primary_column": "The column of the records that survive.",
    "duplicate_column": "The column of those that are merged into them.",
    "cluster_column": "The column that names the cluster of a row.",
    "id_column": "The column of the records of clusters.",
    "keep": "Who survives of a cluster: first in the file, lowest id, or the record that the column of this name ranks highest, marks or names.",
}
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Merge pairs again that failed or were refused.")
]
Recover = Annotated[
    bool,
    typer.Option(
        "--recover",
        help="Go on although the ledger lost transitions, or is lost: the server is asked first.",
    ),
]
Page = Annotated[
    bool,
    typer.Option(
        "--page", help="Also show the job in a browser, at a free port of this machine only."
    ),
]


_JOB_OPTIONS: Mapping[str, Any] = {
    "max_open": Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many merges may be open at a time.",
            show_default="as many as the rate limits let start",
        ),
    ],
    "canary": Annotated[
        int,
        typer.Option(
            min=0,
            help="How many merges are the first batch: all others start when half as many have succeeded. 0 for none.",
        ),
    ],
    "max_failure_rate": Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Stop if clearly more than this share of the merges fails: three quarters of it may stop a long job too.",
        ),
    ],
    "grace": Annotated[
        float, typer.Option(min=0, help="Seconds to wait for open merges after Ctrl-C or a stop.")
    ],
    "settle_after": Annotated[
        float,
        typer.Option(
            min=1, help="Seconds until an unanswered merge that is in no list counts as not run."
        ),
    ],
    "poll_interval": Annotated[
        float, typer.Option(min=0.01, help="Seconds from the start of a merge to its first poll.")
    ],
}


def _input_options(**given: Any) -> InputOptions:
    return cast(InputOptions, {name: value for name, value in given.items() if value is not None})


with_job_settings = with_group("settings", _JOB_OPTIONS, JobSettings(), JobSettings)
"""Replace the parameter ``settings`` of a command by one option for each job setting."""

with_input_options = with_group(
    "columns",
    {
        name: Annotated[str | None, typer.Option(help=text, metavar="NAME")]
        for name, text in _INPUT_OPTIONS.items()
    },
    None,
    _input_options,
)
"""Replace the parameter ``columns`` of a command by one option for each of an input."""


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, also on a terminal.")]


def is_for_people(as_json: bool) -> bool:
    """Return whether results are shown as text: on a terminal, unless JSON is asked for."""
    return not as_json and sys.stdout.isatty()


def is_there(ledger: Path) -> bool:
    """Return whether there is such a ledger; end the command if that cannot be known."""
    try:
        return ledger.is_file()
    except OSError as error:
        fail(f"Cannot read {ledger}: {error.strerror}.")


def must_exist(ledger: Path) -> None:
    """End the command if there is no such ledger."""
    # A lock that is alone may say that the ledger was lost: opening it tells what to do then.
    if not (is_there(ledger) or is_there(ledger.with_name(f"{ledger.name}.lock"))):
        fail(f"There is no ledger {ledger}: `aiotasks merge` begins one beside its input.")
