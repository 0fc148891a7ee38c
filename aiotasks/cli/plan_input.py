"""What a plan is made of: the files and rules that the options of a command name."""

import shlex
import sys
from pathlib import Path
from typing import NamedTuple

from aiotasks.dedupe import InputOptions, Plan
from aiotasks.dedupe._input.lists import read_ids
from aiotasks.dedupe.models import OnConflict
from aiotasks.errors import AffinityError
from aiotasks.models import Kind

from .command import fail


class ProtectedIds(NamedTuple):
    """The file of protected ids, and the column that has them."""

    path: Path | None
    column: str | None

    def read(self, kind: Kind) -> frozenset[int]:
        """Return the ids of the file; none if there is no file."""
        if self.path is None:
            return frozenset()
        content = self.path.read_bytes()
        return read_ids(content, source=str(self.path), kind=kind, column=self.column)

    def words(self) -> list[str]:
        """Return the options that name this again."""
        words = ["--protect", str(self.path)] if self.path is not None else []
        return [*words, *(["--protect-column", self.column] if self.column is not None else [])]


class PlanInput(NamedTuple):
    """What a plan is made of, as the options of a command say."""

    pairs: Path
    kind: Kind
    columns: InputOptions
    on_conflict: OnConflict
    protect: ProtectedIds
    max_cluster: int | None
    no_new_company: bool

    def read(self) -> Plan:
        """Return the plan; end the command if it cannot be made."""
        is_piped = str(self.pairs) == "-"
        try:
            return Plan.read(
                sys.stdin.buffer if is_piped else self.pairs,
                kind=self.kind,
                source="standard input" if is_piped else str(self.pairs),
                on_conflict=self.on_conflict,
                protect=self.protect.read(self.kind),
                max_cluster=self.max_cluster,
                no_new_company=self.no_new_company,
                **self.columns,
            )
        except OSError as error:
            path = error.filename or self.pairs
            fail(f"Cannot read {path}: {error.strerror}. Nothing was merged.")
        except AffinityError as error:
            fail(str(error))

    def command(self, verb: str) -> str | None:
        """Return the command that does something else with the same plan, if it can be repeated."""
        if str(self.pairs) == "-":
            return None
        words = ["aiotasks", verb, str(self.pairs), "--kind", self.kind]
        for option, value in self.columns.items():
            words += [f"--{option.replace('_', '-')}", str(value)]
        words += ["--on-conflict", self.on_conflict] if self.on_conflict != "refuse" else []
        words += self.protect.words()
        words += ["--max-cluster", str(self.max_cluster)] if self.max_cluster is not None else []
        words += ["--no-new-company"] * self.no_new_company
        return shlex.join(words)
