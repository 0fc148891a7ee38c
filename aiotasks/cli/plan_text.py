"""A plan as text for the command line, line by line."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from aiotasks import _text
from aiotasks._text import PLURAL, printable
from aiotasks.dedupe import Cost, Effect, JobSettings, Plan, Preview, Transition
from aiotasks.dedupe._effects import EFFECT_SENTENCES, undo_sentences
from aiotasks.models import DEFAULT_LIMIT, Kind, Quota


SHOWN = 12
"""How many characters of a fingerprint are shown."""

_FEW = 5
_UNDO: Final[Mapping[bool | None, str]] = {
    True: ", can be undone",
    False: ", can never be undone",
    None: "",
}
# Smaller shares would be rounded to 0.0%.
_SHOWN_SHARE = 0.001


def whole(preview: Preview, quota: Quota, *, most: int | None = None) -> Iterator[str]:
    """Yield everything that a plan would do, with at most so many of its pairs."""
    plan = preview.plan
    yield _title(preview)
    yield from map(_understood, plan.understood)
    yield ""
    # Those that run in the order in which they do, then the others.
    everything = {**preview.effects, **dict.fromkeys(range(1, len(plan.merges) + 1))}
    yield from _clusters(preview, [*everything], len(everything) if most is None else most)
    if preview.effects:
        yield ""
    yield from _effects(preview)
    yield from _paragraph(
        "Understood otherwise than written",
        [f"{plan.unit} {each.row.line}: {each.text}" for each in plan.rewrites],
    )
    yield from _paragraph(
        "Left out", [f"{plan.unit} {each.row.line}: {each.reason}" for each in plan.left_out]
    )
    yield from _paragraph(
        "Need not run, or cannot",
        [_finding(plan, transition) for transition in preview.findings(0.0)],
    )
    yield ""
    yield from _cost(preview, quota)
    yield f"Fingerprint: {plan.fingerprint[:SHOWN]}"


def short(preview: Preview, quota: Quota, *, whole_by: str | None = None) -> Iterator[str]:
    """Yield a summary to confirm; ``whole_by`` is the command that shows the whole plan."""
    plan = preview.plan
    yield _title(preview)
    yield from map(_understood, plan.understood)
    yield from _clusters(preview, [*preview.effects], _FEW)
    yield from _effects(preview)
    counts = {
        "Understood otherwise than written": len(plan.rewrites),
        "Left out": len(plan.left_out),
        "Need not run, or cannot": len(preview.findings(0.0)),
    }
    yield from (f"{what}: {count:,}" for what, count in counts.items() if count)
    if whole_by is not None and (len(plan.merges) > _FEW or any(counts.values())):
        yield f"All of it: {whole_by}"
    yield from _cost(preview, quota)
    yield f"Fingerprint: {plan.fingerprint[:SHOWN]}"


def _title(preview: Preview) -> str:
    plan, numbers = preview.plan, preview.effects
    survivors = len({plan.merges[number - 1].primary_id for number in numbers})
    return f"{plan.source}: {_of(len(numbers), plan.kind)} would be merged into {survivors:,}"


def _understood(sentence: str) -> str:
    return f"Understood: {sentence}"


def _of(count: int, kind: Kind) -> str:
    return f"{count:,} {kind if count == 1 else PLURAL[kind]}"


def _clusters(preview: Preview, numbers: Sequence[int], most: int) -> Iterator[str]:
    clusters: dict[int, list[str]] = {}
    for number in numbers[:most]:
        merge, effect = preview.plan.merges[number - 1], preview.effects.get(number)
        label = printable(preview.label(merge.duplicate_id))
        outlook = "" if effect is None else f", {effect}{_UNDO[effect.can_undo]}"
        place = f"{preview.plan.unit} {merge.row.line}"
        line = f"    <- {merge.duplicate_id}  {label}  [{place}{outlook}]"
        clusters.setdefault(merge.primary_id, []).append(line)
    for primary_id, lines in clusters.items():
        yield f"  {primary_id}  {printable(preview.label(primary_id))}"
        yield from lines
    if len(numbers) > most:
        yield f"  … and {len(numbers) - most:,} more"


def _effects(preview: Preview) -> Iterator[str]:
    if counts := counted(preview):
        yield "What becomes of them:"
        width = max(len(f"{count:,}") for count in counts.values())
        for effect, count in counts.items():
            yield f"  {count:>{width},}  {effect}: {EFFECT_SENTENCES[effect]}"
        yield undo_sentences(counts)


def question(preview: Preview) -> str:
    """Return the question whether to merge, after what cannot be taken back."""
    counts = counted(preview)
    lasting = {effect: counts[effect] for effect in counts if not effect.can_undo}
    return f"{undo_sentences(lasting)} Merge them?".strip()


def counted(preview: Preview) -> dict[Effect, int]:
    """Return how many merges of a plan have which effect."""
    counts = Counter(preview.effects.values())
    return {effect: counts[effect] for effect in Effect if counts[effect]}


def _paragraph(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield f"{title} ({len(lines):,}):"
        yield from (f"  {line}" for line in lines)


def _finding(plan: Plan, transition: Transition) -> str:
    merge = plan.merges[transition.number - 1]
    pair = f"{merge.primary_id} <- {merge.duplicate_id}"
    return f"{plan.unit} {merge.row.line}: {pair}: {transition.reason}"


def _cost(preview: Preview, quota: Quota) -> Iterator[str]:
    limit = quota.limit or DEFAULT_LIMIT
    cost = preview.cost(limit=limit, month_limit=quota.org_limit)
    yield " ".join(
        [
            f"It takes about {_text.counted(cost.calls, 'call')}{_share(cost)} and {cost.time}.",
            *cost.notes,
        ]
    )
    if cost.merges > JobSettings().canary:
        yield (
            f"It begins with {JobSettings().canary} merges. When half as many have succeeded, up to "
            f"{limit:,} a minute are sent before one that fails can show; --max-open bounds that."
        )


def _share(cost: Cost) -> str:
    if cost.month_share is None:
        return ""
    if cost.month_share > 1:
        return ", MORE than the organization has in a month"
    share = f"{cost.month_share:.1%}" if cost.month_share >= _SHOWN_SHARE else "less than 0.1%"
    return f" ({share} of the month)"
