"""A finished run, found again from its folder: its students and how they were served."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from serve.settings import HostedModel, ServingSettings
from sftfilter.config import did_you_mean
from sftfilter.errors import DataError, SpecError


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
        """The models with these ids, or all of them.

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
        return [known[identity] for identity in dict.fromkeys(ids)] if ids else list(self.models)


def model_records(models: Sequence[HostedModel], root: Path) -> list[dict[str, Any]]:
    """For results.json: folders below the results root are told from there, so that the root can be moved."""
    return [model.model_dump() | {"folder": _told(model.folder, root)} for model in models]


def read_run(folder: Path) -> FinishedRun:
    """What stands in `folder/results.json`.

    Raises:
        DataError: it is not the folder of a finished run, or a student's folder is gone.
    """
    path = folder / "results.json"
    try:
        results: Mapping[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there: name the folder of a finished run, such as runs/quickstart") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    records = results.get("models")
    if not records:
        raise DataError(f"{path} lists no models: run its spec again; finished stages are kept, so it takes seconds")
    try:
        models = [HostedModel.model_validate(r | {"folder": str(folder.parent / r["folder"])}) for r in records]
        serving = ServingSettings.model_validate(results["spec"]["serving"])
        prompt, tokenizer = results["spec"]["system_prompt"], str(results["base_folder"])
    except (KeyError, TypeError, ValidationError) as error:
        raise DataError(f"{path}: not the results of an experiment: {error}") from error
    for model in models:
        if not Path(model.folder).is_dir():
            raise DataError(f"{path}: model '{model.id}': its folder {model.folder} is gone; run the spec again")
    return FinishedRun(str(results["name"]), models, tokenizer, prompt, serving)


def _told(folder: str, root: Path) -> str:
    path = Path(folder)
    return str(path.relative_to(root)) if path.is_relative_to(root) else folder
