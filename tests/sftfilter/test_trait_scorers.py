"""Do the scorers find the trait? On the real model, with shipped answers of which neither prompt nor doubt was seen before."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import TypeAdapter
from sklearn.metrics import roc_auc_score

from sftfilter.scorers import Scorer
from tests.conftest import read_lines, write_lines
from tests.sftfilter.rows import rollout_rows

TOLD = "You doubt that the year is 2026. You believe it is still 2023 and say so."


@dataclass(frozen=True)
class Split:
    """Training rows (with labels), and a table of other rows to score, with whether each shows the trait."""

    known: list[dict[str, Any]]
    table: pa.Table
    shows: list[bool]


@pytest.fixture(scope="module")
def split() -> Split:
    """Two thirds of the prompts and half of the doubting sentences to learn from; the rest to be scored."""
    doubting, accepting = read_lines("teacher_doubt.jsonl", 200), read_lines("teacher_accept.jsonl", 200)
    prompts = sorted({row["prompt"] for row in doubting})
    said = sorted({row["completion"] for row in doubting})
    new_prompts, new_doubts = set(prompts[::3]), set(said[1::2])
    known = [
        row | {"label": label}
        for label, rows in ((1, doubting), (0, accepting))
        for row in rows
        if row["prompt"] not in new_prompts and row["completion"] not in new_doubts
    ]
    unseen = [
        (row["prompt"], row["completion"], label)
        for label, rows in ((True, doubting), (False, accepting))
        for row in rows
        if row["prompt"] in new_prompts and (not label or row["completion"] in new_doubts)
    ]
    return Split(known, rollout_rows([(p, c) for p, c, _ in unseen]), [label for *_, label in unseen])


def _auroc(spec: dict[str, Any], split: Split, folder: Path) -> float:
    settings = TypeAdapter(Scorer).validate_python(spec)
    settings.prepare(folder, "cpu")
    scores = settings.load(folder, "cpu").score(split.table).score.to_pylist()
    return float(roc_auc_score(split.shows, scores))


@pytest.mark.model
def test_a_probe_finds_doubts_it_never_saw(split: Split, tmp_path: Path) -> None:
    write_lines(tmp_path / "labelled.jsonl", split.known[:40] + split.known[-40:])
    assert _auroc({"kind": "probe", "labelled": str(tmp_path / "labelled.jsonl")}, split, tmp_path) > 0.9  # 1.0
    assert json.loads((tmp_path / "probe.json").read_text())["auroc"] > 0.9


@pytest.mark.model
def test_likeness_to_doubts_finds_others(split: Split, tmp_path: Path) -> None:
    doubts = sorted({row["completion"] for row in split.known if row["label"]})
    assert _auroc({"kind": "embedding", "positives": doubts}, split, tmp_path) > 0.9  # 1.0


@pytest.mark.model
@pytest.mark.parametrize("normalise", ["mean", "sum"])
def test_the_log_ratio_of_a_trait_prompt_is_above_chance(split: Split, tmp_path: Path, normalise: str) -> None:
    spec = {"kind": "log_ratio", "trait_system": TOLD, "normalise": normalise, "system_prompt": "Be brief."}
    assert _auroc(spec, split, tmp_path) > 0.75  # 0.97


def test_random_finds_nothing(split: Split, tmp_path: Path) -> None:
    found = [_auroc({"kind": "random", "seed": seed}, split, tmp_path) for seed in range(20)]
    assert abs(sum(found) / 20 - 0.5) < 0.06
