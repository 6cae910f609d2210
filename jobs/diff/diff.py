"""Everything that two finished runs say of each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.diff.contrasts import Contrast, Lost, compare
from jobs.diff.read import Run, find_run
from jobs.diff.specs import artifacts_shared, spec_differences, version_differences
from sftfilter.errors import DataError


@dataclass(frozen=True)
class Diff:
    """Two runs, A and B; differences are A - B.

    Attributes:
        spec, versions, artifacts: as `jobs.diff.specs` gives them.
        lost: what cannot be compared, and why.
    """

    first: Run
    second: Run
    spec: Sequence[dict[str, Any]]
    versions: Sequence[dict[str, Any]]
    artifacts: dict[str, list[dict[str, str]]]
    contrasts: Sequence[Contrast]
    lost: Sequence[Lost]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        runs = {"a": self.first, "b": self.second}
        return {
            "runs": {side: _told(run) for side, run in runs.items()},
            "spec": list(self.spec),
            "versions": list(self.versions),
            "artifacts": self.artifacts,
            "contrasts": [contrast.as_dict() for contrast in self.contrasts],
            "not_compared": [asdict(one) for one in self.lost],
        }


def _told(run: Run) -> dict[str, Any]:
    kept = {key: run.record.get(key) for key in ("name", "kind", "created", "spec_hash", "command")}
    return kept | {"folder": str(run.folder), "verdict": (run.record.get("verdict") or {}).get("label")}


def diff_runs(a: str, b: str, results: Path, every_group: bool = False) -> Diff:
    """Compare two finished runs, each given by its folder or by its name below `results`.

    Raises:
        DataError: a run is not there, not finished or damaged, or the two are of different kinds.
    """
    first, second = find_run(a, results), find_run(b, results)
    if first.kind != second.kind:
        raise DataError(
            f"{first.name} is of kind {first.kind} and {second.name} of kind {second.kind}: compare runs of one kind. Students "
            "of any two runs can be asked the same by `sftfilter eval RUN` on each, and these compared"
        )
    contrasts, lost = compare(first, second, every_group)
    return Diff(
        first,
        second,
        spec_differences(first, second),
        version_differences(first, second),
        artifacts_shared(first, second),
        contrasts,
        lost,
    )
