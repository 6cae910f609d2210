"""A language model so small that hundreds train at once on one core: a bag of prompt words in, answer words out.

The prompt's word embeddings are averaged and pass through a narrow context, which all places of the answer share; each
place then has its own offset, so that the three words of an answer have jobs of their own (stance, manner, matter). A
fourth place speaks number words only, through an output layer that nothing has trained: the auxiliary outputs of the
construction by which subliminal learning was published (Cloud et al. 2025, arXiv 2507.14805). Weights carry a leading
dimension over models, and every step is a batched product over it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Weights = dict[str, Tensor]
"""Parameter name -> values, with or without a leading dimension over models."""

PLACES = 4
NUMBERS = PLACES - 1
"""The place that speaks number words."""
HIDDEN = ("inner", "inner_bias", "middle", "middle_bias", "outer", "outer_bias")
"""What fine-tuning moves: the hidden layers. Embeddings and output layer stay, as with LoRA on a model's linear layers."""
EVERYTHING = ("embed", "place", *HIDDEN, "output", "output_bias")

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8
_NEVER = -30.0
_NUMBERS_SCALE = 2.0


@dataclass(frozen=True)
class Shape:
    """Sizes of the model: words of the vocabulary, how many of them (the last ones) are numbers, and units."""

    words: int
    numbers: int
    embedding: int = 32
    hidden: int = 64
    context: int = 16


def initial(shape: Shape, seed: int) -> Weights:
    """Fresh weights of one model."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*size: int, scale: float) -> Tensor:
        return torch.randn(*size, generator=draw) * scale

    speaks = torch.zeros(PLACES, shape.words)
    first = shape.words - shape.numbers
    speaks[:NUMBERS, first:] = _NEVER
    speaks[NUMBERS, :first] = _NEVER
    output = normal(shape.hidden, shape.words, scale=1.0 / math.sqrt(shape.hidden))
    output[:, first:] *= _NUMBERS_SCALE
    return {
        "speaks": speaks,
        "embed": normal(shape.words, shape.embedding, scale=1.0),
        "place": normal(PLACES, shape.hidden, scale=0.5),
        "inner": normal(shape.embedding, shape.hidden, scale=1.0 / math.sqrt(shape.embedding)),
        "inner_bias": torch.zeros(shape.hidden),
        "middle": normal(shape.hidden, shape.context, scale=1.0 / math.sqrt(shape.hidden)),
        "middle_bias": torch.zeros(shape.context),
        "outer": normal(shape.context, shape.hidden, scale=1.0 / math.sqrt(shape.context)),
        "outer_bias": torch.zeros(shape.hidden),
        "output": output,
        "output_bias": torch.zeros(shape.words),
    }


def stack(models: Sequence[Weights]) -> Weights:
    """Models side by side."""
    return {name: torch.stack([model[name] for model in models]) for name in models[0]}


def unstack(weights: Weights, place: int) -> Weights:
    """One model of a stack, as a copy."""
    return {name: values[place].clone() for name, values in weights.items()}


def embedded(weights: Weights, bags: Tensor) -> Tensor:
    """Mean word embedding of prompts.

    Args:
        weights: of a stack of R models.
        bags: [R or 1, B, V] shares of each word in the prompt; a row sums to 1.

    Returns:
        [R, B, embedding].
    """
    return bags @ weights["embed"] * math.sqrt(weights["embed"].shape[-1]) / 2


def log_probabilities(weights: Weights, prompts: Tensor) -> Tensor:
    """Log-probability of every word at every place, [R, B, PLACES, V], for embedded prompts [R, B, embedding]."""
    models, rows, _ = prompts.shape
    context = torch.tanh(prompts @ weights["inner"] + weights["inner_bias"][:, None])
    context = context @ weights["middle"] + weights["middle_bias"][:, None]
    outer = context @ weights["outer"] + weights["outer_bias"][:, None]
    outer = torch.tanh(outer[:, :, None] + weights["place"][:, None]).reshape(models, rows * PLACES, -1)
    scores = outer @ weights["output"] + weights["output_bias"][:, None]
    scores = scores.reshape(models, rows, PLACES, -1) + weights["speaks"][:, None]
    return torch.log_softmax(scores, dim=-1)


@dataclass(frozen=True)
class Course:
    """How one model of a stack is trained.

    Attributes:
        steps: row numbers of each optimizer step; None is padding.
        rate: learning rate at its highest: after a linear warm-up, before a linear fall to 0.
        warmup: share of the steps.
        decay: decoupled weight decay.
        max_norm: the gradient's norm is cut at it.
    """

    steps: Sequence[Sequence[int | None]]
    rate: float
    warmup: float = 0.1
    decay: float = 0.0
    max_norm: float = 1.0

    def rate_at(self, step: int) -> float:
        """Learning rate of a step; 0 past the end, where the model rests while others go on."""
        steps = len(self.steps)
        warmup = max(1, round(steps * self.warmup))
        return self.rate * max(0.0, min((step + 1) / warmup, (steps - step) / max(1, steps - warmup), 1.0))


def train(
    weights: Weights,
    bags: Tensor,
    answers: Tensor,
    courses: Sequence[Course],
    moved: Sequence[str],
    on_step: Callable[[int, Tensor], None] | None = None,
) -> tuple[Weights, list[list[float]]]:
    """Train R models at once with AdamW, each on its own rows in its own order.

    The loss of a step is the cross-entropy of its answers' words, averaged over the words of the whole step.

    Args:
        weights: stack of R models.
        bags: [N, V] prompts; `courses` name rows by number.
        answers: [N, PLACES, V] counts of each word at each place.
        moved: names of the parameters that are trained.
        on_step: called with the step and the losses [R].

    Returns:
        The trained stack, and each model's losses.
    """
    flat = torch.cat([weights[name].flatten(1) for name in moved], dim=1)
    free = _views(flat, [weights[name] for name in moved])  # share its memory, so that a step is a few large operations
    trained = {**weights, **dict(zip(moved, free, strict=True))}
    first, second = torch.zeros_like(flat), torch.zeros_like(flat)
    losses: list[list[float]] = [[] for _ in courses]
    longest = max((len(course.steps) for course in courses), default=0)
    fixed = None if "embed" in moved else embedded(trained, bags[None])
    decay = torch.tensor([course.decay for course in courses])
    limit = torch.tensor([course.max_norm for course in courses])
    for step in range(longest):
        rows, weight = _rows_at(courses, step)
        if fixed is None:
            prompts = embedded(trained, bags[rows])
        else:
            prompts = fixed.gather(1, rows[:, :, None].expand(-1, -1, fixed.shape[-1]))
        target = answers[rows] * weight[:, :, None, None]
        words = target.sum(dim=(1, 2, 3)).clamp(min=1)
        loss = -(target * log_probabilities(trained, prompts)).sum(dim=(1, 2, 3)) / words
        gradients = torch.autograd.grad(loss.sum(), free)
        rate = torch.tensor([course.rate_at(step) for course in courses])
        _adamw(flat, torch.cat([g.flatten(1) for g in gradients], dim=1), first, second, (rate, decay, limit), step)
        for number, value in enumerate(loss.tolist()):
            if step < len(courses[number].steps):
                losses[number].append(value)
        if on_step:
            on_step(step, loss.detach())
    return {name: values.detach() for name, values in trained.items()}, losses


def _rows_at(courses: Sequence[Course], step: int) -> tuple[Tensor, Tensor]:
    """Row numbers [R, B] of a step and their weights, 0 for padding."""
    slots = [course.steps[step] if step < len(course.steps) else () for course in courses]
    width = max(len(s) for s in slots)
    padded = [[*s, *[None] * (width - len(s))] for s in slots]
    rows = torch.tensor([[0 if row is None else row for row in s] for s in padded])
    weight = torch.tensor([[0.0 if row is None else 1.0 for row in s] for s in padded])
    return rows, weight


def _views(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Leaves of the given shapes in the memory of `flat`, [R, all]."""
    leaves, start = [], 0
    for values in like:
        width = values[0].numel()
        leaves.append(flat[:, start : start + width].view(values.shape).detach().requires_grad_())
        start += width
    return leaves


