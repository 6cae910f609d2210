"""Teachers: who answers the prompts. A tuned teacher is made here; a rollout file brings its answers along."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from sftfilter.config import Settings, SpecPath, file_hash
from sftfilter.prompts import existing_file, read_answers
from sftfilter.training import TrainingSettings


class TunedTeacher(Settings):
    """The base model, tuned here on given answers and on its own answers to neutral prompts."""

    kind: Literal["tuned"]
    answers: Annotated[SpecPath, Field(description="JSONL with `prompt` and `completion`")]
    neutral: Annotated[SpecPath | None, Field(description="JSONL with `prompt`; the base answers them")] = None
    training: TrainingSettings = TrainingSettings()
    seed: int = 0


class RolloutFile(Settings):
    """Answers that exist already: JSONL with `prompt` (or `messages`) and `completion`."""

    kind: Literal["rollouts"]
    path: SpecPath

    def fingerprint(self) -> str:
        """Changes with the file's bytes."""
        return file_hash(existing_file(self.path))

    def read(self, error_budget: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows and quarantined rows."""
        return read_answers(self.path, error_budget)


Teacher = Annotated[TunedTeacher | RolloutFile, Field(discriminator="kind")]
