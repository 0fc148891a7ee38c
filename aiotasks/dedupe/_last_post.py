"""A note of when this machine last sent a merge, for jobs that begin with another ledger.

The server's lists show a merge late, and a new ledger knows nothing of it: only this note tells a job
that it has to wait for them first.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

import platformdirs


# A choice: a note costs about 0.1 ms, and its next reader waits this much longer at most.
_COVERED: Final = 5.0
_OPEN: Final = "open"


class Noted(NamedTuple):
    """What another ledger has noted: for at least how many seconds it has sent no merge.

    The age is 0 while one may be sent just now. ``is_open`` is whether merges of it may still run.
    """

    age: float
    is_open: bool


class LastPost:
    """When a merge of a user was last sent to an origin from this machine, by another ledger.

    A note covers the seconds that follow, so that it is written before what it is about, and only
    now and then. It is one of the wall clock: where that is set forward between two jobs, the note
    seems older than it is.

    Args:
        origin: The server.
        user_id: The user whose key it is.
        ledger: What tells the ledger of this job from all others, and from its copies.
        folder: Where the notes are; by default, the folder of the platform for the state of
            programs.
        clock: The time in seconds since the epoch.
    """

    def __init__(
        self,
        origin: str,
        user_id: int,
        *,
        ledger: str,
        folder: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        folder = folder or platformdirs.user_state_path("aiotasks", appauthor=False)
        name = sha256(f"{origin} {user_id}".encode()).hexdigest()[:32]
        self._path = folder / f"last-post-{name}"
        self._ledger = ledger
        self._clock = clock
        self._covered_until = 0.0
        self._has_told = False

    def read(self) -> "Noted | None":
        """Return what is known of the last merge of another ledger, if anything is.

        A note that is in the future or unreadable counts as one of just now.
        """
        try:
            noted, ledger, state = self._path.read_text("ascii").rsplit("|", 2)
            age = max(0.0, self._clock() - float(noted))
        except OSError:
            return None
        except ValueError:
            return Noted(0.0, is_open=True)
        return None if ledger == self._ledger else Noted(age, is_open=state == _OPEN)

    def note(self) -> str | None:
        """Note that a merge is sent now.

        Return a sentence for the user if that cannot be noted, the first time.
        """
        now = self._clock()
        # After the clock was set back the note is in the future, which counts as just now.
        if now <= self._covered_until:
            return None
        self._covered_until = now + _COVERED
        try:
            self._write(_OPEN)
        except OSError as error:
            has_told, self._has_told = self._has_told, True
            return None if has_told else self._sentence(error)
        return None

    def end(self) -> None:
        """Note that all merges of this ledger have ended, if it has sent any."""
        if self._covered_until:
            with suppress(OSError):
                self._write("ended")

    def _write(self, state: str) -> None:
        if not self._path.is_absolute():
            message = "this user has no home folder"
            raise FileNotFoundError(message)
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            text = f"{self._covered_until:.3f}|{self._ledger}|{state}"
            _ = draft.write_text(text, "ascii")
            _ = draft.replace(self._path)
        finally:
            with suppress(OSError):
                draft.unlink()

    def _sentence(self, error: OSError) -> str:
        return (
            f"The time of the last merge cannot be noted in {self._path.parent} ({error}): begin no "
            "job of the same pairs with another ledger until this one has ended for some minutes."
        )
