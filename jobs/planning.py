"""Rows and plans of students: texts out of the tables that hold them, as many steps as the budget allows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from sftfilter.artifacts import Artifact
from sftfilter.training_plan import TrainingPlan, make_plan

if TYPE_CHECKING:
    import pyarrow as pa

    from sftfilter.chat_format import ChatFormat
    from sftfilter.training_settings import TrainingSettings


def plan_rows(
    rows: Sequence[tuple[str, str]],
    order: Sequence[str],
    settings: TrainingSettings,
    seed: int,
    chat: ChatFormat | None,
    sources: Sequence[Artifact],
) -> TrainingPlan:
    """The plan over (order key, rollout id) pairs; the rows are tokenised only if the budget is in tokens."""

    def supervised() -> Mapping[str, int]:
        assert chat is not None
        return supervised_counts(texts_of({row for _, row in rows}, sources), chat, settings)

    return make_plan(rows, order, settings, seed, supervised)


def supervised_counts(table: pa.Table, chat: ChatFormat, settings: TrainingSettings) -> dict[str, int]:
    """Row id -> tokens that the loss is taken on."""
    return {
        row["row_id"]: len(chat.supervised(row["messages"], row["completion"], settings.loss_on)[1])
        for row in table.to_pylist()
    }


def rows_of(plan: TrainingPlan, sources: Sequence[Artifact]) -> pa.Table:
    """Columns row_id, messages, completion of the rows that a plan uses."""
    return texts_of({row for step in plan.steps for row in step if row is not None}, sources)


def texts_of(ids: Collection[str], sources: Sequence[Artifact]) -> pa.Table:
    """Columns row_id, messages, completion of these rollouts, out of tables `rollouts` and `derived`."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    wanted = ds.field("rollout_id").isin(pa.array(sorted(ids)))
    columns = {"row_id": ds.field("rollout_id"), "messages": ds.field("messages"), "completion": ds.field("completion")}
    files = [a.path / f"{'derived' if a.stage == 'derived' else 'rollouts'}.parquet" for a in sources]
    return pa.concat_tables([ds.dataset(file).to_table(columns, filter=wanted) for file in files]).sort_by("row_id")
