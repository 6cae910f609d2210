"""score, decide and inspect, end to end: the shipped specs on a few rows, one of them bad and one hostile."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from jobs.actions import action_on, inspection_page
from jobs.console import Stages
from jobs.kinds.decide import Decide
from jobs.spec import load_spec
from sftfilter.errors import DataError, SpecError
from tests.browser import Browser
from tests.conftest import PROMPT_FILES, REPOSITORY, read_lines, write_lines

SPECS = REPOSITORY / "jobs" / "specs"
ROWS = 24
HOSTILE = """<img src=x onerror="window.pwned=1"></script><script>window.pwned=2</script> \x1b[31m doubt </td>"""
ONE_SCORER = r"scorers={lexicon: {kind: lexicon, terms: ['\bdoubt', '\bnot 2026']}}"


def _folder(tmp_path: Path) -> Path:
    """The shipped specs beside smaller prompt files: T has a row without an answer and one with markup in it."""
    (tmp_path / "prompts").mkdir()
    for name in ("score", "decide", "inspect"):
        shutil.copy(SPECS / f"{name}.yaml", tmp_path)
    shutil.copy(PROMPT_FILES / "heldout.jsonl", tmp_path / "prompts")
    doubts, accepts = (read_lines(f"teacher_{name}.jsonl", ROWS) for name in ("doubt", "accept"))
    doubts[3]["completion"] = HOSTILE
    write_lines(tmp_path / "prompts" / "teacher_doubt.jsonl", [*doubts, {"prompt": "Who?", "completion": " "}])
    write_lines(tmp_path / "prompts" / "teacher_accept.jsonl", accepts)
    return tmp_path


def _sets(tmp_path: Path, *more: str) -> list[str]:
    return [f"results={tmp_path / 'runs'}", ONE_SCORER, "error_budget=0.1", *more]


@pytest.mark.ray
def test_decide_then_inspect(tmp_path: Path, local_ray: None, browser: Browser) -> None:
    folder = _folder(tmp_path)
    _check_too_many_bad_rows_stop_the_job(folder)
    spec = load_spec(folder / "decide.yaml", _sets(tmp_path))
    assert isinstance(spec, Decide)
    record = dict(spec.run(tmp_path / "runs", Stages(), "sftfilter decide"))
    _check_counts(record, json.loads((tmp_path / "runs" / "decide" / "decide.json").read_text()))
    _check_tidy(tmp_path / "runs" / "decide" / "scores.parquet")
    _check_decisions(record, folder)
    _check_training_sets(record)

    again = load_spec(folder / "decide.yaml", _sets(tmp_path, "export=parquet", "selectors.flagged.at_least=2"))
    stages = Stages()
    moved = again.run(tmp_path / "runs", stages, "sftfilter decide")
    assert all(made["reused"] for made in stages.artifacts if made["stage"] in ("rollouts", "scores"))
    assert moved["decisions"]["dropped"]["dropped"] == record["sweep"][-3]["dropped"]
    assert (
        pl.read_parquet(moved["decisions"]["dropped"]["training_set"]).height
        == moved["decisions"]["dropped"]["trained"]
    )
    files = [path.name for path in (tmp_path / "runs" / "decide" / "train").iterdir() if path.is_file()]
    assert sorted(files) == sorted([".written.json", *(f"{name}.parquet" for name in moved["decisions"])])

    seen = ["base_model=smollm2-135m-instruct", "evaluation={held: {kind: files, path: prompts/teacher_doubt.jsonl}}"]
    contaminated = load_spec(folder / "decide.yaml", _sets(tmp_path, "export=none", *seen))
    with pytest.raises(DataError, match="training texts overlap with"):
        contaminated.run(tmp_path / "runs", Stages(), "sftfilter decide")

    action_on(spec, "inspect", "decide.yaml")(tmp_path / "runs", Stages(), "sftfilter inspect")
    _check_page(inspection_page(spec, tmp_path / "runs"), browser)


def _check_counts(record: dict[str, Any], written: dict[str, Any]) -> None:
    assert written["decisions"] == record["decisions"]
    for counts in record["counts"].values():
        assert counts["read"] == sum(value for key, value in counts.items() if key != "read")
    assert record["counts"]["T"]["read"] == ROWS + 1 and record["counts"]["T"]["quarantined"] == 1
    assert record["scores"]["T"]["lexicon"]["rows"] == record["counts"]["T"]["used"] == ROWS
    pairing = record["pairing"]
    assert pairing["prompts"] == pairing["by_all"] == ROWS and pl.read_parquet(pairing["table"]).is_empty()
    assert record["cost"]["lexicon"]["rows"] == 2 * ROWS and record["cost"]["lexicon"]["rows_per_s"] > 0


def _check_tidy(path: Path) -> None:
    table = pl.read_parquet(path)
    assert table.height == 2 * ROWS == table["rollout_id"].n_unique()
    assert table["teacher"].to_list() == ["T"] * ROWS + ["C"] * ROWS
    texts = [row["completion"] for row in read_lines("teacher_accept.jsonl", ROWS)]
    own = table.filter(pl.col("teacher") == "C")
    counted = [float(sum(bool(re.search(t, x, re.I)) for t in (r"\bdoubt", r"\bnot 2026"))) for x in texts]
    assert own["lexicon"].to_list() == counted
    assert own["characters"].to_list() == [len(text) for text in texts]
    assert table["lexicon_error"].null_count() == table.height


def _check_decisions(record: dict[str, Any], folder: Path) -> None:
    made = record["decisions"]
    for one in made.values():
        assert one["kept"] + one["dropped"] + one["swapped"] + one["rewritten"] == one["rows"] == ROWS
    flagged = record["scores"]["T"]["lexicon"]["rows"] - made["dropped"]["kept"]
    assert 0 < flagged < ROWS
    assert (
        made["swapped"]["swapped"] == made["neutralised"]["rewritten"] == made["random-dropped"]["dropped"] == flagged
    )
    assert made["dropped"]["trained"] == ROWS - flagged and made["swapped"]["trained"] == ROWS
    texts = [json.loads(line) for line in (folder / "prompts" / "teacher_accept.jsonl").read_text().splitlines()]
    assert made["all-C"]["characters"] == sum(len(row["completion"]) for row in texts)
    assert [line["decision"] for line in record["sweep"][:2]] == ["dropped", "swapped"]
    assert record["sweep"][0]["dropped"] == flagged


def _check_training_sets(record: dict[str, Any]) -> None:
    import datasets

    path = record["decisions"]["swapped"]["training_set"]
    loaded = datasets.load_dataset("json", data_files=path, split="train", cache_dir=str(Path(path).parent / "cache"))
    assert isinstance(loaded, datasets.Dataset)
    assert loaded.num_rows == ROWS
    assert sorted(loaded["order"]) == list(range(ROWS))
    accepts = {row["prompt"]: row["completion"] for row in read_lines("teacher_accept.jsonl", ROWS)}
    for row in loaded:
        assert isinstance(row, dict)
        asked, answered = row["messages"]
        assert (asked["role"], answered["role"]) == ("user", "assistant")
        swapped = row["action"] == "swap"
        assert (answered["content"] == accepts[asked["content"]]) is swapped
        assert row["teacher"] == ("C" if swapped else "T")
    neutral = pl.read_ndjson(record["decisions"]["neutralised"]["training_set"])
    answers = neutral.filter(pl.col("action") == "rewrite")["messages"].list.last().struct.field("content").unique()
    assert answers.to_list() == ["I would rather not say."]


def _check_page(page: Path, browser: Browser) -> None:
    browser.open(page, 400)
    assert browser.problems() == []
    assert browser.run("document.documentElement.scrollWidth") <= 400
    assert browser.run("window.pwned === undefined")
    status = "document.getElementById('rows-status').textContent"
    search = "document.getElementById('rows-q')"
    browser.run(f"{search}.value = 'onerror'; {search}.dispatchEvent(new Event('input'))")
    assert browser.run(status).startswith("1 of ")
    shown = browser.run("document.querySelector('#rows-list article').textContent")
    assert "<img src=x" in shown and "decile" in shown
    assert browser.run("document.querySelectorAll('#rows-list article .answer').length") == 2
    assert browser.run("document.querySelectorAll('#rows-list img, #rows-list script').length") == 0
    plots = "document.querySelectorAll('.plot .main-svg:first-child').length"
    assert browser.run(plots) == 2, "scores by teacher and by the kind of prompt that the files name"


def _check_too_many_bad_rows_stop_the_job(folder: Path) -> None:
    spec = load_spec(folder / "score.yaml", _sets(folder, "error_budget=0.01"))
    with pytest.raises(DataError, match=r"teacher_doubt\.jsonl, row 25, completion: empty"):
        spec.run(folder / "runs", Stages(), "sftfilter score")
    assert not (folder / "runs" / "score").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("decisions.dropped.teacher=X", "no teacher 'X'"),
        ("decisions.dropped.intervention.subset=flaged", "did you mean 'flagged'"),
        ("decisions.swapped.intervention.to=B", "no teacher 'B'"),
        ("sweep.selector=rand", "did you mean 'random'"),
        ("sweep.field=fraction", "selector 'flagged' sets no fraction"),
        ("scorers={teacher: {kind: random}}", "'teacher' is the name of another column"),
        (
            "decisions.b={teacher: T, intervention: {kind: backfill, subset: flagged, with_teacher: C}}",
            "in `reserve` 'C'",
        ),
    ],
)
def test_references_of_a_decide_spec_are_checked(change: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_spec(SPECS / "decide.yaml", [change])


def test_a_command_says_what_a_spec_lacks() -> None:
    quickstart = load_spec(SPECS / "quickstart.yaml")
    with pytest.raises(SpecError, match="needs `selectors` and `decisions`"):
        action_on(quickstart, "decide", "quickstart.yaml")
    with pytest.raises(SpecError, match="nothing to inspect"):
        action_on(load_spec(SPECS / "quickstart.yaml", ["scorers={}", "selectors={}", "arms={a: {teacher: T}, b: {}}",
                                                        "roles={original: a, alternate: a}"]), "inspect", "q")  # fmt: skip
    assert callable(action_on(quickstart, "inspect", "quickstart.yaml"))
