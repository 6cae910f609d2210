"""Job `carriers`, one stage a line: groups of prompts, a search by halving, and the confirmation of what it finds."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.carriers_arms import ALTERNATE, ORIGINAL, base_test, confirmation, search_test
from jobs.carriers_outcome import Ends, Searched, Students, without, write_carriers
from jobs.console import Stages
from jobs.evaluating import Evaluated
from jobs.experiment import Gathered, answer
from jobs.kinds.carriers import Carriers
from jobs.kinds.experiment import Experiment
from jobs.outcome import freeze_gates
from jobs.sweep_outcome import measure_points
from jobs.sweep_points import Point
from jobs.sweep_students import Planned, Roster, ask_models, plan_point, train_models
from jobs.sweep_table import arm_cells
from serve.host import check_port
from sftfilter.artifacts import Artifact, Store
from sftfilter.carriers import Found, Group, Rules, Way, group_prompts, search_carriers, share_of, worth_searching
from sftfilter.errors import DataError
from sftfilter.trials import Trained, trials_at_once


def run_carriers(spec: Carriers, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
    """Run every stage that is not there yet, on the Ray cluster that is connected; answers results.json."""
    work, store = root / spec.name, Store(root / "artifacts")
    check_port(spec.serving)
    lab = _Lab(spec, store, work, stages, trials_at_once(spec.execution, spec.concurrency))
    freeze_gates(work, spec.gates.model_dump(mode="json"))
    found = answer(spec, store, work, stages)
    with stages.stage("groups", "prompts that are tested together"):
        _check_answered(spec, found)
        made, groups = group_prompts(found.material.prompts, spec.groups, store)
        stages.note(made, f"{len(groups)} groups of {made.meta['prompts']} prompts")
        heldout = split_heldout(_heldout_ids(spec, found), spec.search_share)
    with stages.stage("search", f"by halving, at most {spec.budget} students with {len(spec.search_seeds)} seeds each"):
        searched = _search(spec, lab, found, groups, heldout.confirmation)
    confirmed = None
    if searched.found is not None and searched.share <= spec.largest:
        with stages.stage("confirmation", f"{spec.confirming} students: fresh seeds, other held-out prompts"):
            confirmed = lab.run(confirmation(spec, searched.found.prompts), found, "confirmation")
    with stages.stage("outcome", "claims, gates, report"):
        students = Students(lab.planned, Trained(lab.students, lab.failed), confirmed)
        return write_carriers(spec, root, found, groups, searched, heldout.search, students, stages, command)


@dataclass(frozen=True)
class Split:
    """Ids of the held-out prompts of the trait's own group, by who reads them."""

    search: frozenset[str]
    confirmation: frozenset[str]


def split_heldout(ids: Collection[str], share: float) -> Split:
    """Prompts in the order of a hash of their ids; the first ones are for the search.

    Raises:
        DataError: there are too few for both.
    """
    if len(ids) < 4:
        raise DataError(
            f"the trait has {len(ids)} held-out prompts in its own group; search and confirmation need at least 2 each"
        )
    ordered = sorted(ids, key=lambda one: hashlib.sha256(f"carriers/{one}".encode()).hexdigest())
    count = min(max(2, round(share * len(ordered))), len(ordered) - 2)
    return Split(frozenset(ordered[:count]), frozenset(ordered[count:]))


class _Lab:
    """Trains and asks the students of one experiment after the other; what is there already is not made again.

    Attributes:
        planned, students, failed: of all that was run so far.
    """

    def __init__(self, spec: Carriers, store: Store, work: Path, stages: Stages, at_once: int) -> None:
        self.spec, self.store, self.work, self.stages, self.at_once = spec, store, work, stages, at_once
        self.planned: list[Planned] = []
        self.students: dict[str, Artifact] = {}
        self.failed: dict[str, str] = {}

    def run(self, asked: Experiment, found: Gathered, label: str) -> tuple[Planned, Evaluated]:
        """Decide, train and ask every arm with every seed."""
        roster = Roster(self.store)
        planned = plan_point(Point(label, {}, asked), found, roster, self.store, self.stages)
        given = self.spec.execution, self.spec.retries, self.store, self.work / "trials", self.at_once, self.stages
        trained = train_models(roster, *given)
        (evaluated,) = ask_models([planned], roster, trained, self.store, self.stages)
        self.planned.append(planned)
        known = {artifact.key for artifact in self.students.values()}  # the first time tells whether it was trained now
        self.students |= {name: made for name, made in trained.students.items() if made.key not in known}
        self.failed |= trained.failed
        return planned, evaluated


