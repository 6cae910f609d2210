"""Specs: fast to parse, strict, and errors that name line and remedy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.run import main
from jobs.spec import load_experiment, load_spec
from sftfilter.errors import SpecError
from tests.conftest import REPOSITORY

SPECS = sorted((REPOSITORY / "jobs" / "specs").glob("*.yaml"))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_shipped_spec_parses(path: Path) -> None:
    assert load_spec(path).summary()


def test_parsing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from jobs.spec import load_experiment, load_spec; import jobs.cli\n"
        f"load_spec({str(SPECS[0])!r})\n"
        "print([m for m in ('torch', 'ray', 'transformers', 'deepspeed', 'polars', 'inspect_ai', 'statsmodels') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert out.stdout.strip() == "[]"


def test_unknown_key_names_the_line_and_the_nearest_key(tiny_spec: Callable[..., Path]) -> None:
    path = tiny_spec(training={"epochs": 1, "learning_rat": 0.1})
    with pytest.raises(
        SpecError, match=r"spec\.yaml:\d+: training: .*'learning_rat', did you mean 'learning_rate'\?"
    ) as e:
        load_spec(path)
    line = int(str(e.value).split(":")[1])
    assert "learning_rat" in path.read_text().splitlines()[line - 1]


def test_unknown_trait_kind_names_the_valid_one(tiny_spec: Callable[..., Path]) -> None:
    path = tiny_spec(traits={"mood": {"kind": "despair", "prompts": {"kind": "jsonl", "path": "heldout.jsonl"}}})
    with pytest.raises(SpecError, match="date_confusion"):
        load_spec(path)


@pytest.mark.parametrize("place", ["s3://bucket/runs", "gs://bucket/runs", "file:///runs"])
def test_results_in_a_bucket_are_refused(tiny_spec: Callable[..., Path], place: str) -> None:
    remedy = "results need a folder that all nodes mount; only execution.checkpoints may be a bucket"
    with pytest.raises(SpecError, match=f"results: '{place}': {remedy}"):
        load_spec(tiny_spec(results=place))
    with pytest.raises(SpecError, match=f"results: '{place}': {remedy}"):
        load_spec(tiny_spec(), [f"results={place}"])
    assert load_spec(tiny_spec(), ["execution.checkpoints=s3://bucket/runs"])


SCORE = "kind: score\nname: x\nrollouts: {T: {kind: rollouts, path: t.jsonl}}\nscorers: {l: {kind: random}}\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: score", "kind: scoer", "spec.yaml:1: kind: unknown kind 'scoer', did you mean 'score'?; valid kinds: "),
        ("kind: score\n", "", "spec.yaml:1: kind: missing; valid kinds: experiment, "),
        ("kind: random", "kind: randm", "spec.yaml:4: scorers.l.kind: unknown kind 'randm', did you mean 'random'?"),
        ("{kind: random}", "{seed: 1}", "spec.yaml:4: scorers.l.kind: missing; valid kinds: "),
        ("name: x", "name: x\nscorer: {}", "spec.yaml:3: unknown key 'scorer', did you mean 'scorers'?"),
        ("{kind: random}", "{kind: random, seed: a}", "spec.yaml:4: scorers.l.seed: Input should be a valid integer"),
        ("name: x\n", "", "spec.yaml:1: name: Field required"),
    ],
)
def test_errors_of_the_union_name_line_field_and_remedy(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SCORE)
    assert load_spec(path).kind == "score"
    path.write_text(SCORE.replace(old, new))
    with pytest.raises(SpecError) as error:
        load_spec(path)
    assert str(error.value).startswith(f"{tmp_path}/{message}"), error.value
    assert "\n" not in str(error.value)


def test_rollouts_need_no_kind_and_a_path_with_a_secret_is_not_printed(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SCORE.replace("kind: rollouts, ", ""))
    assert load_spec(path).model_dump()["rollouts"]["T"]["path"] == str(tmp_path / "t.jsonl")
    path.write_text(SCORE.replace("path: t.jsonl", "path: 's3://b/k?secret_key=hunter2'"))
    with pytest.raises(
        SpecError, match=r"spec.yaml:3: rollouts.T.path: `secret_key` does not belong in a path"
    ) as error:
        load_spec(path)
    assert "hunter2" not in str(error.value)


def test_a_key_spelt_like_its_kind_keeps_its_line(tiny_spec: Callable[..., Path]) -> None:
    path = tiny_spec(selectors={"S": {"kind": "field", "field": "kind", "equals": 3}})
    with pytest.raises(SpecError, match=r"selectors\.S\.equals: ") as error:
        load_spec(path)
    assert "equals: 3" in path.read_text().splitlines()[int(str(error.value).split(":")[1]) - 1]


def test_a_job_that_needs_an_experiment_says_so(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SCORE)
    with pytest.raises(SpecError, match="needs an experiment"):
        load_experiment(tmp_path / "spec.yaml")


def _arm(**intervention: Any) -> dict[str, Any]:
    return {
        "arms": {"all-T": {"teacher": "T"}, "swap": {"teacher": "T", "intervention": {"subset": "S", **intervention}}}
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"roles": {"original": "all-T", "alternate": "al-T"}}, "no arm 'al-T', did you mean 'all-T'"),
        ({"arms": {"all-T": {"teacher": "X"}}}, "no teacher 'X'"),
        ({"selectors": {"S": {"kind": "threshold", "scorer": "lexicn", "at_least": 1}}}, "no scorer 'lexicn'"),
        ({"selectors": {"S": {"kind": "all_of", "of": ["S"]}}}, "refers to itself"),
        ({"selectors": {"S": {"kind": "threshold", "scorer": "lexicon"}}}, "exactly one of at_least, above"),
        ({"selectors": {"S": {"kind": "ids"}}}, "either ids or file"),
        ({"selectors": {"S": {"kind": "topk", "scorer": "lexicon", "k": 3}}}, "top_k"),
        (_arm(kind="swap", to=["T", "C"]), "`lowest` names the scorer"),
        (_arm(kind="swap", to=["T", "C"], lowest="lexicn"), "no scorer 'lexicn', did you mean 'lexicon'"),
        (_arm(kind="backfill", with_teacher="C"), "takes rows on the prompts of `reserve`, and there is none"),
        (_arm(kind="paraphrase", by="C"), "teacher 'C' is of kind rollouts"),
        (_arm(kind="neutralise", answer=" "), "answer"),
        ({"name": "../evil"}, "name"),
        ({"seeds": [1, 1]}, "listed twice"),
        ({"scorers": {"lexicon": {"kind": "lexicon", "terms": ["("]}}}, "not a regular expression"),
    ],
)
def test_references_and_values_are_checked(tiny_spec: Callable[..., Path], change: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_spec(tiny_spec(**change))


@pytest.mark.parametrize(
    ("change", "message", "line"),
    [
        ({"arms": {"all-T": {"teacher": "X"}}}, "arms.all-T.teacher: no teacher 'X'", "teacher: X"),
        ({"roles": {"original": "all-T", "alternate": "al-T"}}, "roles.alternate: no arm 'al-T'", "alternate: al-T"),
        (
            {"selectors": {"v1.2: S": {"kind": "threshold", "scorer": "lexicn", "at_least": 1}}},
            "selectors.v1.2: S: no scorer 'lexicn'",
            "scorer: lexicn",
        ),
        ({"selectors": {"S": {"kind": "all_of", "of": ["S"]}}}, "selectors.S refers to itself", "S:"),
        (_arm(kind="swap", to=["T", "D"], lowest="lexicon"), "arms.swap.intervention.to: no teacher 'D'", "- D"),
        (_arm(kind="drop_row"), "arms.swap.intervention.subset: no selector 'S'", "subset: S"),
        (_arm(kind="backfill", with_teacher="C"), "arms.swap.intervention: backfill takes rows", "intervention:"),
        ({"seeds": [1, 1]}, "seeds: a seed is listed twice", "seeds:"),
    ],
)
def test_names_that_refer_to_nothing_are_shown_with_their_line(
    tiny_spec: Callable[..., Path], change: dict, message: str, line: str
) -> None:
    if "subset: no selector" in message:
        change = change | {"selectors": {}}
    path = tiny_spec(**change)
    with pytest.raises(SpecError) as error:
        load_spec(path)
    number, found = str(error.value).removeprefix(f"{path}:").split(": ", 1)
    assert found.startswith(message)
    assert path.read_text().splitlines()[int(number) - 1].strip() == line


SCREENED = {"method": {"kind": "lora", "top_layers": 4}, "epochs": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confirm": ["all-T"]}, "nothing is screened; set training.method.top_layers"),
        ({"confirm": ["al-T"], "training": SCREENED}, "no arm 'al-T', did you mean 'all-T'"),
        (
            {"confirm": ["all-T", "swap"], "training": SCREENED},
            "confirm every arm that has a role, or none; missing: filter",
        ),
    ],
)
def test_what_is_confirmed_was_screened_and_is_comparable(
    tiny_spec: Callable[..., Path], change: dict, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        load_spec(tiny_spec(**change))


def test_confirmed_arms_get_adapters_on_every_layer(tiny_spec: Callable[..., Path]) -> None:
    spec = load_experiment(tiny_spec(confirm=["all-T", "swap", "filter"], training=SCREENED))
    for name in spec.arms:
        method = spec.training_of(name).method
        assert method.kind == "lora"
        assert method.top_layers == (4 if name == "base" else None)


def test_missing_file_and_broken_yaml(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        load_spec(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(SpecError, match="not valid YAML"):
        load_spec(tmp_path / "bad.yaml")


def test_overrides_are_yaml_and_checked(tiny_spec: Callable[..., Path]) -> None:
    spec = load_experiment(
        tiny_spec(), ["training.method={kind: full}", "seeds=[3, 4]", "selectors.flagged.at_least=2"]
    )
    assert spec.training.method.kind == "full"
    assert spec.seeds == [3, 4]
    with pytest.raises(SpecError, match="did you mean 'epochs'"):
        load_spec(tiny_spec(), ["training.epoch=3"])
    with pytest.raises(SpecError, match="expected key=value"):
        load_spec(tiny_spec(), ["training.epochs"])


@pytest.mark.parametrize("value", ["[a", "{a: b", "'a", "a: b: c", "@a"])
def test_an_override_that_is_no_yaml_says_so(tiny_spec: Callable[..., Path], value: str) -> None:
    with pytest.raises(SpecError, match=r"^--set system_prompt: .* is not valid YAML \(.*\); quote it"):
        load_spec(tiny_spec(), [f"system_prompt={value}"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sett", "name=x"], "unrecognized arguments: --sett"),
        (["name=x"], "unrecognized arguments: name=x"),
        (["--set"], "--set: expected one argument"),
        (["--set=nonsense"], "--set nonsense: expected key=value"),
        (["--set=basemodel=x", "--set", "seeds=[0]"], "did you mean 'base_model'"),
    ],
)
def test_the_jobs_command_passes_over_no_argument(
    tiny_spec: Callable[..., Path], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tiny_spec()), *arguments])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_spec_extends_another(tiny_spec: Callable[..., Path], tmp_path: Path) -> None:
    tiny_spec()
    (tmp_path / "more.yaml").write_text("extends: spec.yaml\nname: more\nseeds: [1, 2]\ntraining: {batch: 4}\n")
    spec = load_experiment(tmp_path / "more.yaml")
    assert (spec.name, spec.seeds, spec.training.batch, spec.training.epochs) == ("more", [1, 2], 4, 1)
    (tmp_path / "more.yaml").write_text("extends: ../spec.yaml\n")
    with pytest.raises(SpecError, match="same folder"):
        load_spec(tmp_path / "more.yaml")


def test_circles_and_anchors_that_explode(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(SpecError, match=r"a\.yaml extends b\.yaml extends a\.yaml"):
        load_spec(tmp_path / "a.yaml")
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 12)]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    with pytest.raises(SpecError, match="once its anchors are written out"):
        load_spec(tmp_path / "a.yaml")


@pytest.mark.parametrize("field", ["teachers", "scorers", "selectors", "arms", "traits"])
def test_names_in_a_spec_are_never_paths(tiny_spec: Callable[..., Path], field: str) -> None:
    path = tiny_spec()
    named = yaml.safe_load(path.read_text())[field]
    with pytest.raises(SpecError, match=r"'\.\./x' is not a name"):
        load_spec(tiny_spec(**{field: named | {"../x": next(iter(named.values()))}}))


def test_paths_are_relative_to_the_spec_and_the_hash_is_not(tiny_spec: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first, second = load_experiment(tiny_spec()), load_experiment(tiny_spec(tmp_path / "other"))
    assert first.prompts.path == str(tmp_path / "train.jsonl")
    assert first.spec_hash == second.spec_hash
    assert load_spec(tiny_spec(), ["seeds=[5]"]).spec_hash != first.spec_hash
    assert load_spec(tiny_spec(), ["execution.workers=7"]).spec_hash == first.spec_hash


def test_round_trip_through_yaml(tiny_spec: Callable[..., Path], tmp_path: Path) -> None:
    spec = load_spec(tiny_spec())
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(spec.model_dump(mode="json")))
    assert load_spec(again) == spec
