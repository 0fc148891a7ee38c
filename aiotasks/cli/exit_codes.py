"""Exit codes: what each means, and which error or outcome ends a command with it."""

import shutil
import textwrap
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from aiotasks.errors import (
    AffinityError,
    AuthenticationError,
    AuthorizationError,
    DecodeError,
    IndeterminateMergeError,
    MonthlyQuotaError,
    NetworkError,
    RateLimitError,
    ServerError,
    TaskFailedError,
    TaskTimeoutError,
    UnknownStatusError,
)
from aiotasks.outcomes import OutcomeState


class Exit(IntEnum):
    """What the command came to; of several, the highest counts."""

    SUCCEEDED = 0
    FAILED = 1
    WRONG_USE = 2
    RUNNING = 3
    NOT_AUTHORISED = 4
    UNREACHABLE = 5
    STOPPED = 6
    BUG = 7


MEANINGS: Final[Mapping[Exit, str]] = {
    Exit.SUCCEEDED: "all succeeded",
    Exit.FAILED: "some failed, were refused, or stay unsettled",
    Exit.WRONG_USE: "could not begin: wrong use, or an input or request that is refused",
    Exit.RUNNING: "still running or interrupted: the same command goes on",
    Exit.NOT_AUTHORISED: "the key is wrong, or may not do this",
    Exit.UNREACHABLE: "the API cannot be reached, or does not answer as it should",
    Exit.STOPPED: "stopped by itself: too many failed, or the month's calls are used up",
    Exit.BUG: "an error in aiotasks itself, with a traceback",
}
# The text is indented by two, and the first line keeps it from being wrapped like prose.
_ROOM: Final = min(shutil.get_terminal_size().columns, 80) - 2
EXIT_CODES: Final = "\n".join(
    ["\b", "Exit codes, of several the highest:"]
    + [
        textwrap.fill(f"  {code.value}  {meaning}", max(_ROOM, 30), subsequent_indent="     ")
        for code, meaning in MEANINGS.items()
    ]
)

# The first that fits counts. All other errors are raised before anything is begun.
_EXIT_OF_ERROR: tuple[tuple[tuple[type[AffinityError], ...], Exit], ...] = (
    ((AuthenticationError, AuthorizationError), Exit.NOT_AUTHORISED),
    ((MonthlyQuotaError,), Exit.STOPPED),
    ((NetworkError, ServerError, RateLimitError, DecodeError), Exit.UNREACHABLE),
    ((TaskTimeoutError,), Exit.RUNNING),
    ((TaskFailedError, UnknownStatusError, IndeterminateMergeError), Exit.FAILED),
)


EXIT_OF_STATE = {
    OutcomeState.SUCCESS: Exit.SUCCEEDED,
    OutcomeState.FAILED: Exit.FAILED,
    OutcomeState.RUNNING: Exit.RUNNING,
    OutcomeState.UNKNOWN: Exit.FAILED,
}


def exit_of(error: AffinityError) -> Exit:
    """Return the exit code of an error that ends a command."""
    for classes, code in _EXIT_OF_ERROR:
        if isinstance(error, classes):
            return code
    return Exit.WRONG_USE
