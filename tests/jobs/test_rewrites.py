"""Paraphrases by the real model, and the reserve: what needs a tokenizer or a teacher's answers."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from jobs.arms import Material, plan_arms
from jobs.console import Stages
from jobs.experiment import read_prompts, score_all
from jobs.kinds.experiment import Experiment
from jobs.planning import rows_of
from jobs.reserve import read_reserve
from jobs.rewrites import Rewriter
from jobs.spec import load_spec
from jobs.tutoring import load_base, make_rollouts
from sftfilter.artifacts import Store
from sftfilter.errors import DataError
from sftfilter.models import BUILTIN
from tests.conftest import read_lines, write_lines


@pytest.mark.ray
@pytest.mark.model
def test_paraphrase_and_backfill_from_files(tiny_spec: Callable[..., Path], local_ray: None, tmp_path: Path) -> None:
    on_s = {"kind": "paraphrase", "subset": "S", "by": BUILTIN, "max_new_tokens": 8}
    refill = {"kind": "backfill", "subset": "S", "with_teacher": "C"}
    arms = {
        "all-T": {"teacher": "T"},
        "said-anew": {"teacher": "T", "intervention": on_s},
        "refilled": {"teacher": "T", "intervention": refill},
    }
    spec = cast(
        Experiment,
        load_spec(
            tiny_spec(
                arms=arms,
                roles={"original": "all-T", "alternate": "refilled"},
                reserve={"kind": "jsonl", "path": "reserve.jsonl"},
                selectors={"S": {"kind": "top_k", "scorer": "lexicon", "k": 3}},
            )
        ),
    )
    everything = read_lines("teacher_accept.jsonl", 18)
    write_lines(tmp_path / "C.jsonl", everything)
    write_lines(tmp_path / "reserve.jsonl", [{"prompt": row["prompt"]} for row in everything[12:]])
    long = read_lines("teacher_doubt.jsonl", 12)
    long[0] = long[0] | {"completion": "I doubt it. " * 4000}  # more tokens than the model's context holds
    write_lines(tmp_path / "T.jsonl", long)

    store, stages, base = Store(tmp_path / "store"), Stages(Console(file=io.StringIO())), load_base(spec)
    prompts = read_prompts(spec, base, store)
    rollouts = make_rollouts(spec, base, {}, prompts, store, stages)
    reserve = read_reserve(spec, base, {}, prompts, {}, store, stages)
    material = Material(prompts, rollouts, score_all(spec, rollouts, store, stages), reserve)
    plans = {p.name: p for p in plan_arms(spec, material, Rewriter(spec, base, {}, store, stages), store, stages)}

    anew = plans["said-anew"]
    assert (anew.counts["rewritten"], anew.counts["dropped"], anew.counts["kept"]) == (2, 1, 9)
    table = anew.decisions()
    assert table.filter(table["action"] == "drop")["reason"][0].endswith("but no rewrite was made")
    assert anew.derived is not None and anew.plan is not None
    rewritten = anew.derived.table("derived").to_pylist()
    originals = {row["rollout_id"]: row for row in rollouts["T"].table("rollouts").to_pylist()}
    for row in rewritten:
        before = originals[row["derived_from"]]
        assert row["completion"].strip() and row["completion"] != before["completion"]
        assert (row["prompt_id"], row["messages"]) == (before["prompt_id"], before["messages"])
        assert (row["teacher"], row["generation"]["model_hash"]) == (f"paraphrase by {BUILTIN} of T", base.hash)
    trained = rows_of(anew.plan, [*material.sources, anew.derived])["completion"].to_pylist()
    assert {row["completion"] for row in rewritten} < set(trained)

    assert plans["refilled"].counts["trained"] == 12
    write_lines(tmp_path / "reserve.jsonl", [{"prompt": row["prompt"]} for row in everything])
    with pytest.raises(DataError, match="reserve: 12 prompts are training prompts as well"):
        read_reserve(spec, base, {}, prompts, {}, store, stages)
