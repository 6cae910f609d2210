"""Gradient influence: exact without projection, right on average with it, and the same in any batch."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from sftfilter.errors import DataError
from sftfilter.schema import MESSAGE
from sftfilter.scorers.gradients import ProjectedGradients, TokenRow, decoder_blocks
from sftfilter.scorers.influence import Influence
from tests.conftest import PROMPT_FILES, read_lines, write_lines

ROWS = [TokenRow([1, 2, 3], [4, 5]), TokenRow([7], [8, 9, 10, 11, 12]), TokenRow([3, 3, 3, 3], [1])]


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


def _autograd(model: LlamaForCausalLM, row: TokenRow, last_blocks: int | None) -> torch.Tensor:
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


def _table(rows: list[tuple[str, str | None]]) -> pa.Table:
    return pa.table(
        {
            "rollout_id": [f"r{i}" for i in range(len(rows))],
            "messages": pa.array([[{"role": "user", "content": p}] for p, _ in rows], pa.list_(MESSAGE)),
            "completion": pa.array([c for _, c in rows], pa.string()),
        }
    )


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
    scores = scorer.score(_table(rows)).score.to_pylist()
    pairs = [d > a for d, a in zip(scores[:8], scores[8:], strict=True)]
    assert sum(pairs) >= 7, scores
    assert all(-1 <= s <= 1 for s in scores)

    odd = scorer.score(_table([("Hi", None), ("word " * 90, "yes"), rows[0], ("Hi", "")]))
    assert odd.error is not None
    assert odd.score.to_pylist()[2] == pytest.approx(scores[0], abs=1e-5), "alone or in company, the same score"
    assert odd.score.to_pylist()[:2] == [None, None]
    assert "max_length is 80" in odd.error.to_pylist()[1]


@pytest.mark.model
def test_fingerprint_follows_what_changes_scores(tmp_path: Path) -> None:
    first, second = (str(PROMPT_FILES / f"teacher_{name}.jsonl") for name in ("doubt", "accept"))
    settings = Influence(kind="influence", query=first)
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(Path(first).read_bytes())
    print_of = settings.fingerprint()
    assert settings.model_copy(update={"query": str(copy), "tokens_per_pass": 64}).fingerprint() == print_of
    changes = {"query": second, "contrast": second, "rank": 8, "similarity": "dot", "seed": 1, "system_prompt": "Be."}
    prints = {settings.model_copy(update={key: value}).fingerprint() for key, value in changes.items()}
    assert len(prints | {print_of}) == len(changes) + 1


@pytest.mark.model
def test_a_query_row_that_does_not_fit_is_named(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "query.jsonl", [{"prompt": "Hi", "completion": "no"}, {"prompt": "a " * 99, "completion": "b"}]
    )
    settings = Influence(kind="influence", query=str(tmp_path / "query.jsonl"), max_length=64, last_blocks=1)
    with pytest.raises(DataError, match=r"query\.jsonl, row 2: \d+ tokens, max_length is 64"):
        settings.prepare(tmp_path, "cpu")
