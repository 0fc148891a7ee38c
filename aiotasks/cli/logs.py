"""Logs for people on standard error, and for programs in a file, as the options of a command say."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import typer

from aiotasks._text import iso_time, json_text, printable

from .command import fail
from .output import be_quiet, say


LogFormat = Literal["text", "json"]

LOG_OPTIONS: Final = {
    "verbose": Annotated[
        int,
        typer.Option(
            "-v",
            "--verbose",
            count=True,
            show_default=False,
            help="Log retries and pauses; -vv also requests, and what becomes of each pair.",
        ),
    ],
    "quiet": Annotated[
        bool, typer.Option("-q", "--quiet", help="Show results and errors, and no progress.")
    ],
    "log_file": Annotated[
        Path | None, typer.Option(help="Log everything to the end of a file, whatever is shown.")
    ],
    "log_format": Annotated[LogFormat, typer.Option(help="How logs are written.")],
}

_ROOT: Final = logging.getLogger("aiotasks")
_LEVELS: Final = (logging.WARNING, logging.INFO, logging.DEBUG)
_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LogOptions(NamedTuple):
    """What is logged, and where to."""

    verbose: int = 0
    quiet: bool = False
    log_file: Path | None = None
    log_format: LogFormat = "text"


_DEFAULTS: Final = LogOptions()
_begun: Final[list[LogOptions]] = []


def begin_logs(options: LogOptions) -> None:
    """Log as options say from now on, instead of as before; end the command if that is impossible."""
    end_logs()
    _begun.append(options)
    be_quiet(options.quiet)
    formatter = _JsonFormatter() if options.log_format == "json" else _TextFormatter()
    shown: logging.Handler = _Shown()
    shown.setLevel(logging.ERROR if options.quiet else _LEVELS[min(options.verbose, 2)])
    handlers = [shown]
    if options.log_file is not None:
        handlers.append(_file(options.log_file))
    for handler in handlers:
        handler.setFormatter(formatter)
        _ROOT.addHandler(handler)
    _ROOT.setLevel(min(handler.level or logging.DEBUG for handler in handlers))


def begin_more_logs(options: LogOptions) -> None:
    """Log as further options say, besides what earlier ones said."""
    if options == _DEFAULTS:
        return
    earlier = _begun[-1] if _begun else _DEFAULTS
    given = {
        name: value
        for name, value in options._asdict().items()
        if value != getattr(_DEFAULTS, name)
    }
    begin_logs(earlier._replace(**given))


def end_logs() -> None:
    """Close what was logged to."""
    _begun.clear()
    be_quiet(False)
    _ROOT.setLevel(logging.NOTSET)
    for handler in [*_ROOT.handlers]:
        if isinstance(handler, _Shown | logging.FileHandler):
            _ROOT.removeHandler(handler)
            handler.close()


@contextmanager
def shown_too(name: str) -> Iterator[None]:
    """Show what a logger says at INFO, also without ``--verbose``, but not with ``--quiet``."""
    log, level = logging.getLogger(name), logging.getLogger(name).level
    only_warnings = [
        each
        for each in _ROOT.handlers
        if isinstance(each, _Shown) and each.level == logging.WARNING
    ]
    for shown in only_warnings:
        more = _Shown()
        more.setFormatter(shown.formatter)
        more.addFilter(lambda record: logging.INFO <= record.levelno < logging.WARNING)
        log.addHandler(more)
        log.setLevel(min(log.getEffectiveLevel(), logging.INFO))
    try:
        yield
    finally:
        log.handlers[:] = [each for each in log.handlers if not isinstance(each, _Shown)]
        log.setLevel(level)


def _file(path: Path) -> logging.Handler:
    try:
        return logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        fail(f"Cannot write {path}: {error.strerror}. Check --log-file.")


class _Shown(logging.Handler):
    """Prints records beside all other messages of a command."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in vars(record).items() if name not in _OWN)


class _TextFormatter(logging.Formatter):
    """A line with the time, the message, and the fields that are not part of it."""

    def format(self, record: logging.LogRecord) -> str:
        fields = [
            f"{name}={value}" for name, value in _fields(record) if f"%({name})" not in record.msg
        ]
        more = f" [{' '.join(fields)}]" if fields else ""
        line = f"{iso_time(record.created)} {record.name}: {record.getMessage()}{more}"
        return f"{printable(line)}{_traceback(self, record)}"


class _JsonFormatter(logging.Formatter):
    """A line of JSON with all fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": iso_time(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": f"{record.getMessage()}{_traceback(self, record)}",
            **dict(_fields(record)),
        }
        return json_text(msgspec.json.encode(line, enc_hook=str))


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return f"\n{formatter.formatException(record.exc_info)}" if record.exc_info else ""
