"""Swap: on the prompts in S, other teachers' answers stand in for this one's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from sftfilter.errors import DataError
from sftfilter.interventions.contract import Change, InterventionSettings

if TYPE_CHECKING:
    import numpy as np

    from sftfilter.score_frame import Pool, ScoreFrame
    from sftfilter.selectors import Selection


class Swap(InterventionSettings):
    """On the prompts in S, another teacher's answers stand in for this one's, as many as there were.

    Where this teacher has several answers to a prompt, each has a partner of its own: the first of the other teacher's for
    the first (by rollout id), the second for the second. With several teachers, those of their answers to the prompt that
    score lowest do; answers without a score do not.
    """

    kind: Literal["swap"]
    to: Annotated[str | list[str], Field(description="a teacher, or several to choose the lowest-scoring answers from")]
    lowest: Annotated[str | None, Field(description="the scorer that chooses among several teachers")] = None
    too_few: Annotated[
        Literal["refuse", "repeat"],
        Field(description="a prompt with fewer answers from there than this teacher's: an error, or use them again"),
    ] = "refuse"

    @model_validator(mode="after")
    def _scorer_for_several(self) -> Swap:
        if isinstance(self.to, list) and len(set(self.to)) < 2:
            raise ValueError("to: name one teacher, or a list of several different ones")
        if isinstance(self.to, list) != (self.lowest is not None):
            raise ValueError("`lowest` names the scorer that chooses among several teachers: give both, or one teacher")
        return self

    @property
    def teachers(self) -> list[str]:
        """Whose answers may stand in."""
        return [self.to] if isinstance(self.to, str) else self.to

    def needs_scores(self) -> Sequence[tuple[str, str]]:
        return [(teacher, self.lowest) for teacher in self.teachers] if self.lowest else ()

    def change(self, own: Pool, selection: Selection) -> Change:
        import numpy as np

        if own.teacher is None:
            raise DataError("swap: the rows of one teacher are swapped at a time; name the teacher")
        frame, inside = own.frame, selection.prompts
        hit = inside[own.prompt]
        wanted = np.bincount(own.prompt[hit], minlength=len(inside))
        rows = self._candidates(frame, inside)
        answered = frame.rows["prompt"].to_numpy()[rows]
        have = np.bincount(answered, minlength=len(inside))
        self._check(frame, selection, wanted, have)
        first = np.concatenate([[0], np.cumsum(have)[:-1]])
        place = first[own.prompt[hit]] + own.column("number").to_numpy()[hit] % have[own.prompt[hit]]
        return Change("swap", hit, partner=rows[place])

    def _candidates(self, frame: ScoreFrame, inside: np.ndarray) -> np.ndarray:
        """Rows that may stand in, by prompt, the preferred ones first."""
        import numpy as np
        import polars as pl

        pools = [frame.pool(teacher) for teacher in self.teachers]
        rows = np.concatenate([np.arange(p.start, p.stop)[inside[p.prompt]] for p in pools])
        if self.lowest is None:
            return rows
        score = pl.concat([p.score(self.lowest).filter(pl.Series(inside[p.prompt])) for p in pools])
        chosen = frame.rows[rows].select("prompt", "rank").with_columns(row=rows, score=score).drop_nulls("score")
        return chosen.sort("prompt", "score", "rank")["row"].to_numpy()

    def _check(self, frame: ScoreFrame, selection: Selection, wanted: np.ndarray, have: np.ndarray) -> None:
        import numpy as np

        to = "teacher " + " or ".join(f"'{teacher}'" for teacher in self.teachers)
        unanswered = np.flatnonzero(selection.prompts & (wanted == 0))
        if len(unanswered):
            raise DataError(
                f"swap to {to}: {len(unanswered)} prompts in subset '{selection.name}' have no answer from this arm's own "
                f"teacher, so nothing can be swapped there: prompt ids {_named(frame, unanswered)}"
            )
        lacking = np.flatnonzero(wanted > have) if self.too_few == "refuse" else np.flatnonzero((wanted > 0) > have)
        if len(lacking):
            scored = f" with a score by '{self.lowest}'" if self.lowest else ""
            some = int((have[lacking] > 0).sum())
            again = f", or set `too_few: repeat` for the {some} that have some" if some else ""
            raise DataError(
                f"swap to {to}: {len(lacking)} of {int((wanted > 0).sum())} prompts in subset '{selection.name}' have no "
                f"(or too few) answers from there{scored}: prompt ids {_named(frame, lacking)}. Have these prompts "
                f"answered, select others{again}."
            )


def _named(frame: ScoreFrame, prompts: np.ndarray) -> str:
    shown = ", ".join(frame.prompt_ids[prompts[:5].tolist()].to_list())
    return shown + (f" and {len(prompts) - 5} more" if len(prompts) > 5 else "")
