"""results.json, tables and the recommendation of a calibration."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from jobs.calibrate_retrain import Retrained
from jobs.calibrate_words import caveats, recommend
from jobs.console import Stages
from jobs.kinds.calibrate import Calibrate
from jobs.outcome import changed_gates
from jobs.records import write_json
from jobs.score_tables import plain_table
from sftfilter.artifacts import Artifact

if TYPE_CHECKING:
    from jobs.calibrate_bench import Bench

_PACKAGES = ("ray", "torch", "transformers", "deepspeed", "numpy", "polars", "pydantic", "sftfilter")


def write_calibration(
    spec: Calibrate,
    root: Path,
    bench: Bench,
    scores: Mapping[str, Artifact],
    overlaps: Artifact,
    retrained: Retrained | None,
    stages: Stages,
    command: str,
) -> dict[str, Any]:
    """Write `root/<name>/results.json` and print what it says; answers it."""
    scorers = {name: _scorer(spec, name, artifact) for name, artifact in scores.items()}
    results = {
        "name": spec.name,
        "kind": spec.kind,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "scorers": scorers,
        "mixtures": [
            {"subtlety": s, "rate": r, "planted": int(m[0].planted.sum()), "rows": len(m[0].planted), "draws": len(m)}
            for (s, r), m in bench.mixtures.items()
        ],
        "skipped": [{"subtlety": s, "rate": r, "reason": why} for (s, r), why in bench.skipped.items()],
        "table": [
            {"scorer": name, "subtlety": subtlety, "rate": rate} | worth.as_dict()
            for (name, subtlety, rate), worth in bench.worth.items()
        ],
        "retrain": retrained.as_dict() if retrained else None,
        "published": [figure.model_dump() for figure in spec.published],
        "counts": {"overlapping_prompts": overlaps.meta["overlapping_texts"], **bench.pairs.counts},
    }
    results["recommendation"] = recommend(results)
    results["caveats"] = [*caveats(spec, results), *changed_gates(root / spec.name)]
    results |= {
        "timings_s": stages.seconds | {"total": stages.total()},
        "peak_rss_gib": round(stages.memory.peak_gib, 2),
        "spec_hash": spec.spec_hash,
        "spec": spec.model_dump(mode="json"),
        "versions": {p: importlib.metadata.version(p) for p in _PACKAGES} | {"cores": os.cpu_count()},
        "stages": stages.artifacts,
    }
    write_json(root / spec.name / "results.json", results)
    _show(results, root / spec.name / "results.json", stages)
    return results


def _scorer(spec: Calibrate, name: str, scores: Artifact) -> dict[str, Any]:
    """Rows, errors and cost of a scorer; the cost is of the rows that were scored when these scores were made."""
    timed = scores.meta["rows"] - scores.meta["scored_before"]
    seconds = scores.meta.get("scoring_seconds")
    return {
        "kind": spec.scorers[name].kind,
        "rows": scores.meta["rows"],
        "errors": scores.meta["errors"],
        "rows_timed": timed,
        "seconds_per_1000_rows": 1000 * seconds / timed if timed and seconds is not None else None,
        "wall_seconds": scores.meta.get("seconds") if timed else None,
    }


def _show(results: Mapping[str, Any], path: Path, stages: Stages) -> None:
    show = stages.console.print
    for subtlety in dict.fromkeys(m["subtlety"] for m in results["mixtures"]):
        show(worth_table(results, subtlety))
    for skipped in results["skipped"]:
        show(f"{skipped['subtlety']} at {skipped['rate']:.0%}: not measured, {skipped['reason']}")
    show(cost_table(results))
    if results["retrain"]:
        show(retrain_table(results["retrain"]))
    for figure in results["published"]:
        found = figure["says"] or f"{figure['value']:g}"
        show(
            f"- published elsewhere, not measured here: {figure['label']}: {found} ({figure['source']})", soft_wrap=True
        )
    for sentence in results["recommendation"]:
        show(f"- {sentence}", soft_wrap=True)
    for sentence in results["caveats"]:
        show(f"  [dim]{sentence}[/]", soft_wrap=True)
    show(f"Results: {path}", soft_wrap=True)


def worth_table(results: Mapping[str, Any], subtlety: str) -> Table:
    """Scorers on one subtlety, best first at its highest rate."""
    mixtures = [m for m in results["mixtures"] if m["subtlety"] == subtlety]
    top = mixtures[-1]
    found = {(w["scorer"], w["rate"]): w for w in results["table"] if w["subtlety"] == subtlety}
    planted = ", ".join(f"{m['planted']} ({m['rate']:.0%})" for m in mixtures)
    table = plain_table(f"{subtlety}: {planted} planted among {top['rows']} rows")
    for head in ("scorer", *(f"AUPRC\n{m['rate']:.0%}" for m in mixtures), "AUROC", "found", "x 2"):
        table.add_column(head, justify="left" if head == "scorer" else "right", no_wrap=True)
    names = sorted(results["scorers"], key=lambda n: -(found[n, top["rate"]]["auprc"]["estimate"] or 0))
    for name in names:
        best = found[name, top["rate"]]
        areas = [_share(found[name, m["rate"]]["auprc"], interval=m is top) for m in mixtures]
        mark = "*" if best["better_than_chance"] else "r" if best["reversed"] else " "
        further = [_share(best[key], interval=False) for key in ("precision", "recall_at_twice")]
        table.add_row(name, *areas, f"{_share(best['auroc'], interval=False)} {mark}", *further)
    chance = [m["planted"] / m["rows"] for m in mixtures]
    further = [0.5, chance[-1], 2 * chance[-1]]
    table.add_row("chance", *(f"{value:.2f}" for value in [*chance, *further]), style="dim")
    table.caption_justify = "left"
    table.caption = (
        f"at {top['rate']:.0%}: planted rows found among as many rows as were planted (the precision there as well), and "
        "among twice as many; * better than chance, r worse, allowing for the number of comparisons"
    )
    return table


def cost_table(results: Mapping[str, Any]) -> Table:
    """What each scorer cost."""
    table = plain_table("cost, as measured when the rows were scored")
    for head in ("scorer", "s per 1,000 rows", "rows timed", "s with start-up", "errors"):
        table.add_column(head, justify="left" if head == "scorer" else "right", no_wrap=True)
    for name, scorer in results["scorers"].items():
        cost, wall = scorer["seconds_per_1000_rows"], scorer["wall_seconds"]
        shown = ("-" if value is None else f"{value:.2f}" for value in (cost, wall))
        table.add_row(name, next(shown), str(scorer["rows_timed"]), next(shown), f"{scorer['errors']}/{scorer['rows']}")
    return table


def retrain_table(retrained: Mapping[str, Any]) -> Table:
    """Students' trait by what was removed."""
    table = plain_table("students trained on one mixture")
    groups = list(retrained["arms"][0]["rates"])
    for head in ("arm", "removed", "left", *groups):
        table.add_column(head, justify="left" if head == "arm" else "right", no_wrap=True)
    for arm in retrained["arms"]:
        rates = [_share(arm["rates"][group], interval=group == groups[0]) for group in groups]
        table.add_row(arm["name"], str(arm["removed"]), str(arm["planted_left"]), *rates)
    table.caption_justify = "left"
    table.caption = "left: planted rows that are still there; rates of the trait on held-out prompts"
    return table


def _share(value: Mapping[str, Any], interval: bool = True) -> str:
    if value["estimate"] is None:
        return "-"
    if not interval or value["low"] is None:
        return f"{value['estimate']:.2f}"
    low, high = (f"{value[end]:.2f}".removeprefix("0") for end in ("low", "high"))
    return f"{value['estimate']:.2f} [{low}-{high}]"
