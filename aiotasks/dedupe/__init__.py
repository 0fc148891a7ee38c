"""Bulk jobs: thousands of merges, planned, previewed and durable, each at most once.

``Plan`` reads pairs, ``preview`` shows what they would do, ``run`` merges them, and ``Ledger`` stores
every transition; ``resume`` continues the job of a ledger, and ``report_lines`` reports how each pair
ended. This needs the extra ``dedupe``.
"""

from ._effects import Effect
from ._input.columns import InputOptions
from ._preview import Preview, preview
from ._progress import CanaryPassed, JobEvent, JobProgress, PairChanged, Stopping
from .job import JobResult, resume, run
from .ledger import Ledger, LedgerReader
from .models import (
    JobInfo,
    LoggedTransition,
    Pair,
    PairState,
    PlannedMerge,
    Rewrite,
    Row,
    SkippedRow,
    StopReason,
    Transition,
)
from .plan import Cost, Plan
from .report import report_lines, report_workbook, snapshot_lines
from .settings import JobSettings
from .status import JobCounts, JobPhase, JobStatus


__all__ = [
    "CanaryPassed",
    "Cost",
    "Effect",
    "InputOptions",
    "JobCounts",
    "JobEvent",
    "JobInfo",
    "JobPhase",
    "JobProgress",
    "JobResult",
    "JobSettings",
    "JobStatus",
    "Ledger",
    "LedgerReader",
    "LoggedTransition",
    "Pair",
    "PairChanged",
    "PairState",
    "Plan",
    "PlannedMerge",
    "Preview",
    "Rewrite",
    "Row",
    "SkippedRow",
    "StopReason",
    "Stopping",
    "Transition",
    "preview",
    "report_lines",
    "report_workbook",
    "resume",
    "run",
    "snapshot_lines",
]
