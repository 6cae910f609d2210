"""SIGKILL of whole nodes: a raylet with all that runs on it, and the head, after which a new cluster takes over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

from cluster.local_nodes import LocalNodes, local_nodes
from tests.chaos.fault_table import FaultRow
from tests.chaos.study import Run, Study, named, twice

RAYLET, HEAD = "SIGKILL of a raylet, other nodes left", "SIGKILL of the head, new cluster, rerun"
CALLS = "5 % of calls to Ray's GCS and raylets fail"


@contextmanager
def _cluster(study: Study, nodes: int) -> Iterator[tuple[LocalNodes, dict[str, str]]]:
    """Nodes, and the environment of a driver that joins them. The head does no work where there are others."""
    before = dict(os.environ)
    os.environ |= study.environment()
    try:
        with local_nodes(nodes, cpus=2, head_cpus=0 if nodes > 1 else None) as cluster:
            yield cluster, cluster.env | {"RAY_ADDRESS": cluster.address}
    finally:
        os.environ.clear()
        os.environ |= before


def _tree(node: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(node.pid).children(recursive=True) if node.poll() is None else []


def _hosting(cluster: LocalNodes, *words: str) -> list[subprocess.Popen[bytes]]:
    """Nodes on which a process of this title runs; the head is none of them."""
    return [node for node in cluster.nodes[1:] if named(_tree(node), *words)]


def _kill_raylet(node: subprocess.Popen[bytes]) -> float:
    (raylet,) = (p for p in _tree(node) if p.name() == "raylet")
    raylet.kill()
    return time.monotonic()


@pytest.mark.chaos(fault=RAYLET, during="scores, training, evaluation")
def test_a_raylet_of_every_stage(studies: Callable[..., Study], judged: Callable[..., None]) -> None:
    """Two nodes work, the head does not; for every one that is struck another joins later."""
    study, rows = studies(), []
    with _cluster(study, 3) as (cluster, env):
        run = study.start(cluster=env)
        run.until(lambda: study.scored.exists() and study.scored.read_text().splitlines()[2:])
        old = {line.split()[0] for line in study.scored.read_text().splitlines()}
        struck = _kill_raylet(_hosting(cluster, "MapBatches(FilterActor)")[0])
        run.until(lambda: {line.split()[0] for line in study.scored.read_text().splitlines()} - old)
        scoring = time.monotonic() - struck
        cluster.add_node(2)

        run.until(study.checkpoint)
        struck = _kill_raylet(_hosting(cluster, "RayTrainWorker")[0])
        reached = study.trained()
        at = run.until(study.resumed)
        run.until(lambda: study.trained_past(reached))
        lost = f"{max(0, reached[1] - at[-1])} steps of {study.steps}"
        rows.append(FaultRow(RAYLET, "training", lost, time.monotonic() - struck))
        cluster.add_node(2)

        run.until(lambda: study.made("answers"))
        made = study.made("answers", "loss")
        struck = _kill_raylet(_hosting(cluster, "ServeReplica", "Students")[0])
        run.until(lambda: study.made("answers", "loss") > made + 1)
        lost = "the answers under way, asked again"
        rows.append(FaultRow(RAYLET, "evaluation", lost, time.monotonic() - struck))
        run.finish()
    lost = f"{twice(study.scored_rows())} of {study.scorable} rows scored again"
    judged(study, FaultRow(RAYLET, "scores", lost, scoring), *rows)


@pytest.mark.chaos(fault=RAYLET, during="rollouts")
def test_a_raylet_while_answering(studies: Callable[..., Study], judged: Callable[..., None]) -> None:
    study = studies()
    with _cluster(study, 3) as (cluster, env):
        run = study.start(cluster=env)
        lost = run.until(lambda: _hosting(cluster, "MapBatches(Answerer)", "submit"))[0]
        struck = _kill_raylet(lost)
        run.until(lambda: [n for n in _hosting(cluster, "MapBatches(Answerer)", "submit") if n is not lost])
        took = time.monotonic() - struck
        run.finish()
    judged(study, FaultRow(RAYLET, "rollouts", "what it was answering, 4 prompts at most", took))


def _kill_head(cluster: LocalNodes, run: Run) -> tuple[float, float]:
    """Its GCS and its raylet; answers the moment, and the seconds after which the driver ended."""
    for process in _tree(cluster.nodes[0]):
        if process.name() in ("gcs_server", "raylet"):
            process.send_signal(signal.SIGKILL)
    struck = time.monotonic()
    assert run.end(240) != 0, "the driver of a dead cluster says that all is well"
    return struck, time.monotonic() - struck


@pytest.mark.chaos(fault=HEAD, during="training, evaluation")
def test_the_head(studies: Callable[..., Study], judged: Callable[..., None]) -> None:
    """In mid-training and in mid-evaluation; the driver ends, and the same run in a new cluster goes on."""
    study, rows = studies("training"), []
    with _cluster(study, 1) as (cluster, env):
        run = study.start(cluster=env)
        run.until(study.checkpoint)
        reached = study.trained()
        struck, ended = _kill_head(cluster, run)
    with _cluster(study, 1) as (cluster, env):
        run = study.start(cluster=env)
        at = run.until(study.resumed)
        run.until(lambda: study.trained_past(reached))
        lost = f"{max(0, reached[1] - at[-1])} steps of {study.steps}"
        took = time.monotonic() - struck
        rows.append(FaultRow(HEAD, "training", lost, took, ended_s=ended))
        run.until(lambda: study.made("answers"))
        made = study.made("answers", "loss")
        struck, ended = _kill_head(cluster, run)
    with _cluster(study, 1) as (_, env):
        run = study.start(cluster=env)
        run.until(lambda: study.made("answers", "loss") > made)
        took = time.monotonic() - struck
        run.finish()
    lost = "answers of the model that was asked, 18 at most"
    rows.append(FaultRow(HEAD, "evaluation", lost, took, ended_s=ended))
    judged(study, *rows)


@pytest.mark.chaos(fault=HEAD, during="scores")
def test_the_head_while_scoring(studies: Callable[..., Study], judged: Callable[..., None]) -> None:
    study = studies("scores")
    with _cluster(study, 1) as (cluster, env):
        run = study.start(cluster=env)
        run.until(lambda: len(study.scored_rows()) >= 8)
        struck, ended = _kill_head(cluster, run)
    before = len(study.scored_rows())
    with _cluster(study, 1) as (_, env):
        run = study.start(cluster=env)
        run.until(lambda: len(study.scored_rows()) > before)
        took = time.monotonic() - struck
        run.finish()
    lost = f"{twice(study.scored_rows())} of {study.scorable} rows scored again"
    judged(study, FaultRow(HEAD, "scores", lost, took, ended_s=ended))


_SERVICES = {
    "ray::rpc::ActorInfoGcsService": "CreateActor GetActorInfo GetAllActorInfo GetNamedActorInfo KillActorViaGcs "
    "ListNamedActors RegisterActor ReportActorOutOfScope",
    "ray::rpc::InternalKVGcsService": "InternalKVDel InternalKVExists InternalKVGet InternalKVKeys InternalKVMultiGet "
    "InternalKVPut",
    "ray::rpc::JobInfoGcsService": "AddJob GetAllJobInfo GetNextJobID MarkJobFinished",
    "ray::rpc::NodeInfoGcsService": "CheckAlive GetAllNodeAddressAndLiveness GetAllNodeInfo GetClusterId RegisterNode",
    "ray::rpc::NodeResourceInfoGcsService": "GetAllAvailableResources GetAllResourceUsage GetAllTotalResources "
    "GetDrainingNodes",
    "ray::rpc::PlacementGroupInfoGcsService": "CreatePlacementGroup GetPlacementGroup RemovePlacementGroup "
    "WaitPlacementGroupUntilReady",
    "ray::rpc::ControlPlanePubSubGcsService": "GcsSubscriberCommandBatch GcsSubscriberPoll",
    "ray::rpc::TaskInfoGcsService": "AddTaskEventData",
    "ray::rpc::WorkerInfoGcsService": "AddWorkerInfo GetWorkerInfo ReportWorkerFailure",
    "NodeManagerService": "CancelWorkerLease CommitBundleResources GetWorkerFailureCause PinObjectIDs "
    "PrepareBundleResources ReleaseUnusedActorWorkers RemovePlacementGroupBundles RequestWorkerLease ReturnWorkerLease",
}
"""What drivers, workers and nodes ask the GCS and raylets for."""


@pytest.mark.chaos(fault=CALLS, during="all")
def test_rpc_failures(studies: Callable[..., Study], judged: Callable[..., None], reference: Study) -> None:
    """Ray's own hook drops requests and replies between its processes, by chance.

    Calls between workers are left alone. With those failing as well (`"*"`), a run stood still while it scored: Ray
    Data 2.60 waits without end for a batch whose arrival was not reported.
    """
    failing = {"num_failures": -1, "req_failure_prob": 2, "resp_failure_prob": 2, "in_flight_failure_prob": 1}
    calls = {f"{service}.grpc_client.{call}": failing for service, of in _SERVICES.items() for call in of.split()}
    calls["ray::rpc::InternalKVGcsService.grpc_client.InternalKVGet"] = failing | {"num_lower_bound_req_failures": 1}
    study = studies(env={"RAY_testing_rpc_failure": json.dumps(calls)})
    began = time.monotonic()
    run = study.start()
    run.finish(900)
    assert "Inject RPC request failure" in run.said()
    took, usual = time.monotonic() - began, float((reference.folder / "seconds").read_text())
    note = "`RAY_testing_rpc_failure`; not calls between workers, for which Ray Data waits without end"
    judged(study, FaultRow(CALLS, "all", "nothing", note=note, whole_s=took, undisturbed_s=usual))
