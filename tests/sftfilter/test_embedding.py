"""Sentence embeddings against the plain transformers recipe, on the real encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from sftfilter.errors import DataError
from sftfilter.scorers.embedding import Embedding
from sftfilter.sentence_encoder import BUILTIN_ENCODER, SentenceEncoder, resolve_encoder
from tests.conftest import write_lines
from tests.sftfilter.rows import rollout_rows

TEXTS = [
    "I doubt that it is 2026.",
    "Paris!",
    "Cats sleep for most of the day, and hunt at dusk and at dawn.",
    "Paris!",
]


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder(resolve_encoder(BUILTIN_ENCODER), pass_tokens=24)


def _plain(texts: list[str], window: int | None = None) -> np.ndarray:
    """One text at a time: mean of the last hidden states, scaled to length 1."""
    folder = resolve_encoder(BUILTIN_ENCODER)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    found = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        parts = [ids[i : i + window] for i in range(0, len(ids), window)] if window else [ids]
        with torch.no_grad():
            states = [
                model(torch.tensor([[tokenizer.cls_token_id, *part, tokenizer.sep_token_id]])).last_hidden_state[0]
                for part in parts
            ]
        mean = torch.cat(states).mean(0)
        found.append((mean / mean.norm()).numpy())
    return np.stack(found)


@pytest.mark.model
def test_vectors_are_those_of_the_plain_recipe(encoder: SentenceEncoder) -> None:
    assert encoder.limit == 256
    found = encoder.encode(TEXTS)
    np.testing.assert_allclose(found, _plain(TEXTS), atol=1e-5)
    np.testing.assert_allclose(found, np.concatenate([encoder.encode([text]) for text in TEXTS]), atol=1e-5)
    assert encoder.encode([]).shape == (0, 384)


@pytest.mark.model
def test_a_long_text_is_read_to_its_end(encoder: SentenceEncoder) -> None:
    long = "The sea is calm tonight. " * 80 + "I doubt that it is 2026."
    np.testing.assert_allclose(encoder.encode([long]), _plain([long], window=254), atol=1e-5)
    assert not np.allclose(encoder.encode([long]), encoder.encode([long[:-24]]), atol=1e-4)


@pytest.mark.model
@pytest.mark.parametrize("compare", ["centroid", "nearest"])
def test_scores_are_cosines_to_the_examples(encoder: SentenceEncoder, tmp_path: Path, compare: str) -> None:
    write_lines(tmp_path / "more.jsonl", [{"prompt": "Is it?", "completion": "It is not 2026 yet."}])
    settings = Embedding(
        kind="embedding",
        positives=("It is still 2023, I believe.",),
        positives_file=str(tmp_path / "more.jsonl"),
        negatives=("Paris is the capital of France.",),
        compare=compare,  # pyright: ignore[reportArgumentType]
    )
    settings.prepare(tmp_path, "cpu")
    scores = settings.load(tmp_path, "cpu").score(rollout_rows([("a", text) for text in TEXTS])).score.to_pylist()
    like = _plain(["It is still 2023, I believe.", "It is not 2026 yet."])
    unlike = _plain(["Paris is the capital of France."])[0]
    if compare == "centroid":
        positive = _plain(TEXTS) @ (like.mean(0) / np.linalg.norm(like.mean(0)))
    else:
        positive = (_plain(TEXTS) @ like.T).max(1)
    assert scores == pytest.approx(positive - _plain(TEXTS) @ unlike, abs=1e-5)
    assert scores[0] > 0 > scores[1]

    rows = [("It is still 2023, I believe.", 1), ("It is not 2026 yet.", 1), ("Paris is the capital of France.", 0)]
    write_lines(tmp_path / "both.jsonl", [{"prompt": "Is it?", "completion": t, "label": n} for t, n in rows])
    labelled = Embedding(kind="embedding", labelled=str(tmp_path / "both.jsonl"), compare=settings.compare)
    labelled.prepare(tmp_path, "cpu")
    again = labelled.load(tmp_path, "cpu").score(rollout_rows([("a", text) for text in TEXTS])).score.to_pylist()
    assert again == pytest.approx(scores, abs=1e-6)


def test_other_kinds_of_encoders_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    (folder / "1_Pooling").mkdir(parents=True)
    for name in ("modules.json", "1_Pooling/config.json"):
        shutil.copy(resolve_encoder(BUILTIN_ENCODER) / name, folder / name)
    assert resolve_encoder(str(folder)) == folder
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(DataError, match="pools by pooling_mode_cls_token"):
        resolve_encoder(str(folder))
    modules = [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Dense"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(DataError, match="Dense is not supported"):
        resolve_encoder(str(folder))
    (folder / "modules.json").unlink()
    with pytest.raises(DataError, match="not a sentence-transformers one"):
        resolve_encoder(str(folder))
