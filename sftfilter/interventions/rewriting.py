"""Interventions that change the text of the rows on the prompts in S: new rollouts stand in for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sftfilter.interventions.contract import Change, InterventionSettings
from sftfilter.schema import Message

if TYPE_CHECKING:
    from sftfilter.score_frame import Pool
    from sftfilter.selectors import Selection


class _Rewriting(InterventionSettings):
    def change(self, own: Pool, selection: Selection) -> Change:
        return Change("rewrite", selection.prompts[own.prompt])


class Neutralise(_Rewriting):
    """On the prompts in S, a fixed answer that is free of the trait stands in for every answer."""

    kind: Literal["neutralise"]
    answer: Annotated[str, Field(pattern=r"\S", description="the trait-free answer")]


class Paraphrase(_Rewriting):
    """On the prompts in S, every answer is put into other words by a model."""

    kind: Literal["paraphrase"]
    by: Annotated[str, Field(description="a tuned teacher of the spec, the built-in model, a local folder or a hub id")]
    instruction: Annotated[str, Field(pattern=r"\S", description="what the model is told to do with the answer")] = (
        "Rewrite the answer in other words. Keep its meaning. Reply with the rewritten answer only."
    )
    max_new_tokens: Annotated[int, Field(gt=0)] = 128
    temperature: Annotated[float, Field(ge=0)] = 0.7
    seed: int = 0

    def request(self, messages: Sequence[Message], completion: str) -> list[Message]:
        """The turn that asks for a rewrite: the instruction, the question and the answer."""
        question = messages[-1]["content"]
        return [{"role": "user", "content": f"{self.instruction}\n\nQuestion: {question}\n\nAnswer: {completion}"}]


class Inoculate(_Rewriting):
    """On the prompts in S, a system line names the trait while training; when measured, it is not there.

    Source: inoculation prompting (Tan et al. 2025, arXiv 2510.04340; Wichers et al. 2025, arXiv 2510.05024).
    """

    kind: Literal["inoculate"]
    line: Annotated[str, Field(pattern=r"\S", description="added at the end of the system turn")]

    def inoculated(self, messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
        """The turns with the line in their system turn, which is the spec's where they have none of their own."""
        turns = list(messages)
        own = turns.pop(0)["content"] if turns and turns[0]["role"] == "system" else system_prompt
        return [{"role": "system", "content": f"{own}\n{self.line}" if own else self.line}, *turns]
