"""Wait for Affinity's merge tasks, one or thousands, with asyncio.

``Client`` is the way in; everything public can be imported from here.
"""

from ._merges import MergeService
from ._polling.watch import Watch
from ._tasks import TaskService
from .backoff import Backoff
from .client import Client
from .errors import (
    AffinityError,
    AuthenticationError,
    AuthorizationError,
    ClosedError,
    ConfigurationError,
    ConflictError,
    ConnectError,
    DecodeError,
    IndeterminateMergeError,
    LedgerError,
    MergedEntityError,
    MonthlyQuotaError,
    NetworkError,
    NotFoundError,
    PlanError,
    RateLimitError,
    RequestTimeoutError,
    ResponseError,
    ServerError,
    TaskFailedError,
    TaskTimeoutError,
    UnknownStatusError,
    ValidationError,
)
from .models import (
    CompanyMergeState,
    CompanyProfile,
    DuplicateSuggestion,
    Kind,
    MergeState,
    MergeTask,
    PersonMergeState,
    PersonProfile,
    Quota,
    Record,
    ResultsSummary,
    TaskStatus,
)
from .outcomes import Outcome, Outcomes, OutcomeState, Progress, TaskSnapshot


__all__ = [
    "AffinityError",
    "AuthenticationError",
    "AuthorizationError",
    "Backoff",
    "Client",
    "ClosedError",
    "CompanyMergeState",
    "CompanyProfile",
    "ConfigurationError",
    "ConflictError",
    "ConnectError",
    "DecodeError",
    "DuplicateSuggestion",
    "IndeterminateMergeError",
    "Kind",
    "LedgerError",
    "MergeService",
    "MergeState",
    "MergeTask",
    "MergedEntityError",
    "MonthlyQuotaError",
    "NetworkError",
    "NotFoundError",
    "Outcome",
    "OutcomeState",
    "Outcomes",
    "PersonMergeState",
    "PersonProfile",
    "PlanError",
    "Progress",
    "Quota",
    "RateLimitError",
    "Record",
    "RequestTimeoutError",
    "ResponseError",
    "ResultsSummary",
    "ServerError",
    "TaskFailedError",
    "TaskService",
    "TaskSnapshot",
    "TaskStatus",
    "TaskTimeoutError",
    "UnknownStatusError",
    "ValidationError",
    "Watch",
]
