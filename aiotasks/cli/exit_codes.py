"""Exit codes: what each means, and which error or outcome ends a command with it."""

from enum import IntEnum

from aiotasks.errors import (
    AffinityError,
    AuthenticationError,
    AuthorizationError,
    ClosedError,
    ConfigurationError,
    LedgerError,
    MonthlyQuotaError,
    NetworkError,
    PlanError,
    ServerError,
)
from aiotasks.outcomes import OutcomeState


EXIT_CODES = """
Exit codes: 0 all succeeded, 1 some failed, 2 wrong use, 3 still running or interrupted,
4 not authorised, 5 API unreachable, 6 stopped by itself. Of several, the highest counts.
"""


class Exit(IntEnum):
    """What the command came to; of several, the highest counts."""

    SUCCEEDED = 0
    FAILED = 1
    WRONG_USE = 2
    RUNNING = 3
    NOT_AUTHORISED = 4
    UNREACHABLE = 5
    STOPPED = 6


_EXIT_OF_ERROR: tuple[tuple[tuple[type[AffinityError], ...], Exit], ...] = (
    ((ConfigurationError, ClosedError, PlanError, LedgerError), Exit.WRONG_USE),
    ((AuthenticationError, AuthorizationError), Exit.NOT_AUTHORISED),
    ((NetworkError, ServerError), Exit.UNREACHABLE),
    ((MonthlyQuotaError,), Exit.RUNNING),
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
    return Exit.FAILED
