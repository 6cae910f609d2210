"""Tidy tables of a lattice: a row for each cell, and for each point of an interpolation's curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jobs.kinds.lattice import Lattice, Mode
from jobs.lattice_cells import UNTRAINED, Part, base_role, cell_role
from jobs.lattice_curves import Step
from jobs.sweep_table import Measured, Rows, arm_facts, rate_of

READING = ("share", "share_low", "share_high", "word", "reading")


def cell_rows(
    spec: Lattice,
    parts: Sequence[Part],
    points: Sequence[Measured],
    abilities: Sequence[Mapping[str, Mapping[str, Any]]],
    readings: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> Rows:
    """A row for each cell (and untrained base, and probe), trait and group of held-out prompts.

    Args:
        readings: trait -> arm -> reading, which stands beside the trait's own group.
    """
    rows: Rows = []
    told: set[str] = set()
    for part, point, able in zip(parts, points, abilities, strict=True):
        for arm in [UNTRAINED, *part.cells, *part.probes]:
            if arm == UNTRAINED and part.base in told:
                continue
            told.add(part.base)
            known = {
                "cell": f"{part.base}, {UNTRAINED}" if arm == UNTRAINED else arm,
                "base": part.base,
                "prompts": None if arm == UNTRAINED else part.prompts,
                **arm_facts(point, arm),
                "role": _role(spec, part, arm),
                "probe": arm in part.probes,
                "broken": able[arm]["broken"],
            }
            for trait, settings in spec.traits.items():
                for group in settings.groups:
                    primary = group == settings.primary
                    read = readings[trait].get(arm, {}) if primary else {}
                    rate = {"trait": trait, "group": group, "primary": primary, **rate_of(point, arm, trait, group)}
                    problem = {"problem": known["problem"] or _ungraded(rate)}
                    rows.append(known | rate | problem | {key: read.get(key) for key in READING})
    return rows


def _role(spec: Lattice, part: Part, arm: str) -> str | None:
    if arm == UNTRAINED:
        return base_role(spec, part.base)
    return part.probes.get(arm) or cell_role(spec, part.cells[arm])


def interpolation_rows(spec: Lattice, part: Part, point: Measured, able: Mapping[str, Mapping[str, Any]]) -> Rows:
    """A row for each mode, fraction, trait and group: the arm, its random control, and the dilution line."""
    rows: Rows = []
    roles = part.spec.roles
    for trait, settings in spec.traits.items():
        for group in settings.groups:
            ends = [rate_of(point, arm, trait, group)["estimate"] for arm in (roles.original, roles.alternate)]
            for step in part.steps:
                row = _point_row(point, step, trait, group, ends)
                rows.append(row | {"primary": group == settings.primary, "broken": able[step.arm]["broken"]})
    return rows


def _point_row(point: Measured, step: Step, trait: str, group: str, ends: Sequence[float | None]) -> dict[str, Any]:
    control = rate_of(point, step.control, trait, group)
    share = changed_share(point, step.arm)
    facts = arm_facts(point, step.arm)
    rate = rate_of(point, step.arm, trait, group)
    return {
        "mode": step.mode,
        "fraction": float(step.fraction),
        "f": share,
        "arm": step.arm,
        "trait": trait,
        "group": group,
        **rate,
        "control": step.control,
        "control_f": changed_share(point, step.control),
        **{f"control_{key}": control[key] for key in ("estimate", "low", "high")},
        "dilution": dilution(step.mode, share, *ends),
        **{key: facts[key] for key in ("n_seeds", "rows_trained", "models")},
        "problem": facts["problem"] or _ungraded(rate),
    }


def _ungraded(rate: Mapping[str, Any]) -> str | None:
    return None if rate["n"] else "none of its answers could be graded"


def changed_share(point: Measured, arm: str) -> float:
    """f: rows dropped, swapped or rewritten, as a share of the rows of the arm's own teacher; averaged over seeds."""
    shares = []
    for plan in point.plans:
        if plan.name == arm:
            changed = sum(plan.counts[action] for action in ("dropped", "swapped", "rewritten"))
            shares.append(changed / max(changed + plan.counts["kept"], 1))
    return float(np.mean(shares))


def dilution(mode: Mode, share: float, original: float | None, alternate: float | None) -> float | None:
    """The rate if every row took only its own share of the trait with it, or brought it."""
    if original is None or alternate is None:
        return None
    kept = {"converse_swap": share, "converse_drop": 0.0}.get(mode, 1 - share)
    return alternate + kept * (original - alternate)
