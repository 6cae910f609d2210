"""Ray Serve's entry point for long-lived deployments (`import_path: jobs.service:build`): the students of a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from jobs.run_record import EVENTS
from serve.settings import API_KEY_VARIABLE, HostedModel, ServingSettings
from sftfilter.artifacts import MARKER
from sftfilter.config import Settings
from sftfilter.errors import DataError, SpecError
from sftfilter.models import resolve

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
    from serve.app import EndpointConfig, checked_format, ingress
    from serve.forward import Vocabulary
    from serve.guard import digest
    from serve.students import students

    given = ServiceArgs.model_validate(args)
    api_key = os.environ.get(API_KEY_VARIABLE, "").strip()
    if not api_key:
        raise SpecError(f"set {API_KEY_VARIABLE}: a service that others can reach does not start without a token")
    spec = _spec_of(Path(given.run))
    models = hosted_students(Path(given.run), given.only)
    settings = ServingSettings.model_validate((spec.get("serving") or {}) | {"use_gpu": given.use_gpu})
    folder = resolve(spec["base_model"])
    chat = checked_format(folder, spec.get("system_prompt"), models)
    config = EndpointConfig(given.name, tuple(models), settings, folder, spec.get("system_prompt"), digest(api_key))
    held = students(settings).bind(config.models, settings, Vocabulary(chat.stop_id, chat.pad_id))
    return ingress(config).bind(held)


def hosted_students(run: Path, only: list[str]) -> list[HostedModel]:
    """The students that a run's record names, the last one of each name."""
    folders: dict[str, Path] = {}
    try:
        lines = (run / EVENTS).read_text().splitlines()
    except OSError as error:
        raise DataError(f"{run / EVENTS}: {error.strerror}; has the run begun, and is this its folder?") from error
    for line in lines:
        event = json.loads(line)
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
    raise DataError(f"{run}: neither results.json nor train.json: the run has not finished")
