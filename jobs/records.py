"""What every job writes down beside its findings: what it takes to check and to repeat it."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.artifacts import Artifact
from sftfilter.disk import disk_errors

if TYPE_CHECKING:
    from jobs.console import Stages
    from jobs.kinds.job import JobSpec

PACKAGES = ("ray", "torch", "transformers", "polars", "pyarrow", "pydantic", "sftfilter")


def base_record(spec: JobSpec, stages: Stages, command: str, packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Name, kind, time, command, timings, memory, spec with its hash, versions and artifacts."""
    dumped = spec.model_dump(mode="json")
    return {
        "name": spec.name,
        "kind": dumped["kind"],
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "timings_s": stages.seconds | {"total": stages.total()},
        "peak_rss_gib": round(stages.memory.peak_gib, 2),
        "spec_hash": spec.spec_hash,
        "spec": dumped,
        "versions": {p: importlib.metadata.version(p) for p in packages} | {"cores": os.cpu_count()},
        "stages": stages.artifacts,
    }


def row_counts(rollouts: Artifact) -> dict[str, int]:
    """The counts that a stage kept: `read` is the sum of the others where rows were read."""
    return {key: value for key, value in rollouts.meta.items() if isinstance(value, int)}


def write_json(path: Path, record: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write whole or not at all."""
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(record, indent=2, allow_nan=False))
        partial.replace(path)
