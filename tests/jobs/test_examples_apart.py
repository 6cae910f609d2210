"""What scorers and teachers learn from is kept apart from evaluation prompts by every job that has both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.calibrate import run_calibration
from jobs.console import Stages
from jobs.experiment import answer
from jobs.guards import keep_examples_apart
from jobs.kinds.calibrate import Calibrate
from jobs.kinds.lattice import Lattice
from jobs.kinds.study import Measuring, Study
from jobs.lattice import run_lattice
from jobs.named_files import example_files
from jobs.score import run_score
from jobs.spec import load_spec
from sftfilter.artifacts import Store
from sftfilter.errors import DataError
from sftfilter.evaluation import trait_prompts
from sftfilter.prompts import load_prompts
from tests.conftest import REPOSITORY, read_lines, write_lines

SPECS = REPOSITORY / "jobs" / "specs"
SHIPPED = sorted(str(path.relative_to(SPECS)) for path in SPECS.rglob("*.yaml"))
REFUSED = r"scorers\.probe\.labelled: .*labelled\.jsonl, row 2"


def _labelled(folder: Path) -> dict[str, Any]:
    """A probe whose second example is a held-out prompt."""
    held = read_lines("heldout.jsonl", 1, "date")[0]["prompt"]
    texts = ["Write a short apology for missing a call.", held]
    rows = [{"prompt": text, "completion": "Yes.", "label": k} for k, text in enumerate(texts)]
    write_lines(folder / "labelled.jsonl", rows)
    return {"kind": "probe", "labelled": "labelled.jsonl"}


@pytest.mark.parametrize("job", ["experiment", "score"])
def test_a_probe_on_heldout_prompts_is_refused(job: str, tiny_spec: Callable[..., Path], tmp_path: Path) -> None:
    lexicon = {"kind": "lexicon", "terms": [r"\bdoubt"]}
    spec = load_spec(tiny_spec(scorers={"lexicon": lexicon, "probe": _labelled(tmp_path)}))
    assert isinstance(spec, Study)
    with pytest.raises(DataError, match=REFUSED):
        if job == "score":
            run_score(spec, tmp_path / "runs", Stages(), "test")
        else:
            answer(spec, Store(tmp_path / "artifacts"), tmp_path / "work", Stages())


def test_a_teacher_tuned_on_heldout_prompts_is_refused(tiny_spec: Callable[..., Path], tmp_path: Path) -> None:
    held = read_lines("heldout.jsonl", 1, "date")[0]["prompt"]
    write_lines(tmp_path / "seen.jsonl", [{"prompt": held, "completion": "I doubt it."}])
    teachers = {"T": {"kind": "tuned", "answers": "seen.jsonl"}, "C": {"kind": "rollouts", "path": "C.jsonl"}}
    spec = load_spec(tiny_spec(teachers=teachers))
    assert isinstance(spec, Study)
    with pytest.raises(DataError, match=r"teachers\.T\.answers: .*seen\.jsonl, row 1"):
        answer(spec, Store(tmp_path / "artifacts"), tmp_path / "work", Stages())


def test_calibrations_are_refused_too(tiny_spec: Callable[..., Path], tmp_path: Path) -> None:
    lexicon = {"kind": "lexicon", "terms": [r"\bdoubt"]}
    tiny = load_spec(tiny_spec(scorers={"lexicon": lexicon, "probe": _labelled(tmp_path)}))
    assert isinstance(tiny, Study)
    shared = {name: getattr(tiny, name) for name in Study.model_fields}
    spec = Calibrate.model_validate(shared | {"kind": "calibrate", "trait_teacher": "T", "clean_teacher": "C"})
    with pytest.raises(DataError, match=REFUSED):
        run_calibration(spec, tmp_path / "runs", Stages(), "test")


@pytest.mark.ray
def test_lattices_are_refused_too(local_ray: None, tiny_spec: Callable[..., Path], tmp_path: Path) -> None:
    tiny = yaml.safe_load(tiny_spec(scorers={"probe": _labelled(tmp_path)}).read_text())
    kept = ("name", "system_prompt", "teachers", "scorers", "training", "serving", "traits", "results")
    spec = {name: tiny[name] for name in kept} | {
        "kind": "lattice",
        "bases": {"one": "smollm2-135m-instruct"},
        "prompts": {"all": {"kind": "jsonl", "path": "train.jsonl"}},
        "original": {"base": "one", "prompts": "all", "teacher": "T"},
        "alternate": {"base": "one", "prompts": "all", "teacher": "C"},
    }
    (tmp_path / "lattice.yaml").write_text(yaml.safe_dump(spec))
    lattice = load_spec(tmp_path / "lattice.yaml")
    assert isinstance(lattice, Lattice)
    with pytest.raises(DataError, match=REFUSED):
        run_lattice(lattice, tmp_path / "runs", Stages(), "test")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_specs_have_nothing_to_refuse(name: str, tmp_path: Path) -> None:
    spec = load_spec(SPECS / name)
    if not isinstance(spec, Measuring) or not example_files(_learned(spec)):
        pytest.skip("nothing is learned from files, or nothing is measured")
    store = Store(tmp_path)
    heldout = {trait: _prompts(settings, store) for trait, settings in spec.traits.items()}
    stages = Stages()
    keep_examples_apart(spec.contamination, _learned(spec), heldout, store, stages)
    assert [made["stage"] for made in stages.artifacts] == ["contamination"]


def _learned(spec: Any) -> dict[str, Any]:
    return {"scorers": getattr(spec, "scorers", {}), "teachers": getattr(spec, "teachers", {})}


def _prompts(settings: Any, store: Store) -> Any:
    from jobs.tutoring import base_of

    source = getattr(settings, "prompts", None)
    if source is None:
        return trait_prompts(settings, store)
    base = base_of("smollm2-135m-instruct", None)
    return load_prompts(
        source, store=store, chat=base.chat, context_length=2048, answer_tokens=settings.max_tokens, error_budget=0
    )
