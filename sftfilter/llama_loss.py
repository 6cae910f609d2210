"""The loss of Llama-like models on CPU, over a tree of tokens: what transformers computes, in fewer passes.

Only models whose formulas are known to be these are taken (`is_known`); all others go through transformers' own forward.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sftfilter.fused_ops import Projection, attend, head_loss, linears, rms_norm, rotate, swiglu
from sftfilter.prefix_tree import PrefixTree

FAMILIES = {"llama", "qwen2", "mistral"}


def is_known(model: Any) -> bool:
    """Whether a causal LM of transformers (adapters around its linear layers or not) computes what this module does."""
    config = model.config
    return (
        config.model_type in FAMILIES
        and type(model).__name__.endswith("ForCausalLM")
        and config.hidden_act == "silu"
        and not getattr(config, "attention_dropout", 0.0)
        and not _slides(config)
        and getattr(config, "rope_parameters", {}).get("rope_type", "default") in {"default", "linear", "llama3"}
        and model.lm_head.bias is None
        and not hasattr(model.lm_head, "lora_A")
        and not hasattr(model.model.embed_tokens, "lora_embedding_A")
    )


def quicken(model: Any) -> None:
    """Let `model(tree=...)` answer `loss_sum`; called otherwise, it does what it did."""
    ordinary = model.forward

    def forward(
        *args: Any, tree: PrefixTree | None = None, below: Tensor | None = None, first: int = 0, **options: Any
    ) -> Any:
        return ordinary(*args, **options) if tree is None else loss_sum(model, tree, below, first)

    model.forward = forward


def _slides(config: Any) -> bool:
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        return True
    return config.model_type == "mistral" and getattr(config, "sliding_window", None) is not None


def loss_sum(model: Any, tree: PrefixTree, below: Tensor | None = None, first: int = 0) -> Tensor:
    """Summed cross-entropy (nats) over the supervised tokens.

    Args:
        model: of a known family.
        below: [T, width] states that enter layer `first`; default: the embeddings, and every layer is computed.
    """
    inner = model.model
    x = inner.embed_tokens(tree.ids) if below is None else below
    angles = _angles(inner, x, tree)
    layers = inner.layers[first:]
    for number, layer in enumerate(layers):
        kept = tree.predict if number == len(layers) - 1 else None
        if layer.training and layer.gradient_checkpointing:
            x = checkpoint(run_layer, layer, x, angles, tree, kept, use_reentrant=False)
        else:
            x = run_layer(layer, x, angles, tree, kept)
    if not len(layers):
        x = x.index_select(0, tree.predict)
    return head_loss(rms_norm(x, inner.norm.weight, inner.norm.variance_epsilon), model.lm_head.weight, tree.targets)


def states(model: Any, tree: PrefixTree, until: int) -> Tensor:
    """[T, width] what enters layer `until`."""
    inner = model.model
    x = inner.embed_tokens(tree.ids)
    angles = _angles(inner, x, tree)
    for layer in inner.layers[:until]:
        x = run_layer(layer, x, angles, tree)
    return x


def _angles(inner: Any, x: Tensor, tree: PrefixTree) -> tuple[Tensor, Tensor]:
    cos, sin = inner.rotary_emb(x[None], position_ids=tree.positions[None])
    return cos[0, :, None], sin[0, :, None]


def run_layer(
    layer: Any, x: Tensor, angles: tuple[Tensor, Tensor], tree: PrefixTree, kept: Tensor | None = None
) -> Tensor:
    """One decoder layer.

    Args:
        kept: nodes whose output is wanted; the others still serve as keys and values.
    """
    attention, mlp = layer.self_attn, layer.mlp
    before, after = layer.input_layernorm, layer.post_attention_layernorm
    h = rms_norm(x, before.weight, before.variance_epsilon)
    q, k, v = (
        made.view(len(h), -1, attention.head_dim)
        for made in linears(h, [Projection.of(p) for p in (attention.q_proj, attention.k_proj, attention.v_proj)])
    )
    sources = tree.sources if kept is None else tree.sources.index_select(0, kept)
    mixed = attend(rotate(q, *angles), rotate(k, *angles), v, [p.nodes for p in tree.paths], sources, attention.scaling)
    if kept is not None:
        x = x.index_select(0, kept)
    (x,) = linears(mixed, [Projection.of(attention.o_proj)], residual=x)
    h = rms_norm(x, after.weight, after.variance_epsilon)
    gate, up = linears(h, [Projection.of(mlp.gate_proj), Projection.of(mlp.up_proj)])
    return linears(swiglu(gate, up), [Projection.of(mlp.down_proj)], residual=x)[0]
