"""The queue of requests that wait for the pacer, by lane and in order within a lane."""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping

from aiotasks.errors import AffinityError, ClosedError, MonthlyQuotaError

from .pacer import Lane, Pacer


log = logging.getLogger("aiotasks.http")

# A choice: shorter pauses are part of the pace.
_PAUSE = 1.0


class Slots:
    """Grants slots when the pacer allows, by lane and first come, first served within a lane."""

    def __init__(self, pacer: Pacer) -> None:
        self.pacer = pacer
        self._loop = asyncio.get_running_loop()
        self._queues: Mapping[Lane, deque[asyncio.Future[None]]] = {lane: deque() for lane in Lane}
        self._timer: asyncio.TimerHandle | None = None
        self._latest = 0.0
        self._paused_until = 0.0
        self._is_closed = False

    def __repr__(self) -> str:
        waiting = ", ".join(
            f"{len(queue)} {lane.name.lower()}" for lane, queue in self._queues.items()
        )
        return f"<Slots: {self.pacer.in_flight} in flight; waiting: {waiting}>"

    async def acquire(self, lane: Lane) -> None:
        """Wait for a slot. The caller must send a request in it, or give it back.

        Raises:
            MonthlyQuotaError: when the month is used up.
            ClosedError: when the client is closed.
        """
        if self._is_closed:
            raise ClosedError
        if self.take(lane):
            return
        turn: asyncio.Future[None] = self._loop.create_future()
        queue = self._queues[lane]
        queue.append(turn)
        # Behind others it changes nothing: an answer or the timer grants the first of them its slot.
        if len(queue) == 1:
            self.pump()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give_back()
            raise

    def now(self) -> float:
        """Return the time that the pacer is given; it never goes back.

        Loops fire timers early by up to their clock's resolution; what the timer was set for
        has then come anyway.
        """
        self._latest = max(self._latest, self._loop.time())
        return self._latest

    @property
    def waiting(self) -> int:
        """How many requests wait for a slot."""
        return sum(self._waiting().values())

    def give_back(self) -> None:
        """Return a slot that was not used."""
        self.pacer.unsend()
        self.pump()

    def pump(self) -> None:
        """Grant the slots that are free now, and set the timer for the next one."""
        if not any(self._queues.values()):
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self.now()
        while waiting := self._waiting():
            if self.pacer.is_month_used_up(now):
                self.refuse_all(_month_used_up())
                return
            lane, delay = self.pacer.choose(now, waiting)
            if lane is None:
                # With nothing in flight there is no answer that would call pump: the timer has to.
                if delay < float("inf"):
                    self._note_pause(now, delay)
                    self._timer = self._loop.call_at(now + delay, self._on_timer, now + delay)
                return
            self.pacer.send(now, lane)
            self._queues[lane].popleft().set_result(None)

    def _note_pause(self, now: float, delay: float) -> None:
        # Each request that comes meanwhile meets the same pause.
        if delay < _PAUSE or now < self._paused_until:
            return
        self._paused_until = now + delay
        if log.isEnabledFor(logging.INFO):
            quota = self.pacer.quota(now, waiting=self.waiting)
            fields = {"seconds": delay, "waiting": quota.waiting, "waiting_for": quota.waiting_for}
            words = "%(waiting)d requests wait for %(seconds).1f s, for %(waiting_for)s"
            log.info(words, fields, extra=fields)

    def take(self, lane: Lane) -> bool:
        """Take a slot if one is free now; return whether it was taken."""
        if self._is_closed or (any(self._queues.values()) and self._waiting()):
            return False
        now = self.now()
        if self.pacer.is_month_used_up(now) or self.pacer.delay(now, lane):
            return False
        self.pacer.send(now, lane)
        return True

    def refuse_all(self, error: AffinityError) -> None:
        """Raise an error in everything that waits for a slot."""
        for queue in self._queues.values():
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_exception(error)

    def close(self) -> None:
        """Refuse all that waits, and stop the timer."""
        self._is_closed = True
        self.refuse_all(ClosedError())
        if self._timer is not None:
            self._timer.cancel()

    def _on_timer(self, when: float) -> None:
        self._latest = max(self._latest, when)
        self.pump()

    def _waiting(self) -> dict[Lane, int]:
        for queue in self._queues.values():
            while queue and queue[0].done():
                _ = queue.popleft()
        waiting = {lane: len(queue) for lane, queue in self._queues.items()}
        return waiting if any(waiting.values()) else {}


def _month_used_up() -> MonthlyQuotaError:
    message = "The organization's calls of this month are used up, or down to the reserve"
    return MonthlyQuotaError(429, "rate-limit", message)
