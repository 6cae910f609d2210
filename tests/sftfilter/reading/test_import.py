"""Importing rollouts: ratings, several teachers in a file, duplicates and conflicts by name, and Ray Data tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.errors import DataError
from sftfilter.pairing import pairing
from sftfilter.reading import parts, units
from sftfilter.rollout_file import RolloutFile
from sftfilter.rollout_import import import_rollouts
from sftfilter.schema import PROMPTS, prompt_id
from sftfilter.scorers.column import Column
from sftfilter.scoring import ScoringPool, score_rollouts
from tests.sftfilter.reading.test_files import COUNTS, lines, read

PUBLISHED = [
    {
        "id": i,
        "source": ["forum", "books"][i % 2],
        "prompt": f"Question {i // 2}?",
        "response": f"Answer {i}.",
        "teacher": ["gemma", "qwen"][i % 2],
        "depression_rating": i / 4,
        "kept_in_nodep": i % 3 == 0,
    }
    for i in range(40)
]
RATINGS = ["depression_rating", "kept_in_nodep"]


def _prompts(store: Store, texts: list[str]) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        turns = [[{"role": "user", "content": t}] for t in texts]
        rows = [{"prompt_id": prompt_id(t), "messages": t, "kind": "", "source": ""} for t in turns]  # pyright: ignore[reportArgumentType]
        write_table(folder, "prompts", pa.Table.from_pylist(rows, PROMPTS))
        return {"used": len(rows)}

    return store.build("prompts", version=1, settings=texts, inputs={}, make=make)


def test_the_published_shape_is_read_by_a_short_spec(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(PUBLISHED), tmp_path / "a.parquet")
    made = read(tmp_path, str(tmp_path / "a.parquet"), where={"teacher": "gemma"}, ratings=RATINGS)
    assert (made.meta["used"], made.meta["filtered"]) == (20, 20)
    row = made.table("rollouts").to_pylist()[3]
    assert (row["source"], row["source_id"], row["teacher"], row["completion"]) == ("forum", "6", "T", "Answer 6.")
    assert row["ratings"] == [("depression_rating", 1.5), ("kept_in_nodep", 1.0)]
    with pytest.raises(
        DataError, match=r"several teachers: gemma \(20 rows\), qwen \(20 rows\).*where: {teacher: gemma}"
    ):
        read(tmp_path, str(tmp_path / "a.parquet"))
    one_id = [row | {"id": i // 2} for i, row in enumerate(PUBLISHED)]  # an id a prompt: no conflict between teachers
    (tmp_path / "b.jsonl").write_bytes(lines(one_id))
    with pytest.raises(DataError, match=r"several teachers: gemma"):
        read(tmp_path, str(tmp_path / "b.jsonl"))
    with pytest.raises(DataError, match=r"other rows have teacher: (gemma|qwen), teacher: (gemma|qwen)"):
        read(tmp_path, str(tmp_path / "a.parquet"), where={"teacher": "gema"})


def test_csv_ratings_and_filters_mean_the_same(tmp_path: Path) -> None:
    head = ",".join(PUBLISHED[0])
    rows = [",".join(str(v) for v in row.values()) for row in PUBLISHED]
    (tmp_path / "a.csv").write_text("\n".join([head, *rows]))
    where = {"teacher": "gemma", "kept_in_nodep": True}
    made = read(tmp_path, str(tmp_path / "a.csv"), where=where, ratings=RATINGS)
    assert (made.meta["used"], made.meta["filtered"]) == (7, 33)
    assert made.table("rollouts")["ratings"].to_pylist()[1] == [("depression_rating", 1.5), ("kept_in_nodep", 1.0)]


def test_duplicates_and_conflicts_are_named(tmp_path: Path) -> None:
    rows = [dict(r) for r in PUBLISHED if r["teacher"] == "gemma"]
    rows += [rows[0], rows[1] | {"response": "Another."}, rows[2] | {"id": 99, "depression_rating": 9.0}]
    rows += [rows[3] | {"prompt": f" {rows[3]['prompt']}\r\n"}]  # the same turns, once canonical
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    made = read(tmp_path, str(tmp_path / "a.jsonl"), budget=0.5, ratings=RATINGS)
    assert [made.meta[name] for name in COUNTS] == [18, 4, 2, 0, 0]
    named = {r["row"]: r["reason"] for r in made.table("quarantine").to_pylist()}
    assert named[2].startswith("id '2' also stands for another text, in row 22")
    assert named[22].startswith("id '2' also stands for another text, in row 2:")
    assert named[3] == "the same prompt and answer as row 23, but other ratings"
    assert {r["row"]: r["reason"].split("/")[-1] for r in made.table("duplicates").to_pylist()} == {
        21: "a.jsonl, row 1",
        24: "a.jsonl, row 4",
    }
    assert any("2 duplicate rows left out" in note and "row 21" in note for note in made.meta["notes"])
    loose = read(tmp_path, str(tmp_path / "a.jsonl"), columns={"id": None})
    assert (loose.meta["used"], loose.meta["quarantined"]) == (21, 0)


def test_a_conflict_between_files_names_the_other_file(tmp_path: Path) -> None:
    for name, rating in (("a", 1), ("b", 2)):
        rows = [{"prompt": f"Question {i}?", "completion": "Yes.", "rating": rating} for i in range(2)]
        (tmp_path / f"{name}.jsonl").write_bytes(lines([*rows, {"prompt": name, "completion": name, "rating": 0}]))
    paths = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    bad = read(tmp_path, paths, budget=0.9, ratings=["rating"]).table("quarantine").to_pylist()
    assert sorted((r["file"], r["row"], r["reason"]) for r in bad) == [
        (here, row, f"the same prompt and answer as {there}, row {row}, but other ratings")
        for here, there in (paths, paths[::-1])
        for row in (1, 2)
    ]


def test_an_empty_rating_is_none(tmp_path: Path) -> None:
    rows = [row | {"depression_rating": ["", " ", None, 2][i % 4]} for i, row in enumerate(PUBLISHED[::2])]
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    made = read(tmp_path, str(tmp_path / "a.jsonl"), ratings=RATINGS)
    assert [dict(r).get("depression_rating") for r in made.table("rollouts")["ratings"].to_pylist()] == [None, None, None, 2.0] * 5  # fmt: skip


def test_samples_are_no_duplicates(tmp_path: Path) -> None:
    row = {"prompt": "Heads?", "completion": "Yes."}
    (tmp_path / "a.jsonl").write_bytes(lines([row | {"sample": k} for k in (0, 1, 1)]))
    made = read(tmp_path, str(tmp_path / "a.jsonl"))
    assert (made.meta["used"], made.meta["duplicates"]) == (2, 1)


def test_prompts_without_an_answer_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines([r for r in PUBLISHED if r["teacher"] == "qwen"]))
    store = Store(tmp_path / "store")
    prompts = _prompts(store, ["Question 1?", "Question 2?", "Never asked?"])
    source = RolloutFile(kind="rollouts", path=str(tmp_path / "a.jsonl"))
    made = import_rollouts("T", source, prompts, store=store, error_budget=0)
    assert [made.meta[name] for name in (*COUNTS, "unanswered")] == [2, 0, 0, 18, 0, 1]
    missing = prompt_id([{"role": "user", "content": "Never asked?"}])
    assert any(f"1 prompts have no answer: prompt ids {missing}" in note for note in made.meta["notes"])
    with pytest.raises(DataError, match="none of its 20 prompts is among"):
        import_rollouts("T", source, _prompts(store, ["Never asked?"]), store=store, error_budget=0)


def test_the_budget_holds_for_a_reused_import_and_a_changed_file_is_read_again(tmp_path: Path) -> None:
    rows: list[Any] = [*PUBLISHED[:10:2], {"prompt": "x", "response": None}]
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    first = read(tmp_path, str(tmp_path / "a.jsonl"), budget=0.5)
    with pytest.raises(DataError, match=r"1 of 6 rows cannot be used.*(?s:.*)row 6, response: missing"):
        read(tmp_path, str(tmp_path / "a.jsonl"), budget=0.1)
    assert read(tmp_path, str(tmp_path / "a.jsonl"), budget=0.2).reused
    (tmp_path / "a.jsonl").write_bytes(lines(rows[:5]))
    assert read(tmp_path, str(tmp_path / "a.jsonl"), budget=0.1).key != first.key


def test_pairing_names_missing_partners_and_unequal_counts(tmp_path: Path) -> None:
    answers = {"A": [(0, "x"), (1, "x"), (2, "x")], "B": [(1, "y"), (2, "y"), (2, "z")]}
    made = {}
    for teacher, pairs in answers.items():
        path = tmp_path / f"{teacher}.jsonl"
        path.write_bytes(lines([{"prompt": f"Question\n{i}?", "completion": text} for i, text in pairs]))
        source = RolloutFile(kind="rollouts", path=str(path))
        made[teacher] = import_rollouts(teacher, source, None, store=Store(tmp_path / "store"), error_budget=0)
    found = pairing(made)
    assert (found.prompts, found.by_all) == (3, 2)
    assert (found.missing["A"].count, found.missing["B"].count, found.unequal.count) == (0, 1, 1)
    assert found.missing["B"].first[0].endswith('"Question 0?"')
    assert found.unequal.first[0].endswith('"Question 2?"')
    assert len(found.lines()) == 3
    assert found.problems.select("problem", "teacher", "reason").rows() == [
        ("missing", "B", "answered by A"),
        ("unequal", "A", "1 answers, others have another number"),
        ("unequal", "B", "2 answers, others have another number"),
    ]
    alone = pairing({"A": made["A"]})
    assert alone.lines() == [] and alone.problems.is_empty() and alone.answered == {"A": (3, 3)}


def test_the_pairing_report_names_duplicates_and_conflicts(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Why\x1b[2J?", "completion": c, "rating": r} for c, r in (("x", 1), ("y", 1), ("x", 1), ("y", 2))
    ]
    (tmp_path / "a.jsonl").write_bytes(lines([*rows, *rows[:1]]))
    made = {"A": read(tmp_path, str(tmp_path / "a.jsonl"), budget=0.9, ratings=["rating"])}
    (tmp_path / "b.jsonl").write_bytes(lines([{"prompt": "When?", "completion": "x"}]))
    made["B"] = read(tmp_path, str(tmp_path / "b.jsonl"))
    found = pairing(made).as_dict()
    assert (found["prompts"], found["by_all"]) == (2, 0)
    own = found["teachers"]["A"]
    assert (own["prompts"], own["answers"], own["missing"]["count"]) == (1, 1, 1)
    assert own["duplicates"] == {"count": 2, "first": [f"{tmp_path}/a.jsonl, row {n}: duplicate of {tmp_path}/a.jsonl, row 1" for n in (3, 5)]}  # fmt: skip
    assert [name.partition(": ")[2] for name in own["conflicts"]["first"]] == [
        f"the same prompt and answer as row {n}, but other ratings" for n in (4, 2)
    ]
    shown = found["teachers"]["B"]["missing"]["first"][0]
    assert shown.endswith('"Why [2J?"')
    problems = pairing(made).problems
    assert sorted(problems["problem"]) == ["conflict"] * 2 + ["duplicate"] * 2 + ["missing"] * 2
    assert problems.filter(problem="duplicate")["prompt_id"].null_count() == 0


def test_a_task_that_runs_twice_writes_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines([*PUBLISHED[::2], {}]))
    source = RolloutFile(kind="rollouts", path=str(tmp_path / "a.jsonl"))
    task = parts.Import(source, "T", [], tmp_path / "made")
    (chunk,) = units.plan(source, units.found(source).files)
    for _ in range(2):
        assert parts.import_chunk(0, chunk, task, None).usable == 20
        files = sorted(p.relative_to(task.folder) for p in task.folder.rglob("*") if p.is_file())
        assert [p.name for p in files] == ["part-00000.parquet"] * 3


def test_a_big_jsonl_file_is_shared_by_lines_and_every_row_keeps_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"Frage {i}, für dich?", "completion": "ä" * (i % 90 + 1), "id": i} for i in range(400)]
    text = lines(rows).splitlines(keepends=True)
    text[7], text[120], text[333] = b"\n", b'{"prompt": \xff}\n', b"x" * 5000 + b"\n"
    text[200] = text[200].replace(b"\n", b"\r\n")
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"".join([*text, text[4]]).rstrip(b"\n"))
    monkeypatch.setattr("sftfilter.reading.formats.MAX_LINE", 4000)
    whole = read(tmp_path / "whole", str(path), budget=0.1)
    for size in (3000, 9001):
        monkeypatch.setattr(units.plan, "__defaults__", (size,))
        source = RolloutFile(kind="rollouts", path=str(path))
        spans = [unit.span for chunk in units.plan(source, units.found(source).files) for unit in chunk]
        assert len(spans) > 40_000 // size
        made = read(tmp_path / str(size), str(path), budget=0.1)
        for table in ("rollouts", "quarantine", "duplicates"):
            assert made.table(table).equals(whole.table(table)), (table, size)
    assert {row["row"] for row in whole.table("quarantine").to_pylist()} == {121, 334}
    assert [(r["row"], r["reason"].rpartition(" ")[2]) for r in whole.table("duplicates").to_pylist()] == [(401, "5")]
    (tmp_path / "a.jsonl.zst").write_bytes(pa.compress(path.read_bytes(), "zstd", asbytes=True))
    source = RolloutFile(kind="rollouts", path=str(tmp_path / "a.jsonl.zst"))
    assert [[u.span for u in chunk] for chunk in units.plan(source, units.found(source).files, 1000)] == [[None]]


@pytest.mark.ray
def test_tasks_read_ranges_and_the_ratings_become_scores(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [r | {"prompt": f"Question {i}?", "id": i} for i, r in enumerate(PUBLISHED * 50)]
    rows[1500] |= {"prompt": None}
    pq.write_table(pa.Table.from_pylist([*rows, rows[4]]), tmp_path / "a.parquet", row_group_size=100)
    settings: dict[str, Any] = {"path": str(tmp_path / "a.parquet"), "where": {"teacher": "gemma"}, "ratings": RATINGS}
    here = read(tmp_path / "here", budget=0.1, **settings)
    monkeypatch.setattr("sftfilter.rollout_import.SMALL", 0)
    monkeypatch.setattr(units.plan, "__defaults__", (2000,))
    made = read(tmp_path / "there", budget=0.1, **settings)
    assert len(list((made.path / "rollouts.parquet").iterdir())) > 3
    assert made.table("rollouts").sort_by("rollout_id").equals(here.table("rollouts").sort_by("rollout_id"))
    assert made.table("quarantine").equals(here.table("quarantine"))
    assert [made.meta[name] for name in COUNTS] == [999, 1, 1, 0, 1000]

    store = Store(tmp_path / "scores")
    scorers = {"rating": Column(kind="column", rating="depression_rating"), "kept": Column(kind="column", rating="kept_in_nodep", negate=True)}  # fmt: skip
    for name, scorer in scorers.items():
        scored = score_rollouts(name, scorer, made, store=store, pool=ScoringPool())
        assert (scored.meta["rows"], scored.meta["errors"]) == (999, 0)
        ids = scored.table("scores")["rollout_id"].to_pylist()
        assert ids == made.table("rollouts")["rollout_id"].to_pylist()
        expected = [
            dict(r)[scorer.rating] * (-1 if scorer.negate else 1) for r in made.table("rollouts")["ratings"].to_pylist()
        ]
        assert scored.table("scores")["score"].to_pylist() == expected
    lost = score_rollouts("none", Column(kind="column", rating="joy"), made, store=store, pool=ScoringPool())
    assert lost.meta["errors"] == 999
    assert set(lost.table("scores")["error"].to_pylist()) == {"no rating 'joy'"}

    (tmp_path / "b.jsonl").write_bytes(lines([{"question": 1}]))
    with pytest.raises(DataError, match="of no known shape; its columns are question"):
        read(tmp_path / "there", str(tmp_path / "b.jsonl"))
