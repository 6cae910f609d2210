"""Persona vectors: how far an answer lies along a trait's direction, beyond where the model's own answer lies.

Direction and projection difference as in Chen et al. 2025 (arXiv:2507.21509, sections 2 and 5). Unlike there, no judge
removes answers that fail to follow their system prompt (`sampling.matching` does, if given), and one
layer is read instead of the best of all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from sftfilter.config import QuestionsPath
from sftfilter.errors import DataError
from sftfilter.reading.answers import content_hash
from sftfilter.scorers.contract import Scored
from sftfilter.scorers.language_model import Answer, ModelScorer, Reader, score_answers
from sftfilter.scorers.trait_answers import Sampling, answer_questions, encode_example, keep_answers

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


_DIRECTION = "direction.safetensors"
_REPORT = "direction.json"
_ANSWERS = "answers.jsonl"


class Persona(ModelScorer):
    """Projection of an answer's mean activation on the trait's unit direction, less that of the model's own answer.

    The direction is the mean hidden state of the model's answers to `questions` under `positive_system`, less that under
    `negative_system`, over the answers' tokens and with the system prompts in place. The model's own answer to a row's prompt
    is written greedily by the actor, once a prompt and batch; it costs far more than the forward pass. A row whose own
    answer comes out empty gets an error.

    Known confounds: whatever else the two system prompts change (length, tone, language); answers in another style than
    the model's own lie away from it in many directions at once, and one direction of a small model picks some of that up.
    """

    kind: Literal["persona"]
    questions: Annotated[
        QuestionsPath, Field(description="JSONL: `prompt`; the direction is made from answers to them")
    ]
    positive_system: Annotated[str, Field(min_length=1, description="system prompt under which the trait shows")]
    negative_system: Annotated[str, Field(min_length=1, description="system prompt under which it does not")]
    layer: Annotated[int | None, Field(ge=1, description="1 to the model's layers; default: the middle")] = None
    sampling: Sampling = Sampling()
    own_answer: Annotated[bool, Field(description="take the model's own answer off; false: the plain projection")] = (
        True
    )
    max_new_tokens: Annotated[int, Field(gt=0, description="of the model's own answer")] = 48

    aside: ClassVar[frozenset[str]] = ModelScorer.aside | {"questions"}

    def inputs(self) -> Sequence[str]:
        """Hashes of weights, tokenizer and questions."""
        return [*super().inputs(), content_hash(self.questions)]

    def prepare(self, folder: Path, device: str) -> None:
        """Make the direction.

        Raises:
            DataError: a question cannot be used, or both system prompts lead to the same answers.
        """
        import numpy as np
        from safetensors.numpy import save_file

        reader = Reader(self, device)
        answers = answer_questions(reader, self.questions, self.positive_system, self.negative_system, self.sampling)
        keep_answers(answers, folder / _ANSWERS)
        layer = reader.layer_number(self.layer)
        states = reader.answer_states([encode_example(reader, one, with_system=True) for one in answers], layer)
        shows = np.array([one.shows for one in answers])
        difference = states[shows].mean(0, dtype=np.float64) - states[~shows].mean(0, dtype=np.float64)
        length = float(np.linalg.norm(difference))
        if length == 0:
            raise DataError(f"persona: both system prompts give the same activations over {self.questions}")
        save_file({"direction": difference / length}, folder / _DIRECTION)
        report = {"layer": layer, "answers": len(answers), "positives": int(shows.sum()), "length": length}
        (folder / _REPORT).write_text(json.dumps(report, indent=2))

    def load(self, folder: Path, device: str) -> PersonaScorer:
        """The scorer, on the worker."""
        from safetensors.numpy import load_file

        layer = json.loads((folder / _REPORT).read_text())["layer"]
        direction = load_file(folder / _DIRECTION)["direction"]
        return PersonaScorer(Reader(self, device), layer, direction, self.max_new_tokens if self.own_answer else None)


class PersonaScorer:
    """A model, a unit direction [D], and how long the model's own answers may be (None: they are not wanted)."""

    def __init__(self, reader: Reader, layer: int, direction: np.ndarray, own_tokens: int | None) -> None:
        self.reader = reader
        self.layer = layer
        self.direction = direction
        self.own_tokens = own_tokens

    def score(self, batch: pa.Table) -> Scored:
        """Projections, in units of the hidden state."""
        return score_answers(batch, self.reader.encode, self._projections)

    def _projections(self, rows: Sequence[Answer]) -> list[float | str]:
        if self.own_tokens is None:
            return self._project(rows).tolist()
        own = self._own_answers([row.prompt for row in rows])
        written = [one for one in own.values() if len(one.answer) > 1]
        along = self._project([*rows, *written])
        base = {tuple(one.prompt): float(at) for one, at in zip(written, along[len(rows) :], strict=True)}
        return [
            float(at) - base[tuple(row.prompt)] if tuple(row.prompt) in base else "the model's own answer is empty"
            for row, at in zip(rows, along, strict=False)
        ]

    def _project(self, rows: Sequence[Answer]) -> np.ndarray:
        return self.reader.answer_states(rows, self.layer) @ self.direction

    def _own_answers(self, prompts: Sequence[list[int]]) -> dict[tuple[int, ...], Answer]:
        """The model's greedy answer to each of the different prompts."""
        from sftfilter.engine import GenerateRequest

        assert self.own_tokens is not None
        engine, limit = self.reader.engine, self.reader.limit
        different = [list(ids) for ids in dict.fromkeys(map(tuple, prompts))]
        requests = [GenerateRequest(ids, max(1, min(self.own_tokens, limit - len(ids)))) for ids in different]
        answers = zip(different, engine.generate(requests), strict=True)
        return {tuple(ids): Answer(ids, [*one.ids, engine.stop_id]) for ids, one in answers}
