"""What a finished run says of how much grades vary: a pilot for runs to come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.errors import DataError

if TYPE_CHECKING:
    from sftfilter.stats import Cells


@dataclass(frozen=True)
class Pilot:
    """Grades of a finished run on the trait proper.

    Attributes:
        cells: role or arm -> grades [prompt, seed], the samples of a prompt averaged; all of one shape.
        samples: that were averaged, each drawn for itself.
    """

    cells: Mapping[str, Cells] = field(default_factory=dict)
    samples: int = 1

    def __bool__(self) -> bool:
        """Whether there is one."""
        return bool(self.cells)


def read_pilot(folder: Path) -> Pilot:
    """Grades of a finished experiment or lattice; none where the folder holds no such run, or it kept no grades.

    Raises:
        DataError: its results are damaged.
    """
    import numpy as np

    from jobs.grade_table import read_grades

    try:
        results = json.loads((folder / "results.json").read_text())
    except FileNotFoundError:
        return Pilot()
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: its results are damaged ({error}); run the spec again") from error
    if results.get("kind") not in ("experiment", "lattice"):
        return Pilot()
    spec = results["spec"]
    trait, settings = next(iter(spec["traits"].items()))
    primary = next(iter(settings["groups"]))
    graded = read_grades(folder) or {}
    found = {arm: one for (arm, of, group), one in graded.items() if of == trait and group == primary}
    roles = _roles(results)
    first = found.get(roles.get("original", ""))
    if first is None:
        return Pilot()
    alike = {arm: one.cells for arm, one in found.items() if (one.prompts, one.seeds) == (first.prompts, first.seeds)}
    known = alike | {role: alike[arm] for role, arm in roles.items() if arm in alike}
    drawn = settings["samples"] if settings["temperature"] > 0 else 1
    return Pilot({name: cells for name, cells in known.items() if not np.isnan(cells).all()}, drawn)


def _roles(results: Mapping[str, Any]) -> dict[str, str]:
    roles = results["roles"] if results["kind"] == "lattice" else results["spec"]["roles"]
    return {role: arm for role, arm in roles.items() if arm is not None}
