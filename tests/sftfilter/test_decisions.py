"""Selectors and interventions: exact subsets, a decision for every row, and a plain recount that agrees."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import TypeAdapter, ValidationError

from sftfilter.errors import DataError, SpecError
from sftfilter.interventions import Decided, DropPrompt, DropRow, Intervention, decide, reserve_pool
from sftfilter.score_frame import ScoreFrame, score_frame
from sftfilter.selectors import Selection, Selector, check_references, scorers_of, select

SCORES = [2.0, 0.0, 1.0, None, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def _rollouts(letter: str, prompts: Sequence[str]) -> pl.LazyFrame:
    ids = [f"{letter}{i}" for i in range(len(prompts))]
    texts = [letter * (i + 1) for i in range(len(prompts))]
    return pl.LazyFrame({"rollout_id": ids, "prompt_id": prompts, "source": "f", "kind": "", "completion": texts})


def _scores(scores: Mapping[str, float | None]) -> pl.LazyFrame:
    return pl.LazyFrame(
        {"rollout_id": list(scores), "score": list(scores.values())}, schema_overrides={"score": pl.Float64}
    )


@pytest.fixture(scope="module")
def frame() -> ScoreFrame:
    """Teachers T, C and D with two answers to each of five prompts, and C's one answer to four reserve prompts."""
    twice = [f"p{i // 2}" for i in range(10)]
    prompts = pl.LazyFrame(
        {"prompt_id": [f"p{i}" for i in range(6)], "kind": ["date"] * 2 + ["neutral"] * 4, "source": ["a", "b"] * 3}
    )
    rollouts = {letter: _rollouts(letter, twice) for letter in "TCD"}
    rollouts[reserve_pool("C")] = _rollouts("R", [f"r{i}" for i in range(5)])
    lexicon = dict(zip([f"T{i}" for i in range(10)], SCORES, strict=True))
    judge = {f"C{i}": float(i) for i in range(10)} | {f"D{i}": 4.5 for i in range(10)}
    return score_frame(rollouts, {"lexicon": _scores(lexicon), "judge": _scores(judge)}, prompts, lengths=True)


def _selectors(**settings: Mapping[str, Any]) -> dict[str, Selector]:
    known = {
        "flagged": {"kind": "threshold", "scorer": "lexicon", "at_least": 1},
        "S": {"kind": "field", "equals": "date"},
        "random": {"kind": "random", "size_of": "S"},
    }
    return TypeAdapter(dict[str, Selector]).validate_python(known | settings)


def _rows(chosen: Selection) -> set[str]:
    return set(chosen.pool.frame.rollout_ids.slice(chosen.pool.start, len(chosen.pool)).filter(pl.Series(chosen.rows)))


def _pick(
    frame: ScoreFrame, seed: int = 0, teacher: str | None = "T", by_row: bool = False, **settings: Any
) -> Selection:
    return select("x", _selectors(x=settings), frame.pool(teacher), seed, by_row=by_row)


