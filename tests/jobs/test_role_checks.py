"""A role's arm is what the role says, or the spec is refused: a control that is none would pass every gate."""

from __future__ import annotations

import pytest

from jobs.kinds.experiment import Experiment
from jobs.spec import load_experiment
from sftfilter.errors import SpecError
from tests.conftest import REPOSITORY

FULL = REPOSITORY / "jobs" / "specs" / "quickstart-full.yaml"


def _load(*changes: str) -> Experiment:
    return load_experiment(FULL, list(changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["roles.random_drop=all-T"], r"roles\.random_drop: arm 'all-T' changes nothing"),
        (["roles.alternate=swap-S"], r"roles\.alternate: arm 'swap-S' has an intervention"),
        (["roles.base=all-C"], r"roles\.base: arm 'all-C' is trained"),
        (["roles.drop=swap-S"], r"roles\.drop: arm 'swap-S' has a swap; this role is of drop_prompt or backfill"),
        (["roles.drop_alternate=drop-S"], r"roles\.drop_alternate: arm 'drop-S' has the rows of teacher 'T'.*'C'"),
        (["arms.swap-S.intervention.to=T"], r"roles\.swap: arm 'swap-S' swaps to T; this role swaps to 'C'"),
        (["arms.swap-S.intervention.subset=flagged"], r"drop changes 'S', swap changes 'flagged'"),
        (["selectors.random.size_of=flagged"], r"roles\.random_drop.*\{kind: random, size_of: S\}"),
        (["roles.matched_drop=random-drop"], r"roles\.matched_drop.*\{kind: length_matched_random, size_of: S\}"),
        (["arms.random-swap.intervention.too_few=repeat"], r"roles\.random_swap.*only the subset may differ"),
    ],
)
def test_a_role_filled_by_something_else_is_refused(changes: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        _load(*changes)


def test_another_subset_in_every_arm_is_as_good() -> None:
    _load()
    changed = [
        f"arms.{arm}.intervention.subset=flagged" for arm in ("drop-S", "swap-S", "drop-S-from-C", "T-on-S-only")
    ]
    spec = _load(*changed, *(f"selectors.{name}.size_of=flagged" for name in ("random", "like-length")))
    assert spec.roles.drop == "drop-S"
