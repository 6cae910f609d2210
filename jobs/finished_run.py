"""A finished run, found again from its folder: its students and how they were served."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.curves import is_step
from jobs.service import hosted_students
from serve.settings import HostedModel, ServingSettings
from sftfilter.config import did_you_mean
from sftfilter.errors import DataError, SpecError
from sftfilter.models import resolve


@dataclass(frozen=True)
class FinishedRun:
    """What a run left behind that can be hosted.

    Attributes:
        tokenizer: folder of the base model, whose tokenizer and chat template all students share.
    """

    name: str
    models: Sequence[HostedModel]
    tokenizer: str
    system_prompt: str | None
    serving: ServingSettings

    def chosen(self, ids: Sequence[str]) -> list[HostedModel]:
        """The models with these ids, or all of them but checkpoints in between.

        Raises:
            SpecError: an id that the run has not.
        """
        known = {model.id: model for model in self.models}
        for identity in ids:
            if identity not in known:
                raise SpecError(
                    f"run '{self.name}' has no model '{identity}'{did_you_mean(identity, known)}; there are: "
                    f"{', '.join(known)}"
                )
        return (
            [known[identity] for identity in dict.fromkeys(ids)]
            if ids
            else [m for m in self.models if not is_step(m.id)]
        )


def model_records(models: Sequence[HostedModel], root: Path) -> list[dict[str, Any]]:
    """For results.json: folders below the results root are told from there, so that the root can be moved."""
    return [model.model_dump() | {"folder": _told(model.folder, root)} for model in models]


def read_run(folder: Path) -> FinishedRun:
    """The models of an experiment, with the base and the teachers, or the students of a run that only trained.

    Raises:
        DataError: it is not the folder of such a run, or a student's folder is gone.
    """
    path = next((p for p in (folder / "results.json", folder / "train.json") if p.is_file()), None)
    if path is None:
        raise DataError(
            f"{folder} has neither results.json nor train.json: name a finished run, such as runs/quickstart"
        )
    try:
        results: Mapping[str, Any] = json.loads(path.read_text())
        spec = results["spec"]
        told = [
            HostedModel.model_validate(r | {"folder": _found(r["folder"], folder)}) for r in results.get("models", ())
        ]
        serving = ServingSettings.model_validate(spec.get("serving") or {})
        prompt, base = spec.get("system_prompt"), str(spec["base_model"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not the results of a run that trained students: {error}") from error
    models = told or hosted_students(folder, [])
    for model in models:
        if not Path(model.folder).is_dir():
            raise DataError(f"{path}: model '{model.id}': its folder {model.folder} is gone; run the spec again")
    return FinishedRun(str(results["name"]), models, resolve(base), prompt, serving)


def _found(folder: str, run: Path) -> str:
    return str(run.parent / folder)  # a whole path stays as it is


def _told(folder: str, root: Path) -> str:
    path = Path(folder)
    return str(path.relative_to(root)) if path.is_relative_to(root) else folder