@pytest.mark.parametrize(
    ("settings", "rows", "unscored"),
    [
        ({"kind": "threshold", "scorer": "lexicon", "at_least": 1}, "T0 T2 T5", 1),
        ({"kind": "threshold", "scorer": "lexicon", "above": 1}, "T0", 1),
        ({"kind": "threshold", "scorer": "lexicon", "below": 1}, "T1 T4 T6 T7 T8 T9", 1),
        ({"kind": "threshold", "scorer": "lexicon", "at_most": 1}, "T1 T2 T4 T5 T6 T7 T8 T9", 1),
        ({"kind": "top_k", "scorer": "lexicon", "k": 2}, "T0 T2", 1),  # T2 and T5 tie: the lower id
        ({"kind": "top_k", "scorer": "lexicon", "k": 2, "order": "lowest"}, "T1 T4", 1),
        ({"kind": "top_fraction", "scorer": "lexicon", "fraction": 0.5}, "T0 T2 T5 T1 T4", 1),  # 4.5 of 9 scored
        ({"kind": "quantile", "scorer": "lexicon", "above": 0.5, "within": "kind"}, "T0 T5", 1),
        ({"kind": "quantile", "scorer": "lexicon", "at_most": 0, "within": "source"}, "T1 T4 T6 T7 T8 T9", 1),
        ({"kind": "ids", "ids": ["p1", "T9", "C0"]}, "T2 T3 T9", 0),
        ({"kind": "all_of", "of": ["S", "flagged"]}, "T0 T2", 1),
        ({"kind": "any_of", "of": ["S", "flagged"]}, "T0 T1 T2 T3 T5", 0),
        ({"kind": "difference", "of": "S", "minus": ["flagged"]}, "T1", 1),  # T3 may be flagged: nobody knows
        ({"kind": "field", "field": "source", "equals": "b"}, "T2 T3 T6 T7", 0),
    ],
)
def test_subsets_are_exact_and_missing_scores_never_select(
    frame: ScoreFrame, settings: Mapping[str, Any], rows: str, unscored: int
) -> None:
    chosen = _pick(frame, **settings)
    assert _rows(chosen) == set(rows.split())
    assert chosen.summary()["rows"] == len(rows.split())
    assert chosen.unscored == unscored
    assert chosen.prompts.sum() == len({f"p{int(row[1:]) // 2}" for row in rows.split()})


def test_the_score_at_the_cut_is_kept(frame: ScoreFrame) -> None:
    assert _pick(frame, kind="top_k", scorer="lexicon", k=1).threshold == 2
    assert _pick(frame, kind="top_fraction", scorer="lexicon", fraction=0.2, order="lowest").threshold == 0
    assert _pick(frame, kind="all_of", of=["S", "flagged"]).threshold == 1


def test_random_controls_match_and_move_with_the_seed(frame: ScoreFrame) -> None:
    drawn = [_pick(frame, seed, kind="random", size_of="S") for seed in range(20)]
    assert {(d.prompts.sum(), d.rows.sum()) for d in drawn} == {(2, 4)}
    assert len({frozenset(_rows(d)) for d in drawn}) > 3
    assert _rows(_pick(frame, 4, kind="random", size_of="S")) == _rows(drawn[4])
    by_rows = [_rows(_pick(frame, seed, kind="random", size_of="flagged", match="rows")) for seed in range(20)]
    assert {len(rows) for rows in by_rows} == {3}
    assert len({frozenset(rows) for rows in by_rows}) > 3


def test_length_matched_random_rows_have_exact_counts_per_bin_and_none_of_the_others(frame: ScoreFrame) -> None:
    like = {"kind": "length_matched_random", "by_row": True}
    drawn = [_rows(_pick(frame, s, size_of="flagged", bins=2, **like)) for s in range(20)]
    for rows in drawn:  # answer i has i + 1 characters; T0 and T2 are in the shorter half, T5 in the longer
        assert rows.isdisjoint({"T0", "T2", "T5"})
        assert sorted(int(row[1:]) < 5 for row in rows) == [False, True, True]
    assert len({frozenset(rows) for rows in drawn}) > 3
    with pytest.raises(DataError, match=r"selector x: too few rows outside 'S'.*length 1 to 3.25: 3 wanted, 0 there"):
        _pick(frame, size_of="S", bins=4, **like)
    with pytest.raises(DataError, match="1 rows of 'S' have no length by 'lexicon'"):
        _pick(frame, kind="length_matched_random", size_of="S", by="lexicon")


