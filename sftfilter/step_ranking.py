"""Which checkpoints in between are kept, and how they come into the student's artifact.

By a trait, the best are known once the last of them was asked. Training does not wait for that: the worker sets the
student aside, and the driver finishes it after the last answer.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sftfilter.artifacts import Store
from sftfilter.disk import disk_errors
from sftfilter.step_asking import FACTS, RATES
from sftfilter.training_settings import Exports

_UNRANKED = "unranked"
_META = "meta.json"


def whole_exports(folder: Path) -> list[Path]:
    """Of one student, by their steps."""
    return sorted(path for path in folder.glob("*") if path.name.isdecimal())


def export_facts(path: Path) -> dict[str, Any]:
    """Step, loss and hash of an export, and its rates if it was asked."""
    facts = json.loads((path / FACTS).read_text())
    rates = path / RATES
    return facts | ({"rates": json.loads(rates.read_text())} if rates.exists() else {})


def best_exports(paths: Sequence[Path], wanted: Exports) -> list[Path]:
    """Those to keep, by their steps; one that could not be asked is the worst, and the earlier of two equals stays."""
    if not wanted.keep:
        return list(paths)
    values = [_value(export_facts(path), wanted) for path in paths]
    ranked = sorted(zip(values, paths, strict=True), key=lambda one: (one[0] is None, one[0] or 0.0))
    return sorted(path for _, path in ranked[: wanted.keep])


def _value(facts: Mapping[str, Any], wanted: Exports) -> float | None:
    return (facts.get("rates", {}) if wanted.by_trait else facts).get(wanted.metric)


def add_exports(paths: Sequence[Path], student: Path) -> list[dict[str, Any]]:
    """Put exports into a student's folder; answers the facts of each. They also stay where they are."""
    for path in paths:
        shutil.copytree(path, student / "steps" / path.name, copy_function=_link)
    return [export_facts(path) for path in paths]


def waits_for_rates(wanted: Exports | None) -> bool:
    """Whether a student with such exports is finished by the driver."""
    return wanted is not None and wanted.by_trait and wanted.keep is not None


def begin_unranked(exports: Path) -> Path:
    """An empty folder to write a student into that is to be set aside.

    Args:
        exports: folder of the student's exports.
    """
    folder = exports / f"{_UNRANKED}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def set_aside(folder: Path, meta: Mapping[str, Any]) -> None:
    """The student in a folder of `begin_unranked` is whole but for its exports."""
    (folder / _META).write_text(json.dumps(dict(meta)))
    folder.rename(folder.with_suffix(""))


def is_set_aside(exports: Path) -> bool:
    """Whether a student lies there that waits for the rates of its exports."""
    return (exports / _UNRANKED).is_dir()


def finish_ranked(
    exports: Path, wanted: Exports, store: Store, stage: str, key: str, say: Callable[[str], None]
) -> None:
    """Make an artifact of a student that was set aside, with its best exports; called once they have been asked.

    Args:
        say: is told of exports without a rate.
    """
    there = whole_exports(exports)
    lacking = [str(int(path.name)) for path in there if _value(export_facts(path), wanted) is None]
    if lacking:
        say(f"its checkpoints at step {', '.join(lacking)} have no rate of {wanted.metric} and count as the worst")
    folder = store.begin(stage, key)
    try:
        with disk_errors(store.root):
            shutil.copytree(exports / _UNRANKED, folder, copy_function=_link, dirs_exist_ok=True)
            (folder / _META).unlink()
            meta = json.loads((exports / _UNRANKED / _META).read_text())
            store.commit(folder, stage, key, meta | {"exports": add_exports(best_exports(there, wanted), folder)})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _link(source: str, target: str) -> str:
    """Another name for the file where the file system can, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        return shutil.copy2(source, target)
    return target
