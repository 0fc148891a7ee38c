"""From a job's JSON to its page: one HTML document that needs no other file.

The document is complete without JavaScript, but does not change. Its script draws the rest from
the JSON in it, and follows the job if there is a server.
"""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template
from typing import Any, Final

from aiotasks._text import PLURAL
from aiotasks.dedupe._effects import EFFECT_SENTENCES

from . import _labels


_TILES = ("planned", "open", "succeeded", "failed", "refused", "unsettled", "left_out")
_ALWAYS = ("planned", "open", "succeeded", "failed")
_SHORT: Final = 12
_NAVIGATION = '<nav><a href="../jobs">All jobs</a> <a href="#downloads">Downloads</a></nav>\n'

# What would end a script, or a line of one, in the JSON inside of it.
_UNSAFE_IN_SCRIPT = str.maketrans({each: f"\\u{ord(each):04x}" for each in "<>&"})
_SPACES = re.compile(r"[\t\n\r]+")
# Control characters, those that turn the direction of what follows, and halves of characters.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


def job_page(
    job: dict[str, Any],
    *,
    is_live: bool,
    nonce: str,
    merges: Sequence[dict[str, Any]] = (),
    is_single_job: bool = False,
) -> str:
    """Return the page of a job.

    Args:
        job: The JSON of the job.
        is_live: Whether there is a server behind the page. The page of none has no buttons, links
            or events, brings its own content security policy, and can be saved as one file.
        nonce: That of the content security policy with which a live page is sent, otherwise "".
        merges: The first merges of the plan.
        is_single_job: Whether the server has this page only, and only while the job runs.
    """
    return _document(
        ["page.js", "job.js", *(["live.js"] if is_live else [])],
        state={"job": job, "merges": merges, "is_single_job": is_single_job},
        nonce=nonce,
        is_saved=not is_live,
        title=_text(job["source"]),
        navigation=_NAVIGATION if is_live and not is_single_job else "",
        main=_job(job, merges, is_live=is_live),
    )


def list_page(jobs: list[dict[str, Any]], *, nonce: str) -> str:
    """Return the page of all jobs, on which a file for a new one can be given."""
    rows = "".join(map(_summary, jobs))
    return _document(
        ["page.js", "list.js"],
        state={},
        nonce=nonce,
        title="Dedupe jobs",
        navigation="",
        main=_fill("list.html", jobs=rows or '<li class="note">There are none yet.</li>\n'),
    )


def _document(
    scripts: Iterable[str],
    *,
    state: Mapping[str, Any],
    nonce: str,
    is_saved: bool = False,
    **slots: str,
) -> str:
    script = "\n".join(_file(f"static/{name}") for name in scripts)
    style = _file("static/page.css")
    return _fill(
        "page.html",
        script=script,
        style=style,
        policy=_policy(script, style) if is_saved else "",
        state=_json({**state, "words": _labels.FOR_SCRIPT}),
        nonce=f' nonce="{escape(nonce)}"' if nonce else "",
        **slots,
    )


def _policy(script: str, style: str) -> str:
    """Return the policy of a saved page: what is in it runs, and nothing else."""
    allowed = f"script-src {_hash(script)}; style-src {_hash(style)}"
    rules = f"default-src 'none'; {allowed}; img-src data:; base-uri 'none'; form-action 'none'"
    return f'<meta http-equiv="Content-Security-Policy" content="{rules}">\n'


def _hash(text: str) -> str:
    digest = sha256(f"\n{text}".encode()).digest()
    return f"'sha256-{b64encode(digest).decode()}'"


