"""What the page carries for its explorers and downloads: cut to known fields, and unable to leave its script tag."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sftfilter.report import formats as f
from sftfilter.report import tables, words
from sftfilter.report.nearest import nearest

_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_ROWS = ("kept", "dropped", "swapped", "rewritten", "added", "trained")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def script_json(value: Any) -> str:
    """JSON for a script tag: no `<`, `>` or `&` is left, so no text inside can close the tag or open another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def training_rows(rows: Sequence[Mapping[str, Any]], heldout: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the training explorer, with the places of the held-out rows whose prompts are nearest."""
    texts = [[plain_text(row.get("prompt")) or "" for row in of] for of in (rows, heldout)]
    return [
        {
            "id": row.get("prompt_id"),
            "prompt": plain_text(row.get("prompt")),
            "kind": row.get("kind") or f.MISSING,
            "source": row.get("source"),
            "answers": {key: plain_text(value) for key, value in f.part(row, "answers").items()},
            "grades": f.part(row, "grades"),
            "scores": f.part(row, "scores"),
            "decisions": f.part(row, "decisions"),
            "near": near,
        }
        for row, near in zip(rows, nearest(*texts), strict=True)
    ]


def heldout_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the held-out explorer."""
    found = []
    for row in rows:
        answers = f.part(row, "answers")
        shown = {name: answer_of(value) for name, value in answers.items()}
        group = row.get("group") or f.MISSING
        found.append(
            {"id": row.get("prompt_id"), "prompt": plain_text(row.get("prompt")), "group": group, "answers": shown}
        )
    return found


def answer_of(value: Any) -> dict[str, Any]:
    """An answer with its grade; a bare string is an answer that nobody graded."""
    known = f.part(value)
    return (
        {"answer": plain_text(known.get("answer")), "grade": known.get("grade")}
        if known
        else {"answer": plain_text(value), "grade": None}
    )


def plain_text(value: Any) -> str | None:
    """A text as it stands, anything else as JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)


def shown_first(arms: Sequence[Mapping[str, Any]], heldout: Sequence[Mapping[str, Any]]) -> list[str]:
    """Students whose answers are worth seeing first: the ends of the scale and the two interventions."""
    present = {name for row in heldout for name in f.part(row, "answers")}
    by_role = {arm.get("role"): [arm.get("name"), *f.items(arm, "students")] for arm in arms}
    names = [by_role.get(role, []) for role in ("original", "alternate", "drop", "swap")]
    return [next(name for name in own if name in present) for own in names if present.intersection(own)]


def arms_csv(arms: Sequence[Mapping[str, Any]]) -> str:
    """One line per arm, trait and group, for a spreadsheet."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(list(map(_inert, line)) for line in arm_lines(arms))
    return out.getvalue()


def arm_lines(arms: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """The columns' names, then a line per arm, trait and group."""
    head = ["arm", "role", "teacher", "intervention", "seeds", *_ROWS]
    lines: list[list[Any]] = [[*head, "trait", "group", "estimate", "low", "high", "n", "ungraded"]]
    for arm in arms:
        settings = [arm.get("name"), arm.get("role"), arm.get("teacher")]
        settings += [words.intervention_words(f.part(arm, "intervention")), " ".join(map(str, f.items(arm, "seeds")))]
        sizes = [f.part(arm, "rows").get(key) for key in _ROWS]
        for trait, group, value in _measures(arm):
            numbers = [value.get(key) for key in ("estimate", "low", "high", "n", "ungraded")]
            lines.append([*settings, *sizes, trait, group, *numbers])
    return lines


def _measures(arm: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Every measured group of an arm; one empty line for an arm without results, so that it is not lost."""
    found = [
        (trait, group, f.part(arm, "traits", trait, group))
        for trait in tables.trait_names([arm])
        for group in f.part(arm, "traits", trait)
        if f.part(arm, "traits", trait, group)
    ]
    return found or [("", "", {})]


def _inert(value: Any) -> Any:
    """A text that a spreadsheet will not run as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
