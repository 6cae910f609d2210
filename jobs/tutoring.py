"""From the base model to rollouts: teachers are tuned where the spec says so, then every teacher answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.console import Stages
from jobs.kinds.answering import Answering
from jobs.planning import supervised_counts
from sftfilter.artifacts import Artifact, Store
from sftfilter.chat_format import ChatFormat
from sftfilter.endpoint_teacher import ask_teacher
from sftfilter.generated import Drawn
from sftfilter.generating import EndpointTeacher, Generating, ModelTeacher, VllmTeacher
from sftfilter.models import context_length, load_tokenizer, resolve, weights_hash
from sftfilter.pairing import pairing
from sftfilter.prompts import PromptFiles, PromptSource, load_prompts
from sftfilter.rollout_file import RolloutFile
from sftfilter.rollout_import import import_rollouts
from sftfilter.rollouts import generate_rollouts
from sftfilter.teachers import Teacher, TunedTeacher
from sftfilter.training import TrainingRun, train_all
from sftfilter.training_plan import make_plan
from sftfilter.vllm_teacher import generate_with_vllm


@dataclass(frozen=True)
class Base:
    """The base model, resolved: where it lies, what it hashes to, and how it is spoken to."""

    name: str
    folder: str
    hash: str
    chat: ChatFormat
    context_length: int


def load_base(spec: Answering) -> Base:
    """Resolve the spec's base model (a hub id is downloaded)."""
    return base_of(spec.base_model, spec.system_prompt)


def base_of(model: str, system_prompt: str | None) -> Base:
    """Resolve a model (a hub id is downloaded)."""
    folder = resolve(model)
    length = context_length(folder)
    chat = ChatFormat(load_tokenizer(folder), system_prompt)
    return Base(model, folder, weights_hash(folder), chat, length)


def read_source(spec: Answering, base: Base, store: Store, source: PromptSource, answer_tokens: int) -> Artifact:
    """Prompts that leave room for so many tokens of answer, in the base's context and in a row of training."""
    return load_prompts(
        source,
        store=store,
        chat=base.chat,
        context_length=min(base.context_length, spec.training.max_length),
        answer_tokens=answer_tokens,
        error_budget=spec.error_budget,
    )


def make_rollouts(
    spec: Answering,
    base: Base,
    tuned: Mapping[str, Artifact],
    prompts: Artifact,
    store: Store,
    stages: Stages,
    asked: Collection[str] | None = None,
) -> dict[str, Artifact]:
    """Teacher -> rollouts: read from its files, or its own answers.

    Args:
        asked: the teachers who answer; default: all.
    """
    made: dict[str, Artifact] = {}
    for name, teacher in spec.teachers.items():
        if asked is not None and name not in asked:
            continue
        made[name] = _answers(spec, name, teacher, base, tuned, prompts, store)
        stages.note(made[name], name)
    for line in pairing(made).lines():
        stages.say(line)
    return made


def _answers(
    spec: Answering,
    name: str,
    teacher: Teacher,
    base: Base,
    tuned: Mapping[str, Artifact],
    prompts: Artifact,
    store: Store,
) -> Artifact:
    if isinstance(teacher, RolloutFile):
        return import_rollouts(name, teacher, prompts, store=store, error_budget=spec.error_budget)
    if isinstance(teacher, EndpointTeacher):
        drawn = _drawn(spec, name, teacher, teacher.top_p)
        kept = {"store": store, "error_budget": spec.error_budget}
        return ask_teacher(drawn, teacher, prompts, pool=spec.generation_pool, **kept)
    if isinstance(teacher, VllmTeacher):
        drawn = _drawn(spec, name, teacher, teacher.top_p)
        folder = resolve(teacher.model)
        kept = {"store": store, "error_budget": spec.error_budget}
        return generate_with_vllm(drawn, teacher, folder, weights_hash(folder), prompts, **kept)
    if isinstance(teacher, ModelTeacher):
        own = base_of(teacher.model, _system_prompt(spec, teacher))
        folder, model_hash, chat, base_hash = own.folder, own.hash, own.chat, own.hash
        generation = teacher.generation or spec.generation
    else:
        folder, model_hash = str(tuned[name].path), tuned[name].meta["model_hash"]
        chat, base_hash, generation = base.chat, base.hash, spec.generation
    return generate_rollouts(
        name,
        folder,
        model_hash,
        prompts,
        store=store,
        chat=chat,
        base_hash=base_hash,
        generation=generation,
        pool=spec.generation_pool,
        error_budget=spec.error_budget,
    )


