"""Every table of the report as plain text cells; the template decides how they look."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sftfilter.report import formats as f
from sftfilter.report import words


@dataclass(frozen=True)
class Cell:
    """One cell: its text, the style of a status, and a second, quieter line."""

    text: str
    style: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A captioned table whose first cell in each row is the row's heading.

    Attributes:
        numeric: columns set flush right.
        whole: columns whose text does not wrap.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: frozenset[int] = field(default_factory=frozenset)
    whole: frozenset[int] = field(default_factory=frozenset)


def table_of(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    numeric: Sequence[int] = (),
    whole: Sequence[int] = (),
) -> Table:
    """A table of plain values; None and empty texts become a dash."""
    cells = [[cell if isinstance(cell, Cell) else Cell(_plain(cell)) for cell in row] for row in rows]
    return Table(caption, columns, cells, frozenset(numeric), frozenset([*numeric, *whole]))


def _plain(value: Any) -> str:
    return f.MISSING if value is None or value == "" else str(value)


def _arm(arm: Mapping[str, Any]) -> Cell:
    return Cell(_plain(arm.get("name")), note=words.role_words(arm.get("role")))


def _rate(rate: Mapping[str, Any]) -> Cell:
    return Cell(f.rate_text(rate), note=f.ungraded_text(rate))


def trait_names(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """Traits in the order in which they first appear."""
    return list(dict.fromkeys(name for arm in arms for name in f.part(arm, "traits")))


def group_names(arms: Sequence[Mapping[str, Any]], trait: str) -> list[str]:
    """Groups of held-out prompts under a trait; the first is the primary one."""
    found = dict.fromkeys(group for arm in arms for group in f.part(arm, "traits", trait))
    return [group for group in found if group != "log_odds"]


def rates(arms: Sequence[Mapping[str, Any]], trait: str) -> Table:
    """Settings and the rate per group of every arm."""
    groups = group_names(arms, trait)
    rows = [
        [
            _arm(arm),
            *(_rate(f.part(arm, "traits", trait, group)) for group in groups),
            arm.get("teacher"),
            words.intervention_words(f.part(arm, "intervention")),
            ", ".join(str(seed) for seed in f.items(arm, "seeds")),
        ]
        for arm in arms
    ]
    columns = ["Arm", *(f"{group.capitalize()} prompts" for group in groups), "Teacher", "Intervention", "Seeds"]
    return table_of(
        f"Rate of {trait} by arm: share of answers, 95 % interval", columns, rows, whole=range(1, len(groups) + 1)
    )


def log_odds(arms: Sequence[Mapping[str, Any]], trait: str) -> Table | None:
    """Mean log-odds per arm; None when no arm has any."""
    found = [(arm, f.part(arm, "traits", trait, "log_odds")) for arm in arms]
    if all(value.get("estimate") is None for _, value in found):
        return None
    rows = [[_arm(arm), f.mean_text(value)] for arm, value in found]
    return table_of(f"Log-odds of {trait} by arm: mean, 95 % interval", ["Arm", "Log-odds"], rows)


def estimands(found: Mapping[str, Any]) -> Table | None:
    """Every estimand with its interval and meaning."""
    rows = []
    for name in found:
        one = f.part(found, name)
        sizes = [f.count(one[key]) if one.get(key) else f.MISSING for key in ("n_prompts", "n_seeds")]
        if one:
            rows.append([Cell(name, note=_meaning(one)), f.interval_text(one), *sizes])
    columns = ["Estimand", "Estimate, 95 % interval", "Prompts", "Seeds"]
    return table_of("Every estimand with its interval and meaning", columns, rows, (2, 3), (1,)) if rows else None


def _meaning(one: Mapping[str, Any]) -> str:
    """What an estimand says, and how likely it is by chance where its null is zero."""
    p = one.get("p_holm")
    told = "" if p is None else f"; p {'< 0.001' if p < 0.001 else f'= {p:.3f}'} (Holm)"
    return f"{one.get('meaning') or ''}{told}"


def gates(found: Sequence[Mapping[str, Any]]) -> Table | None:
    """Each rule, what was found and whether it holds."""
    rows = []
    for gate in found:
        text, style = words.outcome_words(gate.get("passed"))
        name = Cell(_plain(gate.get("name")), note=str(gate.get("rule") or ""))
        rows.append([name, Cell(text, style), f.interval_text(gate)])
    return table_of("Each gate with what was found", ["Gate", "Outcome", "Found"], rows, whole=(2,)) if rows else None


def hypotheses(found: Sequence[Mapping[str, Any]]) -> Table | None:
    """What the arms say of each hypothesis: for, against, and what would tell it from the others."""
    rows = []
    for one in found:
        text, style = words.status_words(one.get("status"))
        name = Cell(f"{_plain(one.get('id'))}. {_plain(one.get('name'))}")
        rows.append(
            [
                name,
                Cell(text, style, note=_leaning(one)),
                *(f.lines(one, key) for key in ("for", "against")),
                _open(one),
            ]
        )
    columns = ["Hypothesis", "Status", "Evidence for", "Evidence against", "Would decide it, and what that costs"]
    return table_of("Each hypothesis, its status and its evidence", columns, rows) if rows else None


def _leaning(one: Mapping[str, Any]) -> str:
    """Where the evidence points while a gate is not passed."""
    leaning, colon, _ = str(one.get("evidence") or "").partition(": ")
    return leaning if colon and leaning.startswith("leans ") else ""


def _open(one: Mapping[str, Any]) -> str:
    """Experiments with their costs; the roles alone where no experiment of the list has them."""
    roles = f.items(one, "missing")
    return f.lines(one, "separating") or (f"roles {', '.join(roles)}" if roles else "")


def row_counts(arms: Sequence[Mapping[str, Any]]) -> Table:
    """Rows by what became of them, and what is trained on; rewritten and added ones only where there are any."""
    counted = [f.part(arm, "rows") for arm in arms]
    rare = [name for name in ("rewritten", "added") if any(rows.get(name) for rows in counted)]
    names = ("kept", "dropped", "swapped", *rare, "trained")
    rows = [
        [_arm(arm), *(f.count(known.get(name)) for name in names)] for arm, known in zip(arms, counted, strict=True)
    ]
    columns = ["Arm", *(name.capitalize() for name in names[:-1]), "Trained on"]
    return table_of("Training rows by arm", columns, rows, range(1, len(columns)))


def training(arms: Sequence[Mapping[str, Any]]) -> Table | None:
    """Steps, time and loss of the arms that were trained."""
    rows = []
    runs = [(arm, f.part(arm, "training")) for arm in arms]
    screening = any(run.get("screened_layers") for _, run in runs)
    for arm, run in runs:
        if run:
            losses = [f.number(run.get(key), 3) for key in ("first_loss", "last_loss")]
            row = [_arm(arm), f.count(run.get("steps")), f.duration(run.get("seconds")), *losses]
            rows.append([*row, *([_adapted(run)] if screening else [])])
    columns = ["Arm", "Steps", "Time", "First loss", "Last loss", *(["Adapters"] if screening else [])]
    return table_of("Training by arm", columns, rows, (1, 2, 3, 4)) if rows else None


def _adapted(run: Mapping[str, Any]) -> str:
    upper = run.get("screened_layers")
    return f"upper {upper} layers: screened, not confirmed" if upper else "every layer"


def scorers(found: Mapping[str, Any]) -> Table | None:
    """How well each scorer finds the rows that the grader says show the trait."""
    rows = []
    for name in found:
        one = f.part(found, name)
        quality = [_rate(f.part(one, key)) for key in ("recall", "precision")]
        sizes = [f.count(one.get(key)) for key in ("flagged", "n", "errors")]
        rows.append([name, f.short_number(one.get("threshold")), *quality, *sizes])
    columns = ["Scorer", "Threshold", "Recall", "Precision", "Flagged", "Rows", "Errors"]
    return table_of("Scorers against the grader", columns, rows, (1, 4, 5, 6), (2, 3)) if rows else None


def scores_by_kind(rows: Sequence[Mapping[str, Any]], scorer: str, threshold: float | None) -> Table:
    """The histogram in numbers."""
    kinds: dict[str, list[Any]] = {}
    for row in rows:
        kinds.setdefault(_plain(row.get("kind")), []).append(f.part(row, "scores").get(scorer))
    lines = []
    for kind, values in kinds.items():
        scored = [value for value in values if isinstance(value, int | float)]
        middle = f.short_number(statistics.median(scored)) if scored else f.MISSING
        above = f.MISSING
        if threshold is not None and scored:
            above = f.percent(sum(value >= threshold for value in scored) / len(scored))
        lines.append([kind, f.count(len(scored)), f.count(len(values) - len(scored)), middle, above])
    columns = ["Kind", "Scored", "Not scored", "Median", "At or above threshold"]
    return table_of(f"Scores of {scorer} by kind of prompt", columns, lines, (1, 2, 3, 4))


def counts(found: Mapping[str, Any]) -> Table | None:
    """What was read, used and set aside, with a check where the three must add up."""
    rows = []
    for name, values in _leaves(found):
        text = ", ".join(f"{key.replace('_', ' ')} {f.count(value)}" for key, value in values.items())
        rows.append([name, text, _adds_up(values)])
    return table_of("Counts", ["What", "How many", "Adds up"], rows) if rows else None


def _leaves(found: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    own = {key: value for key, value in found.items() if not isinstance(value, Mapping)}
    if own:
        yield path or "all", own
    for key, value in found.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path} {key}".strip())


def _adds_up(values: Mapping[str, Any]) -> Cell:
    read, used, aside = (values.get(key) for key in ("read", "used", "quarantined"))
    if not all(isinstance(value, int | float) for value in (read, used, aside)):
        return Cell(f.MISSING)
    others = sum(values.get(key) or 0 for key in ("duplicates", "other_prompts", "filtered"))
    off = (read or 0) - (used or 0) - (aside or 0) - others
    return Cell("✓ yes", "good") if off == 0 else Cell(f"✗ off by {f.count(off)}", "bad")


def timings(found: Mapping[str, Any]) -> Table | None:
    """Wall-clock time of each stage, and in all."""
    known = {stage: seconds for stage, seconds in found.items() if isinstance(seconds, int | float)}
    rows = [[stage, f.duration(seconds)] for stage, seconds in known.items()]
    if len(known) > 1 and "total" not in known:
        rows.append(["all stages", f.duration(sum(known.values()))])
    return table_of("Time by stage", ["Stage", "Time"], rows, (1,)) if rows else None


def stages(found: Sequence[Mapping[str, Any]]) -> Table | None:
    """Where each stage's artifact lies, and whether it was made by this run."""
    rows = [
        [
            _plain(one.get("stage")),
            "reused" if one.get("reused") else "made by this run",
            one.get("key"),
            one.get("path"),
        ]
        for one in found
    ]
    return table_of("Artifacts", ["Stage", "Origin", "Key", "Path"], rows) if rows else None


def versions(found: Mapping[str, Any]) -> Table | None:
    """Versions of what ran."""
    rows = [[name, version] for name, version in found.items()]
    return table_of("Versions", ["Package", "Version"], rows) if rows else None
