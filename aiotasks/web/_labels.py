"""What the page says of states and phases: the words of the document and of its script."""

from typing import Final


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

SENTENCES: Final = {
    "new": "Nothing has been merged. Read the plan, then start it.",
    "running": "You may close this page; the job goes on without it.",
    "elsewhere": "Another program runs this job, and only there can it be stopped.",
    "stopped": "Nothing is lost: it goes on where it is.",
    "broken-off": (
        "What ran it has ended. Nothing is lost: when it goes on, it first finds out what became "
        "of the open merges."
    ),
    "finished": "Every merge has come to an end.",
}

STOPPED: Final = {
    "interrupted": "It was stopped. Nothing is lost: it goes on where it is.",
    "failures": (
        "It stopped by itself: too many merges failed. Look at their reasons before it goes on."
    ),
    "month": "It stopped by itself: the organization's calls of this month are used up.",
    "not-authorised": "It stopped: the key may not go on. Look at its rights first.",
    "unreachable": "It stopped: the API could not be reached for a long time.",
}

FAREWELL: Final = (
    "The program that ran this job has ended, and this page with it: it shows the last that was "
    "told. On the command line, aiotasks resume goes on, and aiotasks report tells what became of "
    "each pair."
)

WILL_NOT_RUN: Final = "These merges of the plan cannot run. The others can."

TRY_AGAIN: Final = (
    "Those that failed or were refused can be tried again once their reasons are gone; the report "
    "has all of them."
)

PLURAL: Final = {"company": "companies", "person": "persons"}

WARNINGS: Final = {
    "company": "Merges of companies are permanent: nothing can undo them.",
    "person": "This page cannot undo merges.",
}

FOR_SCRIPT: Final = {
    "states": STATES,
    "phases": PHASES,
    "sentences": SENTENCES,
    "stopped": STOPPED,
    "farewell": FAREWELL,
    "will_not_run": WILL_NOT_RUN,
    "try_again": TRY_AGAIN,
    "plural": PLURAL,
}
