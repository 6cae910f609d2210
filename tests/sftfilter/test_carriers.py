"""Carrier search: halving finds small sets in few tests, claims need fresh evidence, and worlds know what is true."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from sftfilter.artifacts import Store
from sftfilter.carriers import Found, Group, Grouping, Rules, Seek, Way, confirm, parted, search_carriers
from sftfilter.findings import Gates
from sftfilter.worlds.hunt import hunt
from sftfilter.worlds.planted.filtered import Filtered
from sftfilter.worlds.planted.nothing import Nothing
from sftfilter.worlds.scene import Scene, WorldSettings, raised
from sftfilter.worlds.words import Voice, Words

GROUPS = [Group(f"g{n:02d}", tuple(f"p{n}-{k}" for k in range(10 + n % 3))) for n in range(16)]
Carries = Callable[[set[str]], bool]


def _search(
    needed: Carries, enough: Carries | None = None, seek: Seek = "both", budget: int = 400
) -> tuple[Found, list[tuple[Way, tuple[str, ...]]]]:
    """A noiseless trait: swapping a set removes it if the set is `needed`, a set alone brings it if it is `enough`."""
    asked: list[tuple[Way, tuple[str, ...]]] = []

    def measure(number: int, way: Way, groups: Sequence[Group]) -> float:
        names = {group.name for group in groups}
        asked.append((way, tuple(sorted(names))))
        assert number >= len(asked)
        return float((enough or needed)(names)) if way == "transfer" else float(not needed(names))

    return search_carriers(GROUPS, measure, Rules(seek, 0.25, 0.5, runs=2, budget=budget)), asked


def _names(found: Found) -> set[str]:
    return {group.name for group in found.groups}


@pytest.mark.parametrize("place", range(16))
def test_one_carrier_is_found_in_a_number_of_tests_that_grows_with_the_logarithm(place: int) -> None:
    found, asked = _search(lambda names: f"g{place:02d}" in names)
    assert _names(found) == {f"g{place:02d}"} and found.finished
    assert len(found.tests) >= len(asked) <= 3 * 4, (
        "four halvings, at most both halves swapped and one of them tested alone"
    )
    assert found.runs == 2 * len(asked) and found.prompts == list(GROUPS[place].prompts)


def test_any_few_carriers_are_found_whole_and_nothing_is_asked_twice() -> None:
    draw = random.Random(3)
    for _ in range(60):
        carriers = {f"g{n:02d}" for n in draw.sample(range(16), draw.randint(2, 4))}
        found, asked = _search(lambda names, all_of=carriers: all_of <= names)
        assert _names(found) == carriers and found.finished
        assert len(asked) == len(set(asked)) <= 4 * len(carriers) * 5


def test_what_is_sought_decides_which_of_two_redundant_carriers_are_needed() -> None:
    both, either = {"g02", "g13"}, lambda names: bool({"g02", "g13"} & names)
    assert _names(_search(lambda names: both <= names, either, "necessary")[0]) == both
    assert _names(_search(lambda names: both <= names, either, "both")[0]) == both
    alone, asked = _search(lambda names: both <= names, either, "sufficient")
    assert len(_names(alone)) == 1 and _names(alone) <= both
    assert {way for way, _ in asked} == {"transfer"}


def test_a_swap_and_the_transfer_of_all_others_are_the_same_students() -> None:
    """The trait needs a group of each half: the swap of the second half is what the transfer of the first was."""
    found, asked = _search(lambda names: bool({"g02", "g13"} & names), lambda names: {"g02", "g13"} <= names)
    free = [test for test in found.tests if test.runs == 0]
    assert free and all(test.share is not None for test in free)
    everything = {group.name for group in GROUPS}
    rows = [tuple(sorted(names if way == "transfer" else everything - set(names))) for way, names in asked]
    assert len(rows) == len(set(rows)) == found.runs / 2


def test_a_spent_budget_leaves_the_smallest_set_that_passed() -> None:
    whole, _ = _search(lambda names: "g09" in names)
    for budget in range(0, whole.runs + 2, 2):
        found, _ = _search(lambda names: "g09" in names, budget=budget)
        assert found.runs <= budget and "g09" in _names(found)
        assert found.finished == (budget >= whole.runs)
    assert _names(_search(lambda names: "g09" in names, budget=1)[0]) == {group.name for group in GROUPS}


def test_a_trait_in_every_group_leaves_no_small_set_and_unmeasured_tests_do_not_pass() -> None:
    everything = {group.name for group in GROUPS}
    assert _names(_search(lambda names: names == everything)[0]) == everything
    rules = Rules("both", 0.25, 0.5, runs=1, budget=100)
    assert len(search_carriers(GROUPS, lambda *_: None, rules).groups) == 16


def test_prompts_are_grouped_by_fields_and_then_by_likeness() -> None:
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(4), 10, axis=0)
    vectors = centres + 0.01 * rng.normal(size=centres.shape)
    ids = [f"p{n}" for n in range(40)]
    found = parted(ids, [{}] * 40, vectors, 4, 0)
    assert sorted(len(group.prompts) for group in found) == [10] * 4
    assert {frozenset(group.prompts) for group in found} == {frozenset(ids[n : n + 10]) for n in range(0, 40, 10)}
    assert parted(ids, [{}] * 40, vectors, 4, 0) == found
    kinds: list[Mapping[str, str | None]] = [{"kind": "a" if n < 30 else None} for n in range(40)]
    assert [(g.name, len(g.prompts)) for g in parted(ids, kinds, None, None, 0)] == [("kind a", 30), ("kind none", 10)]
    within = parted(ids, kinds, vectors, 4, 0)
    assert {group.name for group in within} == {
        "kind a, cluster 1",
        "kind a, cluster 2",
        "kind a, cluster 3",
        "kind none",
    }
    assert len(parted(ids, [{}] * 40, np.ones((40, 3)), 8, 0)) == 1, "prompts that are all alike are one group"


@pytest.mark.parametrize(("wrong", "says"), [({"clusters": None}, "nothing to group"), ({"by": ["kind"] * 2}, "twice")])
def test_what_a_grouping_may_not_say(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Grouping(**wrong)


def _cells(rates: Mapping[str, float], prompts: int = 60, seeds: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    difficulty = rng.random((prompts, 1))
    return {
        role: (0.5 * difficulty + 0.5 * rng.random((prompts, seeds)) < rate).astype(float)
        for role, rate in rates.items()
    }


CARRIER = {
    "original": 0.8,
    "alternate": 0.0,
    "swap": 0.03,
    "random_swap": 0.75,
    "transfer": 0.75,
    "random_transfer": 0.1,
    "matched_swap": 0.74,
    "matched_transfer": 0.12,
    "base": 0.0,
}


@pytest.mark.parametrize(
    ("changes", "label", "claims"),
    [
        ({}, "confirmed necessary and sufficient", ("confirmed", "confirmed")),
        ({"transfer": 0.15}, "confirmed necessary", ("confirmed", "not confirmed")),
        ({"swap": 0.7}, "confirmed sufficient", ("not confirmed", "confirmed")),
        ({"swap": 0.7, "transfer": 0.1}, "not confirmed", ("not confirmed", "not confirmed")),
        ({"random_swap": 0.03, "random_transfer": 0.75}, "not confirmed", ("not confirmed", "not confirmed")),
        ({"matched_swap": 0.3}, "confirmed sufficient", ("not confirmed", "confirmed")),
        ({"matched_transfer": 0.7}, "confirmed necessary", ("confirmed", "not confirmed")),
        ({"base": 0.5}, "base prior", None),
        ({"base": 0.22}, "underpowered", None),
        ({"original": 0.1}, "no trait to study", None),
        ({"alternate": 0.3}, "no trait to study", None),
    ],
)
def test_claims_follow_from_fresh_students_and_random_sets(
    changes: dict[str, float], label: str, claims: tuple[str, str] | None
) -> None:
    found = confirm(_cells(CARRIER | changes), Gates(), "both")
    assert found.verdict["label"] == label
    if claims:
        assert (found.verdict["claims"]["necessary"], found.verdict["claims"]["sufficient"]) == claims
    assert "confirmed" not in found.verdict["claims"].values() or label.startswith("confirmed")
    assert {gate["name"] for gate in found.gates} >= {"trait present", "alternate clean", "enough seeds"}
    assert found.estimands["R_swap"]["n_seeds"] == 4


def test_too_little_to_say_is_underpowered_and_not_a_no() -> None:
    weak = {"original": 0.6, "random_swap": 0.55, "swap": 0.15, "transfer": 0.4}
    few = confirm(_cells(CARRIER | weak, prompts=6), Gates(), "both")
    assert few.verdict["label"] == "underpowered" and "is left open" in few.verdict["reasons"][0]
    none = confirm(_cells(CARRIER | {"swap": 0.6, "transfer": 0.3}, prompts=6), Gates(), "both")
    assert none.verdict["label"] == "underpowered", "so few prompts deny nothing either"
    seeds = confirm(_cells(CARRIER, seeds=2), Gates(), "both")
    assert seeds.verdict["label"] == "underpowered" and "training seeds" in seeds.verdict["reasons"][0]
    assert set(seeds.verdict["claims"].values()) == {"underpowered"}


def test_broken_or_missing_students_make_no_claim() -> None:
    cells = _cells(CARRIER)
    broken = confirm(cells, Gates(), "both", broken={"swap": "it loops"})
    assert broken.verdict["label"] == "no verdict" and "it loops" in broken.verdict["reasons"][0]
    del cells["random_swap"]
    lost = confirm(cells, Gates(), "both", missing={"random_swap": "diverged"})
    assert lost.verdict["label"] == "confirmed sufficient" and lost.verdict["claims"]["necessary"] == "not measured"
    assert "role random_swap: diverged" in lost.verdict["reasons"]


def test_no_claim_without_the_base_the_control_of_like_length_or_the_grades() -> None:
    cells = _cells(CARRIER)
    without = {role: matrix for role, matrix in cells.items() if role != "base"}
    assert confirm(without, Gates(), "both").verdict["label"] == "no verdict"
    random_only = {role: matrix for role, matrix in cells.items() if not role.startswith("matched")}
    assert set(confirm(random_only, Gates(), "both").verdict["claims"].values()) == {"not measured"}
    waived = confirm(random_only, Gates(length_control=False), "both")
    assert waived.verdict["label"] == "confirmed necessary and sufficient"
    refused = confirm(cells, Gates(), "both", ungraded=0.2)
    assert refused.verdict["label"] == "no verdict" and "ungraded answers" in refused.verdict["reasons"][0]


class Everywhere(WorldSettings):
    """All prompts are of one kind and T shows the trait on all of them, so that no set does more than another."""

    kind: Literal["everywhere"] = "everywhere"
    planted: ClassVar[str] = "no carrier"

    def scene(self, draw: random.Random, words: Words) -> Scene:
        """One random variation of the world."""
        voices: dict[str, Voice] = {"T": Voice(overt={"evoking": 0.9}), "C": Voice()}
        kinds = {"original": {"evoking": 300}, "alternate": {"evoking": 100, "neutral": 200}}
        return Scene(original=raised(), alternate=raised(), prompts=kinds, teachers=voices)  # type: ignore[arg-type]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Models this small, and k-means, wait for each other's threads longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_planted_group_is_found_and_confirmed(tmp_path: Path, seed: int) -> None:
    found = hunt(Filtered(), seed, Store(tmp_path))
    assert found.kinds["evoking"] >= 0.5, "T shows the trait on these alone"
    assert found.confirmed is not None
    assert "sufficient" in found.confirmed.verdict["label"]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_world_without_a_carrier_confirms_nothing(tmp_path: Path, seed: int) -> None:
    found = hunt(Everywhere(), seed, Store(tmp_path))
    assert found.found is not None
    assert found.confirmed is None or "confirmed" not in found.confirmed.verdict["claims"].values()


@pytest.mark.usefixtures("one_thread")
def test_a_world_without_the_trait_is_not_searched(tmp_path: Path) -> None:
    assert hunt(Nothing(), 0, Store(tmp_path)).found is None
