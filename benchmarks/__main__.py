"""Run the benchmarks and write what they measured: ``python -m benchmarks --help``."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import bulk, cpu, decode, ledger, load, memory, plan
from benchmarks.figures import RESULTS, save


BENCHMARKS: dict[str, Callable[[bool], Any]] = {
    "bulk": lambda quick: bulk.measure_all(quick=quick),
    "cpu": lambda quick: cpu.measure(quick=quick),
    "memory": lambda quick: memory.measure(quick=quick),
    "decode": lambda quick: decode.measure(quick=quick),
    "plan": lambda quick: plan.measure(quick=quick),
    "ledger": lambda quick: ledger.measure(quick=quick),
    "load": lambda quick: load.measure(quick=quick),
}


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    _ = parser.add_argument("--only", choices=BENCHMARKS, action="append", help="may be repeated")
    _ = parser.add_argument("--quick", action="store_true", help="small jobs and few rounds")
    _ = parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    chosen = parser.parse_args()
    # One after the other: what measures CPU time is not to share the machine with the rest.
    for name in chosen.only or BENCHMARKS:
        started = time.monotonic()
        save(chosen.out, name, BENCHMARKS[name](chosen.quick))
        _ = sys.stdout.write(f"{name}: {time.monotonic() - started:.0f} s\n")
        _ = sys.stdout.flush()


if __name__ == "__main__":
    main()