def _job(job: dict[str, Any], merges: Sequence[dict[str, Any]], *, is_live: bool) -> str:
    phase, counts = job["phase"], job["counts"]
    return _fill(
        "job.html",
        source=_text(job["source"]),
        about=_about(job),
        phase=phase,
        phase_title=_labels.PHASES[phase],
        sentence=_text(job["sentence"]),
        tiles="".join(_tile(state, counts[state]) for state in _TILES),
        controls=_controls(job) if is_live else "",
        failures="".join(map(_failure, job["failures"])),
        failures_hidden="" if job["failures"] else " hidden",
        failures_title=_failures_title(phase, counts["not_merged"]),
        failures_note=_failures_note(phase, len(job["failures"]), counts["not_merged"]),
        cost="".join(_cost(job)),
        understood="".join(map(_understood, job["understood"])),
        effects=_effects(job),
        clusters=_clusters(merges),
        plan_summary=f"Merges ({job['merges']:,})",
        plan_open=" open" if phase == "new" else "",
        more=_more(job, merges, is_live=is_live),
        rewrites=_paragraph("Understood otherwise than written", map(_rewrite, job["rewrites"])),
        left_out=_paragraph("Left out", map(_left_out, job["left_out"]), counts["left_out"]),
        downloads=_fill("downloads.html", id=_text(job["id"])) if is_live else "",
    )


def _about(job: Mapping[str, Any]) -> str:
    plural = PLURAL[job["kind"]]
    return f"{plural.capitalize()} at {_text(job['origin'])}, planned {_time(job['begun_at'])}"


def _tile(state: str, number: int) -> str:
    is_shown = number or state in _ALWAYS
    attributes = f"{' data-always' if state in _ALWAYS else ''}{'' if is_shown else ' hidden'}"
    return (
        f'<div class="tile" data-tile="{state}"{attributes}><dt>{_labels.STATES[state]}</dt>'
        f"<dd>{number:,}</dd></div>\n"
    )


def _controls(job: Mapping[str, Any]) -> str:
    undo, fingerprint = _text(job["undo"]), _text(job["fingerprint"])
    warning = f'<p class="warning"><strong>{undo}</strong></p>\n' if undo else ""
    return _fill("controls.html", warning=warning, fingerprint=fingerprint)


def _cost(job: Mapping[str, Any]) -> Iterator[str]:
    cost = job["cost"]
    yield _measure("Calls", f"about {cost['calls']:,}")
    yield _measure("Time", " ".join([f"{cost['time']}.", *cost["notes"]]))
    if cost["month_share"] is not None:
        yield _measure("Share of the month's calls", f"{cost['month_share']:.1%}")
    yield _measure("Fingerprint", _code(job["fingerprint"]))


def _effects(job: Mapping[str, Any]) -> str:
    lines = [
        f"<li>{count:,} {effect}: {EFFECT_SENTENCES[effect]}</li>\n"
        for effect, count in job["effects"].items()
    ]
    if not lines:
        return ""
    return (
        '<h3 id="effects-title">What becomes of the records</h3>\n'
        f'<ul class="lines" aria-labelledby="effects-title">\n{"".join(lines)}</ul>\n'
        f"<p>{_text(job['undo'])}</p>\n"
    )


def _understood(sentence: str) -> str:
    return f'<p class="note">Understood: {_text(sentence)}</p>\n'


def _measure(name: str, html: str) -> str:
    return f"<div><dt>{name}</dt><dd>{html}</dd></div>\n"


def _failures_title(phase: str, known: int) -> str:
    return f"{'Will not run' if phase == 'new' else 'Not merged'} ({known:,})"


def _failures_note(phase: str, shown: int, known: int) -> str:
    if phase == "new":
        return _labels.WILL_NOT_RUN
    if shown < known:
        return f"The newest {shown:,} are shown; the report has all."
    return "Newest first."


def _failure(pair: Mapping[str, Any]) -> str:
    ended = f" · {_time(pair['ended_at'])}" if pair["ended_at"] else ""
    return (
        f'<tr role="row"><th role="rowheader" scope="row">{pair["line"]}</th>'
        f'<td role="cell">{_record(pair, "duplicate")} <span class="note">into</span> '
        f"{_record(pair, 'primary')}</td>"
        f'<td role="cell">{_state(pair["state"])} {_text(pair["reason"] or "")}'
        f'<span class="note">{ended}</span></td></tr>\n'
    )


