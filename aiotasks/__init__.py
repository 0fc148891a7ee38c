"""Wait for Affinity's merge tasks, one or thousands, with asyncio.

``Client`` is the way in; everything public can be imported from here.
"""

import logging as _logging
from importlib.metadata import version as _version

from ._merges import MergeService
from ._polling.watch import Watch
from ._spans import instrument
from ._tasks import TaskService
from .backoff import Backoff
from .client import Client, ClientSettings
from .diagnosis import Diagnosis, KindDiagnosis
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
    LedgerInUseError,
    MergedEntityError,
    MonthlyQuotaError,
    NetworkError,
    NoJobError,
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
    http_status_of,
)
from .models import (
    CompanyMergeState,
    CompanyProfile,
    DuplicateSuggestion,
    Kind,
    Lateness,
    MergeState,
    MergeTask,
    PersonMergeState,
    PersonProfile,
    Quota,
    Record,
    RequestInfo,
    ResultsSummary,
    TaskStatus,
    Value,
    json_default,
)
from .outcomes import Outcome, Outcomes, OutcomeState, Progress, TaskSnapshot


__all__ = [
    "AffinityError",
    "AuthenticationError",
    "AuthorizationError",
    "Backoff",
    "Client",
    "ClientSettings",
    "ClosedError",
    "CompanyMergeState",
    "CompanyProfile",
    "ConfigurationError",
    "ConflictError",
    "ConnectError",
    "DecodeError",
    "Diagnosis",
    "DuplicateSuggestion",
    "IndeterminateMergeError",
    "Kind",
    "KindDiagnosis",
    "Lateness",
    "LedgerError",
    "LedgerInUseError",
    "MergeService",
    "MergeState",
    "MergeTask",
    "MergedEntityError",
    "MonthlyQuotaError",
    "NetworkError",
    "NoJobError",
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
    "RequestInfo",
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
    "Value",
    "Watch",
    "http_status_of",
    "instrument",
    "json_default",
]

# Quiet, unless an application listens.
_logging.getLogger("aiotasks").addHandler(_logging.NullHandler())

__version__ = _version("affinity-aiotasks")
"""The version of the distribution."""
