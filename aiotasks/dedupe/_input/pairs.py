"""Parse lists of pairs and of clusters: bytes in, rows or problems out."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aiotasks._checks import shorten
from aiotasks.dedupe.models import Row
from aiotasks.models import Kind

from .clusters import FIRST, LOWEST, Edge, Keep, Member, rows_of_clusters, rows_of_edges
from .columns import (
    ROLES,
    Columns,
    InputOptions,
    Layout,
    column_named,
    label_of,
    listed,
    understand,
)
from .ids import id_of
from .places import Problem, Source
from .tables import Table, TableRow, read_table


_LABELS: Mapping[str, str] = {
    "primary": "primary_id",
    "duplicate": "duplicate_id",
    "left": "the left id",
    "right": "the right id",
    "cluster": "cluster_id",
    "record": "record_id",
}
_HOW_TO_KEEP = (
    f"--keep {FIRST}, --keep {LOWEST}, or --keep with the name of a column that ranks them"
)


class ParsedPairs(NamedTuple):
    """The rows of an input that can be read, and the problems with the others.

    ``understood`` says in sentences what neither our names of columns nor options say.
    """

    source: Source
    digest: str
    rows: Sequence[Row]
    columns: tuple[str, ...]
    problems: Sequence[Problem]
    understood: tuple[str, ...] = ()
    separator: str | None = None


def read_pairs(
    content: bytes,
    *,
    kind: Kind,
    source: str,
    options: InputOptions | None = None,
    protect: frozenset[int] = frozenset(),
) -> ParsedPairs:
    """Parse CSV, JSON lines or a workbook."""
    options = options or {}

    def fitness(names: Sequence[str]) -> int:
        return len(understand(names, kind, options).roles)

    table = read_table(content, source, sheet=options.get("sheet"), fitness=fitness)
    parser = _PairParser(table, kind, options)
    parser.read()
    return parser.pairs(protect)


class _PairParser:
    def __init__(self, table: Table, kind: Kind, options: InputOptions) -> None:
        self._table = table
        self._kind = kind
        self._options = options
        self._keep = Keep(options.get("keep") or "", kind)
        self._layout: Layout | None = None
        self._rows: list[Row] = []
        self._clusters: dict[str, list[Member]] = {}
        self._edges: list[Edge] = []
        self._columns: dict[str, None] = {}
        self._understood: dict[str, None] = {}
        self._problems: list[Problem] = []

    def read(self) -> None:
        header = self._table.header
        if header is None:
            return
        columns = self._of_header(header)
        if self._problems:
            return
        names = header.names
        for row in self._table.rows:
            if row.names is not names:
                names = row.names
                columns = understand(names, self._kind, self._options, self._layout)
                self._remember(columns)
            for flaw in columns.flaws:
                self._note(row.line, f": {flaw}")
            if not columns.flaws:
                self._add(row, columns)

    def pairs(self, protect: frozenset[int]) -> ParsedPairs:
        table, rows = self._table, self._rows
        problems = [*table.problems, *self._problems]
        understood = [*filter(None, [table.note]), *self._understood]
        if self._layout in {Layout.EDGES, Layout.CLUSTERS}:
            rows, flaws = self._merged(protect)
            problems += flaws
            understood.append(str(self._keep))
        if not rows and not problems:
            hint = (
                f"{table.source.name}: there is no pair in it: give at least one row with two ids"
            )
            problems.append(Problem(0, hint))
        return ParsedPairs(
            table.source,
            table.digest,
            rows,
            tuple(self._columns),
            problems,
            tuple(understood),
            table.separator,
        )

    def _merged(self, protect: frozenset[int]) -> tuple[list[Row], list[Problem]]:
        if self._layout is Layout.EDGES:
            return rows_of_edges(self._edges, self._keep, self._table.source, protect)
        return rows_of_clusters(self._clusters, self._keep, self._table.source)

    def _note(self, line: int, text: str) -> None:
        self._problems.append(Problem(line, self._table.source.at(line) + text))

    # Columns

    def _of_header(self, header: TableRow) -> Columns:
        columns = understand(header.names, self._kind, self._options)
        self._layout = columns.layout
        flaws = self._flaws_of_keep(columns)
        # Each object of JSON has names of its own, so that its flaws are those of its line.
        if self._table.form != "json":
            flaws = [*columns.flaws, *self._flaws_of_names(columns), *flaws]
        for flaw in flaws:
            self._note(header.line, f": {flaw}")
        # Without the columns of the ids, every row would be a problem.
        if not flaws:
            self._remember(columns)
        return columns

    def _remember(self, columns: Columns) -> None:
        self._columns.update((name, None) for _, name in columns.further)
        if columns.understood:
            self._understood[_sentence(columns)] = None

    def _flaws_of_names(self, columns: Columns) -> list[str]:
        missing = [_LABELS[role] for role in columns.missing if role not in columns.named]
        if not missing:
            return []
        separator = (self._table.separator or ",").replace("\t", "<tab>")
        example = separator.join(_LABELS[role] for role in ROLES[columns.layout])
        hint = f"the first row has to name the columns, as in {example}"
        if not columns.roles and any(name.isdigit() for name in columns.names):
            return [f"there is no header: {hint}"]
        what = f"there is no column {' and no column '.join(missing)} among {listed(columns.names)}"
        options = "--cluster-column and --id-column say"
        if columns.layout is Layout.PAIRS:
            options = (
                "--primary-column and --duplicate-column, or --cluster-column and --id-column, say"
            )
        return [f"{what}: {hint}, or {options} which they are"]

    def _flaws_of_keep(self, columns: Columns) -> list[str]:
        is_decided = columns.layout is Layout.PAIRS
        if columns.missing or columns.flaws:
            return []
        if is_decided:
            what = "the rows say which record is the primary, so that --keep decides nothing"
            return [f"{what}: leave it out"] if self._keep.rule else []
        if not self._keep.rule:
            names = listed(columns.names[index] for index in columns.roles.values())
            what = f"these are {columns.layout} ({names}), which do not say who survives"
            return [f"{what}: give {_HOW_TO_KEEP}"]
        if self._keep.rule in {FIRST, LOWEST} or self._ranks(columns) is not None:
            return []
        what = f"there is no one column {self._keep.rule!r} among {listed(columns.names)}"
        return [f"{what}: give {_HOW_TO_KEEP}"]

    def _ranks(self, columns: Columns) -> int | None:
        found = column_named(columns.names, self._keep.rule)
        return found[0] if len(found) == 1 else None

    # Rows

    def _add(self, row: TableRow, columns: Columns) -> None:
        ids = self._ids_of(row, columns)
        if ids is None:
            return
        cells = row.cells
        count = len(cells)
        extra = {name: cells[index] for index, name in columns.further if index < count}
        if self._layout is Layout.CLUSTERS:
            self._add_member(row, columns, ids[0], extra)
        elif ids[0] == ids[1]:
            self._note(
                row.line, f": {' and '.join(ROLES[columns.layout])} are the same record, {ids[0]}"
            )
        elif self._layout is Layout.EDGES:
            rank = self._cell(row, self._ranks(columns))
            self._edges.append(Edge(row.line, ids[0], ids[1], extra, rank))
        else:
            self._rows.append(
                Row(line=row.line, primary_id=ids[0], duplicate_id=ids[1], extra=extra)
            )

    def _add_member(
        self, row: TableRow, columns: Columns, record_id: int, extra: Mapping[str, str]
    ) -> None:
        index = columns.roles["cluster"]
        name = self._cell(row, index).strip()
        if not name:
            self._note(
                row.line,
                f", {label_of(self._table.form, columns.names, index)}: it is empty: name the cluster",
            )
            return
        rank = self._cell(row, self._ranks(columns))
        self._clusters.setdefault(name, []).append(Member(row.line, record_id, extra, rank))

    def _ids_of(self, row: TableRow, columns: Columns) -> list[int] | None:
        ids: list[int] = []
        id_cell, roles = self._table.id_cell, columns.roles
        is_complete = True
        for role in ROLES[columns.layout]:
            index = roles.get(role)
            if index is None:
                self._note(row.line, f", {_LABELS[role]}: it is missing")
                is_complete = False
                continue
            if role == "cluster":
                continue
            found = id_of(id_cell(row, index), self._kind, self._table.form)
            if isinstance(found, int):
                ids.append(found)
            else:
                self._note(
                    row.line, f", {label_of(self._table.form, columns.names, index)}: {found}"
                )
                is_complete = False
        return ids if is_complete else None

    def _cell(self, row: TableRow, index: int | None) -> str:
        return row.cells[index] if index is not None and index < len(row.cells) else ""


def _sentence(columns: Columns) -> str:
    names = {role: shorten(name) for role, name in columns.understood.items()}
    if columns.layout is Layout.EDGES:
        return f"{names['left']} and {names['right']} are records that are the same"
    survivor = "the primary, which survives" + "," * ("duplicate" in names)
    words = {
        "primary": survivor,
        "duplicate": "the duplicate",
        "cluster": "the cluster",
        "record": "its record" if "cluster" in names else "the record",
    }
    return " and ".join(f"{name} is {words[role]}" for role, name in names.items())
