"""Job `generate`: prompts in, every teacher's answers out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jobs.console import Stages
from jobs.exports import Exports
from jobs.kinds.generate import Generate
from jobs.records import base_record, row_counts, write_json
from jobs.tutoring import load_base, make_rollouts, read_source, tune_teachers
from sftfilter.artifacts import Artifact, Store
from sftfilter.disk import disk_errors

if TYPE_CHECKING:
    import polars as pl


def run_generate(spec: Generate, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
    """Answer what has no answer yet, export, and write down what came of it."""
    store, folder = Store(root / "artifacts"), root / spec.name
    base = load_base(spec)
    with stages.stage("prompts", "read, checked, duplicates named"):
        prompts = stages.note(read_source(spec, base, store, spec.prompts, spec.generation.max_new_tokens))
    with stages.stage("teachers", "tuned from the base where the spec says so"):
        teachers = tune_teachers(spec, base, store, folder, stages)
    with stages.stage("rollouts", f"{', '.join(spec.teachers)} answer every prompt"):
        rollouts = make_rollouts(spec, base, teachers, prompts, store, stages)
    files: dict[str, str] = {}
    if spec.export != "none":
        with stages.stage("export", f"conversations in `messages`, as {spec.export}"):
            exports = Exports(folder / "rollouts")
            for name, made in rollouts.items():
                file = export_rollouts(exports.folder, name, made, spec.export)
                exports.wrote(file)
                files[name] = str(file)
            for line in exports.finish():
                stages.say(line)
    record = base_record(spec, stages, command) | {
        "counts": {"prompts": row_counts(prompts)} | {name: row_counts(made) for name, made in rollouts.items()},
        "rollouts": {name: str(made.path / "rollouts.parquet") for name, made in rollouts.items()},
        "files": files,
    }
    write_json(folder / "generate.json", record)
    for name, made in rollouts.items():
        stages.console.print(f"{name}: {made.meta['used']} answers  {files.get(name, made.path)}", soft_wrap=True)
    return record


def export_rollouts(folder: Path, teacher: str, rollouts: Artifact, form: Literal["parquet", "jsonl"]) -> Path:
    """Write `folder/TEACHER.FORM`: the conversation in `messages` (the answer last), and where it comes from."""
    target = folder / f"{teacher}.{form}"
    rows = _conversations(rollouts.path / "rollouts.parquet")
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as aside:
            whole = Path(aside) / target.name
            if form == "parquet":
                rows.sink_parquet(whole)
            else:
                rows.sink_ndjson(whole)
            whole.replace(target)
    return target


def _conversations(path: Path) -> pl.LazyFrame:
    import polars as pl

    answer = pl.struct(pl.lit("assistant").alias("role"), pl.col("completion").alias("content"))
    rows = pl.scan_parquet(path, glob=False)
    kept = [
        name
        for name in ("rollout_id", "prompt_id", "teacher", "source", "kind", "finish_reason")
        if name in rows.collect_schema()
    ]
    return rows.select(pl.concat_list("messages", answer).alias("messages"), *kept)
