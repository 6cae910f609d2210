"""Job kind `generate`: teachers answer prompts, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from jobs.kinds.answering import Answering

if TYPE_CHECKING:
    from jobs.console import Stages


class Generate(Answering):
    """Every teacher answers every prompt; the answers are written as conversations, a file a teacher.

    An experiment with the same prompts and teachers in the same results folder finds these answers and asks nobody again.
    """

    kind: Literal["generate"]
    export: Annotated[
        Literal["parquet", "jsonl", "none"], Field(description="conversations, below <results>/<name>/rollouts")
    ] = "jsonl"

    def summary(self) -> str:
        """Teachers."""
        return f"{len(self.teachers)} teachers"

    def run(self, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
        """Rollouts; answers generate.json."""
        from jobs.generate import run_generate

        return run_generate(self, root, stages, command)
