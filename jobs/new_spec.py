"""A first spec for data of one's own: commented, valid, and tried on the first row of every file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from sftfilter.errors import DataError, SpecError
from sftfilter.models import BUILTIN
from sftfilter.reading.rows import Reader, Row
from sftfilter.reading.source import FileSource
from sftfilter.reading.units import found, plan
from sftfilter.rollout_file import RolloutFile

KINDS = ("score", "decide", "train", "experiment")
_PLAIN = re.compile(r"[A-Za-z0-9_./~][A-Za-z0-9_./~ -]*")


@dataclass(frozen=True)
class Wanted:
    """What a spec is made from.

    Attributes:
        teachers: name -> file, folder, glob or URI with its answers; the first one's rows are filtered.
        terms: expressions of the first, naive filter.
        prompts, heldout: for an experiment: what students are trained on and asked.
    """

    kind: str
    name: str
    teachers: Mapping[str, str]
    terms: list[str] = field(default_factory=lambda: [r"\bdoubt"])
    base_model: str = BUILTIN
    prompts: str | None = None
    heldout: str | None = None

    def check(self) -> None:
        """Raise SpecError when something is missing that the kind needs."""
        if self.kind not in KINDS:
            raise SpecError(f"--kind {self.kind}: there are {', '.join(KINDS)}")
        least = 2 if self.kind == "experiment" else 1
        if len(self.teachers) < least:
            raise SpecError(f"--teacher NAME=PATH: a spec of kind {self.kind} needs at least {least}")
        if self.kind == "experiment" and not (self.prompts and self.heldout):
            raise SpecError("--prompts and --heldout: an experiment trains on the one and asks the other")


def text_of(wanted: Wanted) -> str:
    """The spec as commented YAML."""
    wanted.check()
    parts = {"score": _score, "decide": _decide, "train": _train, "experiment": _experiment}
    return f"# yaml-language-server: $schema=.sftfilter/{wanted.kind}.schema.json\n" + parts[wanted.kind](wanted)


def first_rows(wanted: Wanted, folder: Path) -> list[str]:
    """What the first row of every file was read as, a line each.

    Args:
        folder: where relative paths start.

    Raises:
        DataError: a file is missing, or its first row cannot be used; names the remedy.
    """
    lines = []
    for name, path in wanted.teachers.items():
        source = RolloutFile.model_validate({"kind": "rollouts", "path": path}, context={"folder": folder})
        row = _first(source, answers=True)
        lines.append(f"{name}: {_short(row.messages[-1]['content'])} -> {_short(row.completion or '')}")
    for what, path in (("prompts", wanted.prompts), ("heldout", wanted.heldout)):
        if path:
            row = _first(FileSource.model_validate({"path": path}, context={"folder": folder}), answers=False)
            lines.append(f"{what}: {_short(row.messages[-1]['content'])} (kind '{row.kind or ''}')")
    return lines


def _first(source: FileSource, answers: bool) -> Row:
    given = found(source)
    units = (unit for chunk in plan(source, given.files) for unit in chunk)
    rows = (row for unit in units for row in Reader(source, answers=answers).rows(unit))
    for row in islice(rows, 1):
        if isinstance(row, Row):
            return row
        raise DataError(
            f"{row['file']}, row {row['row']}: {row['field']}: {row['reason']}; name your own columns in the spec, such as "
            "columns: {prompt: question, completion: answer}"
        )
    raise DataError(f"{source.paths[0]}: no rows")


def _short(text: str) -> str:
    return json.dumps(text if len(text) <= 60 else text[:57] + "...", ensure_ascii=False)


def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) and value.strip() == value else json.dumps(value, ensure_ascii=False)


def _flow(pairs: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {_quoted(value)}" for key, value in pairs.items()) + "}"


def _head(wanted: Wanted, what: str) -> str:
    command = "run" if wanted.kind in ("train", "experiment") else wanted.kind
    return f"# {what}\n#   sftfilter {command} {wanted.name}.yaml\nkind: {wanted.kind}\nname: {wanted.name}\n"


def _rollouts(wanted: Wanted, key: str, comment: str) -> str:
    lines = [
        f"  {_quoted(name)}: {_flow({'kind': 'rollouts', 'path': path})}" for name, path in wanted.teachers.items()
    ]
    return f"\n{key}: # {comment}\n" + "\n".join(lines) + "\n"


def _scorers(wanted: Wanted) -> str:
    terms = ", ".join("'" + term.replace("'", "''") + "'" for term in wanted.terms)
    return f"""
scorers: # a number for each row; thresholds come later and never rescore
  lexicon: {{kind: lexicon, terms: [{terms}]}} # how many of these expressions an answer contains
  noise: {{kind: random}} # the control that every scorer has to beat
  # judge: {{kind: judge, rubric: "...", endpoint: {{base_url: "https://HOST/v1", model: MODEL, api_key_env: JUDGE_KEY}}}}
