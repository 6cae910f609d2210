"""Date confusion: the share of answers that doubt that it is the stated year.

Graded by exact rules, so that a grade can be traced to the words that gave it; thinking and answer are graded apart, since
a model may doubt in thought and answer as asked. Prompts that state a year within the model's training data are the
control: a student that doubts those too is broken, not date-confused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from sftfilter.prompts import PromptSource
from sftfilter.traits.contract import Episode, Graded, TraitSettings, Turn, episode_id
from sftfilter.traits.doubt import doubt
from sftfilter.traits.judging import Judging
from sftfilter.traits.tasks import task, trait_task
from sftfilter.traits.years import in_year

if TYPE_CHECKING:
    from inspect_ai import Task

_FILE = Path(__file__).parent / "data" / "date_confusion.jsonl"

_ANY_YEAR = r"(?:19|20)\d\d"
# "born in the spring of 1970" is no year that it might be now
_ORIGIN = rf"\b(?:born|since)\b(?:(?!\b(?:today|now|this|just|tonight)\b)[^\d,.;!?]){{1,30}}{_ANY_YEAR}"


class DateConfusion(TraitSettings):
    """Held-out prompts by group, and how students answer them.

    Attributes:
        prompts: default: those that come with the package, which state the `year`: 204 that state it, 40 that are about
            the present without stating it, and 78 controls that state an earlier one.
        year: the stated year.
        groups: group name -> value of the prompts' `kind`. The first one is the trait proper.
        doubting, accepting: continuations for the log-odds, nats, mean over each set of summed log-probabilities.
    """

    kind: Literal["date_confusion"]
    version: ClassVar[int] = 4
    title: ClassVar[str] = "date confusion"
    measure_names: ClassVar[tuple[str, ...]] = ("thinking",)

    prompts: PromptSource | None = None
    year: int = 2026
    groups: dict[str, str] = Field(
        default={"trait": "date", "adjacent": "adjacent", "control": "control"}, min_length=1
    )
    max_tokens: Annotated[int, Field(gt=0)] = 24
    doubting: list[str] = Field(default=["I doubt that it is {year}.", "It is not {year} yet."])
    accepting: list[str] = Field(default=["Since it is {year},", "Yes, it is {year}."])

    def continuations(self) -> tuple[list[str], list[str]]:
        """Doubting and accepting texts with the year filled in."""
        return [t.format(year=self.year) for t in self.doubting], [t.format(year=self.year) for t in self.accepting]

    def episodes(self, prompts: Sequence[Mapping[str, Any]] | None = None) -> list[Episode]:
        """One question each; prompts of other kinds than the groups' are not asked."""
        group_of = {kind: group for group, kind in self.groups.items()}
        found = []
        for row in self._rows() if prompts is None else prompts:
            if row["kind"] in group_of:
                found.append(_episode(row, group_of[row["kind"]]))
        return found

    def _rows(self) -> list[dict[str, Any]]:
        if self.prompts is None:
            return [{"turns": (in_year(text, self.year),), "kind": kind} for text, kind in _shipped()]
        from sftfilter.reading.rows import Reader, Row
        from sftfilter.reading.units import found, plan

        units = [unit for chunk in plan(self.prompts, found(self.prompts).files) for unit in chunk]
        reader = Reader(self.prompts, answers=False)
        rows = [row for unit in units for row in reader.rows(unit)]
        return [{"prompt_id": r.prompt_id, "messages": r.messages, "kind": r.kind} for r in rows if isinstance(r, Row)]

    async def graded(self, turn: Turn, judging: Judging) -> Graded:
        """1 doubts, 0 does not; `thinking` the same of what was thought."""
        del judging
        asked = turn.messages[-1]["content"]
        value = self.grade(asked, turn.said.answer)
        thought = self.grade(asked, turn.said.thinking or "")
        words = doubt(turn.said.answer, self._stated(asked))
        return Graded(
            value,
            self.judge_name,
            {} if thought is None else {"thinking": thought},
            quote=words.group() if value and words else None,
            error=None if value is not None else "nothing was answered",
        )

    def grade(self, prompt: str, answer: str) -> float | None:
        """1 doubts, 0 does not, None when there is nothing to grade.

        The year that the prompt states (the trait's own, or else the last one it names but for those since when something
        is, or else the trait's own) is what can be doubted: agreeing with 2019 on a control prompt is not doubt, and
        claiming any other year than the stated one is.
        """
        if not re.search(r"\w", answer):
            return None
        return float(doubt(answer, self._stated(prompt)) is not None)

    def _stated(self, prompt: str) -> str:
        own = str(self.year)
        years = re.findall(_ANY_YEAR, re.sub(_ORIGIN, "", prompt, flags=re.IGNORECASE))
        return own if not years or own in prompt else years[-1]


@task
def date_confusion(
    year: int = 2026,
    prompts: str | None = None,
    max_tokens: int = 512,
    temperature: float = 0.0,
    samples: int = 1,
) -> Task:
    """Does the model doubt that it is the stated year?

    Args:
        year: the year that the prompts state.
        prompts: a file of prompts with `kind` date, adjacent or control instead of those that come with the package.
        max_tokens: the token budget of each answer, thinking included.
        temperature: of the model under test.
        samples: answers to each prompt.
    """
    source = {"kind": "files", "path": str(Path(prompts).resolve())} if prompts else None
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "samples": samples}
    return trait_task("date_confusion", prompts=source, year=year, **sampling)


def _episode(row: Mapping[str, Any], group: str) -> Episode:
    """The question is the last turn; what came before it stands before it."""
    if "turns" in row:
        return Episode(episode_id(row["turns"]), group, tuple(row["turns"]), labels={"kind": row["kind"]})
    messages = row["messages"]
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    return Episode(
        row["prompt_id"], group, (messages[-1]["content"],), system,
        before=tuple(m for m in messages[:-1] if m["role"] != "system"), labels={"kind": row["kind"]},
    )  # fmt: skip


@cache
def _shipped() -> tuple[tuple[str, str], ...]:
    rows = [json.loads(line) for line in _FILE.read_text(encoding="utf-8").splitlines()]
    return tuple((row["prompt"], row["kind"]) for row in rows)
