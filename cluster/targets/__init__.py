"""Launchers: each turns a workload into the text that its own tool takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cluster.targets import kuberay, launcher, skypilot, slurm
from cluster.workload import Workload

TARGETS: Mapping[str, Callable[[Workload], str]] = {
    "kuberay-storage": kuberay.storage,
    "kuberay-job": kuberay.ray_job,
    "kuberay-cluster": kuberay.ray_cluster,
    "kuberay-service": kuberay.ray_service,
    "aws": launcher.aws,
    "gcp": launcher.gcp,
    "skypilot": skypilot.task,
    "slurm": slurm.script,
}
"""Name -> renderer."""
