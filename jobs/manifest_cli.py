"""`sftfilter manifest`: what a launcher takes to run a spec."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from jobs.launch_cli import Overrides, SpecPath
from jobs.run import readable_errors
from sftfilter.config import did_you_mean
from sftfilter.errors import SpecError

_DEFAULT_SHARED = "/shared"


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(manifest)


def manifest(
    spec: SpecPath,
    target: Annotated[
        str,
        typer.Option(
            help="kuberay-storage (once), kuberay-job, kuberay-cluster, kuberay-service, aws, gcp, skypilot or slurm"
        ),
    ],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="file to write; default: printed")] = None,
    image: Annotated[str, typer.Option(help="container image, built from cluster/Dockerfile")] = "sftfilter:latest",
    shared: Annotated[str, typer.Option(help="folder that all nodes mount")] = _DEFAULT_SHARED,
    nfs: Annotated[str, typer.Option(help="what aws, gcp and skypilot mount there, HOST:/EXPORT")] = "NFS_HOST:/EXPORT",
    cpus: Annotated[int, typer.Option(help="CPUs of a worker node")] = 8,
    memory_gib: Annotated[int, typer.Option(help="memory of a worker node")] = 32,
    gpus: Annotated[int, typer.Option(help="GPUs of a GPU node")] = 1,
    gpu_type: Annotated[str, typer.Option(help="such as L40S, A100, A100-80GB, H100")] = "A100",
    max_nodes: Annotated[
        int,
        typer.Option(
            min=1, help="worker nodes for students that can be trained side by side (sweep, lattice, carriers)"
        ),
    ] = 4,
    egress_port: Annotated[
        list[int] | None,
        typer.Option(help="TCP port that pods may connect to besides 443, 6443 and 2049: a judge's, say (repeatable)"),
    ] = None,
) -> None:
    """Write what a launcher takes to run a spec: a manifest for Kubernetes, cluster YAML for clouds, a batch script.

    How many nodes there are at the most follows from the spec; small files that it names travel with it (Kubernetes).
    """
    with readable_errors():
        from cluster.targets import TARGETS
        from cluster.workload import Machines
        from jobs.compile import compile_spec

        if target not in TARGETS:
            raise SpecError(f"--target: no '{target}'{did_you_mean(target, TARGETS)}; there are: {', '.join(TARGETS)}")
        machines = Machines(cpus, memory_gib, gpus, gpu_type, image, shared.rstrip("/"), nfs=nfs)
        machines = replace(machines, max_nodes=max_nodes, egress_ports=tuple(egress_port or ()))
        text = TARGETS[target](compile_spec(spec, overrides or [], machines))
        if output:
            output.write_text(text)
            print(f"wrote {output}")
        else:
            print(text, end="")
