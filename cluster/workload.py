"""What a launcher has to be told to run one spec: its files, command, machines, secrets and storage. No launcher's words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from sftfilter.errors import SpecError

SPEC_FOLDER = "/etc/sftfilter"
SECRETS_FOLDER = "/var/run/secrets/sftfilter"
_MOST_BYTES = 900_000
"""A ConfigMap holds 1 MiB, names and all."""


@dataclass(frozen=True)
class Machines:
    """What the cluster's nodes are like; the spec says how many are needed.

    Attributes:
        cpus, memory_gib: of a worker node.
        gpus: of a GPU node.
        gpu_type: as clouds name it (SkyPilot, Slurm).
        image: container image, built from cluster/Dockerfile.
        shared: folder that all nodes mount; results and checkpoints lie below it.
        nfs: what is mounted there, `HOST:/EXPORT` (cloud machines; Kubernetes has its claim, Slurm its own file system).
        max_nodes: worker nodes for students that can be trained side by side. A stage that needs more gets more.
        egress_ports: TCP ports to which pods may connect besides those that every run needs.
    """

    cpus: int = 8
    memory_gib: int = 32
    gpus: int = 1
    gpu_type: str = "A100"
    image: str = "sftfilter:latest"
    shared: str = "/shared"
    storage_gib: int = 500
    nfs: str = "NFS_HOST:/EXPORT"
    max_nodes: int = 4
    egress_ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Workload:
    """One spec and what it needs.

    Attributes:
        files: path below SPEC_FOLDER -> text; `spec.yaml` among them.
        cpus, gpus: the most that any stage needs at a time.
        results: folder on the nodes, below which the run has one of its own name.
        most_cpus, most_gpus: with which all students that may be trained side by side would be; 0 where there are none.
        keys: environment variables that hold secrets.
        expected: paths that the spec names and that have to lie on the nodes.
    """

    name: str
    kind: str
    files: Mapping[str, str]
    cpus: float
    gpus: float
    results: str
    most_cpus: float = 0
    most_gpus: float = 0
    machines: Machines = field(default_factory=Machines)
    keys: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()

    @property
    def gpu_nodes(self) -> int:
        """GPU nodes at the most."""
        return self._nodes(self.gpus, self.most_gpus, self.machines.gpus) if self.gpus else 0

    @property
    def cpu_nodes(self) -> int:
        """Nodes without GPUs at the most; a GPU node's CPUs are enough where there is one."""
        return 0 if self.gpus else max(1, self._nodes(self.cpus, self.most_cpus, self.machines.cpus))

    def _nodes(self, needed: float, most: float, each: int) -> int:
        """Nodes with so much each: what is needed in any case, what could be used up to a limit."""
        return max(math.ceil(needed / each), min(self.machines.max_nodes, math.ceil(most / each)))

    @property
    def groups(self) -> dict[str, tuple[int, dict[str, float]]]:
        """Kinds of worker nodes: name -> (nodes at the most, resources of each)."""
        found: dict[str, tuple[int, dict[str, float]]] = {}
        if self.cpu_nodes:
            found["cpu"] = self.cpu_nodes, {"CPU": self.machines.cpus}
        if self.gpu_nodes:
            found["gpu"] = self.gpu_nodes, {"CPU": self.machines.cpus, "GPU": self.machines.gpus}
        return found

    @property
    def entrypoint(self) -> str:
        """Runs the spec where its files are mounted."""
        return f"python -m jobs.run {SPEC_FOLDER}/spec.yaml"

    def check_size(self) -> None:
        """Raise SpecError when the files are too large to travel inside a manifest."""
        sizes = {name: len(text.encode()) for name, text in self.files.items()}
        if sum(sizes.values()) > _MOST_BYTES:
            largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
            raise SpecError(
                f"{sum(sizes.values()) / 1e6:.1f} MB of files to put into the manifest, and a ConfigMap holds 0.9: put data "
                f"on storage that the nodes share ({self.machines.shared}, s3://, gs://) and name it there. The largest: "
                + ", ".join(f"{name} ({size / 1e6:.2f} MB)" for name, size in largest)
            )
