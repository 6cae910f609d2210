"""A Ray cluster of several nodes on this machine, for development: `python -m cluster.local_nodes --nodes 3 --cpus 2`.

With `--max-nodes 4` the head starts alone, and nodes come and go with the work, as Ray's autoscaler finds. Every node is a
process group of its own, as on real machines: one can be killed, and the others see it die. All want a token. The dashboard, and
everything of a cluster that grows, listens on loopback; the other ports of fixed nodes are open on the machine's addresses, since
`ray start` joins nodes on no others. What is started here ends here, by process id; other clusters are not touched.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from cluster.autoscaling import Growth, head_env
from cluster.local import PATIENT
from sftfilter.errors import MachineError

_ROOT = Path(__file__).parent.parent
_START_S = 240.0
_END_S = 20.0


@dataclass
class LocalNodes:
    """A running cluster.

    Attributes:
        dashboard: the job server's URL.
        address: of the head, for further nodes and drivers.
        env: environment that reaches it: token, mode, and this interpreter's programs.
    """

    dashboard: str
    address: str
    env: dict[str, str]
    temp: Path
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_node(self, cpus: int, gpus: int = 0) -> subprocess.Popen[bytes]:
        """Start one more worker node and wait until it has joined; GPUs are logical.

        Raises:
            MachineError: it did not join.
        """
        command = ["--address", self.address, f"--num-cpus={cpus}", f"--num-gpus={gpus}", *_agent_ports()]
        log = self.temp / f"node-{len(self.nodes)}.log"
        self.nodes.append(_ray_start(command, self.env, log))
        _joined(self.nodes[-1], log)
        return self.nodes[-1]


@contextlib.contextmanager
def local_nodes(
    nodes: int = 1, cpus: int = 2, gpus: int = 0, head_cpus: int | None = None, growth: Growth | None = None
) -> Iterator[LocalNodes]:
    """A head and `nodes - 1` workers until the block ends.

    Args:
        cpus, gpus: logical ones, of each node.
        head_cpus: the head's, if other than `cpus`; 0 leaves it without work.
        growth: nodes that come and go besides, each as large as the others; the head then has no GPU.

    Raises:
        MachineError: a node did not come up.
    """
    temp = Path(tempfile.mkdtemp(prefix="n-", dir="/tmp"))  # Unix socket paths are limited to 107 bytes
    port, dashboard, client = free_ports(3)
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env |= PATIENT | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"  # the jobs' `python`
    cluster = LocalNodes(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}", env, temp)
    own = {"CPU": cpus if head_cpus is None else head_cpus, "GPU": 0 if growth else gpus}
    command = ["--head", f"--port={port}", f"--temp-dir={temp}", "--node-ip-address=127.0.0.1"]
    command += [f"--num-cpus={own['CPU']}", f"--num-gpus={own['GPU']}", f"--ray-client-server-port={client}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", *_agent_ports()]
    heads, config = dict(env), temp / "autoscaling.yaml"
    if growth:
        heads |= head_env(*free_ports(1))
        heads["PYTHONPATH"] = f"{_ROOT}{os.pathsep}{env.get('PYTHONPATH', '')}"  # the autoscaler imports our provider
        growth.write(config, cluster.address, own, {"CPU": cpus, "GPU": gpus})
        command.append(f"--autoscaling-config={config}")
    try:
        cluster.nodes.append(_ray_start(command, heads, temp / "head.log"))
        _wait(cluster)
        if growth:  # in a process of its own, since Ray reads the token when it is imported
            stating = [sys.executable, "-m", "cluster.autoscaling", cluster.address, str(config)]
            subprocess.run(stating, env=env, cwd=_ROOT, check=True)  # noqa: S603
        for _ in range(nodes - 1):
            cluster.add_node(cpus, gpus)
        yield cluster
    finally:
        _end(cluster.nodes)
        shutil.rmtree(temp, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def _agent_ports() -> list[str]:
    """A node's own ports, which would clash with those of another node on this machine."""
    agent, grpc, metrics, runtime = free_ports(4)
    ports = [f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}"]
    return [*ports, f"--metrics-export-port={metrics}", f"--runtime-env-agent-port={runtime}"]


