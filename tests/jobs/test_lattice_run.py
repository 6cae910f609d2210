"""A lattice run for real: two bases, two sets of prompts, two teachers, a subset dropped; then run again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from jobs.kinds.lattice import Lattice
from jobs.spec import load_spec
from tests.browser import Browser
from tests.conftest import read_lines, write_lines


@pytest.fixture
def lattice(tiny_spec: Callable[..., Path], tiny_model: str, tmp_path: Path) -> Lattice:
    """Cells of one base on both sets of prompts and one cell of the other base; half and all of the date prompts dropped."""
    tiny = yaml.safe_load(tiny_spec().read_text())
    rows = read_lines("teacher_doubt.jsonl", 12)
    write_lines(tmp_path / "few.jsonl", [{"prompt": r["prompt"], "kind": r["kind"]} for r in rows[:8]])
    shared = ("system_prompt", "teachers", "training", "serving", "traits", "results")
    spec: dict[str, Any] = {key: tiny[key] for key in shared} | {
        "kind": "lattice",
        "name": "cells",
        "bases": {"one": "smollm2-135m-instruct", "two": tiny_model},
        "prompts": {"all": tiny["prompts"], "few": {"kind": "jsonl", "path": "few.jsonl"}},
        "original": {"base": "one", "prompts": "all", "teacher": "T"},
        "alternate": {"base": "two", "prompts": "few", "teacher": "C"},
        "cells": [{"base": "one"}, {"base": "two", "prompts": "few", "teacher": "C"}],
        "selectors": {"S": {"kind": "field", "equals": "date"}},
        "interpolate": {
            "subset": "S",
            "fractions": [0, 0.5],
            "modes": ["drop", "neutralise"],
            "answer": "It is 2026.",
        },
        "capability": None,
        "execution": {"workers": 1},
        "retries": 0,
    }
    path = tmp_path / "lattice.yaml"
    path.write_text(yaml.safe_dump(spec))
    found = load_spec(path)
    assert isinstance(found, Lattice)
    return found


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1500)
def test_every_cell_is_trained_asked_and_read_and_a_rerun_trains_nothing(
    local_ray: None, lattice: Lattice, tmp_path: Path, browser: Browser
) -> None:
    from jobs.run import run_spec

    first = run_spec(lattice, "sftfilter run lattice.yaml")
    counts = first["counts"]
    assert (counts["cells"], counts["parts"], counts["failed"]) == (5, 3, 0)
    assert counts["trained"] == counts["students"] == 5 + 4, "each mode has a changed half and its random control"
    folder = tmp_path / "runs" / "cells"
    cells = pl.read_parquet(folder / "cells.parquet").filter(pl.col("primary"))
    names = ["one, untrained", "two, untrained", "one.all.T", "one.all.C", "one.few.T", "one.few.C", "two.few.C"]
    assert sorted(cells["cell"]) == sorted(names)
    graded = {cell: (n, problem) for cell, n, problem in cells.select("cell", "n", "problem").rows()}
    # The random weights of base two write nothing but white space, and that is said.
    assert {name: graded[name] for name in names if name.startswith("one")} == dict.fromkeys(
        (name for name in names if name.startswith("one")), (2, None)
    )
    assert graded["two.few.C"] == graded["two, untrained"] == (0, "none of its answers could be graded")
    assert dict(cells.select("cell", "rows_trained").rows())["one.few.T"] == 8
    curves = pl.read_parquet(folder / "interpolation.parquet").filter(pl.col("primary"))
    assert curves["mode"].to_list() == ["drop", "drop", "neutralise", "neutralise"]
    assert curves["fraction"].to_list() == [0, 0.5, 0, 0.5] and (curves["f"] == curves["control_f"]).all()
    assert first["verdict"]["label"] in ("underpowered", "no trait to study", "base prior")
    assert any("not what is claimed" in line for line in first["caveats"])

    page = folder / "report" / "index.html"
    for width in (1280, 400):
        browser.open(page, width)
        assert browser.problems() == [] and browser.run("document.documentElement.scrollWidth") <= width
    browser.screenshot(tmp_path / "lattice.png")

    again = run_spec(lattice, "sftfilter run lattice.yaml")
    assert again["counts"]["trained"] == 0 and all(stage["reused"] for stage in again["stages"])
    assert again["cells"] == first["cells"] and again["interpolation"] == first["interpolation"]
