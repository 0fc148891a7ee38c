"""The results as Markdown tables."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import load
from benchmarks.workload import MEDIAN_DURATION


BULK_SIGMA = 0.75

CONTENDERS = """

Rows of aiotasks are medians of five seeds, with the lowest and the highest in brackets; the others
were measured with one, as some take minutes of CPU. The earliest end is the one that anybody could
reach: 900 merges at the start of each minute, no polls, and each end known immediately.

* **aiotasks, dedupe job by default**: `aiotasks.dedupe` with nothing configured, and a ledger on
  disk. Its calls include the preview (a call for 100 records) and the ids of the merges (a call for
  100 of them); its time begins when the preview has been read. It begins with twenty merges until
  half as many have succeeded.
* **aiotasks, dedupe job without a first batch**: the same with `canary=0`.
* **aiotasks**: workers that merge and put each task into one watch.
* **hand-written**: aiohttp and tenacity, an asyncio task for each merge, 16 requests at once; a
  refused request waits until the reset that the answer names.
* **hand-written, shared pause**: the same, and one refusal holds back all requests. Merges, queued
  first, are all sent before the first poll, so few polls are needed and the news is late.
* **affinity-sdk**: `asyncio.gather` of `merge` and `tasks.wait` for each pair. It is not run with
  5,000 merges: that takes minutes of CPU.
* **affinity-sdk, helped**: the caller repeats each refused merge after the reset, 16 at once.
* **Retry-After**: not the real API. Refusals carry this header here, which the vendor's own client
  says that the API does not send. The SDK heeds no other.
* **with the habits of the real server**: tasks that are found late, global companies, records that
  are gone; the sandbox's default. All other rows are without them.

Not learned are merges whose end the contender did not come to know, because it gave up.
"""

SHARED_KEY = """
* **waits**: each program waits for tasks that are a block of the list, at 180 requests in 12 s.
* **mixed waits**: the same, where each page of the list has tasks of all programs, so that each has
  to read all pages.
* **merges**: each program merges and waits, at 900 requests a minute, and looks at a task each 3 s.
* **job**: a dedupe job by default, beside a program that takes a third of each minute and heeds
  nothing; the earliest end is that of 600 requests a minute.
