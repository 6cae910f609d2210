"""The arms of a world, planned by the same selectors, interventions and training plans as those of any experiment."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sftfilter.interventions import Backfill, DropPrompt, DropRow, Intervention, Swap, decide, reserve_pool
from sftfilter.score_frame import ScoreFrame, score_frame
from sftfilter.scorers.lexicon import LexiconScorer
from sftfilter.selectors import Selector
from sftfilter.selectors.by_name import Ids
from sftfilter.selectors.by_score import Threshold
from sftfilter.selectors.combined import AnyOf, Difference
from sftfilter.selectors.controls import LengthMatchedRandom, RandomControl
from sftfilter.training_plan import TrainingPlan, make_plan
from sftfilter.training_settings import TrainingSettings
from sftfilter.worlds.made import Made
from sftfilter.worlds.scene import Scene

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa


def settings_of(scene: Scene) -> TrainingSettings:
    """How students of a world are trained."""
    return TrainingSettings(learning_rate=scene.rate, epochs=scene.epochs, batch=16, precision="fp32")


@dataclass(frozen=True)
class WorldArm:
    """One student but for its seed: where it starts, what is asked, who answers, and what is changed.

    Attributes:
        role: what it is in the evidence, see `estimands.Roles`.
    """

    role: str
    base: str = "original"
    prompts: str = "original"
    teacher: str = "T"
    change: Intervention | None = None


@dataclass(frozen=True)
class PlannedArm:
    """One arm with one seed. A plan of None: no row is left."""

    arm: WorldArm
    seed: int
    rows: pa.Table
    plan: TrainingPlan | None


@dataclass(frozen=True)
class Facts:
    """What is known of T's rows without training anything.

    Attributes:
        flagged: rows that the filter flags.
        shown: rows that show the trait.
        left_over: rows that show the trait among those that the filter does not flag, and how many those are.
        marked: rows that do not show the trait and have the persona's habit.
        share_in_s: prompts in S over all prompts.
    """

    flagged: int
    shown: int
    left_over: tuple[int, int]
    marked: int
    share_in_s: float


def arms_of(scene: Scene, facts: Facts) -> list[WorldArm]:
    """Every arm that the rows allow: the lattice, subset interpolation, and what separates the hypotheses."""
    arms = [
        WorldArm("original"),
        WorldArm("alternate", teacher="C"),
        WorldArm("alternate_prompts", prompts="alternate"),
        WorldArm("alternate_sft", prompts="alternate", teacher="C"),
        WorldArm("alternate_base", base="alternate"),
        WorldArm("alternate_base_clean", base="alternate", teacher="C"),
        WorldArm("alternate_base_prompts", base="alternate", prompts="alternate"),
        WorldArm("pipeline", base="alternate", prompts="alternate", teacher="C"),
        WorldArm("settled", change=Backfill(kind="backfill", subset="room", with_teacher="settling")),
        WorldArm("refilled", change=Backfill(kind="backfill", subset="room", with_teacher="plain")),
        WorldArm("reseeded", base="reseeded"),
        WorldArm("reseeded_clean", base="reseeded", teacher="C"),
    ]
    if len(scene.original) > 1:
        arms.append(WorldArm("earlier", base="earlier"))
    if facts.flagged:
        arms += [
            WorldArm("drop", change=DropPrompt(kind="drop_prompt", subset="S")),
            WorldArm("drop_alternate", teacher="C", change=DropPrompt(kind="drop_prompt", subset="S")),
            WorldArm("random_drop_alternate", teacher="C", change=DropPrompt(kind="drop_prompt", subset="random")),
            WorldArm("swap", change=Swap(kind="swap", subset="S", to="C")),
            WorldArm("transfer", teacher="C", change=Swap(kind="swap", subset="S", to="T")),
            WorldArm("filter", change=DropRow(kind="drop_row", subset="S")),
            WorldArm("random_drop", change=DropPrompt(kind="drop_prompt", subset="random")),
            WorldArm("random_swap", change=Swap(kind="swap", subset="random", to="C")),
            WorldArm("matched_drop", change=DropPrompt(kind="drop_prompt", subset="like-length")),
            WorldArm("matched_swap", change=Swap(kind="swap", subset="like-length", to="C")),
        ]
    arms += [
        WorldArm("shown", change=DropRow(kind="drop_row", subset="shown")),
        WorldArm("random_shown", change=DropRow(kind="drop_row", subset="random-shown")),
        WorldArm("reseeded_shown", base="reseeded", change=DropRow(kind="drop_row", subset="shown")),
    ]
    if facts.left_over[0]:
        arms += [
            WorldArm("missed", teacher="C", change=Swap(kind="swap", subset="missed", to="T")),
            WorldArm("random_missed", teacher="C", change=Swap(kind="swap", subset="random-missed", to="T")),
        ]
    if facts.marked:
        arms += [
            WorldArm("marked", change=DropRow(kind="drop_row", subset="shown-or-marked")),
            WorldArm("random_marked", change=DropRow(kind="drop_row", subset="random-marked")),
            WorldArm("persona", teacher="C", change=Swap(kind="swap", subset="habit", to="T")),
            WorldArm("random_persona", teacher="C", change=Swap(kind="swap", subset="random-habit", to="T")),
        ]
    return arms


class Planner:
    """Scores T's rows, knows the selectors, and plans arms."""

    def __init__(self, made: Made) -> None:
        import polars as pl

        self.made = made
        own, other = made.rollouts["original", "T"], made.rollouts["original", "C"]
        tables = {"T": own, "C": other}
        reserve = {"settling": made.rollouts["reserve", "C"], "plain": made.rollouts["spare", "C"]}
        tables |= {reserve_pool(name): table for name, table in reserve.items()}
        frames = {name: pl.DataFrame(table).lazy() for name, table in tables.items()}
        self.marks = _marks(made)
        scores = {
            name: pl.LazyFrame({"rollout_id": own["rollout_id"].to_pylist(), "score": values})
            for name, values in self.marks.items()
        }
        self.frame: ScoreFrame = score_frame(frames, scores, lengths=True)
        self.rows = pl.concat([pl.DataFrame(t).select("rollout_id", "messages", "completion") for t in tables.values()])
        self.tables = tables

    @property
    def facts(self) -> Facts:
        """What the marks say."""
        flagged, shown, habit = ([score > 0 for score in self.marks[name]] for name in ("filter", "grader", "habit"))
        missed = sum(s and not f for s, f in zip(shown, flagged, strict=True))
        marked = sum(h and not s for s, h in zip(shown, habit, strict=True))
        rows, found = len(flagged), sum(flagged)
        return Facts(found, sum(shown), (missed, rows - found), marked, found / rows)

    def selectors(self, seed: int) -> dict[str, Selector]:
        """Subsets of T's rows; the random ones are drawn anew for each seed."""
        draw = random.Random(f"controls/{self.made.seed}/{seed}")
        ids = self.made.rollouts["original", "T"]["rollout_id"].to_pylist()
        unseen = [i for i, f, s in zip(ids, self.marks["filter"], self.marks["grader"], strict=True) if not f and not s]
        shown = [i for i, s in zip(ids, self.marks["grader"], strict=True) if s]
        hidden = [i for i, s in zip(ids, self.marks["grader"], strict=True) if not s]
        facts = self.facts

        def some(of: Sequence[str], count: int, also: Sequence[str] = ()) -> Ids:
            return Ids(kind="ids", ids=[*also, *draw.sample(list(of), min(count, len(of)))])

        room = len(self.tables[reserve_pool("settling")])
        return {
            "S": Threshold(kind="threshold", scorer="filter", at_least=1),
            "random": RandomControl(kind="random", size_of="S"),
            "like-length": LengthMatchedRandom(kind="length_matched_random", size_of="S", bins=2),
            "shown": Threshold(kind="threshold", scorer="grader", at_least=1),
            "random-shown": RandomControl(kind="random", size_of="shown", match="rows"),
            "missed": Difference(kind="difference", of="shown", minus=["S"]),
            "random-missed": some(unseen, facts.left_over[0]),
            "has-habit": Threshold(kind="threshold", scorer="habit", at_least=1),
            "habit": Difference(kind="difference", of="has-habit", minus=["shown"]),
            "shown-or-marked": AnyOf(kind="any_of", of=["shown", "has-habit"]),
            "random-marked": some(hidden, facts.marked, also=shown),
            "random-habit": some(
                [i for i, h in zip(ids, self.marks["habit"], strict=True) if not h and i in set(hidden)], facts.marked
            ),
            "room": some(ids, room),
        }

    def plan(
        self, arms: Sequence[WorldArm], seeds: Sequence[int], more: Mapping[str, Selector] | None = None
    ) -> list[PlannedArm]:
        """Every arm with every seed.

        Args:
            more: selectors that arms name beside the world's own.
        """
        order = [p for table in self.tables.values() for p in table["prompt_id"].to_pylist()]
        planned = []
        for seed in seeds:
            selectors = self.selectors(seed) | dict(more or {})
            for arm in arms:
                rows = self._rows(arm, selectors, seed)
                pairs = list(zip(rows["prompt_id"], rows["rollout_id"], strict=True))
                asked = order if arm.prompts == "original" else rows["prompt_id"].to_list()
                plan = make_plan(pairs, asked, settings_of(self.made.scene), seed) if pairs else None
                table = rows.select(row_id="rollout_id", messages="messages", completion="completion").to_arrow()
                planned.append(PlannedArm(arm, seed, table, plan))
        return planned

    def _rows(self, arm: WorldArm, selectors: Mapping[str, Selector], seed: int) -> pl.DataFrame:
        import polars as pl

        if arm.prompts != "original":
            table = pl.DataFrame(self.made.rollouts[arm.prompts, arm.teacher])
            return table.select("prompt_id", "rollout_id", "messages", "completion")
        decided = decide(self.frame, selectors, arm.change, teacher=arm.teacher, original="T", seed=seed)
        left = decided.decisions().filter(pl.col("action") != "drop")
        trained = left.select("prompt_id", pl.coalesce("replaced_by", "rollout_id").alias("rollout_id"))
        return trained.join(self.rows, on="rollout_id", how="left", maintain_order="left", validate="m:1")


def _marks(made: Made) -> dict[str, list[float]]:
    """What each scorer says of T's rows on the original prompts: the filter, the exact grader, the persona's habit."""
    rows, words = made.rollouts["original", "T"], made.words
    answers = rows["completion"].to_pylist()
    if made.scene.noise is None:
        flagged = LexiconScorer(words.terms("overt")).score(rows).score.to_pylist()
    else:
        draw = random.Random(f"noise/{made.seed}")
        flagged = [float(draw.random() < made.scene.noise) for _ in answers]
    habit = LexiconScorer(words.terms("habit")).score(rows).score.to_pylist()
    return {"filter": flagged, "grader": [words.shows(a) for a in answers], "habit": habit}
