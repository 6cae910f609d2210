"""The short form of a plan, which `sftfilter run` prints before it starts anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.kinds.sweep import Sweep
from jobs.plan.counting import Reading
from jobs.plan.plan import Plan, Stated, device_hours, plan_spec
from jobs.plan.show import duration, tokens
from jobs.run_record import EVENTS
from sftfilter.errors import SftfilterError

if TYPE_CHECKING:
    from jobs.kinds.job import JobSpec

TRAINING = ("experiment", "sweep", "lattice", "carriers", "calibrate", "train")
"""Kinds that train students, and so cost enough to be told beforehand."""
_QUICK = Reading(chunk=2**19, seconds=1.0)
_MORE = "`sftfilter plan SPEC`"
_MOST_POINTS = 40
"""Points of a sweep, each of which is a spec to be checked: more would take longer than a second."""


def brief(spec: JobSpec, root: Path) -> list[str]:
    """Lines for people: students, tokens, device-hours and wall time, and whose costs those are; none for other kinds.

    Of large files only the beginning is read, and power is left out, so that a run begins no later for it. What cannot be
    planned is said and stops nothing.
    """
    if spec.model_dump(include={"kind"})["kind"] not in TRAINING:
        return []
    if isinstance(spec, Sweep) and spec.size() > _MOST_POINTS:
        return [f"plan: {spec.summary()}; what {spec.size()} points make and cost takes a while: {_MORE}"]
    try:
        plan = plan_spec(spec, root, Stated(reading=_QUICK, power=False))
    except SftfilterError as error:
        return [f"plan: not known before the run: {str(error).splitlines()[0]}"]
    return [f"plan: {_made(plan)}", f"plan: {_time(plan)}", f"plan: {_source(plan, root / spec.name)}"]


def _made(plan: Plan) -> str:
    lines = [line for line in plan.made if line.what == "students trained"]
    students, there = sum(line.number for line in lines), sum(line.there for line in lines)
    most = "" if all(line.sure for line in lines) else "at most "
    known = f" ({there} there already)" if there else ""
    passed = tokens(sum(line.tokens for line in lines)) or "0"
    whole = tokens(sum(line.tokens for line in plan.made)) or "0"
    return f"{most}{students} students to train{known}, {passed} tokens of training, about {whole} tokens in all"


def _time(plan: Plan) -> str:
    if not any(line.count for line in plan.costed.lines):
        return "nothing is left to make"
    if not plan.estimates:
        return "device-hours and wall time not known: no costs"
    first, limit = plan.estimates[0], plan.estimates[-1]
    costs = plan.priced.costs
    unit = f"{costs.devices} {costs.device}{'s' * (costs.devices != 1)}"
    partly = ", of what has a cost" if plan.costed.unknown else ""
    held = f"{device_hours(first, costs.devices):.3g} {costs.device}-hours"
    least = f"no less than {duration(limit.wall)} on any number of workers"
    return f"{held}, {duration(first.wall)} on one worker of {unit}{partly}; {least}"


def _source(plan: Plan, run: Path) -> str:
    if not plan.estimates:
        why = "tells no costs" if (run / EVENTS).is_file() else "is no recorded run"
        return f"{run} {why}; state them with `sftfilter plan SPEC --from RUN` or `--costs FILE`"
    lost = _unknown(plan.costed.unknown)
    guessed = ", ".join(field for field, _, source in plan.cost_sources if source.startswith("guess"))
    told = f"; guessed: {guessed}" if guessed else ""
    return f"costs measured in {run}{told}{lost}; more: {_MORE}"


def _unknown(lines: Sequence[str]) -> str:
    return f"; not costed: {', '.join(line.split(' have no known cost')[0] for line in lines)}" if lines else ""
