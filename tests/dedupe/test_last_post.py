"""The note of the last merge that was sent: ahead of what it covers, and never in the way."""

import errno
import os
from pathlib import Path

import platformdirs
import pytest

from aiotasks.dedupe._last_post import LastPost, Noted


ORIGIN = "https://api.affinity.co"


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def last_post(
    folder: Path, clock: Clock, *, origin: str = ORIGIN, user_id: int = 7, ledger: str = "other"
) -> LastPost:
    """Return the note as a new process would open it."""
    return LastPost(origin, user_id, ledger=ledger, folder=folder, clock=clock)


def test_without_a_note_nothing_is_known(tmp_path: Path, clock: Clock) -> None:
    """Where no merge was ever sent, there is no age, and no file is created."""
    assert last_post(tmp_path / "state", clock).read() is None
    assert not (tmp_path / "state").exists()


def test_the_age_is_never_too_high(tmp_path: Path, clock: Clock) -> None:
    """A note counts from the last second that it covers."""
    posts = last_post(tmp_path / "state", clock, ledger="mine")
    assert posts.note() is None
    assert last_post(tmp_path / "state", clock).read() == Noted(0.0, is_open=True)
    clock.now += 4.0
    assert posts.note() is None
    clock.now += 61.0
    assert last_post(tmp_path / "state", clock).read() == Noted(60.0, is_open=True)


def test_notes_are_rare(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many merges are sent, a note is written every five seconds."""
    written: list[str] = []
    monkeypatch.setattr(LastPost, "_write", lambda _, text: written.append(text))
    posts = last_post(tmp_path, clock, ledger="mine")
    for _ in range(200):
        _ = posts.note()
        clock.now += 0.1
    assert len(written) == 4


def test_each_origin_and_user_has_its_own(tmp_path: Path, clock: Clock) -> None:
    """A merge of another user, or at another server, is not the last one of this."""
    _ = last_post(tmp_path, clock, ledger="mine").note()
    assert last_post(tmp_path, clock, user_id=8).read() is None
    assert last_post(tmp_path, clock, origin="http://127.0.0.1:8080").read() is None
    assert last_post(tmp_path, clock).read() == Noted(0.0, is_open=True)
    assert len([*tmp_path.iterdir()]) == 1


@pytest.mark.parametrize("text", ["later", "", "1800003600.000"])
def test_a_note_that_cannot_be_true(tmp_path: Path, clock: Clock, text: str) -> None:
    """A note in the future, or one that nobody can read, counts as one of just now."""
    _ = last_post(tmp_path, clock, ledger="mine").note()
    (file,) = tmp_path.iterdir()
    _ = file.write_text(text)
    assert last_post(tmp_path, clock).read() == Noted(0.0, is_open=True)


def test_a_clock_that_is_set_back(tmp_path: Path, clock: Clock) -> None:
    """After the clock was set back, the note is still later than what it covers."""
    posts = last_post(tmp_path, clock, ledger="mine")
    _ = posts.note()
    clock.now -= 3600.0
    assert posts.note() is None
    assert last_post(tmp_path, clock).read() == Noted(0.0, is_open=True)


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be noted is said once, and stops nothing; later it is tried again."""

    def fail(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    posts = last_post(tmp_path, clock, ledger="mine")
    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", fail)
        sentence = posts.note() or ""
        assert sentence.startswith(f"The time of the last merge cannot be noted in {tmp_path} (")
        clock.now += 10.0
        assert posts.note() is None
    assert [*tmp_path.iterdir()] == []
    clock.now += 10.0
    assert posts.note() is None
    assert last_post(tmp_path, clock).read() == Noted(0.0, is_open=True)


def test_a_user_without_a_home(clock: Clock) -> None:
    """Without a home folder nothing is written beside the program's own files."""
    sentence = last_post(Path("~/state"), clock).note() or ""
    assert "this user has no home folder" in sentence
    assert not Path("~").exists()


def test_the_folder_of_the_platform(clock: Clock) -> None:
    """By default a note is in the platform's folder for state, which a test has for itself."""
    _ = LastPost(ORIGIN, 7, ledger="mine", clock=clock).note()
    folder = platformdirs.user_state_path("aiotasks", appauthor=False)
    assert len([*folder.iterdir()]) == 1
    assert folder.is_relative_to(os.environ["XDG_STATE_HOME"])


def test_what_has_ended_keeps_nobody_waiting(tmp_path: Path, clock: Clock) -> None:
    """A ledger notes that its merges have ended, and that only if it has sent any."""
    posts = last_post(tmp_path, clock, ledger="mine")
    posts.end()
    assert [*tmp_path.iterdir()] == []
    _ = posts.note()
    posts.end()
    clock.now += 6.0
    assert last_post(tmp_path, clock).read() == Noted(1.0, is_open=False)
    assert last_post(tmp_path, clock, ledger="mine").read() is None
