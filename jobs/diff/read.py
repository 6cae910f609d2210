"""A finished run, read to be compared: its record, its rates by arm, trait and group, and the grades behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.grade_table import Graded, read_grades
from jobs.run_record import EVENTS
from sftfilter.config import did_you_mean
from sftfilter.errors import DataError

FILES = ("results.json", "eval.json")
Key = tuple[str, str, str]
"""Arm, trait, group of held-out prompts."""


@dataclass(frozen=True)
class Rate:
    """An arm's rate on one group of a trait's prompts.

    Attributes:
        value: estimate, low, high, n; None where there is none.
        why: what kept it from being measured.
        primary: whether the group is the trait's own.
    """

    value: Mapping[str, Any] | None
    primary: bool
    why: str | None = None


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        roles: role in the estimands -> arm.
        grades: None where the run kept none.
    """

    folder: Path
    record: Mapping[str, Any]
    rates: Mapping[Key, Rate]
    roles: Mapping[str, str] = field(default_factory=dict)
    grades: Mapping[Key, Graded] | None = None

    @property
    def kind(self) -> str:
        """Of its job."""
        return str(self.record["kind"])

    @property
    def name(self) -> str:
        """The run's own."""
        return str(self.record["name"])

    @property
    def traits(self) -> list[str]:
        """In the order of the spec, so that the first is the one that estimands are about."""
        return list(_experiment(self.record).get("traits") or {})


def find_run(given: str, results: Path) -> Run:
    """A run by its folder, or by its name below `results`.

    Raises:
        DataError: there is none, it has not finished, or its results are damaged.
    """
    folder = next((f for f in (Path(given), results / given) if any((f / file).is_file() for file in FILES)), None)
    if folder is None:
        raise DataError(_nothing(given, results))
    path = next(folder / file for file in FILES if (folder / file).is_file())
    try:
        record = json.loads(path.read_text())
        rates = _RATES.get(record["kind"], _no_rates)(record)
        spec = record["spec"]
        roles = record.get("roles") or {role: arm for role, arm in (spec.get("roles") or {}).items() if arm}
        return Run(folder, record, rates, roles, read_grades(folder))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{path}: not the results of a run ({type(error).__name__}: {error}); run the spec again, which reuses its stages"
        ) from error


def _nothing(given: str, results: Path) -> str:
    for folder in (Path(given), results / given):
        if (folder / EVENTS).is_file():
            return (
                f"{folder} has neither {' nor '.join(FILES)}: the run has not finished (`sftfilter resume {folder.name}`), or "
                "is of a kind that measures no traits, and so has nothing to compare"
            )
    known = sorted({path.parent.name for file in FILES for path in results.glob(f"*/{file}")})
    hint = did_you_mean(given, known) or f"; there are: {', '.join(known) or 'none'}"
    return f"no finished run '{given}', neither a folder nor below {results}{hint}"


def _experiment(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return record["spec"].get("experiment") or record["spec"]


def _of_experiment(record: Mapping[str, Any]) -> dict[Key, Rate]:
    found: dict[Key, Rate] = {}
    for arm in record["arms"]:
        reasons = dict.fromkeys(one["not_trained"] for one in arm["by_seed"] if one.get("not_trained"))
        for trait, settings in record["spec"]["traits"].items():
            for place, group in enumerate(settings["groups"]):
                value = arm["traits"].get(trait, {}).get(group)
                found[arm["name"], trait, group] = _rate(value, place == 0, "; ".join(reasons))
    return found


def _of_sweep(record: Mapping[str, Any]) -> dict[Key, Rate]:
    return {
        (f"{row['point']}: {row['arm']}", row["trait"], row["group"]): _rate(row, row["primary"], row["problem"])
        for row in record["table"]
    }


def _of_lattice(record: Mapping[str, Any]) -> dict[Key, Rate]:
    found: dict[Key, Rate] = {}
    for row in record["cells"]:
        found[row["cell"], row["trait"], row["group"]] = _rate(row, row["primary"], row["problem"])
    for row in record["interpolation"]:
        control = {"n": None} | {key: row[f"control_{key}"] for key in ("estimate", "low", "high")}
        for arm, value, why in ((row["arm"], row, row["problem"]), (row["control"], control, None)):
            found.setdefault((arm, row["trait"], row["group"]), _rate(value, row["primary"], why))
    return found


def _of_carriers(record: Mapping[str, Any]) -> dict[Key, Rate]:
    return {
        (row["arm"], row["trait"], row["group"]): _rate(row, row["primary"], row["problem"]) for row in record["arms"]
    }


def _of_eval(record: Mapping[str, Any]) -> dict[Key, Rate]:
    return {
        (model["id"], trait, group): _rate(value, place == 0, None)
        for model in record["models"]
        for trait, groups in model["traits"].items()
        for place, (group, value) in enumerate(groups.items())
    }


def _no_rates(record: Mapping[str, Any]) -> dict[Key, Rate]:
    del record
    return {}


_RATES = {
    "experiment": _of_experiment,
    "sweep": _of_sweep,
    "lattice": _of_lattice,
    "carriers": _of_carriers,
    "eval": _of_eval,
}


def _rate(value: Mapping[str, Any] | None, primary: bool, why: str | None) -> Rate:
    if value is None or value["estimate"] is None:
        return Rate(None, primary, why or "nothing could be graded")
    return Rate({key: value[key] for key in ("estimate", "low", "high", "n")}, primary, why or None)
