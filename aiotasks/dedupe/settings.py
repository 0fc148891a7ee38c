"""The settings of a job, with their defaults and their limits."""

import math

from msgspec import Struct

from aiotasks.errors import ConfigurationError


class JobSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a job runs. Each run may use other settings: the ledger does not store them.

    Args:
        max_open: How many merges may be open at a time, being sent or running at the server; with
            ``None`` the rate limits alone bound them.
        canary: How many merges are the first batch. From the fourth that succeeds on, each
            lets three more start while none has failed, and all start once half as many have succeeded; no more than the first batch are while merges
            have just failed. 0 starts all immediately. A job that stopped for its failures begins
            with a first batch again.
        max_failure_rate: The job stops when a sequence of its merges, in the order of their starts,
            is far likelier at twice this share of failures than at 0.6 of it: at half of it hardly
            ever, at three quarters of it sometimes, and at twice of it soon. A failure is a merge
            that failed, or that the server refused. 0 stops at the first failure, 1 never.
        grace: Seconds for which a stopped job waits for its open merges.
        settle_after: Seconds for which an unanswered merge has to be missing from the server's
            lists before it counts as never started, counted anew in each run; as much longer as
            the lists lag for other merges of the run, at most three times as long in all. Records
            that do not show a merge yet, gateways that pass one on late and lists that are out of
            order must not be later than this.
        poll_interval: Seconds from the start of a merge to its first poll while it is not known how
            long merges take. Then intervals follow their median, at most four times as long or as
            short; later polls back off to three intervals. No caller waits for a single merge of a
            job, so rare polls leave more of the rate limit to merges; only the last ten are polled
            more often.

    Raises:
        ConfigurationError: when a setting is out of its range.
    """

    max_open: int | None = None
    canary: int = 20
    max_failure_rate: float = 0.2
    grace: float = 30.0
    settle_after: float = 60.0
    poll_interval: float = 4.0

    def __post_init__(self) -> None:
        rules = {
            "max_open": (self.max_open is None or self.max_open >= 1, "1 or more, or None"),
            "canary": (self.canary >= 0, "0 (none) or more"),
            "max_failure_rate": (0 <= self.max_failure_rate <= 1, "a share from 0 to 1"),
            "grace": (0 <= self.grace < math.inf, "a number of seconds, 0 or more"),
            "settle_after": (0 <= self.settle_after < math.inf, "a number of seconds, 0 or more"),
            "poll_interval": (0 < self.poll_interval < math.inf, "a positive number of seconds"),
        }
        for name, (is_valid, rule) in rules.items():
            if not is_valid:
                message = f"{name} must be {rule}, not {getattr(self, name)!r}"
                raise ConfigurationError(message)
