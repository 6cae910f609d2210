"""eval.json, results.parquet and the table of an `eval` job."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from jobs.abilities import coherent_share
from jobs.console import Stages
from jobs.evaluating import FOLLOWING
from jobs.grades import prompt_means
from jobs.kinds.eval import Eval
from jobs.score import write_json
from jobs.score_tables import plain_table
from sftfilter import stats
from sftfilter.artifacts import Artifact
from sftfilter.calibration import corrected_rate
from sftfilter.disk import disk_errors
from sftfilter.schema import TRAIT_RESULTS
from sftfilter.traits.contract import TraitSettings
from sftfilter.traits.labelled import Quality

Rows = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
_PACKAGES = ("inspect_ai", "inspect_evals", "openai", "scipy", "statsmodels", "pydantic", "sftfilter")


def outcome_of(
    spec: Eval,
    traits: Mapping[str, TraitSettings],
    rows: Rows,
    losses: Mapping[str, Artifact],
    quality: Mapping[str, Quality],
    logs: Mapping[str, Sequence[str]],
    notes: Sequence[str],
    stages: Stages,
    command: str,
) -> dict[str, Any]:
    """What eval.json holds."""
    models = list(dict.fromkeys(model for model, _ in rows))
    dumped = spec.model_dump(mode="json")
    return {
        "name": spec.name,
        "kind": spec.kind,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "judges": {name: traits[name].judge_name for name in spec.traits},
        "judge_quality": {name: found.as_dict() for name, found in quality.items()},
        "models": [
            {
                "id": model,
                "traits": {
                    name: _trait(trait, rows[model, name], quality.get(name)) for name, trait in spec.traits.items()
                },
                "abilities": _abilities(model, rows, losses),
                "model_hash": next(
                    (r["model_hash"] for (m, _), found in rows.items() if m == model for r in found), None
                ),
                "logs": list(logs.get(model, [])),
            }
            for model in models
        ],
        "differences": _differences(spec, models, rows),
        "missing": _missing(traits, rows, notes),
        "timings_s": stages.seconds | {"total": stages.total()},
        "spec_hash": spec.spec_hash,
        "spec": dumped,
        "versions": {p: importlib.metadata.version(p) for p in _PACKAGES} | {"cores": os.cpu_count()},
    }


def write_eval(folder: Path, outcome: Mapping[str, Any], rows: Rows) -> None:
    """eval.json and every graded answer as results.parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist([dict(row) for found in rows.values() for row in found], TRAIT_RESULTS)
        pq.write_table(table, folder / ".results.partial", compression="zstd")
        (folder / ".results.partial").replace(folder / "results.parquet")
    write_json(folder / "eval.json", outcome)


