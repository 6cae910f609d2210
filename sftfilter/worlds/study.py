"""One world from its seed to a verdict, by the code that real studies use for everything but the models."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sftfilter.artifacts import Artifact, Store
from sftfilter.config import stable_hash
from sftfilter.estimands import estimate_all
from sftfilter.stats import Cells, rate
from sftfilter.training import Execution, TrainingRun
from sftfilter.verdict import Evidence, Facts, Gates, judge
from sftfilter.worlds import tiny
from sftfilter.worlds.arms import PlannedArm, Planner, WorldArm, arms_of, settings_of
from sftfilter.worlds.backend import TrainAll, load_model, save_base, train_all
from sftfilter.worlds.made import Made, bags, make_world
from sftfilter.worlds.scene import WorldSettings
from sftfilter.worlds.words import Words

SAMPLES = 2
UNTRAINED = {"base": "original", "base_earlier": "earlier", "base_alternate": "alternate"}


@dataclass(frozen=True)
class Outcome:
    """One world judged.

    Attributes:
        students: trained, those with equal rows once.
    """

    world: WorldSettings
    seed: int
    causes: frozenset[int]
    finding: str | None
    verdict: Mapping[str, Any]
    gates: Sequence[Mapping[str, Any]]
    rates: Mapping[str, Mapping[str, Any]]
    estimands: Mapping[str, Mapping[str, Any]]
    facts: Facts
    students: int
    seconds: float


def study(
    world: WorldSettings,
    seed: int,
    store: Store,
    *,
    seeds: Sequence[int] = (0, 1, 2, 3),
    gates: Gates = Gates(),
    train: TrainAll = train_all,
) -> Outcome:
    """Make a world, train every arm with every seed, measure, judge.

    Args:
        seed: of the world's variation; `seeds` are the students'.
    """
    began = time.monotonic()
    draw = random.Random(f"{world.name}/{seed}")
    words = Words.made(draw)
    scene = world.scene(draw, words)
    made = make_world(scene, words, int(stable_hash([world.name, seed], 7), 16))
    planner = Planner(made)
    planned = planner.plan(arms_of(scene, planner.facts), seeds)
    students = train_arms(made, planned, store, train)
    cells = measure_arms(made, planned, students, seeds)
    facts = Facts(planner.facts.left_over, planner.facts.marked, len(scene.original))
    evidence = Evidence(
        rates={role: rate(matrix).as_dict() for role, matrix in cells.items()},
        estimands=estimate_all(cells, planner.facts.share_in_s or None),
        seeds=len(seeds),
        cells=cells,
        facts=facts,
    )
    verdict, checked = judge(evidence, gates)
    return Outcome(
        world,
        seed,
        scene.causes,
        scene.finding,
        verdict,
        checked,
        evidence.rates,
        evidence.estimands,
        facts,
        len({a.key for a in students.values()}),
        time.monotonic() - began,
    )


def train_arms(made: Made, planned: Sequence[PlannedArm], store: Store, train: TrainAll) -> dict[str, Artifact]:
    """Student -> its checkpoint; one call of the backend for each base."""
    settings = settings_of(made.scene)
    students: dict[str, Artifact] = {}
    for base in dict.fromkeys(one.arm.base for one in planned):
        folder = store.root / f"base-{made.seed}-{base}"
        base_hash = save_base(folder, made.bases[base], made.words)
        runs = [
            TrainingRun(student_name(one.arm, one.seed), one.seed, one.rows, one.plan, settings, {"arm": one.arm.role})
            for one in planned
            if one.arm.base == base and one.plan is not None
        ]
        students |= train(
            runs,
            store=store,
            base=str(folder),
            base_hash=base_hash,
            system_prompt=None,
            format_hash="bag-of-words",
            execution=Execution(workers=1, zero_stage=0),
            storage=Path(store.root),
            on_event=lambda _: None,
        )
    return students


def student_name(arm: WorldArm, seed: int) -> str:
    """Name of a student."""
    return f"{arm.role}-s{seed}"


def measure_arms(
    made: Made, planned: Sequence[PlannedArm], students: Mapping[str, Artifact], seeds: Sequence[int]
) -> dict[str, Cells]:
    """Role -> matrix [held-out prompt, seed] of the exact grader's mean over samples; untrained bases among them."""
    roles = [*dict.fromkeys(one.arm.role for one in planned)]
    models: list[tiny.Weights] = []
    place: dict[tuple[str, int], int] = {}
    loaded: dict[str, int] = {}
    for role, seed in itertools.product(roles, seeds):
        artifact = students.get(f"{role}-s{seed}")
        if artifact is None:
            continue
        if artifact.key not in loaded:
            loaded[artifact.key] = len(models)
            models.append(load_model(artifact.path))
        place[role, seed] = loaded[artifact.key]
    for role, base in UNTRAINED.items():
        if base in made.bases:
            for seed in seeds:
                place[role, seed] = len(models)
                models.append(made.bases[base])
    grades = _graded(made, models)
    cells = {}
    for role in [*roles, *(r for r, base in UNTRAINED.items() if base in made.bases)]:
        columns = [
            grades[place[role, seed]] if (role, seed) in place else np.full(grades.shape[1], np.nan) for seed in seeds
        ]
        if not all(np.isnan(column).all() for column in columns):
            cells[role] = np.stack(columns, axis=1)
    return cells


def _graded(made: Made, models: Sequence[tiny.Weights]) -> np.ndarray:
    """[model, held-out prompt] mean grade over samples."""
    stack = tiny.stack(models)
    asked = bags(made.words, [p.text for p in made.prompts["heldout"]])
    named = list(made.words.numbered)
    shows = np.array([made.words.shows(word) for word in named])
    total = np.zeros((len(models), len(asked)))
    for sample in range(SAMPLES):
        drawn = tiny.sample(
            stack, asked, [made.seed % 1_000_003 + 977 * m + sample for m in range(len(models))]
        ).numpy()
        total += shows[drawn].max(axis=2)
    return total / SAMPLES
