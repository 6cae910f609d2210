"""Clusters of prompts that a job's selectors choose from: made once, and told so that one can be chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jobs.console import Stages
from sftfilter.artifacts import Artifact, Store
from sftfilter.prompt_clusters import cluster_prompts, read_clusters
from sftfilter.score_frame import ScoreFrame
from sftfilter.selectors import Selector
from sftfilter.selectors.by_cluster import Cluster


def with_clusters(
    frame: ScoreFrame,
    selectors: Mapping[str, Selector],
    sources: Sequence[tuple[Artifact, str]],
    store: Store,
    stages: Stages,
) -> ScoreFrame:
    """The frame with every clustering that its selectors need.

    Args:
        sources: artifacts, and the table in each that has prompt_id and messages.
    """
    found = {}
    for name, selector in selectors.items():
        if isinstance(selector, Cluster) and selector.key not in found:
            made = stages.note(cluster_prompts(sources, selector.clustering, store), f"selector {name}")
            found[selector.key] = read_clusters(made)
            if not made.reused:  # points of a sweep share them; the listing lies in the artifact
                for line in found[selector.key].lines():
                    stages.say(line)
    return replace(frame, clusters=found) if found else frame