def _ray_start(arguments: list[str], env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    ray = str(Path(sys.executable).parent / "ray")
    command = [ray, "start", "--block", "--disable-usage-stats", *arguments]
    with open(log, "wb") as sink:
        return subprocess.Popen(command, env=env, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)  # noqa: S603


def _joined(node: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a node is part of its cluster. Of two that start at once on one machine, each takes the socket's name
    that it finds free, and one of them ends."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and node.poll() is None:
        if b"Ray runtime started" in log.read_bytes():
            return
        time.sleep(0.1)
    how = f"ended with {node.returncode}" if node.returncode is not None else f"did not come up within {_START_S:.0f} s"
    said = _tail(log)
    raise MachineError(f"{log.stem} {how}: {''.join(said.strip().splitlines()[-1:])}; its log ends:\n{said}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def _wait(cluster: LocalNodes) -> None:
    """Wait for the head and its job server."""
    log = cluster.temp / "head.log"
    _joined(cluster.nodes[0], log)
    request = urllib.request.Request(  # noqa: S310 (our own loopback address)
        f"{cluster.dashboard}/api/jobs/", headers={"Authorization": f"Bearer {cluster.env['RAY_AUTH_TOKEN']}"}
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy must see the token
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if cluster.nodes[0].poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, OSError), direct.open(request, timeout=5):
            return
        time.sleep(0.3)
    raise MachineError(f"the job server did not come up within {_START_S:.0f} s; the head's log ends:\n{_tail(log)}")


def _end(nodes: list[subprocess.Popen[bytes]]) -> None:
    """End the nodes and everything that they started; the head last."""
    sessions = {node.pid for node in nodes}
    started = _in_sessions(sessions)
    for node in reversed(nodes):
        node.terminate()
    psutil.wait_procs(started, timeout=_END_S)
    alive = _in_sessions(sessions)  # the autoscaler may have started a node after the first look
    for left in alive:
        with contextlib.suppress(psutil.Error):
            left.kill()
    psutil.wait_procs(alive, timeout=_END_S)
    for node in nodes:
        node.wait()


def _in_sessions(sessions: set[int]) -> list[psutil.Process]:
    """Processes of the sessions that the nodes lead, whoever is their parent by now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def main() -> None:
    """Start a cluster, say how it is reached, and end it at Ctrl-C; or run a command in it."""
    parser = argparse.ArgumentParser(prog="python -m cluster.local_nodes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, help="the head among them; default 2, or 1 with --max-nodes")
    parser.add_argument("--max-nodes", type=int, metavar="N", help="let up to N more come and go with the work")
    parser.add_argument("--min-nodes", type=int, default=0, metavar="N", help="of those, how many stay")
    parser.add_argument("--idle-s", type=float, default=60.0, help="seconds without work after which one goes")
    parser.add_argument("--cpus", type=int, default=2, help="logical CPUs of each")
    parser.add_argument(
        "--head-cpus", type=int, help="logical CPUs of the head; default: 0 with --max-nodes, else --cpus"
    )
    parser.add_argument("--gpus", type=int, default=0, help="logical GPUs of each")
    parser.add_argument("command", nargs="*", help="run this in the cluster, then end it; default: stay until Ctrl-C")
    given = parser.parse_args()
    growth, nodes, head_cpus = None, given.nodes or 2, given.head_cpus
    if given.max_nodes is not None:
        try:
            growth = Growth(given.min_nodes, given.max_nodes, given.idle_s)
        except ValueError as error:
            parser.error(str(error))
        nodes, head_cpus = given.nodes or 1, 0 if head_cpus is None else head_cpus
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    with local_nodes(nodes, given.cpus, given.gpus, head_cpus, growth) as cluster:
        token = cluster.temp / "token"
        token.touch(mode=0o600)
        token.write_text(cluster.env["RAY_AUTH_TOKEN"])
        if given.command:
            sys.exit(subprocess.run(given.command, env=cluster.env, check=False).returncode)  # noqa: S603
        print(f"export RAY_AUTH_TOKEN_PATH={token}")
        print(f"sftfilter submit SPEC --address {cluster.dashboard}")
        print("Ctrl-C ends the cluster", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
