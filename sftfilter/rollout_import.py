"""Stage: rollouts that exist already. Every row is used or accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.errors import DataError
from sftfilter.schema import QUARANTINE, ROLLOUTS, rollout_id

if TYPE_CHECKING:
    from sftfilter.rollout_file import RolloutFile

VERSION = 2


def import_rollouts(
    teacher: str, source: RolloutFile, prompts: Artifact | None, *, store: Store, error_budget: float
) -> Artifact:
    """Tables `rollouts` and `quarantine` from files.

    Args:
        prompts: only answers to these are used; None uses every row.
    """

    def make(folder: Path) -> dict[str, Any]:
        import pyarrow as pa

        good, bad = source.read(error_budget)
        used = set(prompts.table("prompts")["prompt_id"].to_pylist()) if prompts else {r["prompt_id"] for r in good}
        rows = [
            {
                "rollout_id": rollout_id(r["prompt_id"], teacher, r["completion"]),
                "prompt_id": r["prompt_id"],
                "messages": r["messages"],
                "completion": r["completion"],
                "teacher": teacher,
                "source": source.path,
            }
            for r in good
            if r["prompt_id"] in used
        ]
        if not rows:
            raise DataError(
                f"{source.path}: none of its {len(good)} prompts is among the experiment's training prompts"
            )
        write_table(folder, "quarantine", pa.Table.from_pylist(bad, QUARANTINE))
        write_table(folder, "rollouts", pa.Table.from_pylist(rows, ROLLOUTS))
        return {
            "read": len(good) + len(bad),
            "used": len(rows),
            "quarantined": len(bad),
            "other_prompts": len(good) - len(rows),
        }

    inputs = {"bytes": source.fingerprint()} | ({"prompts": prompts.key} if prompts else {})
    return store.build("rollouts", version=VERSION, settings={"teacher": teacher}, inputs=inputs, make=make)
