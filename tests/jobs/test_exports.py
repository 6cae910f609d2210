"""Exported files: those of earlier runs go, whatever else lies there stays."""

from __future__ import annotations

from pathlib import Path

from jobs.exports import LIST, Exports


def _run(folder: Path, *names: str, killed: bool = False) -> list[str]:
    exports = Exports(folder)
    for name in names:
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(name)
        exports.wrote(folder / name)
    return [] if killed else exports.finish()


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {LIST}


def test_what_a_run_no_longer_writes_is_removed_and_said(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    assert _run(folder, "a.jsonl", "b.jsonl") == []
    (folder / "notes.txt").write_text("mine")
    assert _run(folder, "a.jsonl", "c.jsonl", killed=True) == []
    assert _files(folder) == {"a.jsonl", "b.jsonl", "c.jsonl", "notes.txt"}
    said = _run(folder, "a.parquet")
    assert _files(folder) == {"a.parquet", "notes.txt"}
    assert [line.split(" removed")[0] for line in said] == [str(folder / f"{name}.jsonl") for name in "abc"]
    assert _run(folder, "a.parquet") == []


def test_a_file_that_was_changed_since_is_somebody_elses(tmp_path: Path) -> None:
    _run(tmp_path, "a.jsonl", "b.jsonl")
    (tmp_path / "b.jsonl").write_text("put right by hand")
    (line,) = _run(tmp_path, "a.jsonl")
    assert line.startswith(f"{tmp_path / 'b.jsonl'} was changed since")
    assert (tmp_path / "b.jsonl").read_text() == "put right by hand"
    assert _run(tmp_path, "a.jsonl") == []


def test_a_list_never_reaches_beyond_its_folder(tmp_path: Path) -> None:
    folder, other = tmp_path / "train", tmp_path / "other.jsonl"
    _run(folder, "a.jsonl")
    other.write_text("x")
    found = other.stat()
    (folder / LIST).write_text(f'{{"../other.jsonl": [{found.st_size}, {found.st_mtime_ns}]}}')
    assert _run(folder, "b.jsonl") == []
    assert other.exists()
    (folder / LIST).write_text("[broken")
    assert _run(folder, "b.jsonl") == []
    assert _files(folder) == {"a.jsonl", "b.jsonl"}
