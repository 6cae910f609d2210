"""Differentiable pieces of a Llama-like layer with hand-written gradients: the same formulas, fewer passes over memory.

Tensors are [T, width]: T tokens of a micro-batch in one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, silu

HEAD_ROWS = 64
"""Supervised tokens projected onto the vocabulary at once: their scores then stay in the cache. Four times as many where
the projection is trained, since each turn then adds to a gradient of its whole size."""

SHORT = 512
"""Tokens of rows whose attention is computed with its whole matrix of weights: twice as fast as torch's kernel at 512 (2
cores, bfloat16), half as fast at 1,024. It takes 2 L bytes a token and head, until the way back is done."""


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear layer, with a low-rank adapter or without: y = x W' + bias + scale (x A') B'."""

    weight: Tensor
    bias: Tensor | None
    a: Tensor | None = None
    b: Tensor | None = None
    scale: float = 1.0

    @staticmethod
    def of(module: Any) -> Projection:
        """Of a torch `Linear`, or of peft's layer around one with a single plain adapter."""
        if not hasattr(module, "lora_A"):
            return Projection(module.weight, module.bias)
        (name,) = module.active_adapters
        base = module.base_layer
        return Projection(
            base.weight, base.bias, module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]
        )


class _Linears(torch.autograd.Function):
    """Several projections of one input: its gradient is summed in place, and the adapters share their narrow products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, scales: tuple[float, ...], *parts: Tensor | None) -> Any:
        quads = [parts[i : i + 4] for i in range(0, len(parts), 4)]
        adapters = [a for _, _, a, _ in quads if a is not None]
        narrow = linear(x, torch.cat(adapters)) if adapters else None
        outputs: list[Tensor] = []
        at = 0
        for (weight, bias, a, b), scale in zip(quads, scales, strict=True):
            assert weight is not None
            y = linear(x, weight, bias) if residual is None else torch.addmm(residual, x, weight.t())
            if residual is not None and bias is not None:
                y += bias
            if a is not None and b is not None and narrow is not None:
                y.addmm_(narrow[:, at : at + len(a)], b.t(), alpha=scale)
                at += len(a)
            outputs.append(y)
        ctx.save_for_backward(x, narrow, *parts)
        ctx.scales, ctx.has_residual = scales, residual is not None
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, narrow, *parts = ctx.saved_tensors
        needs = ctx.needs_input_grad[3:]
        grad_x: Tensor | None = None
        found: list[Tensor | None] = []
        narrow_grads: list[Tensor] = []
        at = 0
        for k, (grad, scale) in enumerate(zip(grads, ctx.scales, strict=True)):
            weight, _, a, b = parts[4 * k : 4 * k + 4]
            need_weight, need_bias = needs[4 * k : 4 * k + 2]
            if ctx.needs_input_grad[0]:
                grad_x = grad @ weight if grad_x is None else grad_x.addmm_(grad, weight)
            found += [grad.t() @ x if need_weight else None, grad.sum(0) if need_bias else None, None, None]
            if a is not None:
                found[-1] = (grad.t() @ narrow[:, at : at + len(a)]).mul_(scale)
                narrow_grads.append((grad @ b).mul_(scale))
                at += len(a)
        if narrow_grads:
            joined = torch.cat(narrow_grads, dim=1)
            if grad_x is not None:
                grad_x.addmm_(joined, torch.cat([a for a in parts[2::4] if a is not None]))
            grad_a = joined.t() @ x
            at = 0
            for k, a in enumerate(parts[2::4]):
                if a is not None:
                    found[4 * k + 2] = grad_a[at : at + len(a)]
                    at += len(a)
        return grad_x, grads[0] if ctx.has_residual else None, None, *found


def linears(x: Tensor, projections: Sequence[Projection], residual: Tensor | None = None) -> tuple[Tensor, ...]:
    """Every projection of `x`; `residual` is added to the output, if it is a single one."""
    assert residual is None or len(projections) == 1
    parts = [part for p in projections for part in (p.weight, p.bias, p.a, p.b)]
    return _Linears.apply(x, residual, tuple(p.scale for p in projections), *parts)  # pyright: ignore


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        inverse = (torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_() / x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, inverse = ctx.saved_tensors
        (grad,) = grads
        unit = x.float() * inverse
        grad_weight = (grad * unit.to(x.dtype)).sum(0) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None
        inner = (grad * weight).float()
        along = torch.linalg.vecdot(inner, unit).div_(x.shape[-1])[:, None]
        return inner.addcmul_(unit, along, value=-1).mul_(inverse).to(x.dtype), grad_weight, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root mean square normalisation in float32, scaled by `weight`."""
    return _RmsNorm.apply(x, weight, eps)  # pyright: ignore


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        opened = silu(gate)
        ctx.save_for_backward(gate, up, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        gate, up, opened = ctx.saved_tensors
        (grad,) = grads
        return torch.ops.aten.silu_backward(grad * up, gate), grad * opened


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    return _SwiGlu.apply(gate, up)  # pyright: ignore


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, sin, -1.0), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, direction: float) -> Tensor:
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-direction)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:], value=direction)
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of [T, heads, width] by [T, 1, width] (both halves hold the same angles)."""
    return _Rotate.apply(x, cos, sin)  # pyright: ignore


class _Attention(torch.autograd.Function):
    """Causal attention with its matrix of weights kept: for short rows a third of the time of torch's kernel for CPUs.

    Shapes: q [rows, heads, L, width]; k and v [rows, groups, L, width]. Softmax is taken in float32.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        rows, heads, length, width = q.shape
        query = q.reshape(rows * k.shape[1], -1, width)  # the heads that share a key, one below the other
        key, value = k.reshape(-1, length, width), v.reshape(-1, length, width)
        scores = torch.bmm(query, key.transpose(1, 2)).float().view(-1, length, length)
        ahead = torch.full((length, length), -torch.inf, device=q.device).triu_(1)
        weights = torch.add(ahead, scores, alpha=scale).softmax(-1).to(q.dtype).view(*query.shape[:2], length)
        ctx.save_for_backward(query, key, value, weights)
        ctx.scale, ctx.shape = scale, q.shape
        return torch.bmm(weights, value).view(rows, heads, length, width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, weights = ctx.saved_tensors
        rows, heads, length, width = ctx.shape
        grad = grads[0].reshape(query.shape)
        grad_value = torch.bmm(weights.transpose(1, 2), grad)
        wide, grad_weights = weights.float(), torch.bmm(grad, value.transpose(1, 2)).float()
        grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, wide, -1, torch.float32)
        grad_scores = grad_scores.mul_(ctx.scale).to(query.dtype)
        grad_query, grad_key = torch.bmm(grad_scores, key), torch.bmm(grad_scores.transpose(1, 2), query)
        shared = rows, -1, length, width
        return grad_query.view(rows, heads, length, width), grad_key.view(shared), grad_value.view(shared), None


