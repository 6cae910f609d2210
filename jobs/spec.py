"""Specs: YAML in, a frozen model out. Parsing imports neither torch nor ray nor transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from jobs.kinds import Spec
from jobs.kinds.experiment import Arm, Experiment
from jobs.spec_errors import flat, place_of, problems
from sftfilter.config import Settings
from sftfilter.errors import SpecError

__all__ = ["Arm", "Experiment", "Spec", "load_experiment", "load_spec"]


EXPERIMENT = "experiment"
"""Field of a sweep; where it is the path of a spec, `--set experiment.a.b=value` changes a field of that spec."""
_MOST_ENTRIES = 100_000


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> Spec:
    """Parse a spec file of any kind.

    Args:
        overrides: `a.b=value` each, the value in YAML.

    Raises:
        SpecError: every problem found, each with its line and the remedy.
    """
    file = Path(path)
    data, tree = _read(file)
    inner: list[str] = []
    for change in overrides:
        named = data.get("kind") == "sweep" and isinstance(data.get(EXPERIMENT), str)
        if named and change.startswith(f"{EXPERIMENT}."):
            inner.append(change.removeprefix(f"{EXPERIMENT}."))
        else:
            override(data, change)
    adapter: TypeAdapter[Spec] = TypeAdapter(Spec)
    try:
        return adapter.validate_python(data, context={"folder": file.parent, "experiment_overrides": inner})
    except ValidationError as error:
        raise SpecError(problems(file, tree, data, error, adapter)) from error


def place_in(path: str | Path, location: Sequence[str | int]) -> tuple[int, str | None]:
    """The line of a spec file on which a field stands, or what holds it, and the field's text as written if it is one.

    What a file `extends` or a `--set` brings in has no line of its own.
    """
    data, tree = _read(Path(path))
    return place_of(tree, data, location)


T = TypeVar("T", bound=Settings)


def overridden(kind: type[T], data: dict[str, Any], overrides: Sequence[str]) -> T:
    """A spec that a command line makes up, with its `--set` options.

    Raises:
        SpecError: every problem found.
    """
    for change in overrides:
        override(data, change)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise SpecError("\n".join(flat(error))) from error


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Parse a spec file that must be an experiment."""
    spec = load_spec(path, overrides)
    if not isinstance(spec, Experiment):
        raise SpecError(f"{path}: kind: this needs an experiment, and the spec's kind is {spec.kind}")
    return spec


def _read(file: Path, above: Sequence[Path] = ()) -> tuple[dict[str, Any], Any]:
    """A spec's data (merged over the one it `extends`) and its syntax tree, which knows the lines."""
    if file in above:
        raise SpecError(f"{above[-1]}: extends: {' extends '.join(path.name for path in [*above, file])}")
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
    if _entries(data, _MOST_ENTRIES) >= _MOST_ENTRIES:
        raise SpecError(f"{file}: more than {_MOST_ENTRIES} values once its anchors are written out")
    parent = data.pop("extends", None)
    if parent is None:
        return data, tree
    if not isinstance(parent, str) or Path(parent).parent != Path():
        raise SpecError(f"{file}: extends: '{parent}' must lie in the same folder, where relative paths start")
    inherited, _ = _read(file.parent / parent, [*above, file])
    return _merge(inherited, data), tree


def _entries(value: Any, most: int) -> int:
    """Values with every anchor written out, counted up to `most`: a few lines of anchors can stand for billions."""
    if not isinstance(value, dict | list):
        return 1
    count = 1
    for inner in value.values() if isinstance(value, dict) else value:
        count += _entries(inner, most - count)
        if count >= most:
            break
    return count


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        here = merged.get(key)
        merged[key] = _merge(here, value) if isinstance(here, dict) and isinstance(value, dict) else value
    return merged


def override(data: dict[str, Any], change: str) -> None:
    """Apply one `--set a.b=value`.

    Raises:
        SpecError: it is not of that form, its value is no YAML, or it names something that holds no keys.
    """
    key, equals, value = change.partition("=")
    if not equals:
        raise SpecError(f"--set {change}: expected key=value, such as training.epochs=1")
    *parents, last = key.split(".")
    here: Any = data
    for parent in parents:
        here = here.setdefault(parent, {}) if isinstance(here, dict) else None
        if not isinstance(here, dict):
            raise SpecError(f"--set {change}: '{parent}' holds no keys")
    try:
        here[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        said = " ".join(str(getattr(error, "problem", None) or error).split())
        raise SpecError(
            f"--set {key}: '{value}' is not valid YAML ({said}); quote it: --set '{key}=\"...\"'"
        ) from error
