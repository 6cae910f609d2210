"""Manifests: compiled from one spec, checked against the schemas and linters of those who will read them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from cluster.autoscaling import LIMITS
from cluster.targets import TARGETS
from cluster.targets.kuberay import serve_config
from cluster.workload import Machines, Workload
from jobs.compile import compile_spec, needs
from jobs.spec import load_spec
from sftfilter.errors import SpecError
from tests.cluster.golden import EXAMPLES, example, golden
from tests.conftest import REPOSITORY

BIN = Path(sys.executable).parent
SPECS = REPOSITORY / "jobs" / "specs"
KUBERAY = [name for name in TARGETS if name.startswith("kuberay") and name != "kuberay-storage"]
CRDS = os.environ.get("SFTFILTER_KUBERAY_CRDS")
YAMLLINT = "{extends: default, rules: {line-length: {max: 160}, comments: {min-spaces-from-content: 1}}}"

# Fields of ray.io/v1 as KubeRay's types name them: the API server warns of any other and drops it.
RAY_FIELDS = {
    "RayJob": "activeDeadlineSeconds backoffLimit rayClusterSpec submitterPodTemplate metadata clusterSelector "
    "submitterConfig managedBy deletionStrategy entrypoint runtimeEnvYAML jobId submissionMode entrypointResources "
    "entrypointNumCpus entrypointNumGpus ttlSecondsAfterFinished shutdownAfterJobFinishes suspend "
    "preRunningDeadlineSeconds",
    "RayService": "serveConfigV2 rayClusterConfig serveService upgradeStrategy excludeHeadPodFromServeSvc",
    "RayCluster": "headGroupSpec workerGroupSpecs rayVersion enableInTreeAutoscaling autoscalerOptions authOptions "
    "headServiceAnnotations suspend managedBy gcsFaultToleranceOptions",
    "headGroupSpec": "serviceType headService enableIngress rayStartParams template resources labels",
    "workerGroupSpecs": "groupName replicas minReplicas maxReplicas numOfHosts rayStartParams template scaleStrategy "
    "suspend idleTimeoutSeconds resources labels",
    "autoscalerOptions": "resources image imagePullPolicy env envFrom volumeMounts securityContext idleTimeoutSeconds "
    "upscalingMode version",
    "authOptions": "mode secretName enableK8sTokenAuth",
}


@pytest.mark.parametrize("target", TARGETS)
def test_the_example_compiles_to_what_is_kept(target: str) -> None:
    assert TARGETS[target](example()) == golden(target).read_text(), "python -m tests.cluster.golden writes them again"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("spec", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_spec_compiles_to_every_target(spec: Path, target: str) -> None:
    work = compile_spec(spec, [], Machines(gpu_type="H100"))
    text = TARGETS[target](work)
    assert target == "kuberay-storage" or work.name in text
    if target != "slurm":
        assert list(yaml.safe_load_all(text))


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "slurm"])
def test_yamllint(target: str) -> None:
    done = subprocess.run(
        [BIN / "yamllint", "-d", YAMLLINT, golden(target)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_shell_and_docker_linters() -> None:
    for command in (["bash", "-n", golden("slurm")], [BIN / "shellcheck", golden("slurm")]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        [BIN / "hadolint", "cluster/Dockerfile"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def _documents(target: str, work: Workload | None = None) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(TARGETS[target](work or example())))


def _templates(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    spec = document["spec"]
    cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    yield cluster["headGroupSpec"]["template"]
    yield from (group["template"] for group in cluster["workerGroupSpecs"])
    if "submitterPodTemplate" in spec:
        yield spec["submitterPodTemplate"]


@pytest.mark.parametrize("target", KUBERAY)
def test_kubernetes_takes_every_object(target: str) -> None:
    *objects, ray = _documents(target)
    for document in objects:
        kubernetes_validate.validate(document, "1.33", strict=True)
    for template in _templates(ray):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
        kubernetes_validate.validate(pod, "1.33", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(objects[0] | {"spec": {"accessMode": "x"}}, "1.33", strict=True)


@pytest.mark.parametrize("target", KUBERAY)
def test_kuberay_knows_every_field(target: str) -> None:
    ray = _documents(target)[-1]
    cluster = ray["spec"].get("rayClusterSpec") or ray["spec"].get("rayClusterConfig") or ray["spec"]
    assert ray["spec"].keys() <= set(RAY_FIELDS[ray["kind"]].split())
    assert cluster.keys() <= set(RAY_FIELDS["RayCluster"].split())
    for name in ("headGroupSpec", "autoscalerOptions", "authOptions"):
        assert cluster[name].keys() <= set(RAY_FIELDS[name].split())
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() <= set(RAY_FIELDS["workerGroupSpecs"].split())


@pytest.mark.skipif(
    not CRDS, reason="set SFTFILTER_KUBERAY_CRDS to the folder of KubeRay's CRD files (config/crd/bases)"
)
@pytest.mark.parametrize("target", KUBERAY)
def test_kuberays_own_schemas(target: str) -> None:
    ray = _documents(target)[-1]
    file = Path(str(CRDS)) / f"ray.io_{ray['kind'].lower()}s.yaml"
    versions = yaml.safe_load(file.read_text())["spec"]["versions"]
    schema = next(v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1")
    jsonschema.validate(ray, _strict(schema))


def _strict(schema: Any) -> Any:
    """An OpenAPI schema of a CRD as JSON Schema that takes no unknown field, as the API server's strict check does."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {key: _strict(value) for key, value in schema.items()}
    if (
        "properties" in schema
        and "additionalProperties" not in schema
        and not schema.get("x-kubernetes-preserve-unknown-fields")
    ):
        made["additionalProperties"] = False
    if schema.get("nullable"):
        made["type"] = [schema["type"], "null"]
    return made


