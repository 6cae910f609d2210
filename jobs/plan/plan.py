"""A plan: what a spec would make, cost and find, and every assumption that is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.kinds.sweep import Sweep
from jobs.plan.contrasts import Power, power_of_design
from jobs.plan.costing import Costed, by_flops, costed, flops_rates, used_fields, used_names
from jobs.plan.costs import Costs, Priced, priced
from jobs.plan.counting import Counts, Reading
from jobs.plan.designs import Design, Guesses
from jobs.plan.hardware import Hardware, token_seconds
from jobs.plan.items import Item, Sizes, totals
from jobs.plan.parameters import Parameters
from jobs.plan.reuse import made_before, still_to_make
from jobs.plan.schedule import Estimate, estimate
from jobs.plan.show import duration
from jobs.plan.sizes import sizes_of
from jobs.run_record import EVENTS

if TYPE_CHECKING:
    from jobs.kinds.job import JobSpec
    from sftfilter.training_settings import Execution


@dataclass(frozen=True)
class Stated:
    """What the command line says instead of measurements and defaults.

    Attributes:
        run: whose record costs and pilot are read from; None: the run of the spec's own name, if there is one.
        costs, effects: `KEY=VALUE` each.
        rows, tokens: of sources that are not here, by name; tokens of a row.
        parameters: model -> how many it has.
        hardware: what to reckon for instead of what the run ran on.
        workers: numbers of them to reckon for.
        reading: how much of large files is read.
        power: whether to say what could be found.
    """

    run: Path | None = None
    file: Path | None = None
    costs: Sequence[str] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    parameters: Mapping[str, float] = field(default_factory=dict)
    hardware: Hardware | None = None
    guesses: Guesses = field(default_factory=Guesses)
    effects: Sequence[str] = ()
    workers: Sequence[int] = (1, 8, 64, 512)
    reading: Reading | None = None
    power: bool = True


@dataclass(frozen=True)
class Made:
    """A line of what would be made.

    Attributes:
        there: of `number`, what is there already by an earlier run of the very same spec.
        sure: whether it can be told without the data; else it is at most so many.
    """

    what: str
    of: str
    number: int
    there: int
    tokens: float
    sure: bool


@dataclass(frozen=True)
class Plan:
    """Everything that can be told of a spec before it runs.

    Attributes:
        cost_sources: (field, value, source) of every cost that it depends on.
    """

    name: str
    kind: str
    spec_hash: str
    made: Sequence[Made]
    priced: Priced
    costed: Costed
    estimates: Sequence[Estimate]
    power: Power | None
    notes: Sequence[str]
    cost_sources: Sequence[tuple[str, str, str]] = ()

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        first = self.estimates[0].wall if self.estimates else 0.0
        return {
            "name": self.name,
            "kind": self.kind,
            "spec_hash": self.spec_hash,
            "made": [asdict(line) for line in self.made],
            "costs": self.priced.costs.model_dump(mode="json"),
            "cost_sources": [list(row) for row in self.cost_sources],
            "stages": [asdict(line) for line in self.costed.lines],
            "not_costed": list(self.costed.unknown),  # in no sum
            "workers": [self._estimate(one, first) for one in self.estimates],
            "power": asdict(self.power) if self.power else None,
            "notes": list(self.notes),
        }

    def _estimate(self, one: Estimate, first: float) -> dict[str, Any]:
        record: dict[str, Any] = {"workers": one.workers, "workers_used": one.used, "wall_s": one.wall}
        if one.workers is not None:
            record["device_hours"] = device_hours(one, self.priced.costs.devices)
            record["efficiency"] = efficiency(one, first)
            record["price"] = money(one, self.priced.costs)
        return record | {"parts": [{"seconds": seconds, "what": what} for seconds, what in one.parts]}


def device_hours(one: Estimate, devices: int) -> float:
    """Hours for which devices are held."""
    return (one.workers or 0) * devices * one.wall / 3600


def money(one: Estimate, costs: Costs) -> float | None:
    """What these devices cost while they are held; None without a price."""
    price = costs.device_hour_price
    return None if price is None else price * device_hours(one, costs.devices)


def efficiency(one: Estimate, first: float) -> float:
    """What one worker would take, over what all of them are held for."""
    return first / ((one.workers or 1) * one.wall) if one.wall else 1.0


def plan_spec(spec: JobSpec, root: Path, stated: Stated) -> Plan:
    """Plan a spec.

    Args:
        root: its results folder, which need not be there.

    Raises:
        SpecError: there is nothing to plan in a spec of its kind, or something stated is wrong.
        DataError: a file or a record cannot be read.
    """
    own = root / spec.name
    run = stated.run or (own if (own / EVENTS).is_file() else None)
    prices = priced(run, stated.file, stated.costs, stated.hardware)
    parameters = Parameters(stated.parameters)
    counts_of = Counts(stated.rows, stated.reading, stated.tokens)
    sizes = sizes_of(spec, counts_of, prices.costs.chars_per_token, parameters)
    study = spec.experiment if isinstance(spec, Sweep) else spec
    left = still_to_make(sizes.items, made_before(root, spec.spec_hash), list(sizes.heldout))
    execution: Execution | None = getattr(study, "execution", None)
    cost = costed(sizes, left, prices.costs, execution)
    known = any(line.seconds for line in cost.lines)
    counts = sorted({1, *stated.workers})
    estimates = estimate(cost.stages, counts) if known else []
    design, power = Design.of(study) if stated.power else None, None
    if design is not None:
        power = power_of_design(design, sizes.heldout, run, stated.guesses, stated.effects)
    notes = [*sizes.notes, *prices.notes, *_notes(sizes, left, root, run if stated.hardware is None else None, known)]
    if stated.hardware:
        notes += stated.hardware.notes({model: size for model, (size, _) in parameters.told.items() if size})
    if known and not sizes.at_once:
        notes += _side_by_side(cost, counts, estimates)
    lines = [_made(what, of, items, left) for what, of, items in totals(sizes.items)]
    kind = spec.model_dump(include={"kind"})["kind"]
    sources = _sources(prices, sizes, left, parameters) if known else []
    return Plan(spec.name, kind, spec.spec_hash, lines, prices, cost, estimates, power, notes, sources)


def _sources(prices: Priced, sizes: Sizes, left: Sequence[Item], parameters: Parameters) -> list[tuple[str, str, str]]:
    """(what, value, source) of everything that the time depends on; what only FLOPs need is told where they are used."""
    rows = prices.assumptions(used_fields(sizes, left), used_names(left))
    rates = flops_rates(prices.costs)
    each = token_seconds([item for item in left if by_flops(item, prices.costs)], rates)
    if not each:
        return rows
    sized = [
        (f"parameters, {model}", f"{size:.3g}" if size else "not known", source)
        for model, (size, source) in parameters.told.items()
    ]
    return [*rows, *sized, *each]


def _made(what: str, of: str, items: Sequence[Item], left: Sequence[Item]) -> Made:
    """One line; students are counted by heads, all else by rows."""
    there = [item for item in items if item not in left]
    heads = items[0].kind == "student"
    number, made = (len(some) if heads else sum(item.count for item in some) for some in (items, there))
    sure = all(item.sure for item in items)
    visits = f"{'' if sure else '≤ '}{sum(item.count for item in items):,} row visits"
    tokens = sum(item.tokens for item in items)
    return Made(what, of or (visits if heads else f"of {len(items)} models"), number, made, tokens, sure)


def _notes(sizes: Sizes, left: Sequence[Item], root: Path, run: Path | None, known: bool) -> list[str]:
    notes = []
    if not all(item.sure for item in sizes.items):
        notes.append(
            "at most: what scores select is not known yet, so nothing is taken for dropped, and students that come out "
            "with equal rows, which are trained once, are not told apart"
        )
    if len(left) == len(sizes.items) and (root / "artifacts").is_dir():
        notes.append(
            f"{root / 'artifacts'} holds artifacts of other specs; what of them fits is told by their hashes when it runs"
        )
    if not known:
        notes.append(
            "no wall time without costs: name a run that has been recorded (--from runs/NAME), a file (--costs FILE), or "
            "state some (--cost answer_s=0.05)"
        )
    else:
        notes.append(
            "more workers help only as far as the spec lets them in: execution.workers, generation_pool, scoring_pool, serving"
        )
    if known and run:
        notes.append(f"one worker is what {run.name} ran on; costs of another machine or model have to be stated")
    return notes


def _side_by_side(cost: Costed, counts: Sequence[int], estimates: Sequence[Estimate]) -> list[str]:
    """What it would be worth to train students side by side, as a sweep does."""
    if not any(stage.name == "training" and len(stage.pieces) > 1 for stage in cost.stages):
        return []
    stages = [replace(stage, at_once=stage.name == "training") for stage in cost.stages]
    beside = {one.workers: one.wall for one in estimate(stages, counts)}
    told = next((one for one in estimates if one.workers and beside[one.workers] < 0.9 * one.wall), None)
    if told is None:
        return []
    return [
        "students are trained one after another by one group of workers; side by side, as the trials of a sweep, the run "
        f"would take {duration(beside[told.workers])} instead of {duration(told.wall)} on {told.workers} workers"
    ]