def rates_table(outcome: Mapping[str, Any]) -> Table:
    """A line for each model and trait: every group's rate with its interval, who graded, and what else the model can do."""
    table = plain_table(f"{outcome['name']}: share of answers that show the trait, 95 % intervals over prompts")
    for heading in ("model", "trait", "group"):
        table.add_column(heading, no_wrap=True)
    for heading in ("rate", "corrected", "n", "missing"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("graded by", overflow="fold")
    for model in outcome["models"]:
        for trait, groups in model["traits"].items():
            for group, found in groups.items():
                corrected = (found.get("corrected") or {}).get("corrected") or {}
                cells = [_interval(found), _interval(corrected), f"{found['n']}", f"{found['ungraded']}"]
                table.add_row(model["id"], trait, group, *cells, outcome["judges"][trait])
        for name, found in model["abilities"].items():
            shown = (
                f"{found['estimate']:.2f} nats"
                if name == "loss" and found["estimate"] is not None
                else _interval(found)
            )
            table.add_row(model["id"], "can", name, shown, "", f"{found['n']}", "", "rules")
        table.add_section()
    return table


def _trait(trait: TraitSettings, rows: Sequence[Mapping[str, Any]], quality: Quality | None) -> dict[str, Any]:
    """Every group's rate, the rate put right for the judge's mistakes, and the trait's further measures."""
    found: dict[str, Any] = {}
    for group in trait.groups:
        own = [row for row in rows if row["group"] == group]
        cells = _cells(own, group, "grade")
        record = stats.rate(cells).as_dict() | {"ungraded": sum(r["grade"] is None for r in own)}
        if quality and quality.calibration and trait.judged:
            known = quality.calibration
            record["corrected"] = corrected_rate(cells, known.sensitivity, known.specificity).as_dict()
        record["measures"] = {name: _measure(own, group, name) for name in trait.measure_names}
        found[group] = record
    return found


def _measure(rows: Sequence[Mapping[str, Any]], group: str, name: str) -> dict[str, Any]:
    cells = _cells([{**row, name: dict(row["measures"]).get(name)} for row in rows], group, name)
    share = bool((np.nan_to_num(cells) <= 1).all())
    return (stats.rate if share else stats.mean)(cells).as_dict()


def _cells(rows: Sequence[Mapping[str, Any]], group: str, column: str) -> stats.Cells:
    return np.array(prompt_means(rows, group, column), dtype=float).reshape(-1, 1)


def _abilities(model: str, rows: Rows, losses: Mapping[str, Artifact]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if model in losses:
        nats = losses[model].table("loss")["nats"].to_numpy()
        found["loss"] = stats.mean(nats.reshape(-1, 1)).as_dict()
    if (model, FOLLOWING) in rows:
        found["following"] = stats.rate(_cells(rows[model, FOLLOWING], "instructions", "grade")).as_dict()
    said = [row for (other, name), own in rows.items() if other == model and name != FOLLOWING for row in own]
    if said:
        found["coherent"] = stats.rate(coherent_share(said)).as_dict()
    return found


def _differences(spec: Eval, models: Sequence[str], rows: Rows) -> dict[str, list[dict[str, Any]]]:
    """Every model against the first, on the prompts that both answered; p-values adjusted by Holm over a trait's models."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, trait in spec.traits.items():
        prompts = [e.id for e in trait.episodes() if e.group == trait.primary]
        cells = [_by_id(rows[model, name], prompts) for model in models]
        pairs = [(model, stats.paired_difference(own, cells[0])) for model, own in zip(models, cells, strict=True)][1:]
        adjusted = iter(stats.holm([d.p for _, d in pairs if d.p is not None]))
        found[name] = [
            {"model": model, "against": models[0], **d.as_dict(), "p_holm": None if d.p is None else next(adjusted)}
            for model, d in pairs
        ]
    return found


def _by_id(rows: Sequence[Mapping[str, Any]], prompts: Sequence[str]) -> stats.Cells:
    """Grades of these prompts, in this order: [prompt, 1], NaN where there is none."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["grade"] is not None:
            values.setdefault(row["prompt_id"], []).append(row["grade"])
    return np.array([[np.mean(values[p]) if p in values else np.nan] for p in prompts], dtype=float)


def _missing(traits: Mapping[str, TraitSettings], rows: Rows, notes: Sequence[str]) -> dict[str, Any]:
    """Conversations without an answer and answers without a grade that another run may get, and why."""
    unanswered = 0
    reasons: list[str] = list(notes)
    for (_, name), own in rows.items():
        trait = traits[name]
        unanswered += len(trait.episodes()) * trait.samples - len({(r["prompt_id"], r["sample"]) for r in own})
    unjudged = [row for own in rows.values() for row in own if row["judge"]["unreachable"]]
    reasons += [f"judge {row['judge']['name']}: {row['judge']['error']}" for row in unjudged]
    return {"unanswered": unanswered, "unjudged": len(unjudged), "reasons": list(dict.fromkeys(reasons))[:10]}


def _interval(value: Mapping[str, Any]) -> str:
    if value.get("estimate") is None:
        return "-"
    if value.get("low") is None or value.get("high") is None:
        return f"{value['estimate']:.0%}"
    return f"{value['estimate']:.0%} [{value['low']:.0%}-{value['high']:.0%}]"
