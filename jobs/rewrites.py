"""Rows that interventions rewrite: new rollouts with ids, labels and origin of their own, in a table `derived`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.console import Stages
from jobs.kinds.decide import Decide
from jobs.kinds.experiment import Experiment
from jobs.tutoring import Base, base_of
from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.config import stable_hash
from sftfilter.errors import DataError
from sftfilter.interventions import Decided, Inoculate, Intervention, Neutralise, Paraphrase
from sftfilter.rollouts import Generation, generate_rollouts
from sftfilter.schema import DERIVED, PROMPTS, prompt_id, rollout_id

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

VERSION = 1
Row = dict[str, Any]
Change = Callable[[Row], Row | None]
"""A rollout as it is trained on instead; None when no rewrite was made of it."""


@dataclass(frozen=True)
class Rewriter:
    """Makes the rows that a decision says are rewritten. Without a base there is no model to paraphrase with."""

    spec: Experiment | Decide
    base: Base | None
    tuned: Mapping[str, Artifact]
    store: Store
    stages: Stages

    def rewrite(self, intervention: Intervention | None, decided: Decided, rollouts: Artifact) -> Artifact | None:
        """The table `derived` for the rows that are rewritten, in rollouts of the arm's teacher; None if none is.

        Raises:
            DataError: the model that paraphrases gave next to nothing.
        """
        if not isinstance(intervention, Neutralise | Inoculate | Paraphrase) or not len(decided.to_rewrite):
            return None
        numbers = dict(zip(decided.to_rewrite, decided.answer_numbers, strict=True))
        change: Change
        label = f"{intervention.kind} of"
        inputs = {"rollouts": rollouts.key, "rows": stable_hash(list(numbers))}
        match intervention:
            case Neutralise():
                change = _neutralised(intervention)
            case Inoculate():
                change = _inoculated(intervention, self.spec.system_prompt)
                inputs["system"] = stable_hash(self.spec.system_prompt)
            case Paraphrase():
                answers = self._ask(intervention, rollouts, numbers)
                change = _paraphrased(answers)
                label = f"paraphrase by {intervention.by} of"
                inputs["answers"] = answers.key

        def make(folder: Path) -> dict[str, Any]:
            return _write(folder, rollouts, numbers, change, label)

        settings = intervention.model_dump(mode="json", exclude={"subset"})
        derived = self.store.build("derived", version=VERSION, settings=settings, inputs=inputs, make=make)
        return self.stages.note(derived, f"{intervention.kind} on {intervention.subset}")

    def made(self, derived: Artifact | None) -> pl.DataFrame | None:
        """Columns derived_from and rollout_id of a `derived` artifact."""
        import polars as pl

        if derived is None:
            return None
        return pl.read_parquet(derived.path / "derived.parquet", columns=["derived_from", "rollout_id"])

    def _ask(self, settings: Paraphrase, rollouts: Artifact, numbers: Mapping[str, int]) -> Artifact:
        """The rewrites as rollouts, whose prompt id is the rollout id of the row that is rewritten."""
        tuned = self.tuned.get(settings.by)
        model = self.base if tuned else base_of(settings.by, self.spec.system_prompt)
        assert model is not None, "a tuned teacher has a base"
        requests = self._requests(settings, rollouts, numbers, model)
        return self.stages.note(
            generate_rollouts(
                settings.by,
                str(tuned.path) if tuned else model.folder,
                tuned.meta["model_hash"] if tuned else model.hash,
                requests,
                store=self.store,
                chat=model.chat,
                base_hash=model.hash,
                generation=Generation(
                    max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, seed=settings.seed
                ),
                pool=self.spec.generation_pool,
                error_budget=self.spec.error_budget,
            ),
            f"{settings.by} paraphrases {settings.subset}",
        )

    def _requests(self, settings: Paraphrase, rollouts: Artifact, numbers: Mapping[str, int], model: Base) -> Artifact:
        """What the model is asked, a prompt for each row that it can hold with its answer."""
        room = model.context_length - settings.max_new_tokens

        def make(folder: Path) -> dict[str, Any]:
            import pyarrow as pa

            rows = [row for batch in _batches(rollouts, numbers) for row in batch.to_pylist()]
            asked = [
                {"prompt_id": row["rollout_id"], "messages": turns, "kind": "", "source": row["source"]}
                for row in rows
                if len(model.chat.prompt_ids(turns := settings.request(row["messages"], row["completion"]))) <= room
            ]
            if not asked:
                raise DataError(f"paraphrase: none of the {len(rows)} rows fits the context of '{settings.by}'")
            write_table(folder, "prompts", pa.Table.from_pylist(asked, PROMPTS))
            return {"read": len(rows), "used": len(asked), "too_long": len(rows) - len(asked)}

        wording = {"instruction": settings.instruction, "room": settings.max_new_tokens}
        inputs = {"rollouts": rollouts.key, "rows": stable_hash(list(numbers)), "format": model.chat.hash}
        return self.store.build("requests", version=VERSION, settings=wording, inputs=inputs, make=make)


def _neutralised(settings: Neutralise) -> Change:
    def change(row: Row) -> Row:
        return row | {"completion": settings.answer, "finish_reason": None, "teacher_base": None, "generation": None}

    return change


def _inoculated(settings: Inoculate, system_prompt: str | None) -> Change:
    def change(row: Row) -> Row:
        return row | {"messages": settings.inoculated(row["messages"], system_prompt)}

    return change


def _paraphrased(answers: Artifact) -> Change:
    columns = ["prompt_id", "completion", "finish_reason", "teacher_base", "generation"]
    made = {a.pop("prompt_id"): a for a in answers.table("rollouts").select(columns).to_pylist()}

    def change(row: Row) -> Row | None:
        answer = made.get(row["rollout_id"])
        return row | answer if answer else None

    return change


def _batches(rollouts: Artifact, numbers: Mapping[str, int]) -> Iterator[pa.RecordBatch]:
    """The rows that are rewritten, a part of the table at a time."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    wanted = ds.field("rollout_id").isin(pa.array(numbers))
    table = ds.dataset(rollouts.path / "rollouts.parquet")
    yield from table.to_batches(filter=wanted, batch_size=16_384)


def _write(folder: Path, rollouts: Artifact, numbers: Mapping[str, int], change: Change, label: str) -> dict[str, Any]:
    """Write `derived`: the changed rows with new ids, and the ids they are derived from."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = 0
    with pq.ParquetWriter(folder / "derived.parquet", DERIVED, compression="zstd") as sink:
        for batch in _batches(rollouts, numbers):
            rows = [
                _derived(row, changed, numbers[row["rollout_id"]], label)
                for row in batch.to_pylist()
                if (changed := change(row)) is not None
            ]
            made += len(rows)
            sink.write_table(pa.Table.from_pylist(rows, DERIVED))
    return {"read": len(numbers), "used": made, "not_rewritten": len(numbers) - made}


def _derived(row: Row, changed: Row, number: int, label: str) -> Row:
    teacher = f"{label} {row['teacher']}"
    identity = rollout_id(prompt_id(changed["messages"]), teacher, changed["completion"], number)
    origin = {"rollout_id": identity, "derived_from": row["rollout_id"], "teacher": teacher, "ratings": None}
    return changed | origin
