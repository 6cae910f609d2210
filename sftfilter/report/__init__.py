"""The HTML report: one self-contained page that opens from disk without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sftfilter.report import dots, embedded, gaps, plots, published, tables, words
from sftfilter.report import formats as f
from sftfilter.report.curves import trait_curves
from sftfilter.report.figures import Plot
from sftfilter.report.files import write_files
from sftfilter.report.sampled import Sample, held_table, heldout_labels, sample, training_labels
from sftfilter.report.shell import write_page

__all__ = ["write_report"]


def write_report(
    folder: Path, results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], heldout: Sequence[Mapping[str, Any]]
) -> Path:
    """Write `folder/index.html` and its tables as Parquet files beside it; answers the page's path.

    A page holds all rows, or a sample of them (see `sampled`); figures and tables are of all.

    Args:
        results: as in results.json; whatever is missing is named on the page.
        rows: training prompts with both teachers' answers, grades, scores and the decision in each arm.
        heldout: held-out prompts with each student's answer and grade.
    """
    found = f.clean(results or {})
    given: tuple[list[dict[str, Any]], list[dict[str, Any]]] = f.clean(list(rows or [])), f.clean(list(heldout or []))
    arms, scorers = f.items(found, "arms"), f.part(found, "scorers")
    sections = _sections(found, given[0])
    held = sample(given[0], training_labels({name: f.part(scorers, name).get("threshold") for name in scorers}))
    asked = sample(given[1], heldout_labels)
    view = _view(found, *given, sections) | {
        "held": _sizes(held),
        "held_table": held_table(held, given[0]),
        "asked": _sizes(asked),
        "files": write_files(Path(folder), arms, *given),
    }
    data = _data(arms, held.rows, asked.rows)
    return write_page(Path(folder) / "index.html", "page.html.j2", "page.js.j2", view, data, _plots(sections))


def _sizes(found: Sample) -> dict[str, str]:
    """What the page says of a sample; empty where it holds all rows."""
    return {} if found.whole else {"rows": f.count(len(found.rows)), "of": f.count(found.of), "least": str(found.least)}


def _sections(results: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    arms = f.items(results, "arms")
    return {
        "traits": _traits(arms),
        "forest": dots.forest(f.part(results, "estimands")),
        "rows_plot": plots.row_counts(arms),
        "losses": plots.losses(arms),
        "curves": [drawn for name in _trait_names(arms) if (drawn := trait_curves(arms, name))],
        "scorers": _scorers(results, rows),
    }


def _trait_names(arms: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for arm in arms for name in f.part(arm, "traits")))


def _view(
    results: dict[str, Any], rows: list[dict[str, Any]], heldout: list[dict[str, Any]], sections: dict[str, Any]
) -> dict[str, Any]:
    arms, verdict = f.items(results, "arms"), f.part(results, "verdict")
    return {
        **sections,
        **_tables(results, arms),
        "results": {key: results.get(key) for key in ("name", "created", "spec_hash", "command")},
        "created": f.moment(results.get("created")),
        "verdict": {key: verdict.get(key) for key in ("label", "summary", "reasons", "next")},
        "spec": _spec_text(results.get("spec")),
        "memory": f"{f.number(results.get('peak_rss_gib'), 1)} GiB" if results.get("peak_rss_gib") else f.MISSING,
        "headline": _headline(arms),
        "headline_of": _headline_of(arms),
        "notes": f.items(results, "notes"),
        "missing": gaps.missing(results, rows, heldout),
        "sizes": {"rows": len(rows), "heldout": len(heldout), "arms": len(arms)},
    }


def _tables(results: Mapping[str, Any], arms: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "published_table": published.published_table(f.items(results, "published"), published.of_arms(arms)),
        "estimands_table": tables.estimands(f.part(results, "estimands")),
        "gates_table": tables.gates(f.items(results, "gates")),
        "hypotheses_table": tables.hypotheses(f.items(f.part(results, "verdict"), "hypotheses")),
        "scorers_table": tables.scorers(f.part(results, "scorers")),
        "rows_table": tables.row_counts(arms) if arms else None,
        "training_table": tables.training(arms),
        "counts_table": tables.counts(f.part(results, "counts")),
        "timings_table": tables.timings(f.part(results, "timings_s")),
        "stages_table": tables.stages(f.items(results, "stages")),
        "versions_table": tables.versions(f.part(results, "versions")),
    }


def _traits(arms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "name": trait,
            "groups": tables.group_names(arms, trait),
            "plot": dots.arms(arms, trait, number),
            "table": tables.rates(arms, trait),
            "odds_plot": dots.log_odds(arms, trait, number),
            "odds_table": tables.log_odds(arms, trait),
        }
        for number, trait in enumerate(tables.trait_names(arms))
    ]


def _scorers(results: Mapping[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    described = f.part(results, "scorers")
    names = dict.fromkeys([*described, *(name for row in rows for name in f.part(row, "scores"))])
    found = []
    for number, name in enumerate(names):
        threshold = f.part(described, name).get("threshold")
        plot = plots.histogram(rows, name, threshold, f"scores-{number}")
        found.append(
            {"name": name, "plot": plot, "table": tables.scores_by_kind(rows, name, threshold) if plot else None}
        )
    return found


def _headline(arms: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The five rates that most verdicts rest on, for the first trait's primary group."""
    traits = tables.trait_names(arms)
    if not traits or not (groups := tables.group_names(arms, traits[0])):
        return []
    found = []
    for role in ("original", "drop", "swap", "random_swap", "alternate"):
        for arm in arms:
            rate = f.part(arm, "traits", traits[0], groups[0])
            if arm.get("role") == role and rate.get("estimate") is not None:
                label = words.role_words(role).removeprefix("control: ")
                found.append({"label": label, "rate": f.percent(rate["estimate"]), "interval": f.rate_interval(rate)})
                break
    return found


def _headline_of(arms: list[dict[str, Any]]) -> str:
    trait = next(iter(tables.trait_names(arms)), "")
    return f"{trait} on {next(iter(tables.group_names(arms, trait)), '')} prompts"


def _spec_text(spec: Any) -> str:
    import yaml

    return yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, width=100) if spec else ""


def _plots(sections: Mapping[str, Any]) -> list[Plot | None]:
    drawn = [sections["forest"], sections["rows_plot"], sections["losses"]]
    drawn += sections["curves"]
    drawn += [trait[key] for trait in sections["traits"] for key in ("plot", "odds_plot")]
    return drawn + [scorer["plot"] for scorer in sections["scorers"]]


def _data(
    arms: list[dict[str, Any]], rows: Sequence[Mapping[str, Any]], heldout: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "rows": embedded.training_rows(rows, heldout),
        "heldout": embedded.heldout_rows(heldout),
        "armNames": [arm.get("name") for arm in arms],
        "shownFirst": embedded.shown_first(arms, heldout),
        "armsCsv": embedded.arms_csv(arms),
    }
