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
from jobs.score import write_json
from sftfilter.artifacts import Artifact

if TYPE_CHECKING:
    from jobs.calibrate import Bench

_PACKAGES = ("ray", "torch", "transformers", "deepspeed", "numpy", "polars", "pydantic", "sftfilter")


def write_calibration(
    spec: Calibrate,
    root: Path,
    bench: Bench,
    scores: Mapping[str, Artifact],
    pool: Artifact,
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
        "counts": {"pool": pool.meta["used"], **bench.pairs.counts},
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
    for subtlety in dict.fromkeys(m["subtlety"] for m in results["mixtures"]):
        stages.console.print(worth_table(results, subtlety))
    for skipped in results["skipped"]:
        stages.console.print(f"  {skipped['subtlety']} at {skipped['rate']:.0%}: not measured, {skipped['reason']}")
    if results["retrain"]:
        stages.console.print(retrain_table(results["retrain"]))
    for sentence in results["recommendation"]:
        stages.console.print(f"- {sentence}", soft_wrap=True)
    for sentence in results["caveats"]:
        stages.console.print(f"  [dim]{sentence}[/]", soft_wrap=True)
    stages.console.print(f"Results: {path}", soft_wrap=True)


def worth_table(results: Mapping[str, Any], subtlety: str) -> Table:
    """Scorers on one subtlety, best first at its highest rate."""
    mixtures = [m for m in results["mixtures"] if m["subtlety"] == subtlety]
    rates = [m["rate"] for m in mixtures]
    found = {(w["scorer"], w["rate"]): w for w in results["table"] if w["subtlety"] == subtlety}
    table = Table(title=f"{subtlety} rows among {mixtures[0]['rows']}", title_justify="left")
    table.add_column("scorer", no_wrap=True)
    for mixture in mixtures:
        table.add_column(f"AUPRC\n{mixture['rate']:.0%}, {mixture['planted']} rows", justify="right", no_wrap=True)
    for head in (f"AUROC\n{rates[-1]:.0%}", f"precision\nat {rates[-1]:.0%}", "found in\ntwice that"):
        table.add_column(head, justify="right", no_wrap=True)
    for head in ("s per 1,000\nrows", "errors"):
        table.add_column(head, justify="right")
    names = sorted(results["scorers"], key=lambda n: -(found[n, rates[-1]]["auprc"]["estimate"] or 0))
    for name in names:
        top = found[name, rates[-1]]
        mark = " *" if top["better_than_chance"] else " (reversed)" if top["reversed"] else ""
        cells = [_share(found[name, rate]["auprc"]) for rate in rates]
        cells += [_share(top["auroc"]) + mark, _share(top["precision"]), _share(top["recall_at_twice"])]
        cost, errors = results["scorers"][name]["seconds_per_1000_rows"], results["scorers"][name]["errors"]
        table.add_row(name, *cells, "-" if cost is None else f"{cost:.2f}", str(errors))
    chance = [f"{mixture['planted'] / mixture['rows']:.2f}" for mixture in mixtures]
    table.add_row("[dim]chance[/]", *chance, "0.50", chance[-1], f"{2 * float(chance[-1]):.2f}", "", "", style="dim")
    table.caption = "* better than chance, allowing for the number of scorers"
    table.caption_justify = "left"
    return table


def retrain_table(retrained: Mapping[str, Any]) -> Table:
    """Students' trait by what was removed."""
    table = Table(title="students trained on one mixture", title_justify="left")
    table.add_column("arm", no_wrap=True)
    table.add_column("removed", justify="right")
    table.add_column("planted left", justify="right")
    groups = list(retrained["arms"][0]["rates"])
    for group in groups:
        table.add_column(group, justify="right", no_wrap=True)
    table.add_column("of the oracle's gain", justify="right", no_wrap=True)
    for arm in retrained["arms"]:
        share = retrained["recovered"].get(arm["scorer"])
        rates = [_share(arm["rates"][group]) for group in groups]
        recovered = _share(share["share"]) if share else ""
        table.add_row(arm["name"], str(arm["removed"]), str(arm["planted_left"]), *rates, recovered)
    return table


def _share(value: Mapping[str, Any]) -> str:
    if value["estimate"] is None:
        return "-"
    interval = "" if value["low"] is None else f" [{value['low']:.2f}-{value['high']:.2f}]"
    return f"{value['estimate']:.2f}{interval}"
