"""Run the benchmarks and write their results: ``python -m benchmarks --help``."""

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path

from benchmarks.figures import RESULTS, save


BENCHMARKS = (
    "bulk",
    "timeline",
    "ablation",
    "cpu",
    "memory",
    "decode",
    "plan",
    "ledger",
    "load",
    "shared_key",
)


def main() -> None:
    """Run the benchmarks that the command line selects."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    _ = parser.add_argument("--only", choices=BENCHMARKS, action="append", help="may be repeated")
    _ = parser.add_argument("--quick", action="store_true", help="small jobs and few rounds")
    _ = parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    chosen = parser.parse_args()
    # One after the other: those that measure CPU time must not share the machine with others.
    for name in chosen.only or BENCHMARKS:
        started = time.monotonic()
        # Imported only when it is run, because benchmarks need different packages.
        save(chosen.out, name, import_module(f"benchmarks.{name}").measure(quick=chosen.quick))
        _ = sys.stdout.write(f"{name}: {time.monotonic() - started:.0f} s\n")
        _ = sys.stdout.flush()


if __name__ == "__main__":
    main()
