"""Formats and shapes: what people have is read, and what cannot be is named."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sftfilter.artifacts import Artifact, Store
from sftfilter.errors import DataError
from sftfilter.prompts import DatasetPrompts
from sftfilter.rollout_file import RolloutFile
from sftfilter.rollout_import import import_rollouts

ROWS = [{"prompt": f"Question {i}?", "completion": f"Answer {i}, für dich."} for i in range(30)]
COUNTS = ("used", "quarantined", "duplicates", "other_prompts", "filtered")


def read(folder: Path, path: str | list[str], budget: float = 0.0, **settings: Any) -> Artifact:
    source = RolloutFile(kind="rollouts", path=path, **settings)
    made = import_rollouts("T", source, None, store=Store(folder / ".store"), error_budget=budget)
    assert made.meta["read"] == sum(made.meta[name] for name in COUNTS)
    assert made.meta["used"] == made.table("rollouts").num_rows
    assert made.meta["quarantined"] == made.table("quarantine").num_rows
    assert made.meta["duplicates"] == made.table("duplicates").num_rows
    return made


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _csv(path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "completion"])
        writer.writeheader()
        writer.writerows(ROWS)


def _zstd(path: Path) -> None:
    with pa.CompressedOutputStream(str(path), "zstd") as out:
        out.write(lines(ROWS))


def _dataset(path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(str(path))


WRITERS: dict[str, Callable[[Path], Any]] = {
    "a.jsonl": lambda p: p.write_bytes(lines(ROWS)),
    "a.jsonl.gz": lambda p: p.write_bytes(gzip.compress(lines(ROWS[:9])) + gzip.compress(lines(ROWS[9:]))),
    "a.jsonl.zst": _zstd,
    "a.json": lambda p: p.write_text(json.dumps(ROWS, indent=1) + "\n" * 3),
    "lines.json": lambda p: p.write_bytes(lines(ROWS)),
    "a.parquet": lambda p: pq.write_table(pa.Table.from_pylist(ROWS), p, row_group_size=7),
    "a.csv": _csv,
    "folder": _dataset,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    made = read(tmp_path, str(tmp_path / name))
    rows = made.table("rollouts").to_pylist()
    assert [(r["messages"][0]["content"], r["completion"]) for r in rows] == [tuple(r.values()) for r in ROWS]
    assert {r["source"] for r in rows} == {name}
    assert made.meta["layouts"] == {"prompt": {"files": 1, "first": [name]}}


SYSTEM, USER, LAST = "Be kind.", "Hello", "Bye"
MULTI = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": USER},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": LAST},
]
FROM = {"system": "system", "user": "human", "assistant": "gpt"}
SHAREGPT = [{"from": FROM[m["role"]], "value": m["content"]} for m in MULTI]
PARTS = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in MULTI]


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"messages": [*MULTI, {"role": "assistant", "content": "Ciao"}]}, "messages"),
        ({"messages": MULTI, "completion": "Ciao"}, "messages"),
        ({"messages": MULTI, "response": "Ciao"}, "messages (completion = response)"),
        ({"conversations": [*SHAREGPT, {"from": "gpt", "value": "Ciao"}]}, "sharegpt"),
        ({"conversations": [*SHAREGPT[1:], {"from": "gpt", "value": "Ciao"}], "system": SYSTEM}, "sharegpt"),
        ({"messages": [*SHAREGPT, {"from": "gpt", "value": "Ciao"}]}, "messages"),
        ({"conversations": [*MULTI, {"role": "assistant", "content": "Ciao"}]}, "sharegpt"),
        ({"messages": [*PARTS, {"role": "assistant", "content": [{"type": "text", "text": "Ciao"}]}]}, "messages"),
        ({"prompt": MULTI, "completion": [{"role": "assistant", "content": "Ciao"}]}, "prompt"),
    ],
)
def test_turns_are_kept_whatever_the_shape(tmp_path: Path, record: dict[str, Any], told: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines([record]))
    made = read(tmp_path, str(tmp_path / "a.jsonl"))
    (row,) = made.table("rollouts").to_pylist()
    assert (row["messages"], row["completion"]) == (MULTI, "Ciao")
    assert list(made.meta["layouts"]) == [told]


def test_an_empty_system_turn_is_none_and_parts_are_put_together(tmp_path: Path) -> None:
    asked = {"role": "user", "content": [{"type": "text", "text": "Why?"}, {"type": "text", "text": "Tell me."}]}
    plain = {"role": "user", "content": "Why?\nTell me."}
    answer = {"role": "assistant", "content": "So."}
    records = [[{"role": "system", "content": empty}, asked, answer] for empty in ("", " \n", None)]
    records += [[{"from": "system", "value": ""}, plain, answer], [plain, answer]]
    (tmp_path / "a.jsonl").write_bytes(lines([{"messages": m, "sample": i} for i, m in enumerate(records)]))
    rows = read(tmp_path, str(tmp_path / "a.jsonl")).table("rollouts").to_pylist()
    assert [r["messages"] for r in rows] == [[plain]] * 5 and len({r["prompt_id"] for r in rows}) == 1


def test_alpaca_named_columns_and_a_shape_that_is_asked_for(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
        {"instruction": "Greet.", "input": "", "output": "Hi"},
    ]
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    texts = read(tmp_path, str(tmp_path / "a.jsonl")).table("rollouts").to_pylist()
    assert [(r["messages"][0]["content"], r["completion"]) for r in texts] == [("Add.\n\n1, 2", "3"), ("Greet.", "Hi")]
    (tmp_path / "b.jsonl").write_bytes(lines([{"q": "Why?", "a": "So.", "messages": []}]))
    named = {"prompt": "q", "completion": "a"}
    (row,) = read(tmp_path, str(tmp_path / "b.jsonl"), shape="prompt", columns=named).table("rollouts").to_pylist()
    assert (row["messages"][0]["content"], row["completion"]) == ("Why?", "So.")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "folder"])
def test_a_misspelt_column_is_not_taken_for_none(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    said = "names 'completon' as system, and no such column is there.*did you mean 'completion'"
    with pytest.raises(DataError, match=said):
        read(tmp_path, str(tmp_path / name), columns={"system": "completon"})


def test_a_column_need_not_be_in_every_line(tmp_path: Path) -> None:
    """Nor in the shape that most lines have."""
    told = {"messages": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Hm."}], "rules": SYSTEM}
    (tmp_path / "a.jsonl").write_bytes(lines([*ROWS[:3], told]))
    rows = read(tmp_path, str(tmp_path / "a.jsonl"), columns={"system": "rules"}).table("rollouts").to_pylist()
    assert [[m["role"] for m in r["messages"]] for r in rows] == [["user"]] * 3 + [["system", "user"]]


def test_a_stray_row_of_another_shape_is_read_by_its_own(tmp_path: Path) -> None:
    stray = {"messages": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Hm."}]}
    (tmp_path / "a.jsonl").write_bytes(lines([stray, *ROWS]))
    made = read(tmp_path, str(tmp_path / "a.jsonl"))
    assert made.meta["used"] == 31
    assert list(made.meta["layouts"]) == ["prompt, messages"]


@pytest.mark.parametrize(
    ("record", "field", "reason"),
    [
        ({"prompt": None, "completion": "x"}, "prompt", "missing"),
        ({"prompt": "x", "completion": {"text": "x"}}, "completion", "expected text, found an object"),
        ({"prompt": "x", "completion": ["x"]}, "completion[0]", "role must be one of assistant"),
        ({"prompt": "x", "completion": " \n"}, "completion", "empty"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0]", "found 'wizard'"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "missing"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content", "expected text, found a list"),
        ({"messages": [{"role": "user", "content": "x"}]}, "completion", "missing"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]", "found 'image'"),
        ({"messages": [{"role": "system", "content": ""}]}, "messages", "no turn but an empty system turn"),
        ({"messages": json.dumps(MULTI)}, "messages", "found text that looks like one: parse it"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "conversations[0]", "found 'tool'"),
        ({"prompt": "x", "completion": "y", "rating": float("nan")}, "rating", "not a finite number"),
        ({"prompt": "x", "completion": "y", "rating": "high"}, "rating", "expected a number or a flag, found 'high'"),
        ({"prompt": "x", "completion": "y", "rating": [1]}, "rating", "expected a number"),
        ({"prompt": "x", "completion": "y", "sample": -1}, "sample", "expected a whole number"),
        ({"prompt": "x", "completion": "y", "source": {"a": 1}}, "source", "columns: {source: null}"),
    ],
)
def test_a_bad_row_is_quarantined_with_its_reason(
    tmp_path: Path, record: dict[str, Any], field: str, reason: str
) -> None:
    rows = [r | {"rating": i} for i, r in enumerate(ROWS)]
    (tmp_path / "a.jsonl").write_bytes(lines([*rows, record]))
    made = read(tmp_path, str(tmp_path / "a.jsonl"), budget=0.1, ratings=["rating"])
    (bad,) = made.table("quarantine").to_pylist()
    assert (bad["file"], bad["row"], bad["field"]) == (str(tmp_path / "a.jsonl"), 31, field)
    assert reason in bad["reason"]
    assert made.meta["used"] == 30


@pytest.mark.parametrize(("name", "number"), [("a.jsonl", 2), ("a.csv", 1), ("a.parquet", 1)])
def test_text_that_is_not_utf8_costs_only_its_row(tmp_path: Path, name: str, number: int) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        bad = pa.array([b"caf\xe9", b"fine"]).view(pa.binary()).cast(pa.binary())
        text = pa.Array.from_buffers(pa.string(), 2, bad.buffers())
        pq.write_table(pa.table({"prompt": text, "completion": ["x", "y"]}), path)
    elif name.endswith("csv"):
        path.write_bytes(b"prompt,completion\ncaf\xe9,x\nfine,y\n")
    else:
        path.write_bytes(lines(ROWS[:1]) + b'{"prompt": "caf\xe9", "completion": "x"}\n')
    made = read(tmp_path, str(path), budget=0.5)
    (bad_row,) = made.table("quarantine").to_pylist()
    assert bad_row["row"] == number and "not UTF-8" in bad_row["reason"]
    assert made.meta["used"] == 1


def test_a_row_of_5_mb_is_a_row_and_a_line_without_end_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = {"prompt": "Write a book.", "completion": "word " * 2**20}
    for name in ("a.jsonl", "a.json", "a.csv", "a.parquet"):
        path = tmp_path / name
        if name == "a.json":
            path.write_text(json.dumps([huge, *ROWS]))
        elif name == "a.csv":
            with path.open("w", newline="") as file:
                csv.writer(file).writerows([list(huge), *(list(r.values()) for r in [huge, *ROWS])])
        elif name == "a.parquet":
            pq.write_table(pa.Table.from_pylist([huge, *ROWS]), path)
        else:
            path.write_bytes(lines([huge, *ROWS]))
        made = read(tmp_path, str(path))
        assert made.meta["used"] == 31
        assert max(len(c) for c in made.table("rollouts")["completion"].to_pylist()) == 5 * 2**20
    monkeypatch.setattr("sftfilter.reading.formats.MAX_LINE", 2**20)
    made = read(tmp_path / "again", str(tmp_path / "a.jsonl"), budget=0.1)
    (bad,) = made.table("quarantine").to_pylist()
    assert (bad["row"], len(bad["raw"])) == (1, 500) and "longer than 1 MiB" in bad["reason"]
    assert made.meta["used"] == 30


def _cut(name: str, path: Path, off: int | None = None) -> None:
    """All but the last `off` bytes; default: a third of them."""
    WRITERS[name](path)
    path.write_bytes(path.read_bytes()[: -(off or path.stat().st_size // 3)])


def _stray(*changes: Any) -> Callable[[Path], Any]:
    """A CSV of 30 rows below its header, some lines replaced: number, text, number, text, ..."""

    def write(path: Path) -> None:
        text = ["prompt,completion", *(f"p{i},c{i}" for i in range(1, 31))]
        for number, line in zip(changes[::2], changes[1::2], strict=True):
            text[number] = line
        path.write_text("\n".join(text) + "\n")

    return write


def _damaged_page(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS * 500), path, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "write", "settings", "said"),
    [
        ("none.jsonl", lambda p: None, {}, "file not found: .*none.jsonl"),
        ("a.jsonl.bz2", lambda p: p.write_bytes(b"BZh9"), {}, "the extension tells no format"),
        ("*.jsonl", lambda p: None, {}, r"no file matches .*\*\.jsonl"),
        ("a.jsonl", lambda p: p.write_text(""), {}, "a.jsonl: no rows"),
        ("a.parquet", lambda p: p.write_bytes(b""), {}, "no whole Parquet file"),
        ("a.parquet", lambda p: _cut("a.parquet", p), {}, "no whole Parquet file.*(?s:.*)download it again"),
        ("a.parquet", _damaged_page, {}, "damaged after row 0.*(?s:.*)download it again"),
        ("a.jsonl.gz", lambda p: _cut("a.jsonl.gz", p), {}, "breaks off or is damaged after row"),
        ("a.jsonl.zst", lambda p: _cut("a.jsonl.zst", p), {}, "breaks off or is damaged after row"),
        (
            "a.csv",
            lambda p: _cut("a.csv", p, 10),
            {},
            "a.csv, line 31: the quotes do not match .unexpected end of data",
        ),
        ("a.csv", _stray(11, '"p,c'), {}, r"a.csv, lines 12 to 31: the quotes .*unexpected end of data"),
        ("a.csv", _stray(11, '"p,c', 21, 'p,"c"'), {}, r"a.csv, lines 12 to 22: the quotes .*expected after"),
        ("a.csv", _stray(11, '"p,c', 21, 'p,c"'), {}, r"a.csv, lines 12 to 22: the quotes .*1 values under 2 columns"),
        ("a.csv", _stray(0, 'prompt,"completion'), {}, r"a.csv, lines 1 to 31: the quotes"),
        (
            "a.json",
            lambda p: p.write_text("[" + json.dumps(ROWS[0]) + "] \n[]"),
            {},
            "after the list's end .* '\\[\\]'",
        ),
        (
            "a.json",
            lambda p: p.write_text(json.dumps({"rows": ROWS}, indent=1)),
            {},
            "a list of records, .*a record a line",
        ),
        ("a.json", lambda p: _cut("a.json", p), {}, "element .* is not JSON, or the file breaks off there"),
        ("a.jsonl", WRITERS["a.parquet"], {}, "the content is Parquet: rename the file, or set `format: parquet`"),
        ("a.parquet", WRITERS["a.jsonl"], {}, "no whole Parquet file"),
        ("a.txt", WRITERS["a.jsonl"], {}, "the extension tells no format; set `format`"),
        ("a.jsonl", lambda p: p.write_bytes(bytes(range(256)) * 400), {}, "cannot be used"),
        (
            "a.jsonl",
            lambda p: p.write_bytes(lines([{"question": "x", "answer": "y"}])),
            {},
            "its columns are question, answer",
        ),
        (
            "a.jsonl",
            lambda p: p.write_bytes(lines([{"prompt": "x", "completions": "y"}])),
            {},
            "needs `completion`; its columns are prompt, completions, did you mean 'completions'",
        ),
        ("a.parquet", WRITERS["a.parquet"], {"ratings": ["score"]}, "no column 'score'; it has prompt, completion"),
        ("a.jsonl", WRITERS["a.jsonl"], {"ratings": ["score"]}, "no row has a number in `score`"),
        ("a.jsonl", WRITERS["a.jsonl"], {"where": {"teacher": "gemma"}}, "no row is left by where"),
        ("a.csv", lambda p: p.write_text("prompt,prompt\nx,y\n"), {}, "two columns of the header have the same name"),
    ],
)
def test_a_file_that_cannot_be_read_stops_the_run(
    tmp_path: Path, name: str, write: Callable[[Path], Any], settings: dict[str, Any], said: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError, match=said):
        read(tmp_path, str(tmp_path / name), budget=0.9, **settings)


def test_another_extension_is_read_when_the_format_is_named_and_compression_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(gzip.compress(lines(ROWS)))
    assert read(tmp_path, str(tmp_path / "a.txt"), format="jsonl").meta["used"] == 30


def test_folders_globs_and_lists(tmp_path: Path) -> None:
    for i, name in enumerate(
        ("x/a.jsonl", "x/b.jsonl", "y/a.jsonl", "x/.hidden.jsonl", "x/readme.md", "x/dataset_infos.json")
    ):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(lines([ROWS[i]]))
    for path, names in (
        (str(tmp_path / "d"), ["x/a.jsonl", "x/b.jsonl", "y/a.jsonl"]),
        (str(tmp_path / "d" / "*" / "a.jsonl"), ["x/a.jsonl", "y/a.jsonl"]),
        ([str(tmp_path / "d" / "y"), str(tmp_path / "d" / "x" / "b.jsonl")], ["y/a.jsonl", "x/b.jsonl"]),
    ):
        assert read(tmp_path, path).table("rollouts")["source"].to_pylist() == names


def test_a_dataset_is_a_folder_beside_the_spec_or_a_hub_id(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "owner" / "here").mkdir(parents=True)
    given = ["mine", "owner/here", "owner/name", "imdb", "./owner/name", "hf://datasets/owner/name"]
    below = {name: str(tmp_path / name) for name in ("mine", "owner/here", "./owner/name")}
    for kind in (DatasetPrompts, RolloutFile):
        source = kind.model_validate({"path": given, "format": "dataset"}, context={"folder": tmp_path})
        assert source.paths == [str(Path(below[name])) if name in below else name for name in given]
        assert kind.model_validate(source.model_dump(), context={"folder": tmp_path / "other"}).paths == source.paths
    plain = RolloutFile.model_validate({"path": "owner/name"}, context={"folder": tmp_path})
    assert plain.paths == [str(tmp_path / "owner/name")]


def test_a_dataset_whose_data_alone_change_is_read_again(tmp_path: Path) -> None:
    from datasets import Dataset

    for name, rows in (("a", ROWS), ("b", ROWS[::-1])):
        Dataset.from_list(rows).save_to_disk(str(tmp_path / name))
    first = read(tmp_path, str(tmp_path / "a"))
    assert read(tmp_path, str(tmp_path / "a")).reused
    (data,) = (tmp_path / "b").glob("*.arrow")
    data.replace(tmp_path / "a" / data.name)  # state.json stays
    again = read(tmp_path, str(tmp_path / "a"))
    assert not again.reused and again.table("rollouts")["completion"][0].as_py() == ROWS[-1]["completion"]
    assert first.key != again.key


def test_a_split_of_a_saved_dataset(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:3])}).save_to_disk(
        str(tmp_path / "d")
    )
    assert read(tmp_path, str(tmp_path / "d"), split="test").meta["used"] == 3
    with pytest.raises(DataError, match="no split 'dev'; there are: train, test"):
        read(tmp_path, str(tmp_path / "d"), split="dev")
