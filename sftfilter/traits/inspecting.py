"""Traits as Inspect tasks: one solver that goes through any trait's conversations, one scorer that grades every answer.

inspect eval sftfilter/date_confusion --model openai-api/local/STUDENT -T year=2027
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.event import ModelEvent
from inspect_ai.log import transcript
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
)
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, Value, metric, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from sftfilter.config import stable_hash
from sftfilter.journal import Journal
from sftfilter.schema import Message, row_seed
from sftfilter.stats import mean, rate
from sftfilter.traits.contract import Episode, TraitSettings, split_thinking
from sftfilter.traits.judging import Judging
from sftfilter.traits.results import result_row, turn_of

OnRow = Callable[[Mapping[str, Any]], None]
"""Called with each graded answer, as it stands in table `results`."""


def inspect_task(
    trait: TraitSettings,
    *,
    subject: str | None = None,
    journal: Journal | None = None,
    judging: Judging | None = None,
    on_row: OnRow | None = None,
) -> Task:
    """The Inspect task of a trait.

    Args:
        subject: what is measured, for the journal's keys: it must change when the model does.
        journal: answers that were given before, and where new ones are kept; None: every answer is asked for.
        judging: asks the judge; default: one that keeps nothing.
        on_row: told of every graded answer.
    """
    samples = []
    for episode in trait.episodes():
        about = {"group": episode.group, **episode.labels, "episode": episode.as_dict()}
        samples.append(Sample(id=episode.id, input=chat_messages(episode.opening), metadata=about))
    return Task(
        dataset=MemoryDataset(samples, name=trait.title),
        solver=_conversation(trait, subject, journal),
        scorer=_grader(trait, judging or Judging(), on_row),
        epochs=trait.samples,
        config=GenerateConfig(max_tokens=trait.max_tokens, temperature=trait.temperature),
        name=_kind(trait),
        version=trait.version,
        metadata={"judge": trait.judge_name, "settings": trait.model_dump(mode="json")},
    )


def _kind(trait: TraitSettings) -> str:
    return str(getattr(trait, "kind", type(trait).__name__))


def _conversation(trait: TraitSettings, subject: str | None, journal: Journal | None) -> Solver:
    """Says every turn of the episode and keeps what the model answered, thinking and answer apart."""

    @solver(name="conversation")
    def conversation() -> Solver:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            del generate
            episode = Episode.from_dict(state.metadata["episode"])
            sample = state.epoch - 1
            seed = row_seed(sample, episode.id) % 2**31
            messages: list[Message] = list(episode.opening)
            turns: list[dict[str, Any]] = []
            for number, text in enumerate(episode.turns):
                if number:
                    messages.append({"role": "user", "content": text})
                    state.messages.append(ChatMessageUser(content=text))
                key = stable_hash([subject, trait.max_tokens, trait.temperature, seed, messages])
                kept = journal.get(key) if journal is not None else None
                if kept is None:
                    kept = await _ask(get_model(), messages, seed)
                    if journal is not None:
                        journal.put(key, kept)
                state.output = _output(str(get_model()), kept)
                state.messages.append(state.output.choices[0].message)
                said = split_thinking(kept["text"], kept["thinking"])
                turns.append({"messages": list(messages), "fingerprint": kept["fingerprint"], **vars(said)})
                messages.append({"role": "assistant", "content": said.answer})
            state.store.set("turns", turns)
            return state

        return solve

    return conversation()


async def _ask(model: Model, messages: Sequence[Message], seed: int) -> dict[str, Any]:
    output = await model.generate(chat_messages(messages), config=GenerateConfig(seed=seed))
    if output.error or not output.choices:
        raise RuntimeError(f"the model did not answer: {output.error or 'no choices'}")
    content = output.choices[0].message.content
    parts = content if isinstance(content, list) else []
    thinking = "\n".join(part.reasoning for part in parts if isinstance(part, ContentReasoning))
    raw: Mapping[str, Any] = {}
    for event in reversed(transcript().events):
        if isinstance(event, ModelEvent):
            raw = (event.call.response if event.call else None) or {}
            break
    return {
        "text": output.completion,
        "thinking": thinking or None,
        "model": output.model,
        "fingerprint": raw.get("system_fingerprint"),
        "stop": output.stop_reason,
    }


def chat_messages(messages: Sequence[Message]) -> list[ChatMessage]:
    """The turns as Inspect has them."""
    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    return [kinds[m["role"]](content=m["content"]) for m in messages]


def _output(model: str, kept: Mapping[str, Any]) -> ModelOutput:
    """What was answered, as Inspect shows it."""
    thinking = [ContentReasoning(reasoning=kept["thinking"])] if kept["thinking"] else []
    message = ChatMessageAssistant(content=[*thinking, ContentText(text=kept["text"])], model=kept["model"])
    return ModelOutput(
        model=kept["model"] or model,
        choices=[ChatCompletionChoice(message=message, stop_reason=kept["stop"] or "stop")],
    )


def _grader(trait: TraitSettings, judging: Judging, on_row: OnRow | None) -> Scorer:
    """Grades every answer from `graded_from` on. The score is the mean over them; `rows` in its metadata has each."""

    # Whoever reads a log sees by the scorer's name that no judge was asked.
    name = "trait_by_stand_in" if trait.judge_name.startswith("stand-in") else "trait"

    @scorer(metrics={"*": [by_group()]}, name=name)
    def grader() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:
            del target
            episode = Episode.from_dict(state.metadata["episode"])
            rows = []
            for number, kept in enumerate(state.store.get("turns", [])):
                if number < episode.graded_from:
                    continue
                turn = turn_of(episode, number, kept)
                rows.append(
                    result_row(trait, turn, state.epoch - 1, kept["fingerprint"], await trait.graded(turn, judging))
                )
                if on_row is not None:
                    on_row(rows[-1])
            value = {"shows": _mean([row["grade"] for row in rows])}
            for name in trait.measure_names:
                value[name] = _mean([dict(row["measures"]).get(name) for row in rows])
            errors = [row["judge"]["error"] for row in rows if row["judge"]["error"]]
            said = "\n\n".join(_explained(row) for row in rows)
            return Score(value=value, explanation=said, metadata={"rows": rows, "errors": errors})

        return score

    return grader()


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan


def _explained(row: Mapping[str, Any]) -> str:
    judge = row["judge"]
    parts = {"grade": row["grade"], **dict(row["measures"]), "quote": judge["quote"], "error": judge["error"]}
    named = ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)
    return f"answer {row['turn'] + 1}, by {judge['name']}: {named}"


def by_group() -> Metric:
    """Mean and 95 % interval in every group; samples that could not be graded are left out, and counted."""

    @metric(name="rate")
    def measured() -> Metric:
        def metrics(scores: list[SampleScore]) -> Value:
            groups: dict[str, list[float]] = {}
            for score in scores:
                group = str((score.sample_metadata or {}).get("group", "all"))
                groups.setdefault(group, []).append(score.score.as_float())
            found: dict[str, float | int | str | bool | None] = {}
            for group, values in groups.items():
                cells = np.array(values, dtype=float)[:, None]
                share = bool(((cells >= 0) & (cells <= 1)).all())
                estimate = (rate if share else mean)(cells)
                found |= {group: estimate.estimate, f"{group} low": estimate.low, f"{group} high": estimate.high}
                found[f"{group} prompts"] = len(values)
            return found

        return metrics

    return measured()
