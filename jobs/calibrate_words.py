"""A calibration in words: which scorer to trust, for what, and what the figures do not say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.kinds.calibrate import Calibrate
from sftfilter.rollout_file import RolloutFile
from sftfilter.teachers import TunedTeacher


def recommend(results: Mapping[str, Any]) -> list[str]:
    """Sentences, the most useful first."""
    sentences: list[str] = []
    for subtlety in dict.fromkeys(m["subtlety"] for m in results["mixtures"]):
        sentences += _of_subtlety(results, subtlety)
    if results["retrain"]:
        sentences += _of_retraining(results)
    return sentences


def _of_subtlety(results: Mapping[str, Any], subtlety: str) -> list[str]:
    mixtures = [m for m in results["mixtures"] if m["subtlety"] == subtlety]
    high, low = (pick(mixtures, key=lambda m: m["rate"]) for pick in (max, min))
    rows = {(w["scorer"], w["rate"]): w for w in results["table"] if w["subtlety"] == subtlety}
    at_high = sorted((w for (_, rate), w in rows.items() if rate == high["rate"]), key=_ranking)
    good = [w for w in at_high if w["better_than_chance"] and results["scorers"][w["scorer"]]["kind"] != "random"]
    wrong = [w["scorer"] for w in at_high if w["reversed"] and results["scorers"][w["scorer"]]["kind"] != "random"]
    sentences: list[str] = []
    if not good:
        sentences.append(
            f"{subtlety} rows: no scorer is shown to find them better than chance ({high['planted']} planted); nothing "
            "here speaks for removing what one of them points at rather than rows at random."
        )
    else:
        best = good[0]
        chance = high["planted"] / high["rows"]
        sentences.append(
            f"{subtlety} rows: trust {best['scorer']} first: at {high['rate']:.0%} its AUPRC is {_value(best['auprc'])} "
            f"(chance {chance:.2f}), and of as many rows as were planted it finds {_value(best['precision'])}."
            + _as_good(results, good)
        )
        if low is not high:
            there = rows[best["scorer"], low["rate"]]
            sentences.append(
                f"{subtlety} rows at {low['rate']:.0%} ({low['planted']} planted): {best['scorer']} finds "
                f"{_value(there['precision'])} of them in as many rows, {_value(there['recall_at_twice'])} in twice as many."
            )
    if wrong:
        sentences.append(
            f"{subtlety} rows: {', '.join(wrong)} ranks them below the others: the sign is wrong for this trait, do not "
            "filter its high scores."
        )
    return sentences


def _ranking(worth: Mapping[str, Any]) -> tuple[float, str]:
    return -(worth["auprc"]["estimate"] or 0.0), worth["scorer"]


def _as_good(results: Mapping[str, Any], good: list[Mapping[str, Any]]) -> str:
    """Scorers that the best one's interval does not exclude, and the cheapest of all these."""
    best, *others = good
    floor = best["auprc"]["low"]
    near = [w["scorer"] for w in others if floor is not None and (w["auprc"]["estimate"] or 0) >= floor]
    if not near:
        return ""
    costs = {n: results["scorers"][n]["seconds_per_1000_rows"] for n in [best["scorer"], *near]}
    known = {n: c for n, c in costs.items() if c is not None}
    cheap = min(known, key=lambda n: known[n]) if len(known) == len(costs) else None
    price = f" The cheapest of these is {cheap}, {known[cheap]:.2g} s per 1,000 rows." if cheap else ""
    return f" Within its interval: {', '.join(near)}.{price}"


def _of_retraining(results: Mapping[str, Any]) -> list[str]:
    retrained = results["retrain"]
    if retrained["problem"]:
        return [f"Students: {retrained['problem']}. Nothing can be said of what a scorer's removal is worth."]
    sentences = []
    for scorer, found in retrained["recovered"].items():
        against = found["below_random"]
        better = against["low"] is not None and against["low"] > 0
        versus = "lower than" if better else "not shown to be lower than"
        sentences.append(
            f"Students: removing what {scorer} finds gives {_value(found['share'])} of what removing exactly the planted "
            f"rows gives; the trait ends {versus} after removing as many at random "
            f"(difference {_value(against)})."
        )
    return sentences


def caveats(spec: Calibrate, results: Mapping[str, Any]) -> list[str]:
    """What a reader has to keep in mind, as far as it can be told from the spec and the figures."""
    sentences = [
        f"Planted rows are {spec.trait_teacher}'s, the others {spec.clean_teacher}'s: a scorer may tell the teachers apart "
        "by more than the trait.",
        "Overt and mild are as the trait's grader sees them; a trait that it misses counts as mild.",
    ]
    shared = _shared_files(spec)
    if shared:
        sentences.append(
            f"{', '.join(shared)} learned from rows that a teacher was tuned on or answered with: upper bounds for data "
            "whose origin is unknown."
        )
    if results["retrain"] and results["retrain"]["seeds"] == 1:
        sentences.append("Students have one training seed: their intervals leave out the luck of a training run.")
    untimed = [n for n, s in results["scorers"].items() if s["rows_timed"] == 0]
    if untimed:
        sentences.append(f"Scored in an earlier run, so without a cost here: {', '.join(untimed)}.")
    lucky = {
        w["scorer"]
        for w in results["table"]
        if results["scorers"][w["scorer"]]["kind"] == "random" and (w["better_than_chance"] or w["reversed"])
    }
    if lucky:
        sentences.append(
            f"{', '.join(sorted(lucky))} is random and yet differs from chance: read the others with care."
        )
    return sentences


def _shared_files(spec: Calibrate) -> list[str]:
    """Scorers whose settings name a file that a teacher's do as well."""
    known = [spec.teachers[name] for name in (spec.trait_teacher, spec.clean_teacher)]
    files = {t.answers for t in known if isinstance(t, TunedTeacher)}
    files |= {path for t in known if isinstance(t, RolloutFile) for path in t.paths}
    return [name for name, scorer in spec.scorers.items() if _names(scorer.model_dump(mode="json"), files)]


def _names(value: Any, files: set[str]) -> bool:
    if isinstance(value, dict):
        return any(_names(v, files) for v in value.values())
    if isinstance(value, list):
        return any(_names(v, files) for v in value)
    return isinstance(value, str) and Path(value).is_absolute() and value in files


def _value(value: Mapping[str, Any]) -> str:
    if value["estimate"] is None:
        return "an unknown share"
    interval = "" if value["low"] is None else f" [{value['low']:.2f} to {value['high']:.2f}]"
    return f"{value['estimate']:.2f}{interval}"
