"""Job kinds: what a spec can be. To add one: a module with a `JobSpec` subclass that has a `kind`, and its line here."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from jobs.kinds.calibrate import Calibrate
from jobs.kinds.carriers import Carriers
from jobs.kinds.decide import Decide
from jobs.kinds.eval import Eval
from jobs.kinds.experiment import Experiment
from jobs.kinds.generate import Generate
from jobs.kinds.inspect import Inspect
from jobs.kinds.job import JobSpec
from jobs.kinds.lattice import Lattice
from jobs.kinds.report import Report
from jobs.kinds.score import Score
from jobs.kinds.serve import Serve
from jobs.kinds.sweep import Sweep
from jobs.kinds.train import Train
from jobs.kinds.worlds import Worlds

Spec = Annotated[
    Experiment
    | Sweep
    | Lattice
    | Carriers
    | Calibrate
    | Generate
    | Score
    | Decide
    | Inspect
    | Train
    | Eval
    | Serve
    | Report
    | Worlds,
    Field(discriminator="kind"),
]
"""The closed union of job kinds."""

KINDS: dict[str, type[JobSpec]] = {
    get_args(member.model_fields["kind"].annotation)[0]: member for member in get_args(get_args(Spec)[0])
}
"""Each kind's name and class."""
