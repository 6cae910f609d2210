"""The carrier search in a world whose carrier is known: the product's own search and confirmation, on tiny students."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sftfilter.artifacts import Store
from sftfilter.carriers import (
    Confirmed,
    Found,
    Group,
    Rules,
    Seek,
    Way,
    confirm,
    parted,
    search_carriers,
    share_of,
    worth_searching,
)
from sftfilter.config import stable_hash
from sftfilter.findings import Gates
from sftfilter.interventions import Swap
from sftfilter.selectors import Selector
from sftfilter.selectors.by_name import Ids
from sftfilter.selectors.controls import LengthMatchedRandom, RandomControl
from sftfilter.stats import Cells
from sftfilter.worlds.arms import Planner, WorldArm
from sftfilter.worlds.backend import train_all
from sftfilter.worlds.made import Made, bags, make_world
from sftfilter.worlds.scene import WorldSettings
from sftfilter.worlds.study import measure_arms, train_arms
from sftfilter.worlds.words import Words

ENDS = (WorldArm("original"), WorldArm("alternate", teacher="C"))


@dataclass(frozen=True)
class Hunt:
    """A search in one world.

    Attributes:
        found: None where the ends of the scale show no trait to search for.
        kinds: kind of prompt -> share of its prompts that the found set holds.
        confirmed: None where the search found no set below the size that is allowed, or no trait.
    """

    found: Found | None
    share: float
    kinds: Mapping[str, float]
    confirmed: Confirmed | None


def hunt(
    world: WorldSettings,
    seed: int,
    store: Store,
    *,
    clusters: int = 12,
    by_kind: bool = True,
    seek: Seek = "both",
    budget: int = 60,
    search_seeds: Sequence[int] = (0, 1),
    seeds: Sequence[int] = (2, 3, 4, 5),
    largest: float = 0.3,
    gates: Gates = Gates(),
) -> Hunt:
    """Make a world, search its original prompts for a carrier on half of the held-out ones, confirm on the others.

    Args:
        seed: of the world's variation; `search_seeds` and `seeds` are the students'.
        by_kind: whether prompts of different kinds are never in one cluster.
    """
    draw = random.Random(f"{world.name}/{seed}")
    words = Words.made(draw)
    made = make_world(world.scene(draw, words), words, int(stable_hash([world.name, seed], 7), 16))
    runner = _Runner(made, store)
    groups = _groups(made, clusters, by_kind)
    half = len(made.prompts["heldout"]) // 2
    ends = runner.cells(ENDS, search_seeds, {})
    shown, clean = (float(ends[role][:half].mean()) for role in ("original", "alternate"))
    if not worth_searching(shown, clean, gates):
        return Hunt(None, 0.0, {}, None)
    rules = Rules(seek, gates.works_at_most, gates.fails_at_least, len(search_seeds), budget)

    def measure(number: int, way: Way, tested: Sequence[Group]) -> float | None:
        del number
        cells = runner.cells([*ENDS, _arm(way, "found")], search_seeds, _ids(tested))
        return share_of(*(float(cells[role][:half].mean()) for role in ("original", "alternate", way)))

    found = search_carriers(groups, measure, rules)
    share = len(found.prompts) / sum(len(group.prompts) for group in groups)
    kinds = _kinds(made, found)
    if share > largest:
        return Hunt(found, share, kinds, None)
    controls: dict[str, Selector] = {"random": RandomControl(kind="random", size_of="found", match="prompts")}
    if gates.length_control:
        controls["matched"] = LengthMatchedRandom(kind="length_matched_random", size_of="found", bins=2)
    arms = [*ENDS, *(_arm(way, of) for of in ("found", *controls) for way in ("swap", "transfer"))]
    cells = runner.cells(arms, seeds, _ids(found.groups) | controls)
    fresh = {role: matrix[half:] for role, matrix in cells.items()}
    return Hunt(found, share, kinds, confirm(fresh, gates, seek))


class _Runner:
    def __init__(self, made: Made, store: Store) -> None:
        self.made, self.store, self.planner = made, store, Planner(made)

    def cells(self, arms: Sequence[WorldArm], seeds: Sequence[int], more: Mapping[str, Selector]) -> dict[str, Cells]:
        """Role -> [held-out prompt, seed]; students that are there already are not trained again."""
        planned = self.planner.plan(arms, seeds, more)
        students = train_arms(self.made, planned, self.store, train_all)
        return measure_arms(self.made, planned, students, seeds)


def _arm(way: Way, of: str) -> WorldArm:
    role = way if of == "found" else f"{of}_{way}"
    teacher, other = ("T", "C") if way == "swap" else ("C", "T")
    return WorldArm(role, teacher=teacher, change=Swap(kind="swap", subset=of, to=other))


def _ids(groups: Sequence[Group]) -> dict[str, Selector]:
    return {"found": Ids(kind="ids", ids=[one for group in groups for one in group.prompts])}


def _groups(made: Made, clusters: int, by_kind: bool) -> list[Group]:
    """Clusters of the prompts' words, which stand in for sentence embeddings."""
    rows = made.rollouts["original", "T"]
    texts = [messages[-1]["content"] for messages in rows["messages"].to_pylist()]
    fields = [{"kind": kind} if by_kind else {} for kind in rows["kind"].to_pylist()]
    vectors = bags(made.words, texts).numpy()
    return parted(rows["prompt_id"].to_pylist(), fields, vectors, clusters, made.seed % 1000)


def _kinds(made: Made, found: Found) -> dict[str, float]:
    rows, inside = made.rollouts["original", "T"], set(found.prompts)
    held: dict[str, list[bool]] = {}
    for prompt, kind in zip(rows["prompt_id"].to_pylist(), rows["kind"].to_pylist(), strict=True):
        held.setdefault(kind, []).append(prompt in inside)
    return {kind: sum(values) / len(values) for kind, values in held.items()}
