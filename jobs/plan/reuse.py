"""What earlier runs of the very same spec have made, by their records: a run with these settings makes none of it again."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from jobs.plan.items import Item
from jobs.plan.measured import read_events
from jobs.run_record import EVENTS

Made = Collection[tuple[str, str]]
"""(artifact, what of) pairs."""

_ARTIFACT = {"rollouts": "rollouts", "scores": "scores", "student": "student"}


def made_before(root: Path, spec_hash: str) -> set[tuple[str, str]]:
    """Artifacts of recorded runs with this hash that are there still."""
    found: set[tuple[str, str]] = set()
    for record in root.glob(f"*/{EVENTS}"):
        events = read_events(record.parent)
        same = {event["run"] for event in events if event["event"] == "run" and event.get("spec_hash") == spec_hash}
        for event in events:
            if event["run"] in same and event["event"] == "artifact":
                folder = root / "artifacts" / f"{event['artifact']}-{event['key']}"
                if folder.is_dir():
                    found.add((event["artifact"], event["of"]))
    return found


def is_made(item: Item, made: Made, traits: Collection[str]) -> bool:
    """Whether a run would find an item there: of answers, those to every trait."""
    if item.kind == "answers":
        return bool(traits) and all(("answers", f"{item.of} on {trait}") in made for trait in traits)
    return (_ARTIFACT[item.kind], item.told_as) in made
