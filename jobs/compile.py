"""A spec as a workload for launchers: its files gathered, its needs reckoned, its paths made those of the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from cluster.workload import SECRETS_FOLDER, Machines, Workload
from jobs.kinds.answering import Teaching
from jobs.kinds.carriers import Carriers
from jobs.kinds.job import JobSpec
from jobs.kinds.lattice import Lattice
from jobs.kinds.score import RolloutJob
from jobs.kinds.study import Measuring
from jobs.kinds.sweep import Sweep
from jobs.kinds.train import Train
from jobs.spec import load_spec
from sftfilter.errors import SpecError
from sftfilter.training_settings import Execution


def compile_spec(path: str | Path, overrides: Sequence[str], machines: Machines) -> Workload:
    """Everything that a launcher needs to run a spec.

    Local files that the spec names travel with it; folders, globs and files of other machines are expected there.

    Raises:
        SpecError: the spec is wrong, or its name is none that Kubernetes takes.
    """
    spec = load_spec(path, overrides)
    if not _dns_name(spec.name):
        raise SpecError(
            f"{path}: name: '{spec.name}' names Kubernetes objects too: small letters, digits and '-', 40 at most"
        )
    gathered = _Gathered(Path(path).resolve().parent, machines)
    data = gathered.walk(spec.model_dump(mode="json", exclude_unset=True) | {"results": _results(spec, machines)})
    files = {"spec.yaml": yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)} | gathered.files
    cpus, gpus = needs(spec)
    most_cpus, most_gpus = side_by_side(spec)
    return Workload(
        spec.name,
        data["kind"],
        files,
        cpus,
        gpus,
        data["results"],
        most_cpus,
        most_gpus,
        replace(machines),
        tuple(dict.fromkeys(gathered.keys)),
        tuple(dict.fromkeys(gathered.expected)),
    )


def needs(spec: JobSpec) -> tuple[float, float]:
    """CPUs and GPUs of the stage that needs the most; stages follow each other, so they share machines.

    Of students that may be trained side by side a single one counts, unless the spec says how many there have to be.
    """
    if isinstance(spec, Sweep):
        cpus, gpus = needs(spec.experiment)
        students = _at_once(spec.experiment.execution, spec.concurrency or 1)
        return max(cpus, students[0]), max(gpus, students[1])
    stages: list[tuple[float, float]] = [(1, 0)]
    if isinstance(spec, Lattice | Carriers):
        stages.append(_at_once(spec.execution, spec.concurrency or 1))
    if isinstance(spec, Teaching | Train):
        run = spec.execution
        stages.append((run.fewest_workers * run.cpus_per_worker, run.fewest_workers if run.use_gpu else 0))
    if isinstance(spec, Teaching):
        pool = spec.generation_pool
        stages.append((pool.max_actors * pool.cpus_per_actor, pool.max_actors * pool.gpus_per_actor))
        for teacher in spec.teachers.values():
            if teacher.kind == "vllm":
                stages.append((teacher.replicas, teacher.replicas * teacher.tensor_parallel))
    if isinstance(spec, RolloutJob | Measuring):
        actors = spec.scoring_pool.max_actors or 1
        stages.append((actors * spec.scoring_pool.cpus_per_actor, actors * (spec.scoring_pool.gpus_per_actor or 0)))
    if isinstance(spec, Measuring):
        serving = spec.serving
        replicas = serving.max_replicas
        stages.append((replicas * serving.cpus_per_replica, replicas if serving.use_gpu else 0))
    return max(cpus for cpus, _ in stages), max(gpus for _, gpus in stages)


def side_by_side(spec: JobSpec) -> tuple[float, float]:
    """CPUs and GPUs with which all students of a kind that trains them as trials would be trained at once; zeros elsewhere."""
    if isinstance(spec, Sweep):
        arms = sum(arm.teacher is not None for arm in spec.experiment.arms.values())
        students = spec.size() * arms * len(spec.experiment.seeds)
        return _at_once(spec.experiment.execution, min(students, spec.concurrency or students))
    if isinstance(spec, Lattice):
        from jobs.lattice_cells import list_lattice

        students = len(list_lattice(spec).trainings) * len(spec.seeds)
    elif isinstance(spec, Carriers):
        students = max(spec.budget, spec.confirming)
    else:
        return 0, 0
    return _at_once(spec.execution, min(students, spec.concurrency or students))


def _at_once(execution: Execution, students: int) -> tuple[float, float]:
    """CPUs and GPUs of so many students in training."""
    workers = execution.most_workers * students
    return workers * execution.cpus_per_worker, workers * execution.use_gpu


class _Gathered:
    """Walks a spec's data: files go along under short names, secrets move to where they are mounted."""

    def __init__(self, folder: Path, machines: Machines) -> None:
        self.folder = folder
        self.shared = PurePosixPath(machines.shared)
        self.files: dict[str, str] = {}
        self.keys: list[str] = []
        self.expected: list[str] = []

    def walk(self, value: Any, key: str = "") -> Any:
        """The same data for the cluster."""
        if isinstance(value, dict):
            return {k: self.walk(v, str(k)) for k, v in value.items()}
        if isinstance(value, list):
            return [self.walk(v, key) for v in value]
        if isinstance(value, str) and key == "api_key_env":
            self.keys.append(value)
        elif isinstance(value, str) and key == "api_key_file":
            return f"{SECRETS_FOLDER}/{Path(value).name}"
        elif isinstance(value, str) and Path(value).is_absolute() and key != "results":
            return self._path(value)
        return value

    def _path(self, value: str) -> str:
        file = Path(value)
        if not file.is_file():
            self.expected.append(value)
            return value
        try:
            text = file.read_text()
        except UnicodeDecodeError:
            raise SpecError(
                f"{value}: not a text file, so it cannot travel in a manifest: put it on shared storage"
            ) from None
        inside = file.relative_to(self.folder) if file.is_relative_to(self.folder) else Path("files") / file.name
        name = inside.as_posix()
        if self.files.setdefault(name, text) != text:
            raise SpecError(f"{value}: another file of the spec has the same name; rename one of them")
        return name


def _results(spec: JobSpec, machines: Machines) -> str:
    path = PurePosixPath(spec.results)
    if not path.is_absolute():
        return f"{machines.shared}/{spec.results}"
    if not path.is_relative_to(machines.shared):
        raise SpecError(
            f"results: {spec.results} does not lie below {machines.shared}, which is what the nodes share; --shared sets it"
        )
    return spec.results


def _dns_name(name: str) -> bool:
    return (
        len(name) <= 40
        and name == name.lower()
        and name.replace("-", "").isalnum()
        and name[0].isalpha()
        and name[-1] != "-"
    )
