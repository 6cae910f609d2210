"""Teachers: who answers the prompts. All end in the same table; a rollout file brings its answers along."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sftfilter.config import AnswersPath, QuestionsPath, Settings
from sftfilter.generating import EndpointTeacher, ModelTeacher, VllmTeacher
from sftfilter.rollout_file import RolloutFile
from sftfilter.training import TrainingSettings


class TunedTeacher(Settings):
    """The base model, tuned here on given answers and on its own answers to neutral prompts."""

    kind: Literal["tuned"]
    answers: Annotated[AnswersPath, Field(description="JSONL with `prompt` and `completion`")]
    neutral: Annotated[QuestionsPath | None, Field(description="JSONL with `prompt`; the base answers them")] = None
    training: TrainingSettings = TrainingSettings()
    seed: int = 0


Teacher = Annotated[
    TunedTeacher | RolloutFile | EndpointTeacher | ModelTeacher | VllmTeacher, Field(discriminator="kind")
]
