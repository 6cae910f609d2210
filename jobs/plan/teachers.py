"""Teachers' answers: how many each gives, and what the tuned ones are trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jobs.plan.counting import CHARS_OF_A_TOKEN
from sftfilter.config import stable_hash
from sftfilter.prompts import PromptFiles
from sftfilter.rollout_file import RolloutFile
from sftfilter.teachers import TunedTeacher

if TYPE_CHECKING:
    from jobs.kinds.answering import Answering
    from jobs.plan.counting import Counts, Rows
    from sftfilter.training_settings import TrainingSettings


@dataclass(frozen=True)
class Answered:
    """A teacher's answers.

    Attributes:
        settings: all they follow from.
        written: whether they lie in files already.
        share: the fewest that are worth a worker.
    """

    rows: Rows
    settings: Any
    written: bool = True
    share: int = 1


@dataclass(frozen=True)
class TeacherRun:
    """What a tuned teacher is trained on.

    Attributes:
        neutral: (prompts, key) that the base answers first; at most one.
        chars: of a row.
    """

    rows: int
    chars: float
    key: str
    neutral: list[tuple[int, str]]
    settings: TrainingSettings


def answered(spec: Answering, prompts: Rows, counts: Counts) -> dict[str, Answered]:
    """Teacher -> answers to these prompts."""
    found: dict[str, Answered] = {}
    asked = spec.model_dump(mode="json", include={"base_model", "system_prompt", "prompts", "generation"})
    for name, teacher in spec.teachers.items():
        settings = [teacher.model_dump(mode="json"), asked]
        if isinstance(teacher, RolloutFile):
            found[name] = Answered(counts.rows(name, teacher, answers=True), settings)
            continue
        samples = getattr(teacher, "samples", 1)
        generation = getattr(teacher, "generation", None) or spec.generation
        many = {kind: count * samples for kind, count in prompts.kinds.items()}
        chars = generation.max_new_tokens * CHARS_OF_A_TOKEN
        rows = replace(prompts, count=prompts.count * samples, kinds=many, answer_chars=chars)
        found[name] = Answered(rows, settings, written=False, share=spec.generation_pool.batch)
    return found


def tuned(spec: Answering, counts: Counts) -> Iterator[tuple[str, TeacherRun]]:
    """(teacher, what it is trained on) for the tuned ones."""
    for name, teacher in spec.teachers.items():
        if not isinstance(teacher, TunedTeacher):
            continue
        given = counts.rows(f"{name}.answers", RolloutFile(path=teacher.answers), answers=True)
        neutral: list[tuple[int, str]] = []
        if teacher.neutral:
            source = PromptFiles(kind="files", path=teacher.neutral)
            key = stable_hash([teacher.neutral, _base(spec)])
            neutral = [(counts.rows(f"{name}.neutral", source, answers=False).count, key)]
        rows = given.count + sum(count for count, _ in neutral)
        key = stable_hash([teacher.model_dump(mode="json"), _base(spec)])
        yield name, TeacherRun(rows, given.prompt_chars + given.answer_chars, key, neutral, teacher.training)


def answering_model(spec: Answering, name: str) -> str:
    """The model that a teacher answers with; empty for one behind a URL or in files."""
    teacher = spec.teachers[name]
    return spec.base_model if isinstance(teacher, TunedTeacher) else getattr(teacher, "model", "")


def judged_by_endpoint(trait: Any) -> bool:
    """Whether a judge behind a URL grades a trait."""
    return getattr(getattr(trait, "judge", None), "kind", None) == "endpoint"


def _base(spec: Answering) -> Mapping[str, Any]:
    return spec.model_dump(mode="json", include={"base_model", "system_prompt", "generation"})
