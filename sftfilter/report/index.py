"""The page that lists the runs below a results folder, each with its verdict and a link to its report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

PAGES = ("report", "inspect")
"""Folders of a run in which its page may lie, as `index.html`."""

RESULTS = ("results.json", "worlds.json")
"""Files of a run that may say what it found."""


@dataclass(frozen=True)
class ListedRun:
    """A run that has a page.

    Attributes:
        page: the page's file.
        created: when its results were written, as they say; empty where they do not.
    """

    name: str
    page: Path
    kind: str = ""
    created: str = ""
    verdict: str = ""
    spec_hash: str = ""


def listed_runs(root: Path) -> list[ListedRun]:
    """Runs below a results folder that have a page, the newest first."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    runs = [_listed(folder, page) for folder in folders if (page := page_of(folder))]
    return sorted(runs, key=lambda run: run.created, reverse=True)


def page_of(folder: Path) -> Path | None:
    """A run's page, if it has one."""
    return next((page for name in PAGES if (page := folder / name / "index.html").is_file()), None)


def index_page(runs: list[ListedRun]) -> str:
    """The page; links are relative, `NAME/`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    css = (here / "page.css.j2").read_text(encoding="utf-8")
    return environment.get_template("index.html.j2").render(runs=runs, css=css)


def _listed(folder: Path, page: Path) -> ListedRun:
    results = next((file for name in RESULTS if (file := folder / name).is_file()), folder / RESULTS[0])
    try:
        found = _headline(results, results.stat().st_mtime_ns)
    except (OSError, ValueError):  # a page without results, or results that are being written
        found = {}
    return ListedRun(folder.name, page, **found)


@lru_cache(maxsize=1024)
def _headline(results: Path, written_ns: int) -> dict[str, str]:
    """Of a run's results as they were written then."""
    del written_ns
    whole: dict[str, Any] = json.loads(results.read_text())
    verdict = whole.get("verdict")
    said = verdict.get("label", "") if isinstance(verdict, dict) else ""
    return {key: str(whole.get(key, "")) for key in ("kind", "created", "spec_hash")} | {"verdict": str(said)}
