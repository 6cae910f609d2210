"""Checkpoints in between, asked while training goes on: hosted and asked as every student is, with the same stored answers.

So the evaluation after training finds their answers there, and asks none of them twice.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.curves import group_rate
from jobs.kinds.experiment import Experiment
from jobs.tutoring import Base
from serve.settings import HostedModel, ServingSettings
from sftfilter.artifacts import Artifact, Store
from sftfilter.config import stable_hash
from sftfilter.training_settings import TrainingSettings

if TYPE_CHECKING:
    from sftfilter.traits.contract import TraitSettings


@dataclass(frozen=True)
class StepAsker:
    """Hosts one checkpoint at a time; sent to the task that Ray Train starts for it.

    Attributes:
        name: of the endpoint, the same for all checkpoints: what a task left that was killed makes way for the next.
        traits, prompts: by the trait's name.
        store: folder of all artifacts.
    """

    name: str
    serving: ServingSettings
    traits: Mapping[str, TraitSettings]
    prompts: Mapping[str, Artifact]
    base: str
    system_prompt: str | None
    store: str

    @property
    def fingerprint(self) -> str:
        """Of traits and prompts."""
        asked = {name: [trait.asking, trait.grading, self.prompts[name].key] for name, trait in self.traits.items()}
        return stable_hash([asked, self.serving.dtype, self.system_prompt])

    def __call__(self, student: str, folder: str, model_hash: str) -> Mapping[str, float]:
        """Rate of each trait on its own group of prompts; one whose answers have no grade is left out."""
        from serve.host import host
        from sftfilter.chat_format import ChatFormat
        from sftfilter.evaluation import Asked, answers_key, ask, grade
        from sftfilter.models import load_tokenizer

        chat, store = ChatFormat(load_tokenizer(self.base), self.system_prompt), Store(Path(self.store))
        model = HostedModel(id=student, folder=folder, model_hash=model_hash, format_hash=chat.hash)
        key = secrets.token_urlsafe(32)
        rates = {}
        with host([model], self.serving, self.base, self.system_prompt, key, self.name) as endpoint:
            asked = Asked(endpoint.base_url, key, student, model_hash)
            for name, trait in self.traits.items():
                prompts = self.prompts[name]
                stored = answers_key(name, trait, prompts, model_hash, chat.hash, self.serving.dtype, store)
                answers = ask(asked, stored, trait, prompts, store=store, chat=chat, on_answer=lambda: None)
                rows = grade(student, name, trait, prompts, answers, store=store).table("results").to_pylist()
                rate = group_rate([rows], trait.primary)["estimate"]
                if rate is not None:
                    rates[name] = rate
        return rates


def step_asker(spec: Experiment, base: Base, heldout: Mapping[str, Artifact], store: Store) -> StepAsker | None:
    """Who asks checkpoints in between, where the spec wants them asked while training goes on."""
    if not spec.asks_exports:
        return None
    from serve.claims import private_name

    # One small replica on a port of its own: training holds the CPUs, so it asks Ray for none of them.
    changes = {"port": 0, "min_replicas": 1, "max_replicas": 1, "models_in_memory": 1}
    serving = spec.serving.model_copy(update=changes | ({} if spec.serving.use_gpu else {"cpus_per_replica": 0}))
    name = private_name(f"{spec.name}-steps")
    return StepAsker(name, serving, spec.traits, heldout, base.folder, spec.system_prompt, str(store.root))


def ranked_by(settings: TrainingSettings, asker: StepAsker | None) -> str | None:
    """Hash of what tells the best checkpoints in between, where that is a trait."""
    return asker.fingerprint if asker and settings.exports and settings.exports.by_trait else None
