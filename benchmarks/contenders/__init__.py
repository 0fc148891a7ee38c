"""Programs that do the same bulk job, each in its own natural way."""

from collections.abc import Awaitable, Callable, Mapping

from benchmarks.contenders import dedupe_job, hand_written, ours, sdk
from benchmarks.contenders.job import Job


CONTENDERS: Mapping[str, Callable[[Job], Awaitable[None]]] = {
    "aiotasks, dedupe job by default": dedupe_job.run_by_default,
    "aiotasks, dedupe job without a first batch": dedupe_job.run,
    "aiotasks": ours.run,
    "hand-written": hand_written.run,
    "hand-written, shared pause": hand_written.run_with_shared_pause,
    "affinity-sdk": sdk.run,
    "affinity-sdk, helped": sdk.run_with_repeated_merges,
}
