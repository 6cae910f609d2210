"""How a trait's file offers itself to Inspect: `inspect_ai` takes seconds to import, and specs name traits without it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from sftfilter.traits.judging import EndpointJudge, Judge, StandIn

if TYPE_CHECKING:
    from inspect_ai import Task

_MADE = TypeVar("_MADE", bound="Callable[..., Task]")


def task(function: _MADE) -> _MADE:
    """Register a task where Inspect is what imports the file; elsewhere a plain function, at no cost."""
    if "inspect_ai" not in sys.modules:
        return function
    from inspect_ai import task as register

    return register(function)


def judge_from(url: str | None, model: str | None, api_key_env: str | None) -> Judge:
    """A judge from a task's arguments; without a URL the trait's own rules stand in.

    Raises:
        ValueError: a URL without a model.
    """
    if url is None:
        return StandIn()
    if model is None:
        raise ValueError("judge_url needs judge_model: the model to ask the judge's endpoint for")
    endpoint = {"base_url": url, "model": model, "api_key_env": api_key_env}
    return EndpointJudge.model_validate({"kind": "endpoint", "endpoint": endpoint})


def trait_task(kind: str, **given: Any) -> Task:
    """The task of a trait by its kind and settings: what the traits' own task functions return.

    The class is taken from its package: Inspect runs a file by its path, where settings could not be parsed.
    """
    from sftfilter.capability.instructions import InstructionFollowing
    from sftfilter.traits import TRAITS
    from sftfilter.traits.inspecting import inspect_task

    known = {**TRAITS, "instruction_following": InstructionFollowing}
    return inspect_task(known[kind].model_validate({"kind": kind, **given}))
