"""What stands around a Ray cluster in Kubernetes: network policy, disruption budget, the spec's files; storage apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cluster.workload import Workload

KEYS_SECRET = "sftfilter-keys"  # noqa: S105
CLAIM = "sftfilter-shared"
METRICS_PORT = 8080
"""Of every Ray node; KubeRay's own default."""


def labels(work: Workload) -> dict[str, str]:
    """On everything that belongs to one workload."""
    return {"app.kubernetes.io/part-of": "sftfilter", "app.kubernetes.io/instance": work.name}


def around(work: Workload, serving: bool = False) -> list[dict[str, Any]]:
    """Who may talk to whom, then what evictions may not do."""
    return [_policy(work, serving), *_budgets(work, serving)]


def spec_map(work: Workload) -> dict[str, Any]:
    """The spec and the small files that it names. Keys hold no slashes; `files` says where each is mounted."""
    data = {file_key(path): text for path, text in work.files.items()}
    return _object(work, "v1", "ConfigMap", f"{work.name}-spec", data=data)


def file_key(path: str) -> str:
    """A file's key in the ConfigMap."""
    return path.replace("/", "__")


def _object(work: Workload, version: str, kind: str, name: str, **rest: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels(work)}} | rest


def claim(work: Workload) -> dict[str, Any]:
    """One claim for all runs: artifacts are shared between them. Its class has to offer ReadWriteMany (NFS, EFS, Filestore).

    It is in no workload's manifest: `kubectl delete -f` would delete everybody's results with it.
    """
    wanted = {"requests": {"storage": f"{work.machines.storage_gib}Gi"}}
    spec = {"accessModes": ["ReadWriteMany"], "resources": wanted}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM, "labels": {"app.kubernetes.io/part-of": "sftfilter"}},
        "spec": spec,
    }


def _policy(work: Workload, serving: bool) -> dict[str, Any]:
    """The cluster's pods talk to each other; in come only the operator, clients that are let in by a label, and Prometheus."""
    own = {"podSelector": {"matchLabels": {"app.kubernetes.io/instance": work.name}}}
    operator = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
    }
    client = {"podSelector": {"matchLabels": {"sftfilter.io/client": "true"}}}
    prometheus = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}}
    ports = [8265, 8000] if serving else [8265]
    return _object(
        work,
        "networking.k8s.io/v1",
        "NetworkPolicy",
        f"{work.name}-policy",
        spec={
            "podSelector": own["podSelector"],
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [own]},
                {"from": [operator, client], "ports": _tcp(ports)},
                {"from": [prometheus], "ports": _tcp([METRICS_PORT])},
            ],
            "egress": [
                {"to": [own]},
                {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},
                # Buckets, model hubs, teachers and judges; the API server that the autoscaler asks; NFS; what was asked for.
                {"ports": _tcp(dict.fromkeys((443, 6443, 2049, *work.machines.egress_ports)))},
            ],
        },
    )


def _tcp(ports: Iterable[int]) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def _budgets(work: Workload, serving: bool) -> list[dict[str, Any]]:
    """The head holds the driver and Ray's state: a drained node waits for it. A service keeps a worker as well."""
    found = [_budget(work, "head", {"maxUnavailable": 0})]
    return [*found, _budget(work, "worker", {"minAvailable": 1})] if serving else found


def _budget(work: Workload, node: str, allowed: dict[str, int]) -> dict[str, Any]:
    chosen = {"matchLabels": {"app.kubernetes.io/instance": work.name, "ray.io/node-type": node}}
    return _object(work, "policy/v1", "PodDisruptionBudget", f"{work.name}-{node}", spec=allowed | {"selector": chosen})
