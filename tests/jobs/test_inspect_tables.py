"""What inspect prints: it fits 80 columns, lines up, and a text cannot drive the terminal."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl
from rich.cells import cell_len
from rich.console import Console

from jobs.inspect_tables import everything, printable, sparkline
from sftfilter.inspection.findings import find


def test_sparklines_have_one_width_and_show_every_row() -> None:
    assert sparkline([0, 1, 1000], 6) == "  ▁▁██"
    assert all(len(sparkline([3] * n)) == 30 for n in (1, 2, 7, 29, 30))
    assert sparkline([]).strip() == ""


def test_texts_are_cut_and_cannot_drive_the_terminal() -> None:
    shown = printable("\x1b[31mred\x07\n[bold]not markup[/] " + "x" * 100).plain
    assert "\x1b" not in shown and "\x07" not in shown and "\n" not in shown
    assert "[bold]not markup[/]" in shown and shown.endswith("…") and len(shown) <= 66


def test_the_whole_output_fits_80_columns(tmp_path: Path) -> None:
    rows, paths = [], {}
    for teacher in ("original-teacher", "alternate-teacher"):
        texts = [f"\x1b[2J {teacher} 日本語 answers {n} " + "word " * (n % 40) for n in range(60)]
        ids = [f"{teacher}-{n:03d}" for n in range(60)]
        messages = [
            [{"role": "user", "content": f"A question number {n}, at some length, about [link]things[/]?"}]
            for n in range(60)
        ]
        paths[teacher] = tmp_path / f"{teacher}.parquet"
        prompts = [f"p{n}" for n in range(60)]
        pl.DataFrame(
            {"rollout_id": ids, "prompt_id": prompts, "messages": messages, "completion": texts}
        ).write_parquet(paths[teacher])
        rows += [
            {"rollout_id": i, "prompt_id": p, "teacher": teacher, "kind": f"kind{n % 3}", "source": f"/a/long/path/of/file{n % 2 + 1}.jsonl",
             "source_id": None, "characters": len(texts[n]), "a_scorer_with_a_name": n / 7, "a_scorer_with_a_name_error": None,
             "judge": None if n % 5 == 0 else float(n % 4), "judge_error": "the endpoint timed out " * 20 if n % 5 == 0 else None}
            for n, (i, p) in enumerate(zip(ids, prompts, strict=True))
        ]  # fmt: skip
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(tmp_path / "scores.parquet")
    findings = find(tmp_path / "scores.parquet", paths, ["a_scorer_with_a_name", "judge"], 2)
    none, some = {"count": 0, "first": []}, {"count": 9, "first": [f'{"0" * 16} "What {"word " * 11}?"'] * 3}
    teacher = {"prompts": 1_000_000, "answers": 4_000_000, "missing": some, "duplicates": none, "conflicts": some}
    teachers = {"original-teacher": teacher, "alternate-teacher": teacher | {"missing": none}}
    findings["pairing"] = {
        "prompts": 60,
        "by_all": 51,
        "teachers": teachers,
        "unequal": none,
        "table": "x/pairing.parquet",
    }
    out = io.StringIO()
    Console(file=out, width=80, force_terminal=False).print(everything(findings))
    shown = out.getvalue()
    assert max(cell_len(line) for line in shown.splitlines()) <= 80
    assert "\x1b" not in shown
    for words in (
        "51 of 60 prompts",
        "original-teacher lacks: 000",
        "alternate-teacher conflict left out: and 6 more",
        "kind kind0",
        "file2.jsonl of orig",
        "the endpoint timed out",
        "judge ~ characters",
        "日本語",
        "[link]things[/]",
    ):
        assert words in shown
