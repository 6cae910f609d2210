"""Pod templates of a Ray cluster: never root, no privileges, requests that equal limits, probes that ask Ray itself."""

from __future__ import annotations

from typing import Any

from cluster.autoscaling import LIMITS, limits
from cluster.targets.kubernetes import CLAIM, KEYS_SECRET, METRICS_PORT, file_key, labels
from cluster.workload import SECRETS_FOLDER, SPEC_FOLDER, Workload

_ASK = "import sys, urllib.request as r; sys.exit(b'success' not in r.urlopen('http://localhost:{}', timeout=4).read())"


def head_template(work: Workload, mounts_spec: bool) -> dict[str, Any]:
    """The head: Ray's state, the driver, the dashboard. It runs no tasks, and needs memory for the driver's tables."""
    container = _container(work, "ray-head", {"cpu": "4", "memory": "16Gi"}, mounts_spec)
    container["ports"] = [
        {"name": name, "containerPort": port}
        for name, port in (("gcs-server", 6379), ("dashboard", 8265), ("client", 10001), ("metrics", METRICS_PORT))
    ]
    container |= _probes("8265/api/gcs_healthz")
    container["env"].append({"name": LIMITS, "value": limits(work.groups)})
    return _pod(work, container, mounts_spec)


def worker_template(work: Workload, gpus: int, mounts_spec: bool, readiness: bool) -> dict[str, Any]:
    """A worker; scorers read the spec's files there. For a service KubeRay adds a readiness probe of its own, which asks Serve's proxy."""
    machines = work.machines
    sizes = {"cpu": str(machines.cpus), "memory": f"{machines.memory_gib}Gi"}
    if gpus:
        sizes["nvidia.com/gpu"] = str(gpus)
    container = _container(work, "ray-worker", sizes, mounts_spec) | _probes(
        "52365/api/local_raylet_healthz", readiness
    )
    pod = _pod(work, container, mounts_spec)
    pod["spec"]["automountServiceAccountToken"] = False
    pod["spec"]["terminationGracePeriodSeconds"] = 60
    if gpus:
        pod["spec"]["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return pod


def pod_security() -> dict[str, Any]:
    """Nobody is root; mounted secrets and storage belong to the pod's group."""
    return {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "fsGroup": 1000,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """No way to become more than the pod's user."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _pod(work: Workload, container: dict[str, Any], mounts_spec: bool) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [
        {"name": "shared", "persistentVolumeClaim": {"claimName": CLAIM}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},  # Ray's object store; part of the limit
        {"name": "keys", "secret": {"secretName": KEYS_SECRET, "defaultMode": 0o440, "optional": not work.keys}},
    ]
    if mounts_spec:
        items = [{"key": file_key(path), "path": path} for path in work.files]
        volumes.append({"name": "spec", "configMap": {"name": f"{work.name}-spec", "items": items}})
    spec = {"securityContext": pod_security(), "containers": [container], "volumes": volumes}
    return {"metadata": {"labels": labels(work)}, "spec": spec}


def _container(work: Workload, name: str, sizes: dict[str, str], mounts_spec: bool) -> dict[str, Any]:
    mounts = [
        {"name": "shared", "mountPath": work.machines.shared},
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        {"name": "keys", "mountPath": SECRETS_FOLDER, "readOnly": True},
    ]
    if mounts_spec:
        mounts.append({"name": "spec", "mountPath": SPEC_FOLDER, "readOnly": True})
    return {
        "name": name,
        "image": work.machines.image,
        "env": [{"name": "HF_HOME", "value": f"{work.machines.shared}/huggingface"}, *(_key(key) for key in work.keys)],
        "resources": {"requests": dict(sizes), "limits": dict(sizes)},
        "securityContext": container_security(),
        "volumeMounts": mounts,
    }


def _key(variable: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": KEYS_SECRET, "key": variable}}}


def _probes(path: str, readiness: bool = True) -> dict[str, Any]:
    ask = {"exec": {"command": ["python", "-c", _ASK.format(path)]}}
    alive = ask | {"periodSeconds": 10, "timeoutSeconds": 6, "failureThreshold": 12}
    start = ask | {"periodSeconds": 5, "timeoutSeconds": 6, "failureThreshold": 60}
    ready = {"readinessProbe": ask | {"periodSeconds": 10, "timeoutSeconds": 6, "failureThreshold": 6}}
    return {"startupProbe": start, "livenessProbe": alive} | (ready if readiness else {})
