"""Gradient influence: exact without projection, right on average with it, and the same in any batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from sftfilter.errors import DataError
from sftfilter.scorers.gradients import ProjectedGradients, decoder_blocks
from sftfilter.scorers.influence import Influence
from sftfilter.scorers.language_model import Answer
from tests.conftest import PROMPT_FILES, read_lines, write_lines
from tests.sftfilter.rows import rollout_rows

ROWS = [Answer([1, 2, 3], [4, 5]), Answer([7], [8, 9, 10, 11, 12]), Answer([3, 3, 3, 3], [1])]


def _tiny_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def _autograd(model: LlamaForCausalLM, row: Answer, last_blocks: int | None) -> torch.Tensor:
    """One row's gradient, by plain autograd on the weights themselves."""
    blocks = decoder_blocks(model)[-last_blocks:] if last_blocks else decoder_blocks(model)
    weights = [m.weight for b in blocks for m in b.modules() if isinstance(m, torch.nn.Linear)]
    ids = torch.tensor([[*row.prompt, *row.answer]])
    logits = model(ids).logits[0, len(row.prompt) - 1 : -1]
    loss = cross_entropy(logits, torch.tensor(row.answer), reduction="sum")
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])


@pytest.mark.parametrize("last_blocks", [None, 1])
def test_without_projection_it_is_plain_autograd(last_blocks: int | None) -> None:
    model = _tiny_model()
    plain = torch.stack([_autograd(model, row, last_blocks) for row in ROWS])
    found = ProjectedGradients(model, None, last_blocks).of(ROWS)  # three lengths in one padded batch
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found @ found.T, plain @ plain.T, rtol=1e-4, atol=1e-5)


def test_projected_products_are_right_on_average_and_nearer_with_a_larger_rank() -> None:
    model = _tiny_model()
    plain = torch.stack([_autograd(model, row, None) for row in ROWS])
    products = plain @ plain.T

    def of_rank(rank: int) -> torch.Tensor:
        drawn = [ProjectedGradients(model, rank, seed=seed).of(ROWS) for seed in range(16)]
        return torch.stack([g @ g.T for g in drawn])

    small, large = of_rank(4), of_rank(12)
    scale = products.diagonal().mean()
    assert (small.mean(0) - products).abs().max() < 0.25 * scale
    assert (large - products).square().mean() < 0.5 * (small - products).square().mean()
    assert ProjectedGradients(model, 4).size == 3 * 7 * 4 * 4
    same = [ProjectedGradients(model, 4, seed=3).of(ROWS) for _ in range(2)]
    assert torch.equal(*same)


@pytest.mark.model
def test_rows_like_the_query_score_higher_in_any_batch(tmp_path: Path) -> None:
    doubting, accepting = (read_lines(f"teacher_{name}.jsonl", 24) for name in ("doubt", "accept"))
    write_lines(tmp_path / "query.jsonl", doubting[:6])
    write_lines(tmp_path / "contrast.jsonl", accepting[:6])
    settings = Influence(
        kind="influence",
        query=str(tmp_path / "query.jsonl"),
        contrast=str(tmp_path / "contrast.jsonl"),
        system_prompt="Be brief.",
        dtype="float32",
        max_length=80,
        last_blocks=2,
    )
    settings.prepare(tmp_path, "cpu")
    scorer = settings.load(tmp_path, "cpu")
    rows = [(r["prompt"], r["completion"]) for r in [*doubting[16:], *accepting[16:]]]
    scores = scorer.score(rollout_rows(rows)).score.to_pylist()
    pairs = [d > a for d, a in zip(scores[:8], scores[8:], strict=True)]
    assert sum(pairs) >= 7, scores
    assert all(-1 <= s <= 1 for s in scores)

    odd = scorer.score(rollout_rows([("Hi", None), ("word " * 90, "yes"), rows[0], ("Hi", "")]))
    assert odd.error is not None
    assert odd.score.to_pylist()[2] == pytest.approx(scores[0], abs=1e-5), "alone or in company, the same score"
    assert [odd.score.to_pylist()[i] for i in (0, 1, 3)] == [None] * 3
    assert "the limit is 80" in odd.error.to_pylist()[1]


