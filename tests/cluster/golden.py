"""The manifests under cluster/examples, compiled from the spec there. `python -m tests.cluster.golden` writes them."""

from __future__ import annotations

from pathlib import Path

from cluster.targets import TARGETS
from cluster.workload import Machines, Workload
from jobs.compile import compile_spec
from tests.conftest import REPOSITORY

EXAMPLES = REPOSITORY / "cluster" / "examples"


def example() -> Workload:
    """The example spec, on nodes of eight GPUs."""
    machines = Machines(cpus=64, memory_gib=512, gpus=8, gpu_type="H100", image="registry.example.org/sftfilter:0.1.0")
    return compile_spec(EXAMPLES / "spec.yaml", [], machines)


def golden(target: str) -> Path:
    """Where a target's manifest is kept."""
    return EXAMPLES / (f"{target}.sh" if target == "slurm" else f"{target}.yaml")


def main() -> None:
    """Write every one."""
    for target, render in TARGETS.items():
        golden(target).write_text(render(example()))


if __name__ == "__main__":
    main()
