"""How long merges take: a lognormal distribution, fitted to merges of which some are still open."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Final, NamedTuple, Self


# With fewer ends a fit says more about chance than about the server. A choice.
_FEW: Final = 5
# The quantiles that are fitted. The outer ones depend on a few merges.
_SHARES: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
# Choices: merges that all take the same time, or anything from seconds to hours, are not believed.
_SIGMAS: Final = (0.1, 1.5)
# The latest merges of a job that are fitted: enough for the quantiles, and cheap.
_KEPT: Final = 1000
_NORMAL: Final = NormalDist()


class Lognormal(NamedTuple):
    """A lognormal distribution of seconds, by its median and the deviation of the logarithm."""

    median: float
    sigma: float

    def share_within(self, seconds: float) -> float:
        """Return the share of merges that take at most so many seconds."""
        if seconds <= 0.0:
            return 0.0
        return _NORMAL.cdf(math.log(seconds / self.median) / self.sigma)

    def in_a_row(self, count: int, *, pause: float) -> Self:
        """Return about how long merges take one after the other, with a pause after each.

        The sum of lognormal durations has no closed form; this one has its mean and variance
        (the Fenton-Wilkinson approximation).
        """
        mean = self.median * math.exp(self.sigma**2 / 2)
        variance = mean**2 * math.expm1(self.sigma**2) * count
        total = count * (mean + pause)
        sigma = math.sqrt(math.log1p(variance / total**2))
        return self._replace(median=total / math.exp(sigma**2 / 2), sigma=sigma)


TYPICAL: Final = Lognormal(median=20.0, sigma=0.75)
"""What is assumed of a server of which nothing is known yet: the benchmarks' merges."""


def fit(ended: Sequence[float], running: Iterable[float] = ()) -> Lognormal | None:
    """Fit durations in seconds; ``running`` is for how long merges have run that have not ended.

    Returns ``None`` if too few have ended.
    """
    if len(ended) < _FEW:
        return None
    known = [(_NORMAL.inv_cdf(share), math.log(at)) for share, at in _quantiles(ended, running)]
    if not known:
        # Fewer than a tenth have ended: the others take longer than most of those have.
        return TYPICAL._replace(median=max(ended) / math.exp(TYPICAL.sigma * _z(_SHARES[0])))
    (low, first), (high, last) = known[0], known[-1]
    sigma = (last - first) / (high - low) if high > low else TYPICAL.sigma
    sigma = min(max(sigma, _SIGMAS[0]), _SIGMAS[1])
    centre = sum(log - sigma * z for z, log in known) / len(known)
    return Lognormal(math.exp(centre), sigma)


def _z(share: float) -> float:
    return _NORMAL.inv_cdf(share)


def _quantiles(ended: Sequence[float], running: Iterable[float]) -> Iterator[tuple[float, float]]:
    # The Kaplan-Meier estimate: merges that still run count until the time for which they have.
    times = sorted(
        [(seconds, False) for seconds in ended] + [(seconds, True) for seconds in running]
    )
    at_risk, surviving = len(times), 1.0
    shares = iter(_SHARES)
    share = next(shares)
    for seconds, is_running in times:
        surviving *= 1.0 if is_running else 1.0 - 1.0 / at_risk
        at_risk -= 1
        while 1.0 - surviving >= share - 1e-9:
            yield share, max(seconds, 1e-3)
            share = next(shares, math.inf)


def durations_note(durations: Iterable[float]) -> str:
    """Return durations as the text of a note in a ledger."""
    return " ".join(f"{seconds:.1f}" for seconds in durations)


def noted_durations(notes: Mapping[str, str]) -> list[float]:
    """Return the durations that a ledger has noted; none if that is an older one."""
    return [float(each) for each in notes.get("durations", "").split()]


class Durations:
    """How long the latest merges of a job take, as it learns of their ends.

    Args:
        known: What the server's history showed before the job.
    """

    def __init__(self, known: Sequence[float] = ()) -> None:
        self._known = fit(known)
        # By the number of the pair: when it was started, and how long it took, if it has ended.
        self._merges: dict[int, tuple[float, float | None]] = {}
        self._latest = -math.inf

    def start(self, number: int, now: float) -> None:
        """Note that a merge was started."""
        self._merges[number] = (now, None)
        if len(self._merges) > _KEPT:
            del self._merges[next(iter(self._merges))]

    def end(self, number: int, now: float) -> None:
        """Note that a merge has ended."""
        if number in self._merges:
            started, _ = self._merges[number]
            self._merges[number] = (started, now - started)
            self._latest = now

    def running(self, now: float) -> Iterator[float]:
        """Yield for how long each open merge has run."""
        return (now - started for started, seconds in self._merges.values() if seconds is None)

    def started_since(self, when: float) -> int:
        """Return how many merges were started since a time, if fewer than a thousand."""
        return sum(started >= when for started, _ in self._merges.values())

    def fit(self) -> Lognormal | None:
        """Fit what is known; ``None`` while that is too little."""
        merges = self._merges.values()
        ended = [seconds for _, seconds in merges if seconds is not None]
        # Others may have ended since the latest end that was learned.
        running = [seconds for seconds in self.running(self._latest) if seconds > 0.0]
        return fit(ended, running) or self._known
