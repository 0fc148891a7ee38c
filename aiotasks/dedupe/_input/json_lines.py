"""JSON lines as rows of texts."""

import io
import json
from collections.abc import Callable, Iterator
from itertools import chain

from aiotasks._checks import shorten

from .ids import TRIMMED
from .places import Problem, Source


_ADVICE = "give one whole JSON object a line"


def rows_of(
    text: str, source: Source, problems: list[Problem]
) -> Iterator[tuple[int, tuple[str, ...], list[str]]]:
    """Yield line, names and values of each object; what is none becomes a problem."""
    names: tuple[str, ...] = ()
    for line, raw in enumerate(io.StringIO(text, newline=""), 1):
        stripped = raw.strip(TRIMMED)
        if not stripped:
            continue
        cells = _object_of(stripped)
        if isinstance(cells, str):
            problems.append(Problem(line, f"{source.at(line)}: {cells}"))
            # One array of objects would be a problem in each of its lines.
            if stripped.startswith("[") and not names:
                return
            continue
        # Nearly all lines have the same names: those are one tuple, to be compared by identity.
        names = names if tuple(cells) == names else tuple(cells)
        yield line, names, list(cells.values())


def _object_of(text: str) -> dict[str, str] | str:
    """Return the names and values of a JSON object as texts, or what is wrong with it."""
    try:
        value = _decode(text)
        if not isinstance(value, dict):
            return _flaw_of_value(text, value)
        cells = {name: _text_of(each) for name, each in value.items()}
        # JSON can escape a lone surrogate, which cannot be encoded in UTF-8.
        _ = "".join(chain(cells, cells.values())).encode()
    except UnicodeEncodeError:
        return f"this JSON has half a character, a lone surrogate: {_ADVICE}"
    except json.JSONDecodeError as error:
        if text.startswith("["):
            return "this is a JSON array: give one JSON object a line instead"
        return f"this is not JSON ({error.msg}, character {error.pos + 1}): {_ADVICE}"
    except (ValueError, RecursionError) as error:
        return f"this JSON cannot be used ({str(error).partition(';')[0]}): {_ADVICE}"
    return cells


def _flaw_of_value(text: str, value: object) -> str:
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return "this is a JSON array: give one JSON object a line instead"
    return f"{shorten(text)} is not an object: {_ADVICE}"


def _each_once(items: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(items)
    if len(values) < len(items):
        message = "a name comes twice in an object"
        raise ValueError(message)
    return values


_decode: Callable[[str], object] = json.JSONDecoder(object_pairs_hook=_each_once).decode


def _text_of(value: object) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)