"""


def title_of(run: dict[str, Any]) -> str:
    """Name a contender of the bulk job, and what differs at the server in its case."""
    return str(run["contender"]) + (", Retry-After" if run["retry_after"] else "")


def is_usual(run: dict[str, Any]) -> bool:
    """Return True for a job with the usual server: merges of 20 s that succeed."""
    return not _difference(run)


def _difference(run: dict[str, Any]) -> str:
    differences = {
        f"sigma {run['sigma']}": run["sigma"] != BULK_SIGMA,
        f"merges of {run['median']:g} s": run["median"] != MEDIAN_DURATION,
        f"{run['failure_rate']:.0%} fail": run["failure_rate"] > 0,
        "with the habits of the real server": run["has_habits"],
    }
    return ", ".join(text for text, differs in differences.items() if differs)


def tables(folder: Path) -> str:
    """Return the tables of a folder of results."""
    parts = ["# Results\n\nWritten by `python -m benchmarks` and `python -m benchmarks.plots`.\n"]
    for name, section in SECTIONS.items():
        if (folder / f"{name}.json").exists():
            parts.append(section(load(folder, name)))
    return "\n".join(parts)


def _bulk(runs: Sequence[dict[str, Any]]) -> str:
    heads = [
        "merges",
        "contender",
        "calls per merge",
        "minutes",
        "time to earliest",
        "refused",
        "delay p50 / p95 / max, s",
        "not learned",
    ]
    ordered = sorted(runs, key=lambda run: (run["merges"], not is_usual(run)))
    title = "Bulk job, 900 requests a minute, virtual time"
    return _section(title, heads, map(_bulk_row, ordered)) + CONTENDERS


def _bulk_row(run: dict[str, Any]) -> list[str]:
    name = [f"{run['merges']:,}", ", ".join(filter(None, [title_of(run), _difference(run)]))]
    lost = run["merges"] - run["finished"]
    if lost:
        return [*name, "-", "-", "-", f"{run['refused']:,}", "-", f"{lost:,}"]
    delays = (f"{run[f'delay_{which}']:.1f}" for which in ("p50", "p95", "max"))
    return [
        *name,
        _with_range(run, "calls_per_finished_merge"),
        f"{run['seconds'] / 60:.1f}",
        _with_range(run, "seconds_to_earliest"),
        f"{run['refused']:,}",
        " / ".join(delays),
        "0",
    ]


def _with_range(run: dict[str, Any], name: str) -> str:
    low, high = (f"{value:.2f}" for value in run["ranges"][name])
    return f"{run[name]:.2f}" + (f" ({low}-{high})" if low != high else "")


def _ablation(runs: Sequence[dict[str, Any]]) -> str:
    heads = [
        "scenario",
        "variant of the poller",
        "calls per merge",
        "time to earliest",
        "delay p50 / p95 / max, s",
    ]
    rows = (
        [
            run["scenario"],
            run["variant"] if run["value"] is None else f"`{run['variant']}` {run['value']:g}",
            f"{run['calls_per_merge']:.3f}",
            f"{run['seconds_to_earliest']:.3f}",
            " / ".join(f"{run[f'delay_{which}']:.1f}" for which in ("p50", "p95", "max")),
        ]
        for run in runs
    )
    title = "Ablation: one heuristic of the poller off, or one constant changed; medians of 3 seeds"
    return _section(title, heads, rows)


def _cpu(results: dict[str, Any]) -> str:
    rows = [
        [name, contender, f"{numbers['median']:.2f}", f"{numbers['to_floor']:.2f}"]
        for name, compared in results.items()
        for contender, numbers in compared["contenders"].items()
    ]
    heads = ["of", "contender", "µs of CPU", "to the floor"]
    return _section("CPU", heads, ([row[0].replace("_", " "), *row[1:]] for row in rows))


def _memory(results: dict[str, Any]) -> str:
    heads = ["tasks", "contender", "bytes per pending task"]
    rows = (
        [f"{run['tasks']:,}", run["contender"], f"{run['bytes_per_task']:,}"]
        for run in results["pending"]
    )
    day = results["day"]
    grown = day["kib_grown_since_the_first_hour"][-1]
    summary = (
        f"\nAfter {day['hours']} simulated hours of polling {day['tasks']} tasks "
        f"({day['calls']:,} calls) the process was {grown} KiB larger than after the first.\n"
    )
    return _section("Memory", heads, rows) + summary


def _decode(results: dict[str, Any]) -> str:
    heads = ["body", "decoder", "µs", "to ours"]
    rows = (
        [name, decoder, f"{numbers['median']:.2f}", f"{numbers['to_ours']:.1f}"]
        for name in ("task", "page")
        for decoder, numbers in results[name]["decoders"].items()
    )
    return _section("Decoding", heads, rows)


def _plan(results: dict[str, Any]) -> str:
    heads = ["10,000 pairs with", "way", "ms of CPU", "to csv"]
    rows = (
        [name, way, f"{numbers['median']:.1f}", f"{numbers['to_csv']:.1f}"]
        for name, of_file in results.items()
        for way, numbers in of_file["ways"].items()
    )
    return _section("Planning", heads, rows)


def _ledger(results: dict[str, Any]) -> str:
    heads = ["way", "steps a second, durable at each", "to ours"]
    rows = (
        [way, f"{numbers['median']:,.0f}", f"{numbers['to_ours']:.2f}"]
        for way, numbers in results["steps"]["ways"].items()
    )
    resume = results["resume"]
    summary = (
        f"\nA ledger of {resume['rows']:,} pairs ({resume['megabytes']} MB) is checked, opened and "
        f"loaded in {resume['median']:.2f} s (at worst {resume['worst']:.2f} s), and begun in "
        f"{resume['begin']:.1f} s.\n"
    )
    return _section("Ledger", heads, rows) + summary


def _load(results: dict[str, Any]) -> str:
    heads = [
        "handlers that wait",
        "tasks",
        "calls until all have ended",
        "calls a second, of tasks that never end",
        "share of a processor",
        "bytes per handler",
    ]
    rows = (
        [
            f"{counted['handlers']:,}",
            f"{counted['tasks']:,}",
            f"{counted['calls']:,}",
            f"{waited['calls_a_second']:.1f}",
            f"{waited['share_of_a_processor']:.1%}",
            f"{waited['bytes_per_handler']:,}",
        ]
        for counted, waited in zip(results["calls"], results["waiting"], strict=True)
    )
    summary = _streams(results["streams"]) + _hour(results["hour"])
    return _section("Load", heads, rows) + summary + "\n" + _beside(results["beside_a_job"])


def _streams(run: dict[str, Any]) -> str:
    return (
        f"\n{run['streams']:,} event streams on one running job of {run['pairs']:,} pairs: "
        f"{run['streams_told_all']:,} of them told all {run['events_of_each']:,} events, "
        f"{run['streams_told_each_event_once']:,} each of them once, "
        f"{run['streams_with_a_resync']:,} with a resync; {run['kib_per_stream']} KiB a "
        f"stream (with the job itself {run['kib_per_stream_with_the_job_at_most']} KiB at most), "
        f"{run['microseconds_of_cpu_per_event']} µs of CPU an event of a stream. Read again "
        f"from the beginning by all at once: {run['events_a_second_when_told_again']:,} events a second.\n"
    )


def _hour(run: dict[str, Any]) -> str:
    grown = run["kib_grown_since_the_fifth_minute"]
    return (
        f"\nA service in which {run['waits']:,} handlers waited and left, and {run['looks']:,} "
        f"looked, within {run['minutes']} simulated minutes ({run['calls']:,} calls, "
        f"{run['refused']:,} refused) was {grown[-1]} KiB larger at the end than after five "
        f"minutes, and {grown[-1] - grown[len(grown) // 2]} KiB larger than in the middle.\n"
    )


def _beside(runs: Sequence[dict[str, Any]]) -> str:
    heads = [
        "`get` beside a bulk job, by",
        "merges",
        "with calls left in the minute",
        "p50 / p99 / max, s",
        "the server's own, s",
        "refused",
    ]
    rows = (
        [
            run["asked_by"],
            f"{run['merges']:,}",
            f"{run['with_calls_left']:,}",
            " / ".join(f"{run[f'with_calls_left_{name}']:.2f}" for name in ("p50", "p99", "max")),
            f"up to {run['server_takes_at_most']}",
            f"{run['refused']:,}",
        ]
        for run in runs
    )
    return _table(heads, rows)


def _shared_key(runs: Sequence[dict[str, Any]]) -> str:
    heads = ["work", "tasks", "programs", "calls", "seconds", "calls to one", "time to one"]
    heads += ["slowest `get`, s", "time to earliest", "refused"]
    names = ["calls", "seconds", "calls_to_one", "seconds_to_one"]
    names += ["slowest_look", "seconds_to_earliest", "refused"]
    rows = (
        [
            run["scenario"],
            f"{run['tasks']:,}",
            str(run["programs"]),
            *(_range(run, n) for n in names),
        ]
        for run in runs
    )
    title = "Programs on one key, virtual time; medians of 5 seeds with their range"
    return _section(title, heads, rows) + SHARED_KEY


def _range(run: dict[str, Any], name: str) -> str:
    if name not in run:
        return "-"
    median, low, high = (run[name][which] for which in ("median", "low", "high"))
    return f"{median:g}" if low == high else f"{median:g} ({low:g} to {high:g})"


def _section(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return f"## {title}\n\n{_table(heads, rows)}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


SECTIONS: dict[str, Callable[[Any], str]] = {
    "bulk": _bulk,
    "ablation": _ablation,
    "cpu": _cpu,
    "memory": _memory,
    "decode": _decode,
    "plan": _plan,
    "ledger": _ledger,
    "load": _load,
    "shared_key": _shared_key,
}
