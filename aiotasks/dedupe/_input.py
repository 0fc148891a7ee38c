"""Parse lists of pairs and of ids: bytes in, rows or problems out."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import chain
from typing import Final, NamedTuple

from aiotasks._checks import shorten
from aiotasks.errors import PlanError
from aiotasks.models import Kind

from .models import REPORT_COLUMNS, Row


# The largest integer that every JSON parser keeps exact, and so the largest id that can be right.
MAX_ID: Final = 2**53 - 1
_ROLES = ("primary", "duplicate")
_ID_NAMES = {
    f"{role}{kind}id": (role, kind) for role in _ROLES for kind in ("", "company", "person")
}
_PLURALS = {"company": "companies", "person": "persons"}
# A choice: how much of a header is parsed for the separator. A csv cell has at most 131,072.
_LONGEST = 100_000
_DELIMITERS = ",;\t"
# An input may have a column of its own called "state"; only a report has all three of these.
_REPORT_MARKS = frozenset({"state", "line", "planned_at"})
# How spreadsheets format numbers: 12.0, 1,234, 1 234, 1.2E+06.
_FORMATTED = re.compile(r"\d[\d.,' \u00a0\u202f]*(?:[eE]\+?\d+)?", re.ASCII)
_NEGATIVE = re.compile(r"-\d+", re.ASCII)
_OTHER_FORMATS: Sequence[tuple[bytes, str]] = (
    (b"\xff\xfe", "it is UTF-16 text"),
    (b"\xfe\xff", "it is UTF-16 text"),
    (b"PK\x03\x04", "it is a workbook"),
    (b"\xd0\xcf\x11\xe0", "it is a workbook"),
)


class Source(NamedTuple):
    """The name of an input, and the unit that counts its rows."""

    name: str
    unit: str = "line"

    def at(self, line: int) -> str:
        return f"{self.name}:{line}" if self.unit == "line" else f"{self.unit} {line}"


class Problem(NamedTuple):
    """A sentence that begins with its place, and the line by which it is sorted."""

    line: int
    text: str


class ParsedPairs(NamedTuple):
    """The rows of an input that can be read, and the problems with the others."""

    source: Source
    digest: str
    rows: Sequence[Row]
    columns: tuple[str, ...]
    problems: Sequence[Problem]


def read_pairs(chunks: Iterable[bytes], *, kind: Kind, source: str) -> ParsedPairs:
    """Parse CSV or JSON lines; a binary file yields such chunks."""
    lines = InputLines(chunks, Source(source))
    reader = PairParser(lines, kind)
    reader.read()
    return reader.pairs()


def read_ids(chunks: Iterable[bytes], *, source: str) -> frozenset[int]:
    """Parse a file of ids, one a line; ``#`` starts a comment, and blank lines are ignored.

    Raises:
        PlanError: with all problems, when a line is none of these.
    """
    lines = InputLines(chunks, Source(source))
    ids, problems = set[int](), list[Problem]()
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        found = _id_of(text) if text else None
        if isinstance(found, str):
            problems.append(Problem(number, f"{lines.source.at(number)}: {found}"))
        elif found is not None:
            ids.add(found)
    if problems := [*lines.problems, *problems]:
        raise PlanError(source, sentences(problems))
    return frozenset(ids)


def sentences(problems: Iterable[Problem]) -> tuple[str, ...]:
    """Return the texts of problems, in the order of their lines."""
    return tuple(problem.text for problem in sorted(problems, key=lambda problem: problem.line))


def flaw_of_size(number: int) -> str | None:
    if number < 1:
        return "is not positive"
    return f"is larger than any id ({MAX_ID})" if number > MAX_ID else None


class InputLines:
    """The lines of an input as text, hashed while they are read.

    Invalid UTF-8 in many lines has one remedy, so it is one problem, and parsing continues.
    """

    def __init__(self, chunks: Iterable[bytes], source: Source) -> None:
        self.source = source
        self.digest = sha256()
        self._chunks = chunks
        self._format: str | None = None
        self._flaw: Problem | None = None
        self._flawed = 0

    def __iter__(self) -> Iterator[str]:
        number = 0
        for chunk in self._chunks:
            self.digest.update(chunk)
            # A file with lines that end in a lone \r is a single line for Python's files.
            for raw in chunk.splitlines(keepends=True):
                number += 1
                if number == 1 and self._is_of_another_format(raw):
                    return
                yield self._text(number, raw)

    def _is_of_another_format(self, raw: bytes) -> bool:
        self._format = next((text for mark, text in _OTHER_FORMATS if raw.startswith(mark)), None)
        return self._format is not None

    def _text(self, number: int, raw: bytes) -> str:
        try:
            return raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            self._flawed += 1
            if self._flaw is None:
                character = len(error.object[: error.start].decode()) + 1
                byte = f"the byte 0x{error.object[error.start]:02x} is not valid UTF-8"
                place = f"{self.source.at(number)}, character {character}"
                self._flaw = Problem(number, f"{place}: {byte}")
            return raw.decode(errors="replace")

    @property
    def problems(self) -> list[Problem]:
        """The problems with the bytes, once they are read."""
        advice = 'save the file as "CSV UTF-8"'
        if self._format is not None:
            return [Problem(0, f"{self.source.name}: {self._format}: {advice}")]
        if self._flaw is None:
            return []
        others = f" (nor are {self._flawed - 1} more lines)" if self._flawed > 1 else ""
        return [Problem(self._flaw.line, f"{self._flaw.text}{others}: {advice}")]


class InputColumns:
    """The columns of the ids and of other data, by the names in a header."""

    def __init__(self, names: Sequence[str], kind: Kind) -> None:
        self.names = names
        self.ids: dict[str, int] = {}
        self.flaws: list[str] = []
        further = [index for index, name in enumerate(names) if not self._take(index, name, kind)]
        self.further = list(_unique_names(names, further))

    def _take(self, index: int, name: str, kind: Kind) -> bool:
        role, of = _ID_NAMES.get("".join(filter(str.isalpha, name.lower())), ("", ""))
        if role in self.ids:
            both = f"{shorten(self.names[self.ids[role]])} and {shorten(name)}"
            self.flaws.append(f"{both} both name the {role}: keep one of them")
        elif role:
            self.ids[role] = index
        if of not in {"", kind}:
            self.flaws.append(f"{shorten(name)} names {_PLURALS[of]}, but the kind is {kind}")
        return bool(role)

    @property
    def missing(self) -> list[str]:
        return [f"{role}_id" for role in _ROLES if role not in self.ids]


def _unique_names(names: Sequence[str], further: Iterable[int]) -> Iterator[tuple[int, str]]:
    # A report adds its own columns to these, so their names are taken.
    taken = set(REPORT_COLUMNS)
    is_report = _REPORT_MARKS.issubset(names)
    for index in further:
        if is_report and names[index] in REPORT_COLUMNS:
            continue
        base = name = names[index] or f"column {index + 1}"
        count = 1
        while name in taken:
            count += 1
            name = f"{base} ({count})"
        taken.add(name)
        yield index, name


class PairParser:
    def __init__(self, lines: InputLines, kind: Kind) -> None:
        self._lines = lines
        self._kind = kind
        self._is_json = False
        self._rows: list[Row] = []
        self._columns: dict[str, None] = {}
        self._problems: list[Problem] = []

    def read(self) -> None:
        texts = iter(self._lines)
        leading: list[str] = []
        for text in texts:
            leading.append(text)
            if text.strip():
                break
        else:
            return
        first = leading[-1].lstrip()
        lines = chain(leading, texts)
        if first.startswith("["):
            self._note(len(leading), ": this is a JSON array: give one JSON object a line instead")
        elif first.startswith("{"):
            self._is_json = True
            self._read_json(lines)
        else:
            self._read_csv(lines, self._delimiter(first))

    def pairs(self) -> ParsedPairs:
        source, digest = self._lines.source, self._lines.digest.hexdigest()
        problems = [*self._lines.problems, *self._problems]
        if not self._rows and not problems:
            hint = f"{source.name}: there is no pair in it: give at least one row with two ids"
            problems.append(Problem(0, hint))
        return ParsedPairs(source, digest, self._rows, tuple(self._columns), problems)

    def _note(self, line: int, text: str) -> None:
        self._problems.append(Problem(line, self._lines.source.at(line) + text))

    def _label(self, columns: InputColumns, index: int) -> str:
        name = shorten(columns.names[index])[1:-1]
        return name if self._is_json else f"column {index + 1} ({name})"

    def _delimiter(self, header: str) -> str:
        # Names may contain other separators: the right one is that which finds the most id columns.
        def fitness(delimiter: str) -> tuple[int, int]:
            names = next(csv.reader([header[:_LONGEST]], delimiter=delimiter))
            return len(InputColumns(names, self._kind).ids), len(names)

        return max(_DELIMITERS, key=fitness)

    def _read_csv(self, lines: Iterable[str], delimiter: str) -> None:
        rows = self._csv_rows(lines, delimiter)
        line, header = next(rows, (0, list[str]()))
        if not header or self._problems:
            return
        columns = InputColumns([name.strip() for name in header], self._kind)
        flaws = [*columns.flaws, *_flaws_of_header(columns, delimiter)]
        for flaw in flaws:
            self._note(line, f": {flaw}")
        # Without the id columns, every row would be a problem.
        if flaws:
            return
        self._columns.update((name, None) for _, name in columns.further)
        for line, cells in rows:
            if len(cells) > len(header):
                self._note(
                    line,
                    f": the row has {len(cells)} cells, but the header only {len(header)}, so its "
                    "ids may be in other columns: quote cells that contain the separator",
                )
            else:
                self._add(line, columns, cells)

    def _csv_rows(self, lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                self._note(line, _flaw_of_csv(error, line, reader.line_num))
                continue
            if any(map(str.strip, cells)):
                yield line, cells

    def _read_json(self, lines: Iterable[str]) -> None:
        columns = InputColumns((), self._kind)
        for line, text in enumerate(lines, 1):
            if not text.strip():
                continue
            cells = _object_of(text)
            if isinstance(cells, str):
                self._note(line, f": {cells}")
                continue
            # Parsed again only when the names change: nearly all lines have the same.
            if tuple(cells) != columns.names:
                columns = InputColumns(tuple(cells), self._kind)
            for flaw in columns.flaws:
                self._note(line, f": {flaw}")
            if not columns.flaws:
                self._columns.update((name, None) for _, name in columns.further)
                self._add(line, columns, list(cells.values()))

    def _add(self, line: int, columns: InputColumns, cells: Sequence[str]) -> None:
        ids: list[int] = []
        for role in _ROLES:
            index = columns.ids.get(role)
            if index is None:
                self._note(line, f", {role}_id: it is missing")
                continue
            found = _id_of(cells[index] if index < len(cells) else "")
            if isinstance(found, str):
                self._note(line, f", {self._label(columns, index)}: {found}")
            else:
                ids.append(found)
        if len(ids) < len(_ROLES):
            return
        if ids[0] == ids[1]:
            self._note(line, f": primary and duplicate are the same record, {ids[0]}")
            return
        extra = {name: cells[index] for index, name in columns.further if index < len(cells)}
        self._rows.append(Row(line=line, primary_id=ids[0], duplicate_id=ids[1], extra=extra))


def _id_of(text: str) -> int | str:
    """Return the id in a text, or what is wrong with it."""
    digits = text.strip()
    if not digits:
        return "it is empty"
    if _NEGATIVE.fullmatch(digits):
        return f"{shorten(digits)} is not positive"
    if not (digits.isascii() and digits.isdigit()):
        is_formatted = _FORMATTED.fullmatch(digits)
        hint = ": format the column as a number without decimals and separators"
        return f"{shorten(digits)} is not a whole number" + (hint if is_formatted else "")
    # Cut, since int() refuses texts of more than 4,300 digits.
    short = digits.lstrip("0")[:20] or "0"
    flaw = flaw_of_size(int(short))
    return int(short) if flaw is None else f"{shorten(digits)} {flaw}"


def _flaws_of_header(columns: InputColumns, delimiter: str) -> list[str]:
    missing = columns.missing
    if not missing:
        return []
    example = f"primary_id{delimiter}duplicate_id".replace("\t", "<tab>")
    hint = f"the first row has to name the columns, as in {example}"
    if len(missing) == len(_ROLES) and any(name.isdigit() for name in columns.names):
        return [f"there is no header: {hint}"]
    found = shorten(", ".join(filter(None, columns.names)))[1:-1]
    return [f"there is no column {' and no column '.join(missing)} among {found}: {hint}"]


def _flaw_of_csv(error: csv.Error, begin: int, end: int) -> str:
    where = "the row" if begin == end else f"lines {begin} to {end}"
    reason = str(error).replace("unexpected end of data", "a quote is not closed")
    return (
        f": {where} cannot be read ({reason}): "
        'close every quote, and write "" for a quote within quoted text'
    )


def _object_of(text: str) -> dict[str, str] | str:
    """Return the names and values of a JSON object as texts, or what is wrong with it."""
    advice = "give one whole JSON object a line"
    try:
        value = _decode(text.rstrip())
        if not isinstance(value, dict):
            return f"{shorten(text.strip())} is not an object: {advice}"
        cells = {name: _text_of(each) for name, each in value.items()}
        # JSON can escape a lone surrogate, which cannot be encoded in UTF-8.
        _ = "".join(chain(cells, cells.values())).encode()
    except UnicodeEncodeError:
        return f"this JSON has half a character, a lone surrogate: {advice}"
    except json.JSONDecodeError as error:
        return f"this is not JSON ({error.msg}, character {error.pos + 1}): {advice}"
    except (ValueError, RecursionError) as error:
        return f"this JSON cannot be used ({str(error).partition(';')[0]}): {advice}"
    return cells


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