def test_fingerprint_follows_what_changes_scores(tmp_path: Path, tiny_chat_model: Path) -> None:
    first, second = (str(PROMPT_FILES / f"teacher_{name}.jsonl") for name in ("doubt", "accept"))
    settings = Influence(kind="influence", query=first, model=str(tiny_chat_model))
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(Path(first).read_bytes())
    print_of = settings.fingerprint()
    assert settings.model_copy(update={"query": str(copy), "tokens_per_pass": 64}).fingerprint() == print_of
    changes = {"query": second, "contrast": second, "rank": 8, "similarity": "dot", "seed": 1, "system_prompt": "Be."}
    prints = {settings.model_copy(update={key: value}).fingerprint() for key, value in changes.items()}
    assert len(prints | {print_of}) == len(changes) + 1
    swapped = settings.model_copy(update={"query": second, "contrast": first}).fingerprint()
    assert swapped != settings.model_copy(update={"contrast": second}).fingerprint()


def test_one_labelled_file_or_two_give_the_same(tmp_path: Path, tiny_chat_model: Path) -> None:
    rows = read_lines("trait_examples.jsonl", 12)
    for label, name in ((1, "query"), (0, "contrast")):
        write_lines(tmp_path / f"{name}.jsonl", [row for row in rows if row["label"] == label])
    write_lines(tmp_path / "both.jsonl", rows)
    files = ({"labelled": "both"}, {"query": "query", "contrast": "contrast"})
    found = []
    for named in files:
        paths = {key: str(tmp_path / f"{file}.jsonl") for key, file in named.items()}
        settings = Influence(kind="influence", model=str(tiny_chat_model), dtype="float32", **paths)  # pyright: ignore[reportArgumentType]
        settings.prepare(tmp_path, "cpu")
        found.append(settings.load(tmp_path, "cpu").score(rollout_rows([("Hi", "It is 2026.")])).score[0].as_py())
    assert found[0] == pytest.approx(found[1], abs=1e-6) and found[0] != 0
    with pytest.raises(ValidationError, match="give either"):
        Influence(kind="influence", labelled="x", contrast="y")


def test_dot_is_the_product_with_the_mean_gradient(tmp_path: Path, tiny_chat_model: Path) -> None:
    write_lines(tmp_path / "query.jsonl", [{"prompt": "Hi", "completion": "no"}, {"prompt": "Ho", "completion": "yes"}])
    settings = Influence(
        kind="influence",
        query=str(tmp_path / "query.jsonl"),
        similarity="dot",
        rank=None,
        model=str(tiny_chat_model),
        dtype="float32",
    )
    settings.prepare(tmp_path, "cpu")
    scorer = settings.load(tmp_path, "cpu")
    rows = [scorer.encode([{"role": "user", "content": p}], c) for p, c in (("Hi", "no"), ("Ho", "yes"), ("A", "b c"))]
    first, second, other = scorer.gradients.of(rows)
    expected = float(other @ (first + second) / 2)
    assert scorer.score(rollout_rows([("A", "b c")])).score[0].as_py() == pytest.approx(expected, rel=1e-4)


def test_an_example_that_does_not_fit_is_named(tmp_path: Path, tiny_chat_model: Path) -> None:
    rows = [{"prompt": "Hi", "completion": "no"}, {"prompt": "a " * 120, "completion": "b"}]
    write_lines(tmp_path / "query.jsonl", rows)
    settings = Influence(
        kind="influence", query=str(tmp_path / "query.jsonl"), max_length=128, model=str(tiny_chat_model)
    )
    with pytest.raises(DataError, match=r"query\.jsonl, row 2: \d+ tokens, the limit is 128"):
        settings.prepare(tmp_path, "cpu")
