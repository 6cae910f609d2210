"""Job `report`: pages of finished experiments, from what they wrote down."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.console import Stages, arms_table
from jobs.kinds.report import Report
from jobs.records import base_record, write_json
from sftfilter.config import did_you_mean
from sftfilter.disk import disk_errors
from sftfilter.errors import DataError

ROWS = "rows.json.gz"


def run_report(spec: Report, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
    """Draw every page, print every table of arms."""
    pages: dict[str, str] = {}
    with stages.stage("report", ", ".join(spec.of)):
        for name in spec.of:
            results = _results(root, name)
            pages[name] = str(_draw(root / name, results, stages))
            stages.console.print(arms_table(results))
            stages.console.print(f"Report: {pages[name]}", soft_wrap=True)
    record = base_record(spec, stages, command, packages=("sftfilter",)) | {"pages": pages}
    write_json(root / spec.name / "report.json", record)
    return record


def keep_rows(folder: Path, rows: Sequence[Mapping[str, Any]], heldout: Sequence[Mapping[str, Any]]) -> None:
    """Keep what a page shows beside the results, so that it can be drawn again without the artifacts."""
    with disk_errors(folder), gzip.open(folder / ROWS, "wt", compresslevel=6) as sink:
        json.dump({"rows": list(rows), "heldout": list(heldout)}, sink, default=str)


def _results(root: Path, name: str) -> dict[str, Any]:
    path = root / name / "results.json"
    try:
        results = json.loads(path.read_text())
    except FileNotFoundError:
        known = sorted(found.parent.name for found in root.glob("*/results.json"))
        hint = did_you_mean(name, known) or f"; there are: {', '.join(known) or 'none'}"
        raise DataError(f"{path}: no results of a run '{name}'{hint}") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not valid JSON (line {error.lineno}); run the experiment again, it reuses its stages"
        ) from error
    if results.get("kind") != "experiment":
        raise DataError(f"{path}: of a job of kind {results.get('kind')}; reports are of experiments")
    return results


def _draw(folder: Path, results: Mapping[str, Any], stages: Stages) -> Path:
    from sftfilter.report import write_report

    kept: dict[str, Any] = {"rows": [], "heldout": []}
    try:
        with gzip.open(folder / "report" / ROWS, "rt") as source:
            kept = json.load(source)
    except FileNotFoundError:
        stages.say(f"{folder / 'report' / ROWS} is missing, so the page has no rows; run the experiment again for them")
    except (OSError, EOFError, json.JSONDecodeError) as error:
        raise DataError(
            f"{folder / 'report' / ROWS}: damaged ({error}); delete it, or run the experiment again"
        ) from error
    with disk_errors(folder):
        (folder / "report").mkdir(parents=True, exist_ok=True)
        return write_report(folder / "report", results, kept["rows"], kept["heldout"])