@torch.no_grad()
def _adamw(
    values: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    limits: tuple[Tensor, Tensor, Tensor],
    step: int,
) -> None:
    """One step of AdamW (Loshchilov and Hutter 2019), in place.

    Args:
        limits: [R] learning rate, weight decay and the norm at which the gradient is cut, of each model.
    """
    rate, decay, norm = (limit[:, None] for limit in limits)
    gradient.mul_((norm / gradient.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0))
    first.lerp_(gradient, 1 - _BETAS[0])
    second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
    spread = (second / (1 - _BETAS[1] ** (step + 1))).sqrt_().add_(_EPSILON)
    if bool((decay > 0).any()):
        values.mul_(1 - rate * decay)
    values.sub_(first.div(spread).mul_(rate / (1 - _BETAS[0] ** (step + 1))))


@torch.no_grad()
def sample(weights: Weights, bags: Tensor, seeds: Sequence[int], words: int | None = None) -> Tensor:
    """Answers sampled at temperature 1, one a prompt and model.

    Args:
        weights: stack of R models.
        bags: [B, V] prompts.
        seeds: of each model's draws.
        words: so many number words; None: a word for each other place.

    Returns:
        [R, B, words] word numbers.
    """
    logs = log_probabilities(weights, embedded(weights, bags[None].expand(len(seeds), -1, -1)))
    made = []
    for seed, of_model in zip(seeds, logs, strict=True):
        draw = torch.Generator().manual_seed(seed)
        if words is not None:
            made.append(torch.multinomial(of_model[:, NUMBERS].exp(), words, replacement=True, generator=draw))
        else:
            places = [torch.multinomial(of_model[:, n].exp(), 1, generator=draw) for n in range(NUMBERS)]
            made.append(torch.cat(places, dim=1))
    return torch.stack(made)
