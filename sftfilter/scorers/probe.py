"""A linear probe on a model's activations, trained on answers of either kind.

Probing as in Alain and Bengio 2016 (arXiv:1610.01644); logistic regression on mean activations for monitoring as in
Goldowsky-Dill et al. 2025 (arXiv:2502.03407) and McKenzie et al. 2025 (arXiv:2506.10805).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from sftfilter.config import LabelledPath, QuestionsPath
from sftfilter.reading.answers import content_hash
from sftfilter.schema import prompt_id
from sftfilter.scorers.contract import Scored
from sftfilter.scorers.language_model import Answer, ModelScorer, Reader, score_answers
from sftfilter.scorers.trait_answers import (
    Sampling,
    TraitAnswer,
    answer_questions,
    encode_example,
    keep_answers,
    read_labelled,
)

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_WEIGHTS = "probe.safetensors"
_REPORT = "probe.json"
_ANSWERS = "answers.jsonl"
_FOLDS = 5


class Probe(ModelScorer):
    """Logit of a logistic regression on the mean hidden state of an answer's tokens: above 0, the trait is likelier.

    Trained once, either on `labelled` answers, or on the model's own answers to `questions` under two system prompts
    (the answers are then read without them, since rollouts come without them). `probe.json` beside the weights has the
    AUROC on prompts that were held out. One forward pass a row, through the layers up to `layer` only.

    Known confounds: whatever else sets the two kinds of answers apart (length, style, topic, the teacher); a contrast made
    by system prompts teaches obedience to them as well as the trait. Held-out AUROC is about the training answers, not
    about the rollouts: calibrate on those.
    """

    kind: Literal["probe"]
    layer: Annotated[int | None, Field(ge=1, description="1 to the model's layers; default: the middle")] = None
    labelled: Annotated[LabelledPath | None, Field(description="JSONL: `prompt`, `completion`, `label` (0 or 1)")] = (
        None
    )
    questions: Annotated[QuestionsPath | None, Field(description="JSONL: `prompt`; the model answers them itself")] = (
        None
    )
    positive_system: Annotated[str | None, Field(description="system prompt under which the trait shows")] = None
    negative_system: Annotated[str | None, Field(description="system prompt under which it does not")] = None
    sampling: Sampling = Sampling()
    penalty: Annotated[float, Field(gt=0, description="of the squared weights, on standardised activations")] = 10.0

    aside: ClassVar[frozenset[str]] = ModelScorer.aside | {"labelled", "questions"}

    @model_validator(mode="after")
    def _one_recipe(self) -> Probe:
        contrast = (self.questions, self.positive_system, self.negative_system)
        if (self.labelled is None) == (None in contrast) or (self.labelled and any(contrast)):
            raise ValueError("give either `labelled`, or all of `questions`, `positive_system` and `negative_system`")
        return self

    def inputs(self) -> Sequence[str]:
        """Hashes of weights, tokenizer and training data."""
        return [*super().inputs(), content_hash(self.labelled or self.questions or "")]

    def prepare(self, folder: Path, device: str) -> None:
        """Train the probe.

        Raises:
            DataError: a training row cannot be used, there are too few prompts, or only one kind of answer.
        """
        reader = Reader(self, device)
        answers = self._answers(reader)
        keep_answers(answers, folder / _ANSWERS)
        layer = reader.layer_number(self.layer)
        states = reader.answer_states([encode_example(reader, one) for one in answers], layer)
        shows = [one.shows for one in answers]
        weights, bias = fit_probe(states, shows, self.penalty)
        groups = [prompt_id(one.messages) for one in answers]
        report = {"layer": layer, "answers": len(answers), "positives": sum(shows), "prompts": len(set(groups))}
        report |= held_out(states, shows, groups, self.penalty)
        _save(folder, weights, bias, report)

    def load(self, folder: Path, device: str) -> ProbeScorer:
        """The scorer, on the worker."""
        from safetensors.numpy import load_file

        kept = load_file(folder / _WEIGHTS)
        layer = json.loads((folder / _REPORT).read_text())["layer"]
        return ProbeScorer(Reader(self, device), layer, kept["weights"], float(kept["bias"][0]))

    def _answers(self, reader: Reader) -> list[TraitAnswer]:
        if self.labelled:
            return read_labelled(self.labelled)
        assert self.questions and self.positive_system is not None and self.negative_system is not None
        return answer_questions(reader, self.questions, self.positive_system, self.negative_system, self.sampling)


class ProbeScorer:
    """A model up to a layer, and a direction [D] with its bias."""

    def __init__(self, reader: Reader, layer: int, weights: np.ndarray, bias: float) -> None:
        self.reader = reader
        self.layer = layer
        self.weights = weights
        self.bias = bias

    def score(self, batch: pa.Table) -> Scored:
        """Logits."""
        return score_answers(batch, self.reader.encode, self._logits)

    def _logits(self, rows: Sequence[Answer]) -> list[float]:
        return (self.reader.answer_states(rows, self.layer) @ self.weights + self.bias).tolist()


def fit_probe(states: np.ndarray, shows: Sequence[bool], penalty: float) -> tuple[np.ndarray, float]:
    """Weights [D] and bias of the logit, for activations as they are (standardised only for the fit)."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    mean, spread = states.mean(0), states.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    model = LogisticRegression(C=1 / penalty, max_iter=2000).fit((states - mean) / spread, np.array(shows))
    weights = model.coef_[0] / spread
    return weights, float(model.intercept_[0] - weights @ mean)


def held_out(states: np.ndarray, shows: Sequence[bool], groups: Sequence[str], penalty: float) -> dict[str, Any]:
    """AUROC on prompts that the fit has not seen: mean over folds, and each fold's. Null with fewer than 2 prompts a fold."""
    import numpy as np
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold

    labels = np.array(shows)
    folds = min(_FOLDS, len(set(groups)) // 2, int(labels.sum()), int((~labels).sum()))
    if folds < 2:
        return {"auroc": None, "auroc_folds": []}
    found: list[float] = []
    for train, test in StratifiedGroupKFold(folds).split(states, labels, groups):
        if len(set(labels[train])) == 2 == len(set(labels[test])):
            weights, bias = fit_probe(states[train], labels[train].tolist(), penalty)
            found.append(float(roc_auc_score(labels[test], states[test] @ weights + bias)))
    return {"auroc": float(np.mean(found)) if found else None, "auroc_folds": found}


def _save(folder: Path, weights: np.ndarray, bias: float, report: dict[str, Any]) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"weights": weights.astype(np.float64), "bias": np.array([bias])}, folder / _WEIGHTS)
    (folder / _REPORT).write_text(json.dumps(report, indent=2))
