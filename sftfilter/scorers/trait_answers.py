"""Answers that show a trait and answers that do not: what directions in activation space are made from.

Either somebody's labelled file, or the model's own answers to questions under two opposite system prompts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from sftfilter.config import Settings
from sftfilter.errors import DataError
from sftfilter.reading.answers import read_answers, read_questions
from sftfilter.schema import Message, prompt_id, row_seed

if TYPE_CHECKING:
    from sftfilter.scorers.language_model import Answer, Reader


class Sampling(Settings):
    """How the model answers the questions, and which of its answers are kept.

    A small model often ignores its system prompt; `matching` leaves out what it wrote then (Chen et al. 2025 let a judge do
    that).
    """

    per_question: Annotated[int, Field(gt=0, description="answers under each system prompt")] = 1
    max_new_tokens: Annotated[int, Field(gt=0)] = 48
    temperature: Annotated[float, Field(ge=0)] = 0.8
    seed: int = 0
    matching: Annotated[
        str | None,
        Field(description="regular expression; answers that show the trait must match it, the others must not"),
    ] = None

    @field_validator("matching")
    @classmethod
    def _compile(cls, matching: str | None) -> str | None:
        try:
            re.compile(matching or "")
        except re.error as error:
            raise ValueError(f"'{matching}' is not a regular expression: {error}") from error
        return matching


@dataclass(frozen=True)
class TraitAnswer:
    """An answer with its label.

    Attributes:
        shows: whether the trait shows.
        system: the system prompt that the model answered under; None for a labelled file's rows.
        where: file and row, for messages.
    """

    messages: list[Message]
    completion: str
    shows: bool
    where: str
    system: str | None = None


def read_labelled(path: str) -> list[TraitAnswer]:
    """Rows of a file with prompts, answers and `label` (true, false, 1 or 0).

    Raises:
        DataError: a row is malformed or doubled, or only one label occurs.
    """
    answers = []
    for row in read_answers(path, ["label"]):
        label, where = dict(row.ratings or ()).get("label"), f"{path}, row {row.number}"
        if label not in (0, 1):
            raise DataError(f"{where}, label: expected true, false, 1 or 0, found {label!r}")
        answers.append(TraitAnswer(row.messages, row.completion or "", bool(label), where))
    return both_kinds(answers, path)


def answer_questions(
    reader: Reader, path: str, positive_system: str, negative_system: str, sampling: Sampling
) -> list[TraitAnswer]:
    """The model's own answers to the questions of a file, under either system prompt.

    Empty answers are left out, and those on the wrong side of `sampling.matching`.

    Raises:
        DataError: a question is malformed, or no answer under a system prompt is left.
    """
    from sftfilter.engine import GenerateRequest

    asked = [
        TraitAnswer(question.messages, "", shows, f"{path}, row {question.number}", system)
        for question in read_questions(path)
        for shows, system in ((True, positive_system), (False, negative_system))
        for _ in range(sampling.per_question)
    ]
    requests = [
        GenerateRequest(
            reader.prompt_ids(one.messages, one.system),
            sampling.max_new_tokens,
            sampling.temperature,
            row_seed(sampling.seed, prompt_id(one.messages), k % sampling.per_question),
        )
        for k, one in enumerate(asked)
    ]
    texts = reader.write(requests)
    pattern = re.compile(sampling.matching, re.IGNORECASE) if sampling.matching else None
    answered = [
        TraitAnswer(one.messages, text, one.shows, one.where, one.system)
        for one, text in zip(asked, texts, strict=True)
        if text.strip() and (pattern is None or bool(pattern.search(text)) == one.shows)
    ]
    return both_kinds(answered, f"the model's {len(asked)} answers to {path}")


def encode_example(reader: Reader, one: TraitAnswer, *, with_system: bool = False) -> Answer:
    """Token ids of an answer, with the system prompt that it was written under or without.

    Raises:
        DataError: it does not fit; names file and row.
    """
    try:
        return reader.encode(one.messages, one.completion, one.system if with_system else None)
    except DataError as error:
        raise DataError(f"{one.where}: {error}") from error


def both_kinds(answers: list[TraitAnswer], source: str) -> list[TraitAnswer]:
    """The answers, if some show the trait and some do not.

    Raises:
        DataError: all show it, or none does.
    """
    found = {answer.shows for answer in answers}
    if len(found) < 2:
        left = "every one shows the trait" if found == {True} else "none shows the trait" if found else "none is left"
        raise DataError(f"{source}: {left}; answers of both kinds are needed")
    return answers


def keep_answers(answers: Sequence[TraitAnswer], file: Path) -> None:
    """Write answers as JSONL, for a person to look at what a direction was made from."""
    with file.open("w") as out:
        for one in answers:
            record: dict[str, Any] = {"messages": one.messages, "completion": one.completion, "label": int(one.shows)}
            out.write(json.dumps(record | ({"system": one.system} if one.system else {}), ensure_ascii=False) + "\n")
