"""What the pages share of runs that have no arms of one experiment: headline, students, and what it takes to repeat them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from sftfilter.report import formats as f
from sftfilter.report import tables
from sftfilter.report.tables import Table, table_of


def frame_of(found: Mapping[str, Any], kind: str, size: Mapping[str, str]) -> dict[str, Any]:
    """What the pages of runs with many students share.

    Args:
        size: the first number of the headline.
    """
    return {
        **provenance_of(found),
        "kind": kind,
        "caveats": found.get("caveats"),
        "headline": [size, *_headline(f.part(found, "counts"))],
        "students_table": _students(found),
        "failed_table": _reasons("Students that could not be trained", f.part(found, "failed")),
        "stopped_table": _reasons("Students stopped by the rule", f.part(found, "stopped")),
    }


def provenance_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """What it takes to check a run and to repeat it."""
    spec = f.part(found, "spec")
    peak = found.get("peak_rss_gib")
    return {
        **{key: found.get(key) for key in ("name", "command", "spec_hash")},
        "created": f.moment(found.get("created")),
        "seeds": list(_seeds(spec)),
        "memory": f"{f.number(peak, 1)} GiB" if peak else f.MISSING,
        "timings_table": tables.timings(f.part(found, "timings_s")),
        "versions_table": tables.versions(f.part(found, "versions")),
        "stages_table": tables.stages(f.items(found, "stages")),
        "spec": yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, width=100),
    }


def _seeds(spec: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Fields of the spec that hold seeds, wherever they stand, with their values."""
    for key, value in spec.items():
        here = f"{path}{key}"
        if isinstance(value, Mapping):
            yield from _seeds(value, f"{here}.")
        elif key.endswith("seeds") and isinstance(value, list):  # and not `min_seeds`, which is a number of them
            yield here, ", ".join(map(str, value))
        elif key.endswith("seed") and value is not None:
            yield here, str(value)


def asked(counts: Mapping[str, Any]) -> str:
    """How many students the arms ask for, equal ones counted each."""
    return f"{f.count(counts.get('arms'))} students asked for"


def _headline(counts: Mapping[str, Any]) -> list[dict[str, str]]:
    reused = f"{f.count(counts.get('trained'))} trained now, {f.count(counts.get('reused'))} there before"
    headline = [
        {"label": "distinct students", "value": f.count(counts.get("students")), "note": reused},
        {"label": "failed", "value": f.count(counts.get("failed")), "note": "students"},
    ]
    stopped = {"label": "stopped", "value": f.count(counts.get("stopped")), "note": "students, by the rule"}
    return [*headline, stopped] if counts.get("stopped") else headline


def _students(found: Mapping[str, Any]) -> Table | None:
    rows = [
        [
            name,
            f.count(one["steps"]),
            f.number(one["first_loss"]),
            f.number(one["last_loss"]),
            f.duration(one["seconds"]),
        ]
        for name, one in f.part(found, "students").items()
    ]
    columns = ["student", "steps", "first loss", "last loss", "seconds"]
    return table_of("Distinct students", columns, rows, (1, 2, 3, 4)) if rows else None


def _reasons(title: str, reasons: Mapping[str, Any]) -> Table | None:
    rows = [[name, why] for name, why in reasons.items()]
    return table_of(title, ["student", "reason"], rows) if rows else None
