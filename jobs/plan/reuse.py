"""What earlier runs of the very same spec have made, by their records: a run with these settings makes none of it again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from jobs.plan.items import Item
from jobs.plan.measured import read_events
from jobs.run_record import EVENTS

Made = Mapping[tuple[str, str], Collection[str]]
"""(artifact, what of) -> keys of those that are there."""

_ARTIFACT = {"rollouts": "rollouts", "scores": "scores", "student": "student"}


def made_before(root: Path, spec_hash: str) -> dict[tuple[str, str], set[str]]:
    """Artifacts of recorded runs with this hash that are there still."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for record in root.glob(f"*/{EVENTS}"):
        events = read_events(record.parent)
        same = {event["run"] for event in events if event["event"] == "run" and event.get("spec_hash") == spec_hash}
        for event in events:
            if event["run"] in same and event["event"] == "artifact":
                folder = root / "artifacts" / f"{event['artifact']}-{event['key']}"
                if folder.is_dir():
                    found[event["artifact"], event["of"]].add(event["key"])
    return found


def still_to_make(items: Sequence[Item], made: Made, traits: Collection[str]) -> list[Item]:
    """The items that a run would not find there: of answers, those to every trait.

    Points of a sweep may call different artifacts alike; of those as many are there as there are keys.
    """
    left: list[Item] = []
    taken: Counter[tuple[str, str]] = Counter()
    for item in items:
        names = [(_ARTIFACT[item.kind], item.told_as)] if item.kind != "answers" else _answers(item, traits)
        if names and all(len(made.get(name, ())) > taken[name] for name in names):
            taken.update(names)
        else:
            left.append(item)
    return left


def _answers(item: Item, traits: Collection[str]) -> list[tuple[str, str]]:
    return [("answers", f"{item.of} on {trait}") for trait in traits]
