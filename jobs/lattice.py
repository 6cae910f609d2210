"""Job `lattice`, one stage a line: what cells share is made once, and equal students of all of them are one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.console import Stages
from jobs.experiment import Gathered, answer, score_all
from jobs.guards import keep_examples_apart
from jobs.kinds.lattice import Lattice
from jobs.lattice_cells import Part, answering, parts_of
from jobs.lattice_files import impossible
from jobs.lattice_outcome import write_lattice
from jobs.outcome import freeze_gates
from jobs.reserve import Reserve, read_reserve
from jobs.sweep_points import Point
from jobs.sweep_students import Roster, ask_models, plan_point, train_models
from serve.host import check_port
from sftfilter.artifacts import Artifact, Store
from sftfilter.errors import DataError
from sftfilter.trials import trials_at_once


def run_lattice(spec: Lattice, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
    """Run every stage that is not there yet, on the Ray cluster that is connected; answers results.json."""
    work, store = root / spec.name, Store(root / "artifacts")
    check_port(spec.serving)
    at_once = trials_at_once(spec.execution, spec.concurrency)
    with stages.stage("cells", spec.summary()):
        parts = parts_of(spec)
        if missing := impossible(spec):
            raise DataError("\n".join(map(str, missing)))
    freeze_gates(work, spec.gates.model_dump(mode="json"))
    found = _gather(spec, parts, store, work, stages)
    with stages.stage("decisions", f"{sum(len(part.spec.arms) for part in parts)} arms x {len(spec.seeds)} seeds"):
        roster = Roster(store)
        points = [Point(part.label, {}, part.spec) for part in parts]
        planned = [plan_point(*pair, roster, store, stages) for pair in zip(points, found, strict=True)]
        stages.say(roster.summary())
    with stages.stage("training", f"{len(roster.trials)} students, up to {at_once} at a time"):
        trained = train_models(roster, spec.execution, spec.retries, store, work / "trials", at_once, stages)
    with stages.stage("evaluation", "over HTTP, every student once"):
        evaluated = ask_models(planned, roster, trained, store, stages)
    with stages.stage("outcome", "rates, readings, curves, verdict, report"):
        return write_lattice(spec, root, parts, planned, trained, evaluated, stages, command)


def _gather(spec: Lattice, parts: Sequence[Part], store: Store, work: Path, stages: Stages) -> list[Gathered]:
    """For each part what its decisions are made from. A teacher is asked once for each set of prompts, at its home."""
    asked: dict[tuple[str, str], dict[str, None]] = {(part.base, part.prompts): {} for part in parts}
    for part in parts:
        for teacher in part.spec.teachers:
            asked.setdefault((spec.home(teacher), part.prompts), {})[teacher] = None
    answered: dict[tuple[str, str], Gathered] = {}
    for (base, prompts), teachers in asked.items():
        stages.say(f"base {base}, prompts {prompts}")
        answered[base, prompts] = answer(answering(spec, base, prompts, list(teachers)), store, work, stages)
        heldout = answered[base, prompts].heldout
        keep_examples_apart(spec.contamination, {"scorers": spec.scorers}, heldout, store, stages)
    found = []
    for part in parts:
        homes = {teacher: answered[spec.home(teacher), part.prompts] for teacher in part.spec.teachers}
        rollouts = {teacher: home.material.rollouts[teacher] for teacher, home in homes.items()}
        scores = score_all(part.spec, rollouts, store, stages) if part.spec.scorers else {}
        own = answered[part.base, part.prompts].having(rollouts=rollouts, scores=scores)
        found.append(own.having(reserve=_reserve(part, own, store, stages)))
        _check_fit(part, found[-1])
    _check_heldout(parts, found)
    return found


def _reserve(part: Part, found: Gathered, store: Store, stages: Stages) -> Reserve:
    """Answers of teachers who are at home on the part's base."""
    return read_reserve(part.spec, found.base, found.teachers, found.material.prompts, found.heldout, store, stages)


def _check_fit(part: Part, found: Gathered) -> None:
    """A teacher of another base may have answered prompts that are too long for this one."""
    there = _ids(found.material.prompts)
    for teacher, artifact in found.material.rollouts.items():
        if other := _ids(artifact, "rollouts") - there:
            raise DataError(
                f"prompts.{part.prompts}: teacher '{teacher}' answered {len(other)} of them that do not fit base "
                f"'{part.base}', such as prompt id {min(other)}: leave these out, or raise training.max_length"
            )


def _check_heldout(parts: Sequence[Part], found: Sequence[Gathered]) -> None:
    """Every student must be asked the same, or cells could not be compared."""
    first = found[0].heldout
    for part, one in zip(parts, found, strict=True):
        for trait, artifact in one.heldout.items():
            if _ids(artifact) != _ids(first[trait]):
                raise DataError(
                    f"traits.{trait}: base '{part.base}' has room for other held-out prompts than base "
                    f"'{parts[0].base}', so cells cannot be compared: leave out prompts that are too long for one of them"
                )


def _ids(artifact: Artifact, table: str = "prompts") -> set[str]:
    return set(artifact.table(table)["prompt_id"].to_pylist())
