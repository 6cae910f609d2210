"""A plan as tables for a terminal, 80 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from jobs.score_tables import plain_table

if TYPE_CHECKING:
    from jobs.plan.plan import Plan

_WIDTH, _NAME = 80, 28
_PARTLY = {"pilot, guess": "pilot*"}
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0


def print_plan(plan: Plan, console: Console) -> None:
    """Every table, and below them what they assume."""
    title = f"{plan.kind} '{plan.name}', spec hash {plan.spec_hash}"
    console.print(f"[bold]{title}[/]", highlight=False)
    for table in _tables(plan):
        console.print()
        console.print(table)
    for heading, lines in (("Not costed", plan.costed.unknown if plan.estimates else ()), ("Notes", plan.notes)):
        if lines:
            console.print(f"\n[bold]{heading}[/]")
            for line in lines:
                console.print(_wrapped(line), markup=False, highlight=False)


def _tables(plan: Plan) -> Iterator[Table]:
    yield _made(plan)
    if plan.estimates:
        yield _stages(plan)
        yield _workers(plan)
        yield _assumptions(plan)
    if plan.power:
        yield _power(plan)
        yield _power_assumptions(plan)


def _made(plan: Plan) -> Table:
    table = _table("What would be made", "", "of")
    _numbers(table, "number", "there already", "tokens, about")
    for line in plan.made:
        number = f"{'' if line.sure else '≤ '}{line.number:,}"
        table.add_row(line.what, line.of, number, f"{line.there:,}" if line.there else "", tokens(line.tokens))
    return table


def _stages(plan: Plan) -> Table:
    table = _table("What is left to do, on one worker", "stage")
    _numbers(table, "number", "")
    table.columns[-1].justify = "left"
    _numbers(table, "s each", "work", "setup")
    for line in plan.costed.lines:
        each = f"{line.seconds / line.count:.3g}" if line.seconds and line.count else ""
        work = "not known" if line.seconds is None else duration(line.seconds) if line.count else ""
        number = f"{line.count:,}" if line.count else ""
        table.add_row(line.stage, number, line.unit, each, work, duration(line.setup) if line.setup else "")
    return table


def _workers(plan: Plan) -> Table:
    from jobs.plan.plan import device_hours, efficiency, money

    costs = plan.priced.costs
    unit = f"{costs.devices} {costs.device}{'s' * (costs.devices != 1)}"
    partly = " (of what has a cost)" if plan.costed.unknown else ""
    table = _table(f"On more workers of {unit} each{partly}")
    _numbers(table, "workers", "wall", f"{costs.device}-hours", "efficiency")
    priced = costs.device_hour_price is not None
    if priced:
        _numbers(table, "price")
    table.add_column("most of it goes to")
    first = plan.estimates[0].wall
    for one in plan.estimates:
        held, what = one.parts[0] if one.parts else (0.0, "nothing")
        share = f"{what} {held / one.wall:.0%}" if one.wall else what
        if one.workers is None:
            table.add_row("limit", duration(one.wall), "", "", *([""] if priced else []), share)
        else:
            hours = f"{device_hours(one, costs.devices):,.3g}"
            price = [f"{money(one, costs):,.0f}"] if priced else []
            table.add_row(f"{one.workers:,}", duration(one.wall), hours, f"{efficiency(one, first):.0%}", *price, share)
    return table


def _assumptions(plan: Plan) -> Table:
    table = _table("Costs and where they come from")
    table.add_column("", overflow="fold", max_width=20)
    table.add_column("value", overflow="fold", max_width=26)
    table.add_column("source", overflow="fold")
    for row in plan.cost_sources:
        table.add_row(*row)
    return table


def _power(plan: Plan) -> Table:
    power = plan.power
    assert power is not None
    seeds = f"{power.seeds} seed{'s' * (power.seeds != 1)}"
    samples = f"{power.samples} sample{'s' * (power.samples != 1)}"
    table = _table(f"What could be found: {power.trait}, {power.prompts} held-out prompts, {samples}, {seeds}")
    table.add_column("contrast", overflow="fold", max_width=_NAME)
    _numbers(table, "least it\ndetects", "effect\nwanted", "needed:\nprompts", "\nsamples", "\nseeds")
    table.add_column("spread\nfrom", no_wrap=True)
    for one in power.contrasts:
        needed = [f"{number:,}" if number else "none" for number in (one.prompts, one.samples, one.seeds)]
        table.add_row(
            one.name, f"{one.detectable:.2f}", f"{one.effect:g}", *needed, _PARTLY.get(one.source, one.source)
        )
    return table


def _power_assumptions(plan: Plan) -> Table:
    table = _table("Assumed of that")
    table.show_header = False
    table.add_column("")
    for line in plan.power.assumptions if plan.power else ():
        table.add_row(line)
    return table


def _table(title: str, *names: str) -> Table:
    table = plain_table(title)
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def _numbers(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)


def _wrapped(line: str) -> str:
    return textwrap.fill(
        line, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def duration(seconds: float) -> str:
    """`0.42 s`, `48 s`, `12.5 min`, `3.4 h`, `2.1 days`."""
    if seconds < _MINUTE:
        return f"{seconds:.2g} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.1f} min"
    return f"{seconds / _HOUR:.1f} h" if seconds < 2 * _DAY else f"{seconds / _DAY:.1f} days"


def tokens(number: float) -> str:
    """`1.63 k`, `26.1 M`; nothing for none."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}" if number else ""
