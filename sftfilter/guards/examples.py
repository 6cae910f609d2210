"""The files that scorers are fitted with and teachers are tuned on, as texts in which evaluation prompts are looked for.

A scorer that learned the trait on evaluation prompts selects by what those prompts are like, and a filter is then measured
on what it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.errors import DataError
from sftfilter.guards.contamination import Contamination, find_overlaps, pairs_of
from sftfilter.guards.texts import Texts

VERSION = 1


def guard_examples(
    settings: Contamination, files: Mapping[str, tuple[str, bool]], evaluation: Mapping[str, Artifact], store: Store
) -> Artifact:
    """The overlaps of those files' prompts with evaluation prompts; `teacher` is the field that names the file.

    Args:
        files: field of the spec -> file, and whether its rows have answers.

    Raises:
        DataError: there are some, and the action is not `report`: rows of these files are never left out.
    """
    found = find_overlaps(settings, [_texts(field, *file, store) for field, file in files.items()], evaluation, store)
    if found.meta["overlapping_texts"] and settings.action != "report":
        raise DataError(_refusal(settings, found))
    return found


def _texts(field: str, path: str, answers: bool, store: Store) -> Texts:
    """A table of the file's prompts, a row for each, named by file and row."""
    from sftfilter.reading.answers import content_hash

    def make(folder: Path) -> dict[str, Any]:
        import pyarrow as pa

        from sftfilter.schema import MESSAGE

        schema = pa.schema([("row", pa.string()), ("messages", pa.list_(MESSAGE)), ("source", pa.string())])
        rows = _rows(path, answers)
        write_table(folder, "examples", pa.Table.from_pylist(rows, schema))
        return {"read": len(rows)}

    made = store.build(
        "examples",
        version=VERSION,
        settings={"path": path, "answers": answers},
        inputs={"file": content_hash(path)},
        make=make,
    )
    return Texts(made.key, made.path / "examples.parquet", "prompt", "row", "train", field)


def _rows(path: str, answers: bool) -> list[dict[str, Any]]:
    """Those that can be used; the others are named where the file is used."""
    from sftfilter.reading.rows import Reader, Row
    from sftfilter.reading.source import FileSource
    from sftfilter.reading.units import found, plan

    reader = Reader(FileSource(path=path), answers=answers)
    units = [unit for chunk in plan(reader.source, found(reader.source).files) for unit in chunk]
    rows = [row for unit in units for row in reader.rows(unit) if isinstance(row, Row)]
    return [{"row": f"{r.file}, row {r.number}", "messages": r.messages, "source": r.file} for r in rows]


def _refusal(settings: Contamination, overlaps: Artifact) -> str:
    count, hit = overlaps.meta["overlapping_texts"], overlaps.meta["evaluation_prompts_hit"]
    remedy = "Take these rows out of one of the two files"
    if settings.action == "drop":
        remedy += " (`contamination: {action: drop}` leaves out training prompts only)"
    return (
        f"{count} of {overlaps.meta['training_texts']} examples for scorers and teachers overlap with "
        f"{hit} of {overlaps.meta['evaluation_prompts']} evaluation prompts:\n"
        + pairs_of(overlaps, lambda row: f"{row['teacher']}: {row['id']}")
        + "\nA scorer that was fitted on evaluation prompts, or a teacher tuned on them, is measured on what it was made "
        f"from. {remedy}, or set `contamination: {{action: report}}` to go on with them (n is {settings.n}, threshold "
        f"{settings.threshold:g})."
    )
