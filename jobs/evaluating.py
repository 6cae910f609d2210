"""Every model is hosted by one Serve app and asked over HTTP: its traits, and what it can do beside them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobs.console import Stages
from jobs.curves import is_step
from jobs.kinds.study import Study
from jobs.rates import tell_rate
from jobs.tutoring import Base
from serve.settings import HostedModel
from sftfilter.artifacts import Artifact, Store
from sftfilter.capability import InstructionFollowing, held_out_loss, loss_key
from sftfilter.evaluation import Asked, answers_key, ask, episodes_of, grade, trait_prompts
from sftfilter.traits.contract import TraitSettings

if TYPE_CHECKING:
    from serve.host import Endpoint

FOLLOWING = "instruction_following"
"""Under this name instructions stand beside the traits."""


@dataclass(frozen=True)
class Evaluated:
    """What was found out of each model.

    Attributes:
        hosted: the models.
        graded: by model and trait.
        following, losses: by model; empty where the spec does not ask for it.
    """

    hosted: Sequence[HostedModel]
    graded: Mapping[tuple[str, str], Artifact]
    following: Mapping[str, Artifact] = field(default_factory=dict)
    losses: Mapping[str, Artifact] = field(default_factory=dict)


def evaluate_models(
    spec: Study,
    base: Base,
    hosted: Sequence[HostedModel],
    heldout: Mapping[str, Artifact],
    store: Store,
    stages: Stages,
) -> Evaluated:
    """Graded results of every model. The endpoint is started only if somebody has yet to answer."""
    work = _Work(spec, base, heldout, store)
    missing = [
        (model, name)
        for model in hosted
        for name in work.asked(model)
        if store.find("answers", work.key(model, name)) is None
    ]
    no_loss = [model for model in hosted if work.wants_loss(model) and not store.find("loss", work.loss_key(model))]
    if missing or no_loss:
        _ask_missing(work, hosted, missing, no_loss, stages)
    graded: dict[tuple[str, str], Artifact] = {}
    for model in hosted:
        for name in work.asked(model):
            answers = store.find("answers", work.key(model, name))
            assert answers is not None
            stages.remember(answers)
            graded[model.id, name] = work.grade(model, name, answers)
            work.tell(stages, model, name, graded[model.id, name])
            for note in graded[model.id, name].meta["notes"]:
                stages.say(note)
    following = {model: artifact for (model, name), artifact in graded.items() if name == FOLLOWING}
    losses = {m.id: a for m in hosted if work.wants_loss(m) and (a := store.find("loss", work.loss_key(m)))}
    for loss in losses.values():
        stages.remember(loss)
    return Evaluated(hosted, {p: a for p, a in graded.items() if p[1] != FOLLOWING}, following, losses)


class _Work:
    """What is asked of every model, and under which keys the answers lie."""

    def __init__(self, spec: Study, base: Base, heldout: Mapping[str, Artifact], store: Store) -> None:
        self.spec, self.base, self.store = spec, base, store
        self.traits: dict[str, TraitSettings] = dict(spec.traits)
        self.prompts: dict[str, Artifact] = dict(heldout)
        if spec.capability is not None and spec.capability.instructions:
            trait = InstructionFollowing(kind="instruction_following", max_tokens=spec.capability.max_tokens)
            self.traits[FOLLOWING] = trait
            self.prompts[FOLLOWING] = trait_prompts(trait, store)

    def asked(self, model: HostedModel) -> list[str]:
        """The traits; of checkpoints in between, without what students can do beside them."""
        return list(self.spec.traits) if is_step(model.id) else list(self.traits)

    def wants_loss(self, model: HostedModel) -> bool:
        """Whether its held-out loss is measured."""
        return bool(self.spec.capability and self.spec.capability.loss and not is_step(model.id))

    def grade(self, model: HostedModel, name: str, answers: Artifact) -> Artifact:
        """A model's answers, graded."""
        return grade(model.id, name, self.traits[name], self.prompts[name], answers, store=self.store)

    def tell(self, stages: Stages, model: HostedModel, name: str, graded: Artifact) -> None:
        """Its rate, for who looks on."""
        if name in self.spec.traits:
            tell_rate(stages, model.id, name, self.traits[name].primary, graded)

    def key(self, model: HostedModel, name: str) -> str:
        """Of a model's answers."""
        served = (self.base.chat.hash, self.spec.serving.dtype, self.store)
        return answers_key(name, self.traits[name], self.prompts[name], model.model_hash, *served)

    def loss_key(self, model: HostedModel) -> str:
        """Of a model's losses."""
        return loss_key(model.model_hash, self.base.chat.hash, self.spec.serving.dtype, self.store)

    def conversations(self, name: str) -> int:
        """How many one model is taken through."""
        return len(episodes_of(self.traits[name], self.prompts[name])) * self.traits[name].samples


def _ask_missing(
    work: _Work,
    hosted: Sequence[HostedModel],
    missing: Sequence[tuple[HostedModel, str]],
    no_loss: Sequence[HostedModel],
    stages: Stages,
) -> None:
    from serve.claims import private_name
    from serve.host import host

    spec, base, store = work.spec, work.base, work.store
    total = sum(work.conversations(name) for _, name in missing) + len(no_loss)
    api_key, name = secrets.token_urlsafe(32), private_name(spec.name)
    with (
        host(hosted, spec.serving, base.folder, spec.system_prompt, api_key, name) as endpoint,
        stages.bar(total, "answers") as bar,
    ):
        stages.console.print(f"  {len(hosted)} models at {endpoint.base_url}")
        for model in hosted:  # one after the other: each is loaded once
            asked = _asked(endpoint, model)
            for name in [name for other, name in missing if other is model]:
                trait, prompts = work.traits[name], work.prompts[name]
                given = {"store": store, "chat": base.chat}
                answers = ask(asked, work.key(model, name), trait, prompts, on_answer=bar.advance, **given)
                stages.note(answers, f"{model.id} on {name}")
                work.tell(stages, model, name, work.grade(model, name, answers))  # at once: the others may take hours
            if model in no_loss:
                stages.note(
                    held_out_loss(asked, work.loss_key(model), store=store, chat=base.chat), f"{model.id}: loss"
                )
                bar.advance()


def _asked(endpoint: Endpoint, model: HostedModel) -> Asked:
    return Asked(endpoint.base_url, endpoint.api_key, model.id, model.model_hash)
