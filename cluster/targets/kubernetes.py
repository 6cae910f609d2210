"""What stands around a Ray cluster in Kubernetes: storage, network policy, disruption budget, the spec's files."""

from __future__ import annotations

from typing import Any

from cluster.workload import Workload

KEYS_SECRET = "sftfilter-keys"  # noqa: S105
CLAIM = "sftfilter-shared"


def labels(work: Workload) -> dict[str, str]:
    """On everything that belongs to one workload."""
    return {"app.kubernetes.io/part-of": "sftfilter", "app.kubernetes.io/instance": work.name}


def around(work: Workload, serving: bool = False) -> list[dict[str, Any]]:
    """Storage, then who may talk to whom, then what evictions may not do."""
    return [_claim(work), _policy(work, serving), *_budgets(work, serving)]


def spec_map(work: Workload) -> dict[str, Any]:
    """The spec and the small files that it names. Keys hold no slashes; `files` says where each is mounted."""
    data = {file_key(path): text for path, text in work.files.items()}
    return _object(work, "v1", "ConfigMap", f"{work.name}-spec", data=data)


def file_key(path: str) -> str:
    """A file's key in the ConfigMap."""
    return path.replace("/", "__")


def _object(work: Workload, version: str, kind: str, name: str, **rest: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels(work)}} | rest


def _claim(work: Workload) -> dict[str, Any]:
    """One claim for all runs: artifacts are shared between them. Its class has to offer ReadWriteMany (NFS, EFS, Filestore)."""
    wanted = {"requests": {"storage": f"{work.machines.storage_gib}Gi"}}
    claim = {"accessModes": ["ReadWriteMany"], "resources": wanted}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM, "labels": {"app.kubernetes.io/part-of": "sftfilter"}},
        "spec": claim,
    }


def _policy(work: Workload, serving: bool) -> dict[str, Any]:
    """The cluster's pods talk to each other; in come only the operator and clients that are let in by a label."""
    own = {"podSelector": {"matchLabels": {"app.kubernetes.io/instance": work.name}}}
    operator = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
    }
    client = {"podSelector": {"matchLabels": {"sftfilter.io/client": "true"}}}
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
                {"from": [operator, client], "ports": [{"protocol": "TCP", "port": port} for port in ports]},
            ],
            "egress": [
                {"to": [own]},
                {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},
                # Buckets, model hubs, teachers and judges; the API server that the autoscaler asks; NFS.
                {"ports": [{"protocol": "TCP", "port": port} for port in (443, 6443, 2049)]},
            ],
        },
    )


def _budgets(work: Workload, serving: bool) -> list[dict[str, Any]]:
    """The head holds the driver and Ray's state: a drained node waits for it. A service keeps a worker as well."""
    found = [_budget(work, "head", {"maxUnavailable": 0})]
    return [*found, _budget(work, "worker", {"minAvailable": 1})] if serving else found


def _budget(work: Workload, node: str, allowed: dict[str, int]) -> dict[str, Any]:
    chosen = {"matchLabels": {"app.kubernetes.io/instance": work.name, "ray.io/node-type": node}}
    return _object(work, "policy/v1", "PodDisruptionBudget", f"{work.name}-{node}", spec=allowed | {"selector": chosen})
