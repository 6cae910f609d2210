"""`sftfilter score`, `decide` and `inspect` on any spec that has what they need, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jobs.kinds.decide import Decide
from jobs.kinds.inspect import ROWS_PER_DECILE, Inspect
from jobs.kinds.job import JobSpec
from jobs.kinds.score import RolloutJob
from jobs.kinds.study import Study
from sftfilter.errors import SpecError

if TYPE_CHECKING:
    from jobs.console import Stages

Action = Callable[[Path, "Stages", str], Mapping[str, Any]]
"""What runs on the connected cluster: (results root, stages, command) -> what is written as JSON."""


def action_on(spec: JobSpec, what: Literal["score", "decide", "inspect"], path: str) -> Action:
    """The action, bound to a spec.

    Raises:
        SpecError: the spec lacks what it needs.
    """
    if what == "decide":
        if not isinstance(spec, Decide):
            raise SpecError(
                f"{path}: kind: deciding needs `selectors` and `decisions`, which a spec of kind decide has"
            )
        return spec.run
    if not isinstance(spec, RolloutJob | Study):
        raise SpecError(f"{path}: kind: there are no rollouts and scorers in a spec of this kind")
    if not spec.scorers:
        raise SpecError(f"{path}: scorers: none is named, so there is nothing to {what}")
    if what == "score":
        return lambda root, stages, command: _score(spec, root, stages, command)
    return lambda root, stages, command: _inspect(spec, root, stages, command)


def inspection_page(spec: JobSpec, root: Path) -> Path:
    """Where `inspect` writes its page."""
    return root / spec.name / "inspect" / "index.html"


def _score(spec: RolloutJob | Study, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
    from jobs.score import run_score

    return run_score(spec, root, stages, command)


def _inspect(spec: RolloutJob | Study, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
    from jobs.inspection import run_inspect

    rows = spec.rows_per_decile if isinstance(spec, Inspect) else ROWS_PER_DECILE
    return run_inspect(spec, root, stages, command, rows)
