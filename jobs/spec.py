"""Specs: YAML in, a frozen model out. Parsing imports neither torch nor ray nor transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from serve.settings import ServingSettings
from sftfilter.config import Settings, did_you_mean, file_hash, stable_hash
from sftfilter.errors import SpecError
from sftfilter.estimands import Roles
from sftfilter.interventions import DropRow, Intervention, Swap
from sftfilter.models import BUILTIN
from sftfilter.prompts import PromptSource
from sftfilter.rollouts import Generation, Pool
from sftfilter.scorers import Scorer
from sftfilter.scoring import ScoringPool
from sftfilter.selectors import Selector, check_references
from sftfilter.teachers import Teacher
from sftfilter.training import Execution, TrainingSettings
from sftfilter.traits import Trait
from sftfilter.verdict import Gates


class Arm(Settings):
    """One line of the experiment: whose rows, changed how. Without a teacher it is the untrained base."""

    teacher: str | None = None
    intervention: Intervention | None = None


class Experiment(Settings):
    """Teachers answer prompts, a filter scores the rollouts, every arm trains a student, the traits are measured."""

    kind: Literal["experiment"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
    base_model: Annotated[str, Field(description=f"'{BUILTIN}', a local folder, or a hub id")] = BUILTIN
    system_prompt: Annotated[str | None, Field(description="put before every conversation; keep it short")] = None
    prompts: PromptSource
    teachers: dict[str, Teacher]
    generation: Generation = Generation()
    scorers: dict[str, Scorer] = Field(default={})
    selectors: dict[str, Selector] = Field(default={})
    arms: dict[str, Arm]
    roles: Annotated[Roles, Field(description="which arm is which in the estimands")]
    traits: dict[str, Trait]
    gates: Annotated[Gates, Field(description="frozen before any arm runs")] = Gates()
    seeds: list[int] = Field(default=[0], min_length=1)
    training: TrainingSettings = TrainingSettings()
    execution: Execution = Execution()
    generation_pool: Pool = Pool()
    scoring_pool: ScoringPool = ScoringPool()
    serving: ServingSettings = ServingSettings()
    error_budget: Annotated[float, Field(ge=0, lt=1, description="share of rows that may be quarantined")] = 0.01
    results: Annotated[str, Field(description="folder for artifacts and reports, shared by all nodes")] = "runs"

    @model_validator(mode="after")
    def _references(self) -> Experiment:
        check_references(self.selectors, self.scorers)
        for name, arm in self.arms.items():
            _known("teacher", f"arms.{name}.teacher", arm.teacher, self.teachers)
            if arm.intervention is None:
                continue
            if arm.teacher is None:
                raise ValueError(f"arms.{name}: an intervention needs a teacher")
            _known("selector", f"arms.{name}.intervention.subset", arm.intervention.subset, self.selectors)
            if isinstance(arm.intervention, Swap):
                _known("teacher", f"arms.{name}.intervention.to", arm.intervention.to, self.teachers)
        for role, arm_name in self.roles.named().items():
            _known("arm", f"roles.{role}", arm_name, self.arms)
            if role != "base" and self.arms[arm_name].teacher is None:
                raise ValueError(f"roles.{role}: arm '{arm_name}' needs a teacher")
        for name, arm in self.arms.items():
            if isinstance(arm.intervention, DropRow) and arm.teacher != self.original_teacher:
                raise ValueError(
                    f"arms.{name}: drop_row drops scored rows, and only those of '{self.original_teacher}' (the original) "
                    "are scored; use drop_prompt"
                )
        if len(self.seeds) != len(set(self.seeds)):
            raise ValueError("seeds: a seed is listed twice")
        return self

    @property
    def original_teacher(self) -> str:
        """The teacher whose rows are scored and selected from."""
        teacher = self.arms[self.roles.original].teacher
        assert teacher is not None
        return teacher

    @property
    def spec_hash(self) -> str:
        """Hash of everything that can change the outcome (not of where or how fast it runs)."""
        speed = {"results", "execution", "generation_pool", "scoring_pool", "serving", "name"}
        return stable_hash(_portable(self.model_dump(mode="json", exclude=speed)))


def _portable(value: Any) -> Any:
    """Paths of files replaced by the hash of their bytes, so that the hash is the same in every clone."""
    if isinstance(value, dict):
        return {key: _portable(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_portable(v) for v in value]
    if isinstance(value, str) and Path(value).is_absolute() and Path(value).is_file():
        return file_hash(value)
    return value


def _known(what: str, where: str, name: str | None, known: Mapping[str, Any]) -> None:
    if name is not None and name not in known:
        hint = did_you_mean(name, known) or f"; there are: {', '.join(known)}"
        raise ValueError(f"{where}: no {what} '{name}'{hint}")


Spec = Experiment
"""The closed union of job kinds."""


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Parse a spec file.

    Args:
        overrides: `a.b=value` each, the value in YAML.

    Raises:
        SpecError: every problem found, each with its line and the remedy.
    """
    file = Path(path)
    data, tree = _read(file)
    for override in overrides:
        _override(data, override)
    try:
        return TypeAdapter(Spec).validate_python(data, context={"folder": file.parent})
    except ValidationError as error:
        lines = [_problem(file, tree, problem) for problem in error.errors()]
        raise SpecError("\n".join(dict.fromkeys(lines))) from error


def _read(file: Path) -> tuple[dict[str, Any], Any]:
    """A spec's data (merged over the one it `extends`) and its syntax tree, which knows the lines."""
    try:
        text = file.read_text()
        data = yaml.safe_load(text)
        tree = yaml.compose(text, yaml.SafeLoader)
    except OSError as error:
        raise SpecError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{file}: not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise SpecError(f"{file}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise SpecError(f"{file}: expected keys and values, such as `kind: experiment`")
    parent = data.pop("extends", None)
    if parent is None:
        return data, tree
    if Path(parent).parent != Path():
        raise SpecError(f"{file}: extends: '{parent}' must lie in the same folder, where relative paths start")
    inherited, _ = _read(file.parent / parent)
    return _merge(inherited, data), tree


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        here = merged.get(key)
        merged[key] = _merge(here, value) if isinstance(here, dict) and isinstance(value, dict) else value
    return merged


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise SpecError(f"--set {override}: expected key=value, such as training.epochs=1")
    *parents, last = key.split(".")
    here: Any = data
    for parent in parents:
        here = here.setdefault(parent, {}) if isinstance(here, dict) else None
        if not isinstance(here, dict):
            raise SpecError(f"--set {override}: '{parent}' holds no keys")
    here[last] = yaml.safe_load(value)


def _problem(file: Path, tree: Any, problem: Mapping[str, Any]) -> str:
    """`file:line: field: message`, as editors and compilers write it."""
    location = [str(part) for part in problem["loc"]]
    node, line, shown = tree, 1, []
    for part in location:
        child = _child(node, part)
        if child is None:
            continue  # tags of unions and validators stand in pydantic's locations, not in the file
        node, line = child
        shown.append(part)
    if problem["type"] == "missing" and location and location[-1] not in shown:
        shown.append(location[-1])
    context = problem.get("ctx") or {}
    if problem["type"] == "unknown_key" and (found := _child(node, str(context.get("key")))):
        line = found[1]
    message = problem["msg"].removeprefix("Value error, ")
    return f"{file}:{line}: {'.'.join(shown) + ': ' if shown else ''}{message}"


def _child(node: Any, part: str) -> tuple[Any, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
        value = node.value[int(part)]
        return value, value.start_mark.line + 1
    return None
