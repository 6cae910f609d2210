"""Ray's cluster launcher (`ray up`) on AWS and GCP: a head without work, spot GPU workers from none to the most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.workload import Workload
from cluster.yaml_text import documents

_TOKEN = "~/.ray/auth_token"  # noqa: S105 (a path)
_AWS_GPU = {1: "g6e.2xlarge", 4: "g6e.12xlarge", 8: "p5.48xlarge"}
_GCP_GPU = {1: "a2-highgpu-1g", 2: "a2-highgpu-2g", 4: "a2-highgpu-4g", 8: "a2-highgpu-8g"}


def aws(work: Workload) -> str:
    """Cluster YAML for EC2."""
    spot = {"InstanceMarketOptions": {"MarketType": "spot"}}
    disk = {"BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 200, "VolumeType": "gp3"}}]}
    # IMDSv2 only, one hop: a container cannot take the machine's credentials.
    metadata = {"MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}}
    worker = _nearest(_AWS_GPU, work.machines.gpus) if work.gpus else "m7i.2xlarge"
    types = _node_types(
        work,
        {"InstanceType": "m7i.xlarge"} | disk | metadata,
        {"InstanceType": worker} | disk | metadata | spot,
    )
    provider = {"type": "aws", "region": "us-west-2", "cache_stopped_nodes": False, "use_internal_ips": False}
    return _cluster(work, "aws", provider, {"ssh_user": "ubuntu"}, types)


def gcp(work: Workload) -> str:
    """Cluster YAML for Compute Engine."""
    disk = {
        "disks": [
            {
                "boot": True,
                "autoDelete": True,
                "type": "PERSISTENT",
                "initializeParams": {
                    "diskSizeGb": 200,
                    "sourceImage": "projects/deeplearning-platform-release/global/images/family/common-cu128-ubuntu-2204",
                },
            }
        ]
    }
    spot = {"scheduling": [{"provisioningModel": "SPOT"}, {"onHostMaintenance": "TERMINATE"}]}
    worker = _nearest(_GCP_GPU, work.machines.gpus) if work.gpus else "n2-standard-8"
    head: dict[str, Any] = {"machineType": "n2-standard-4"} | disk
    types = _node_types(work, head, {"machineType": worker} | disk | spot)
    provider = {"type": "gcp", "region": "us-central1", "availability_zone": "us-central1-a", "project_id": "PROJECT"}
    return _cluster(work, "gcp", provider, {"ssh_user": "ubuntu"}, types)


def _nearest(types: Mapping[int, str], gpus: int) -> str:
    """The smallest machine with at least so many GPUs, else the largest."""
    return next((types[count] for count in sorted(types) if count >= gpus), types[max(types)])


def _node_types(work: Workload, head: dict[str, Any], worker: dict[str, Any]) -> dict[str, Any]:
    gpus: dict[str, Any] = {"GPU": work.machines.gpus} if work.gpus else {}
    most = work.gpu_nodes or work.cpu_nodes
    resources = {"CPU": work.machines.cpus} | gpus
    return {
        "head": {"resources": {"CPU": 0}, "node_config": head},
        "worker": {"min_workers": 0, "max_workers": most, "resources": resources, "node_config": worker},
    }


def _cluster(work: Workload, cloud: str, provider: dict[str, Any], auth: dict[str, Any], types: dict[str, Any]) -> str:
    shared = work.machines.shared
    secure = f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={_TOKEN} RAY_enable_autoscaler_v2=1"
    start = "ulimit -n 65536; ray start --disable-usage-stats"
    docker: dict[str, Any] = {
        "image": work.machines.image,
        "container_name": "sftfilter",
        "pull_before_run": True,
        "run_options": ["--ulimit nofile=65536:65536", f"-v {shared}:{shared}", *(["--gpus all"] if work.gpus else [])],
    }
    config: dict[str, Any] = {
        "cluster_name": work.name,
        "max_workers": types["worker"]["max_workers"],
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "docker": docker,
        "provider": provider,
        "auth": auth,
        "available_node_types": types,
        "head_node_type": "head",
        "file_mounts": {_TOKEN: _TOKEN},
        "initialization_commands": [
            f"sudo mkdir -p {shared}",
            f"mountpoint -q {shared} || sudo mount -t nfs4 {work.machines.nfs} {shared}",
        ],
        "setup_commands": [f"chmod 600 {_TOKEN}"],
        "head_start_ray_commands": [
            "ray stop",  # of this container only
            f"{secure}; {start} --head --port=6379 --num-cpus=0 --dashboard-host=127.0.0.1 "
            "--autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": ["ray stop", f"{secure}; {start} --address=$RAY_HEAD_IP:6379"],
    }
    header = [
        f"Cluster for {work.name} (kind {work.kind}) on {cloud}, written by `sftfilter manifest`.",
        f"Before: ray get-auth-token --generate (writes {_TOKEN}); an NFS export for {shared}; keys of teachers and judges",
        f"  ({', '.join(work.keys) or 'none here'}) as files below {shared}, mode 600, named by `api_key_file` in the spec",
        "ray up THIS_FILE; ray dashboard THIS_FILE (tunnels port 8265); then, in another terminal:",
        "sftfilter submit SPEC --address http://localhost:8265; at the end: ray down THIS_FILE",
    ]
    if work.expected:
        header.append(f"Expected on every node: {', '.join(work.expected)}")
    return documents(header, config)
