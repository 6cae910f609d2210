"""Two runs' specs key by key, their versions, and the artifacts that they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jobs.diff.read import Run
from jobs.kinds import KINDS
from sftfilter.config import file_hash

_OWN = ("name", "results")
"""Fields that say what a run is called and where it lies."""


def spec_differences(first: Run, second: Run) -> list[dict[str, Any]]:
    """A record for each field that differs: `field`, `a` and `b` (left out where the field is not there) and `outcome`.

    `outcome` is false for fields that change where or how fast a job runs and not what comes of it. Files are compared by
    what is in them where both can be read.
    """
    a, b = ({k: v for k, v in run.record["spec"].items() if k not in _OWN} for run in (first, second))
    return [
        {"field": ".".join(path)} | sides | {"outcome": not _aside(first.kind, path)}
        for path, sides in _differ(a, b, ())
    ]


def _differ(a: Any, b: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    if not isinstance(a, dict) or not isinstance(b, dict):
        if not _same(a, b):
            yield path, {"a": a, "b": b}
        return
    for key in dict.fromkeys([*a, *b]):
        here = (*path, str(key))
        if key in a and key in b:
            yield from _differ(a[key], b[key], here)
        else:
            yield here, {"a": a[key]} if key in a else {"b": b[key]}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if a == b or not (isinstance(a, str) and isinstance(b, str)):
        return a == b
    files = [Path(text) for text in (a, b) if Path(text).is_absolute() and Path(text).is_file()]
    return len(files) == 2 and file_hash(files[0]) == file_hash(files[1])


def _aside(kind: str, path: tuple[str, ...]) -> bool:
    if kind == "sweep" and path[0] == "experiment":
        return _aside("experiment", path[1:])
    return bool(path) and kind in KINDS and path[0] in KINDS[kind].aside


def version_differences(first: Run, second: Run) -> list[dict[str, Any]]:
    """`package`, `a`, `b`; None where a run did not write it down."""
    a, b = (run.record.get("versions") or {} for run in (first, second))
    return [{"package": p, "a": a.get(p), "b": b.get(p)} for p in dict.fromkeys([*a, *b]) if a.get(p) != b.get(p)]


def artifacts_shared(first: Run, second: Run) -> dict[str, list[dict[str, str]]]:
    """`shared`, `only_a` and `only_b`: stage and key of the artifacts that each run used."""
    a, b = _artifacts(first.record), _artifacts(second.record)
    parts = {"shared": [x for x in a if x in b], "only_a": [x for x in a if x not in b]}
    parts["only_b"] = [x for x in b if x not in a]
    return {name: [{"stage": stage, "key": key} for stage, key in found] for name, found in parts.items()}


def _artifacts(record: Mapping[str, Any]) -> dict[tuple[str, str], None]:
    """Of an `eval`, which keeps none of its own, the checkpoints that it asked."""
    asked = [("checkpoint", m["model_hash"]) for m in record.get("models", ()) if m.get("model_hash")]
    made = [(one["stage"], one["key"]) for one in record.get("stages", ())]
    return dict.fromkeys(made or asked)
