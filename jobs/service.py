"""Ray Serve's entry point for long-lived deployments (`import_path: jobs.service:build`): the students of a run."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from jobs.run_record import EVENTS, parse_events
from serve.settings import API_KEY_VARIABLE, Adapter, HostedModel, ServingSettings
from sftfilter.adapter_config import oddities, read_adapter_config
from sftfilter.artifacts import MARKER
from sftfilter.checkpoint import ADAPTER, ADAPTER_WEIGHTS
from sftfilter.config import Settings, did_you_mean, file_hash
from sftfilter.errors import DataError, SpecError
from sftfilter.models import resolve, weights_hash

if TYPE_CHECKING:
    from ray.serve import Application


class ServiceArgs(Settings):
    """What the deployment is told in its configuration.

    Attributes:
        run: folder of a run that trained students (an experiment, a calibration, or kind train), on shared storage.
        only: the students to serve; default: all.
    """

    run: str
    name: str
    only: list[str] = Field(default=[])
    use_gpu: bool = False


def build(args: dict[str, Any]) -> Application:
    """The endpoint as a Serve application; the bearer token is read from SFTFILTER_API_KEY.

    Raises:
        SpecError: no token is set.
        DataError: the run has trained no student (yet), or not the one asked for.
    """
    from serve import deployments
    from serve.host import endpoint_config

    given = ServiceArgs.model_validate(args)
    api_key = os.environ.get(API_KEY_VARIABLE, "").strip()
    if not api_key:
        raise SpecError(f"set {API_KEY_VARIABLE}: a service that others can reach does not start without a token")
    hosted = read_hosted(Path(given.run), given.only)
    settings = ServingSettings.model_validate(hosted.serving | {"use_gpu": given.use_gpu})
    config = endpoint_config(
        hosted.models, settings, hosted.tokenizer_folder, hosted.system_prompt, [api_key], given.name
    )
    return deployments.build(config)


@dataclass(frozen=True)
class Hosted:
    """What a run can host.

    Attributes:
        tokenizer_folder: tokenizer and template that all of it was trained with, as was `system_prompt`.
        serving: the settings of the run's own spec.
    """

    models: list[HostedModel]
    tokenizer_folder: str
    system_prompt: str | None
    serving: dict[str, Any]


def read_hosted(run: Path, only: list[str]) -> Hosted:
    """The students of a run, with the adapters they share its base by, and the base where an arm is it.

    Args:
        only: ids; empty for all.

    Raises:
        DataError: the run has not finished, trained no student, or not one that was asked for.
    """
    spec = _spec_of(run)
    base = resolve(spec["base_model"])
    base_hash = weights_hash(base)
    untrained = [name for name, arm in (spec.get("arms") or {}).items() if not arm.get("teacher")]
    trained = [name for name in only if name not in untrained]
    students = hosted_students(run, trained) if trained or not only else []
    models = [_shared(model, base, base_hash) for model in students]
    if students or untrained:
        format_hash = (
            students[0].format_hash if students else json.loads((run / "results.json").read_text())["format_hash"]
        )
        shared = Adapter(folder=None, base_folder=base, base_hash=base_hash)
        for name in untrained if not only else [name for name in only if name in untrained]:
            own = HostedModel(id=name, folder=base, model_hash=base_hash, format_hash=format_hash)
            models.insert(0, own.model_copy(update={"adapter": shared}) if any(m.adapter for m in models) else own)
    return Hosted(models, base, spec.get("system_prompt"), spec.get("serving") or {})


def _shared(model: HostedModel, base: str, base_hash: str) -> HostedModel:
    """With its adapter, if it has one that can be shared and was trained on this base."""
    folder = Path(model.folder)
    weights = folder / ADAPTER / ADAPTER_WEIGHTS
    if not weights.is_file() or oddities(read_adapter_config(folder / ADAPTER)):
        return model
    if json.loads((folder / MARKER).read_text()).get("base_hash") != base_hash:
        return model
    adapter = Adapter(folder=str(folder / ADAPTER), file_hash=file_hash(weights), base_folder=base, base_hash=base_hash)
    return model.model_copy(update={"adapter": adapter})


def hosted_students(run: Path, only: list[str]) -> list[HostedModel]:
    """The students that a run's record names, the last one of each name."""
    folders: dict[str, Path] = {}
    try:
        lines = (run / EVENTS).read_text().splitlines()
    except OSError as error:
        raise DataError(f"{run / EVENTS}: {error.strerror}; has the run begun, and is this its folder?") from error
    for event in parse_events(lines):
        if event["event"] == "artifact" and event["artifact"] == "student":
            folders[event["of"]] = Path(event["path"])
    missing = [name for name in only if name not in folders]
    if missing or not folders:
        raise DataError(f"{run}: no student '{', '.join(missing)}'; trained: {', '.join(folders) or 'none'}")
    chosen = only or list(folders)
    return [_hosted(name, folders[name]) for name in chosen]


def _hosted(name: str, folder: Path) -> HostedModel:
    meta = json.loads((folder / MARKER).read_text())
    hashes = {"model_hash": meta["model_hash"], "format_hash": meta["format_hash"]}
    return HostedModel(id=name, folder=str(folder), **hashes)


def _spec_of(run: Path) -> dict[str, Any]:
    for name in ("results.json", "train.json"):
        if (run / name).is_file():
            return json.loads((run / name).read_text())["spec"]
    if not run.is_dir():
        runs = sorted(found.parent.name for found in run.parent.glob(f"*/{EVENTS}"))
        hint = did_you_mean(run.name, runs) or (f"; there are: {', '.join(runs)}" if runs else "")
        raise DataError(f"{run}: no such run{hint}")
    raise DataError(f"{run}: neither results.json nor train.json: the run has not finished")
