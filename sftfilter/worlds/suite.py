"""The planted-cause suite: every world in many variations, and how the verdicts compare with the truth."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sftfilter.artifacts import Store
from sftfilter.findings import Gates
from sftfilter.worlds.scene import WorldSettings

if TYPE_CHECKING:
    from sftfilter.worlds.study import Outcome

TUNE_SEEDS = tuple(range(20))
"""Variations that worlds and rules may be tuned on."""
REPORT_SEEDS = tuple(range(500, 520))
"""Variations that figures are reported on; nothing is tuned on them. Those from 100 to 104, 200 to 204, 300 to 309 and 400 to
419 were, until the rules changed: mistakes on them led to it, or they had been seen when it happened."""

Judged = Literal["right", "incomplete", "undecided", "wrong"]
OPEN = frozenset({"underpowered", "undecided", "no verdict", "base prior", "no trait to study"})
"""Findings that name no cause. `no trait to study` is one where a cause was planted too weakly for the gap's gate."""


@dataclass(frozen=True)
class Variation:
    """One world with one seed, judged and compared with the truth.

    Attributes:
        causes: the planted ones, or those that are true beside a planted finding.
        named: what the verdict says, as the confusion matrix has it.
        mistakes: hypotheses with a wrong status, as `2 supported`.
    """

    kind: str
    planted: str
    seed: int
    causes: tuple[int, ...]
    named: str
    judged: Judged
    mistakes: tuple[str, ...]
    record: Mapping[str, Any]


def run_suite(
    worlds: Sequence[WorldSettings],
    variations: Sequence[int],
    *,
    students: Sequence[int],
    gates: Gates,
    workers: int = 1,
) -> Iterator[Variation]:
    """Judge every world in every variation, each as it is done.

    Args:
        students: seeds of the students.
        workers: processes, one thread each.
    """
    jobs = [(world, seed, tuple(students), gates) for world in worlds for seed in variations]
    if workers == 1:
        yield from map(_one, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        yield from pool.map(_one, jobs)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _one(job: tuple[WorldSettings, int, tuple[int, ...], Gates]) -> Variation:
    from sftfilter.worlds.study import study

    world, seed, students, gates = job
    with tempfile.TemporaryDirectory(prefix="sftfilter-world-") as folder:
        return compared(study(world, seed, Store(Path(folder)), seeds=students, gates=gates))


def compared(outcome: Outcome) -> Variation:
    """A verdict beside the truth.

    Right: it names the planted causes and no other, and the planted finding if there is one. Incomplete: some of several
    planted causes, and denies none. Undecided: no cause named and none of the planted ones denied. Wrong: anything else.
    """
    verdict, causes = outcome.verdict, frozenset(outcome.verdict["causes"])
    status = {row["id"]: row["status"] for row in verdict["hypotheses"]}
    mistakes = [f"{n} supported" for n in sorted(causes - outcome.causes)]
    mistakes += [f"{n} contradicted" for n in sorted(outcome.causes) if status[n] == "contradicted"]
    return Variation(
        outcome.world.name,
        outcome.world.planted,
        outcome.seed,
        tuple(sorted(outcome.causes)),
        verdict["label"],
        _judged(outcome, causes, mistakes),
        tuple(mistakes),
        _record(outcome),
    )


def _judged(outcome: Outcome, causes: frozenset[int], mistakes: Sequence[str]) -> Judged:
    finding = outcome.verdict["finding"]
    if mistakes:
        return "wrong"
    if outcome.finding:  # a finding is planted; causes that are true beside it may be named or not
        if finding == outcome.finding:
            return "right"
        return "incomplete" if causes else "undecided" if finding in OPEN - {"base prior"} else "wrong"
    if causes == outcome.causes:
        return "right"
    if causes:
        return "incomplete"
    return "wrong" if finding in ("filter works", "dilution only") else "undecided"


def _record(outcome: Outcome) -> dict[str, Any]:
    verdict = outcome.verdict
    return {
        "finding": verdict["finding"],
        "hypotheses": {str(row["id"]): row["status"] for row in verdict["hypotheses"]},
        "evidence": {str(row["id"]): row["evidence"] for row in verdict["hypotheses"]},
        "reasons": verdict["reasons"],
        "rates": {role: value["estimate"] for role, value in outcome.rates.items()},
        "students": outcome.students,
        "seconds": round(outcome.seconds, 2),
    }


def confusion(done: Iterable[Variation]) -> dict[str, dict[str, int]]:
    """What was planted -> what the verdict said -> how often."""
    table: dict[str, Counter[str]] = {}
    for one in done:
        table.setdefault(one.planted, Counter())[one.named] += 1
    return {planted: dict(named.most_common()) for planted, named in table.items()}


def shares(done: Sequence[Variation]) -> dict[str, float]:
    """Shares of all variations, by how they were judged."""
    counted = Counter(one.judged for one in done)
    return {word: counted[word] / max(len(done), 1) for word in ("right", "incomplete", "undecided", "wrong")}


def intervals(done: Sequence[Variation]) -> dict[str, tuple[float, float]]:
    """95 % intervals of the shares (Wilson 1927); variations are drawn independently."""
    from sftfilter.stats import wilson

    return {word: wilson(share, len(done)) for word, share in shares(done).items()} if done else {}


def statuses(done: Iterable[Variation]) -> dict[str, tuple[int, int]]:
    """Hypotheses called supported or contradicted in all variations: for how many that is true, and of how many."""
    right: dict[str, list[bool]] = {"supported": [], "contradicted": []}
    for one in done:
        for number, status in one.record["hypotheses"].items():
            if status in right:
                right[status].append((int(number) in one.causes) == (status == "supported"))
    return {status: (sum(hits), len(hits)) for status, hits in right.items()}
