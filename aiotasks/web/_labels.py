"""Labels of states and phases, and further texts, shared by the HTML and its script."""

from typing import Final

from aiotasks._text import PLURAL
from aiotasks.dedupe.status import SENTENCES, JobPhase


STATES: Final = {
    "planned": "To come",
    "open": "Open",
    "sending": "Being sent",
    "started": "Running",
    "succeeded": "Merged",
    "failed": "Failed",
    "refused": "Refused",
    "unsettled": "Unsettled",
    "left_out": "Left out",
}

PHASES: Final = {
    "new": "Not started",
    "running": "Running",
    "elsewhere": "Running elsewhere",
    "stopped": "Stopped",
    "broken-off": "Broken off",
    "finished": "Finished",
}

SHUTDOWN_NOTICE: Final = (
    "The program that ran this job has ended, and this page with it: it shows the last that was "
    "reported. On the command line, aiotasks resume goes on, and aiotasks report shows what became "
    "of each pair."
)

WILL_NOT_RUN: Final = "These merges of the plan cannot run. The others can."

# What a page shows that lost its server while the job ran: it can no longer be given a state.
_KILLED: Final = {
    "phase": JobPhase.BROKEN_OFF,
    "sentence": SENTENCES[JobPhase.BROKEN_OFF],
    "is_running": False,
    "progress": None,
}

FOR_SCRIPT: Final = {
    "states": STATES,
    "phases": PHASES,
    "shutdown_notice": SHUTDOWN_NOTICE,
    "killed": _KILLED,
    "will_not_run": WILL_NOT_RUN,
    "plural": PLURAL,
}