def _state(state: str) -> str:
    word = _labels.STATES.get(state, state)
    return f'<span class="state" data-state="{_text(state)}">{_text(word)}</span>'


def _record(pair: Mapping[str, Any], role: str) -> str:
    record_id = pair[f"{role}_id"]
    name = _text(pair[f"{role}_name"] or "unknown")
    return f'<span class="record"><bdi>{name}</bdi> <span class="id">{record_id}</span></span>'


def _clusters(merges: Sequence[dict[str, Any]]) -> str:
    clusters: dict[int, list[dict[str, Any]]] = {}
    for merge in merges:
        clusters.setdefault(merge["primary_id"], []).append(merge)
    return "".join(
        f'<li id="cluster-{primary_id}">{_record(cluster[0], "primary")}\n<ul>'
        f"{''.join(map(_merge, cluster))}</ul></li>\n"
        for primary_id, cluster in clusters.items()
    )


def _merge(merge: Mapping[str, Any]) -> str:
    parts = [f"line {merge['line']}"]
    if merge["effect"] is not None:
        parts += [merge["effect"], f"undo: {merge['undo']}"]
    return (
        f'<li id="merge-{merge["number"]}">{_record(merge, "duplicate")} '
        f'<span class="note">· {_text(" · ".join(parts))}</span> {_state(merge["state"])}</li>'
    )


def _more(job: Mapping[str, Any], merges: Sequence[dict[str, Any]], *, is_live: bool) -> str:
    missing = job["merges"] - len(merges)
    if missing <= 0:
        return ""
    button = '<button type="button" id="more" hidden>Show more</button>\n' if is_live else ""
    return f'<p id="missing" class="note">And {missing:,} more; the report has all.</p>\n{button}'


def _paragraph(title: str, items: Iterable[str], count: int | None = None) -> str:
    lines = [f"<li>{item}</li>\n" for item in items]
    if not lines:
        return ""
    return (
        f"<details><summary>{title} ({count or len(lines):,})</summary>\n"
        f'<ul class="lines">\n{"".join(lines)}</ul></details>\n'
    )


def _rewrite(rewrite: Mapping[str, Any]) -> str:
    return f"Line {rewrite['line']}: {_text(rewrite['text'])}"


def _left_out(row: Mapping[str, Any]) -> str:
    return (
        f"Line {row['line']}: {row['duplicate_id']} into {row['primary_id']}: "
        f"{_text(row['reason'] or '')}"
    )


def _summary(job: Mapping[str, Any]) -> str:
    phase, counts = job["phase"], job["counts"]
    numbers = {
        "merged": counts["succeeded"],
        "not merged": counts["not_merged"],
        "to come": counts["to_come"],
    }
    return (
        f'<li><a href="jobs/{_text(job["id"])}"><bdi>{_text(job["source"])}</bdi></a>\n'
        f'<span class="phase" data-phase="{phase}">{_labels.PHASES[phase]}</span>\n'
        f'<span class="note">{PLURAL[job["kind"]].capitalize()}, planned '
        f"{_time(job['begun_at'])}</span>\n"
        f'<span class="note">{", ".join(f"{each:,} {what}" for what, each in numbers.items())}'
        "</span></li>\n"
    )


def _time(iso: str) -> str:
    moment = datetime.fromisoformat(iso)
    return f'<time datetime="{_text(iso)}">{moment:%Y-%m-%d %H:%M} {moment.tzname() or ""}</time>'


def _code(fingerprint: str) -> str:
    return f"<code>{_text(fingerprint[:_SHORT])}</code>"


def _text(value: object) -> str:
    """Escape text for HTML: names in a CRM and reasons are written by others."""
    return escape(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", _SPACES.sub(" ", str(value))))


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")).translate(_UNSAFE_IN_SCRIPT)


def _fill(name: str, **slots: str) -> str:
    return Template(_file(f"templates/{name}")).substitute(slots)


@cache
def _file(path: str) -> str:
    return files("aiotasks.web").joinpath(path).read_text(encoding="utf-8")
