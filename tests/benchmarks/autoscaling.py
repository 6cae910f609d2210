"""`python -m tests.benchmarks.autoscaling`: a sweep on a cluster that grows for it, beside the same on one that stands.

Writes runs/bench/autoscaling.json (state of the cluster over time, and what follows from it) and draws
cluster/autoscaling.png. `tests/cluster/test_autoscaling.py` asserts of the same runs what is drawn here.
"""

from __future__ import annotations

import datetime
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.autoscaling import HEAD_ID
from tests.benchmarks.__main__ import RESULTS, machine
from tests.benchmarks.timeline import Lane, Span, Timeline, draw
from tests.cluster.grown_sweep import IDLE_S, LIMIT, Grown, Sample, Swept, sweep_that_grows, sweep_that_stands
from tests.conftest import REPOSITORY

PICTURE = REPOSITORY / "cluster" / "autoscaling.png"


def spans(samples: Sequence[Sample], label: str, holds: Callable[[Sample], bool]) -> list[Span]:
    """When something held, from the first sample that shows it to the first that does not."""
    found: list[Span] = []
    since: float | None = None
    for sample in samples:
        if holds(sample) and since is None:
            since = sample["at"]
        elif since is not None and not holds(sample):
            found.append(Span(label, since, sample["at"]))
            since = None
    return found if since is None else [*found, Span(label, since, samples[-1]["at"])]


def lanes(samples: Sequence[Sample]) -> list[Lane]:
    """A lane for each node that came, in the order of coming; trainings are numbered as they began."""
    nodes = list(dict.fromkeys(node for sample in samples for node in sample["nodes"] if node != HEAD_ID))
    trainings = list(dict.fromkeys(actor for sample in samples for actor in sample["trainings"]))
    made = []
    for number, node in enumerate(nodes, 1):
        there = spans(samples, "", lambda s, n=node: n in s["nodes"])
        idle = spans(samples, "", lambda s, n=node: s["nodes"].get(n, False))
        ran = [
            span
            for count, actor in enumerate(trainings, 1)
            for span in spans(samples, str(count), lambda s, a=actor, n=node: s["trainings"].get(a) == n)
        ]
        made.append(Lane(f"node {number}", there, idle, ran))
    return made


def stages(swept: Swept, began: float) -> list[Span]:
    """The run's stages, out of its record."""
    opened: dict[str, float] = {}
    found = []
    for event in swept.events:
        at = datetime.datetime.fromisoformat(event["time"]).timestamp() - began
        if event["event"] == "stage":
            opened[event["stage"]] = at
        elif event["event"] == "stage_done":
            found.append(Span(event["stage"], opened[event["stage"]], at))
    return found


def picture(grown: Grown, title: str, subtitle: str) -> Timeline:
    """The run from half a second before it was submitted to the head alone."""
    began = grown.swept.began - 0.5
    samples = [sample | {"at": sample["at"] - began} for sample in grown.samples if sample["at"] >= began]
    counts = [(s["at"], len(set(s["nodes"]) - {HEAD_ID}), len(s["trainings"])) for s in samples]
    return Timeline(
        title, subtitle, stages(grown.swept, began), lanes(samples), counts, LIMIT, max(s["at"] for s in samples)
    )


def summary(grown: Grown, stood: Swept) -> dict[str, Any]:
    """What the README says. Node-seconds are those of nodes that were there, of the standing cluster until the end."""
    shown = picture(grown, "", "")
    took = {"grows": grown.swept.ended - grown.swept.began, "stands": stood.ended - stood.began}
    node_s = sum(span.end - span.begin for lane in shown.lanes for span in lane.there)
    idle_s = sum(span.end - span.begin for lane in shown.lanes for span in lane.idle)
    return {
        "limit": LIMIT,
        "idle_timeout_s": IDLE_S,
        "students": len(grown.swept.hashes),
        "equal_to_standing": grown.swept.hashes == stood.hashes,
        "nodes_that_came": len(shown.lanes),
        "most_nodes": max(nodes for _, nodes, _ in shown.counts),
        "most_trainings": max(trainings for _, _, trainings in shown.counts),
        "wall_s": {name: round(seconds, 1) for name, seconds in took.items()},
        "head_alone_after_s": round(shown.seconds - took["grows"], 1),
        "node_s": {"grows": round(node_s, 1), "idle": round(idle_s, 1), "stands": round(LIMIT * took["stands"], 1)},
        "gone": sorted(grown.gone.values()),
    }


def write(grown: Grown, stood: Swept, before: Mapping[str, Any]) -> None:
    """The file, the picture, and the summary on standard output.

    Args:
        before: the machine, before anything was measured.
    """
    told = summary(grown, stood)
    rows = [
        {
            "at_s": round(sample["at"] - grown.swept.began, 2),
            "nodes": len(sample["nodes"]) - 1,
            "idle": sum(idle for node, idle in sample["nodes"].items() if node != HEAD_ID),
            "asked": sample["asked"],
            "trainings": len(sample["trainings"]),
        }
        for sample in grown.samples
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    written = RESULTS / "autoscaling.json"
    written.write_text(json.dumps({"summary": told, "measured": before, "samples": rows}, indent=1) + "\n")
    draw(picture(grown, *_words(told)), PICTURE)
    json.dump(told, sys.stdout, indent=1)
    print(f"\nwritten: {written}, {PICTURE}")


def main() -> None:
    """Measure, write, draw."""
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        grown = sweep_that_grows(Path(folder) / "grows")
        stood = sweep_that_stands(Path(folder) / "stands")
    write(grown, stood, before)


def _words(told: dict[str, Any]) -> tuple[str, str]:
    title = f"A sweep of {told['students']} students on a head without work and up to {told['limit']} nodes"
    idle = f"nodes go after {told['idle_timeout_s']:.0f} s without work"
    return title, f"Ray's autoscaler v2, nodes of one CPU on one machine of 2 cores; {idle}"


if __name__ == "__main__":
    main()
