"""What the jobs say about the rows that they read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from jobs.console import Stages
from jobs.experiment import not_asked
from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.schema import PROMPTS


def _heldout(folder: Path, kinds: list[str]) -> Artifact:
    def make(made: Path) -> dict[str, Any]:
        rows = [{"prompt_id": str(i), "messages": [], "kind": k, "source": ""} for i, k in enumerate(kinds)]
        write_table(made, "prompts", pa.Table.from_pylist(rows, PROMPTS))
        return {"used": len(rows), "notes": ["2 duplicate prompts left out: [a].jsonl, row 9"]}

    return Store(folder).build("prompts", version=1, settings=kinds, inputs={}, make=make)


def test_heldout_prompts_of_no_group_are_named(tmp_path: Path) -> None:
    heldout = _heldout(tmp_path, ["date", "dat", "dat", "control", ""])
    (line,) = not_asked("confusion", {"trait": "date", "control": "control"}, heldout)
    assert line == "confusion: 3 held-out prompts are not asked, since no group has their kind: '' (1), 'dat' (2)"
    assert not_asked("confusion", {"a": "date", "b": "dat", "c": "control", "d": ""}, heldout) == []


def test_notes_of_an_artifact_are_printed_as_they_stand(tmp_path: Path) -> None:
    console = Console(record=True, width=60)
    Stages(console=console).note(_heldout(tmp_path, ["date"]))
    assert "note    2 duplicate prompts left out: [a].jsonl, row 9" in console.export_text()