def test_length_matched_random_prompts_are_as_many_outside_the_others_prompts() -> None:
    """Three answers to each of twelve prompts, those of every second one long, of which one is flagged in two prompts."""
    ids, words = [f"T{i:02}" for i in range(36)], [100 if i // 3 % 2 else 1 for i in range(36)]
    rows = {"rollout_id": ids, "prompt_id": [f"p{i // 3:02}" for i in range(36)], "source": "f", "kind": ""}
    rollouts = {"T": pl.LazyFrame(rows | {"completion": ["x" * count for count in words]})}
    flags = {name: float(name in ("T04", "T30")) for name in ids}  # a long answer to p01, a short one to p10
    frame = score_frame(rollouts, {"lexicon": _scores(flags)}, lengths=True)
    like = {"kind": "length_matched_random", "size_of": "flagged", "bins": 2}
    drawn = [_pick(frame, seed, **like) for seed in range(20)]
    for one in drawn:
        prompts = {int(row[1:]) // 3 for row in _rows(one)}
        assert len(_rows(one)) == 6 and prompts.isdisjoint({1, 10})
        assert sorted(number % 2 for number in prompts) == [0, 1]
    assert len({frozenset(_rows(one)) for one in drawn}) > 10
    with pytest.raises(DataError, match=r"too few prompts outside 'all-long'"):
        many = {"all-long": {"kind": "ids", "ids": [f"p{n:02}" for n in range(1, 12, 2)]}}
        select("x", _selectors(x=like | {"size_of": "all-long"}, **many), frame.pool("T"), 0)


def test_ids_from_a_file_and_unknown_ones_are_named(frame: ScoreFrame, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("p4\n\nT0\n")
    assert _rows(_pick(frame, kind="ids", file=str(tmp_path / "ids.txt"))) == {"T8", "T9", "T0"}
    assert _rows(_pick(frame, kind="ids", ids=["p5"])) == set()  # a prompt that nobody answered is known
    with pytest.raises(DataError, match=r"selector x: 2 of 3 listed ids .*: T99, p9"):
        _pick(frame, kind="ids", ids=["p9", "T99", "p1"])
    with pytest.raises(DataError, match=r"none.txt: the list of ids cannot be read"):
        _pick(frame, kind="ids", file=str(tmp_path / "none.txt"))


OWN = [None, "a-1", "a-2", "a-2", "shared", None, "shared", None, None, None]


def _own_frame() -> ScoreFrame:
    """What T's file calls its rows, two to a prompt; what C's calls its own; and what the file of prompts calls p4."""
    twice = [f"p{i // 2}" for i in range(10)]
    known = {"prompt_id": [f"p{i}" for i in range(6)], "kind": "", "source": "a"}
    prompts = pl.LazyFrame(known | {"source_id": [None, None, None, None, "q-4", "q-5"]})
    rollouts = {
        "T": _rollouts("T", twice).with_columns(source_id=pl.Series(OWN)),
        "C": _rollouts("C", twice).with_columns(source_id=pl.Series([f"c-{i}" for i in range(9)] + ["q-4"])),
        "D": _rollouts("D", twice).with_columns(source_id=pl.Series(["q-4"] * 10)),
    }
    return score_frame(rollouts, {}, prompts, source_ids=True)


def test_own_ids_are_resolved_to_rows_and_prompts() -> None:
    own = _own_frame()
    for ids, rows in {
        ("a-1",): {"T1"},
        ("a-2",): {"T2", "T3"},  # several answers to one prompt that are called alike
        ("q-4", "a-1"): {"T8", "T9", "T1"},  # by the file of prompts: every answer
        ("q-4", "T0", "p1"): {"T8", "T9", "T0", "T2", "T3"},  # mixed with computed ones
        ("c-0", "q-5"): set(),  # another teacher's, and a prompt that nobody answered: both are known
    }.items():
        assert _rows(_pick(own, kind="ids", ids=list(ids))) == rows
    assert _rows(_pick(own, teacher="C", kind="ids", ids=["q-4", "c-0", "a-1"])) == {"C8", "C9", "C0"}
    with pytest.raises(DataError, match=r"'shared' \(prompt ids p2, p3\); list the prompt ids that you mean"):
        _pick(own, kind="ids", ids=["shared", "a-1"])
    assert _rows(_pick(own, teacher="C", kind="ids", ids=["shared"])) == set()  # no row of C is called so
    with pytest.raises(DataError, match=r"1 listed ids stand for several prompts each: 'q-4' \(prompt ids p0, p1, p2"):
        _pick(own, teacher="D", kind="ids", ids=["q-4"])  # the file of prompts and D's disagree
    with pytest.raises(DataError, match=r"1 of 3 listed ids are neither .*: a-3; list your own"):
        _pick(own, kind="ids", ids=["a-3", "a-2", "T1"])


def test_what_cannot_be_selected_is_an_error_that_names_it(frame: ScoreFrame) -> None:
    with pytest.raises(DataError, match="there are: date, neutral"):
        _pick(frame, kind="field", equals="dates")
    with pytest.raises(SpecError, match="did you mean 'random'"):
        select("randm", _selectors(), frame.pool("T"), 0)
    with pytest.raises(DataError, match="10 rows are asked for, and 9 have a score by 'lexicon'"):
        _pick(frame, kind="top_k", scorer="lexicon", k=10)
    with pytest.raises(DataError, match="no scores by 'lexicon' for the rows of teacher 'C'"):
        _pick(frame, teacher="C", kind="threshold", scorer="lexicon", at_least=1)
    with pytest.raises(ValidationError, match="exactly one of"):
        _selectors(x={"kind": "threshold", "scorer": "lexicon", "at_least": 1, "below": 2})
    with pytest.raises(ValueError, match=r"selectors.x refers to itself"):
        check_references(_selectors(x={"kind": "difference", "of": "S", "minus": ["x"]}), {"lexicon": 0})
    assert scorers_of("x", _selectors(x={"kind": "any_of", "of": ["S", "flagged"]})) == ["lexicon"]


def _decide(frame: ScoreFrame, teacher: str = "T", seed: int = 0, **settings: Any) -> Decided:
    both = {"both": {"kind": "all_of", "of": ["S", "flagged"]}}
    intervention: Any = TypeAdapter(Intervention).validate_python(settings)
    return decide(frame, _selectors(**both), intervention, teacher=teacher, original="T", seed=seed)


def test_drop_prompt_takes_every_row_of_the_prompt_and_drop_row_only_the_flagged(frame: ScoreFrame) -> None:
    whole = _decide(frame, kind="drop_prompt", subset="both")
    rows = _decide(frame, kind="drop_row", subset="both")
    assert (whole.counts["kept"], whole.counts["dropped"]) == (6, 4)
    assert (rows.counts["kept"], rows.counts["dropped"], rows.counts["trained"]) == (8, 2, 8)
    table = rows.decisions()
    assert set(table.filter(table["action"] == "drop")["rollout_id"]) == {"T0", "T2"}
    assert set(table["selector"]) == {"both"} and set(table["threshold"]) == {1.0}
    assert _decide(frame, teacher="C", kind="drop_prompt", subset="both").counts["dropped"] == 4, "S is T's"


def test_a_random_control_counts_as_the_intervention_on_it_does(frame: ScoreFrame) -> None:
    selectors = _selectors(like={"kind": "random", "size_of": "flagged"})
    for intervention in (DropRow(kind="drop_row", subset="flagged"), DropPrompt(kind="drop_prompt", subset="flagged")):
        real = decide(frame, selectors, intervention, teacher="T")
        control = decide(frame, selectors, intervention.model_copy(update={"subset": "like"}), teacher="T")
        assert control.counts["dropped"] == real.counts["dropped"] > 0


def test_swap_replaces_row_by_row_on_the_same_prompt(frame: ScoreFrame) -> None:
    table = _decide(frame, kind="swap", subset="S", to="C").decisions()
    swapped = table.filter(table["action"] == "swap")
    assert swapped.select("prompt_id", "rollout_id", "replaced_by").rows() == [
        ("p0", "T0", "C0"), ("p0", "T1", "C1"), ("p1", "T2", "C2"), ("p1", "T3", "C3")
    ]  # fmt: skip
    assert table["replaced_by"].null_count() == 6


def test_swap_to_the_lowest_scoring_of_several(frame: ScoreFrame) -> None:
    flagged = _decide(frame, kind="swap", subset="flagged", to=["C", "D"], lowest="judge").decisions()
    found = dict(flagged.filter(flagged["action"] == "swap").select("rollout_id", "replaced_by").rows())
    # C's answers score 0 to 9 in their order, all of D's 4.5; on p2 one of each is among the two lowest.
    assert found == {"T0": "C0", "T1": "C1", "T2": "C2", "T3": "C3", "T4": "C4", "T5": "D4"}


def test_backfill_drops_and_refills_to_the_same_number(frame: ScoreFrame) -> None:
    drawn = [_decide(frame, seed=seed, kind="backfill", subset="S", with_teacher="C") for seed in range(8)]
    added = [d.decisions().filter(pl.col("action") == "add") for d in drawn]
    assert {d.counts["trained"] for d in drawn} == {10}
    assert all(a["rollout_id"].str.starts_with("R").all() and a["rollout_id"].n_unique() == 4 for a in added)
    assert len({frozenset(a["rollout_id"]) for a in added}) > 1
    with pytest.raises(DataError, match="6 rows are dropped, and teacher 'C' has 5 answers to the reserve"):
        _decide(frame, kind="backfill", subset="flagged", with_teacher="C")


def test_rewrites_are_filled_in_and_a_missing_one_is_a_dropped_row(frame: ScoreFrame) -> None:
    decided = _decide(frame, teacher="C", kind="neutralise", subset="S", answer="It is fine.")
    assert decided.to_rewrite.to_list() == ["C0", "C1", "C2", "C3"]
    assert decided.answer_numbers.to_list() == [0, 1, 0, 1]
    made = pl.DataFrame({"derived_from": ["C0", "C1", "C3"], "rollout_id": ["n0", "n1", "n3"]})
    table = decided.decisions(made).filter(pl.col("reason").str.contains("prompt in subset 'S'"))
    assert table["action"].to_list() == ["rewrite", "rewrite", "drop", "rewrite"]
    assert table["replaced_by"].to_list() == ["n0", "n1", None, "n3"]
    assert table["reason"][2].endswith("no rewrite was made")


def test_a_missing_partner_is_an_error_that_names_the_prompt() -> None:
    rollouts = {"T": _rollouts("T", ["p0", "p0", "p1", "p1"]), "C": _rollouts("C", ["p0", "p0", "p1", "p2"])}
    prompts = pl.LazyFrame({"prompt_id": ["p0", "p1", "p2"], "kind": "date", "source": "a"})
    short = score_frame(rollouts, {}, prompts)
    with pytest.raises(DataError, match=r"1 of 2 prompts .* prompt ids p1"):
        _decide(short, kind="swap", subset="S", to="C")
    with pytest.raises(DataError, match=r"1 prompts in subset 'S' have no answer from this arm's own teacher.*p1"):
        rollouts["C"] = _rollouts("C", ["p0", "p0"])
        _decide(score_frame(rollouts, {}, prompts), teacher="C", kind="swap", subset="S", to="T")
    doubled = {"T": _rollouts("T", ["p0"]), "C": _rollouts("T", ["p1"])}
    with pytest.raises(DataError, match="1 rollout ids are there more than once: T0"):
        score_frame(doubled, {})


def test_fewer_answers_from_there_are_refused_or_used_again() -> None:
    rollouts = {"T": _rollouts("T", ["p0", "p0", "p0", "p1"]), "C": _rollouts("C", ["p0", "p0", "p1"])}
    prompts = pl.LazyFrame({"prompt_id": ["p0", "p1"], "kind": "date", "source": "a"})
    few = score_frame(rollouts, {}, prompts)
    with pytest.raises(DataError, match=r"1 of 2 prompts .* ids p0\. .* `too_few: repeat` for the 1 that have some"):
        _decide(few, kind="swap", subset="S", to="C")
    table = _decide(few, kind="swap", subset="S", to="C", too_few="repeat").decisions()
    assert table["replaced_by"].to_list() == ["C0", "C1", "C0", "C2"]
    none = score_frame(rollouts | {"C": _rollouts("C", ["p0"])}, {}, prompts)
    with pytest.raises(
        DataError, match=r"1 of 2 prompts .* prompt ids p1\. Have these prompts answered, select others\."
    ):
        _decide(none, kind="swap", subset="S", to="C", too_few="repeat")


def test_without_an_intervention_everything_is_kept(frame: ScoreFrame) -> None:
    decided = decide(frame, {}, None, teacher="T")
    assert decided.counts == {"kept": 10, "dropped": 0, "swapped": 0, "rewritten": 0, "added": 0, "trained": 10}
    assert set(decided.decisions()["reason"]) == {"no intervention"}


@dataclass
class World:
    """Random rows as plain Python, the oracle's view: teacher -> [(rollout id, prompt id, score)]."""

    rows: dict[str, list[tuple[str, str, float | None]]]

    @classmethod
    def random(cls, seed: int) -> World:
        rng = random.Random(seed)
        rows: dict[str, list[tuple[str, str, float | None]]] = {"T": [], "C": [], "D": []}
        for prompt in range(60):
            answers = rng.choice([1, 1, 2, 3])
            for teacher, times in (("T", answers), ("C", answers + rng.choice([0, 1])), ("D", rng.choice([3, 4]))):
                for _ in range(times):
                    missing = teacher == "T" and rng.random() < 0.2
                    score = None if missing else float(rng.randrange(5))
                    rows[teacher].append((f"{rng.randrange(16**8):08x}{teacher}", f"p{prompt:02}", score))
        for answered in rows.values():
            rng.shuffle(answered)
        return cls(rows)

    def frame(self) -> ScoreFrame:
        lazy = {
            t: pl.LazyFrame(
                {"rollout_id": [r for r, _, _ in rows], "prompt_id": [p for _, p, _ in rows], "source": "f", "kind": ""}
            )
            for t, rows in self.rows.items()
        }
        return score_frame(lazy, {"judge": _scores({r: s for rows in self.rows.values() for r, _, s in rows})})

    def expected(self, kind: str, at_least: float, to: Sequence[str] = ()) -> dict[str, tuple[str, str | None]]:
        """Rollout id of T -> (action, replaced by), read off the definition."""
        own = sorted(self.rows["T"])
        flagged = {r for r, _, s in own if s is not None and s >= at_least}
        prompts = {p for r, p, _ in own if r in flagged}
        found: dict[str, tuple[str, str | None]] = {}
        used: dict[str, int] = {}
        for rollout, prompt, _ in own:
            hit = rollout in flagged if kind == "drop_row" else prompt in prompts
            if not hit:
                found[rollout] = ("keep", None)
            elif kind == "swap":
                others = [(s if len(to) > 1 else 0, r) for t in to for r, p, s in self.rows[t] if p == prompt]
                found[rollout] = ("swap", sorted(others)[used.get(prompt, 0)][1])
                used[prompt] = used.get(prompt, 0) + 1
            else:
                found[rollout] = ("rewrite" if kind == "neutralise" else "drop", None)
        return found


@pytest.mark.parametrize("seed", range(5))
def test_the_vectorised_decisions_are_those_of_a_plain_recount(seed: int) -> None:
    world = World.random(seed)
    frame = world.frame()
    for at_least in (0.0, 2.0, 4.0, 9.0):
        chosen = TypeAdapter(dict[str, Selector]).validate_python(
            {"S": {"kind": "threshold", "scorer": "judge", "at_least": at_least}}
        )
        for settings, to in (
            ({"kind": "drop_prompt"}, ()),
            ({"kind": "drop_row"}, ()),
            ({"kind": "swap", "to": "C"}, ("C",)),
            ({"kind": "swap", "to": ["C", "D"], "lowest": "judge"}, ("C", "D")),
            ({"kind": "neutralise", "answer": "Yes."}, ()),
        ):
            intervention: Any = TypeAdapter(Intervention).validate_python(settings | {"subset": "S"})
            table = decide(frame, chosen, intervention, teacher="T").decisions()
            found = {r: (a, b) for r, a, b in table.select("rollout_id", "action", "replaced_by").iter_rows()}
            assert found == world.expected(settings["kind"], at_least, to), (settings, at_least)
            prompt_of = {r: p for rows in world.rows.values() for r, p, _ in rows}
            assert all(prompt_of[r] == p for p, r in table.select("prompt_id", "rollout_id").iter_rows())
