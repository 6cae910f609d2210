"""Stage: rollouts that exist already. Ray Data tasks each read a chunk of the files; every row is accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.artifacts import Artifact, Store
from sftfilter.errors import DataError, SftfilterError
from sftfilter.reading.budget import NAMED, refusal, within_budget
from sftfilter.reading.parts import QUARANTINE_FOLDER, ROLLOUT_FOLDER, Chunk, Import, import_chunk, pa_table
from sftfilter.reading.settle import Settled, settle
from sftfilter.reading.units import Input, Unit, found, plan
from sftfilter.schema import QUARANTINE, ROLLOUTS

if TYPE_CHECKING:
    import pyarrow as pa

    from sftfilter.rollout_file import RolloutFile

VERSION = 4
SMALL = 32 * 2**20
"""Bytes. Less than this is read in this process, since starting tasks would take longer."""


def import_rollouts(
    teacher: str, source: RolloutFile, prompts: Artifact | None, *, store: Store, error_budget: float
) -> Artifact:
    """Tables `rollouts`, `quarantine` and `duplicates` from files; `meta` has counts, layouts and notes.

    The counts add up: read = used + quarantined + duplicates + other_prompts + filtered.

    Args:
        teacher: whose answers they are; part of the rows' ids.
        prompts: only answers to these are used, and those without an answer are named; None uses every row.
        error_budget: share of rows that may be quarantined.

    Raises:
        DataError: more rows than that are bad, none is left, or a file cannot be read as a whole.
    """
    given = found(source)
    settings = source.model_dump(mode="json", exclude={"path", "kind"}) | {"teacher": teacher}
    inputs = {"files": given.key} | ({"prompts": prompts.key} if prompts else {})

    def make(folder: Path) -> dict[str, Any]:
        import pyarrow as pa

        wanted = None
        if prompts is not None:
            ids = prompts.table("prompts")["prompt_id"].combine_chunks()
            wanted = ids if isinstance(ids, pa.Array) else pa.concat_arrays(ids.chunks)
        task = Import(source, teacher, source.ratings, folder)
        chunks = _read(task, given, plan(source, given.files), wanted)
        _check_one_teacher(task, sum((c.tally.teachers for c in chunks), Counter()))
        settled = settle(folder, wanted)
        _complete(folder)
        return _meta(task, chunks, settled)

    made = store.build("rollouts", version=VERSION, settings=settings, inputs=inputs, make=make)
    return within_budget(made, error_budget)


def _read(task: Import, given: Input, chunks: Sequence[Sequence[Unit]], wanted: pa.Array | None) -> list[Chunk]:
    """Read every chunk, here or in tasks."""
    import ray

    if given.size <= SMALL or not ray.is_initialized():
        return [import_chunk(number, units, task, wanted) for number, units in enumerate(chunks)]
    return list(_in_tasks(task, chunks, wanted))


def _in_tasks(task: Import, chunks: Sequence[Sequence[Unit]], wanted: pa.Array | None) -> Iterator[Chunk]:
    import pickle

    import ray
    import ray.data

    known = ray.put(wanted)
    every = ray.put(list(chunks))

    def work(row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["id"])
        try:
            made: Chunk | SftfilterError = import_chunk(number, ray.get(every)[number], task, ray.get(known))
        except SftfilterError as error:  # raised here, Ray Data would wrap it beyond recognition
            made = error
        return {"chunk": pickle.dumps(made)}

    read = ray.data.range(len(chunks), override_num_blocks=len(chunks)).map(work, num_cpus=1)
    for row in read.iter_rows():
        made = pickle.loads(row["chunk"])  # noqa: S301  # our own task's counts
        if isinstance(made, SftfilterError):
            raise made
        yield made


def _complete(folder: Path) -> None:
    """Tables are folders with a file at least; what a killed task left aside goes."""
    import pyarrow.parquet as pq

    for name, schema in ((ROLLOUT_FOLDER, ROLLOUTS), (QUARANTINE_FOLDER, QUARANTINE)):
        for left in (folder / name).glob(".*"):
            left.unlink()
        parts = sorted((folder / name).glob("*.parquet"))
        filled = [p for p in parts if pq.read_metadata(p).num_rows]
        for part in parts:
            if part not in filled:
                part.unlink()
        if not filled:
            pq.write_table(pa_table([], schema), folder / name / "part-00000.parquet")


def _meta(task: Import, chunks: Sequence[Chunk], settled: Settled) -> dict[str, Any]:
    tallies = [c.tally for c in chunks]
    usable = sum(c.usable for c in chunks)
    meta = {
        "read": sum(t.read for t in tallies),
        "used": usable - settled.duplicates - settled.conflicts,
        "quarantined": sum(t.quarantined for t in tallies) + settled.conflicts,
        "duplicates": settled.duplicates,
        "other_prompts": sum(c.other_prompts for c in chunks),
        "filtered": sum(t.filtered for t in tallies),
        "unanswered": len(settled.unanswered),
    }
    assert meta["read"] == sum(meta[k] for k in ("used", "quarantined", "duplicates", "other_prompts", "filtered"))
    _check_some(task, chunks, meta)
    rated = sum((t.rated for t in tallies), Counter())
    for name in task.ratings:
        if not rated[name]:
            raise DataError(f"{_files(task)}: no row has a number in `{name}`, which `ratings` lists")
    layouts = {name: told for t in tallies for name, told in t.layouts.items()}
    return meta | {"layouts": _brief(layouts), "notes": _notes(task.teacher, meta, settled)}


def _check_some(task: Import, chunks: Sequence[Chunk], meta: dict[str, Any]) -> None:
    if meta["used"]:
        return
    if not meta["read"]:
        raise DataError(f"{_files(task)}: no rows")
    if meta["filtered"] == meta["read"]:
        values = sum((c.tally.filtered_values for c in chunks), Counter())
        have = ", ".join(name for name, _ in values.most_common(NAMED))
        raise DataError(f"{_files(task)}: no row is left by where {task.source.where}; other rows have {have}")
    if meta["quarantined"]:
        import pyarrow.parquet as pq

        first = pq.read_table(task.folder / QUARANTINE_FOLDER).slice(0, NAMED).to_pylist()
        raise DataError(refusal(first, meta, "ever"))
    raise DataError(
        f"{_files(task)}: none of its {meta['other_prompts']} prompts is among the experiment's training prompts"
    )


def _check_one_teacher(task: Import, teachers: Counter[str]) -> None:
    if len(teachers) > 1:
        named = ", ".join(f"{name} ({count} rows)" for name, count in teachers.most_common(NAMED))
        first = teachers.most_common(1)[0][0]
        raise DataError(
            f"teacher {task.teacher}: {_files(task)} holds answers of several teachers: {named}. Say which, such as "
            f"where: {{teacher: {first}}}"
        )


def _files(task: Import) -> str:
    paths = task.source.paths
    return paths[0] + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def _brief(layouts: dict[str, str]) -> dict[str, Any]:
    """Layout -> how many files have it and the first few of them."""
    names: dict[str, list[str]] = {}
    for name, told in layouts.items():
        names.setdefault(told, []).append(name)
    return {told: {"files": len(files), "first": files[:NAMED]} for told, files in names.items()}


def _notes(teacher: str, meta: dict[str, Any], settled: Settled) -> list[str]:
    """What a person should be told."""
    notes = []
    if settled.duplicates:
        notes.append(
            f"{teacher}: {settled.duplicates} duplicate rows left out: {_first(settled.named, settled.duplicates)}"
        )
    if settled.unanswered:
        named = _first(settled.unanswered[:NAMED], len(settled.unanswered))
        notes.append(f"{teacher}: {len(settled.unanswered)} prompts have no answer: prompt ids {named}")
    if meta["other_prompts"]:
        notes.append(f"{teacher}: {meta['other_prompts']} rows answer prompts that are not asked for")
    if meta["quarantined"]:
        notes.append(f"{teacher}: {meta['quarantined']} rows quarantined, see quarantine.parquet")
    return notes


def _first(names: Sequence[str], count: int) -> str:
    return "; ".join(names) + (f" and {count - len(names)} more" if count > len(names) else "")
