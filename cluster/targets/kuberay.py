"""KubeRay 1.7 or newer: a RayJob that ends with its cluster, a RayCluster to submit to, a RayService that serves students."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml

from cluster.targets.kubernetes import CLAIM, around, claim, labels, spec_map
from cluster.targets.pods import head_template, worker_template
from cluster.workload import Workload
from cluster.yaml_text import documents

RAY_VERSION = "2.60.0"
_SEVEN_DAYS_S = 604_800
_HOUR_S = 3_600


def storage(work: Workload) -> str:
    """The volume of all workloads, applied once."""
    head = [
        "Storage of all runs, written by `sftfilter manifest`: apply it once. Deleting it deletes their results;",
        "`kubectl delete -f` of a job, cluster or service leaves it alone. Its class has to offer ReadWriteMany.",
    ]
    return documents(head, claim(work))


def ray_job(work: Workload) -> str:
    """A cluster that is there for one spec, and gone ten minutes after its end."""
    work.check_size()
    env = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60", "HF_HOME": f"{work.machines.shared}/huggingface"}}
    job = _resource(
        work,
        "RayJob",
        {
            "entrypoint": work.entrypoint,
            "runtimeEnvYAML": yaml.safe_dump(env),
            "submissionMode": "K8sJobMode",
            "submitterConfig": {"backoffLimit": 3},
            "submitterPodTemplate": _submitter(work),
            "backoffLimit": 2,  # a new cluster goes on with the last finished stage
            "preRunningDeadlineSeconds": _HOUR_S,
            "activeDeadlineSeconds": _SEVEN_DAYS_S,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "rayClusterSpec": _cluster(work),
        },
    )
    head = ["kubectl apply -f THIS_FILE; kubectl get rayjob -w; kubectl logs -f -l job-name=" + work.name]
    return documents(_header(work, "RayJob", head), *around(work), spec_map(work), job)


def ray_cluster(work: Workload) -> str:
    """A cluster that stays, for `sftfilter submit` through a port-forward."""
    head = [
        f"kubectl apply -f THIS_FILE; kubectl port-forward svc/{work.name}-head-svc 8265",
        f"export RAY_AUTH_TOKEN=$(kubectl get secret {work.name} -o jsonpath='{{.data.auth_token}}' | base64 -d)",
        "sftfilter submit SPEC --address http://localhost:8265",
    ]
    return documents(
        _header(work, "RayCluster", head),
        *around(work),
        _resource(work, "RayCluster", _cluster(work, mounts_spec=False)),
    )


def ray_service(work: Workload) -> str:
    """The students of a run that has ended, served over HTTP to who has SFTFILTER_API_KEY."""
    work = replace(work, keys=("SFTFILTER_API_KEY",))
    head = [
        "kubectl apply -f THIS_FILE; the endpoint is svc/" + f"{work.name}-serve-svc, port 8000, path /{work.name}/v1"
    ]
    body = {
        "serveConfigV2": yaml.safe_dump(serve_config(work), sort_keys=False),
        "rayClusterConfig": _cluster(work, mounts_spec=False, serving=True),
    }
    return documents(
        _header(work, "RayService", head), *around(work, serving=True), _resource(work, "RayService", body)
    )


def serve_config(work: Workload) -> dict[str, Any]:
    """Ray Serve's own configuration of the application that serves a run's students."""
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": 8000, "request_timeout_s": 630},  # noqa: S104 (behind the policy)
        "applications": [
            {
                "name": work.name,
                "route_prefix": f"/{work.name}",
                "import_path": "jobs.service:build",
                "args": {
                    "run": f"{work.results}/{work.name}",
                    "name": work.name,
                    "use_gpu": work.gpus > 0,
                },
            }
        ],
    }


def _resource(work: Workload, kind: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {"name": work.name, "labels": labels(work)}
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": metadata, "spec": dict(spec)}


def _cluster(work: Workload, *, mounts_spec: bool = True, serving: bool = False) -> dict[str, Any]:
    groups = []
    for name, (most, each) in work.groups.items():
        template = worker_template(work, int(each.get("GPU", 0)), mounts_spec, readiness=not serving)
        groups.append(_group(name, 0 if "GPU" in each else 1, most, template))
    return {
        "rayVersion": RAY_VERSION,  # the image's own
        "authOptions": {"mode": "token"},  # the operator makes the token, and a secret named like the cluster
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": 120,
            "resources": {
                "requests": {"cpu": "500m", "memory": "1Gi"},
                "limits": {"cpu": "500m", "memory": "1Gi"},
            },
        },
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104 (behind token and policy)
            "template": head_template(work, mounts_spec),
        },
        "workerGroupSpecs": groups,
    }


def _group(name: str, least: int, most: int, template: dict[str, Any]) -> dict[str, Any]:
    sizes = {"replicas": least, "minReplicas": least, "maxReplicas": most}
    return {"groupName": name} | sizes | {"rayStartParams": {}, "template": template}


def _submitter(work: Workload) -> dict[str, Any]:
    """Only follows the job's log; a retry of its pod submits nothing twice."""
    from cluster.targets.pods import container_security, pod_security

    container = {
        "name": "ray-job-submitter",
        "image": work.machines.image,
        "securityContext": container_security(),
        "resources": {"requests": {"cpu": "200m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": pod_security(),
        "containers": [container],
    }
    return {"metadata": {"labels": labels(work) | {"job-name": work.name}}, "spec": spec}


def _header(work: Workload, what: str, how: Sequence[str]) -> list[str]:
    lines = [
        f"{what} for {json.dumps(work.name)} (kind {work.kind}), written by `sftfilter manifest`. KubeRay 1.7 or newer.",
        *how,
    ]
    if work.expected:
        lines.append(f"Expected on every node: {', '.join(work.expected)}")
    lines.append(f"Before, once: the claim {CLAIM}, which `sftfilter manifest SPEC --target kuberay-storage` writes")
    if work.keys:
        keys = " ".join(f"--from-literal={key}=..." for key in work.keys)
        lines.append(f"Before: kubectl create secret generic sftfilter-keys {keys}")
    return lines
