"""Answers with labels that come with every trait, and what a judge makes of them: how often it is wrong, and which way.

They were written for this project, a person's judgement of each beside it. They are few, short and clear; a judge that does
well on them may do worse on long or unlike answers, so label some of your own and name the file.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sftfilter.calibration import Calibration, calibrate
from sftfilter.errors import DataError
from sftfilter.schema import Message
from sftfilter.traits.contract import Episode, Graded, TraitSettings, Turn, episode_id, split_thinking
from sftfilter.traits.judging import Judging

_FOLDER = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Labelled:
    """An answer and what a person says of it.

    Attributes:
        shows: whether it shows the trait.
        score: on the judge's scale, where the trait has one.
        quote: the passage that decides, word for word; None where none does.
    """

    messages: Sequence[Message]
    answer: str
    shows: bool
    score: float | None
    quote: str | None
    note: str


@dataclass(frozen=True)
class Quality:
    """A judge against the labels.

    Attributes:
        calibration: None where it cannot be told, and `problem` says why.
        mean_error: of the scores, on the judge's scale, where answers are labelled with one.
        missing: answers that it gave no grade, and why.
    """

    judge: str
    rows: int
    calibration: Calibration | None
    problem: str | None
    mean_error: float | None
    missing: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def labelled_answers(kind: str, file: str | Path | None = None) -> list[Labelled]:
    """The labelled answers of a trait, those that come with the package or a file of the same shape.

    Raises:
        DataError: a line is not as it should be.
    """
    path = Path(file) if file else _FOLDER / f"labelled_{kind}.jsonl"
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            score = row.get("score")
            found.append(
                Labelled(
                    [{"role": "user", "content": str(row["prompt"])}],
                    str(row["answer"]),
                    bool(row["shows"]),
                    None if score is None else float(score),
                    row.get("quote"),
                    str(row.get("note", "")),
                )
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, row {number}: needs `prompt`, `answer` and `shows`: {error!r}") from error
    return found


async def judge_quality(trait: TraitSettings, kind: str, judging: Judging, file: str | Path | None = None) -> Quality:
    """Grade the labelled answers as a student's would be, and compare."""
    rows = labelled_answers(kind, file)
    grades = await asyncio.gather(*(trait.graded(_turn(row), judging) for row in rows))
    missing: dict[str, int] = {}
    for grade in grades:
        if grade.grade is None:
            missing[grade.error or "no grade"] = missing.get(grade.error or "no grade", 0) + 1
    scores = [math.nan if g.grade is None else g.grade for g in grades]
    calibration, problem = None, None
    try:
        calibration = calibrate(scores, [row.shows for row in rows], 0.5)
    except DataError as error:
        problem = str(error)
    return Quality(trait.judge_name, len(rows), calibration, problem, _mean_error(rows, grades), missing)


def _turn(row: Labelled) -> Turn:
    question = row.messages[-1]["content"]
    episode = Episode(episode_id([question]), "labelled", (question,))
    return Turn(episode, 0, row.messages, split_thinking(row.answer))


def _mean_error(rows: Sequence[Labelled], grades: Sequence[Graded]) -> float | None:
    errors = [
        grade.score - row.score
        for row, grade in zip(rows, grades, strict=True)
        if row.score is not None and grade.score is not None
    ]
    return sum(errors) / len(errors) if errors else None
