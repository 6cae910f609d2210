"""Pages that are written from schemas are up to date, and what other pages show can be used as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from jobs import docs
from jobs.kinds import KINDS
from jobs.spec import load_spec
from tests.conftest import REPOSITORY


def test_every_kind_has_its_page_and_it_is_up_to_date() -> None:
    made = docs.pages()
    assert {f"{kind}.md" for kind in KINDS} <= made.keys()
    written = {path.name: path.read_text() for path in docs.FOLDER.glob("*.md")}
    assert written == made, "python -m jobs.docs writes them again"
    assert "| `seeds` | list of whole number | `[0]` |" in made["experiment.md"]


def test_every_kind_has_a_commented_example() -> None:
    examples = {path: load_spec(path) for path in sorted((REPOSITORY / "jobs" / "specs").glob("*.yaml"))}
    assert {spec.model_dump()["kind"] for spec in examples.values()} == set(KINDS)
    assert all(path.read_text().lstrip().startswith("#") for path in examples)


@pytest.mark.parametrize("page", ["SECURITY.md", "cluster/README.md", "jobs/MIGRATION.md", "jobs/docs/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    path = REPOSITORY / page
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), f"{page}: {target}"


def test_the_recipe_of_the_migration_notes_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "jobs" / "MIGRATION.md").read_text(), re.DOTALL)
    spec = {"kind": "decide", "name": "x", "rollouts": {"T": {"kind": "rollouts", "path": "t.jsonl"}}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec | yaml.safe_load(block)))
    assert "2 scorers, 1 decisions" in load_spec(tmp_path / "spec.yaml").summary()