def _system_prompt(spec: Answering, teacher: Generating) -> str | None:
    return spec.system_prompt if teacher.system_prompt is None else teacher.system_prompt or None


def _drawn(spec: Answering, name: str, teacher: Generating, top_p: float | None) -> Drawn:
    generation = teacher.generation or spec.generation
    system = _system_prompt(spec, teacher)
    return Drawn(name, system, generation.temperature, top_p, generation.max_new_tokens, generation.seed)


def tune_teachers(spec: Answering, base: Base, store: Store, work: Path, stages: Stages) -> dict[str, Artifact]:
    """Teacher -> checkpoint, for the tuned ones."""
    tuned = {name: t for name, t in spec.teachers.items() if isinstance(t, TunedTeacher)}
    if not tuned:
        return {}
    runs = [_teacher_run(spec, name, teacher, base, store, stages) for name, teacher in tuned.items()]
    with stages.bar(sum(len(run.plan.steps) for run in runs), "teachers") as bar:
        checkpoints = train_all(
            runs,
            store=store,
            base=base.folder,
            base_hash=base.hash,
            system_prompt=spec.system_prompt,
            format_hash=base.chat.hash,
            execution=spec.execution,
            storage=work,
            on_event=bar.training,
        )
    for name, artifact in checkpoints.items():
        stages.note(artifact, f"teacher-{name}")  # its id at an endpoint
    return checkpoints


def _teacher_run(
    spec: Answering, name: str, teacher: TunedTeacher, base: Base, store: Store, stages: Stages
) -> TrainingRun:
    import pyarrow as pa

    given = RolloutFile(kind="rollouts", path=teacher.answers)
    answers = import_rollouts(name, given, None, store=store, error_budget=spec.error_budget)
    stages.note(answers, f"answers that {name} is tuned on")
    rows: list[dict[str, Any]] = [
        {"row_id": f"a{number}-{r['prompt_id']}", "messages": r["messages"], "completion": r["completion"]}
        for number, r in enumerate(answers.table("rollouts").to_pylist(), 1)
    ]
    if teacher.neutral:
        answers = _base_answers(spec, teacher.neutral, base, store, stages)
        rows += [
            {"row_id": r["rollout_id"], "messages": r["messages"], "completion": r["completion"]}
            for r in answers.table("rollouts").to_pylist()
        ]
    ids = [r["row_id"] for r in rows]
    table = pa.Table.from_pylist(rows)
    plan = make_plan(
        [(i, i) for i in ids],
        ids,
        teacher.training,
        teacher.seed,
        lambda: supervised_counts(table, base.chat, teacher.training),
    )
    labels = {"role": f"teacher {name}", "parent_model": base.name, "spec_hash": spec.spec_hash}
    return TrainingRun(name, teacher.seed, table, plan, teacher.training, labels)


def _base_answers(spec: Answering, path: str, base: Base, store: Store, stages: Stages) -> Artifact:
    neutral = load_prompts(
        PromptFiles(kind="files", path=path),
        store=store,
        chat=base.chat,
        context_length=base.context_length,
        answer_tokens=spec.generation.max_new_tokens,
        error_budget=spec.error_budget,
    )
    answers = generate_rollouts(
        "base",
        base.folder,
        base.hash,
        neutral,
        store=store,
        chat=base.chat,
        base_hash=base.hash,
        generation=spec.generation,
        pool=spec.generation_pool,
        error_budget=spec.error_budget,
    )
    return stages.note(answers, "the base answers neutral prompts")
