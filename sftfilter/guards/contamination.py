"""Training texts that contain evaluation prompts: a student graded on what it was trained on shows memory.

The rule is that of Tülu 3 (Lambert et al. 2024, arXiv 2411.15124, section 3.2), which is made for fine-tuning data: a
training text overlaps with an evaluation prompt when n-grams of n words that both have cover at least `threshold` of
the prompt's words, n = 8 and threshold = 0.5. Llama 3 (arXiv 2407.21783, section 5.1.4) takes the same measure with
thresholds by benchmark; GPT-3 (arXiv 2005.14165, appendix C) took single n-grams of 8 to 13 words, by the length of
the benchmark's prompts. Singh et al. 2024 (arXiv 2411.03923) find that n above 8 misses leaks that raise scores.

A prompt of fewer than n words has no n-gram. It overlaps with a text that contains all of its words in their order,
if they also make up at least `threshold` of that text: a few words stand in many long texts by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.config import Settings
from sftfilter.errors import DataError

if TYPE_CHECKING:
    from sftfilter.guards.texts import Texts

VERSION = 1
_NAMED = 5


class Contamination(Settings):
    """What counts as overlap of a training text with an evaluation prompt, and what follows."""

    n: Annotated[int, Field(ge=2, description="words of an n-gram")] = 8
    threshold: Annotated[float, Field(gt=0, le=1, description="share of the prompt's words in shared n-grams")] = 0.5
    action: Annotated[
        Literal["refuse", "drop", "report"],
        Field(
            description="refuse: stop; drop: leave those training prompts out (scorers' and tuned teachers' files are refused); report: list them and go on"
        ),
    ] = "refuse"


def find_overlaps(
    settings: Contamination, training: Sequence[Texts], evaluation: Mapping[str, Artifact], store: Store
) -> Artifact:
    """Table `overlaps`, a row for each training text and evaluation prompt that overlap (see `overlap.overlaps`).

    Args:
        evaluation: name -> its `prompts`. Their n-grams are held in memory, 24 bytes each; training texts are streamed.
    """

    def make(folder: Path) -> dict[str, Any]:
        import polars as pl

        from sftfilter.guards.overlap import make_questions, overlap_schema, overlaps
        from sftfilter.guards.texts import count_rows, stream

        tables = [(name, artifact.table("prompts")) for name, artifact in evaluation.items()]
        questions = make_questions(tables, settings.n, settings.threshold)
        found = [pl.DataFrame(overlap_schema().empty_table())]
        for texts in training:
            work = partial(overlaps, questions=questions, texts=texts)
            found += [pl.DataFrame(made) for made in stream(texts.path, texts.columns, work)]
        identity = ["evaluation", "evaluation_id", "side", "teacher", "id"]
        table = pl.concat(found).unique(identity).sort(identity)
        write_table(folder, "overlaps", table.to_arrow())
        return {
            "training_texts": sum(count_rows(texts.path) for texts in training),
            "overlapping_texts": table.select("side", "teacher", "id").n_unique(),
            "evaluation_prompts": len(questions.rows),
            "evaluation_prompts_hit": table.select("evaluation", "evaluation_id").n_unique(),
        }

    return store.build(
        "contamination",
        version=VERSION,
        settings={"n": settings.n, "threshold": settings.threshold, "texts": [t.name for t in training]},
        inputs={f"text {i}": t.key for i, t in enumerate(training)} | {f"of {n}": a.key for n, a in evaluation.items()},
        make=make,
    )


def guard_prompts(
    settings: Contamination, prompts: Artifact, evaluation: Mapping[str, Artifact], store: Store
) -> tuple[Artifact, Artifact]:
    """The prompts that may be trained on, and the overlaps that were found.

    Returns:
        `prompts` itself unless some were dropped; then a table of the others, the dropped ones in `quarantine`.

    Raises:
        DataError: training prompts overlap with evaluation prompts and the action is `refuse`, or none is left.
    """
    from sftfilter.guards.texts import prompt_texts

    overlaps = find_overlaps(settings, [prompt_texts(prompts, "train")], evaluation, store)
    if not overlaps.meta["overlapping_texts"] or settings.action == "report":
        return prompts, overlaps
    if settings.action == "refuse":
        raise DataError(refusal(settings, overlaps))
    return _without(prompts, overlaps, store), overlaps


def guard_rollouts(
    settings: Contamination, rollouts: Mapping[str, Artifact], evaluation: Mapping[str, Artifact], store: Store
) -> Artifact:
    """The overlaps of the prompts that rollouts answer, where there is no table of prompts to drop from.

    Raises:
        DataError: there are some and the action is `refuse`.
    """
    from sftfilter.guards.texts import answered_texts

    overlaps = find_overlaps(settings, answered_texts(rollouts), evaluation, store)
    if overlaps.meta["overlapping_texts"] and settings.action == "refuse":
        raise DataError(refusal(settings, overlaps))
    return overlaps


def check_drops_nothing(settings: Contamination | None) -> None:
    """Raise ValueError for `drop` where rows are given and none can be left out."""
    if settings and settings.action == "drop":
        raise ValueError("contamination.action: rows are never left out here; say refuse or report")


def refusal(settings: Contamination, overlaps: Artifact) -> str:
    """What to say of the overlaps: the rows of both sides, what they share, and the remedy."""
    count = overlaps.meta["overlapping_texts"]
    return (
        f"{count} of {overlaps.meta['training_texts']} training texts overlap with "
        f"{overlaps.meta['evaluation_prompts_hit']} of {overlaps.meta['evaluation_prompts']} evaluation prompts:\n"
        + pairs_of(overlaps, lambda row: f"{row['source']}: {row['side']} {row['id']}")
        + "\nA student graded on what it was trained on shows memory. Take these rows out of one of the two files, or set "
        "`contamination: {action: drop}` to leave the training rows out, or `{action: report}` to go on with them "
        f"(n is {settings.n}, threshold {settings.threshold:g})."
    )


def pairs_of(overlaps: Artifact, name: Callable[[Mapping[str, str]], str]) -> str:
    """The first pairs of a training text, as `name` calls it, and an evaluation prompt, and where the others are."""
    rows = overlaps.table("overlaps").slice(0, _NAMED).to_pylist()
    more = overlaps.table("overlaps").num_rows - len(rows)
    named = "\n".join(
        f"  {name(row)} {_quoted(row['text'])}\n"
        f"    and {row['evaluation_source']}: prompt {row['evaluation_id']} {_quoted(row['evaluation_text'])}\n"
        f"    share {_quoted(row['span'])} ({row['share']:.0%} of the evaluation prompt's words)"
        for row in rows
    )
    return named + (f"\n  and {more} more pairs, all in {overlaps.path / 'overlaps.parquet'}" if more else "")


def _quoted(text: str, length: int = 80) -> str:
    shown = " ".join(text.split())
    return f'"{shown if len(shown) <= length else shown[: length - 3] + "..."}"'


def _without(prompts: Artifact, overlaps: Artifact, store: Store) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.compute as pc

        from sftfilter.schema import QUARANTINE

        found = {row["id"]: row for row in overlaps.table("overlaps").to_pylist()}
        table = prompts.table("prompts")
        kept = table.filter(pc.invert(pc.is_in(table["prompt_id"], pa.array(sorted(found)))))  # pyright: ignore[reportAttributeAccessIssue]
        if not kept.num_rows:
            raise DataError(refusal(Contamination(action="drop"), overlaps))
        bad = [
            {
                "file": row["source"],
                "row": None,
                "field": "prompt",
                "reason": f"overlaps with {row['evaluation_source']}, prompt {row['evaluation_id']}: {_quoted(row['span'])}",
                "raw": row["text"],
            }
            for _, row in sorted(found.items())
        ]
        quarantine = pa.concat_tables([prompts.table("quarantine"), pa.Table.from_pylist(bad, QUARANTINE)])
        write_table(folder, "prompts", kept)
        write_table(folder, "quarantine", quarantine)
        return {**prompts.meta, "used": kept.num_rows, "quarantined": prompts.meta["quarantined"] + len(bad)}

    inputs = {"prompts": prompts.key, "overlaps": overlaps.key}
    return store.build("prompts", version=VERSION, settings={"without": "contaminated"}, inputs=inputs, make=make)