def _search(spec: Carriers, lab: _Lab, found: Gathered, groups: Sequence[Group], unread: Collection[str]) -> Searched:
    """The ends of the scale, then every test; held-out prompts in `unread` are kept for the confirmation."""
    trait, settings = next(iter(spec.traits.items()))

    def means(asked: Experiment, label: str, arms: Sequence[str]) -> list[float]:
        planned, evaluated = lab.run(asked, found, label)
        point = without(measure_points([planned], Trained({}, lab.failed), [evaluated])[0][0], unread)
        cells = [arm_cells(point, arm, trait, settings.primary) for arm in arms]
        return [float(np.nanmean(one)) if one.size and not np.isnan(one).all() else float("nan") for one in cells]

    seeds = len(spec.search_seeds)
    original, alternate = means(base_test(spec), "ends of the scale", (ORIGINAL, ALTERNATE))
    gates = spec.gates
    ends = Ends(original, alternate, 2 * seeds)
    if not worth_searching(original, alternate, gates):
        lab.stages.say(
            f"{trait}: original {original:.0%}, alternate {alternate:.0%} on the search's prompts: no trait to search for"
        )
        return Searched(ends, None, 0.0)

    def measure(number: int, way: Way, tested: Sequence[Group]) -> float | None:
        ids = [one for group in tested for one in group.prompts]
        asked, arm = search_test(spec, number, way, ids)
        (changed,) = means(asked, f"test {number}: {way} {', '.join(group.name for group in tested)}", (arm,))
        share = share_of(original, alternate, changed)
        if share is None or np.isnan(share):
            return None
        lab.stages.say(f"test {number}, {way} of {len(ids)} prompts: {share:.0%} of the trait {_WORDS[way]}")
        return share

    rules = Rules(spec.seek, gates.works_at_most, gates.fails_at_least, seeds, spec.budget - 2 * seeds)
    end = search_carriers(groups, measure, rules)
    share = len(end.prompts) / sum(len(group.prompts) for group in groups)
    lab.stages.say(_told(end, share))
    return Searched(ends, end, share)


_WORDS: Mapping[Way, str] = {"swap": "left", "transfer": "brought"}


def _told(end: Found, share: float) -> str:
    ended = "" if end.finished else "; the budget ended it before the halving was through"
    return f"search: {len(end.prompts)} prompts ({share:.0%}) in {len(end.groups)} groups after {len(end.tests)} tests{ended}"


def _heldout_ids(spec: Carriers, found: Gathered) -> list[str]:
    """Of the trait's own group."""
    trait, settings = next(iter(spec.traits.items()))
    rows = found.heldout[trait].table("prompts").to_pylist()
    return [row["prompt_id"] for row in rows if row["kind"] == settings.groups[settings.primary]]


def _check_answered(spec: Carriers, found: Gathered) -> None:
    """Both teachers must have answered every prompt, or a set could not be swapped.

    Raises:
        DataError: names the teacher and the first prompts that it lacks.
    """
    asked = _ids(found.material.prompts, "prompts")
    for teacher in (spec.original, spec.alternate):
        if lacking := sorted(asked - _ids(found.material.rollouts[teacher], "rollouts")):
            raise DataError(
                f"teachers.{teacher}: {len(lacking)} of {len(asked)} prompts have no answer from it, so they cannot be swapped: "
                f"prompt ids {', '.join(lacking[:5])}{' and more' if len(lacking) > 5 else ''}. Have them answered, or leave "
                "them out of `prompts`"
            )


def _ids(artifact: Artifact, table: str) -> set[str]:
    return set(artifact.table(table)["prompt_id"].to_pylist())