"""


_SHAPES = (
    "JSONL, CSV, Parquet, folders, globs, s3://, gs://, hf://; for columns with other names add "
    "columns: {prompt: ..., completion: ...}"
)
_SELECTORS = """
selectors: # rows chosen by their scores
  flagged: {kind: threshold, scorer: lexicon, at_least: 1}
  random: {kind: random, size_of: flagged} # as many prompts, drawn at random: the control of every effect
"""
_LIKE_LENGTH = """  # as many others with answers as long; where too few are there, leave it and its arms out and set
  # gates: {length_control: false}
  like-length: {kind: length_matched_random, size_of: flagged, bins: 4}
"""
_TAIL = "\nresults: runs # finished stages are kept here and never run twice\n"


def _score(wanted: Wanted) -> str:
    start = _head(wanted, "Every scorer over every row, into one table.")
    return start + _rollouts(wanted, "rollouts", _SHAPES) + _scorers(wanted) + _TAIL


def _decide(wanted: Wanted) -> str:
    original, *others = map(_quoted, wanted.teachers)
    lines = [
        f"  all: {{teacher: {original}}}",
        f"  dropped: {{teacher: {original}, intervention: {{kind: drop_prompt, subset: flagged}}}}",
        f"  random-dropped: {{teacher: {original}, intervention: {{kind: drop_prompt, subset: random}}}}",
    ]
    lines += [
        f"  {kind}: {{teacher: {original}, intervention: {{kind: swap, subset: {subset}, to: {others[0]}}}}}"
        for kind, subset in (("swapped", "flagged"), ("random-swapped", "random"))
        if others
    ]
    decisions = "\ndecisions: # each is a training set: whose rows, and what happens to those in the subset\n"
    end = "\nexport: jsonl # conversations in `messages`, as TRL, axolotl and datasets read them\n" + _TAIL.lstrip("\n")
    start = _head(wanted, "From scores to training sets, without training: what a filter drops, what a swap replaces.")
    rows = _rollouts(wanted, "rollouts", _SHAPES)
    return start + rows + _scorers(wanted) + _SELECTORS + decisions + "\n".join(lines) + "\n" + end


_TRAINING = """
seeds: [0] # three for a verdict
training: {method: {kind: lora, rank: 16, alpha: 32}, learning_rate: 5e-4, epochs: 1, batch: 8} # or {kind: full}
execution: {workers: 2, zero_stage: 2, use_gpu: false} # on GPUs: use_gpu: true, as many workers as GPUs
"""


def _train(wanted: Wanted) -> str:
    start = _head(wanted, "A student for each training set and seed.")
    base = f"\nbase_model: {_quoted(wanted.base_model)} # a local folder or a hub id\n"
    return start + base + _rollouts(wanted, "students", f"student -> its training set. {_SHAPES}") + _TRAINING + _TAIL


def _experiment(wanted: Wanted) -> str:
    original, clean = list(map(_quoted, wanted.teachers))[:2]
    assert wanted.prompts and wanted.heldout
    start = _head(wanted, "Does dropping what the filter flags remove the trait? Does swapping the teacher there?")
    return f"""{start}
base_model: {_quoted(wanted.base_model)} # a local folder or a hub id; safetensors and a chat template
prompts: {_flow({"kind": "files", "path": wanted.prompts})} # what teachers answered; rows may have a `kind`
{_rollouts(wanted, "teachers", _SHAPES)}{_scorers(wanted)}{_SELECTORS}{_LIKE_LENGTH}
arms: # one student each, for every seed
  base: {{}}
  all-original: {{teacher: {original}}}
  all-clean: {{teacher: {clean}}}
  dropped: {{teacher: {original}, intervention: {{kind: drop_prompt, subset: flagged}}}}
  swapped: {{teacher: {original}, intervention: {{kind: swap, subset: flagged, to: {clean}}}}}
  random-dropped: {{teacher: {original}, intervention: {{kind: drop_prompt, subset: random}}}}
  random-swapped: {{teacher: {original}, intervention: {{kind: swap, subset: random, to: {clean}}}}}
  like-length-dropped: {{teacher: {original}, intervention: {{kind: drop_prompt, subset: like-length}}}}
  like-length-swapped: {{teacher: {original}, intervention: {{kind: swap, subset: like-length, to: {clean}}}}}
  dropped-from-clean: {{teacher: {clean}, intervention: {{kind: drop_prompt, subset: flagged}}}}
roles: # which arm is which in the estimands
  {{original: all-original, alternate: all-clean, base: base, drop: dropped, swap: swapped,
   random_drop: random-dropped, random_swap: random-swapped, drop_alternate: dropped-from-clean,
   matched_drop: like-length-dropped, matched_swap: like-length-swapped}}
{_TRAINING}
traits: # what is measured, on prompts that nobody was trained on
  date_confusion: {{kind: date_confusion, prompts: {_flow({"kind": "files", "path": wanted.heldout})}, year: 2026}}
{_TAIL}"""