def attend(q: Tensor, k: Tensor, v: Tensor, paths: Sequence[Tensor], sources: Tensor, scale: float) -> Tensor:
    """Causal attention along every path.

    Args:
        q: [T, heads, width]; `k` and `v` may have fewer heads, each of which serves several of `q`.
        paths: [rows, longest] nodes, see `prefix_tree.Paths`.
        sources: [T] rows of the concatenated outputs to answer with.

    Returns:
        [T, heads * width].
    """
    shared = q.shape[1] // k.shape[1]
    outputs: list[Tensor] = []
    for nodes in paths:
        rows, longest = nodes.shape
        query, key, value = (
            x.index_select(0, nodes.view(-1)).view(rows, longest, *x.shape[1:]).transpose(1, 2) for x in (q, k, v)
        )
        if longest <= SHORT:
            made: Tensor = _Attention.apply(query, key, value, scale)  # pyright: ignore
        else:
            if shared > 1:
                key, value = (x.repeat_interleave(shared, dim=1) for x in (key, value))
            made = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
        outputs.append(made.transpose(1, 2).reshape(rows * longest, -1))
    return torch.cat(outputs).index_select(0, sources) if len(outputs) > 1 else outputs[0].index_select(0, sources)


class _HeadLoss(torch.autograd.Function):
    """Cross-entropy of a vocabulary projection, a few tokens at a time; gradients are made on the way."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        step = HEAD_ROWS if grad_weight is None else 4 * HEAD_ROWS
        for start in range(0, len(hidden), step):
            part, right = hidden[start : start + step], targets[start : start + step, None]
            scores = linear(part, weight).float()
            scores -= scores.amax(dim=-1, keepdim=True)
            hit = scores.gather(1, right)
            sums = scores.exp_().sum(dim=-1, keepdim=True)
            total += (sums.log() - hit).double().sum()
            if grad_hidden is not None:
                made = (scores.to(hidden.dtype) @ weight).float() / sums - weight[right[:, 0]]
                grad_hidden[start : start + step] = made
            if grad_weight is not None:
                scores.div_(sums).scatter_add_(1, right, torch.full_like(hit, -1.0))
                grad_weight.addmm_(scores.t(), part.float())
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtype = weight.dtype
        return total.float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad_hidden, grad_weight = ctx.saved_tensors
        (grad,) = grads
        made_weight = None if grad_weight is None else (grad_weight * grad).to(ctx.dtype)
        return None if grad_hidden is None else (grad_hidden * grad).to(grad_hidden.dtype), made_weight, None


def head_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy (nats) of `hidden` [P, width] against `targets` [P], without a [P, vocabulary] matrix."""
    return _HeadLoss.apply(hidden, weight, targets)  # pyright: ignore
