"""Ray's cluster launcher (`ray up`) on AWS and GCP: a head without work, spot GPU workers from none to the most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cluster.autoscaling import LIMITS, limits
from cluster.workload import Workload
from cluster.yaml_text import documents
from sftfilter.errors import SpecError

_TOKEN = "~/.ray/auth_token"  # noqa: S105 (a path)
_AWS_GPU = {
    "A10G": {1: ("g5.2xlarge", 8), 4: ("g5.12xlarge", 48), 8: ("g5.48xlarge", 192)},
    "L40S": {1: ("g6e.2xlarge", 8), 4: ("g6e.12xlarge", 48), 8: ("g6e.48xlarge", 192)},
    "A100": {8: ("p4d.24xlarge", 96)},
    "A100-80GB": {8: ("p4de.24xlarge", 96)},
    "H100": {1: ("p5.4xlarge", 16), 8: ("p5.48xlarge", 192)},
    "H200": {8: ("p5en.48xlarge", 192)},
}
_GCP_GPU = {
    "L4": {1: ("g2-standard-8", 8), 2: ("g2-standard-24", 24), 4: ("g2-standard-48", 48), 8: ("g2-standard-96", 96)},
    "A100": {size: (f"a2-highgpu-{size}g", 12 * size) for size in (1, 2, 4, 8)},
    "A100-80GB": {size: (f"a2-ultragpu-{size}g", 12 * size) for size in (1, 2, 4, 8)},
    "H100": {size: (f"a3-highgpu-{size}g", 26 * size) for size in (1, 2, 4, 8)},
    "H200": {8: ("a3-ultragpu-8g", 224)},
}
"""GPU type, as SkyPilot names it -> GPUs of a machine -> the machine's type and its CPUs."""
_Types = Mapping[str, Mapping[int, tuple[str, int]]]
_AWS_CPU = {
    2: "large",
    4: "xlarge",
    8: "2xlarge",
    16: "4xlarge",
    32: "8xlarge",
    48: "12xlarge",
    64: "16xlarge",
    96: "24xlarge",
}
_GCP_CPU = (2, 4, 8, 16, 32, 48, 64, 80, 96, 128)


def aws(work: Workload) -> str:
    """Cluster YAML for EC2."""
    spot = {"InstanceMarketOptions": {"MarketType": "spot"}}
    disk = {"BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 200, "VolumeType": "gp3"}}]}
    # IMDSv2 only, one hop: a container cannot take the machine's credentials.
    metadata = {"MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}}
    worker = _gpu_machine("aws", _AWS_GPU, work) if work.gpus else f"m7i.{_AWS_CPU[_cpus('aws', _AWS_CPU, work)]}"
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
    worker = _gpu_machine("gcp", _GCP_GPU, work) if work.gpus else f"n2-standard-{_cpus('gcp', _GCP_CPU, work)}"
    head: dict[str, Any] = {"machineType": "n2-standard-4"} | disk
    types = _node_types(work, head, {"machineType": worker} | disk | spot)
    provider = {"type": "gcp", "region": "us-central1", "availability_zone": "us-central1-a", "project_id": "PROJECT"}
    return _cluster(work, "gcp", provider, {"ssh_user": "ubuntu"}, types)


def _gpu_machine(cloud: str, types: _Types, work: Workload) -> str:
    """The machine with exactly these GPUs: a larger one would be paid for and not used, another kind is not what was asked for.

    Raises:
        SpecError: the cloud has none, or it has fewer CPUs than workers are to be told of.
    """
    kind, count, cpus = work.machines.gpu_type, work.machines.gpus, work.machines.cpus
    known = {name.upper(): sizes for name, sizes in types.items()}
    if kind.upper() not in known:
        raise SpecError(f"--gpu-type {kind}: none that {cloud} is known to have; give one of: {', '.join(types)}")
    if count not in (sizes := known[kind.upper()]):
        others = [name for name, counts in types.items() if count in counts]
        raise SpecError(
            f"--gpus {count}: {cloud} has {kind} in machines of {', '.join(map(str, sizes))}; give --gpus as one of these"
            + (f", or --gpu-type as one of: {', '.join(others)}" if others else "")
        )
    machine, has = sizes[count]
    if cpus > has:
        raise SpecError(f"--cpus {cpus}: {machine}, which has {count} {kind} on {cloud}, has {has} CPUs; give no more")
    return machine


def _cpus(cloud: str, sizes: Iterable[int], work: Workload) -> int:
    """CPUs of the cloud's machine without GPUs, 4 GiB of memory each: exactly as many as were asked for.

    Raises:
        SpecError: there is no such machine.
    """
    cpus, memory = work.machines.cpus, work.machines.memory_gib
    known = sorted(sizes)
    if cpus not in known:
        raise SpecError(
            f"--cpus {cpus}: {cloud} has machines with {', '.join(map(str, known))} CPUs; give one of these"
        )
    if memory > 4 * cpus:
        more = next((size for size in known if 4 * size >= memory), known[-1])
        raise SpecError(
            f"--memory-gib {memory}: a machine with {cpus} CPUs has {4 * cpus} GiB on {cloud}: give --cpus {more}"
        )
    return cpus


def _node_types(work: Workload, head: dict[str, Any], worker: dict[str, Any]) -> dict[str, Any]:
    ((most, resources),) = work.groups.values()
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
        "run_options": ["--ulimit nofile=65536:65536", f"-v {shared}:{shared}"],
    }
    if work.gpus:  # of the head, which has no GPU, Docker would refuse it
        docker["worker_run_options"] = ["--gpus all"]
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
            f"{secure} {LIMITS}='{limits(work.groups)}'; {start} --head --port=6379 --num-cpus=0 --dashboard-host=127.0.0.1 "
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