def test_a_made_up_crd_is_read_strictly() -> None:
    """The reader of CRDs, which are not at hand here."""
    spec = {"type": "object", "properties": {"port": {"x-kubernetes-int-or-string": True}, "n": {"type": "integer"}}}
    schema = _strict({"type": "object", "properties": {"spec": spec}})
    jsonschema.validate({"spec": {"port": "http", "n": 1}}, schema)
    with pytest.raises(jsonschema.ValidationError, match="unexpected"):
        jsonschema.validate({"spec": {"prot": 1}}, schema)


@pytest.mark.parametrize("target", KUBERAY)
def test_clusters_are_secure_and_scale_to_nothing(target: str) -> None:
    *objects, ray = _documents(target)
    cluster = ray["spec"].get("rayClusterSpec") or ray["spec"].get("rayClusterConfig") or ray["spec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["autoscalerOptions"]["version"] == "v2" and cluster["enableInTreeAutoscaling"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    gpu = next(group for group in cluster["workerGroupSpecs"] if group["groupName"] == "gpu")
    assert (gpu["minReplicas"], gpu["maxReplicas"]) == (0, 1), "8 GPUs at the most, 8 a node"
    for template in _templates(ray):
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        for container in template["spec"]["containers"]:
            sizes = container["resources"]
            assert sizes["limits"].keys() >= {"cpu", "memory"} and sizes["requests"].keys() >= {"cpu", "memory"}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
    policy = next(o for o in objects if o["kind"] == "NetworkPolicy")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert all(rule.get("from") for rule in policy["ingress"]), "nobody gets in without being named"
    key = "SFTFILTER_API_KEY" if target == "kuberay-service" else "JUDGE_KEY"
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert {"name": key, "valueFrom": {"secretKeyRef": {"name": "sftfilter-keys", "key": key}}} in head["env"]


def test_rayversion_is_the_pinned_one() -> None:
    pinned = re.search(r"^ray==(\S+)", (REPOSITORY / "cluster" / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    for target in KUBERAY:
        assert f"rayVersion: {pinned[1]}" in golden(target).read_text()
    assert f"ARG RAY_VERSION={pinned[1]}" in (REPOSITORY / "cluster" / "Dockerfile").read_text()


def test_the_spec_in_the_manifest_is_the_spec(tmp_path: Path) -> None:
    """What the pods mount parses to the same work: its small files are there, its results on the shared folder."""
    work = compile_spec(SPECS / "decide.yaml", ["seed=3"], Machines())
    job = _documents("kuberay-job", work)
    data = next(o for o in job if o["kind"] == "ConfigMap")["data"]
    mount = next(
        v for v in job[-1]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"] if "configMap" in v
    )
    for item in mount["configMap"]["items"]:
        (tmp_path / item["path"]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / item["path"]).write_text(data[item["key"]])
    mounted = load_spec(tmp_path / "spec.yaml")
    assert mounted.results == "/shared/runs"
    assert mounted.spec_hash == load_spec(SPECS / "decide.yaml", ["seed=3"]).spec_hash


def test_runtime_env_and_serve_config_are_rays() -> None:
    from ray.runtime_env import RuntimeEnv
    from ray.serve.schema import ServeDeploySchema

    job, service = _documents("kuberay-job")[-1], _documents("kuberay-service")[-1]
    env = RuntimeEnv(**yaml.safe_load(job["spec"]["runtimeEnvYAML"]))
    assert env.env_vars()["RAY_JOB_STOP_WAIT_TIME_S"] == "60"
    given = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert given == serve_config(example())
    parsed = ServeDeploySchema.model_validate(given)
    assert parsed.applications[0].import_path == "jobs.service:build"


@pytest.mark.parametrize("target", ["aws", "gcp"])
def test_the_cluster_launcher_takes_it(target: str) -> None:
    """What `ray up` does before it talks to a cloud: defaults filled in, then its own schema."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = _documents(target)[0]
    validate_config(prepare_config(config))
    types = config["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert (types["worker"]["min_workers"], types["worker"]["max_workers"]) == (0, 1)
    assert all("RAY_AUTH_MODE=token" in c for c in config["head_start_ray_commands"] if "ray start" in c)
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(config) | {"idle_minutes": 3})


@pytest.mark.parametrize("target", ["aws", "gcp"])
def test_only_workers_are_given_gpus_by_docker(target: str) -> None:
    docker = _documents(target)[0]["docker"]
    assert docker["worker_run_options"] == ["--gpus all"]
    assert not any("gpus" in option for option in docker["run_options"]), "the head has none"
    work = compile_spec(SPECS / "score.yaml", [], Machines())
    assert "worker_run_options" not in _documents(target, work)[0]["docker"]


@pytest.mark.parametrize(
    ("target", "given", "machine"),
    [
        ("aws", Machines(cpus=16, memory_gib=64), "m7i.4xlarge"),
        ("gcp", Machines(cpus=4, memory_gib=8), "n2-standard-4"),
        ("aws", Machines(gpus=4, gpu_type="l40s"), "g6e.12xlarge"),
        ("gcp", Machines(gpus=2, gpu_type="A100"), "a2-highgpu-2g"),
        ("gcp", Machines(gpus=8, gpu_type="H100"), "a3-highgpu-8g"),
    ],
)
def test_the_machine_is_what_was_asked_for(target: str, given: Machines, machine: str) -> None:
    spec = EXAMPLES / "spec.yaml" if "m7i" not in machine and "n2" not in machine else SPECS / "score.yaml"
    worker = _documents(target, compile_spec(spec, [], given))[0]["available_node_types"]["worker"]
    assert machine in worker["node_config"].values()
    assert worker["resources"]["CPU"] == given.cpus
    assert worker["resources"].get("GPU", given.gpus) == given.gpus


@pytest.mark.parametrize(
    ("target", "given", "message"),
    [
        ("aws", Machines(gpus=2, gpu_type="L40S"), r"L40S in machines of 1, 4, 8; give --gpus as one of these$"),
        (
            "aws",
            Machines(gpus=1, gpu_type="A100"),
            r"A100 in machines of 8.*or --gpu-type as one of: A10G, L40S, H100$",
        ),
        ("gcp", Machines(gpus=16, gpu_type="H100"), r"--gpus 16: gcp has H100 in machines of 1, 2, 4, 8"),
        ("gcp", Machines(gpu_type="MI300X"), r"--gpu-type MI300X: none that gcp.*L4, A100"),
        ("gcp", Machines(cpus=64), r"--cpus 64: a2-highgpu-1g, which has 1 A100 on gcp, has 12 CPUs"),
    ],
)
def test_gpus_that_a_cloud_does_not_have(target: str, given: Machines, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        TARGETS[target](compile_spec(EXAMPLES / "spec.yaml", [], given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Machines(cpus=6), r"--cpus 6: aws has machines with 2, 4, 8, 16"),
        (Machines(cpus=8, memory_gib=100), r"--memory-gib 100: .*: give --cpus 32$"),
    ],
)
def test_cpu_machines_that_a_cloud_does_not_have(given: Machines, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        TARGETS["aws"](compile_spec(SPECS / "score.yaml", [], given))


def test_skypilot_gives_no_secret_a_value() -> None:
    task = _documents("skypilot")[0]
    assert task["secrets"] == {"RAY_AUTH_TOKEN": None, "JUDGE_KEY": None}
    assert task["resources"]["accelerators"] == "H100:8" and task["num_nodes"] == 1
    assert "file_mounts" not in task, "no bucket mount is storage that several nodes can share"


def _most_nodes(spec: Path, target: str, machines: Machines, *overrides: str) -> tuple[int, dict[str, Any]]:
    """Worker nodes at the most by the manifest, and what its head tells the driver of them."""
    work = compile_spec(spec, overrides, machines)
    document = _documents(target, work)[-1]
    if target == "aws":
        start = document["head_start_ray_commands"][-1]
        told = re.search(rf"{LIMITS}='([^']*)'", start)
        assert told
        return document["available_node_types"]["worker"]["max_workers"], json.loads(told[1])
    cluster = document["spec"].get("rayClusterSpec") or document["spec"]
    env = {one["name"]: one.get("value") for one in _container(cluster["headGroupSpec"])["env"]}
    return sum(group["maxReplicas"] for group in cluster["workerGroupSpecs"]), json.loads(env[LIMITS])


def _container(group: dict[str, Any]) -> dict[str, Any]:
    return group["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("target", ["kuberay-job", "kuberay-cluster", "aws"])
def test_a_sweep_may_grow_by_its_students(target: str) -> None:
    sweep, machines = SPECS / "sweep.yaml", Machines(cpus=2, memory_gib=8, max_nodes=3)
    most, told = _most_nodes(sweep, target, machines)
    assert most == 3, "more students than that would train side by side"
    assert told == {"available_node_types": {"cpu": {"max_workers": 3, "resources": {"CPU": 2}}}}
    assert _most_nodes(sweep, target, machines, "concurrency=1")[0] == 1
    assert _most_nodes(sweep, target, machines, "concurrency=5")[0] == 5, "the spec wants five at a time"


@pytest.mark.parametrize("kind", ["lattice", "carriers"])
def test_other_kinds_with_trials_may_grow_too(kind: str) -> None:
    assert _most_nodes(SPECS / f"{kind}.yaml", "kuberay-job", Machines(cpus=2, memory_gib=8))[0] == 4


def test_a_few_students_ask_for_no_more_nodes_than_they_fill(tmp_path: Path) -> None:
    experiment = yaml.safe_load((EXAMPLES / "spec.yaml").read_text())
    arms = {name: experiment["arms"][name] for name in ("base", "all-T", "all-C")}
    roles = {"original": "all-T", "alternate": "all-C", "base": "base"}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment | {"seeds": [0], "arms": arms, "roles": roles}))
    sweep = {"kind": "sweep", "name": "s", "experiment": "experiment.yaml", "space": {"training.epochs": [1]}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(sweep))
    work = compile_spec(tmp_path / "s.yaml", [], Machines(cpus=64, gpus=8, max_nodes=10))
    assert work.gpu_nodes == 2, "two students of eight workers each"


def test_the_service_looks_where_the_run_is() -> None:
    work = compile_spec(EXAMPLES / "spec.yaml", ["results=/shared/sftfilter"], Machines())
    assert serve_config(work)["applications"][0]["args"]["run"] == "/shared/sftfilter/gpu-study"
    assert serve_config(example())["applications"][0]["args"]["run"] == "/shared/runs/gpu-study"


@pytest.mark.parametrize("target", KUBERAY)
def test_deleting_a_workload_leaves_the_results(target: str) -> None:
    assert not any(document["kind"] == "PersistentVolumeClaim" for document in _documents(target))
    (claim,) = _documents("kuberay-storage")
    kubernetes_validate.validate(claim, "1.33", strict=True)
    volumes = next(_templates(_documents(target)[-1]))["spec"]["volumes"]
    assert {"name": "shared", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}} in volumes


def test_who_gets_in_and_out() -> None:
    work = compile_spec(EXAMPLES / "spec.yaml", [], Machines(egress_ports=(8443, 443)))
    policy = next(o for o in _documents("kuberay-job", work) if o["kind"] == "NetworkPolicy")["spec"]
    scraped = [rule for rule in policy["ingress"] if {"protocol": "TCP", "port": 8080} in rule.get("ports", [])]
    assert [rule["from"][0]["podSelector"]["matchLabels"] for rule in scraped] == [
        {"app.kubernetes.io/name": "prometheus"}
    ]
    assert [port["port"] for port in policy["egress"][-1]["ports"]] == [443, 6443, 2049, 8443]


def test_needs_are_those_of_the_largest_stage() -> None:
    assert needs(load_spec(EXAMPLES / "spec.yaml")) == (8, 8)
    assert needs(load_spec(EXAMPLES / "spec.yaml", ["execution.workers=24", "execution.cpus_per_worker=4"])) == (96, 24)
    assert needs(load_spec(SPECS / "quickstart.yaml")) == (2, 0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["results=/elsewhere/runs"], "does not lie below /shared"),
        (["name=Score_1"], "small letters"),
    ],
)
def test_what_no_cluster_could_run_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        compile_spec(SPECS / "score.yaml", overrides, Machines())


def test_data_too_large_for_a_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b" * 1_000_000}) + "\n")
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "kind: score\nname: x\nrollouts: {T: {kind: rollouts, path: big.jsonl}}\nscorers: {l: {kind: random}}\n"
    )
    work = compile_spec(spec, [], Machines())
    with pytest.raises(SpecError, match=r"big\.jsonl \(1\.00 MB\)"):
        TARGETS["kuberay-job"](work)
    TARGETS["slurm"](work)  # its nodes read the files where they are


def test_mounted_keys_and_missing_folders(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    judge = {"base_url": "https://j.example.org/v1", "model": "m", "api_key_file": "~/keys/judge"}
    scorers = {"judge": {"kind": "judge", "rubric": "x", "endpoint": judge}}
    rollouts = {"T": {"kind": "rollouts", "path": "/data/*.parquet"}}
    spec.write_text(yaml.safe_dump({"kind": "score", "name": "x", "rollouts": rollouts, "scorers": scorers}))
    work = compile_spec(spec, [], Machines())
    assert work.expected == ("/data/*.parquet",)
    assert "Expected on every node: /data/*.parquet" in TARGETS["aws"](work)
    assert "/var/run/secrets/sftfilter/judge" in work.files["spec.yaml"]
